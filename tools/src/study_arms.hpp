// What a study compares: a list of arms, built in (studies/) or read from a file (docs/file-formats.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dirigo/meta_attention/config.hpp"
#include "study_data.hpp"

namespace dirigo::tools {

using Settings = std::vector<std::pair<std::string, std::string>>;  // as --set KEY=VALUE, in order

Settings join(Settings first, const Settings& second);

struct StudyArm {
  std::string method;  // what is compared: other arms may do the same on another text or length
  std::string label;   // for people
  std::string preset;
  Settings set;
  std::vector<double> learning_rates;  // the grid; empty: the configuration's own rate alone
  std::string name = {};               // the arm's own; names its runs
  StudyDataOptions data = {};          // a text of its own; no corpus: that of the study
  std::string exhibit = {};            // why it is shown but in no ranking; empty: it is not an exhibit
};

struct StudyList {
  std::string name;
  std::int64_t seeds = 1;  // unless --seeds says otherwise
  std::vector<StudyArm> arms;
};

// Throws ValueError naming `where` and the arm for content that is not such a list.
StudyList parse_arms(std::string_view json, const std::string& where);
std::string arms_json(const StudyList& list);

// What a study changes in every arm.
struct ArmOptions {
  Settings set;            // after the arm's own
  std::int64_t steps = 0;  // > 0: so many training steps; lengths that are counted in steps shrink with it
  bool quick = false;      // a model and a budget so small that a whole study takes a minute
};

// The arm's configuration, resolved, without corpus, seed and grid. Throws ValueError naming `where`
// and the arm.
meta::Config arm_config(const StudyArm& arm, const ArmOptions& options);

}  // namespace dirigo::tools
