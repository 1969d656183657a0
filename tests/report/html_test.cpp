#include "report/html.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/errors.h"
#include "report/chart.h"

namespace surgery {
namespace {

TEST(Page, IsWholeAndFetchesNothing) {
  Page page("Surgery of <model>", "run & report");
  page.section("Quality");
  page.text("a < b");
  page.tiles({{"score", "0.97", "128 clips"}});
  page.notice("short by 3 %");
  page.table({{{"name", false}, {"error", true}}, {{"R2", "0.01"}, {"R4", "0.02"}}, "caption", {1}});
  page.figure(plot_svg({}), "an empty chart");
  page.section("Videos");
  page.videos({{"a red circle \"moving\" left", {{"teacher", "mp4 bytes"}, {"student", ""}}}});
  page.code("a=1 && b<2");
  page.fold("configuration", "[run]\nseed = 0");
  const auto html = page.html();
  EXPECT_EQ(html.find("<!DOCTYPE html>"), 0u);
  EXPECT_NE(html.find("<title>Surgery of &lt;model&gt;</title>"), std::string::npos);
  EXPECT_NE(html.find("<a href=\"#part-2\">Videos</a>"), std::string::npos);
  EXPECT_NE(html.find("data:video/mp4;base64,bXA0IGJ5dGVz"), std::string::npos);
  EXPECT_NE(html.find("not there"), std::string::npos);
  EXPECT_NE(html.find("a red circle &quot;moving&quot; left"), std::string::npos);
  EXPECT_NE(html.find("a=1 &amp;&amp; b&lt;2"), std::string::npos);
  EXPECT_NE(html.find("<tr class=\"strong\"><td>R4</td>"), std::string::npos);
  for (const char* outside : {"http://", "https://", "src=\"/", "@import", "url("}) {
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
  }
  for (const char* element : {"section", "div", "table", "figure", "details", "p", "main", "script"}) {
    const std::string open = std::string("<") + element, close = std::string("</") + element + ">";
    size_t opened = 0, closed = 0;
    for (size_t at = html.find(open); at != std::string::npos; at = html.find(open, at + 1)) {
      const char next = html[at + open.size()];
      opened += next == '>' || next == ' ';
    }
    for (size_t at = html.find(close); at != std::string::npos; at = html.find(close, at + 1)) ++closed;
    EXPECT_EQ(opened, closed) << element;
  }
}

TEST(Page, WithoutVideosHasNoScript) {
  Page page("t", "s");
  page.text("only text");
  EXPECT_EQ(page.html().find("<script>"), std::string::npos);
  EXPECT_EQ(page.html().find("<nav>"), std::string::npos);
}

TEST(Page, RefusesRowsOfAnotherLength) {
  Page page("t", "s");
  EXPECT_THROW(page.table({{{"a", true}, {"b", true}}, {{"1"}}, "", {}}), Error);
}

TEST(Page, IsWrittenWhole) {
  const auto path =
      std::filesystem::temp_directory_path() / ("surgery-page-" + std::to_string(getpid()) + ".html");
  Page page("t", "s");
  page.write(path);
  std::ifstream file(path);
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  std::filesystem::remove(path);
  EXPECT_EQ(content, page.html());
  EXPECT_THROW(page.write(path / "no" / "folder.html"), Error);
}

}  // namespace
}  // namespace surgery
