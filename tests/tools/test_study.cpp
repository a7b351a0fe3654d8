// dirigo study: lists of arms, texts, runs that are never done twice, and results.
#include <doctest/doctest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <set>

#include "dirigo/core/errors.hpp"
#include "run_fixture.hpp"
#include "studies/studies.hpp"
#include "study_arms.hpp"
#include "study_data.hpp"
#include "study_results.hpp"

using namespace dirigo;
using namespace dirigo::tools;
using namespace dirigo::test;
using nlohmann::json;

namespace {

const char* arms = R"({"format_version": 1, "seeds": 2, "preset": "paper-prior-free",
  "set": {"model.d_model": 16, "model.heads": 2, "router.hidden": 8, "attention.window": 4, "train.batch": 4,
          "train.seq_len": 16, "train.steps": 12, "train.eval_every": 0},
  "learning_rates": [0.001, 0.01],
  "arms": [
    {"method": "bayesian", "label": "Bayesian <b>", "preset": "paper"},
    {"method": "static_full", "set": {"router.kind": "static"}, "learning_rates": [0.01]},
    {"method": "mixture", "set": {"router.kind": "prior_mixture"}}]})";

std::string error_of(const std::string& text) {
  try {
    parse_arms(text, "arms.json");
  } catch (const ValueError& error) {
    return error.what();
  }
  return "no error";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

// A directory with `text` and `arms.json`.
class StudyDirectory : public RunDirectory {
 public:
  StudyDirectory() { write_file(*this / "arms.json", arms); }
  Result study(const std::string& flags) const {
    return command("study mine --arms arms.json --corpus text --out out --windows 4 --threads 2 " + flags);
  }
};

// The bytes of every file of a run, but for times.
std::string run_bytes(const std::string& run) {
  std::string bytes;
  for (const char* name : {"/model.safetensors", "/config.json", "/checkpoint/latest"})
    bytes += read_file(run + name);
  return bytes;
}

std::set<std::string> runs_in(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename().string());
  return names;
}

// The study in `cut`, which was stopped again and again, against the one in `whole`.
void check_same_weights(const TemporaryDirectory& directory) {
  const auto runs = runs_in(directory / "whole/runs");
  CHECK(runs_in(directory / "cut/runs") == runs);
  for (const std::string& run : runs) {
    CAPTURE(run);
    CHECK(read_file(directory / ("whole/runs/" + run + "/model.safetensors")) ==
          read_file(directory / ("cut/runs/" + run + "/model.safetensors")));
  }
}

}  // namespace

TEST_CASE("study: the lists that exist resolve, quick or not") {
  CHECK(study_names() ==
        std::vector<std::string>{"table3", "collapse", "pareto", "eta", "need", "emergence"});
  CHECK_THROWS_WITH_AS(built_in_study("table4"), doctest::Contains("did you mean 'table3'"), ValueError);
  for (const std::string& name : study_names()) {
    for (const bool quick : {false, true}) {
      const StudyList list = built_in_study(name);
      CHECK(list.name == name);
      std::set<std::string> names, methods;
      for (const StudyArm& arm : list.arms) {
        CAPTURE(arm.name);
        names.insert(arm.name);
        methods.insert(arm.method);
        meta::Config config = arm_config(arm, {{}, 0, quick});
        CHECK_NOTHROW(meta::resolve(config));
        CHECK(config.router.warmup < config.train.steps);
        CHECK(config.objective.w_kl.warmup < config.train.steps);
        if (quick) {
          CHECK(config.train.steps == 150);
          CHECK(config.train.seq_len * config.train.batch == 512);
        }
        if (name == "table3") {
          CHECK(arm.exhibit.empty() == !config.attention.leaky);
          CHECK(arm.learning_rates.size() == (arm.exhibit.empty() ? 3 : 0));
          CHECK(config.train.seq_len == 64);
          CHECK(config.train.steps == (quick ? 150 : 2000));
        }
        if (name == "pareto" && !quick) CHECK(config.train.seq_len * config.train.batch == 4096);
        if (name == "emergence" && !quick) CHECK(config.train.seq_len * config.train.batch == 2048);
        if (name == "need" || name == "emergence") CHECK(arm.data.corpus.rfind("synthetic:", 0) == 0);
      }
      CHECK(names.size() == list.arms.size());
      for (const char* method : {"static_full", "static_linear", "static_local"})
        CHECK(methods.count(method) == 1);
    }
  }
  // w_kl x posterior x schedule, with w_kl = 0 nothing to schedule; two priors' strengths but for the
  // preset's
  CHECK(built_in_study("collapse").arms.size() == 3 + 2 * (6 * 4 + 1) + 2 * 8 + 2);
  // the methods of table3 that pareto has at two lengths
  CHECK(built_in_study("pareto").arms.size() == 2 * 15 + 3);
}

