// Sequences of a synthetic language.
#pragma once

#include <memory>
#include <string>

#include "dirigo/data/source.hpp"
#include "dirigo/data/synthetic.hpp"

namespace dirigo {

class SyntheticSource final : public DataSource {
 public:
  // `spec` is the resolved specification, `seed` that of its tables and of its held-out streams, of which
  // number `held_out_stream` is evaluated.
  SyntheticSource(std::unique_ptr<Language> language, std::string spec, std::uint64_t seed,
                  std::uint64_t held_out_stream, const SourceOptions& options);

  std::vector<Need> tags() const override { return language_->tags(); }
  std::optional<double> entropy_floor(std::int64_t length) const override;
  SourceDescription describe() const override;

 private:
  void check_training(std::int64_t) const override {}  // the stream has no end
  void training_row(std::uint64_t index, Row row) const override;
  void evaluation_row(std::uint64_t number, Row row) const override;
  EvaluationPlan plan_evaluation(std::int64_t length, std::int64_t stride,
                                 std::int64_t windows) const override;
  void fill(PhiloxStream random, Row row) const;

  std::unique_ptr<Language> language_;
  std::string spec_;
  std::uint64_t seed_;
  std::uint64_t held_out_stream_;
};

// The source of `synthetic:NAME?option=value&...`.
std::unique_ptr<DataSource> make_synthetic_source(const std::string& spec, const SourceOptions& options);

}  // namespace dirigo
