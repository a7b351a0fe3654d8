// A trace as text, as a Graphviz graph and as JSON.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "trace.hpp"

namespace dirigo::tools {

namespace {

using Json = nlohmann::ordered_json;
using Lines = std::vector<std::string>;

constexpr std::size_t page_width = 96;
constexpr std::size_t indent = 4;

// Five decimals where the largest value is of a size for them, else the exponent form.
std::vector<std::string> formatted(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  const bool plain = largest == 0 || (largest >= 1e-3 && largest < 1e5);
  std::vector<std::string> cells;
  std::size_t width = 0;
  for (const double value : values) {
    cells.push_back(plain ? fmt::format("{:.5f}", value) : fmt::format("{:.4e}", value));
    width = std::max(width, cells.back().size());
  }
  for (std::string& cell : cells) cell.insert(0, width - cell.size(), ' ');
  return cells;
}

// One line per row of the last axis, which is broken where the page ends; an empty line between matrices.
Lines tensor_lines(const Tensor& tensor, std::size_t width) {
  if (tensor.size() == 0) return {"(no elements)"};
  const std::vector<std::string> cells = formatted(tensor.to_vector());
  if (tensor.rank() == 0) return {cells[0]};
  const auto columns = std::size_t(tensor.shape()[-1]);
  const auto rows_of_matrix = tensor.rank() < 2 ? std::size_t(1) : std::size_t(tensor.shape()[-2]);
  const std::size_t fitting = std::max<std::size_t>(1, (width - 4) / (cells[0].size() + 2));
  Lines lines;
  for (std::size_t row = 0; row * columns < cells.size(); ++row) {
    if (row > 0 && row % rows_of_matrix == 0) lines.emplace_back();
    std::string line = "[ ";
    for (std::size_t j = 0; j < columns; ++j) {
      if (j > 0 && j % fitting == 0) {
        lines.push_back(line);
        line = "  ";
      }
      line += cells[row * columns + j] + (j + 1 < columns ? "  " : " ]");
    }
    lines.push_back(line);
  }
  return lines;
}

std::size_t widest(const Lines& lines) {
  std::size_t width = 0;
  for (const std::string& line : lines) width = std::max(width, line.size());
  return width;
}

std::string block(const std::string& title, const Lines& lines) {
  std::string text = fmt::format("{:{}}{}\n", "", indent, title);
  for (const std::string& line : lines)
    text += line.empty() ? "\n" : fmt::format("{:{}}{}\n", "", indent, line);
  return text;
}

// Value and gradient beside each other where both fit.
std::string value_and_gradient(const TraceNode& node) {
  const Lines value = tensor_lines(node.value, page_width - indent);
  if (!node.gradient.defined()) return block("value", value);
  const Lines gradient = tensor_lines(node.gradient, page_width - indent);
  const std::size_t left = std::max<std::size_t>(widest(value), 5) + 4;
  if (indent + left + widest(gradient) > page_width || value.size() != gradient.size())
    return block("value", value) + block("gradient", gradient);
  std::string text = fmt::format("{:{}}{:<{}}gradient\n", "", indent, "value", left);
  for (std::size_t i = 0; i < value.size(); ++i) {
    text += value[i].empty() ? "\n" : fmt::format("{:{}}{:<{}}{}\n", "", indent, value[i], left, gradient[i]);
  }
  return text;
}

std::string inputs_text(const Trace& trace, const TraceNode& node) {
  if (node.inputs.empty()) return node.op == "leaf" ? "" : " (" + node.op + ")";
  std::string text;
  for (const std::size_t input : node.inputs) text += (text.empty() ? "" : ", ") + trace.nodes[input].name;
  return fmt::format(" = {}({})", node.op, text);
}

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

std::string dot_lines(const char* title, const Tensor& tensor) {
  constexpr std::int64_t most = 32;  // elements that a box has room for
  if (!tensor.defined() || tensor.size() > most) return "";
  std::string text = fmt::format("{}\\l", title);
  for (const std::string& line : tensor_lines(tensor, page_width)) text += escaped(line) + "\\l";
  return text;
}

Json tensor_json(const Tensor& tensor) {
  if (!tensor.defined()) return nullptr;
  const auto extents = tensor.shape().extents();
  return {{"shape", std::vector<std::int64_t>(extents.begin(), extents.end())},
          {"values", tensor.to_vector()}};
}

}  // namespace

std::string trace_text(const Trace& trace) {
  std::string text = trace.title + "\n";
  for (const auto& [name, value] : trace.settings) text += fmt::format("  {:<16} {}\n", name, value);
  text +=
      "\ngradient: of the sum of the last node's values, each times what stands beside it as its gradient\n";
  for (const TraceNode& node : trace.nodes) {
    text += fmt::format("\n{}{}  {}\n{}", node.name, inputs_text(trace, node), node.value.shape().to_string(),
                        value_and_gradient(node));
  }
  for (const auto& [name, tensor] : trace.drawn)
    text += fmt::format("\ndrawn: {}  {}\n{}", name, tensor.shape().to_string(),
                        block("value", tensor_lines(tensor, page_width - indent)));
  return text;
}

std::string trace_dot(const Trace& trace) {
  std::string text =
      "digraph trace {\n  rankdir=TB;\n  node [shape=box, fontname=\"monospace\", fontsize=10];\n"
      "  edge [fontname=\"monospace\", fontsize=9];\n";
  for (std::size_t i = 0; i < trace.nodes.size(); ++i) {
    const TraceNode& node = trace.nodes[i];
    const char* style = node.inputs.empty() ? "style=filled, fillcolor=\"#eeeeee\", " : "";
    text += fmt::format("  n{} [{}label=\"{} {}\\n{}{}\"];\n", i, style, escaped(node.name),
                        node.value.shape().to_string(), dot_lines("value", node.value),
                        dot_lines("gradient", node.gradient));
    for (const std::size_t input : node.inputs) text += fmt::format("  n{} -> n{};\n", input, i);
  }
  return text + "}\n";
}

std::string trace_json(const Trace& trace) {
  Json settings = Json::object(), drawn = Json::object(), nodes = Json::array();
  for (const auto& [name, value] : trace.settings) settings[name] = Json::parse(value);
  for (const auto& [name, tensor] : trace.drawn) drawn[name] = tensor_json(tensor);
  for (const TraceNode& node : trace.nodes) {
    Json inputs = Json::array();
    for (const std::size_t input : node.inputs) inputs.push_back(trace.nodes[input].name);
    nodes.push_back({{"name", node.name},
                     {"op", node.op},
                     {"inputs", inputs},
                     {"value", tensor_json(node.value)},
                     {"gradient", tensor_json(node.gradient)}});
  }
  const Json result{{"format_version", 1},
                    {"title", trace.title},
                    {"options", settings},
                    {"drawn", drawn},
                    {"nodes", nodes}};
  return result.dump() + "\n";
}

}  // namespace dirigo::tools
