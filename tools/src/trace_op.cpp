#include "trace_op.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "dirigo/autograd/ops.hpp"
#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/special.hpp"
#include "dirigo/core/suggest.hpp"

namespace dirigo::tools {

namespace {

using Json = nlohmann::ordered_json;
using Inputs = std::span<const Variable>;

// --- reading -----------------------------------------------------------------------------------------------

std::string shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

// A place in a file, for messages.
struct Field {
  std::string file, name;

  Field operator[](std::size_t i) const { return {file, fmt::format("{}[{}]", name, i)}; }
  Field operator/(const std::string& key) const { return {file, name.empty() ? key : name + "." + key}; }
  [[noreturn]] void fail(const std::string& expected, const std::string& got) const {
    throw ValueError(fmt::format("[{}] {}: expected {}, got {}", file, name, expected, got));
  }
};

double number(const Field& at, const Json& value) {
  if (!value.is_number()) at.fail("a number", shown(value));
  return value.get<double>();
}

std::int64_t integer(const Field& at, const Json& value,
                     std::int64_t low = std::numeric_limits<std::int64_t>::min(),
                     std::int64_t high = std::numeric_limits<std::int64_t>::max()) {
  const bool too_large = value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t(high);
  if (!value.is_number_integer() || too_large || value.get<std::int64_t>() < low ||
      value.get<std::int64_t>() > high) {
    at.fail(low == std::numeric_limits<std::int64_t>::min()
                ? "an integer"
                : fmt::format("an integer from {} to {}", low, high),
            shown(value));
  }
  return value.get<std::int64_t>();
}

void require_list(const Field& at, const Json& value) {
  if (!value.is_array()) at.fail("a list", shown(value));
}

// Values of nested lists in row-major order; every list at one depth has the same length.
void flatten(const Field& at, const Json& value, std::span<const std::int64_t> extents,
             std::vector<double>& values) {
  if (extents.empty()) {
    values.push_back(number(at, value));
    return;
  }
  if (!value.is_array() || std::int64_t(value.size()) != extents[0]) {
    at.fail(fmt::format("a list of {} as its neighbours are", extents[0]),
            value.is_array() ? fmt::format("one of {}", value.size()) : shown(value));
  }
  for (std::size_t i = 0; i < value.size(); ++i) flatten(at[i], value[i], extents.subspan(1), values);
}

Tensor read_nested(const Context& context, const Field& at, const Json& value) {
  std::vector<std::int64_t> extents;
  for (const Json* level = &value; level->is_array(); level = &level->front()) {
    if (extents.size() == std::size_t(Shape::max_rank))
      at.fail(fmt::format("at most {} axes", Shape::max_rank), "more");
    extents.push_back(std::int64_t(level->size()));
    if (level->empty()) break;
  }
  std::vector<double> values;
  flatten(at, value, extents, values);
  return Tensor::from<double>(context, Shape(std::span<const std::int64_t>(extents)), values);
}

Shape read_shape(const Field& at, const Json& value) {
  require_list(at, value);
  if (value.size() > std::size_t(Shape::max_rank))
    at.fail(fmt::format("at most {} axes", Shape::max_rank), fmt::format("{}", value.size()));
  std::vector<std::int64_t> extents;
  for (std::size_t i = 0; i < value.size(); ++i)
    extents.push_back(integer(at[i], value[i], 0, std::numeric_limits<std::int32_t>::max()));
  try {
    return Shape(std::span<const std::int64_t>(extents));
  } catch (const ShapeError&) {
    at.fail("a shape that fits into memory", shown(value));
  }
}

void require_keys(const Field& at, const Json& object, const std::vector<std::string>& known) {
  if (!object.is_object()) at.fail("an object", shown(object));
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::string name = shown(Json(key));
    at.fail(known.empty() ? "no keys" : fmt::format("the keys {}", fmt::join(known, ", ")),
            name + did_you_mean(key, known));
  }
}

Tensor read_tensor(const Context& context, const Field& at, const Json& value) {
  if (!value.is_object()) return read_nested(context, at, value);
  require_keys(at, value, {"shape", "values"});
  if (!value.contains("shape") || !value.contains("values")) at.fail("both shape and values", shown(value));
  const Shape shape = read_shape(at / "shape", value["shape"]);
  const Field list = at / "values";
  require_list(list, value["values"]);
  if (std::int64_t(value["values"].size()) != shape.size()) {
    list.fail(fmt::format("{} for the shape {}", shape.size(), shape.to_string()),
              fmt::format("{}", value["values"].size()));
  }
  std::vector<double> values;
  for (std::size_t i = 0; i < value["values"].size(); ++i)
    values.push_back(number(list[i], value["values"][i]));
  return Tensor::from<double>(context, shape, values);
}

// --- options -----------------------------------------------------------------------------------------------

constexpr std::int64_t max_int = std::numeric_limits<int>::max();

// The options of a call: each access checks the type of one.
class Options {
 public:
  Options(Field at, const Json& values) : at_(std::move(at)), values_(values) {}

