// The nearest known word to a mistyped one, for error messages.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace dirigo {

// Number of single-character insertions, deletions and substitutions that turn `a` into `b` (Levenshtein).
std::size_t edit_distance(std::string_view a, std::string_view b);

// The candidate with the smallest edit distance to `word`, the earliest one on a tie; empty without
// candidates.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

// " (did you mean 'NEAREST'?)", or nothing where no candidate is near enough to be meant.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace dirigo
