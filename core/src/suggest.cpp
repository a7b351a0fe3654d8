#include "dirigo/core/suggest.hpp"

#include <algorithm>
#include <numeric>

namespace dirigo {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  // One row of the dynamic programme: row[j] is the distance from the first i characters of a to the first j
  // of b.
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  const auto best =
      std::min_element(candidates.begin(), candidates.end(), [&](const std::string& a, const std::string& b) {
        return edit_distance(word, a) < edit_distance(word, b);
      });
  return best == candidates.end() ? std::string{} : *best;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  const std::string best = nearest(word, candidates);
  const bool near = !best.empty() && edit_distance(word, best) <= std::max<std::size_t>(2, best.size() / 2);
  return near ? " (did you mean '" + best + "'?)" : "";
}

}  // namespace dirigo
