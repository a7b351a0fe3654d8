// The kernel table of one instruction set, from the templates.
#pragma once

#include "kernels/cached_attention.inl.hpp"
#include "kernels/elementwise.inl.hpp"
#include "kernels/gamma.inl.hpp"
#include "kernels/linear_attention.inl.hpp"
#include "kernels/mixed_attention.inl.hpp"
#include "kernels/product.inl.hpp"
#include "kernels/rows.inl.hpp"
#include "kernels/softmax_attention.inl.hpp"
#include "kernels/tables.hpp"

namespace dirigo::kernels {

template <class Arch, class T>
constexpr KernelTable<T> make_table() {
  return {
      .product_block = product_block<Arch, T>,
      .pack_panels = pack_all_panels<Arch, T>,
      .add = add<Arch, T>,
      .multiply = multiply<Arch, T>,
      .scale = scale<Arch, T>,
      .add_scaled = add_scaled<Arch, T>,
      .exp = exp<Arch, T>,
      .gelu = gelu<Arch, T>,
      .gelu_vjp = gelu_vjp<Arch, T>,
      .softplus = softplus<Arch, T>,
      .softplus_vjp = softplus_vjp<Arch, T>,
      .elu1 = elu1<Arch, T>,
      .elu1_vjp = elu1_vjp<Arch, T>,
      .sum = sum<Arch, T>,
      .sum_squares = sum_squares<Arch, T>,
      .dot = dot<Arch, T>,
      .dropout = dropout<Arch, T>,
      .softmax = softmax<Arch, T>,
      .softmax_vjp = softmax_vjp<Arch, T>,
      .layer_norm = layer_norm<Arch, T>,
      .layer_norm_vjp = layer_norm_vjp<Arch, T>,
      .cross_entropy = cross_entropy<Arch, T>,
      .add_column_sums = add_column_sums<Arch, T>,
      .mix = mix<Arch, T>,
      .mix_vjp = mix_vjp<Arch, T>,
      .softmax_attention = softmax_attention<Arch, T>,
      .softmax_attention_vjp = softmax_attention_vjp<Arch, T>,
      .linear_attention = linear_attention<Arch, T>,
      .linear_attention_vjp = linear_attention_vjp<Arch, T>,
      .mixed_attention = mixed_attention<Arch, T>,
      .mixed_attention_vjp = mixed_attention_vjp<Arch, T>,
      .cached_softmax_attention = cached_softmax_attention<Arch, T>,
      .cached_linear_attention = cached_linear_attention<Arch, T>,
      .absorb_keys = absorb_keys<Arch, T>,
      .row_product = row_product<Arch, T>,
      .adam = adam<Arch, T>,
      .gamma = {.exp = exp<Arch, double>,
                .lgamma = lgamma<Arch>,
                .digamma = digamma<Arch>,
                .trigamma = trigamma<Arch>,
                .log_gamma_draw_derivative = log_gamma_draw_derivative<Arch>,
                .log_gamma_draws = log_gamma_draws<Arch>},
  };
}

}  // namespace dirigo::kernels
