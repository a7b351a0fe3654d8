// The dirigo command as a user runs it: exit codes, one line for an error, and nothing left behind.
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "tools_fixture.hpp"

using namespace dirigo::test;

namespace {

struct Result {
  int code = 0;
  std::string out, err;
};

// Runs `dirigo ARGUMENTS` in a directory; shell syntax is allowed.
Result run(const TemporaryDirectory& directory, const std::string& arguments,
           const std::string& before = "") {
  const std::string command = "cd '" + directory.path() + "' && " + before + " '" + DIRIGO_COMMAND + "' " +
                              arguments + " >.out 2>.err </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(directory / ".out"),
          read_file(directory / ".err")};
}

std::vector<std::string> entries(const TemporaryDirectory& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(directory.path()))
    names.push_back(entry.path().string());
  std::sort(names.begin(), names.end());
  return names;
}

const std::string small =
    "train --preset tiny --steps 12 --set model.d_model=16 --set model.heads=2 --set router.hidden=8 --set "
    "train.batch=4 "
    "--set train.seq_len=16 --set attention.window=4 --set model.positions=learned ";

// Exit code 2, one line on stderr that holds `words`, nothing on stdout, no file made.
void check_refused(const TemporaryDirectory& directory, const std::string& arguments,
                   const std::string& words) {
  CAPTURE(arguments);
  write_file(directory / ".out", "");
  write_file(directory / ".err", "");
  const auto before = entries(directory);
  const Result result = run(directory, arguments);
  CAPTURE(result.err);
  CHECK(result.code == 2);
  CHECK(result.out.empty());
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  CHECK(result.err.rfind("dirigo: ", 0) == 0);
  CHECK(result.err.find("expected") != std::string::npos);
  CHECK(result.err.find("got") != std::string::npos);
  CHECK(result.err.find(words) != std::string::npos);
  CHECK(entries(directory) == before);
}

}  // namespace

TEST_CASE("command: help and version") {
  const TemporaryDirectory directory;
  for (const std::string command :
       {"", "train", "eval", "score", "sample", "report", "info", "bench", "compare", "study"}) {
    const Result result = run(directory, command + " --help");
    CHECK(result.code == 0);
    CHECK(result.out.find("Example: dirigo") != std::string::npos);
  }
  CHECK(run(directory, "--version").out.rfind("dirigo ", 0) == 0);
}

TEST_CASE("command: unusable arguments of train") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  write_file(directory / "empty", "");
  write_file(directory / "short", "red fox");
  fs::create_directory(directory / "used");
  write_file(directory / "used/file", "precious");

  check_refused(directory, "", "none");
  check_refused(directory, "trian", "'train'");
  check_refused(directory, "train", "--preset");
  check_refused(directory, "train --preset papr", "'paper'");
  check_refused(directory, "train --sead 1", "--seed");
  check_refused(directory, "train --config empty", "JSON");
  check_refused(directory, small, "--corpus");
  check_refused(directory, small + "--corpus missing", "missing");
  check_refused(directory, small + "--corpus empty", "empty");
  check_refused(directory, small + "--corpus used", "directory");
  check_refused(directory, small + "--corpus short", "17 bytes");
  check_refused(directory, small + "--corpus text --valid short", "17 bytes");
  check_refused(directory, small + "--corpus text --train-bytes 99999999", "train_bytes");
  check_refused(directory, small + "--corpus synthetic:recal", "recall");
  const std::string good = small + "--corpus text ";
  check_refused(directory, good + "--set router.knd=bayes", "'router.kind'");
  check_refused(directory, good + "--set router.kind=byes", "'bayes'");
  check_refused(directory, good + "--set router.expert=ful", "'full'");
  check_refused(directory, good + "--set train.steps", "KEY=VALUE");
  check_refused(directory, good + "--set model.heads=3", "multiple");
  check_refused(directory, good + "--set attention.window=0", "attention.window");
  check_refused(directory, good + "--set train.seq_len=0", "train.seq_len");
  check_refused(directory, good + "--set train.seq_len=32 --set model.max_len=16", "max_len");
  check_refused(directory, good + "--set 'router.costs=[1,0.2,1.5]'", "router.costs");
  check_refused(directory, good + "--set router.eps=0", "router.eps");
  check_refused(directory, good + "--set router.cost_model=short", "short content: expected a JSON object");
  check_refused(directory, good + "--set router.cost_model=missing.json", "cost-model");
  check_refused(directory, good + "--set model.positions=rotari", "'rotary'");
  check_refused(directory, good + "--set train.explore=0", "train.explore");
  check_refused(directory, good + "--set objective.w_kl=-0.1", "objective.w_kl");
  check_refused(directory, good + "--set model.d_model=65536 --set model.layers=1000", "memory");
  check_refused(directory, good + "--steps many", "train.steps");
  check_refused(directory, good + "--threads -1", "threads");
  check_refused(directory, good + "--sample-every -1", "--sample-every");
  check_refused(directory, good + "--out used", "empty directory");
  check_refused(directory, good + "--out text", "empty directory");
  check_refused(directory, good + "--out text/run", "text/run");
  check_refused(directory, "train --resume missing", "missing");
  check_refused(directory, "train --resume used", "config.json");
}

