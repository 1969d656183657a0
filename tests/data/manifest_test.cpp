#include "data/manifest.h"

#include <algorithm>

#include "test_clips.h"

namespace surgery {
namespace {

class ManifestTest : public DataTest {
 protected:
  Manifest annotation(const std::string& json) const {
    write("anno.json", json);
    Manifest manifest;
    read_annotation(
        file("anno.json"), "/root-of-clips",
        [&](ManifestRecord r) { manifest.records.push_back(std::move(r)); },
        [&](RejectedRecord r) { manifest.rejected.push_back(std::move(r)); });
    return manifest;
  }
};

TEST_F(ManifestTest, RecordsAreReadAsPublished) {
  const Manifest m = annotation(R"([
    {"path": "part/a_segment_0.mp4", "cap": ["one", "two"], "resolution": {"height": 720, "width": 1280, "depth": {"x": [1]}},
     "fps": 29.97, "duration": 11.44, "unknown": {"deep": [1, {"cap": "no"}]}, "aesthetic": 5.1},
    {"path": "b.mp4", "cap": "alone", "num_frames": 65, "cut": [10, 75], "crop": [4, 100, 8, 60], "fps": 24, "motion": null},
    {"path": "c.mp4", "cap": "indexed", "frame_idx": "5:69"},
    {"video": "d.webm", "prompt": "aliases", "fps": null}])");
  EXPECT_TRUE(m.rejected.empty());
  ASSERT_EQ(m.records.size(), 4u);
  const ManifestRecord& a = m.records[0];
  EXPECT_EQ(a.path, "/root-of-clips/part/a_segment_0.mp4");
  EXPECT_EQ(a.captions, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(a.height, 720);
  EXPECT_EQ(a.width, 1280);
  EXPECT_EQ(a.fps, 29.97);
  EXPECT_EQ(a.aesthetic, 5.1);
  EXPECT_FALSE(a.cut || a.crop);
  const ManifestRecord& b = m.records[1];
  EXPECT_EQ(b.frames, 65);
  EXPECT_EQ(b.cut, (FrameRange{10, 75}));
  EXPECT_EQ(b.crop, (Box{4, 100, 8, 60})) << "x first";
  EXPECT_EQ(b.height, 0) << "nothing is carried over from the record before";
  EXPECT_EQ(m.records[2].cut, (FrameRange{5, 69}));
  EXPECT_EQ(m.records[3].captions[0], "aliases");
  const ClipSpec spec = b.clip_spec(clip_of(17, 128, 160));
  EXPECT_EQ(spec.cut, b.cut);
  EXPECT_EQ(spec.crop, b.crop);
  EXPECT_EQ(spec.frames, 17);
}

TEST_F(ManifestTest, TheCaptionDrawnDependsOnKeyAndRecordOnly) {
  ManifestRecord record;
  record.id = "a.mp4";
  record.captions = {"one", "two", "three"};
  std::set<std::string> drawn;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    EXPECT_EQ(record.caption({seed, 0}), record.caption({seed, 0}));
    drawn.insert(record.caption({seed, 0}));
  }
  EXPECT_EQ(drawn.size(), 3u);
}

TEST_F(ManifestTest, EveryBadRecordIsNamedAndTheOthersAreKept) {
  const std::vector<std::pair<std::string, std::string>> bad{
      {R"({"cap": "x"})", "path is missing"},
      {R"({"path": 5, "cap": "x"})", "path is a number"},
      {R"({"path": ["a.mp4"], "cap": "x"})", "path is a list"},
      {R"({"path": null, "cap": "x"})", "path is a null"},
      {R"({"path": "a.mp4"})", "cap is missing"},
      {R"({"path": "a.mp4", "cap": []})", "cap is missing or blank"},
      {R"({"path": "a.mp4", "cap": "  "})", "cap is missing or blank"},
      {R"({"path": "a.mp4", "cap": ["x", 5]})", "cap holds a number"},
      {R"({"path": "a.mp4", "cap": {"en": "x"}})", "cap holds a object"},
      {R"({"path": "a.mp4", "cap": "x", "cap": "y"})", "stands twice"},
      {R"({"path": "a.jpg", "cap": "x"})", "'.jpg' is no kind of video"},
      {R"({"path": "a", "cap": "x"})", "no kind of video"},
      {R"({"path": "../a.mp4", "cap": "x"})", "outside its root"},
      {R"({"path": "b/../../a.mp4", "cap": "x"})", "outside its root"},
      {R"({"path": "/etc/a.mp4", "cap": "x"})", "outside its root"},
      {R"({"path": "a\u0000.mp4", "cap": "x"})", "NUL"},
      {R"({"path": "a.mp4", "cap": "x", "fps": 0})", "fps is 0"},
      {R"({"path": "a.mp4", "cap": "x", "fps": "24"})", "not a string"},
      {R"({"path": "a.mp4", "cap": "x", "num_frames": 1.5})", "num_frames is 1.5"},
      {R"({"path": "a.mp4", "cap": "x", "num_frames": -1})", "num_frames is -1"},
      {R"({"path": "a.mp4", "cap": "x", "resolution": {"height": 0, "width": 4}})", "height is 0"},
      {R"({"path": "a.mp4", "cap": "x", "resolution": "720p"})", "not a string"},
      {R"({"path": "a.mp4", "cap": "x", "cut": [5]})", "cut is [5]"},
      {R"({"path": "a.mp4", "cap": "x", "cut": [9, 5]})", "cut is [9, 5]"},
      {R"({"path": "a.mp4", "cap": "x", "cut": 5})", "not a number"},
      {R"({"path": "a.mp4", "cap": "x", "cut": [[1, 2]]})", "not a list"},
      {R"({"path": "a.mp4", "cap": "x", "frame_idx": "5-9"})", "frame_idx is \"5-9\""},
      {R"({"path": "a.mp4", "cap": "x", "crop": [0, 10, 5, 5]})", "crop is [0, 10, 5, 5]"},
      {R"({"path": "a.mp4", "cap": "x", "crop": [0, 10, 5]})", "crop is [0, 10, 5]"},
      {R"("a.mp4")", "is a string"},
      {R"([{"path": "a.mp4", "cap": "x"}])", "is a list"},
      {"null", "is a null"}};
  std::string json = R"([{"path": "first.mp4", "cap": "f"})";
  for (const auto& [record, reason] : bad) json += ",\n" + record;
  json += R"(, {"path": "last.mp4", "cap": "l"}])";
  const Manifest m = annotation(json);
  ASSERT_EQ(m.records.size(), 2u);
  EXPECT_EQ(m.records[0].id, "first.mp4");
  EXPECT_EQ(m.records[1].id, "last.mp4");
  EXPECT_EQ(m.records[1].captions, std::vector<std::string>{"l"});
  ASSERT_EQ(m.rejected.size(), bad.size());
  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_NE(m.rejected[i].where.find(fmt::format("anno.json record {}", i + 2)), std::string::npos)
        << m.rejected[i].where;
    EXPECT_NE(m.rejected[i].reason.find(bad[i].second), std::string::npos)
        << bad[i].first << "\n gives: " << m.rejected[i].reason;
  }
}

