// dirigo bench: what it reports. How fast anything is, no test asks.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "bench/eigen_product.hpp"
#include "bench/step_profile.hpp"
#include "bench/timing.hpp"
#include "dirigo/core/philox.hpp"
#include "dirigo/core/product.hpp"
#include "run_fixture.hpp"

using namespace dirigo;
using namespace dirigo::tools;
using namespace dirigo::test;
using nlohmann::json;

namespace {

const std::string small =
    " --set model.d_model=16 --set model.heads=2 --set router.hidden=8 --set train.batch=2 --set "
    "train.seq_len=16";

// The rows of `dirigo bench ARGUMENTS --json`, each with what every row has.
json rows_of(const RunDirectory& directory, const std::string& arguments) {
  const auto result = directory.command("bench " + arguments + " --json");
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  const json document = json::parse(result.out);
  CHECK(document["format_version"] == 1);
  for (const json& row : document["results"]) {
    CAPTURE(row.dump());
    CHECK(row["name"].is_string());
    CHECK(row["threads"].get<int>() >= 1);
    CHECK(row["isa"].is_string());
    CHECK(row["median_ms"].get<double>() >= row["min_ms"].get<double>());
    CHECK(row["min_ms"].get<double>() > 0);
    CHECK(row["spread"].get<double>() >= 0);
    CHECK(row.contains("share_of_peak"));
  }
  CHECK(document["results"][0]["name"] == "peak");
  CHECK(document["results"][0]["gflop_per_s"].get<double>() > 0);
  return document["results"];
}

json named(const json& rows, const std::string& name) {
  for (const json& row : rows) {
    if (row["name"] == name) return row;
  }
  FAIL("no row ", name);
  return {};
}

double sum_over(const json& list, const char* key) {
  double sum = 0;
  for (const json& item : list) sum += item[key].get<double>();
  return sum;
}

Tensor numbers(const Context& context, std::int64_t rows, std::int64_t columns, std::uint32_t site) {
  Tensor tensor = Tensor::empty(context, {rows, columns});
  philox_normal(random_key(3, 0, Purpose::test, site), 0, tensor.span<float>());
  return tensor;
}

}  // namespace

TEST_CASE("bench: median, least and quartiles of samples") {
  const Timing odd = summarise({5, 1, 3, 2, 4});
  CHECK(odd.median_ms == 3);
  CHECK(odd.min_ms == 1);
  CHECK(odd.spread == doctest::Approx(2.0 / 3));  // quartiles 2 and 4
  CHECK(summarise({1, 2, 4, 9}).median_ms == 3);
  CHECK(summarise({7}).median_ms == 7);
  CHECK(summarise({7}).spread == 0);
}

TEST_CASE("bench: work is run in turns, and prepared before every run that is timed") {
  std::string log;
  Sampling sampling;
  sampling.rounds = 2;
  const std::vector<Timing> timings =
      time_in_turns({{[&] { log += "a"; }, [&] { log += "p"; }}, {[&] { log += "b"; }, [] {}}}, sampling);
  CHECK(log ==
        "papabb"
        "pab"
        "pab");
  CHECK(timings.size() == 2);
}

TEST_CASE("bench: Eigen computes what is timed beside it") {
  const Context context;
  constexpr std::int64_t m = 7, k = 13, n = 20;
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      const Tensor a = transpose_a ? numbers(context, k, m, 1) : numbers(context, m, k, 1);
      const Tensor b = transpose_b ? numbers(context, n, k, 2) : numbers(context, k, n, 2);
      Tensor c = Tensor::zeros(context, {m, n});
      const MatrixProduct p{.m = m,
                            .k = k,
                            .n = n,
                            .a = a.data<float>(),
                            .a_stride = transpose_a ? m : k,
                            .transpose_a = transpose_a,
                            .b = b.data<float>(),
                            .b_stride = transpose_b ? k : n,
                            .transpose_b = transpose_b,
                            .c = c.data<float>()};
      std::vector<void (*)(const MatrixProduct&) noexcept> forms{eigen_product_portable};
#if defined(__x86_64__)
      if (context.isa() != Isa::portable) forms.push_back(eigen_product_avx2);
#endif
      for (const auto form : forms) {
        c.fill(0);
        form(p);
        double worst = 0;
        for (std::int64_t i = 0; i < m; ++i) {
          for (std::int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (std::int64_t l = 0; l < k; ++l) {
              sum +=
                  (transpose_a ? a.at({l, i}) : a.at({i, l})) * (transpose_b ? b.at({j, l}) : b.at({l, j}));
            }
            worst = std::max(worst, std::abs(sum - c.at({i, j})));
          }
        }
        CHECK(worst < 1e-5);
      }
    }
  }
}

