#include "coloured_text.hpp"

#include <algorithm>

#include "byte_text.hpp"
#include "console.hpp"

namespace dirigo::tools {

namespace {

char mark(std::optional<meta::ExpertKind> expert) {
  if (!expert) return ' ';
  switch (*expert) {
    case meta::ExpertKind::full:
      return 'F';
    case meta::ExpertKind::linear:
      return 'l';
    case meta::ExpertKind::local:
      break;
  }
  return '.';
}

}  // namespace

ColouredText::ColouredText(bool colour, int width, Write write)
    : colour_(colour), width_(static_cast<std::size_t>(std::max(width, 20))), write_(std::move(write)) {}

void ColouredText::add(std::uint8_t byte, std::optional<meta::ExpertKind> expert) {
  // A line is not cut inside a character of several bytes.
  const bool continues = (byte & 0xC0) == 0x80;
  if (bytes_.size() >= width_ && !(continues && bytes_.size() < width_ + 3)) write_line();
  if (byte == '\n') return write_line();
  bytes_.push_back(byte);
  experts_.push_back(expert);
}

void ColouredText::finish() {
  if (!bytes_.empty()) write_line();
}

std::string ColouredText::legend(bool colour) {
  return colour ? paint_legend(true) : "Attention by byte, below each line: F full, l linear, . local";
}

void ColouredText::write_line() {
  const std::vector<std::string> glyphs = byte_glyphs(bytes_);
  std::string line, marks;
  for (std::size_t begin = 0; begin < glyphs.size();) {
    std::string piece;
    std::size_t end = begin;
    for (; end < glyphs.size() && experts_[end] == experts_[begin]; ++end) piece += glyphs[end];
    line += colour_ && experts_[begin] ? paint(*experts_[begin], piece, true) : piece;
    marks += std::string(end - begin, mark(experts_[begin]));
    begin = end;
  }
  line += '\n';
  if (!colour_ && !marks.empty()) line += marks + '\n';
  write_(line);
  bytes_.clear();
  experts_.clear();
}

}  // namespace dirigo::tools