TEST_CASE("study: an arms file is read, written and read again; a damaged one is refused by name") {
  const StudyList list = parse_arms(arms, "arms.json");
  REQUIRE(list.arms.size() == 3);
  CHECK(list.seeds == 2);
  CHECK(list.arms[0].preset == "paper");
  CHECK(list.arms[1].preset == "paper-prior-free");
  CHECK(list.arms[1].label == "static_full");
  CHECK(list.arms[1].learning_rates == std::vector<double>{0.01});
  CHECK(list.arms[2].learning_rates == std::vector<double>{0.001, 0.01});
  CHECK(arms_json(parse_arms(arms_json(list), "again")) == arms_json(list));
  meta::Config config = arm_config(list.arms[1], {{{"train.batch", "8"}}, 6, false});
  CHECK(config.model.d_model == 16);
  CHECK(config.train.batch == 8);
  CHECK(config.train.steps == 6);

  const auto fault = [](const std::string& from, const std::string& to) {
    return error_of(replaced(arms, from, to));
  };
  const auto holds = [](const std::string& text, const std::string& words) {
    CAPTURE(text);
    CHECK(text.find("[arms.json") == 0);
    CHECK(text.find(words) != std::string::npos);
    CHECK(text.find("expected") != std::string::npos);
    CHECK(text.find("got") != std::string::npos);
  };
  holds(error_of("{"), "invalid JSON");
  holds(error_of("[1]"), "object");
  holds(error_of("{\"format_version\": 1}"), "arms");
  holds(fault("\"format_version\": 1", "\"format_version\": 9"), "format_version");
  holds(fault("\"seeds\": 2", "\"seeds\": 0"), "seeds");
  holds(fault("\"seeds\": 2", "\"sedes\": 2"), "'seeds'");
  holds(fault("\"mixture\"", "\"bayesian\""), "twice");
  holds(fault("\"mixture\"", "\"../x\""), "arm 3] method");
  holds(fault("\"mixture\"", "\"null_router\""), "null_router");
  holds(fault("\"mixture\"", "7"), "arm 3] method");
  holds(fault("\"mixture\"", "\"mixture\", \"name\": \"static_full\""), "twice");
  holds(fault("\"mixture\"", "\"mixture\", \"name\": \"a/b\""), "arm 3] name");
  holds(fault("\"mixture\"", "\"mixture\", \"valid\": \"text\""), "arm 3] corpus: expected one");
  holds(fault("\"mixture\"", "\"mixture\", \"corpus\": 7"), "arm 3] corpus");
  holds(fault("\"mixture\"", "\"mixture\", \"corpus\": \"a\", \"train_bytes\": -1"), "arm 3] train_bytes");
  holds(fault("[0.001, 0.01]", "[0.001, -1]"), "learning_rates");
  holds(fault("[0.001, 0.01]", "[0.01, 0.01]"), "learning_rates");
  holds(fault("[0.001, 0.01]", "0.01"), "learning_rates");
  holds(fault("{\"router.kind\": \"static\"}", "[]"), "arm 2] set");
  holds(replaced(fault("\"label\"", "\"lable\""), "", ""), "'label'");

  const auto arm_fault = [&](const std::string& from, const std::string& to) {
    const StudyList changed = parse_arms(replaced(arms, from, to), "arms.json");
    try {
      for (const StudyArm& arm : changed.arms) arm_config(arm, {});
    } catch (const ValueError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  CHECK(arm_fault("\"router.kind\": \"static\"", "\"router.kid\": \"static\"")
            .find("[arm 'static_full'] key") == 0);
  CHECK(arm_fault("\"preset\": \"paper\"}", "\"preset\": \"papr\"}").find("[arm 'bayesian'] preset") == 0);
  CHECK(arm_fault("\"train.steps\"", "\"train.seed\"").find("--seeds") != std::string::npos);
}

TEST_CASE("study: the three texts share no byte") {
  const TemporaryDirectory directory;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += static_cast<char>('a' + i % 26);
  write_file(directory / "text", text);
  write_file(directory / "test", "another text that nobody has chosen by");
  const auto part = [&](const StudyData& data, const std::string StudyData::*which) {
    return read_file(data.*which);
  };
  const StudyData tenth = StudyTexts({directory / "text", "", 0}, 16).place(directory / "a");
  CHECK(part(tenth, &StudyData::corpus) == text.substr(0, 900));
  CHECK(part(tenth, &StudyData::valid) == text.substr(900, 50));
  CHECK(part(tenth, &StudyData::test) == text.substr(950));
  const StudyData own = StudyTexts({directory / "text", directory / "test", 800}, 16).place(directory / "b");
  CHECK(part(own, &StudyData::corpus) == text.substr(0, 800));
  CHECK(part(own, &StudyData::valid) == text.substr(800));
  CHECK(part(own, &StudyData::test) == read_file(directory / "test"));
  CHECK_NOTHROW(StudyTexts({directory / "text", directory / "test", 800}, 16).place(directory / "b"));
  CHECK_THROWS_WITH_AS(StudyTexts({directory / "text", directory / "test", 700}, 16).place(directory / "b"),
                       doctest::Contains("train.txt"), ValueError);

  const StudyData synthetic = StudyTexts({"synthetic:fables", "", 0}, 16).place(directory / "c");
  CHECK(synthetic.corpus == "synthetic:fables");
  CHECK(synthetic.test == "synthetic:fables?stream=1");
  CHECK(StudyTexts({"synthetic:recall?keys=4", "", 0}, 16).place("").test ==
        "synthetic:recall?keys=4&stream=1");
  CHECK_FALSE(fs::exists(directory / "c"));

  const auto refused = [](const StudyDataOptions& options, const std::string& words) {
    CHECK_THROWS_WITH_AS(StudyTexts(options, 60), doctest::Contains(words.c_str()), Error);
  };
  refused({"", "", 0}, "--corpus");
  refused({directory / "missing", "", 0}, "missing");
  refused({directory / "text", "", 0}, "development text: expected at least seq_len + 1 = 61");
  refused({directory / "text", directory / "test", 100}, "test text");
  refused({directory / "text", "", 901}, "--train-bytes: expected 0 to 900");
  refused({directory / "text", "", -1}, "--train-bytes");
  refused({directory / "text", directory / "text", 800}, "another text than the corpus");
  refused({"synthetic:fables", directory / "test", 0}, "--valid");
  refused({"synthetic:fables?stream=2", "", 0}, "stream");
}

TEST_CASE("study: runs, chosen rates, results; a second call repeats nothing") {
  const StudyDirectory directory;
  const auto result = directory.study("--json");
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  CHECK(result.out == read_file(directory / "out/study.json"));
  const json study = json::parse(result.out);
  CHECK(study["format_version"] == 1);
  REQUIRE(study["rows"].size() == 4);
  CHECK(study["tables"] == json::object());  // `mine` is no built-in study
  for (const json& row : study["rows"]) {
    CAPTURE(row.dump());
    CHECK(row["corpus"] == "text");
    CHECK(row["seq_len"] == 16);
    CHECK(row["batch"] == 4);
    CHECK(row["steps"] == 12);
    CHECK(row["exhibit"].is_null());
    CHECK(row["seeds"] == 2);
    CHECK(row["failed"] == 0);
    CHECK(row["runs"].size() == 2);
    CHECK(row["nll"] == row["hard"]["nll"]);
    CHECK(row["nll_ci95"][0] <= row["nll"]);
    CHECK(row["nll_ci95"][1] >= row["nll"]);
  }
  const json& bayesian = study["rows"][0];
  CHECK(bayesian["method"] == "bayesian");
  CHECK(bayesian["gated"]["nll"].is_number());
  CHECK(bayesian["deltas"]["permutation_delta_nll"].is_number());
  REQUIRE(bayesian["grid"].size() == 2);
  const json& grid = bayesian["grid"];
  const std::size_t best = grid[0]["development_nll"] < grid[1]["development_nll"] ? 0 : 1;
  CHECK(bayesian["learning_rate"] == grid[best]["learning_rate"]);
  const json& full = study["rows"][1];
  CHECK(full["soft"].is_null());
  CHECK(full["hard"]["attention_flops_vs_full"] == 1);
  CHECK(full["train_s"].get<double>() > 0);
  const json& null = study["rows"][3];
  CHECK(null["method"] == "null_router");
  CHECK(null["arm"] == "bayesian");
  CHECK(null["routing"]["entropy_sampled_pct"].get<double>() == doctest::Approx(42.7).epsilon(0.01));
  CHECK(null["soft"]["nll"].get<double>() ==
        doctest::Approx(bayesian["soft"]["nll"].get<double>() +
                        bayesian["deltas"]["prior_delta_nll"].get<double>()));

  // two rates with seed 1, the better one with seed 2; one rate alone needs no grid
  CHECK(runs_in(directory / "out/runs").size() == 3 + 2 + 3);
  // a run of the study is a run
  const std::string run = "out/runs/static_full-lr0.01-seed2";
  CHECK(directory.command("eval " + run + " --windows 2").code == 0);
  const json config = json::parse(read_file(directory / (run + "/config.json")));
  CHECK(config["seed"] == 2);
  CHECK(config["config"]["train"]["lr"] == 0.01);
  for (const json& corpus : config["corpora"])
    CHECK(corpus["spec"].get<std::string>().find("test.txt") == std::string::npos);

  const std::string report = read_file(directory / "out/report.html");
  CHECK(report.find("Bayesian &lt;b&gt;") != std::string::npos);
  CHECK(report.find("null router (in bayesian)") != std::string::npos);
  CHECK(report.find("Learning rates") != std::string::npos);

  const std::string before = run_bytes(directory / run);
  const auto times = [&] { return fs::last_write_time(directory / (run + "/model.safetensors")); };
  const auto written = times();
  const auto again = directory.study("--json");
  REQUIRE(again.code == 0);
  CHECK(again.out == result.out);
  CHECK(run_bytes(directory / run) == before);
  CHECK(times() == written);
  CHECK(directory.study("").out.find("null router") != std::string::npos);
  const auto repeated = directory.command(  // what a study writes of its arms is an arms file
      "study mine --arms out/arms.json --corpus text --out out --windows 4 --json");
  CHECK(repeated.out == result.out);

  // what does not fit is refused, and nothing is changed
  const auto fault = [&](const std::string& arguments, const std::string& words) {
    return directory.refusal_fault(
        "study mine --arms arms.json --corpus text --out out --windows 4 " + arguments, words);
  };
  CHECK(fault("--set train.batch=8", "train.batch: expected 8 as this study says, got 4") == "");
  CHECK(fault("--train-bytes 500", "train.txt") == "");
  const std::string kept = read_file(directory / (run + "/config.json"));
  write_file(directory / (run + "/config.json"), "{");
  CHECK(fault("", "config.json") == "");
  fs::remove(directory / (run + "/config.json"));
  CHECK(fault("", "config.json") == "");
  write_file(directory / (run + "/config.json"), kept);
  write_file(directory / (run + "/eval-hard.json"), "{}");
  CHECK(directory.study("").code == 2);
  fs::remove(directory / (run + "/eval-hard.json"));
  CHECK(directory.study("--json").out == result.out);  // evaluated again
}

TEST_CASE("study: interrupted again and again it ends with the same bits") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  const StudyList list = parse_arms(arms, "arms.json");
  const auto options = [&](const std::string& out) {
    StudyOptions chosen;
    chosen.directory = directory / out;
    chosen.seeds = 1;
    chosen.windows = 4;
    return chosen;
  };
  const StudyDataOptions data{directory / "text", "", 0};
  CHECK(Study(list, options("whole"), data).work({}));
  int starts = 0;
  for (bool done = false; !done; ++starts) {
    REQUIRE(starts < 100);
    std::atomic<int> asked = 0;
    StudyObserver observer;
    observer.stop = [&] { return ++asked > 10 + starts; };
    done = Study(list, options("cut"), data).work(observer);
  }
  CHECK(starts > 3);
  check_same_weights(directory);
}

TEST_CASE("study: Ctrl-C and a killed process leave what the next one goes on from") {
  const StudyDirectory directory;
  const std::string flags =
      "study mine --arms arms.json --corpus text --out out --windows 4 --threads 2 --seeds 1 ";
  const auto stopped = directory.command(flags + "--steps 100000000", "timeout --preserve-status -s INT 2");
  CAPTURE(stopped.err);
  CHECK(stopped.code == 0);
  CHECK(stopped.out.find("Interrupted") != std::string::npos);
  CHECK_FALSE(fs::exists(directory / "out/study.json"));
  CHECK(directory.refusal_fault(flags, "train.steps") == "");  // those runs are others
  fs::remove_all(directory / "out/runs");

  REQUIRE(directory.command(flags).code == 0);
  const std::string run = directory / "out/runs/mixture-lr0.01-seed1";
  const std::string weights = read_file(run + "/model.safetensors");
  fs::remove(directory / "out/runs/bayesian-lr0.01-seed1/eval-hard.json");  // killed before the evaluation
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(run)) files.push_back(entry.path());
  for (const fs::path& file : files) {
    if (file.filename() != "config.json") fs::remove_all(file);
  }
  write_file(run + "/config.json.tmp-1-0", "half");  // killed before the first checkpoint
  fs::remove(directory / "out/study.json");
  REQUIRE(directory.command(flags).code == 0);
  CHECK(read_file(run + "/model.safetensors") == weights);
  CHECK(fs::exists(directory / "out/study.json"));
  CHECK_FALSE(fs::exists(run + "/config.json.tmp-1-0"));
}

