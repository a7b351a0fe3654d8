#include "byte_text.hpp"

namespace dirigo::tools {

namespace {

constexpr const char* dot = "\xC2\xB7";  // U+00B7

bool continues(std::uint8_t byte) {
  return (byte & 0xC0) == 0x80;
}

// Characters of one column that neither combine with their neighbours nor change the direction of the text.
bool shown_as_is(unsigned character) {
  return (character >= 0xA1 && character != 0xAD && character < 0x300) ||
         (character >= 0x370 && character < 0x483) || (character >= 0x48A && character < 0x530) ||
         (character >= 0x2010 && character < 0x2028);
}

// The length of the character of two or three bytes that starts at `bytes` and is shown as it is, else 0.
std::size_t character_length(std::span<const std::uint8_t> bytes) {
  const std::uint8_t lead = bytes[0];
  if (lead >= 0xC2 && lead < 0xE0 && bytes.size() > 1 && continues(bytes[1])) {
    return shown_as_is((lead & 0x1Fu) << 6 | (bytes[1] & 0x3Fu)) ? 2 : 0;
  }
  if (lead >= 0xE0 && lead < 0xF0 && bytes.size() > 2 && continues(bytes[1]) && continues(bytes[2])) {
    const unsigned character = (lead & 0x0Fu) << 12 | (bytes[1] & 0x3Fu) << 6 | (bytes[2] & 0x3Fu);
    return character >= 0x800 && shown_as_is(character) ? 3 : 0;  // below: an overlong encoding
  }
  return 0;
}

}  // namespace

std::vector<std::string> byte_glyphs(std::span<const std::uint8_t> bytes) {
  std::vector<std::string> glyphs(bytes.size(), dot);
  for (std::size_t i = 0; i < bytes.size();) {
    if (bytes[i] == '\n' || (bytes[i] >= 0x20 && bytes[i] < 0x7F)) {
      glyphs[i] = std::string(1, char(bytes[i]));
      ++i;
    } else if (const std::size_t length = character_length(bytes.subspan(i)); length > 0) {
      glyphs[i] = std::string(reinterpret_cast<const char*>(bytes.data()) + i, length);
      i += length;
    } else {
      ++i;
    }
  }
  return glyphs;
}

}  // namespace dirigo::tools