  double number(const char* name) const { return tools::number(at_ / name, values_.at(name)); }
  std::int64_t integer(const char* name) const { return tools::integer(at_ / name, values_.at(name)); }
  int small(const char* name) const {
    return int(tools::integer(at_ / name, values_.at(name), -max_int, max_int));
  }
  std::uint32_t word(const char* name) const {
    return std::uint32_t(
        tools::integer(at_ / name, values_.at(name), 0, std::numeric_limits<std::uint32_t>::max()));
  }
  bool flag(const char* name) const {
    if (!values_.at(name).is_boolean()) (at_ / name).fail("true or false", shown(values_.at(name)));
    return values_.at(name).get<bool>();
  }
  bool is_null(const char* name) const { return values_.at(name).is_null(); }
  std::vector<double> numbers(const char* name) const {
    require_list(at_ / name, values_.at(name));
    std::vector<double> list;
    for (const Json& value : values_.at(name))
      list.push_back(tools::number((at_ / name)[list.size()], value));
    return list;
  }
  std::vector<std::int32_t> indices(const char* name) const {
    require_list(at_ / name, values_.at(name));
    std::vector<std::int32_t> list;
    for (const Json& value : values_.at(name))
      list.push_back(std::int32_t(tools::integer((at_ / name)[list.size()], value, -max_int, max_int)));
    return list;
  }
  Shape shape(const char* name) const { return read_shape(at_ / name, values_.at(name)); }
  RandomKey key(Purpose purpose) const {
    const auto seed = tools::integer(at_ / "seed", values_.at("seed"), 0);
    return random_key(std::uint64_t(seed), word("step"), purpose, word("site"));
  }

