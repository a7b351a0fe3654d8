#include "dirigo/meta_attention/run_files.hpp"

#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "dirigo/core/atomic_file.hpp"
#include "dirigo/nn/safetensors.hpp"

namespace dirigo::meta {

namespace {

using Json = nlohmann::ordered_json;
constexpr int format_version = 1;
constexpr std::int64_t max_config_bytes = 16 << 20;

std::string join(const std::string& directory, const std::string& file) {
  return (std::filesystem::path(directory) / file).string();
}

[[noreturn]] void refuse(const std::string& path, const std::string& what, const std::string& expected,
                         const std::string& got) {
  throw IoError(fmt::format("[{}] {}: expected {}, got {}", path, what, expected, got));
}

std::vector<std::uint8_t> read_vocabulary(const Json& json, const std::string& path) {
  const auto fail = [&](const std::string& got) {
    refuse(path, "vocabulary", "a list of 1 to 256 distinct byte values", got);
  };
  if (!json.is_array() || json.empty() || json.size() > 256)
    fail(json.is_array() ? fmt::format("{} values", json.size()) : json.type_name());
  std::vector<std::uint8_t> bytes;
  std::array<bool, 256> seen{};
  for (const auto& item : json) {
    if (!item.is_number_integer()) fail(item.dump());
    const auto value = item.get<std::int64_t>();
    if (value < 0 || value > 255 || seen[std::size_t(value)]) fail(item.dump());
    seen[std::size_t(value)] = true;
    bytes.push_back(std::uint8_t(value));
  }
  return bytes;
}

std::int64_t read_count(const Json& json, const char* name, const std::string& path) {
  const auto found = json.find(name);
  if (found == json.end() || !found->is_number_integer() || found->get<std::int64_t>() < 0) {
    refuse(path, std::string("corpora.") + name, "a whole number >= 0",
           found == json.end() ? "nothing" : found->dump());
  }
  return found->get<std::int64_t>();
}

std::string read_text(const Json& json, const char* name, const std::string& path) {
  const auto found = json.find(name);
  if (found == json.end() || !found->is_string()) {
    refuse(path, name, "text", found == json.end() ? "nothing" : found->dump());
  }
  return found->get<std::string>();
}

}  // namespace

void write_file_atomically(const std::string& path, const std::string& content) {
  AtomicFile file(path);
  file.write(content.data(), content.size());
  file.commit();
}

std::string read_text_file(const std::string& path, std::int64_t max_bytes) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (error || !std::filesystem::exists(status)) refuse(path, "file", "a readable file", "none");
  if (!std::filesystem::is_regular_file(status)) refuse(path, "file", "a readable file", "something else");
  const auto size = std::filesystem::file_size(path, error);
  if (error || size > std::uint64_t(max_bytes)) {
    refuse(path, "size", fmt::format("at most {} bytes", max_bytes), fmt::format("{}", size));
  }
  std::ifstream file(path, std::ios::binary);
  std::string content(std::size_t(size), '\0');
  if (!file || !file.read(content.data(), std::streamsize(size)))
    refuse(path, "file", "a readable file", "an unreadable one");
  return content;
}

void write_run_description(const std::string& directory, const RunDescription& description) {
  Json json;
  json["format_version"] = format_version;
  json["version"] = description.version;
  json["config"] = Json::parse(config_to_json(description.config));
  json["seed"] = description.config.train.seed;
  json["vocabulary"] = description.vocabulary;
  json["corpora"] = Json::array();
  for (const auto& corpus : description.corpora) {
    json["corpora"].push_back({{"role", corpus.role},
                               {"spec", corpus.spec},
                               {"sha256", corpus.sha256},
                               {"bytes", corpus.bytes},
                               {"train_begin", corpus.train_begin},
                               {"train_end", corpus.train_end},
                               {"valid_begin", corpus.valid_begin},
                               {"valid_end", corpus.valid_end}});
  }
  write_file_atomically(join(directory, "config.json"), json.dump(2) + "\n");
}