/// Readers would disagree about which of the two holds; the other records are none the worse.
TEST_F(ManifestTest, AFieldThatStandsTwiceSpoilsItsRecordAlone) {
  const std::vector<std::pair<std::string, std::string>> twice{
      {R"("path": "b.mp4")", "path"},
      {R"("path": "a.mp4")", "path"},  // the same value too
      {R"("video_path": "b.mp4")", "video_path"},
      {R"("cap": ["y"])", "cap"},
      {R"("text": "y")", "text"},
      {R"("fps": 30)", "fps"},
      {R"("num_frames": 9)", "num_frames"},
      {R"("duration": 2)", "duration"},
      {R"("resolution": {"height": 8, "width": 8})", "resolution"},
      {R"("cut": [1, 2])", "cut"},
      {R"("frame_idx": "1:2")", "frame_idx"},
      {R"("crop": [0, 1, 0, 1])", "crop"},
      {R"("aesthetic": 4)", "aesthetic"},
      {R"("aes": 4)", "aes"}};
  const std::string fields =
      R"("path": "a.mp4", "cap": "x", "fps": 24, "num_frames": 65, "duration": 3, "resolution": {"height": 4, "width": 4},
         "cut": [0, 9], "frame_idx": "0:9", "crop": [0, 4, 0, 4], "aesthetic": 5)";
  std::string json = "[{" + fields + "}";
  for (const auto& [field, name] : twice) json += ", {" + fields + ", " + field + "}";
  json += R"(, {"path": "a.mp4", "cap": "x", "resolution": {"height": 4, "width": 4, "height": 8}})";
  // What is not read may stand as often as it likes, and is no field's double inside another object.
  json += R"(, {"path": "last.mp4", "cap": "l", "note": 1, "note": {"path": "b.mp4", "cap": "y", "cap": "z"},
                "height": 3, "resolution": {"height": 4, "width": 5, "path": 1, "path": 2}}])";
  const Manifest m = annotation(json);
  ASSERT_EQ(m.records.size(), 2u);
  EXPECT_EQ(m.records[0].id, "a.mp4");
  EXPECT_EQ(m.records[1].id, "last.mp4");
  EXPECT_EQ(m.records[1].captions, std::vector<std::string>{"l"});
  EXPECT_EQ(m.records[1].height, 4);
  ASSERT_EQ(m.rejected.size(), twice.size() + 1);
  for (size_t i = 0; i < m.rejected.size(); ++i) {
    const std::string name = i < twice.size() ? twice[i].second : "height";
    EXPECT_EQ(m.rejected[i].reason, name + " (or another name of it) stands twice: keep one");
    EXPECT_NE(m.rejected[i].where.find(fmt::format("anno.json record {} (", i + 2)), std::string::npos)
        << m.rejected[i].where;
  }
}

