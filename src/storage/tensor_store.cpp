#include "storage/tensor_store.h"

#include <ATen/EmptyTensor.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/errors.h"
#include "storage/mapped_file.h"
#include "storage/safetensors.h"
#include "storage/torch_file.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ of Linux 5.14, which glibc names from 2.35 on

constexpr std::array<std::pair<DType, at::ScalarType>, 10> kTypes{{{DType::f64, at::kDouble},
                                                                   {DType::f32, at::kFloat},
                                                                   {DType::f16, at::kHalf},
                                                                   {DType::bf16, at::kBFloat16},
                                                                   {DType::i64, at::kLong},
                                                                   {DType::i32, at::kInt},
                                                                   {DType::i16, at::kShort},
                                                                   {DType::i8, at::kChar},
                                                                   {DType::u8, at::kByte},
                                                                   {DType::boolean, at::kBool}}};

/// Ends a tensor's hold of its file; by this function a tensor is known to view a mapping.
void let_file_go(void* file) {
  delete static_cast<std::shared_ptr<const void>*>(file);
}

/// madvise for the whole pages of a tensor; false where the system does not know this advice.
bool advise(const at::Tensor& tensor, int advice) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const size_t bytes =
      at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.element_size());
  const auto first = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  const uintptr_t begin = (first + page - 1) / page * page, end = (first + bytes) / page * page;
  return begin >= end || madvise(reinterpret_cast<void*>(begin), end - begin, advice) == 0 || errno != EINVAL;
}

}  // namespace

bool is_mapped(const at::Tensor& tensor) {
  return tensor.has_storage() && tensor.storage().data_ptr().get_deleter() == &let_file_go;
}

void want_pages(const at::Tensor& mapped) {
  if (is_mapped(mapped)) advise(mapped, MADV_WILLNEED);
}
void read_pages(const at::Tensor& mapped) {
  if (!is_mapped(mapped) || advise(mapped, kPopulateRead)) return;
  want_pages(mapped);  // Linux before 5.14
}
void release_pages(const at::Tensor& mapped) {
  if (is_mapped(mapped)) advise(mapped, MADV_DONTNEED);
}

at::Tensor new_memory(at::IntArrayRef sizes, at::TensorOptions options) {
  constexpr size_t kLarge = 8 << 20;
  const at::Tensor memory = at::empty(sizes, options);
  if (memory.is_cpu() && memory.nbytes() >= kLarge) advise(memory, MADV_HUGEPAGE);  // before its first touch
  return memory;
}

at::Tensor copy_of(const at::Tensor& tensor, at::Device device, at::ScalarType dtype) {
  at::Tensor copy = new_memory(tensor.sizes(), at::TensorOptions(device).dtype(dtype));
  const at::NoGradGuard no_gradient;
  if (!is_mapped(tensor) || !device.is_cpu() || tensor.scalar_type() != dtype || !tensor.is_contiguous())
    return copy.copy_(tensor);
  // One thread, so that another may read the pages ahead: copy_'s threads would take its core.
  if (copy.nbytes() > 0) std::memcpy(copy.mutable_data_ptr(), tensor.const_data_ptr(), copy.nbytes());
  return copy;
}

at::ScalarType to_torch(DType dtype) {
  for (const auto& [ours, torch_type] : kTypes)
    if (ours == dtype) return torch_type;
  EXPECT(false);
}

DType from_torch(at::ScalarType type) {
  for (const auto& [ours, torch_type] : kTypes)
    if (torch_type == type) return ours;
  fail_data("dtype {} has no place in safetensors files: convert the tensor first", at::toString(type));
}

TensorStore TensorStore::open_file(const fs::path& file) {
  TensorStore store;
  store.description_ = file.string();
  store.where_ = read_places(file);
  return store;
}

std::map<std::string, TensorStore::Place> TensorStore::read_places(const fs::path& file) {
  std::map<std::string, Place> places;
  if (is_torch_file(MappedFile::open(file)->bytes())) {
    const std::shared_ptr<const TorchFile> opened = TorchFile::open(file);
    for (const auto& [name, entry] : opened->entries())
      places[name] = {opened, entry.dtype, entry.shape, entry.strides, opened->bytes(name)};
  } else {
    const std::shared_ptr<const SafetensorsFile> opened = SafetensorsFile::open(file);
    for (const auto& [name, entry] : opened->entries()) {
      const auto strides = c10::contiguous_strides(entry.shape);
      places[name] = {
          opened, entry.dtype, entry.shape, {strides.begin(), strides.end()}, opened->bytes(name)};
    }
  }
  return places;
}

std::vector<std::string> TensorStore::names() const {
  std::vector<std::string> result;
  for (const auto& [name, place] : where_) result.push_back(name);
  return result;
}

bool TensorStore::contains(const std::string& name) const {
  return where_.contains(name);
}

at::Tensor TensorStore::get(const std::string& name) const {
  const auto found = where_.find(name);
  VALIDATE(found != where_.end(),
           "{}: tensor \"{}\" is missing (incomplete or foreign model): check the folder", description_,
           name);
  return view(found->second);
}