 private:
  Field at_;
  const Json& values_;
};

// What the op list does not say: names of the inputs (`?` optional, `*` any number) and the options, with the
// values of the operation's first case. An operation without options that is not here runs all the same.
struct OpForm {
  const char* op;
  const char* inputs;
  const char* options;  // JSON
  OpFunction (*bind)(const Options&);
};

OpFunction bind_axis(const Options& o, Variable (*all)(const Variable&),
                     Variable (*along)(const Variable&, int)) {
  if (o.is_null("axis")) return [all](Tape&, Inputs x) { return all(x[0]); };
  return [along, axis = o.small("axis")](Tape&, Inputs x) { return along(x[0], axis); };
}

// The options list, part by part, the expert, its rows one part behind the other, and both factors.
Variable mix_rows_of(const std::vector<std::int32_t>& experts, const std::vector<std::int32_t>& rows,
                     const std::vector<double>& factors, const std::vector<double>& importances, Inputs x) {
  const std::size_t count = x.size() - 1;
  if (experts.size() != count || factors.size() != count || importances.size() != count) {
    throw ValueError(
        fmt::format("[mix_rows] experts, factors, importances: expected {} each, got {}, {} and {}", count,
                    experts.size(), factors.size(), importances.size()));
  }
  std::vector<ops::RoutedRows> parts;
  std::size_t next = 0;
  for (std::size_t p = 0; p < count; ++p) {
    const std::size_t size = x[p + 1].shape().rank() > 0 ? std::size_t(x[p + 1].shape()[0]) : 0;
    const auto from = rows.begin() + std::ptrdiff_t(std::min(next, rows.size()));
    const auto to = rows.begin() + std::ptrdiff_t(std::min(next + size, rows.size()));
    parts.push_back({experts[p], {from, to}, x[p + 1], factors[p], importances[p]});
    next += size;
  }
  return ops::mix_rows(x[0], parts);
}

const OpForm forms[] = {
    {"add", "a b", "{}", nullptr},
    {"multiply", "a b", "{}", nullptr},
    {"scale", "x", R"({"factor": -1.7})",
     [](const Options& o) -> OpFunction {
       return [factor = o.number("factor")](Tape&, Inputs x) { return ops::scale(x[0], factor); };
     }},
    {"gelu", "x", "{}", nullptr},
    {"softplus", "x", "{}", nullptr},
    {"elu1", "x", "{}", nullptr},
    {"dropout", "x", R"({"p": 0.1, "seed": 81985529216486895, "step": 7, "site": 3})",
     [](const Options& o) -> OpFunction {
       return [p = o.number("p"), key = o.key(Purpose::dropout)](Tape&, Inputs x) {
         return ops::dropout(x[0], p, key);
       };
     }},
    {"sum", "x", R"({"axis": null})",
     [](const Options& o) -> OpFunction { return bind_axis(o, ops::sum, ops::sum); }},
    {"mean", "x", R"({"axis": null})",
     [](const Options& o) -> OpFunction { return bind_axis(o, ops::mean, ops::mean); }},
    {"reshape", "x", R"({"shape": [3, 4]})",
     [](const Options& o) -> OpFunction {
       return [shape = o.shape("shape")](Tape&, Inputs x) { return ops::reshape(x[0], shape); };
     }},
    {"transpose", "x", R"({"axis_a": 0, "axis_b": 1})",
     [](const Options& o) -> OpFunction {
       return [a = o.small("axis_a"), b = o.small("axis_b")](Tape&, Inputs x) {
         return ops::transpose(x[0], a, b);
       };
     }},
    {"slice", "x", R"({"axis": 0, "begin": 1, "end": 4})",
     [](const Options& o) -> OpFunction {
       return [axis = o.small("axis"), begin = o.integer("begin"), end = o.integer("end")](Tape&, Inputs x) {
         return ops::slice(x[0], axis, begin, end);
       };
     }},
    {"concat", "parts*", R"({"axis": 0})",
     [](const Options& o) -> OpFunction {
       return [axis = o.small("axis")](Tape&, Inputs x) { return ops::concat(x, axis); };
     }},
    {"matmul", "a b", R"({"transpose_a": false, "transpose_b": false})",
     [](const Options& o) -> OpFunction {
       return [a = o.flag("transpose_a"), b = o.flag("transpose_b")](Tape&, Inputs x) {
         return ops::matmul(x[0], x[1], a, b);
       };
     }},
    {"linear", "x weight bias?", "{}", nullptr},
    {"softmax", "x", "{}", nullptr},
    {"normalize", "x", "{}", nullptr},
    {"layer_norm", "x gamma beta", R"({"eps": 1e-05})",
     [](const Options& o) -> OpFunction {
       return [eps = o.number("eps")](Tape&, Inputs x) { return ops::layer_norm(x[0], x[1], x[2], eps); };
     }},
    {"embedding", "table", R"({"indices": [2, 0, 2, 3, 2]})",
     [](const Options& o) -> OpFunction {
       return [list = o.indices("indices")](Tape&, Inputs x) { return ops::embedding(x[0], list); };
     }},
    {"gather_rows", "x", R"({"rows": [0, 2, 5]})",
     [](const Options& o) -> OpFunction {
       return [list = o.indices("rows")](Tape&, Inputs x) { return ops::gather_rows(x[0], list); };
     }},
    {"scatter_rows", "x", R"({"rows": [4, 0, 2], "row_count": 6})",
     [](const Options& o) -> OpFunction {
       return [list = o.indices("rows"), count = o.small("row_count")](Tape&, Inputs x) {
         return ops::scatter_rows(x[0], list, count);
       };
     }},
    {"cross_entropy", "logits", R"({"targets": [6, 0, 3, 3]})",
     [](const Options& o) -> OpFunction {
       return [list = o.indices("targets")](Tape&, Inputs x) { return ops::cross_entropy(x[0], list); };
     }},
    {"mix", "weights experts*", "{}", nullptr},
    {"mix_rows", "weights outputs*",
     R"({"experts": [0, 2], "rows": [0, 3, 1, 2], "factors": [1, 1], "importances": [1, 1]})",
     [](const Options& o) -> OpFunction {
       return [experts = o.indices("experts"), rows = o.indices("rows"), factors = o.numbers("factors"),
               importances = o.numbers("importances")](Tape&, Inputs x) {
         return mix_rows_of(experts, rows, factors, importances, x);
       };
     }},
    {"one_hot_straight_through", "weights", R"({"costs": []})",
     [](const Options& o) -> OpFunction {
       return [costs = o.numbers("costs")](Tape&, Inputs x) {
         return ops::one_hot_straight_through(x[0], costs);
       };
     }},
    {"categorical_entropy", "weights", "{}", nullptr},
    {"dirichlet_rsample", "concentration", R"({"seed": 11, "step": 3, "site": 2, "floor": 0.0})",
     [](const Options& o) -> OpFunction {
       return [key = o.key(Purpose::dirichlet), floor = o.number("floor")](Tape&, Inputs x) {
         return ops::dirichlet_rsample(x[0], key, floor);
       };
     }},
    {"dirichlet_kl", "concentration", R"({"prior": [0.01, 0.86, 0.71]})",
     [](const Options& o) -> OpFunction {
       return [prior = o.numbers("prior")](Tape&, Inputs x) { return ops::dirichlet_kl(x[0], prior); };
     }},
    {"dirichlet_entropy", "concentration", "{}", nullptr},
    {"full_attention", "q k v", R"({"heads": 1})",
     [](const Options& o) -> OpFunction {
       return [heads = o.small("heads")](Tape&, Inputs x) {
         return ops::full_attention(x[0], x[1], x[2], heads);
       };
     }},
    {"local_attention", "q k v bias?", R"({"heads": 1, "window": 3})",
     [](const Options& o) -> OpFunction {
       return [heads = o.small("heads"), window = o.integer("window")](Tape&, Inputs x) {
         return ops::local_attention(x[0], x[1], x[2], heads, window, {}, x.size() > 3 ? x[3] : Variable{});
       };
     }},
    {"linear_attention", "q k v", R"({"heads": 1, "chunk": 64})",
     [](const Options& o) -> OpFunction {
       return [heads = o.small("heads"), chunk = o.integer("chunk")](Tape&, Inputs x) {
         return ops::linear_attention(x[0], x[1], x[2], heads, chunk);
       };
     }},
    {"mixed_attention", "weights q k v", R"({"heads": 1, "window": 3, "chunk": 64})",
     [](const Options& o) -> OpFunction {
       return [heads = o.small("heads"), window = o.integer("window"), chunk = o.integer("chunk")](Tape&,
                                                                                                   Inputs x) {
         return ops::mixed_attention(x[0], x[1], x[2], x[3], heads, window, chunk);
       };
     }},
    {"rotary", "x", R"({"head_dim": 2, "positions": [0, 1, 2, 3]})",
     [](const Options& o) -> OpFunction {
       return [head_dim = o.integer("head_dim"), positions = o.indices("positions")](Tape& tape, Inputs x) {
         return ops::rotary(x[0], ops::RotaryAngles(tape.context(), positions, head_dim, x[0].dtype()));
       };
     }},
};

const OpForm* form_of(const std::string& op) {
  const auto* found =
      std::find_if(std::begin(forms), std::end(forms), [&](const OpForm& f) { return op == f.op; });
  return found == std::end(forms) ? nullptr : found;
}

std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> list;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    list.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return list;
}

