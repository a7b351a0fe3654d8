// Scoring a text byte by byte, with the routing behind every byte.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dirigo/meta_attention/language_model.hpp"

namespace dirigo::meta {

struct ByteScore {
  std::int64_t pos = 0;
  std::uint8_t byte = 0;
  bool skipped = false;  // not in the vocabulary: passed over
  std::optional<double>
      nll;  // -log p(byte | earlier bytes of the window); none for a window's first, or skipped
  struct Layer {
    std::vector<double> weights;        // m: full, linear, local
    std::vector<double> concentration;  // empty without a Dirichlet
    ExpertKind chosen = ExpertKind::full;
    std::optional<double> uncertainty, mi;  // differential entropy; mutual information
  };
  std::vector<Layer> layers;  // routing at this input; empty when skipped
};

// Windows of the model's max_len bytes (those in the vocabulary) are scored independently, in order; `emit`
// gets one score per byte. The first n scores depend only on the first n bytes, bitwise.
void score_text(const Context& context, LanguageModel& model, std::span<const std::uint8_t> vocabulary,
                std::span<const std::uint8_t> text, const ForwardOptions& options,
                const std::function<void(const ByteScore&)>& emit);

// One line of JSON (docs/file-formats.md), without a newline.
std::string to_json_line(const ByteScore& score);

}  // namespace dirigo::meta