RunDescription read_run_description(const std::string& directory) {
  const std::string path = join(directory, "config.json");
  if (!std::filesystem::is_directory(directory)) {
    refuse(directory, "run", "a directory written by dirigo train", "none");
  }
  const std::string text = read_text_file(path, max_config_bytes);
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object())
    refuse(path, "content", "a JSON object", json.is_discarded() ? "invalid JSON" : json.type_name());
  const auto version = json.find("format_version");
  if (version == json.end() || !version->is_number_integer() ||
      version->get<std::int64_t>() != format_version) {
    refuse(path, "format_version", std::to_string(format_version),
           version == json.end() ? "nothing" : version->dump());
  }
  const auto config = json.find("config");
  if (config == json.end()) refuse(path, "config", "a section {...}", "nothing");
  RunDescription description;
  description.config = config_from_json(config->dump(), path);
  resolve(description.config);
  description.version = read_text(json, "version", path);
  const auto vocabulary = json.find("vocabulary");
  description.vocabulary = read_vocabulary(vocabulary == json.end() ? Json(nullptr) : *vocabulary, path);
  const auto corpora = json.find("corpora");
  if (corpora == json.end() || !corpora->is_array()) refuse(path, "corpora", "a list", "something else");
  for (const auto& item : *corpora) {
    if (!item.is_object()) refuse(path, "corpora", "a list of objects", item.dump());
    RunDescription::Corpus corpus;
    corpus.role = read_text(item, "role", path);
    corpus.spec = read_text(item, "spec", path);
    corpus.sha256 = read_text(item, "sha256", path);
    corpus.bytes = read_count(item, "bytes", path);
    corpus.train_begin = read_count(item, "train_begin", path);
    corpus.train_end = read_count(item, "train_end", path);
    corpus.valid_begin = read_count(item, "valid_begin", path);
    corpus.valid_end = read_count(item, "valid_end", path);
    description.corpora.push_back(std::move(corpus));
  }
  return description;
}

void write_weights(const std::string& path, LanguageModel& model) {
  nn::NamedTensors tensors;
  for (const auto& [name, parameter] : model.parameters()) tensors.emplace_back(name, parameter->value);
  std::map<std::string, std::string> metadata{{"format_version", std::to_string(format_version)}};
  if (model.config().router.empirical_bayes) {
    Json priors = Json::array();
    for (std::int64_t l = 0; l < model.config().model.layers; ++l) {
      const auto prior = model.prior(std::size_t(l));
      priors.push_back(std::vector<double>(prior.begin(), prior.end()));
    }
    metadata["priors"] = priors.dump();
  }
  nn::write_safetensors(path, tensors, metadata);
}

namespace {

void load(const nn::SafetensorsFile& file, const std::string& path, LanguageModel& model) {
  std::vector<std::vector<double>> priors;
  if (model.config().router.empirical_bayes) {
    const auto found = file.metadata.find("priors");
    try {
      priors = Json::parse(found == file.metadata.end() ? "null" : found->second).get<decltype(priors)>();
      model.set_priors(priors);
    } catch (const std::exception&) {
      refuse(path, "metadata priors", "three numbers > 0 for each layer",
             found == file.metadata.end() ? "nothing" : found->second);
    }
  }
  nn::load_parameters(file, path, model.parameters());
}

}  // namespace

void read_weights(const Context& context, const std::string& path, LanguageModel& model) {
  load(nn::read_safetensors(context, path), path, model);
}

LoadedRun load_run(const Context& context, const std::string& directory, const std::string& file) {
  LoadedRun run;
  run.description = read_run_description(directory);
  const std::string path = join(directory, file);
  const nn::SafetensorsFile weights = nn::read_safetensors(context, path);
  // Compared before the model is built: a damaged configuration must not cost the memory that it asks for.
  const double expected =
      parameter_count(run.description.config, std::int64_t(run.description.vocabulary.size()));
  double found = 0;
  for (const auto& [name, tensor] : weights.tensors) found += double(tensor.size());
  if (found != expected) {
    refuse(path, "parameters", fmt::format("{:.0f} as config.json describes", expected),
           fmt::format("{:.0f}", found));
  }
  run.model = std::make_unique<LanguageModel>(context, run.description.config,
                                              std::int64_t(run.description.vocabulary.size()), 0);
  load(weights, path, *run.model);
  return run;
}

}  // namespace dirigo::meta
