// What is printed: error lines, tables, coloured text, durations.
#include <doctest/doctest.h>

#include "console.hpp"
#include "dirigo/core/errors.hpp"
#include "progress.hpp"
#include "table.hpp"

using namespace dirigo;
using namespace dirigo::tools;

TEST_CASE("one_line: brackets off, control characters out") {
  CHECK(one_line("[config] router.eps: expected a number > 0, got 0") ==
        "config router.eps: expected a number > 0, got 0");
  CHECK(one_line("[a\nb] c\td") == "a b c d");
  CHECK(one_line("no brackets [here] at all") == "no brackets [here] at all");
  CHECK(one_line("[open") == "[open");
}

TEST_CASE("paint: colours, or marks that tell the experts apart without them") {
  using meta::ExpertKind;
  CHECK(paint(ExpertKind::full, "x", false) == "[x]");
  CHECK(paint(ExpertKind::linear, "x", false) == "(x)");
  CHECK(paint(ExpertKind::local, "x", false) == "x");
  for (const auto expert : {ExpertKind::full, ExpertKind::linear, ExpertKind::local}) {
    const std::string painted = paint(expert, "x", true);
    CHECK(painted.rfind("\x1b[", 0) == 0);
    CHECK(painted.substr(painted.size() - 5) == "x\x1b[0m");
  }
}

TEST_CASE("Table: aligned columns") {
  Table table({"name", "NLL"});
  table.add({"a", "1.25"});
  table.add({"longer", "10.5"});
  CHECK(table.text() == "name     NLL\n------  ----\na       1.25\nlonger  10.5\n");
  CHECK_THROWS_AS(table.add({"one cell"}), ValueError);
}

TEST_CASE("durations and counts") {
  CHECK(duration_text(8.4) == "8 s");
  CHECK(duration_text(130) == "2 min 10 s");
  CHECK(duration_text(3900) == "1 h 05 min");
  CHECK(count_text(950) == "950");
  CHECK(count_text(52100) == "52.1 k");
  CHECK(count_text(3.4e9) == "3.4 G");
}