TEST_CASE("study: killed at any moment it goes on to the same bits") {
  const StudyDirectory directory;
  const std::string flags = "study mine --arms arms.json --corpus text --windows 4 --threads 2 --seeds 1 ";
  REQUIRE(directory.command(flags + "--out whole").code == 0);
  bool done = false;
  for (int i = 1; i <= 200 && !done; ++i) {
    const auto killed =
        directory.command(flags + "--out cut", "timeout -s KILL 0." + std::to_string(i / 100) +
                                                   std::to_string(i / 10 % 10) + std::to_string(i % 10));
    done = killed.code == 0;
  }
  if (!done) REQUIRE(directory.command(flags + "--out cut").code == 0);
  check_same_weights(directory);
}

TEST_CASE("study: without room on the disk it says so, and goes on when there is some") {
  const StudyDirectory directory;
  const std::string flags =
      "study mine --arms arms.json --corpus text --out out --windows 4 --threads 2 --seeds 1 ";
  // files of at most 8 KiB: less than a model; a write beyond is an error instead of a signal
  const auto full = directory.command(flags, "trap '' XFSZ; ulimit -f 16;");
  CAPTURE(full.err);
  CHECK(full.code == 2);
  CHECK(std::count(full.err.begin(), full.err.end(), '\n') == 1);
  CHECK(full.err.find("File too large") != std::string::npos);
  CHECK_FALSE(fs::exists(directory / "out/study.json"));
  REQUIRE(directory.command(flags).code == 0);
  CHECK(fs::exists(directory / "out/study.json"));
}

