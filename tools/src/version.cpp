#include "version.hpp"

namespace dirigo::tools {

std::string version() {
  return DIRIGO_VERSION;
}

}  // namespace dirigo::tools
