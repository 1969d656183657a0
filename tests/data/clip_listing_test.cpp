#include "data/clip_listing.h"

#include <set>

#include "data/shard_index.h"
#include "test_clips.h"

namespace surgery {
namespace {

class ClipListingTest : public DataTest {
 protected:
  /// `count` records named by their number, in this order.
  void write_records(const std::vector<int64_t>& numbers) const {
    std::string json = "[";
    for (const int64_t i : numbers)
      json += fmt::format(
          R"({}{{"path": "{:03d}.mp4", "cap": "x", "resolution": {{"height": {}, "width": 64}}}})",
          json.size() > 1 ? "," : "", i, 32 + i);
    write("anno.json", json + "]");
    write("data.txt", ".,anno.json\n");
  }
  ClipListing listing(int64_t count, uint64_t seed = 0, ClipRules rules = {.buckets = {{5, 16, 16}}}) const {
    return {file("data.txt"), std::move(rules), {seed, 0}, count};
  }
  static std::vector<std::string> taken(const ClipListing& clips) {
    std::vector<std::string> ids;
    clips.each([&](const ManifestRecord& record, const ClipVerdict&) { ids.push_back(record.id); },
               [](const auto&) {});
    return ids;
  }
  static std::vector<int64_t> up_to(int64_t count) {
    std::vector<int64_t> numbers;
    for (int64_t i = 0; i < count; ++i) numbers.push_back(i);
    return numbers;
  }
};

TEST_F(ClipListingTest, AllAreTakenInTheirOrder) {
  write_records(up_to(5));
  EXPECT_EQ(taken(listing(0)),
            (std::vector<std::string>{"000.mp4", "001.mp4", "002.mp4", "003.mp4", "004.mp4"}));
  EXPECT_EQ(taken(listing(5)), taken(listing(0)));
  EXPECT_EQ(taken(listing(50)), taken(listing(0)));
}

TEST_F(ClipListingTest, TheChoiceIsTheSeedsAndSpreadOverTheSet) {
  write_records(up_to(400));
  const ClipListing forty = listing(40);
  EXPECT_EQ(forty.taken(), 40);
  EXPECT_EQ(forty.usable(), 400);
  const std::vector<std::string> ids = taken(forty);
  EXPECT_EQ(ids.size(), 40u);
  EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end())) << "in the listing's order";
  EXPECT_EQ(ids, taken(listing(40)));
  EXPECT_NE(ids, taken(listing(40, 1)));
  // The first N would all lie in the first tenth.
  EXPECT_LT(ids.front(), "100.mp4");
  EXPECT_GT(ids.back(), "300.mp4");
  // A smaller choice is part of a larger one.
  const std::vector<std::string> ten = taken(listing(10));
  EXPECT_TRUE(std::includes(ids.begin(), ids.end(), ten.begin(), ten.end()));
}

TEST_F(ClipListingTest, TheChoiceDependsOnNoOrderAndOnNoOtherRecord) {
  write_records(up_to(100));
  const auto ids = taken(listing(30));
  std::vector<int64_t> backwards = up_to(100);
  std::reverse(backwards.begin(), backwards.end());
  write_records(backwards);
  const auto again = taken(listing(30));
  EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()), std::set<std::string>(again.begin(), again.end()));
  // What the filters drop makes room for the next ones: who was taken and fits still is.
  const auto tall = taken(listing(30, 0, {.buckets = {{5, 16, 16}}, .least_height = 82}));
  EXPECT_EQ(tall.size(), 30u);
  for (const std::string& id : ids)
    EXPECT_TRUE(id < "050.mp4" || std::count(tall.begin(), tall.end(), id) == 1) << id;
}