TEST_CASE("bench gemm: the three products of every layer, beside Eigen") {
  const RunDirectory directory;
  const json rows = rows_of(directory, "gemm --rounds 1 --threads 1");
  CHECK(rows.size() == 1 + 3 * 9 + 1);
  const json row = rows[1];
  CHECK(row["m"] == 2048);
  CHECK(row["k"] == 128);
  CHECK(row["n"] == 384);
  CHECK(row["eigen_share_of_peak"].get<double>() > 0);
  CHECK(row["gflop_per_s"].get<double>() ==
        doctest::Approx(2e-6 * 2048 * 128 * 384 / row["median_ms"].get<double>()));
  CHECK(row["share_of_peak"].get<double>() ==
        doctest::Approx(row["gflop_per_s"].get<double>() / rows[0]["gflop_per_s"].get<double>()));
}

TEST_CASE("bench kernels: rates of every kernel, in processor time") {
  const RunDirectory directory;
  const json rows = rows_of(directory, "kernels --rounds 1 --cpu-time");
  for (const char* name : {"exp", "softplus", "ELU + 1", "GELU", "GELU, gradient", "softmax", "layer norm",
                           "cross-entropy and gradient", "dropout", "Adam", "Dirichlet sample and KL",
                           "the same with gradients"}) {
    const json row = named(rows, name);
    CHECK(row["values_per_s"].get<double>() > 0);
    CHECK(row["clock"] == "processor");
    CHECK(row["threads"] == 1);
  }
  CHECK(named(rows, "exp")["gb_per_s"].get<double>() ==
        doctest::Approx(8e-9 * named(rows, "exp")["values_per_s"].get<double>()));
}

TEST_CASE("bench attention: FLOPs of visible pairs, and each mechanism against full") {
  const RunDirectory directory;
  const json rows = rows_of(directory, "attention --rounds 1 --threads 1 --lengths 96");
  CHECK(rows.size() == 1 + 8);
  CHECK(named(rows, "mixed backward")["gflop"].get<double>() > 0);
  CHECK(named(rows, "full forward")["gflop"].get<double>() == doctest::Approx(4e-9 * 128 * 96 * 97 / 2));
  CHECK(named(rows, "full backward")["gflop"].get<double>() == doctest::Approx(10e-9 * 128 * 96 * 97 / 2));
  CHECK(named(rows, "local forward")["gflop"].get<double>() ==
        doctest::Approx(4e-9 * 128 * (64 * 65 / 2 + 32 * 64)));  // window 64
  CHECK(named(rows, "linear forward")["gflop"].get<double>() > 0);
  CHECK(named(rows, "full forward")["full_over_this"] == 1);
  CHECK(named(rows, "linear backward")["length"] == 96);
  for (const json& row : rows_of(directory, "attention --forward --rounds 1 --threads 1 --lengths 96"))
    CHECK((row["name"] == "peak" || row["backward"] == false));
}

namespace {

json at_length(const json& rows, const std::string& name, std::int64_t length) {
  for (const json& row : rows) {
    if (row["name"] == name && row["length"] == length) return row;
  }
  FAIL("no row ", name, " of ", length);
  return {};
}

void check_ratios(const json& row, const json& full) {
  CAPTURE(row.dump());
  const auto number = [](const json& from, const char* key) { return from[key].get<double>(); };
  CHECK(number(row, "time_to_full") == doctest::Approx(number(row, "median_ms") / number(full, "median_ms")));
  CHECK(number(row, "flops_to_full") == doctest::Approx(number(row, "gflop") / number(full, "gflop")));
  CHECK(number(row, "time_to_flops") ==
        doctest::Approx(number(row, "time_to_full") / number(row, "flops_to_full")));
}

}  // namespace

