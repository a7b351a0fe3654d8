// dirigo trace: one forward and backward pass, written out node by node.
#include <fmt/format.h>

#include <memory>
#include <optional>

#include "commands.hpp"
#include "dirigo/core/atomic_file.hpp"
#include "dirigo/core/context.hpp"
#include "dirigo/core/errors.hpp"
#include "trace_op.hpp"

namespace dirigo::tools {

namespace {

struct Arguments {
  std::optional<std::string> op, input, dot;
  std::string format = "text";
  bool json = false, list = false;
};

// What an operation says of inputs from a file names the file first.
Trace trace_file(const Context& context, const std::string& op, const std::string& path) {
  const OpCall call = read_call(context, find_op(op), path);
  const auto with_file = [&](std::string message) {  // "[op] what: ..." -> "[file] op what: ..."
    const std::size_t close = message.find(']');
    if (message.rfind('[', 0) == 0 && close != std::string::npos) message.erase(close, 1).erase(0, 1);
    return fmt::format("[{}] {}", path, message);
  };
  try {
    return trace_op(context, call);
  } catch (const ShapeError& error) {
    throw ShapeError(with_file(error.what()));
  } catch (const ValueError& error) {
    throw ValueError(with_file(error.what()));
  }
}

Trace run(const Context& context, const Arguments& a) {
  if (!a.op) return trace_model(context);
  if (a.input) return trace_file(context, *a.op, *a.input);
  return trace_op(context, first_case(context, find_op(*a.op)));
}

void write(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

std::string rendered(const Arguments& a, const Trace& trace) {
  if (a.json || a.format == "json") return trace_json(trace);
  return a.format == "dot" ? trace_dot(trace) : trace_text(trace);
}

int trace_command(const Arguments& a) {
  if (a.input && !a.op)
    throw ValueError("[trace] --op: expected the operation that --input is for, got none");
  if (a.format != "text" && a.format != "dot" && a.format != "json")
    throw ValueError(fmt::format("[trace] --format: expected text, dot or json, got '{}'", a.format));
  const Context context({.threads = 1});
  if (a.list) {
    for (const OpEntry& entry : op_list()) fmt::print("{}\n", describe_op(context, entry));
    return 0;
  }
  const Trace trace = run(context, a);
  if (a.dot) write(*a.dot, trace_dot(trace));
  fmt::print("{}", rendered(a, trace));
  return 0;
}

}  // namespace

void add_trace(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  CLI::App* command = app.add_subcommand(
      "trace",
      "write out one forward and backward pass: every operation with inputs, value, gradient and shape.\n"
      "Without --op: a training step of a routed model of two tokens and two heads, to redo on paper");
  command->add_option("--op", a.op, "one operation instead, on the inputs of its first test case");
  command->add_option(
      "--input", a.input,
      "JSON file for --op: {\"inputs\": [[[1, 2], [3, 4]]], \"options\": {}, \"cotangent\": [[1, 0], [0, "
      "0]]}; an input is a nested list or {\"shape\": [2, 2], \"values\": [1, 2, 3, 4]}; options are "
      "those of --list; the default cotangent is ones");
  command->add_flag("--list", a.list,
                    "the operations, their inputs and their options as in the first test case");
  command->add_option("--format", a.format, "text, dot (Graphviz) or json")->capture_default_str();
  command->add_flag("--json", a.json, "JSON alone on stdout");
  command->add_option("--dot", a.dot, "also write a Graphviz graph to this file");
  command->footer(
      "Example: dirigo trace --op softmax --input x.json --dot x.dot && dot -Tsvg x.dot -o x.svg\n"
      "with x.json: {\"inputs\": [[[0, 1, 2]]], \"cotangent\": [[1, 0, 0]]}");
  command->callback([&run, arguments] { run = [arguments] { return trace_command(*arguments); }; });
}

}  // namespace dirigo::tools
