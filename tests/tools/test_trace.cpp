// dirigo trace: operations and a model written out, inputs from files, and what is refused.
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tools_fixture.hpp"
#include "trace_op.hpp"

using namespace dirigo;
using namespace dirigo::tools;
using namespace dirigo::test;
using nlohmann::json;

namespace {

struct Result {
  int code = 0;
  std::string out, err;
};

Result command(const TemporaryDirectory& directory, const std::string& arguments) {
  const std::string line =
      "cd '" + directory.path() + "' && '" + DIRIGO_COMMAND + "' " + arguments + " >.out 2>.err </dev/null";
  const int status = std::system(line.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(directory / ".out"),
          read_file(directory / ".err")};
}

Tensor value_of(const Context& context, const OpFunction& op, const std::vector<Tensor>& inputs) {
  Tape tape(context, Tape::Mode::inference);
  std::vector<Variable> variables;
  for (const Tensor& input : inputs) variables.push_back(tape.constant(input));
  return op(tape, variables).value();
}

json input_file(const json& trace) {
  json file{{"inputs", json::array()}, {"options", trace["options"]}};
  for (const json& node : trace["nodes"]) {
    if (node["op"] == "leaf") file["inputs"].push_back(node["value"]);
  }
  file["cotangent"] = trace["nodes"].back()["gradient"];
  return file;
}

std::size_t longest_line(const std::string& text) {
  std::istringstream stream(text);
  std::size_t longest = 0;
  for (std::string line; std::getline(stream, line);) longest = std::max(longest, line.size());
  return longest;
}

double element(const json& trace, const std::string& node, const char* what, std::size_t i = 0) {
  for (const json& candidate : trace["nodes"]) {
    if (candidate["name"] == node) return candidate[what]["values"][i].get<double>();
  }
  FAIL("no node ", node);
  return 0;
}

void check_refused(const TemporaryDirectory& directory, const std::string& op, const std::string& content,
                   const std::string& words) {
  CAPTURE(content);
  write_file(directory / "x.json", content);
  const Result result = command(directory, "trace --op " + op + " --input x.json");
  CAPTURE(result.err);
  CHECK(result.code == 2);
  CHECK(result.out.empty());
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  CHECK(result.err.rfind("dirigo: x.json ", 0) == 0);
  CHECK(result.err.find(": expected ") != std::string::npos);
  CHECK(result.err.find(", got ") != std::string::npos);
  CHECK(result.err.find(words) != std::string::npos);
}

}  // namespace

TEST_CASE("trace: the options said of every operation are those of its first case") {
  const Context context;
  for (const OpEntry& entry : op_list()) {
    CAPTURE(entry.name);
    const OpCase expected = entry.cases(context).front();
    const OpCall call = first_case(context, entry);
    REQUIRE(call.input_names.size() == expected.inputs.size());
    const Tensor ours = value_of(context, call.function, expected.inputs);
    const Tensor theirs = value_of(context, expected.op, expected.inputs);
    CHECK(ours.shape() == theirs.shape());
    CHECK(ours.to_vector() == theirs.to_vector());
  }
}

TEST_CASE("trace: every operation as text, graph and JSON, and again from what was written") {
  const Context context;
  const TemporaryDirectory directory;
  for (const OpEntry& entry : op_list()) {
    CAPTURE(entry.name);
    const Trace trace = trace_op(context, first_case(context, entry));
    CHECK(longest_line(trace_text(trace)) <= 100);
    const json first = json::parse(trace_json(trace));
    CHECK(first["title"] == entry.name);
    for (const json& node : first["nodes"]) {
      CHECK(node["value"]["values"].size() == node["gradient"]["values"].size());
    }
    write_file(directory / "again.json", input_file(first).dump());
    const OpCall call = read_call(context, entry, directory / "again.json");
    CHECK(json::parse(trace_json(trace_op(context, call))) == first);
    const std::string dot = trace_dot(trace);
    for (std::size_t i = 0; i < trace.nodes.size(); ++i) {
      CHECK(dot.find("  n" + std::to_string(i) + " [") != std::string::npos);
    }
    CHECK(std::count(dot.begin(), dot.end(), '{') == std::count(dot.begin(), dot.end(), '}'));
  }
}

