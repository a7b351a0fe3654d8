#include "console.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace dirigo::tools {
namespace {

struct Style {
  std::string_view colour, open, close;
};

Style style_of(meta::ExpertKind expert) {
  switch (expert) {
    case meta::ExpertKind::full:
      return {"\x1b[1;31m", "[", "]"};  // bold red: the expensive one stands out
    case meta::ExpertKind::linear:
      return {"\x1b[34m", "(", ")"};
    case meta::ExpertKind::local:
      break;
  }
  return {"\x1b[32m", "", ""};
}

// A signal handler can only reach what has static storage, and may run on any thread.
std::atomic<int> interrupted = 0;
static_assert(std::atomic<int>::is_always_lock_free);

void on_interrupt(int signal) {
  if (interrupted != 0) _exit(128 + signal);
  interrupted = 1;
}

}  // namespace

bool is_terminal(std::FILE* stream) {
  return isatty(fileno(stream)) != 0;
}

int terminal_width(std::FILE* stream) {
  winsize size{};
  if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool use_colour(std::FILE* stream) {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  const bool refused = no_color != nullptr && *no_color != '\0';
  const bool dumb = term != nullptr && std::strcmp(term, "dumb") == 0;
  return is_terminal(stream) && !refused && !dumb;
}

std::string paint(meta::ExpertKind expert, std::string_view text, bool colour) {
  const Style style = style_of(expert);
  if (colour) return fmt::format("{}{}\x1b[0m", style.colour, text);
  return fmt::format("{}{}{}", style.open, text, style.close);
}

std::string paint_legend(bool colour) {
  std::string legend = "Attention by token:";
  for (int k = 0; k < meta::expert_count; ++k) {
    const auto expert = static_cast<meta::ExpertKind>(k);
    legend += fmt::format(" {}", paint(expert, meta::expert_name(expert), colour));
  }
  return legend;
}

std::string one_line(std::string_view message) {
  std::string line(message);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 32 || c == 127) c = ' ';
  }
  const std::size_t end = line.find("] ");
  if (line.rfind('[', 0) == 0 && end != std::string::npos) {
    line.erase(end, 1);
    line.erase(0, 1);
  }
  return line;
}

InterruptGuard::InterruptGuard() {
  interrupted = 0;
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
}

InterruptGuard::~InterruptGuard() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

bool InterruptGuard::raised() const {
  return interrupted != 0;
}

}  // namespace dirigo::tools
