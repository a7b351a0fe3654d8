// A run with a small untrained model, and the dirigo command to use on it.
#pragma once

#include <sys/wait.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "data_source.hpp"
#include "dirigo/meta_attention/run_files.hpp"
#include "dirigo/nn/safetensors.hpp"
#include "tools_fixture.hpp"

namespace dirigo::test {

// Writes config.json and model.safetensors of a model with its initial weights, which routes all the same.
inline void write_run(const std::string& directory, const meta::Config& config) {
  const Context context;
  const auto source = tools::make_run_source(config);
  meta::RunDescription description;
  description.config = config;
  for (const int byte : source->vocabulary().byte_values())
    description.vocabulary.push_back(std::uint8_t(byte));
  description.version = "test";
  description.corpora = tools::describe_corpora(*source);
  meta::LanguageModel model(context, config, source->vocabulary().size(), 1);
  fs::create_directories(directory);
  meta::write_run_description(directory, description);
  nn::NamedTensors tensors;
  for (const auto& named : model.parameters()) tensors.emplace_back(named.name, named.parameter->value);
  nn::write_safetensors(directory + "/model.safetensors", tensors);
}

// A directory with `text`, `run` (on text) and `fables` (on the synthetic language).
class RunDirectory : public TemporaryDirectory {
 public:
  RunDirectory() {
    write_file(*this / "text", small_text());
    write_run(*this / "run", small_config(*this / "text"));
    write_run(*this / "fables", small_config("synthetic:fables"));
  }

  struct Result {
    int code = 0;
    std::string out, err;
  };
  // Runs `dirigo ARGUMENTS` here, with `before` in front; shell syntax is allowed.
  Result command(const std::string& arguments, const std::string& before = "") const {
    const TemporaryDirectory streams;
    const std::string line = "cd '" + path() + "' && " + before + " '" + DIRIGO_COMMAND + "' " + arguments +
                             " >'" + (streams / "out") + "' 2>'" + (streams / "err") + "' </dev/null";
    const int status = std::system(line.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(streams / "out"),
            read_file(streams / "err")};
  }

  std::vector<std::string> entries() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(path())) names.push_back(entry.path().string());
    std::sort(names.begin(), names.end());
    return names;
  }

  // Empty if the command was refused as it should be: exit code 2, one line on stderr with `words`, nothing
  // on stdout and no file made; else what was wrong.
  std::string refusal_fault(const std::string& arguments, const std::string& words) const {
    const auto before = entries();
    const Result result = command(arguments);
    if (result.code != 2) return "exit code " + std::to_string(result.code) + ": " + result.err;
    if (!result.out.empty()) return "on stdout: " + result.out;
    if (result.err.rfind("dirigo: ", 0) != 0 || std::count(result.err.begin(), result.err.end(), '\n') != 1) {
      return "not one line: " + result.err;
    }
    if (result.err.find(words) == std::string::npos) return "'" + words + "' is not in: " + result.err;
    return entries() == before ? "" : "files were made";
  }
};

}  // namespace dirigo::test
