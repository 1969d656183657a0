#include <gtest/gtest.h>

#include <fstream>

#include "base/errors.h"
#include "wan/html_entities.h"
#include "wan/text_encoder.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;

class TokenizerFolder : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    char name[] = "/tmp/surgery-tokenizer-XXXXXX";
    folder_ = mkdtemp(name);
    std::vector<std::string> lines;
    for (const char* colour : {"red", "green", "blue", "yellow"})
      for (const char* shape : {"circle", "square", "triangle"})
        for (const char* way : {"left", "right"})
          lines.push_back(fmt::format("a {} {} moving {} on a black background", colour, shape, way));
    train_tokenizer(lines, 100, 12, folder_ / "tokenizer");
    train_tokenizer(lines, 100, 12, folder_ / "again");
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }

  static std::string content(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void put(const fs::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  static std::string refusal(const fs::path& at) {
    try {
      Tokenizer::load(at);
    } catch (const Error& error) {
      return fmt::format("{} {}", static_cast<int>(error.code()), error.what());
    }
    return "no error";
  }

  static inline fs::path folder_;
};

TEST_F(TokenizerFolder, FollowsWansContract) {
  const Tokenizer tokenizer = Tokenizer::load(folder_);
  EXPECT_EQ(tokenizer.max_length(), 12);
  EXPECT_LE(tokenizer.vocab_size(), 100);
  EXPECT_EQ(tokenizer.encode(""), std::vector<int64_t>{1});
  const std::vector<int64_t> ids = tokenizer.encode("a red circle");
  EXPECT_EQ(ids.back(), 1);
  for (const int64_t id : ids) {
    EXPECT_NE(id, 0) << "no padding";
    EXPECT_NE(id, 2) << "no beginning-of-sequence";
    EXPECT_NE(id, 3) << "no unknown piece in a known text";
    EXPECT_LT(id, tokenizer.vocab_size());
  }
  EXPECT_EQ(tokenizer.encode("  a\n red\t&nbsp;circle "), ids)
      << "whitespace is one space, ends are stripped";
  EXPECT_NE(tokenizer.encode("a blue circle"), ids);
  const std::vector<int64_t> unknown = tokenizer.encode("\xE6\xBC\xA2");
  EXPECT_NE(std::find(unknown.begin(), unknown.end(), 3), unknown.end());
}

TEST_F(TokenizerFolder, CutsToTheLengthWithItsEnd) {
  const Tokenizer tokenizer = Tokenizer::load(folder_);
  std::string text;
  for (int i = 0; i < 30; ++i) text += "red circle ";
  const std::vector<int64_t> ids = tokenizer.encode(text);
  EXPECT_EQ(ids.size(), 12u);
  EXPECT_EQ(ids.back(), 1);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 1);
}

TEST_F(TokenizerFolder, EqualLinesGiveEqualFiles) {
  for (const char* name : {"spiece.model", "tokenizer_config.json"}) {
    EXPECT_FALSE(content(folder_ / "tokenizer" / name).empty());
    EXPECT_EQ(content(folder_ / "tokenizer" / name), content(folder_ / "again" / name)) << name;
  }
}

TEST_F(TokenizerFolder, AHugeOrMissingLimitMeansWansOwn) {
  const fs::path copy = folder_ / "limits";
  fs::create_directory(copy);
  put(copy / "spiece.model", content(folder_ / "tokenizer/spiece.model"));
  put(copy / "tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656})");
  EXPECT_EQ(Tokenizer::load(copy).max_length(), 512);
  put(copy / "tokenizer_config.json", "{}");
  EXPECT_EQ(Tokenizer::load(copy).max_length(), 512);
  put(copy / "tokenizer_config.json", R"({"model_max_length": 0})");
  EXPECT_NE(refusal(copy).find("65 "), std::string::npos);
  EXPECT_NE(refusal(copy).find("model_max_length is 0"), std::string::npos);
}

TEST_F(TokenizerFolder, DamagedOrMissingFilesAreRefused) {
  const fs::path copy = folder_ / "damaged";
  fs::create_directory(copy);
  EXPECT_NE(refusal(copy).find("tokenizer_config.json: cannot be read"), std::string::npos);
  put(copy / "tokenizer_config.json", R"({"model_max_length": 32})");
  EXPECT_NE(refusal(copy).find("spiece.model: cannot be read"), std::string::npos);
  const std::string whole = content(folder_ / "tokenizer/spiece.model");
  for (const std::string& bytes :
       {std::string(), std::string("PK\x03\x04 foreign"), whole.substr(0, whole.size() / 2)}) {
    put(copy / "spiece.model", bytes);
    EXPECT_NE(refusal(copy).find("65 "), std::string::npos) << refusal(copy);
    EXPECT_NE(refusal(copy).find("not a SentencePiece model"), std::string::npos) << refusal(copy);
  }
}

