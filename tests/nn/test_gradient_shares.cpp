#include <doctest/doctest.h>

#include "dirigo/autograd/ops.hpp"
#include "dirigo/nn/gradient_shares.hpp"

using namespace dirigo;
using namespace dirigo::nn;

namespace {

// A vector longer than a chunk of the sum, and one that few shares reach.
struct Model {
  explicit Model(const Context& context)
      : weight{Tensor::full(context, {40000}, 2.0), {}}, rare{Tensor::full(context, {3}, 5.0), {}} {}
  std::vector<NamedParameter> parameters() { return {{"weight", &weight}, {"rare", &rare}}; }

  Parameter weight, rare;
};

// d/dw factor w . w = 2 factor w
void run_share(const Context& context, Model& model, const Tape::Sinks& sinks, double factor,
               bool with_rare) {
  Tape tape(context);
  tape.redirect(&sinks);
  const Variable w = model.weight.on(tape);
  Variable loss = ops::scale(ops::sum(ops::multiply(w, w)), factor);
  if (with_rare) loss = ops::add(loss, ops::sum(model.rare.on(tape)));
  tape.backward(loss);
}

}  // namespace

TEST_CASE("gradient shares: the sum of what each tape added, for any number of threads") {
  for (const int threads : {1, 2}) {
    const Context context({.threads = threads});
    Model model(context);
    GradientShares shares(model.parameters(), 3);
    for (int step = 0; step < 2; ++step) {
      context.parallel_for<float>(3, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          run_share(context, model, shares.sinks(std::size_t(i)), double(i + 1), i == 1);
          run_share(context, model, shares.sinks(std::size_t(i)), 0.5, false);  // a second tape of the share
        }
      });
      CHECK_FALSE(model.weight.gradient.defined());
      shares.add_up(context);
      CHECK(model.weight.gradient.to_vector() == std::vector<double>(40000, 4 * (1 + 2 + 3 + 1.5)));
      CHECK(model.rare.gradient.to_vector() == std::vector<double>{1, 1, 1});
      model.weight.gradient = model.rare.gradient = Tensor{};
    }
  }
}

TEST_CASE("gradient shares: what no share reached has no gradient, and clear forgets") {
  const Context context;
  Model model(context);
  GradientShares shares(model.parameters(), 2);
  run_share(context, model, shares.sinks(1), 1, false);
  shares.clear();
  run_share(context, model, shares.sinks(0), 0.25, false);
  shares.add_up(context);
  CHECK(model.weight.gradient.to_vector() == std::vector<double>(40000, 1.0));
  CHECK_FALSE(model.rare.gradient.defined());
}
