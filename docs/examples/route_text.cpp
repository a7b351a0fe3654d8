// Trains a small routed language model on one line of text, then shows which expert each byte is routed to.
// (A line learnt by heart needs no particular expert; `dirigo train --preset recall` is where routing pays.)
#include <cstdint>
#include <iostream>
#include <span>
#include <string>
#include <vector>

#include "dirigo/meta_attention/objective.hpp"
#include "dirigo/nn/optimizer.hpp"

int main() {
  using namespace dirigo;
  const Context context;  // threads, instruction set, memory; there is no global state

  meta::Config config = meta::preset("tiny");
  config.model.d_model = 32;  // small enough to train in a second
  config.train.seq_len = 32;
  config.attention.window = 8;  // the local expert sees 8 bytes
  meta::resolve(config);        // checks the fields against each other

  const std::string text = "to be or not to be, that is the q";  // 33 bytes, each to predict the next
  const std::vector<std::int32_t> tokens(text.begin(), text.end());
  const std::span inputs(tokens.data(), 32), targets(tokens.data() + 1, 32);
  meta::LanguageModel model(context, config, /*vocabulary=*/256, /*seed=*/2);
  nn::Adam adam(context, model.parameters());

  meta::ForwardOptions options;
  options.training = true;  // sampled weights: every expert sees every token
  options.seed = 2;         // of the samples
  for (options.step = 0; options.step < 100; ++options.step) {
    Tape tape(context);  // records what runs, for backward()
    const auto forward = model(tape, inputs, /*batch=*/1, /*length=*/32, options);
    const auto loss = meta::objective(model, forward, targets, config.objective, /*w_kl=*/0.003);
    tape.backward(loss.total);  // leaves a gradient in every parameter
    adam.step(/*learning rate=*/0.01);
    if (options.step % 33 == 0) std::cout << "step " << options.step << ": " << loss.nll << " nats/byte\n";
  }

  options = {};
  options.routing = meta::RoutingMode::hard;  // each token runs through one expert alone
  Tape tape(context, Tape::Mode::inference);  // records nothing
  const auto forward = model(tape, inputs, 1, 32, options);
  const meta::LayerRouting& last = forward.layers.back();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    std::cout << text[i] << ' ' << meta::expert_name(meta::ExpertKind(last.chosen[i])) << '\n';
  }
}