TEST_CASE("study: runs that are damaged or of another version are refused by name") {
  const StudyDirectory directory;
  const std::string flags = "study mine --arms arms.json --corpus text --out out --windows 4 --seeds 1 ";
  REQUIRE(directory.command(flags).code == 0);
  const std::string run = "out/runs/static_full-lr0.01-seed1";
  const auto refused = [&](const std::string& file, const std::string& content, const std::string& words) {
    const std::string path = directory / (run + "/" + file), kept = read_file(path);
    write_file(path, content);
    const std::string fault = directory.refusal_fault(flags, words);
    write_file(path, kept);
    return fault;
  };
  const std::string config = read_file(directory / (run + "/config.json"));
  CHECK(refused("config.json", replaced(config, "\"format_version\": 1", "\"format_version\": 2"),
                "static_full-lr0.01-seed1/config.json format_version: expected 1") == "");
  CHECK(refused("config.json", config.substr(0, 100), "config.json") == "");
  CHECK(refused("checkpoint/latest", "{\"format_version\": 1, \"step\": -1}", "latest") == "");
  const auto fails = [&](const std::string& file, const std::string& content) {
    const std::string path = directory / (run + "/" + file), kept = read_file(path);
    write_file(path, content);
    const auto result = directory.command(flags);
    write_file(path, kept);
    return result.code == 2 && result.err.find(file) != std::string::npos &&
           std::count(result.err.begin(), result.err.end(), '\n') == 1;
  };
  CHECK(fails("metrics.jsonl", "[]\n"));
  CHECK(fails("eval-hard.json", "{}"));
  CHECK(directory.command(flags).code == 0);
}

