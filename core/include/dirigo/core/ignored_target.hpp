#pragma once

#include <cstdint>

namespace dirigo {

// A target that asks nothing of its position: no loss, no gradient, not counted.
inline constexpr std::int32_t ignored_target = -1;

}  // namespace dirigo