TEST_CASE("trace: a number done on paper") {
  const TemporaryDirectory directory;
  write_file(directory / "x.json", R"({"inputs": [[[0, 0]]], "cotangent": [[1, 0]]})");
  const Result result = command(directory, "trace --op softmax --input x.json --json --dot x.dot");
  REQUIRE(result.code == 0);
  const json trace = json::parse(result.out);
  CHECK(element(trace, "softmax_1", "value") == doctest::Approx(0.5));
  CHECK(element(trace, "x", "gradient", 0) == doctest::Approx(0.25));
  CHECK(element(trace, "x", "gradient", 1) == doctest::Approx(-0.25));
  CHECK(read_file(directory / "x.dot").find("n0 -> n1;") != std::string::npos);

  write_file(directory / "x.json",
             R"({"inputs": [[[[0], [0], [0]]], [[[0], [0], [0]]], {"shape": [1, 3, 1], "values": [1, 2, 4]}],
                 "options": {"window": 2}})");
  const json window = json::parse(command(directory, "trace --op local_attention --input x.json --json").out);
  CHECK(window["options"]["window"] == 2);
  CHECK(element(window, "local_attention_1", "value", 1) == doctest::Approx(1.5));
  CHECK(element(window, "local_attention_1", "value", 2) == doctest::Approx(3));
}

TEST_CASE("trace: the model") {
  const TemporaryDirectory directory;
  const Result text = command(directory, "trace");
  REQUIRE(text.code == 0);
  CHECK(longest_line(text.out) <= 100);
  CHECK(command(directory, "trace").out == text.out);
  const json trace = json::parse(command(directory, "trace --json").out);
  std::set<std::string> ops, names;
  for (const json& node : trace["nodes"]) {
    ops.insert(node["op"]);
    CHECK(names.insert(node["name"]).second);
    for (const json& input : node["inputs"]) CHECK(names.count(input) == 1);
    // the mean of the posterior is for the statistics: training samples
    CHECK(node["gradient"].is_null() == (node["op"] == "constant" || node["op"] == "normalize"));
  }
  for (const char* op : {"dirichlet_rsample", "mixed_attention", "cross_entropy", "dirichlet_kl"}) {
    CHECK(ops.count(op) == 1);
  }
  CHECK(names.count("blocks.0.attn.q.weight") == 1);
  // L = CE + w_kl mean KL
  const json& last = trace["nodes"].back();
  const double kl =
      (element(trace, "dirichlet_kl_1", "value", 0) + element(trace, "dirichlet_kl_1", "value", 1)) / 2;
  CHECK(last["value"]["values"][0].get<double>() ==
        doctest::Approx(element(trace, "cross_entropy_1", "value") + 0.1 * kl).epsilon(1e-12));
  CHECK(element(trace, "dirichlet_kl_1", "gradient") == doctest::Approx(0.1 / 2));
  // the tied embedding is one node, whose gradient holds both uses
  const double looked_up = element(trace, "embedding_2", "gradient");
  CHECK(std::abs(element(trace, "embed.weight", "gradient") - looked_up) > 1e-3);
}

