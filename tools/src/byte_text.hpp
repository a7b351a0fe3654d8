// Bytes of unknown origin as something that is safe to show, one glyph per byte.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dirigo::tools {

// One glyph per byte, each one column wide: printable ASCII, the newline, and Latin, Greek and Cyrillic
// characters (on the first of their bytes) as they are; every other byte, among them control bytes, is a
// middle dot.
std::vector<std::string> byte_glyphs(std::span<const std::uint8_t> bytes);

}  // namespace dirigo::tools