TEST_F(TokenizerFolder, AModelThatEndsBetweenTwoPiecesIsRefused) {
  const fs::path copy = folder_ / "cut";
  fs::create_directory(copy);
  put(copy / "tokenizer_config.json", R"({"model_max_length": 32})");
  const std::string whole = content(folder_ / "tokenizer/spiece.model");
  // Every piece is a field of its own, number 1 and shorter than 128 bytes, one behind the other.
  size_t end = 0, seen = 0;
  for (; whole[end] == '\x0a'; end += 2 + static_cast<size_t>(whole[end + 1]), ++seen) {
    put(copy / "spiece.model", whole.substr(0, end));
    EXPECT_NE(refusal(copy).find("65 "), std::string::npos)
        << "after " << seen << " pieces: " << refusal(copy);
  }
  EXPECT_GT(seen, 30u);
  put(copy / "spiece.model", whole.substr(0, end));
  EXPECT_NE(refusal(copy).find("ends before its settings"), std::string::npos) << refusal(copy);
  put(copy / "spiece.model", whole);
  EXPECT_EQ(refusal(copy), "no error");
}

TEST(TrainTokenizer, RefusesAnEmptyCorpus) {
  try {
    train_tokenizer({}, 100, 32, "/tmp/surgery-never-made");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find("cannot be trained on 0 lines"), std::string::npos)
        << error.what();
  }
  EXPECT_FALSE(fs::exists("/tmp/surgery-never-made"));
}

TEST(CleanPrompt, FollowsTheReference) {
  EXPECT_EQ(clean_prompt("  a \t\r\n b\xC2\xA0\xE3\x80\x80"
                         "c "),
            "a b c");
  EXPECT_EQ(clean_prompt("Tom &amp;amp; Jerry"), "Tom & Jerry") << "unescaped twice";
  EXPECT_EQ(clean_prompt("&amp;amp;amp;"), "&") << "by fix_text until nothing is left";
  EXPECT_EQ(clean_prompt("<&amp;amp;amp;"), "<&amp;") << "where there is a '<', twice and no more";
  EXPECT_EQ(clean_prompt("it\xC3\xA2\xE2\x82\xAC\xE2\x84\xA2s\x01 &lt;b&gt;"), "it's <b>");
  EXPECT_EQ(clean_prompt("UPPER, lower!"), "UPPER, lower!");
  EXPECT_EQ(clean_prompt(""), "");
  EXPECT_EQ(clean_prompt("&#32;&nbsp;x"), "x");
}

TEST(CleanPrompt, RefusesWhatIsNotUtf8) {
  for (const char* bytes :
       {"a\xFF", "\xC0\xAF", "\xED\xA0\x80", "\xE2\x82", "\xF4\x90\x80\x80", "caf\xE9 noir"}) {
    try {
      clean_prompt(bytes);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_NE(std::string(error.what()).find("not UTF-8"), std::string::npos);
    }
  }
}

TEST(HtmlUnescape, FollowsHtml5) {
  EXPECT_EQ(html_unescape("&lt;b&gt; &quot;x&quot; &apos;y&apos; &copy;"), "<b> \"x\" 'y' \xC2\xA9");
  EXPECT_EQ(html_unescape("&#65;&#x42;&#X43;&#68"), "ABCD");
  EXPECT_EQ(html_unescape("&#128;&#x80;"), "\xE2\x82\xAC\xE2\x82\xAC")
      << "Windows-1252 as old pages meant it";
  EXPECT_EQ(html_unescape("&#0;&#xD800;&#x110000;&#99999999999999;"),
            "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(html_unescape("&#1;&#xFFFE;"), "");
  EXPECT_EQ(html_unescape("&ampx &notit; &eacute"), "&x \xC2\xACit; \xC3\xA9")
      << "old names need no semicolon";
  EXPECT_EQ(html_unescape("&alpha &alpha; &unknown; & &; &# &#x &#;"),
            "&alpha \xCE\xB1 &unknown; & &; &# &#x &#;");
  EXPECT_EQ(html_unescape("a & b && c&"), "a & b && c&");
}

}  // namespace
}  // namespace surgery
