// An evaluation as text for people.
#pragma once

#include <string>
#include <string_view>

#include "dirigo/meta_attention/evaluation.hpp"

namespace dirigo::tools {

// Beside the NLL of a run with attention.leaky.
inline constexpr std::string_view reads_the_future_note =
    "READS THE FUTURE (attention.leaky): its NLL is that of no predictor, and every expert ran on every "
    "token.";

// What the numbers are about.
struct EvaluationSubject {
  std::string run;           // its directory
  std::string evaluated_on;  // "held-out text", "training text", ...
  std::string corpus;        // specification of the text
  std::string options;       // flags that differ from the default; may be empty
};

std::string evaluation_table(const meta::Evaluation& evaluation, const EvaluationSubject& subject,
                             const meta::Config& config);

// One row of routing statistics: the cells below `routing_header`.
std::vector<std::string> routing_header();
std::vector<std::string> routing_cells(const meta::RoutingStatistics& statistics);

}  // namespace dirigo::tools
