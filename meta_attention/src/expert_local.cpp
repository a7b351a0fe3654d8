// The local expert: causal softmax attention in a window of w positions (docs/mathematics.md, section 1).
//   out_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j over j in [max(0, i - w + 1), i]; w counts the token
//   itself. With window_bias positions a learnt bias of i - j is added to the scores.
// Derivation: docs/mathematics/sliding-window.md
#include <algorithm>

#include "dirigo/meta_attention/expert.hpp"

namespace dirigo::meta {

namespace {
class LocalExpert final : public Expert {
 public:
  LocalExpert(int heads, std::int64_t window, nn::Parameter* bias)
      : heads_(heads), window_(window), bias_(bias) {}
  ExpertKind kind() const noexcept override { return ExpertKind::local; }

  std::int64_t reach() const noexcept override { return window_; }

  Variable attend(const Variable& q, const Variable& k, const Variable& v, ops::Rows rows) const override {
    return ops::local_attention(q, k, v, heads_, window_, rows, bias_ ? bias_->on(q.tape()) : Variable{});
  }

  // mean_t 2 min(t + 1, w) D: the first w queries see 1, 2, ..., w keys, the others w.
  double core_multiply_adds(std::int64_t length, std::int64_t width) const override {
    const double ramp = double(std::min(window_, length));
    const double keys = ramp * (ramp + 1) / 2 + double(length - std::min(window_, length)) * double(window_);
    return 2 * keys / double(length) * double(width);
  }

 private:
  int heads_;
  std::int64_t window_;
  nn::Parameter* bias_;
};
}  // namespace

std::unique_ptr<Expert> make_local_expert(const ModelConfig& model, const AttentionConfig& attention,
                                          nn::Parameter* window_bias) {
  return std::make_unique<LocalExpert>(int(model.heads), attention.window, window_bias);
}

}  // namespace dirigo::meta
