#include "recipe/negative_prompt.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/errors.h"
#include "wan/text_encoder.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

class NegativePrompt : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/surgery-negative-XXXXXX";
    folder_ = mkdtemp(name);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string put(const std::string& text) const {
    std::ofstream(folder_ / "prompt.txt", std::ios::binary) << text;
    return "@" + (folder_ / "prompt.txt").string();
  }
  static std::string refusal(const std::string& setting) {
    try {
      negative_prompt(setting);
    } catch (const Error& error) {
      return fmt::format("{} {}", static_cast<int>(error.code()), error.what());
    }
    return "no error";
  }

  fs::path folder_;
};

TEST_F(NegativePrompt, IsTextOrAFileThatHoldsIt) {
  EXPECT_EQ(negative_prompt(""), "");
  EXPECT_EQ(negative_prompt("blurry; low quality"), "blurry; low quality");
  EXPECT_EQ(negative_prompt(put("\xE8\x89\xB2\xE8\xB0\x83\xEF\xBC\x8C low # quality\n")),
            "\xE8\x89\xB2\xE8\xB0\x83\xEF\xBC\x8C low # quality")
      << "the line's end is not part of it";
}

TEST_F(NegativePrompt, AFileThatCannotBeOneIsRefused) {
  EXPECT_NE(refusal("@/nowhere/negative.txt").find("74 /nowhere/negative.txt: no such"), std::string::npos);
  EXPECT_NE(refusal(put("")).find("holds no prompt"), std::string::npos);
  EXPECT_NE(refusal(put("one\ntwo\n")).find("65 "), std::string::npos);
  EXPECT_NE(refusal(put("one\ntwo\n")).find("holds 2 prompts"), std::string::npos);
  EXPECT_NE(refusal(put("caf\xE9\n")).find("not UTF-8"), std::string::npos);
}

TEST_F(NegativePrompt, WansOwnIsThere) {
  const std::string text =
      negative_prompt(std::string("@") + SURGERY_SOURCE_DIR + "/configs/models/wan2.1-negative-prompt.txt");
  EXPECT_EQ(text.size(), 403u);
  EXPECT_TRUE(text.starts_with("\xE8\x89\xB2\xE8\xB0\x83\xE8\x89\xB3\xE4\xB8\xBD\xEF\xBC\x8C")) << text;
  EXPECT_TRUE(text.ends_with("\xE5\x80\x92\xE7\x9D\x80\xE8\xB5\xB0")) << text;
  // Cleaning makes the full-width commas ASCII, as ftfy does.
  const std::string cleaned = clean_prompt(text);
  EXPECT_EQ(cleaned.find("\xEF\xBC\x8C"), std::string::npos);
  EXPECT_EQ(std::count(cleaned.begin(), cleaned.end(), ','), 27);
}

}  // namespace
}  // namespace surgery
