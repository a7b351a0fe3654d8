// The terminal: what it can show, how experts look on it, and Ctrl-C.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

#include "dirigo/meta_attention/config.hpp"

namespace dirigo::tools {

bool is_terminal(std::FILE* stream);
int terminal_width(std::FILE* stream);  // columns; 80 where unknown
// Colour on a terminal, unless NO_COLOR is set (https://no-color.org) or TERM is "dumb".
bool use_colour(std::FILE* stream);

// A piece of text that was routed to one expert: coloured, or else between marks: [full] (linear) plain
// local.
std::string paint(meta::ExpertKind expert, std::string_view text, bool colour);
// One line that explains them.
std::string paint_legend(bool colour);

// The same text without line breaks and other control characters, which become spaces; "[where] what: ..."
// reads "where what: ...".
std::string one_line(std::string_view message);

// While it lives, the first Ctrl-C (SIGINT) or SIGTERM only sets a flag; the second ends the process at once.
// At most one at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool raised() const;
};

}  // namespace dirigo::tools
