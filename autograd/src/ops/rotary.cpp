// Rotary positions (Su et al. 2021): pair c of a head, elements c and c + d/2, turned by the angle p theta_c
// of the row's position p, theta_c = 10000^(-2c/d):
//   y_c = x_c cos(p theta_c) - x_{c+d/2} sin(p theta_c),  y_{c+d/2} = x_c sin(p theta_c) + x_{c+d/2} cos(p
//   theta_c).
// A rotation is orthogonal, so dx is dy turned back, and (R_i q) . (R_j k) = q . R_{j-i} k: a score depends
// on the distance alone.
// Derivation: docs/mathematics/positions.md
#include <map>

#include "support.hpp"

namespace dirigo::ops {
namespace {

constexpr double base = 10000;

double angle(std::int32_t position, std::int64_t pair, std::int64_t head_dim) {
  return double(position) * std::pow(base, -2 * double(pair) / double(head_dim));
}

// One row of width elements, turned by +angle (direction 1) or -angle (direction -1).
template <class T>
void turn_row(const RotaryAngles& angles, std::int64_t row, std::int64_t width, const T* in, double direction,
              T* out) {
  const std::int64_t half = angles.cosines.shape()[1];
  const std::int64_t at = std::int64_t(angles.entries[std::size_t(row)]) * half;
  const T *c = angles.cosines.data<T>() + at, *s = angles.sines.data<T>() + at;
  for (std::int64_t head = 0; head < width; head += 2 * half) {
    const T *a = in + head, *b = a + half;
    T *to_a = out + head, *to_b = to_a + half;
    for (std::int64_t pair = 0; pair < half; ++pair) {
      const T sine = T(direction) * s[pair];
      to_a[pair] = a[pair] * c[pair] - b[pair] * sine;
      to_b[pair] = a[pair] * sine + b[pair] * c[pair];
    }
  }
}

Tensor turn(const Context& context, const Tensor& x, const RotaryAngles& angles, double direction) {
  Tensor y = Tensor::empty(context, x.shape(), x.dtype());
  const auto [rows, cols] = rows_of("rotary", x.shape());
  visit_dtype(x.dtype(), [&, width = cols, n = rows](auto zero) {
    using T = decltype(zero);
    const T* in = x.data<T>();
    T* out = y.data<T>();
    context.parallel_for<T>(n, row_grain(width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        turn_row(angles, i, width, in + i * width, direction, out + i * width);
      }
    });
  });
  return y;
}

}  // namespace

RotaryAngles::RotaryAngles(const Context& context, std::span<const std::int32_t> positions,
                           std::int64_t head_dim, DType dtype) {
  if (head_dim < 2 || head_dim % 2 != 0) {
    throw_value("rotary", "head_dim", "an even number >= 2", std::to_string(head_dim));
  }
  std::map<std::int32_t, std::int32_t> entry_of;  // of each distinct position, ascending
  for (const std::int32_t position : positions) {
    if (position < 0) throw_value("rotary", "position", "a number >= 0", std::to_string(position));
    entry_of[position] = 0;
  }
  std::int32_t count = 0;
  for (auto& [position, entry] : entry_of) entry = count++;
  entries.reserve(positions.size());
  for (const std::int32_t position : positions) entries.push_back(entry_of[position]);
  const std::int64_t half = head_dim / 2;
  cosines = Tensor::empty(context, {count, half}, dtype);
  sines = Tensor::empty(context, {count, half}, dtype);
  visit_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    T *c = cosines.data<T>(), *s = sines.data<T>();
    for (const auto& position_entry : entry_of) {
      for (std::int64_t pair = 0; pair < half; ++pair) {
        const double at = angle(position_entry.first, pair, head_dim);
        *c++ = T(std::cos(at));
        *s++ = T(std::sin(at));
      }
    }
  });
}

RotaryAngles RotaryAngles::of_rows(Rows rows) const {
  require_indices("rotary", rows, std::int64_t(entries.size()));
  RotaryAngles some;
  some.cosines = cosines;
  some.sines = sines;
  for (const std::int32_t row : rows) some.entries.push_back(entries[std::size_t(row)]);
  return some;
}

void RotaryAngles::turn(std::int64_t row, std::int64_t width, const float* x, float* y) const {
  turn_row(*this, row, width, x, 1, y);
}

Variable rotary(const Variable& x, const RotaryAngles& angles) {
  const auto [rows, cols] = rows_of("rotary", x.shape());
  const std::int64_t head_dim = 2 * angles.cosines.shape()[1];
  if (rows != std::int64_t(angles.entries.size()) || cols % head_dim != 0) {
    throw_shape("rotary", "x",
                std::to_string(angles.entries.size()) + " rows of a multiple of " + std::to_string(head_dim),
                x.shape());
  }
  if (angles.cosines.dtype() != x.dtype()) throw_shape("rotary", "angles", "x's dtype", x.shape());
  return x.tape().record("rotary", {x}, turn(x.context(), row_major(x), angles, 1), [angles](Backward& pass) {
    pass.add(0, turn(pass.context(), pass.gradient(), angles, -1));
  });
}

// --- cases -------------------------------------------------------------------------------------------------

namespace {

// Each pair as a complex number times e^{i p theta}.
Values reference(const Tensor& x, const std::vector<std::int32_t>& positions, std::int64_t head_dim) {
  const Values from = x.to_vector();
  Values y = from;
  const std::int64_t width = x.shape()[-1], half = head_dim / 2;
  for (std::size_t i = 0; i < positions.size(); ++i) {
    for (std::int64_t c = 0; c < width; ++c) {
      const std::int64_t pair = c % half;
      const bool imaginary = c % head_dim >= half;
      const std::size_t at = i * std::size_t(width) + std::size_t(c);
      const std::size_t other = imaginary ? at - std::size_t(half) : at + std::size_t(half);
      const double theta = std::pow(10000.0, -double(pair) / double(half)) * positions[i];
      y[at] = from[at] * std::cos(theta) + (imaginary ? 1 : -1) * from[other] * std::sin(theta);
    }
  }
  return y;
}

}  // namespace

std::vector<OpCase> rotary_cases(const Context& context) {
  const auto make = [&](const char* name, Tensor x, const std::vector<std::int32_t>& positions,
                        std::int64_t head_dim) {
    return OpCase{
        .name = name,
        .inputs = {std::move(x)},
        .op =
            [positions, head_dim](Tape& tape, Variables v) {
              return rotary(v[0], RotaryAngles(tape.context(), positions, head_dim, v[0].dtype()));
            },
        .reference = [positions, head_dim](Tensors v) { return reference(v[0], positions, head_dim); }};
  };
  return {
      make("one pair", uniform(context, {4, 2}, 1), {0, 1, 2, 3}, 2),
      make("heads", uniform(context, {3, 12}, 2), {5, 6, 7}, 4),
      make("sequences", uniform(context, {2, 3, 8}, 3), {0, 1, 2, 0, 1, 2}, 8),
      make("gathered rows, far positions", uniform(context, {4, 8}, 4), {3, 3, 700, 65536}, 4),
      make("strided view", uniform(context, {4, 3}, 5).transpose(0, 1), {2, 0, 9}, 4),
      make("zero rows", uniform(context, {0, 4}, 6), {}, 4),
  };
}

}  // namespace dirigo::ops