// The names of `count` inputs of an operation that takes `signature`; empty when it does not take so many.
std::vector<std::string> input_names(const std::vector<std::string>& signature, std::size_t count) {
  std::vector<std::string> names;
  for (const std::string& word : signature) {
    const std::string stem = word.substr(0, word.size() - 1);
    if (word.back() == '?') {
      if (names.size() < count) names.push_back(stem);
    } else if (word.back() == '*') {
      for (std::size_t i = 0; names.size() < count; ++i) names.push_back(fmt::format("{}[{}]", stem, i));
    } else {
      names.push_back(word);
    }
  }
  if (names.size() != count) names.clear();
  return names;
}

std::vector<std::string> signature_of(const OpEntry& entry, const OpCase& first) {
  if (const OpForm* form = form_of(entry.name)) return words(form->inputs);
  if (first.inputs.size() == 1) return {"x"};
  std::vector<std::string> names;
  for (std::size_t i = 0; i < first.inputs.size(); ++i) names.push_back(fmt::format("x{}", i));
  return names;
}

void set_options(OpCall& call, const OpForm& form, const Field& at, const Json& options) {
  call.settings.clear();
  for (const auto& [name, value] : options.items()) call.settings.emplace_back(name, value.dump());
  if (form.bind != nullptr) call.function = form.bind(Options(at, options));
}