TEST_F(ManifestTest, DamagedAnnotationsAreErrors) {
  const auto read = [&](const std::string& json) { return [this, json] { annotation(json); }; };
  const std::string whole = R"([{"path": "a.mp4", "cap": "x"}, {"path": "b.mp4", "cap": "y"}])";
  for (size_t length = 0; length < whole.size(); ++length)
    expect_failure(read(whole.substr(0, length)), ExitCode::data,
                   {"anno.json", "not well-formed JSON at byte"});
  expect_failure(read(whole + "]"), ExitCode::data, {"not well-formed JSON"});
  expect_failure(read(R"([{"path": "a.mp4", "cap": "caf)"
                      "\xE9"
                      R"("}])"),
                 ExitCode::data, {"record 1", "UTF-8"});
  expect_failure(read(R"({"path": "a.mp4", "cap": "x"})"), ExitCode::data, {"one JSON object", "array"});
  expect_failure(read("5"), ExitCode::data, {"one number", "array"});
  expect_failure(read("\x80\x04\x95pickle"), ExitCode::data, {"not well-formed JSON"});
}

TEST_F(ManifestTest, ListingsNameRootsAndAnnotations) {
  write("one/x.json", R"([{"path": "a.mp4", "cap": "x"}])");
  write("two.json", R"([{"path": "b.mp4", "cap": "y"}, {"path": "c.mp4"}])");
  write("data.txt", "videos,one/x.json\n\n.,two.json\r\n,two.json\n");
  const Manifest m = read_manifest(file("data.txt"));
  ASSERT_EQ(m.records.size(), 3u);
  EXPECT_EQ(m.records[0].path, file("videos/a.mp4"));
  EXPECT_EQ(m.records[1].path.lexically_normal(), file("b.mp4"));
  EXPECT_EQ(m.records[2].path.lexically_normal(), file("b.mp4"));
  EXPECT_EQ(m.rejected.size(), 2u);
  EXPECT_EQ(read_manifest(file("one/x.json")).records[0].path, file("one/a.mp4"));
}

TEST_F(ManifestTest, BadListingsNameTheLine) {
  const auto read = [&](const std::string& content) {
    write("data.txt", content);
    return [this] { read_manifest(file("data.txt")); };
  };
  expect_failure(read("only one field\n"), ExitCode::data, {"data.txt: line 1", "ROOT,ANNOTATION"});
  expect_failure(read("\na,b,c.json\n"), ExitCode::data, {"data.txt: line 2", "exactly one comma"});
  expect_failure(read("a,\n"), ExitCode::data, {"line 1 names no annotation"});
  expect_failure(read("a,b.pkl\n"), ExitCode::data, {"b.pkl", "pickle", "convert it to JSON"});
  expect_failure(read("a,none.json\n"), ExitCode::io, {"none.json", "no such annotation"});
  expect_failure(read(""), ExitCode::data, {"no usable clip", "lists none"});
  expect_failure(read(std::string("a\0b", 3)), ExitCode::data, {"binary file"});
  write("bad.json", R"([{"path": "c.mp4"}])");
  expect_failure(read(".,bad.json\n"), ExitCode::data,
                 {"all 1 are bad", "record 1 (c.mp4)", "cap is missing"});
  expect_failure([&] { read_manifest(file("none.txt")); }, ExitCode::io, {"none.txt", "no such listing"});
}

TEST_F(ManifestTest, BothSpellingsOfPublishedNamesAreFound) {
  write("a_resize1080p.mp4", "x");
  EXPECT_EQ(find_video(file("a_resize_1080p.mp4")), file("a_resize1080p.mp4"));
  EXPECT_EQ(find_video(file("a_resize1080p.mp4")), file("a_resize1080p.mp4"));
  EXPECT_EQ(find_video(file("b.mp4")), file("b.mp4"));
}

TEST(ManifestClips, TheSampleAnnotationIsRead) {
  const auto listing =
      std::filesystem::path(SURGERY_SOURCE_DIR) / ".." / "shared" / "data" / "clips" / "data.txt";
  if (!std::filesystem::exists(listing)) GTEST_SKIP() << "no real clips beside the sources";
  const Manifest m = read_manifest(listing);
  EXPECT_TRUE(m.rejected.empty());
  EXPECT_GE(m.records.size(), 5u);
  for (const ManifestRecord& record : m.records)
    EXPECT_TRUE(std::filesystem::exists(record.path)) << record.path;
}

}  // namespace
}  // namespace surgery
