#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "storage/dtype.h"

namespace surgery {

using TensorMap = std::map<std::string, at::Tensor>;

at::ScalarType to_torch(DType dtype);
DType from_torch(at::ScalarType type);

/// Named tensors of one file: safetensors or torch.save's zip
/// archive (.pth), told apart by their first bytes. Tensors view the mapping (no copy) where alignment allows
/// and keep it alive; nothing is read until touched. Those of an archive may be strided and share memory, as
/// saved.
class TensorStore {
 public:
  /// Safetensors or torch.save archive. Throws Error{data} for a damaged or foreign file, Error{io} for none.
  static TensorStore open_file(const std::filesystem::path& file);

  std::vector<std::string> names() const;
  bool contains(const std::string& name) const;
  /// A view of the mapping, in the file's dtype. In-place changes stay in memory. Throws Error{data} if
  /// absent.
  at::Tensor get(const std::string& name) const;
  /// All tensors.
  TensorMap all() const;

 private:
  /// Where a tensor lies in a mapped file.
  struct Place {
    std::shared_ptr<const void> file;
    DType dtype = DType::f32;
    std::vector<int64_t> shape, strides;  // in elements
    std::span<const std::byte> bytes;     // from its first element to behind its last
  };
  static std::map<std::string, Place> read_places(const std::filesystem::path& file);
  static at::Tensor view(const Place& place);
  friend at::Tensor view_torch_tensor(const std::shared_ptr<const void>&, std::span<const std::byte>,
                                      const std::string&);

  std::map<std::string, Place> where_;
  std::string description_;
};

/// The one tensor of a torch.save archive that lies in memory (read_torch_tensor): a view of it, which keeps
/// `owner` alive, or a copy where the archive is not aligned. Throws Error{data}, beginning with `where`.
at::Tensor view_torch_tensor(const std::shared_ptr<const void>& owner, std::span<const std::byte> archive,
                             const std::string& where);

/// The type that most of the numbers have; some files keep norms wider than matrices. fp32 for no tensors.
at::ScalarType common_dtype(const TensorMap& tensors);

/// Whether a tensor views a file's mapping.
bool is_mapped(const at::Tensor& tensor);
/// For a tensor that views a file's mapping: its pages are read soon; are read before it returns; are let go,
/// to be read from the file again when they are touched (changes made in place are lost). Others are left
/// alone.
void want_pages(const at::Tensor& mapped);
void read_pages(const at::Tensor& mapped);
void release_pages(const at::Tensor& mapped);

/// As at::empty; on the CPU a large tensor lies on huge pages where the system has them.
at::Tensor new_memory(at::IntArrayRef sizes, at::TensorOptions options);
/// A contiguous copy in such memory, without gradient.
at::Tensor copy_of(const at::Tensor& tensor, at::Device device, at::ScalarType dtype);

/// A tensor whose elements are made when they are asked for.
struct LazyTensor {
  std::vector<int64_t> shape;
  /// Elements [begin, end) in row-major order, flat; `begin` is a multiple of kLazyPiece.
  std::function<at::Tensor(int64_t begin, int64_t end)> elements;
  int64_t numel() const;
};
using LazyTensors = std::map<std::string, LazyTensor>;
/// Elements of one piece at most: 64 MiB of fp32.
inline constexpr int64_t kLazyPiece = int64_t{1} << 24;

/// A tensor that is there; pieces of one that is not contiguous are copies of their elements alone.
LazyTensor lazy(const at::Tensor& tensor);
LazyTensors lazy(const TensorMap& tensors);
/// Every tensor made.
TensorMap whole(const LazyTensors& tensors);

struct SavedTensor {
  std::string name;
  LazyTensor tensor;
  at::ScalarType dtype;  ///< in the file
};

/// Writes one safetensors file, atomically, holding a piece of one tensor at a time.
void save_lazy_tensors(const std::filesystem::path& path, const std::vector<SavedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});
/// Writes tensors (any device, contiguous or not) as one safetensors file, atomically.
void save_tensors(const std::filesystem::path& path, const TensorMap& tensors,
                  const std::map<std::string, std::string>& metadata = {});

}  // namespace surgery