Json read_json(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path))
    throw IoError(
        fmt::format("[{}] file: expected a readable file, got {}", path, file ? "a directory" : "none"));
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  try {
    return Json::parse(text);
  } catch (const Json::exception& error) {
    throw ValueError(fmt::format("[{}] file: expected JSON, got {}", path, error.what()));
  }
}

Tensor undefined_or(const Context& context, const Field& at, const Json& file, const char* key) {
  return file.contains(key) ? read_tensor(context, at / key, file[key]) : Tensor();
}

// --- what was drawn ----------------------------------------------------------------------------------------

std::vector<std::pair<std::string, Tensor>> drawn_by(const Context& context, const OpCall& call) {
  const auto setting = [&](const char* name) {
    for (const auto& [key, value] : call.settings) {
      if (key == name) return Json::parse(value);
    }
    return Json();
  };
  if (call.op == "dropout") {
    Tape tape(context, Tape::Mode::inference);
    const Tensor ones = Tensor::full(context, call.inputs[0].shape(), 1, DType::f64);
    const Variable x = tape.constant(ones);
    return {{"mask / (1 - p)", call.function(tape, std::span(&x, 1)).value()}};
  }
  if (call.op == "dirichlet_rsample") {
    const RandomKey key =
        random_key(setting("seed").get<std::uint64_t>(), setting("step").get<std::uint32_t>(),
                   Purpose::dirichlet, setting("site").get<std::uint32_t>());
    return dirichlet_draws(context, call.inputs[0], key);
  }
  return {};
}

}  // namespace

std::vector<std::pair<std::string, Tensor>> dirichlet_draws(const Context& context,
                                                            const Tensor& concentration,
                                                            const RandomKey& key) {
  const Tensor b = concentration.contiguous(context);
  const Shape& shape = b.shape();
  Tensor log_gamma = Tensor::zeros(context, shape, DType::f64);
  Tensor slope = Tensor::zeros(context, shape, DType::f64);
  Tensor alpha = Tensor::zeros(context, shape, DType::f64);
  const auto columns = std::size_t(shape[1]);
  for (std::size_t row = 0; row < std::size_t(shape[0]); ++row) {
    PhiloxStream stream(key, std::uint32_t(row));
    const std::size_t at = row * columns;
    dirichlet::sample(std::as_const(b).span<double>().subspan(at, columns), stream,
                      log_gamma.span<double>().subspan(at, columns),
                      alpha.span<double>().subspan(at, columns));
    for (std::size_t i = at; i < at + columns; ++i) {
      slope.span<double>()[i] =
          special::log_gamma_draw_derivative(b.data<double>()[i], log_gamma.data<double>()[i]);
    }
  }
  return {{"log_gamma", log_gamma}, {"dlog_gamma_dconcentration", slope}};
}

