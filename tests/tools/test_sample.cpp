// dirigo sample: repeatable, of the length asked for, and in colour.
#include <doctest/doctest.h>

#include "run_fixture.hpp"

using namespace dirigo::test;

TEST_CASE("sample: the seed decides, the prompt comes first") {
  const RunDirectory directory;
  const auto sample = [&](const std::string& arguments) {
    const auto result = directory.command("sample run --tokens 40 " + arguments);
    CHECK(result.code == 0);
    return result.out;
  };
  const std::string first = sample("--seed 3");
  CHECK(first.size() == 41);  // and a line break
  CHECK(sample("--seed 3") == first);
  CHECK(sample("--seed 4") != first);
  CHECK(sample("--prompt 'red fox'").rfind("red fox", 0) == 0);
  CHECK(sample("--temperature 0 --seed 1") == sample("--temperature 0 --seed 2"));
  CHECK(sample("--top-k 1 --seed 1") == sample("--temperature 0"));
}

TEST_CASE("sample: --show marks the experts") {
  const RunDirectory directory;
  const auto result = directory.command("sample run --tokens 10 --prompt red --show --routing hard");
  REQUIRE(result.code == 0);
  CHECK(result.out.find("F full, l linear, . local") != std::string::npos);
  CHECK(result.out.find("\nred") != std::string::npos);
  CHECK(std::count(result.out.begin(), result.out.end(), '\n') == 3);
}

TEST_CASE("sample: unusable input is one line") {
  const RunDirectory directory;
  CHECK(directory.refusal_fault("sample run --temperature -1", "--temperature") == "");
  CHECK(directory.refusal_fault("sample run --tokens 0", "--tokens") == "");
  CHECK(directory.refusal_fault("sample run --top-k -2", "--top-k") == "");
  CHECK(directory.refusal_fault("sample run --routing hart", "'hard'") == "");
  CHECK(directory.refusal_fault("sample nowhere", "nowhere") == "");
  const auto skipped = directory.command("sample run --tokens 5 --prompt 'red!'");
  CHECK(skipped.code == 0);
  CHECK(skipped.err.find("skipped 1 bytes") != std::string::npos);
}
