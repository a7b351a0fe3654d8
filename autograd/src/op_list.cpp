#include "dirigo/autograd/op_list.hpp"

#include <array>

// One line makes an operation part of the engine: NAME stands for ops/NAME.cpp with NAME_cases().
#define DIRIGO_OPS(OP)         \
  OP(add)                      \
  OP(multiply)                 \
  OP(scale)                    \
  OP(gelu)                     \
  OP(softplus)                 \
  OP(elu1)                     \
  OP(dropout)                  \
  OP(sum)                      \
  OP(mean)                     \
  OP(reshape)                  \
  OP(transpose)                \
  OP(slice)                    \
  OP(concat)                   \
  OP(matmul)                   \
  OP(linear)                   \
  OP(softmax)                  \
  OP(normalize)                \
  OP(layer_norm)               \
  OP(embedding)                \
  OP(gather_rows)              \
  OP(scatter_rows)             \
  OP(cross_entropy)            \
  OP(mix)                      \
  OP(mix_rows)                 \
  OP(one_hot_straight_through) \
  OP(categorical_entropy)      \
  OP(dirichlet_rsample)        \
  OP(dirichlet_kl)             \
  OP(dirichlet_entropy)        \
  OP(full_attention)           \
  OP(local_attention)          \
  OP(linear_attention)         \
  OP(mixed_attention)          \
  OP(rotary)

namespace dirigo {

namespace ops {
#define DIRIGO_DECLARE(name) std::vector<OpCase> name##_cases(const Context& context);
DIRIGO_OPS(DIRIGO_DECLARE)
}  // namespace ops

std::span<const OpEntry> op_list() {
#define DIRIGO_ENTRY(name) OpEntry{#name, #name ".cpp", ops::name##_cases},
  static constexpr auto entries = std::to_array<OpEntry>({DIRIGO_OPS(DIRIGO_ENTRY)});
  return entries;
}

}  // namespace dirigo