TEST_CASE("study: a training that leaves the finite numbers is a result") {
  const StudyDirectory directory;
  write_file(
      directory / "arms.json",
      replaced(arms, "\"preset\": \"paper\"", "\"preset\": \"paper\", \"set\": {\"objective.w_kl\": 1e300}"));
  const auto result = directory.study("--seeds 1 --json");
  REQUIRE(result.code == 0);
  const json row = json::parse(result.out)["rows"][0];
  CHECK(row["seeds"] == 0);
  CHECK(row["failed"] == 1);
  CHECK(row["nll"].is_null());
  CHECK(row["grid"][0]["development_nll"].is_null());
  CHECK(result.err.find("failed: ") != std::string::npos);
  CHECK(directory.study("--seeds 1 --json").out == result.out);
}

TEST_CASE("study: unusable input is one line and makes no file") {
  const StudyDirectory directory;
  write_file(directory / "damaged.json", "{\"format_version\": 1, \"arms\": [{}]}");
  fs::create_directory(directory / "used");
  write_file(directory / "used/file", "precious");
  const auto fault = [&](const std::string& arguments, const std::string& words) {
    return directory.refusal_fault("study " + arguments, words);
  };
  CHECK(fault("table3 --corpus text", "--out") == "");
  CHECK(fault("table3 --out new", "--corpus") == "");
  CHECK(fault("tabel3 --corpus text --out new", "did you mean 'table3'") == "");
  CHECK(fault("parto --corpus text --out new", "table3, collapse, pareto") == "");
  CHECK(fault("table3 --corpus text --out new --seeds 0", "--seeds: expected at least 1, got 0") == "");
  CHECK(fault("table3 --corpus text --out new --seeds 1001", "--seeds") == "");
  CHECK(fault("table3 --corpus text --out new --seeds x", "--seeds") == "");
  CHECK(fault("table3 --corpus text --out new --steps 0", "--steps") == "");
  CHECK(fault("table3 --corpus text --out new --threads -1", "threads") == "");
  CHECK(fault("table3 --corpus text --out new --windows -1", "--windows") == "");
  CHECK(fault("table3 --corpus text --out new --set train.lr", "KEY=VALUE") == "");
  CHECK(fault("table3 --corpus text --out new --set train.sede=1", "'train.seed'") == "");
  CHECK(fault("table3 --corpus text --out new --set data.valid=text", "--valid") == "");
  CHECK(fault("table3 --corpus missing --out new", "missing") == "");
  CHECK(fault("table3 --quick --corpus synthetic:fabels --out new", "fables") == "");
  CHECK(fault("table3 --corpus arms.json --out new --set train.seq_len=400", "seq_len") == "");
  CHECK(fault("mine --arms missing.json --corpus text --out new", "missing.json") == "");
  CHECK(fault("mine --arms damaged.json --corpus text --out new", "damaged.json") == "");
  CHECK(fault("mine --arms text --corpus text --out new", "text") == "");
  CHECK(fault("mine --arms arms.json --corpus text --out used", "used") == "");
  CHECK(fault("mine --arms arms.json --corpus text --out text/new", "text/new") == "");
  CHECK(fault("mine --arms arms.json --corpus text --out text", "text") == "");
}

TEST_CASE("study: two studies do not share a directory") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  const StudyDataOptions data{directory / "text", "", 0};
  StudyOptions options;
  options.directory = directory / "out";
  const StudyList list = parse_arms(arms, "arms.json");
  const Study first(list, options, data);
  CHECK_THROWS_WITH_AS(Study(list, options, data), doctest::Contains("no other study"), ValueError);
}
