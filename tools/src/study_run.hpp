// One run of a study, from nothing, half done or done to done.
#pragma once

#include <functional>
#include <string>

#include "dirigo/core/context.hpp"
#include "dirigo/meta_attention/config.hpp"

namespace dirigo::tools {

enum class StudyRunState { absent, begun, trained, failed };

// What `directory` holds of the run with this configuration. Throws ValueError if it holds another run,
// IoError if what it holds is damaged.
StudyRunState study_run_state(const std::string& directory, const meta::Config& config);

// Trains the run (or goes on with it) and evaluates it on its held-out text, as `dirigo train` does. A
// training that leaves the finite numbers is a result too: failed.json says why. `progress` gets the share
// that is done; where it returns false the run is saved, and the result is false. Throws as study_run_state
// does, and IoError.
bool train_study_run(const Context& context, const std::string& directory, const meta::Config& config,
                     const std::function<bool(double)>& progress);

std::string read_failure(const std::string& directory);  // of failed.json

}  // namespace dirigo::tools
