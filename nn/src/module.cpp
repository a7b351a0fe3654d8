#include "dirigo/nn/module.hpp"

namespace dirigo::nn {

std::vector<NamedParameter> Module::parameters() {
  std::vector<NamedParameter> result;
  visit("", [&](const std::string& name, Parameter& parameter) { result.push_back({name, &parameter}); });
  return result;
}

std::int64_t Module::parameter_count() {
  std::int64_t count = 0;
  visit("", [&](const std::string&, Parameter& parameter) { count += parameter.value.size(); });
  return count;
}

std::string join_names(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

}  // namespace dirigo::nn
