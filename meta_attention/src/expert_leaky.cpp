// The experts as the paper's code has them (attention.leaky): `linear` and `local` see the future.
//   linear: out_i = sum_j phi(q_i) . phi(k_j) v_j / sum_j phi(q_i) . phi(k_j) over all j, the global sums
//   local:  out_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j over j in [i - w + 1, i + w]
// `full` is causal there, too. An exhibit of what the leak does (docs/mathematics.md, section 1), composed of
// plain operations on (B, H, T, T) matrices: its time and memory do not matter, and no fast kernel knows it.
#include <cmath>

#include "dirigo/core/errors.hpp"
#include "dirigo/meta_attention/expert.hpp"

namespace dirigo::meta {

namespace {

class LeakyExpert final : public Expert {
 public:
  LeakyExpert(std::unique_ptr<Expert> causal, int heads, std::int64_t window)
      : causal_(std::move(causal)), heads_(heads), window_(window) {}
  ExpertKind kind() const noexcept override { return causal_->kind(); }
  // Of the causal expert: what it would cost if it were one.
  double core_multiply_adds(std::int64_t length, std::int64_t width) const override {
    return causal_->core_multiply_adds(length, width);
  }

  Variable attend(const Variable& q, const Variable& k, const Variable& v, ops::Rows rows) const override {
    if (!rows.empty()) {
      throw ValueError(
          "[attention] leaky: expected dense execution, which such experts only have, got routed");
    }
    if (kind() == ExpertKind::full) return causal_->attend(q, k, v, rows);
    const Variable weights = kind() == ExpertKind::linear ? linear_weights(q, k) : local_weights(q, k);
    const Variable out = ops::transpose(ops::matmul(weights, split(v)), 1, 2);
    return ops::reshape(out, v.shape());
  }

 private:
  // (B, T, D) -> (B, H, T, d)
  Variable split(const Variable& x) const {
    const Shape heads{x.shape()[0], x.shape()[1], heads_, x.shape()[2] / heads_};
    return ops::transpose(ops::reshape(x, heads), 1, 2);
  }

  Variable linear_weights(const Variable& q, const Variable& k) const {
    return ops::normalize(ops::matmul(ops::elu1(split(q)), ops::elu1(split(k)), false, true));
  }

  Variable local_weights(const Variable& q, const Variable& k) const {
    const double scale = 1 / std::sqrt(double(q.shape()[2] / heads_));
    const Variable scores = ops::scale(ops::matmul(split(q), split(k), false, true), scale);
    return ops::softmax(ops::add(scores, q.tape().constant(band(q))));
  }

  // 0 where query i reads key j, else far below any score.
  Tensor band(const Variable& like) const {
    const std::int64_t length = like.shape()[1];
    Tensor mask = Tensor::empty(like.context(), Shape{length, length}, like.dtype());
    visit_dtype(like.dtype(), [&](auto zero) {
      using T = decltype(zero);
      T* out = mask.data<T>();
      for (std::int64_t i = 0; i < length; ++i) {
        for (std::int64_t j = 0; j < length; ++j) *out++ = T(j > i - window_ && j <= i + window_ ? 0 : -1e30);
      }
    });
    return mask;
  }

  std::unique_ptr<Expert> causal_;
  int heads_;
  std::int64_t window_;
};

}  // namespace

std::unique_ptr<Expert> make_leaky_expert(std::unique_ptr<Expert> causal, const ModelConfig& model,
                                          const AttentionConfig& attention) {
  return std::make_unique<LeakyExpert>(std::move(causal), int(model.heads), attention.window);
}

}  // namespace dirigo::meta