TEST_CASE("bench route: FLOPs of every mix by hand, and ratios to all full") {
  const RunDirectory directory;
  const json rows = rows_of(
      directory, "route --core --rounds 1 --threads 1 --lengths 40 96 --width 16 --heads 2 --window 8");
  CHECK(rows.size() == 1 + 2 * 7);
  for (const std::int64_t length : {40, 96}) {
    const json full = at_length(rows, "core, all full", length);
    const double n = double(length);
    CHECK(full["gflop"].get<double>() == doctest::Approx(4e-9 * 16 * n * (n + 1) / 2));
    CHECK(full["attention_gflop"] == full["gflop"]);
    CHECK(full["padding_gflop"].get<double>() > 0);
    CHECK(full["time_to_flops"] == 1);
    CHECK(at_length(rows, "core, plain full", length)["gflop"] == full["gflop"]);
    CHECK(at_length(rows, "core, all local", length)["gflop"].get<double>() ==
          doctest::Approx(4e-9 * 16 * (8 * 9 / 2 + (n - 8) * 8)));
    double before = at_length(rows, "core, all local", length)["gflop"].get<double>();
    for (const char* mix : {"core, 5% full at random", "core, 25% full at random", "core, 50% full at random",
                            "core, all full"}) {
      CHECK(at_length(rows, mix, length)["gflop"].get<double>() >= before);
      before = at_length(rows, mix, length)["gflop"].get<double>();
    }
    for (const json& row : rows)
      if (row["name"] != "peak" && row["length"] == length) check_ratios(row, full);
  }
}

TEST_CASE("bench route: a layer has its projections, a run its own routes") {
  const RunDirectory directory;
  const json rows =
      rows_of(directory, "route --rounds 1 --threads 1 --lengths 8 64 --width 16 --heads 2 --run run");
  CHECK(rows.size() == 1 + 2 + 2 * 7);  // the run allows only the shorter
  const json plain = at_length(rows, "layer, plain full", 64), full = at_length(rows, "layer, all full", 64);
  CHECK(plain["attention_gflop"] == full["attention_gflop"]);
  CHECK(plain["gflop"].get<double>() ==
        doctest::Approx(plain["attention_gflop"].get<double>() + 8e-9 * 64 * 16 * 16));
  CHECK(full["gflop"].get<double>() > plain["gflop"].get<double>());  // the controller
  const json own = at_length(rows, "model, its own", 8), model = at_length(rows, "model, all full", 8);
  CHECK(model["attention_gflop"].get<double>() == doctest::Approx(2 * 4e-9 * 16 * 36));  // two layers
  CHECK(own["attention_gflop"].get<double>() > 0);
  check_ratios(own, model);
}

TEST_CASE("bench cost-model: a file that train takes, and whose costs a run keeps when it is gone") {
  const RunDirectory directory;
  const json rows =
      rows_of(directory, "cost-model --rounds 1 --threads 1 --seq-len 48 -o costs.json" + small);
  CHECK(rows.size() == 1 + 3);
  const json file = json::parse(read_file(directory / "costs.json"));
  CHECK(file["seq_len"] == 48);
  CHECK(file["threads"] == 1);
  CHECK(file["isa"] == rows[0]["isa"]);
  CHECK(file["attention"]["d_model"] == 16);
  double most = 0;
  for (const char* name : {"full", "linear", "local"}) {
    const json row = named(rows, name);
    CHECK(row["length"] == 48);
    CHECK(row["cost"].get<double>() == doctest::Approx(file["costs"][name].get<double>()));
    CHECK(row["microseconds_per_token"].get<double>() ==
          doctest::Approx(1000 * row["median_ms"].get<double>() / 48));
    CHECK(file["microseconds_per_token"][name] == row["microseconds_per_token"]);
    most = std::max(most, row["cost"].get<double>());
  }
  CHECK(file["costs"]["full"] == 1);

  const auto train = directory.command("train --preset tiny --corpus text --steps 4 --out costed" + small +
                                       " --set router.cost_model=costs.json");
  CAPTURE(train.err);
  REQUIRE(train.code == 0);
  fs::remove(directory / "costs.json");
  const json config = json::parse(read_file(directory / "costed/config.json"))["config"]["router"];
  CHECK(config["cost_model"] == "measured");
  for (std::size_t k = 0; k < 3; ++k) {
    const char* names[] = {"full", "linear", "local"};
    CHECK(config["costs"][k].get<double>() == doctest::Approx(file["costs"][names[k]].get<double>() / most));
  }
  CHECK(directory.command("eval costed --windows 2").code == 0);
  CHECK(directory.command("info costed").code == 0);
  CHECK(directory.command("train --resume costed").code == 0);
}

