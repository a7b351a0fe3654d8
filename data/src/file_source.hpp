// Windows of a text file.
#pragma once

#include <optional>

#include "dirigo/data/source.hpp"

namespace dirigo {

class FileSource final : public DataSource {
 public:
  static std::unique_ptr<FileSource> open(const std::string& path, const SourceOptions& options);

  std::vector<Need> tags() const override { return {}; }
  std::optional<double> entropy_floor(std::int64_t) const override { return std::nullopt; }
  SourceDescription describe() const override;

 private:
  struct Files {
    MappedFile corpus;
    std::optional<MappedFile> valid;
    Split split;
    std::span<const std::uint8_t> train_bytes() const;
    std::span<const std::uint8_t> held_out_bytes() const;
  };
  FileSource(Files files, const Vocabulary& vocabulary, const SourceOptions& options);

  void check_training(std::int64_t length) const override;
  void training_row(std::uint64_t index, Row row) const override;
  void evaluation_row(std::uint64_t position, Row row) const override;
  EvaluationPlan plan_evaluation(std::int64_t length, std::int64_t stride,
                                 std::int64_t windows) const override;

  Files files_;
  TokenText train_;
  TokenText held_out_;
};

}  // namespace dirigo
