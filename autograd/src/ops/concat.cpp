// The parts one after another along an axis; each part's gradient is its stretch of dy.
#include "axis_copy.hpp"

namespace dirigo::ops {
namespace {

Values reference(Tensors parts, int axis) {
  const AxisView first = around(parts[0].shape(), axis);
  Values y;
  for (std::int64_t outer = 0; outer < first.outer; ++outer) {
    for (const Tensor& part : parts) {
      const Values in = part.to_vector();
      const std::int64_t run = part.shape()[axis] * first.inner;
      y.insert(y.end(), in.begin() + outer * run, in.begin() + (outer + 1) * run);
    }
  }
  return y;
}

}  // namespace

Variable concat(std::span<const Variable> parts, int axis) {
  if (parts.empty()) throw_value("concat", "parts", "at least one", "none");
  const Shape& first = parts[0].shape();
  const int along = require_axis("concat", first, axis);
  std::vector<std::int64_t> begins{0};
  for (const Variable& part : parts) {
    if (part.shape().rank() != first.rank() || part.shape().with(along, 0) != first.with(along, 0)) {
      throw_shape("concat", "part", first.to_string() + " up to axis " + std::to_string(axis), part.shape());
    }
    begins.push_back(begins.back() + part.shape()[along]);
  }
  Tensor y = Tensor::empty(parts[0].context(), first.with(along, begins.back()), parts[0].dtype());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    copy_along(row_major(parts[i]), 0, y, begins[i], along, begins[i + 1] - begins[i]);
  }
  return parts[0].tape().record("concat", parts, y, [begins, along](Backward& pass) {
    for (std::size_t i = 0; i + 1 < begins.size(); ++i) {
      if (!pass.needs(i)) continue;
      const Tensor& dy = pass.gradient();
      const std::int64_t extent = begins[i + 1] - begins[i];
      Tensor dx = Tensor::empty(pass.context(), dy.shape().with(along, extent), dy.dtype());
      copy_along(dy, begins[i], dx, 0, along, extent);
      pass.add(i, std::move(dx));
    }
  });
}

std::vector<OpCase> concat_cases(const Context& context) {
  const auto make = [](const char* name, std::vector<Tensor> parts, int axis) {
    return OpCase{
        .name = name,
        .inputs = parts,
        .op = [axis](Tape&, Variables v) { return concat(v, axis); },
        .reference = [axis](Tensors v) { return reference(v, axis < 0 ? axis + v[0].rank() : axis); }};
  };
  OpCase reused = make("one part twice", {uniform(context, {2, 3}, 1)}, 0);
  reused.op = [](Tape&, Variables v) { return concat(std::vector<Variable>{v[0], v[0]}, 0); };
  reused.reference = [](Tensors v) { return reference(std::vector<Tensor>{v[0], v[0]}, 0); };
  return {
      make("first axis", {uniform(context, {2, 3}, 2), uniform(context, {1, 3}, 3)}, 0),
      make("last axis",
           {uniform(context, {2, 3}, 4), uniform(context, {2, 1}, 5), uniform(context, {2, 2}, 6)}, -1),
      make("middle axis", {uniform(context, {2, 1, 3}, 7), uniform(context, {2, 2, 3}, 8)}, 1),
      make("one part", {uniform(context, {2, 3}, 9)}, 1),
      make("an empty part", {uniform(context, {2, 0}, 10), uniform(context, {2, 2}, 11)}, 1),
      make("strided views", {uniform(context, {3, 2}, 12).transpose(0, 1), uniform(context, {2, 3}, 13)}, 0),
      reused,
  };
}

}  // namespace dirigo::ops