const OpEntry& find_op(const std::string& name) {
  std::vector<std::string> names;
  for (const OpEntry& entry : op_list()) {
    if (name == entry.name) return entry;
    names.push_back(entry.name);
  }
  throw ValueError(fmt::format("[trace] --op: expected an operation of 'dirigo trace --list', got '{}'{}",
                               name, did_you_mean(name, names)));
}

std::string describe_op(const Context& context, const OpEntry& entry) {
  const OpForm* form = form_of(entry.name);
  const std::vector<OpCase> cases = entry.cases(context);
  const std::string inputs = fmt::format("{}", fmt::join(signature_of(entry, cases.front()), " "));
  const std::string options = form == nullptr || std::string(form->options) == "{}" ? "" : form->options;
  const std::string line = fmt::format("{:<26}{:<20}{}", entry.name, inputs, options);
  return line.substr(0, line.find_last_not_of(' ') + 1);
}

OpCall first_case(const Context& context, const OpEntry& entry) {
  const std::vector<OpCase> cases = entry.cases(context);
  const OpCase& first = cases.front();
  OpCall call;
  call.op = entry.name;
  call.inputs = first.inputs;
  call.input_names = input_names(signature_of(entry, first), first.inputs.size());
  call.differentiable = first.differentiable;
  call.function = first.op;
  if (const OpForm* form = form_of(entry.name))
    set_options(call, *form, {"", "options"}, Json::parse(form->options));
  return call;
}

OpCall read_call(const Context& context, const OpEntry& entry, const std::string& path) {
  const Json file = read_json(path);
  const Field top{path, ""};
  const OpForm* form = form_of(entry.name);
  OpCall call = first_case(context, entry);
  require_keys({path, "file"}, file, {"inputs", "options", "cotangent"});
  if (file.contains("inputs")) {
    const Field at = top / "inputs";
    require_list(at, file["inputs"]);
    const std::vector<std::string> signature = signature_of(entry, entry.cases(context).front());
    call.input_names = input_names(signature, file["inputs"].size());
    if (file["inputs"].empty() || call.input_names.empty())
      at.fail(fmt::format("the inputs {}", fmt::join(signature, " ")),
              fmt::format("{}", file["inputs"].size()));
    call.inputs.clear();
    for (std::size_t i = 0; i < file["inputs"].size(); ++i)
      call.inputs.push_back(read_tensor(context, at[i], file["inputs"][i]));
  }
  if (file.contains("options")) {
    Json options = Json::parse(form != nullptr ? form->options : "{}");
    std::vector<std::string> known;
    for (const auto& item : options.items()) known.push_back(item.key());
    require_keys(top / "options", file["options"], known);
    for (const auto& [key, value] : file["options"].items()) options[key] = value;
    if (form != nullptr) set_options(call, *form, top / "options", options);
  }
  call.cotangent = undefined_or(context, top, file, "cotangent");
  return call;
}

Trace trace_op(const Context& context, const OpCall& call) {
  Trace trace;
  trace.title = call.op;
  trace.settings = call.settings;
  std::size_t next = 0;
  Tracer tracer(context, trace, [&](const Tensor&) { return call.input_names[next++]; });
  Tape tape(context);
  tape.observe(&tracer);
  std::vector<Variable> inputs;
  for (std::size_t i = 0; i < call.inputs.size(); ++i) {
    const bool wanted = call.differentiable.empty() || call.differentiable[i];
    inputs.push_back(wanted ? tape.leaf(call.inputs[i]) : tape.constant(call.inputs[i]));
  }
  const Variable output = call.function(tape, inputs);
  if (call.cotangent.defined() && call.cotangent.shape() != output.shape()) {
    throw ShapeError(fmt::format("[cotangent] shape: expected {} of the output, got {}",
                                 output.shape().to_string(), call.cotangent.shape().to_string()));
  }
  tape.backward(output, call.cotangent);
  trace.drawn = drawn_by(context, call);
  return trace;
}

}  // namespace dirigo::tools
