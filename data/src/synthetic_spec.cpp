#include "synthetic_spec.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "dirigo/core/suggest.hpp"
#include "languages.hpp"

namespace dirigo {

SyntheticSpec::SyntheticSpec(const std::string& spec) {
  const std::string rest = spec.substr(spec.find(':') + 1);
  const std::size_t question = rest.find('?');
  language_ = rest.substr(0, question);
  const std::vector<std::string>& known = language_names();
  if (std::find(known.begin(), known.end(), language_) == known.end()) {
    throw ValueError(fmt::format("[data] synthetic language: expected one of {} (nearest: {}), got {}",
                                 fmt::join(known, ", "), nearest(language_, known), language_));
  }
  std::size_t begin = question;
  while (begin != std::string::npos) {
    const std::size_t end = rest.find('&', ++begin);
    const std::string option = rest.substr(begin, end == std::string::npos ? end : end - begin);
    const std::size_t equals = option.find('=');
    if (equals == std::string::npos ||
        !values_.emplace(option.substr(0, equals), option.substr(equals + 1)).second) {
      throw ValueError(fmt::format("[synthetic:{}] option: expected name=value, each name once, got {}",
                                   language_, option));
    }
    begin = end;
  }
}

void SyntheticSpec::refuse_unread() const {
  for (const auto& [name, value] : values_) {
    if (std::find(read_.begin(), read_.end(), name) != read_.end()) continue;
    throw ValueError(fmt::format("[synthetic:{}] option: expected {} (the nearest known one), got {}",
                                 language_, nearest(name, read_), name));
  }
}

}  // namespace dirigo
