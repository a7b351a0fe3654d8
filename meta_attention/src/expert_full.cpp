// The full expert: causal softmax attention over every earlier position (docs/mathematics.md, section 1).
//   out_i = sum_{j <= i} softmax_j(q_i . k_j / sqrt(d)) v_j
// Derivation: docs/mathematics/softmax-attention.md
#include "dirigo/meta_attention/expert.hpp"

namespace dirigo::meta {

namespace {
class FullExpert final : public Expert {
 public:
  explicit FullExpert(int heads) : heads_(heads) {}
  ExpertKind kind() const noexcept override { return ExpertKind::full; }

  Variable attend(const Variable& q, const Variable& k, const Variable& v, ops::Rows rows) const override {
    return ops::full_attention(q, k, v, heads_, rows);
  }

  // Query i sees i + 1 keys, (T + 1) / 2 on average, each for D multiply-adds in QK and D in PV.
  double core_multiply_adds(std::int64_t length, std::int64_t width) const override {
    return double(length + 1) * double(width);
  }

 private:
  int heads_;
};
}  // namespace

std::unique_ptr<Expert> make_full_expert(const ModelConfig& model, const AttentionConfig&) {
  return std::make_unique<FullExpert>(int(model.heads));
}

}  // namespace dirigo::meta
