#include "mutant.hpp"

#include <cstdlib>

namespace dirigo {
namespace {

int number_from_environment() {
  const char* text = std::getenv("DIRIGO_MUTANT");
  return text == nullptr ? 0 : std::atoi(text);
}

}  // namespace

extern const int active_mutant = number_from_environment();

}  // namespace dirigo