TEST_CASE("command: train, and what needs a run") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  const Result trained = run(directory, small + "--corpus text --out run --json");
  CAPTURE(trained.err);
  REQUIRE(trained.code == 0);
  const auto result = nlohmann::json::parse(trained.out);  // JSON alone
  CHECK(result["done"] == true);
  CHECK(result["soft"]["routing_mode"] == "soft");
  CHECK(result["hard"]["routing_mode"] == "hard");
  CHECK(nlohmann::json::parse(read_file(directory / "run/eval-hard.json"))["nll"] == result["hard"]["nll"]);
  const Result again = run(directory, "train --resume run --json");
  CHECK(again.code == 0);
  CHECK(nlohmann::json::parse(again.out)["hard"]["nll"] == result["hard"]["nll"]);
  const Result human = run(directory, small + "--corpus text --out other");
  CHECK(human.code == 0);
  CHECK(human.out.find("null router") != std::string::npos);
  CHECK(human.out.find("Parameters:") != std::string::npos);

  check_refused(directory, "train --resume run --steps 20", "--steps");
  check_refused(directory, "eval run --routing hrd", "'hard'");
  check_refused(directory, "eval run --expert ful", "'full'");
  check_refused(directory, "eval run --seq-len 17", "16");
  check_refused(directory, "eval run --corpus missing", "missing");
  check_refused(directory, "score run --text missing --out scores.jsonl", "missing");
  check_refused(directory, "bench stp", "step");

  const std::string weights = read_file(directory / "run/model.safetensors");
  const std::string config = read_file(directory / "run/config.json");
  const std::vector<std::string> readers{"eval run", "sample run --tokens 4", "info run",
                                         "report run -o report.html",
                                         "score run --text text --out scores.jsonl"};
  const auto check_damaged = [&](const char* file, const std::string& content) {
    CAPTURE(content.substr(0, 60));
    const std::string good = read_file(directory / file);
    write_file(directory / file, content);
    for (const std::string& reader : readers) {
      // a report shows what is there; info reads the description only
      const bool weights_only = std::string(file) != "run/config.json";
      if (weights_only && (reader.rfind("info", 0) == 0 || reader.rfind("report", 0) == 0)) continue;
      check_refused(directory, reader, file);
    }
    write_file(directory / file, good);
  };
  check_damaged("run/config.json", "");
  check_damaged("run/config.json", config.substr(0, config.size() / 2));
  check_damaged("run/config.json", "{\"format_version\": 99}");
  check_damaged("run/model.safetensors", "");
  check_damaged("run/model.safetensors", weights.substr(0, weights.size() - 4));
  check_damaged("run/model.safetensors",
                std::string(8, '\xff') + weights.substr(8));  // a header of 2^64 - 1 bytes
  std::string shape = weights;
  shape.replace(shape.find("\"F32\""), 5, "\"I32\"");
  check_damaged("run/model.safetensors", shape);
}

TEST_CASE("command: Ctrl-C saves, says how to go on, and exits with 0") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  const Result stopped = run(directory, small + "--steps 100000000 --corpus text --out run",
                             "timeout --preserve-status -s INT 0.5");
  CAPTURE(stopped.err);
  CHECK(stopped.code == 0);
  CHECK(stopped.out.find("dirigo train --resume run") != std::string::npos);
  CHECK(fs::exists(directory / "run/checkpoint/latest"));
  const Result again = run(directory, "train --resume run", "timeout --preserve-status -s INT 0.5");
  CHECK(again.code == 0);
  CHECK(again.out.find("on from step") != std::string::npos);
}

TEST_CASE("command: a loss that is not finite ends with 1 and keeps the run") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  const Result result = run(directory, small + "--corpus text --set objective.w_kl=1e300 --out run");
  CHECK(result.code == 1);
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  CHECK(result.err.find("step 1") != std::string::npos);
  CHECK(fs::exists(directory / "run/model.safetensors"));
}