TEST_F(ClipListingTest, WindowsOfOneVideoAreSeveralRecords) {
  std::string json;
  for (int i = 0; i < 50; ++i)
    json += fmt::format(R"({}{{"path": "a.mp4", "cap": "x", "frame_idx": "{}:{}"}})", i ? "," : "", i * 65,
                        i * 65 + 65);
  write("anno.json", "[" + json + "]");
  write("data.txt", ".,anno.json\n");
  std::set<int64_t> begins;
  listing(10).each(
      [&](const ManifestRecord& record, const ClipVerdict&) { begins.insert(record.cut->begin); },
      [](const auto&) {});
  EXPECT_EQ(begins.size(), 10u);
  EXPECT_NE(subset_line("a.mp4", FrameRange{0, 65}), subset_line("a.mp4", FrameRange{65, 130}));
}

TEST_F(ClipListingTest, DropsAreCountedByReason) {
  write("anno.json", R"([{"path": "a.mp4", "cap": "x", "resolution": {"height": 8, "width": 8}},
      {"path": "b.mp4"}, {"path": "../c.mp4", "cap": "x"}, {"path": "d.mp4", "cap": "x", "duration": 0.1},
      {"path": "e.mp4", "cap": "x", "duration": 5}, {"path": "f.mp4", "cap": "x", "duration": -1}])");
  write("data.txt", ".,anno.json\n");
  const ClipListing clips = listing(0, 0, {.buckets = {{5, 16, 16}}, .least_height = 16});
  EXPECT_EQ(clips.records(), 6);
  EXPECT_EQ(clips.usable(), 1);
  EXPECT_EQ(clips.drops().text(), "3 bad record, 1 too short, 1 too small");
  std::vector<std::string> reasons;
  clips.each(
      [&](const ManifestRecord& record, const ClipVerdict& verdict) {
        EXPECT_EQ(record.id, "e.mp4");
        EXPECT_FALSE(verdict.certain) << "its size is not annotated";
      },
      [&](const RejectedRecord& record) { reasons.push_back(reject_line(record)); });
  ASSERT_EQ(reasons.size(), 5u);
  EXPECT_NE(reasons[0].find("a.mp4\ttoo small: 8x8"), std::string::npos) << reasons[0];
  EXPECT_NE(reasons[2].find("outside its root"), std::string::npos) << reasons[2];
  EXPECT_NE(reasons[4].find("duration is -1"), std::string::npos) << reasons[4];
}

TEST_F(ClipListingTest, NoUsableRecordIsNamed) {
  write_records({1});
  expect_failure(
      [&] {
        listing(0, 0, {.buckets = {{5, 16, 16}}, .least_height = 900}).require_clips();
      },
      ExitCode::data, {"all 1 are bad, the first: 001.mp4: too small"});
}

TEST_F(ClipListingTest, TheDecodersWordCounts) {
  SKIP_WITHOUT_VIDEO();
  write_mp4(file("a.mp4"), numbered_frames(9, 32, 48));
  write("broken.mp4", slurp(file("a.mp4")).substr(0, 500));
  ManifestRecord record;
  record.id = "a.mp4";
  record.path = file("a.mp4");
  record.height = record.width = 4000;  // a wrong annotation
  const auto look = [&](const ClipRules& rules) { return look_at(record, rules, ClipLook::decode).kind; };
  EXPECT_EQ(look({.buckets = {{9, 32, 48}}}), "");
  EXPECT_EQ(look({.buckets = {{13, 32, 48}}}), "too short");
  EXPECT_EQ(look({.buckets = {{9, 32, 48}}, .least_height = 33}), "too small");
  EXPECT_EQ(look_at(record, {.buckets = {{9, 64, 64}, {5, 32, 32}}}, ClipLook::probe).bucket, 1u);
  record.path = file("broken.mp4");
  EXPECT_EQ(look({.buckets = {{9, 32, 48}}}), "unreadable file");
  record.path = file("gone.mp4");
  EXPECT_EQ(look({.buckets = {{9, 32, 48}}}), "missing file");
}

}  // namespace
}  // namespace surgery