TEST_CASE("trace: what cannot be traced is refused in one line") {
  const TemporaryDirectory directory;
  check_refused(directory, "softmax", "", "x.json");
  check_refused(directory, "softmax", "{", "JSON");
  check_refused(directory, "softmax", "[]", "object");
  check_refused(directory, "softmax", R"({"inputs": [[[1, 2], [3, "x"]]]})", "inputs[0][1][1]");
  check_refused(directory, "softmax", R"({"inputs": [[[1, 2], [3]]]})", "inputs[0][1]");
  check_refused(directory, "softmax", R"({"inputs": [[1, null]]})", "inputs[0][1]: expected a number");
  check_refused(directory, "softmax", R"({"inputs": [[1, 1e999]]})", "1e999");
  check_refused(directory, "softmax", R"({"inputs": [[1], [2]]})", "inputs");
  check_refused(directory, "softmax", R"({"inputs": []})", "inputs");
  check_refused(directory, "softmax", R"({"inputs": 1})", "list");
  check_refused(directory, "softmax", R"({"input": [[1]]})", "did you mean 'inputs'");
  check_refused(directory, "softmax", R"({"inputs": [[[[[[[[1]]]]]]]]})", "axes");
  check_refused(directory, "softmax", R"({"inputs": [3]})", "softmax x: expected at least one axis");
  check_refused(directory, "softmax", R"({"inputs": [{"shape": [2, 2], "values": [1]}]})", "values");
  check_refused(directory, "softmax", R"({"inputs": [{"shape": [-1], "values": []}]})", "shape[0]");
  check_refused(directory, "softmax", R"({"inputs": [{"shape": [1]}]})", "values");
  check_refused(directory, "softmax",
                R"({"inputs": [{"shape": [2000000000, 2000000000, 2000000000], "values": []}]})", "shape");
  check_refused(directory, "softmax", R"({"inputs": [[1, 2]], "cotangent": [1]})", "cotangent shape");
  check_refused(directory, "softmax", R"({"options": {"axis": 1}})", "options");
  check_refused(directory, "add", R"({"inputs": [[1, 2], [1, 2, 3]]})", "add b");
  check_refused(directory, "local_attention", R"({"options": {"windw": 1}})", "did you mean 'window'");
  check_refused(directory, "local_attention", R"({"options": {"window": 0}})", "window");
  check_refused(directory, "local_attention", R"({"options": {"window": "a"}})", "options.window");
  check_refused(directory, "local_attention", R"({"options": {"heads": 4000000000}})", "options.heads");
  check_refused(directory, "full_attention", R"({"options": {"heads": 2}})", "heads");
  check_refused(directory, "embedding", R"({"options": {"indices": [7]}})", "embedding index");
  check_refused(directory, "embedding", R"({"options": {"indices": [0.5]}})", "options.indices[0]");
  check_refused(directory, "scatter_rows", R"({"options": {"rows": [0, 0, 1]}})", "scatter_rows");
  check_refused(directory, "dropout", R"({"options": {"p": 1}})", "dropout p");
  check_refused(directory, "dropout", R"({"options": {"seed": -1}})", "options.seed");
  check_refused(directory, "reshape", R"({"options": {"shape": [5]}})", "reshape");
  check_refused(directory, "matmul", R"({"options": {"transpose_a": 1}})", "options.transpose_a");
  check_refused(directory, "dirichlet_kl", R"({"options": {"prior": [1]}})", "prior");
  check_refused(directory, "dirichlet_rsample", R"({"inputs": [[1, 2]]})", "concentration");
  check_refused(directory, "mean", R"({"inputs": [[]]})", "mean x");

  const auto refused = [&](const std::string& arguments, const std::string& words) {
    const Result result = command(directory, arguments);
    CAPTURE(result.err);
    CHECK(result.code == 2);
    CHECK(result.out.empty());
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    CHECK(result.err.find(words) != std::string::npos);
  };
  refused("trace --op sofmax", "did you mean 'softmax'");
  refused("trace --op softmax --input missing.json", "missing.json");
  refused("trace --op softmax --input .", "directory");
  refused("trace --input x.json", "--op");
  refused("trace --format pdf", "dot");
  refused("trace --dot missing/x.dot", "missing/x.dot");
}

TEST_CASE("trace: inputs of every rank and size are computed or refused") {
  const TemporaryDirectory directory;
  const std::string shapes[] = {"[]",     "[0]",    "[3]",       "[2, 0]",
                                "[0, 2]", "[2, 3]", "[1, 2, 4]", "[2, 1, 2, 2]"};
  for (const OpEntry& entry : op_list()) {
    for (const std::string& shape : shapes) {
      const auto extents = json::parse(shape).get<std::vector<std::size_t>>();
      std::size_t size = 1;
      for (const std::size_t extent : extents) size *= extent;
      json file{{"inputs", json::array()}};
      const Context context;
      const std::size_t count = first_case(context, entry).inputs.size();
      for (std::size_t i = 0; i < count; ++i)
        file["inputs"].push_back({{"shape", extents}, {"values", std::vector<double>(size, 0.5)}});
      CAPTURE(entry.name);
      CAPTURE(shape);
      write_file(directory / "x.json", file.dump());
      try {
        const OpCall call = read_call(context, entry, directory / "x.json");
        const std::string text = trace_text(trace_op(context, call));
        CHECK(text.find(entry.name) == 0);
      } catch (const ShapeError&) {
      } catch (const ValueError&) {
      }
    }
  }
}
