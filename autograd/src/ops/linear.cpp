// Y = X W^T + 1 b^T for X (rows, in), W (out, in), b (out); leading axes of x are rows. With <dY, Y> =
// tr(dY^T Y):
//   dX = dY W,   dW = dY^T X,   db = dY^T 1 (column sums).
// Derivation: docs/mathematics/reverse-mode.md
#include "dirigo/autograd/packed_weights.hpp"
#include "dirigo/core/product.hpp"
#include "support.hpp"

namespace dirigo::ops {
namespace {

using Side = PackedWeights::Side;

// Null where each product is to pack for itself.
template <class T>
const T* panels(PackedWeights* weights, const Context& context, const Tensor& weight, Side side) {
  return weights != nullptr ? weights->panels<T>(context, weight, side) : nullptr;
}

template <class T>
void forward(const Context& context, PackedWeights* weights, Matrix x_rows, std::int64_t out, const Tensor& x,
             const Tensor& weight, const Tensor& bias, Tensor& y) {
  product<T>(context, {.m = x_rows.rows,
                       .n = out,
                       .k = x_rows.cols,
                       .a = x.data<T>(),
                       .a_row = x_rows.cols,
                       .b = weight.data<T>(),
                       .b_row = 1,
                       .b_col = x_rows.cols,
                       .c = y.data<T>(),
                       .c_row = out,
                       .bias = bias.defined() ? bias.data<T>() : nullptr,
                       .b_panels = panels<T>(weights, context, weight, Side::transposed)});
}

// Where a product leaves the gradient of an input like `like`: the sum so far, which it is to add to, or
// room.
std::pair<Tensor, bool> sum_or_room(Backward& pass, std::size_t input, const Tensor& like) {
  Tensor sum = pass.take(input);
  if (sum.defined()) return {std::move(sum), true};
  return {Tensor::empty(pass.context(), like.shape(), like.dtype()), false};
}

template <class T>
void vjp(Backward& pass, Matrix x_rows, std::int64_t out, const Tensor& x, const Tensor& weight) {
  const Context& context = pass.context();
  const auto [rows, in] = x_rows;
  const T* dy = pass.gradient().data<T>();
  if (pass.needs(0)) {
    auto [dx, accumulate] = sum_or_room(pass, 0, x);
    product<T>(context, {.m = rows,
                         .n = in,
                         .k = out,
                         .a = dy,
                         .a_row = out,
                         .b = weight.data<T>(),
                         .b_row = in,
                         .c = dx.data<T>(),
                         .c_row = in,
                         .accumulate = accumulate,
                         .b_panels = panels<T>(pass.packed_weights(), context, weight, Side::weight)});
    pass.add(0, std::move(dx));
  }
  if (pass.needs(1)) {
    auto [dw, accumulate] = sum_or_room(pass, 1, weight);
    product<T>(context, {.m = out,
                         .n = in,
                         .k = rows,
                         .a = dy,
                         .a_row = 1,
                         .a_col = out,
                         .b = x.data<T>(),
                         .b_row = in,
                         .c = dw.data<T>(),
                         .c_row = in,
                         .accumulate = accumulate});
    pass.add(1, std::move(dw));
  }
  if (pass.needs(2)) pass.add(2, column_sums<T>(context, rows, out, dy));
}

Values reference(Tensors v) {
  const Values x = v[0].to_vector(), w = v[1].to_vector();
  const auto in = std::size_t(v[1].shape()[1]), out = std::size_t(v[1].shape()[0]);
  const Values bias = v.size() > 2 ? v[2].to_vector() : Values(out);
  const std::size_t rows = x.size() / in;
  Values y(rows * out);
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < out; ++j) {
      y[i * out + j] = bias[j];
      for (std::size_t k = 0; k < in; ++k) y[i * out + j] += x[i * in + k] * w[j * in + k];
    }
  }
  return y;
}

Variable composed(Tape&, Variables v) {
  const Variable y = matmul(v[0], v[1], false, true);
  return v.size() > 2 ? add(y, v[2]) : y;
}

}  // namespace

Variable linear(const Variable& x, const Variable& weight, const Variable& bias) {
  const Matrix x_rows = rows_of("linear", x.shape());
  if (weight.shape().rank() != 2 || weight.shape()[1] != x_rows.cols) {
    throw_shape("linear", "weight", "(out, " + std::to_string(x_rows.cols) + ")", weight.shape());
  }
  const std::int64_t out = weight.shape()[0];
  if (bias.defined()) require_shape("linear", "bias", bias.shape(), {out});
  const Tensor in = row_major(x), w = row_major(weight);
  const Tensor b = bias.defined() ? row_major(bias) : Tensor();
  Tensor y = Tensor::empty(x.context(), x.shape().with(-1, out), x.dtype());
  visit_dtype(x.dtype(), [&](auto zero) {
    forward<decltype(zero)>(x.context(), x.tape().packed_weights(), x_rows, out, in, w, b, y);
  });
  return x.tape().record("linear", {x, weight, bias}, y, [x_rows, out, in, w](Backward& pass) {
    visit_dtype(in.dtype(), [&](auto zero) { vjp<decltype(zero)>(pass, x_rows, out, in, w); });
  });
}

std::vector<OpCase> linear_cases(const Context& context) {
  const OpFunction op = [](Tape&, Variables v) {
    return linear(v[0], v[1], v.size() > 2 ? v[2] : Variable());
  };
  const auto make = [&](const char* name, std::vector<Tensor> inputs) {
    return OpCase{
        .name = name, .inputs = std::move(inputs), .op = op, .reference = reference, .composed = composed};
  };
  OpCase squared = make("input is its own weight", {uniform(context, {3, 4}, 1)});
  squared.op = [](Tape&, Variables v) { return linear(v[0], v[0]); };
  squared.reference = [](Tensors v) { return reference(std::vector<Tensor>{v[0], v[0]}); };
  squared.composed = nullptr;
  // Their gradients meet in x: the second product adds to what the first left there.
  OpCase forked = make("input of three layers", {uniform(context, {5, 3}, 21), uniform(context, {4, 3}, 22)});
  forked.op = [](Tape&, Variables v) {
    return add(linear(v[0], v[1]), add(linear(v[0], scale(v[1], 2)), linear(v[0], v[1])));
  };
  forked.reference = [](Tensors v) {
    Values y = reference(v);
    for (double& value : y) value *= 4;
    return y;
  };
  forked.composed = nullptr;
  return {
      make("bias", {uniform(context, {4, 3}, 2), uniform(context, {5, 3}, 3), uniform(context, {5}, 4)}),
      make("no bias", {uniform(context, {4, 3}, 5), uniform(context, {2, 3}, 6)}),
      make("leading axes",
           {uniform(context, {2, 3, 4}, 7), uniform(context, {3, 4}, 8), uniform(context, {3}, 9)}),
      make("one row", {uniform(context, {6}, 10).reshape({1, 6}), uniform(context, {2, 6}, 11)}),
      make("strided views",
           {uniform(context, {3, 4}, 12).transpose(0, 1), uniform(context, {3, 5}, 13).transpose(0, 1)}),
      make("zero rows",
           {uniform(context, {0, 3}, 15), uniform(context, {2, 3}, 16), uniform(context, {2}, 17)}),
      squared,
      forked,
  };
}

}  // namespace dirigo::ops
