// `synthetic:NAME?option=value&option=value` taken apart.
#pragma once

#include <fmt/core.h>

#include <charconv>
#include <map>
#include <string>
#include <system_error>
#include <vector>

#include "dirigo/core/errors.hpp"

namespace dirigo {

class SyntheticSpec {
 public:
  // Throws ValueError for an unknown language (naming the nearest) and for options that are not `name=value`
  // once.
  explicit SyntheticSpec(const std::string& spec);

  const std::string& language() const { return language_; }

  // The value of an option, `fallback` if it is absent. Throws ValueError if it is not a number of this type.
  template <class Number>
  Number number(const std::string& name, Number fallback) {
    const auto given = values_.find(name);
    Number value = fallback;
    if (given != values_.end()) {
      const char* end = given->second.data() + given->second.size();
      const auto result = std::from_chars(given->second.data(), end, value);
      if (result.ec != std::errc{} || result.ptr != end) {
        throw ValueError(
            fmt::format("[synthetic:{}] {}: expected a number, got {}", language_, name, given->second));
      }
    }
    read_.push_back(name);
    resolved_ += fmt::format("{}{}={}", read_.size() == 1 ? "?" : "&", name, value);
    return value;
  }

  // Throws ValueError for an option that `number` was never asked for, naming the nearest that it was.
  void refuse_unread() const;

  // The specification with every option that was read, defaults included.
  std::string resolved() const { return "synthetic:" + language_ + resolved_; }

 private:
  std::string language_;
  std::map<std::string, std::string> values_;
  std::vector<std::string> read_;
  std::string resolved_;
};

}  // namespace dirigo
