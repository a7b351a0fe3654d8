// dirigo score: JSON lines, causality through the command, and text in colour or with marks.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "byte_text.hpp"
#include "coloured_text.hpp"
#include "dirigo/core/errors.hpp"
#include "line_file.hpp"
#include "run_fixture.hpp"

using namespace dirigo;
using namespace dirigo::tools;
using namespace dirigo::test;
using nlohmann::json;

namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// `text` through ColouredText; `experts` has one character per byte: F, l, . or a space.
std::string shown(const std::string& text, const std::string& experts, bool colour, int width = 80) {
  std::string out;
  ColouredText coloured(colour, width, [&](std::string_view line) { out += line; });
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::optional<meta::ExpertKind> expert;
    if (experts[i] == 'F') expert = meta::ExpertKind::full;
    if (experts[i] == 'l') expert = meta::ExpertKind::linear;
    if (experts[i] == '.') expert = meta::ExpertKind::local;
    coloured.add(std::uint8_t(text[i]), expert);
  }
  coloured.finish();
  return out;
}

}  // namespace

TEST_CASE("score: one line per byte, and the first n depend on the first n bytes alone") {
  const RunDirectory directory;
  const std::string text = small_text().substr(0, 20) + "\x01" + small_text().substr(20, 19);
  write_file(directory / "long", text);
  write_file(directory / "prefix", text.substr(0, 27));
  for (const std::string mode : {"soft", "hard", "gated"}) {
    CAPTURE(mode);
    REQUIRE(directory.command("score run --text long --out long.jsonl --routing " + mode).code == 0);
    REQUIRE(directory.command("score run --text prefix --out prefix.jsonl --routing " + mode).code == 0);
    const auto all = lines_of(read_file(directory / "long.jsonl"));
    const auto some = lines_of(read_file(directory / "prefix.jsonl"));
    REQUIRE(all.size() == text.size());
    REQUIRE(some.size() == 27);
    for (std::size_t i = 0; i < some.size(); ++i) CHECK(some[i] == all[i]);
    CHECK(json::parse(all[0])["nll"].is_null());
    CHECK(json::parse(all[1])["nll"].is_number());
    CHECK(json::parse(all[20])["skipped"] == true);
    CHECK(json::parse(all[20])["nll"].is_null());
    CHECK(json::parse(all[3])["layers"][1]["weights"].size() == 3);
    CHECK(json::parse(all[16])["nll"].is_null());  // max_len is 16: a new window
  }
}

TEST_CASE("score: --show marks experts without colour and never writes control bytes") {
  const RunDirectory directory;
  write_file(directory / "hostile", "red fox \x1b[31m\x07 dog\n");
  const auto result = directory.command("score run --text hostile --show");
  REQUIRE(result.code == 0);
  const auto lines = lines_of(result.out);
  REQUIRE(lines.size() == 3);  // legend, text, marks
  CHECK(lines[0].find("F full, l linear, . local") != std::string::npos);
  CHECK(result.out.find('\x1b') == std::string::npos);
  CHECK(result.out.find('\x07') == std::string::npos);
  CHECK(lines[2].size() == std::string("red fox ?[31m? dog").size());
  CHECK(lines[2].find_first_not_of("Fl. ") == std::string::npos);
}

TEST_CASE("coloured text: marks below the line, colour by segment, wrapped lines") {
  CHECK(shown("abc d\nef", "FFl.. ll", false) == "abc d\nFFl..\nef\nll\n");
  const std::string coloured = shown("abc", "FFl", true);
  CHECK(coloured.find("ab\x1b[0m") != std::string::npos);
  CHECK(coloured.find("c\x1b[0m\n") != std::string::npos);
  CHECK(shown(std::string(45, 'x'), std::string(45, 'l'), false, 20) ==
        std::string(20, 'x') + "\n" + std::string(20, 'l') + "\n" + std::string(20, 'x') + "\n" +
            std::string(20, 'l') + "\nxxxxx\nlllll\n");
  CHECK(shown("", "", false) == "");
  CHECK(shown("a\n\nb", "FF F", false) == "a\nF\n\nb\nF\n");
}

TEST_CASE("byte glyphs: one per byte, harmless") {
  const auto glyphs = [](const std::string& text) {
    std::string joined;
    for (const auto& glyph :
         byte_glyphs(std::span(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()))) {
      joined += glyph + "|";
    }
    return joined;
  };
  const std::string dot = "\xC2\xB7|";
  CHECK(glyphs("a~\n") == "a|~|\n|");
  CHECK(glyphs(std::string("\x00\x1b\x7f\t", 4)) == dot + dot + dot + dot);
  CHECK(glyphs("\xC3\xA9") == "\xC3\xA9|" + dot);  // e acute, then its second byte
  CHECK(glyphs("\xC3") == dot);                    // cut off
  CHECK(glyphs("\xC2\x9B"
               "a") == dot + dot + "a|");                        // a C1 control character
  CHECK(glyphs("\xE2\x80\xAE") == dot + dot + dot);              // right-to-left override
  CHECK(glyphs("\xE2\x80\x94") == "\xE2\x80\x94|" + dot + dot);  // em dash
  CHECK(glyphs("\xE0\x80\xBC") == dot + dot + dot);              // overlong
}

TEST_CASE("line file: appears whole or not at all") {
  const TemporaryDirectory directory;
  const std::string path = directory / "lines";
  {
    LineFile file(path);
    file.add("lost");
  }
  CHECK(fs::is_empty(directory.path()));
  {
    LineFile file(path);
    file.add("one");
    file.add("two");
    CHECK(!fs::exists(path));
    file.commit();
  }
  CHECK(read_file(path) == "one\ntwo\n");
  CHECK_THROWS_AS(LineFile(directory / "none/lines"), IoError);
}

TEST_CASE("score: unusable input is one line and makes no file") {
  const RunDirectory directory;
  write_file(directory / "empty", "");
  const auto fault = [&](const std::string& arguments, const std::string& words) {
    return directory.refusal_fault("score " + arguments, words);
  };
  CHECK(fault("run --text text", "got none") == "");
  CHECK(fault("run --text text --show --out x", "got both") == "");
  CHECK(fault("run --text text --show --layer 2", "0 to 1, got 2") == "");
  CHECK(fault("run --text missing --show", "missing") == "");
  CHECK(fault("run --text empty --out x", "empty") == "");
  CHECK(fault("run --text text --out none/x", "none/x") == "");
  CHECK(fault("run --out x", "--text") == "");
  CHECK(fault("nowhere --text text --out x", "nowhere") == "");
}