at::Tensor TensorStore::view(const Place& place) {
  const auto options = at::TensorOptions().dtype(to_torch(place.dtype));
  if (place.bytes.empty()) return at::empty(place.shape, options);
  const auto width = static_cast<uintptr_t>(dtype_bytes(place.dtype));
  // Foreign files need not align their tensors, and kernels may load whole elements: those few are copied.
  if (reinterpret_cast<uintptr_t>(place.bytes.data()) % width != 0) {
    at::Tensor copy = at::empty(static_cast<int64_t>(place.bytes.size() / width), options);
    std::memcpy(copy.data_ptr(), place.bytes.data(), place.bytes.size());
    return copy.as_strided(place.shape, place.strides);
  }
  return at::for_blob(const_cast<std::byte*>(place.bytes.data()), place.shape)
      .strides(place.strides)
      .context(new std::shared_ptr<const void>(place.file), &let_file_go)
      .options(options)
      .make_tensor();
}

at::Tensor view_torch_tensor(const std::shared_ptr<const void>& owner, std::span<const std::byte> archive,
                             const std::string& where) {
  const TorchEntry entry = read_torch_tensor(archive, where);
  return TensorStore::view({owner, entry.dtype, entry.shape, entry.strides,
                            archive.subspan(entry.begin, entry.end - entry.begin)});
}

TensorMap TensorStore::all() const {
  TensorMap result;
  for (const auto& [name, place] : where_) result[name] = get(name);
  return result;
}

at::ScalarType common_dtype(const TensorMap& tensors) {
  std::map<at::ScalarType, int64_t> counts{{at::kFloat, 0}};
  for (const auto& [name, tensor] : tensors) counts[tensor.scalar_type()] += tensor.numel();
  return std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; })->first;
}

int64_t LazyTensor::numel() const {
  return c10::multiply_integers(shape);
}

namespace {
/// Elements [begin, end) of a tensor in row-major order; of one that is not contiguous no others are copied.
at::Tensor elements_of(const at::Tensor& tensor, int64_t begin, int64_t end) {
  if (tensor.is_contiguous()) return tensor.view(-1).slice(0, begin, end);
  const int64_t row = tensor.numel() / tensor.size(0);
  const int64_t first = (begin + row - 1) / row, last = end / row;  // of the rows that are wanted whole
  if (first > last) return elements_of(tensor[last], begin - last * row, end - last * row);
  std::vector<at::Tensor> parts;
  if (begin < first * row) parts.push_back(elements_of(tensor[first - 1], begin - (first - 1) * row, row));
  if (first < last) parts.push_back(tensor.slice(0, first, last).reshape(-1));
  if (last * row < end) parts.push_back(elements_of(tensor[last], 0, end - last * row));
  return at::cat(parts);
}
}  // namespace

LazyTensor lazy(const at::Tensor& tensor) {
  EXPECT(tensor.defined());
  return {tensor.sizes().vec(),
          [tensor = tensor.detach()](int64_t begin, int64_t end) { return elements_of(tensor, begin, end); }};
}

LazyTensors lazy(const TensorMap& tensors) {
  LazyTensors result;
  for (const auto& [name, tensor] : tensors) result[name] = lazy(tensor);
  return result;
}

TensorMap whole(const LazyTensors& tensors) {
  TensorMap result;
  for (const auto& [name, tensor] : tensors)
    result[name] = tensor.elements(0, tensor.numel()).reshape(tensor.shape);
  return result;
}

void save_lazy_tensors(const fs::path& path, const std::vector<SavedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsTensor> rows;
  for (const SavedTensor& saved : tensors) {
    const auto content = [&saved](const auto& write) {
      const int64_t count = saved.tensor.numel();
      for (int64_t begin = 0; begin < count; begin += kLazyPiece) {
        const int64_t end = std::min(count, begin + kLazyPiece);
        const at::Tensor given = saved.tensor.elements(begin, end).to(at::kCPU);
        const at::Tensor piece = given.to(saved.dtype).contiguous();
        VALIDATE(saved.dtype != at::kHalf || given.scalar_type() == at::kHalf ||
                     !(at::isfinite(given) & ~at::isfinite(piece)).any().item<bool>(),
                 "{}: holds numbers beyond 65504, the largest of fp16: write bf16 or fp32", saved.name);
        EXPECT(piece.numel() == end - begin);
        write(std::span(static_cast<const std::byte*>(piece.const_data_ptr()), piece.nbytes()));
      }
    };
    rows.push_back({saved.name, from_torch(saved.dtype), saved.tensor.shape, content});
  }
  write_safetensors(path, std::move(rows), metadata);
}

void save_tensors(const fs::path& path, const TensorMap& tensors,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<SavedTensor> saved;
  for (const auto& [name, tensor] : tensors) saved.push_back({name, lazy(tensor), tensor.scalar_type()});
  save_lazy_tensors(path, saved, metadata);
}

}  // namespace surgery
