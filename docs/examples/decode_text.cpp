// Trains a small routed language model on one line of text, then lets it go on from the line's beginning with
// a session: token by token, with a fork that is led astray and then cut back.
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <span>
#include <string>
#include <vector>

#include "dirigo/meta_attention/objective.hpp"
#include "dirigo/meta_attention/session.hpp"
#include "dirigo/nn/optimizer.hpp"

using namespace dirigo;

namespace {

const std::string text = "to be or not to be, that is the q";  // 33 bytes, each to predict the next

// The weights of a trained model, laid out for single tokens.
meta::InferenceModel trained_model(const Context& context) {
  meta::Config config = meta::preset("tiny");
  config.model.d_model = 32;
  config.train.seq_len = 32;
  config.attention.window = 8;
  meta::resolve(config);
  meta::LanguageModel model(context, config, /*vocabulary=*/256, /*seed=*/2);
  nn::Adam adam(context, model.parameters());
  const std::vector<std::int32_t> tokens(text.begin(), text.end());
  meta::ForwardOptions options;
  options.training = true;
  for (options.step = 0; options.step < 100; ++options.step) {
    Tape tape(context);
    const auto forward = model(tape, std::span(tokens).first(32), /*batch=*/1, /*length=*/32, options);
    const auto loss =
        meta::objective(model, forward, std::span(tokens).last(32), config.objective, /*w_kl=*/0.003);
    tape.backward(loss.total);
    adam.step(/*learning rate=*/0.01);
  }
  return {context, model};
}

std::int32_t most_probable(const meta::SessionOutput& output) {
  return std::int32_t(std::max_element(output.logits.begin(), output.logits.end()) - output.logits.begin());
}

// The most probable text after what the session holds, until it is full.
std::string go_on(meta::InferenceSession& session, meta::SessionOutput output) {
  std::string more(1, char(most_probable(output)));
  while (session.length() < session.max_length()) {
    session.step(most_probable(output), output);
    more += char(most_probable(output));
  }
  return more;
}

}  // namespace

int main() {
  const Context context;
  const meta::InferenceModel model = trained_model(context);

  meta::SessionOptions options;
  options.forward.routing = meta::RoutingMode::hard;  // each token runs through one expert alone
  meta::InferenceSession session(model, options);
  const std::string prompt = "to be or ";
  const std::vector<std::int32_t> tokens(prompt.begin(), prompt.end());
  const meta::SessionOutput output = session.prefill(tokens);

  meta::InferenceSession fork = session.fork();  // shares what is cached of the prompt
  std::cout << prompt << go_on(session, output) << '\n';

  meta::SessionOutput other;
  fork.step('x', other);
  fork.rewind(6);  // "to be "
  fork.step('o', other);
  fork.step('r', other);
  fork.step(' ', other);  // the prompt again, by steps: the same bits as the prefill
  std::cout << (other.logits == output.logits ? "the same" : "different") << " logits after a rewind\n";
  std::cout << session.memory_bytes() << " bytes held, at most " << session.max_memory_bytes() << '\n';
}
