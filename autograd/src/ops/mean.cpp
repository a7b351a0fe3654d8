// y = sum / n, over everything or over one axis, so dx_i = dy / n: a sum that is scaled.
#include <numeric>

#include "support.hpp"

namespace dirigo::ops {
namespace {

Values reference(const Tensor& x, int axis) {
  const AxisView view = around(x.shape(), axis);
  const Values in = x.to_vector();
  Values y(std::size_t(view.outer * view.inner));
  for (std::size_t i = 0; i < in.size(); ++i) {
    const std::int64_t outer = std::int64_t(i) / (view.inner * view.extent),
                       inner = std::int64_t(i) % view.inner;
    y[std::size_t(outer * view.inner + inner)] += in[i] / double(view.extent);
  }
  return y;
}

void require_terms(std::int64_t count) {
  if (count == 0) throw_value("mean", "x", "at least one element to average", "none");
}

}  // namespace

Variable mean(const Variable& x) {
  require_terms(x.shape().size());
  return scale(sum(x), 1.0 / double(x.shape().size()));
}

Variable mean(const Variable& x, int axis) {
  const std::int64_t extent = x.shape()[require_axis("mean", x.shape(), axis)];
  require_terms(extent);
  return scale(sum(x, axis), 1.0 / double(extent));
}

std::vector<OpCase> mean_cases(const Context& context) {
  const auto along = [](const char* name, Tensor x, int axis) {
    return OpCase{.name = name,
                  .inputs = {std::move(x)},
                  .op = [axis](Tape&, Variables v) { return mean(v[0], axis); },
                  .reference = [axis](Tensors v) { return reference(v[0], axis); }};
  };
  OpCase all{.name = "all",
             .inputs = {uniform(context, {3, 4}, 1).transpose(0, 1)},
             .op = [](Tape&, Variables v) { return mean(v[0]); },
             .reference =
                 [](Tensors v) {
                   const Values in = v[0].to_vector();
                   return Values{std::accumulate(in.begin(), in.end(), 0.0) / double(in.size())};
                 }};
  return {
      all,
      along("first axis", uniform(context, {3, 4}, 2), 0),
      along("last axis", uniform(context, {2, 3, 4}, 3), 2),
      along("zero rows", uniform(context, {0, 3}, 4), 1),
  };
}

}  // namespace dirigo::ops