TEST_CASE("bench step: the profile adds up, and the trace holds the same events") {
  const RunDirectory directory;
  const json rows =
      rows_of(directory, "step --preset tiny --steps 1 --threads 1 --profile --trace t.json" + small);
  const json row = named(rows, "step"), profile = row["profile"];
  CHECK(row["preset"] == "tiny");
  CHECK(row["gflop"].get<double>() > 0);
  CHECK(row["tokens_per_s"].get<double>() > 0);
  const json parts = profile["parts"];
  CHECK(sum_over(profile["ops"], "forward_ms") == doctest::Approx(parts["forward_ms"].get<double>()));
  CHECK(sum_over(profile["ops"], "backward_ms") == doctest::Approx(parts["backward_ms"].get<double>()));
  CHECK(sum_over(profile["ops"], "gflop") == doctest::Approx(row["gflop"].get<double>()));
  double total = 0, linear_calls = 0;
  for (const auto& part : parts) total += part.get<double>();
  CHECK(parts.size() == 4);
  for (const json& op : profile["ops"]) {
    if (op["op"] == "linear") linear_calls = op["calls"].get<double>();
  }
  // projections, controller and FFN of two layers, and the head, for each share of the batch
  CHECK(linear_calls == 2 * (2 * (4 + 2 + 2) + 1));

  const json trace = json::parse(read_file(directory / "t.json"));
  CHECK(trace["format_version"] == 1);
  double traced = 0, whole = 0;
  for (const json& event : trace["traceEvents"]) {
    if (event["ph"] == "M") continue;
    CHECK(event["ph"] == "X");
    CHECK(event["dur"].get<double>() >= 0);
    (event["cat"] == "step" ? whole : traced) += event["dur"].get<double>() / 1000;
  }
  CHECK(whole == doctest::Approx(total));
  CHECK(traced == doctest::Approx(total));
}

TEST_CASE("bench: a table for people") {
  const RunDirectory directory;
  const auto step = directory.command("bench step --preset paper --steps 1 --profile" + small);
  REQUIRE(step.code == 0);
  for (const char* words :
       {"of peak", "FMA peak", "backward ms", "optimiser", "overhead", "dirichlet_rsample"}) {
    CAPTURE(words);
    CHECK(step.out.find(words) != std::string::npos);
  }
}

TEST_CASE("bench decode: tokens a second and memory by routing and context") {
  const RunDirectory directory;
  const json rows = rows_of(directory, "decode --lengths 40 200 --tokens 8 --rounds 1 --threads 1" + small);
  REQUIRE(rows.size() == 1 + 2 * 4);
  std::map<std::pair<std::string, int>, json> by;
  for (std::size_t i = 1; i < rows.size(); ++i) by[{rows[i]["routing"], rows[i]["context"]}] = rows[i];
  REQUIRE(by.size() == 8);
  for (const auto& entry : by) {
    const json& row = entry.second;
    CAPTURE(row.dump());
    CHECK(row["tokens_per_s"].get<double>() == doctest::Approx(1000 / row["median_ms"].get<double>()));
    CHECK(row["read_ms"].get<double>() > 0);
    CHECK(row["gflop"].get<double>() > 0);
    CHECK(row["full_over_this"].get<double>() > 0);
    double executed = 0;
    for (const json& share : row["executed"]) executed += share.get<double>();
    CHECK(executed == doctest::Approx(1));
  }
  CHECK(by[{"full", 200}]["executed"][0] == 1);
  CHECK(by[{"linear", 40}]["executed"][1] == 1);
  CHECK(by[{"local", 40}]["executed"][2] == 1);
  CHECK(by[{"25% full", 200}]["executed"][0].get<double>() < 0.7);
  const auto memory = [&](const char* routing, int context) {
    return by[{routing, context}]["memory_bytes"].get<double>();
  };
  CHECK(memory("full", 200) > memory("full", 40) + 2 * 4 * 2 * 32 * 16 * 4);  // five more pages in two layers
  CHECK(memory("full", 200) == memory("25% full", 200));
  CHECK(memory("local", 200) < memory("full", 200) / 2);
  CHECK(memory("linear", 200) < memory("full", 200));
  const auto flops = [&](const char* routing, int context) {
    return by[{routing, context}]["gflop"].get<double>();
  };
  // 4 D for each of 160 more keys in two layers.
  CHECK(flops("full", 200) - flops("full", 40) == doctest::Approx(2 * 4e-9 * 16 * 160));
  CHECK(flops("local", 200) - flops("local", 40) == doctest::Approx(0).epsilon(1e-12));
  CHECK(by[{"full", 200}]["bytes_read"].get<double>() - by[{"full", 40}]["bytes_read"].get<double>() ==
        doctest::Approx(2 * 8 * 16 * 160));  // keys and values of two layers

  const json own = rows_of(directory, "decode --run run --lengths 16 --tokens 4 --rounds 1 --threads 1");
  CHECK(own.size() == 1 + 5);
  CHECK(named(own, "decode own")["executed"].size() == 3);

  // Positions that go on reach beyond max_len = 16.
  meta::Config config = small_config(directory / "text");
  meta::set_field(config, "model.positions", "rotary");
  meta::resolve(config);
  write_run(directory / "rotary", config);
  const json beyond =
      rows_of(directory, "decode --run rotary --lengths 50 --tokens 4 --rounds 1 --threads 1");
  CHECK(beyond.size() == 1 + 5);
  CHECK(named(beyond, "decode own")["context"] == 50);
}

