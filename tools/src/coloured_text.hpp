// Text on a terminal, byte by byte, in the colours of the experts that read it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dirigo/meta_attention/config.hpp"

namespace dirigo::tools {

// Writes lines of at most `width` columns. Without colour, a second line below each one marks the experts: F
// full, l linear, a dot local, a space where there was no routing. Bytes that a terminal must not see are
// shown as dots.
class ColouredText {
 public:
  using Write = std::function<void(std::string_view)>;

  ColouredText(bool colour, int width, Write write);

  void add(std::uint8_t byte, std::optional<meta::ExpertKind> expert);
  void finish();  // writes what is left of the last line

  static std::string legend(bool colour);

 private:
  void write_line();

  bool colour_;
  std::size_t width_;
  Write write_;
  std::vector<std::uint8_t> bytes_;  // of the current line, without its newline
  std::vector<std::optional<meta::ExpertKind>> experts_;
};

}  // namespace dirigo::tools
