#include "storage/checkpoint.h"

#include <gtest/gtest.h>

#include "test_folder.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

/// A checkpoint of two shards, as two ranks would write it.
Checkpoint save(const fs::path& root, int64_t step, const std::string& content = "state") {
  const fs::path temporary = begin_checkpoint(root, step);
  std::vector<CheckpointFile> files;
  for (const char* name : {"rank-0001", "rank-0000"}) {
    write_raw(temporary / name, content + name);
    files.push_back(seal_file(temporary, name));
  }
  return commit_checkpoint(temporary, step, files, {{"world", 2}, {"learning_rate", 1e-5}});
}

TEST(Checkpoint, ComesBackWithItsMetadata) {
  const TestFolder folder;
  const fs::path root = folder / "finetune";
  save(root, 400);
  const Checkpoint checkpoint = open_checkpoint(root / "step-000400");
  EXPECT_EQ(checkpoint.step, 400);
  ASSERT_EQ(checkpoint.files.size(), 2u);
  EXPECT_EQ(checkpoint.files[0].name, "rank-0000");
  EXPECT_EQ(checkpoint.files[0].bytes, 14u);
  EXPECT_EQ(checkpoint.metadata["world"], 2);
  EXPECT_EQ(checkpoint.metadata["learning_rate"], 1e-5);
  EXPECT_EQ(std::distance(fs::directory_iterator(root), fs::directory_iterator()), 1)
      << "temporaries were left";
}

TEST(Checkpoint, IsNotThereUntilCommitted) {
  const TestFolder folder;
  const fs::path temporary = begin_checkpoint(folder.path(), 7);
  write_raw(temporary / "rank-0000", "half");
  EXPECT_TRUE(checkpoint_steps(folder.path()).empty());
}

TEST(Checkpoint, ThatIsNotThereIsAnInputThatFailed) {
  const TestFolder folder;
  expect_error(ExitCode::io, "no such checkpoint", [&] { open_checkpoint(folder / "step-000001"); });
}

TEST(Checkpoint, OfTheSameStepIsReplaced) {
  const TestFolder folder;
  save(folder.path(), 5, "old");
  save(folder.path(), 5, "new");
  EXPECT_EQ(read_raw(folder / "step-000005/rank-0000"), "newrank-0000");
  EXPECT_EQ(folder.count(), 1u);
}

TEST(Checkpoint, DamageIsNamed) {
  const TestFolder folder;
  const auto damaged = [&](const std::string& message, auto damage) {
    fs::remove_all(folder / "step-000001");
    save(folder.path(), 1);
    damage(folder / "step-000001");
    expect_error(ExitCode::data, message, [&] { open_checkpoint(folder / "step-000001"); });
  };
  damaged("rank-0001: is missing", [](const fs::path& at) { fs::remove(at / "rank-0001"); });
  damaged("has 3 bytes instead of 14", [](const fs::path& at) { write_raw(at / "rank-0000", "cut"); });
  damaged("rank-0000: hash differs",
          [](const fs::path& at) { write_raw(at / "rank-0000", "staterank-9999"); });
  damaged("no manifest.json", [](const fs::path& at) { fs::remove(at / "manifest.json"); });
  damaged("not valid JSON", [](const fs::path& at) { write_raw(at / "manifest.json", "{\"format\""); });
  damaged("not a checkpoint's manifest", [](const fs::path& at) { write_raw(at / "manifest.json", "{}"); });
  damaged("manifest.json: hash differs", [](const fs::path& at) {
    std::string manifest = read_raw(at / "manifest.json");
    manifest.replace(manifest.find("\"world\": 2"), 10, "\"world\": 3");
    write_raw(at / "manifest.json", manifest);
  });
  write_raw(folder / "step-000001/rank-0000", "staterank-9999");
  save(folder.path(), 1);
  write_raw(folder / "step-000001/rank-0000", "staterank-9999");
  EXPECT_EQ(open_checkpoint(folder / "step-000001", CheckpointCheck::sizes).step, 1)
      << "sizes alone are in order";
}

TEST(Checkpoint, RanksOnDifferentFileSystemsAreFoundOut) {
  const TestFolder folder;
  const fs::path temporary = begin_checkpoint(folder.path(), 3);
  write_raw(temporary / "rank-0000", "x");
  const std::vector<CheckpointFile> files{seal_file(temporary, "rank-0000"),
                                          {"rank-0001", 10, "of another node"}};
  expect_error(ExitCode::io, "rank-0001: is not there", [&] { commit_checkpoint(temporary, 3, files, {}); });
  EXPECT_TRUE(checkpoint_steps(folder.path()).empty());
}

TEST(Checkpoint, PruningKeepsTheNewestAndTheMilestones) {
  const TestFolder folder;
  for (int64_t step = 100; step <= 800; step += 100) save(folder.path(), step);
  prune_checkpoints(folder.path(), 800, 2, std::vector<int64_t>{400, 600});
  EXPECT_EQ(checkpoint_steps(folder.path()), (std::vector<int64_t>{400, 600, 700, 800}));
  prune_checkpoints(folder.path(), 800, 0, {});
  EXPECT_EQ(checkpoint_steps(folder.path()), (std::vector<int64_t>{700, 800})) << "two are kept at least";
  EXPECT_EQ(folder.count(), 2u);
}

TEST(Checkpoint, PruningSparesWhatWasJustSavedAndWhatComesLater) {
  const TestFolder folder;
  for (const int64_t step : {300, 700, 800}) save(folder.path(), step);
  prune_checkpoints(folder.path(), 300, 2, std::vector<int64_t>{800});  // 400 is being made again
  EXPECT_EQ(checkpoint_steps(folder.path()), (std::vector<int64_t>{300, 700, 800}));
  for (const int64_t step : {350, 400}) save(folder.path(), step);
  prune_checkpoints(folder.path(), 400, 2, std::vector<int64_t>{400, 800});
  EXPECT_EQ(checkpoint_steps(folder.path()), (std::vector<int64_t>{350, 400, 700, 800}));
}

}  // namespace
}  // namespace surgery