TEST_CASE("bench decode: sessions together, within the memory that is stated") {
  const RunDirectory directory;
  const json rows = rows_of(directory, "decode --sessions 5 --context 100 --rounds 2 --threads 1" + small);
  REQUIRE(rows.size() == 2);
  CHECK(rows[1]["sessions"] == 5);
  CHECK(rows[1]["context"] == 100);
  CHECK(rows[1]["memory_bytes"].get<double>() > 5 * 2 * 4 * 2 * 32 * 16 * 4);
  CHECK(rows[1]["memory_bytes"].get<double>() <= rows[1]["max_memory_bytes"].get<double>());
  CHECK(rows[1]["rss_growth_bytes"].is_number());
  CHECK(rows[1]["tokens_per_s"].get<double>() == doctest::Approx(5000 / rows[1]["median_ms"].get<double>()));
}

TEST_CASE("bench decode: unusable input is one line") {
  const RunDirectory directory;
  CHECK(directory.refusal_fault("bench decode --lengths 20", "--lengths") == "");
  CHECK(directory.refusal_fault("bench decode --lengths 17 --tokens 4 --run run", "longest text, 16") == "");
  CHECK(directory.refusal_fault("bench decode --sessions -1", "--sessions") == "");
  CHECK(directory.refusal_fault("bench decode --sessions 3 --context 10", "--context") == "");
  CHECK(directory.refusal_fault("bench gemm --tokens 3", "--tokens") == "");
}

TEST_CASE("bench: unusable arguments are one line") {
  const RunDirectory directory;
  CHECK(directory.refusal_fault("bench gem", "'gemm'") == "");
  CHECK(directory.refusal_fault("bench gemm --steps 3", "--steps") == "");
  CHECK(directory.refusal_fault("bench kernels --threads 2", "--threads") == "");
  CHECK(directory.refusal_fault("bench step --rounds 3", "--rounds") == "");
  CHECK(directory.refusal_fault("bench gemm --rounds 0", "--rounds") == "");
  CHECK(directory.refusal_fault("bench step --steps 0", "--steps") == "");
  CHECK(directory.refusal_fault("bench attention --lengths 0", "--lengths") == "");
  CHECK(directory.refusal_fault("bench gemm --isa avx9", "avx9") == "");
  CHECK(directory.refusal_fault("bench gemm --window 3", "--window") == "");
  CHECK(directory.refusal_fault("bench route --steps 3", "--steps") == "");
  CHECK(directory.refusal_fault("bench route --lengths 0", "--lengths") == "");
  CHECK(directory.refusal_fault("bench route --rounds 0", "--rounds") == "");
  CHECK(directory.refusal_fault("bench route --window 0", "--window") == "");
  CHECK(directory.refusal_fault("bench route --lengths 8 --width 10 --heads 4", "model.d_model") == "");
  CHECK(directory.refusal_fault("bench route --run missing", "missing") == "");
  CHECK(directory.refusal_fault("bench route --run run --lengths 999", "expected one of at most 16") == "");
  CHECK(directory.refusal_fault("bench step --preset tinny", "'tiny'") == "");
  CHECK(directory.refusal_fault("bench step --set lr", "KEY=VALUE") == "");
  CHECK(directory.refusal_fault("bench cost-model", "-o") == "");
  CHECK(directory.refusal_fault("bench cost-model -o c.json --seq-len 0", "--seq-len") == "");
  CHECK(directory.refusal_fault("bench cost-model -o missing/c.json --rounds 1", "missing/c.json") == "");
  CHECK(directory.refusal_fault("bench step --seq-len 3", "--seq-len") == "");
  CHECK(directory.refusal_fault("bench step --trace missing/t.json --steps 1" + small, "missing/t.json") ==
        "");
}
