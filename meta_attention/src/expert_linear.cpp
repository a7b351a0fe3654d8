// The linear expert: causal linear attention with phi(u) = ELU(u) + 1 (docs/mathematics.md, section 1).
//   out_i = S_i^T phi(q_i) / max(z_i . phi(q_i), 1e-20), S_i = sum_{j<=i} phi(k_j) v_j^T, z_i = sum_{j<=i}
//   phi(k_j)
// Derivation: docs/mathematics/linear-attention.md
#include "dirigo/meta_attention/expert.hpp"

namespace dirigo::meta {

namespace {
class LinearExpert final : public Expert {
 public:
  LinearExpert(int heads, std::int64_t chunk) : heads_(heads), chunk_(chunk) {}
  ExpertKind kind() const noexcept override { return ExpertKind::linear; }

  Variable attend(const Variable& q, const Variable& k, const Variable& v, ops::Rows rows) const override {
    return ops::linear_attention(q, k, v, heads_, chunk_, rows);
  }

  // The recurrent form: per head d (d + 1) multiply-adds to absorb a key and as many to answer a query.
  double core_multiply_adds(std::int64_t, std::int64_t width) const override {
    const double head_dim = double(width) / heads_;
    return 2 * double(width) * (head_dim + 1);
  }

 private:
  int heads_;
  std::int64_t chunk_;
};
}  // namespace

std::unique_ptr<Expert> make_linear_expert(const ModelConfig& model, const AttentionConfig& attention) {
  return std::make_unique<LinearExpert>(int(model.heads), attention.chunk);
}

}  // namespace dirigo::meta
