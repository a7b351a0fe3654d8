// The local expert: causal softmax attention in a window of w positions (docs/mathematics.md, section 1).
//   out_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j over j in [max(0, i - w + 1), i]; w counts the token
//   itself.
// Derivation: docs/mathematics/sliding-window.md
#include <algorithm>

#include "dirigo/meta_attention/expert.hpp"

namespace dirigo::meta {

namespace {
class LocalExpert final : public Expert {
 public:
  LocalExpert(int heads, std::int64_t window) : heads_(heads), window_(window) {}
  ExpertKind kind() const noexcept override { return ExpertKind::local; }

  std::int64_t reach() const noexcept override { return window_; }

  Variable attend(const Variable& q, const Variable& k, const Variable& v, ops::Rows rows) const override {
    return ops::local_attention(q, k, v, heads_, window_, rows);
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
};
}  // namespace

std::unique_ptr<Expert> make_local_expert(const ModelConfig& model, const AttentionConfig& attention) {
  return std::make_unique<LocalExpert>(int(model.heads), attention.window);
}

}  // namespace dirigo::meta
