// The files of a run that describe a model: config.json and model.safetensors (docs/file-formats.md).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dirigo/meta_attention/language_model.hpp"

namespace dirigo::meta {

// config.json: everything needed to repeat a run.
struct RunDescription {
  Config config;
  std::vector<std::uint8_t> vocabulary;  // byte of each token id
  std::string version;
  struct Corpus {
    std::string role, spec, sha256;  // role: "corpus" or "valid"
    std::int64_t bytes = 0;
    std::int64_t train_begin = 0, train_end = 0, valid_begin = 0, valid_end = 0;
  };
  std::vector<Corpus> corpora;
};

// Written whole or not at all. Throw IoError or ValueError naming file and field.
void write_run_description(const std::string& directory, const RunDescription& description);
RunDescription read_run_description(const std::string& directory);

// The weights of a model as a safetensors file, whole or not at all; with router.empirical_bayes its priors
// are in the metadata, as exact decimals. Throws IoError.
void write_weights(const std::string& path, LanguageModel& model);
// Throws IoError naming the file and what is missing or damaged.
void read_weights(const Context& context, const std::string& path, LanguageModel& model);

// Builds the model of a run and loads DIR/FILE (model.safetensors or best.safetensors).
struct LoadedRun {
  RunDescription description;
  std::unique_ptr<LanguageModel> model;
};
LoadedRun load_run(const Context& context, const std::string& directory,
                   const std::string& file = "model.safetensors");

// Replaces a file's content atomically (temporary file beside it, flushed, renamed). Throws IoError.
void write_file_atomically(const std::string& path, const std::string& content);
std::string read_text_file(const std::string& path, std::int64_t max_bytes);  // throws IoError

}  // namespace dirigo::meta
