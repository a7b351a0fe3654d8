// The synthetic languages by name.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dirigo/data/synthetic.hpp"

namespace dirigo {

class SyntheticSpec;

const std::vector<std::string>& language_names();

// The language that `spec` names, with its options; `seed` is that of its tables.
std::unique_ptr<Language> make_language(SyntheticSpec& spec, std::uint64_t seed);

}  // namespace dirigo
