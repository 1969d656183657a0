#pragma once
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/tensor.h"
#include "data/video.h"

namespace surgery {

class DataTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "surgery-data-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path file(const std::string& name) const { return folder_ / name; }
  std::filesystem::path write(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories(file(name).parent_path());
    std::ofstream(file(name), std::ios::binary) << content;
    return file(name);
  }
  /// The folder's own files; commits must leave no temporaries.
  std::vector<std::string> listing() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

  std::filesystem::path folder_;
};

/// Runs `action`, which must fail with this exit code and a message that holds every part.
template <class Action>
void expect_failure(Action action, ExitCode code, const std::vector<std::string>& parts) {
  try {
    action();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    for (const std::string& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << error.what() << "\nlacks: " << part;
  }
}

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// Gray frames that carry their number: sixteenths in the left half's brightness, the rest in the right
/// half's.
inline at::Tensor numbered_frames(int64_t count, int64_t height, int64_t width) {
  at::Tensor frames = at::empty({count, height, width, 3}, at::kByte);
  for (int64_t i = 0; i < count; ++i) {
    frames[i].slice(1, 0, width / 2).fill_(8 + i / 16 * 16);
    frames[i].slice(1, width / 2).fill_(8 + i % 16 * 16);
  }
  return frames;
}

/// The numbers that frames [T, H, W, 3] carry.
inline std::vector<int64_t> numbers_of(const at::Tensor& frames) {
  const int64_t quarter = frames.size(2) / 4;
  const auto digit = [&](const at::Tensor& frame, int64_t column) {
    const at::Tensor patch =
        frame.slice(0, frame.size(0) / 4, frame.size(0) / 4 * 3).slice(1, column, column + 4);
    return std::lround((patch.to(at::kDouble).mean().item<double>() - 8) / 16);
  };
  std::vector<int64_t> numbers;
  for (int64_t t = 0; t < frames.size(0); ++t)
    numbers.push_back(digit(frames[t], quarter - 2) * 16 + digit(frames[t], 3 * quarter - 2));
  return numbers;
}

/// A smooth coloured, moving picture.
inline at::Tensor colour_frames(int64_t count, int64_t height, int64_t width) {
  const at::Tensor x = at::linspace(0, 1, width).view({1, 1, width}),
                   y = at::linspace(0, 1, height).view({1, height, 1});
  const at::Tensor t = at::linspace(0, 1, count).view({count, 1, 1});
  const at::Tensor red = 0.5 + 0.4 * (6.28 * (x + 0.3 * t)).sin() + 0 * y;
  const at::Tensor green = 0.5 + 0.4 * (6.28 * (y - 0.2 * t)).cos() + 0 * x;
  const at::Tensor blue = 0.2 + 0.6 * x * y + 0 * t;
  return at::stack({red, green, blue}, 3).mul(255).round().to(at::kByte);
}

inline double psnr(const at::Tensor& a, const at::Tensor& b) {
  return -10 *
         std::log10((a.to(at::kDouble) - b.to(at::kDouble)).square().mean().item<double>() / (255.0 * 255.0));
}

/// Writes frames with the writer's options; skips the test where this libav lacks the encoder.
inline void write_frames(const std::filesystem::path& path, const at::Tensor& frames, WriteSpec spec) {
  VideoWriter writer(path, frames.size(1), frames.size(2), spec);
  writer.add(frames);
  writer.finish();
}

inline ClipSpec clip_of(int64_t frames, int64_t height, int64_t width) {
  ClipSpec spec;
  spec.frames = frames;
  spec.height = height;
  spec.width = width;
  return spec;
}

#define SKIP_WITHOUT_VIDEO() \
  if (!video_supported()) GTEST_SKIP() << "built without libav"

}  // namespace surgery
