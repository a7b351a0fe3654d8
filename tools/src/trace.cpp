#include "trace.hpp"

#include <fmt/format.h>

#include "dirigo/core/philox.hpp"
#include "dirigo/meta_attention/objective.hpp"
#include "trace_op.hpp"

namespace dirigo::tools {

namespace {

// Multiples of 0.1 in [-1, 1]: short to write down. Vectors (biases, gains) keep their initial values.
void set_round_weights(meta::LanguageModel& model) {
  std::uint32_t site = 0;
  for (const nn::NamedParameter& named : model.parameters()) {
    Tensor& value = named.parameter->value;
    ++site;
    if (value.rank() < 2) continue;
    PhiloxStream stream(random_key(1, 0, Purpose::init, site), 0);
    for (double& weight : value.span<double>()) weight = (double(stream.below(21)) - 10) / 10;
  }
}

meta::Config small_config() {
  meta::Config config = meta::preset("tiny");
  config.model.positions = meta::Positions::learned;
  config.model.d_model = 4;
  config.model.heads = 2;
  config.model.layers = 1;
  config.model.ffn_multiplier = 1;
  config.router.hidden = 2;
  config.attention.window = 1;  // of two: the local expert differs from the full one
  config.attention.chunk = 1;
  config.train.seq_len = 2;
  config.train.dropout = 0;
  meta::resolve(config);
  return config;
}

std::string list(std::span<const double> values) {
  return fmt::format("[{}]", fmt::join(values, ", "));
}

}  // namespace

std::size_t Tracer::add(std::string name, std::string op, const Tensor& value) {
  trace_.nodes.push_back({std::move(name), std::move(op), {}, value, {}});
  return trace_.nodes.size() - 1;
}

std::string Tracer::numbered(const std::string& op) {
  return fmt::format("{}_{}", op, ++counts_[op]);
}

void Tracer::recorded(std::string_view op, std::span<const Variable> inputs,
                      std::span<const std::int32_t> input_nodes, const Tensor& value) {
  if (inputs.empty()) {
    const std::string name = leaf_name_(value);
    const auto known = leaves_.find(name);
    tape_nodes_.push_back(known != leaves_.end() ? known->second : add(name, "leaf", value));
    leaves_[name] = tape_nodes_.back();
    return;
  }
  std::vector<std::size_t> sources;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (input_nodes[i] >= 0) {
      sources.push_back(tape_nodes_[std::size_t(input_nodes[i])]);
    } else if (inputs[i].defined()) {
      sources.push_back(add(numbered("constant"), "constant", inputs[i].value()));
    }
  }
  tape_nodes_.push_back(add(numbered(std::string(op)), std::string(op), value));
  trace_.nodes.back().inputs = std::move(sources);
}

void Tracer::passed(std::int32_t node, const Tensor& gradient) {
  trace_.nodes[tape_nodes_[std::size_t(node)]].gradient = gradient.clone(context_);
}

Trace trace_model(const Context& context) {
  constexpr std::int64_t length = 2, vocabulary = 3;
  constexpr double w_kl = 0.1;
  const std::vector<std::int32_t> tokens{0, 1}, targets{1, 2};
  const meta::Config config = small_config();
  meta::LanguageModel model(context, config, vocabulary, 1, DType::f64);
  set_round_weights(model);

  Trace trace;
  trace.title = "one step of a routed model: 2 tokens, 2 heads, width 4, 1 layer, 3 experts";
  trace.settings = {{"tokens", fmt::format("[{}]", fmt::join(tokens, ", "))},
                    {"targets", fmt::format("[{}]", fmt::join(targets, ", "))},
                    {"positions", "[0, 1]"},
                    {"heads", fmt::format("{}", config.model.heads)},
                    {"window", fmt::format("{}", config.attention.window)},
                    {"chunk", fmt::format("{}", config.attention.chunk)},
                    {"layer_norm eps", fmt::format("{}", nn::LayerNorm::eps)},
                    {"costs", list(model.costs())},
                    {"prior", list(model.prior())},
                    {"w_kl", fmt::format("{}", w_kl)}};
  std::map<const double*, std::string> names;
  for (const nn::NamedParameter& named : model.parameters())
    names[named.parameter->value.data<double>()] = named.name;
  Tracer tracer(context, trace, [&](const Tensor& value) { return names.at(value.data<double>()); });
  Tape tape(context);
  tape.observe(&tracer);
  meta::ForwardOptions options;
  options.training = true;
  options.seed = 1;
  const meta::Forward forward = model(tape, tokens, 1, length, options);
  const meta::Loss loss = meta::objective(model, forward, targets, config.objective, w_kl);
  tape.backward(loss.total);
  trace.drawn = dirichlet_draws(context, forward.layers[0].concentration,
                                random_key(options.seed, options.step, Purpose::dirichlet, 0));
  return trace;
}

}  // namespace dirigo::tools
