// What a training run prints before its first step and after its last.
#pragma once

#include <string>

#include "dirigo/meta_attention/evaluation.hpp"
#include "table.hpp"

namespace dirigo::tools {

// A line per section; fields that differ from the preset (or the defaults) are marked with *.
std::string configuration_text(const meta::Config& config);
// Parameters by module; those of all layers together.
std::string parameters_text(meta::LanguageModel& model);

// Evaluations as rows, with the null router in the last one: what a controller that ignores the token gets.
Table evaluation_table(const std::vector<std::pair<std::string, const meta::Evaluation*>>& rows);
// NLL and routing in the last layer by need tag; for tagged text.
Table need_table(const meta::Evaluation& evaluation);

}  // namespace dirigo::tools
