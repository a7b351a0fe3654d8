// When something appears in training (docs/study.md, section emergence).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace dirigo::tools {

// Of an NLL over steps: the first step with at most half of the first value; before it the last one with at
// least 80%; from it on the first one with at most 20%. None where there is no such step.
struct Drop {
  std::optional<std::int64_t> step, begin, end;
};
Drop find_drop(const std::vector<std::int64_t>& steps, const std::vector<double>& nll);

// Where the mean of `width` values exceeds that of the next `width` most; none where it never does.
struct Fall {
  std::optional<std::int64_t> step;  // of the first value of the latter
  double by = 0;
};
Fall steepest_fall(const std::vector<std::int64_t>& steps, const std::vector<double>& values,
                   std::size_t width);

}  // namespace dirigo::tools
