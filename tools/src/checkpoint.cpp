#include "checkpoint.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "dirigo/core/errors.hpp"
#include "dirigo/meta_attention/run_files.hpp"
#include "dirigo/nn/safetensors.hpp"

namespace dirigo::tools {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const std::map<std::string, std::string> metadata{{"format_version", "1"}};
constexpr std::int64_t max_state_bytes = 1 << 16;

void make_directory(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error)
    throw IoError(
        fmt::format("[{}] directory: expected a writable place, got {}", path.string(), error.message()));
}

// Checkpoints other than `kept` are of no use any more; leaving one behind does no harm.
void remove_others(const fs::path& directory, const std::string& kept) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    if (entry.is_directory(ignored) && entry.path().filename() != kept) fs::remove_all(entry.path(), ignored);
  }
}

std::string to_text(const TrainingState& state) {
  Json json;
  json["format_version"] = 1;
  json["step"] = state.step;
  json["seed"] = state.seed;
  json["best_valid_nll"] = state.best_valid_nll ? Json(*state.best_valid_nll) : Json(nullptr);
  if (const nn::EntropyDrop::State& drop = state.entropy_drop; !drop.average.empty()) {
    json["entropy_drop"] = {{"average", drop.average},
                            {"highest", drop.highest},
                            {"low", drop.low},
                            {"switched_at", drop.switched_at},
                            {"layer", drop.layer}};
  }
  return json.dump(2) + "\n";
}

// A JSON object of whole numbers (and others) in our format.
class StateFile {
 public:
  explicit StateFile(const std::string& path)
      : path_(path), json_(Json::parse(meta::read_text_file(path, max_state_bytes), nullptr, false)) {
    if (const auto format = whole("format_version"); format != 1) {
      throw IoError(fmt::format("[{}] format_version: expected 1, got {}", path_, format));
    }
  }

  const Json& json() const { return json_; }
  const std::string& path() const { return path_; }
  std::int64_t whole(const char* name) const {
    const bool good = json_.is_object() && json_.contains(name) && json_[name].is_number_integer() &&
                      json_[name].get<std::int64_t>() >= 0;
    if (!good)
      throw IoError(fmt::format("[{}] {}: expected a whole number >= 0, got something else", path_, name));
    return json_[name].get<std::int64_t>();
  }

 private:
  std::string path_;
  Json json_;
};

nn::EntropyDrop::State read_entropy_drop(const StateFile& file) {
  nn::EntropyDrop::State drop;
  if (!file.json().contains("entropy_drop")) return drop;
  try {
    const Json& json = file.json()["entropy_drop"];
    json.at("average").get_to(drop.average);
    json.at("highest").get_to(drop.highest);
    json.at("low").get_to(drop.low);
    json.at("switched_at").get_to(drop.switched_at);
    json.at("layer").get_to(drop.layer);
  } catch (const Json::exception&) {
    drop.average.clear();
  }
  const std::size_t layers = drop.average.size();
  if (layers == 0 || drop.highest.size() != layers || drop.low.size() != layers) {
    throw IoError(fmt::format("[{}] entropy_drop: expected as many numbers as layers, got something else",
                              file.path()));
  }
  return drop;
}

TrainingState read_state(const std::string& path) {
  const StateFile file(path);
  TrainingState state{file.whole("step"), file.whole("seed"), {}, read_entropy_drop(file)};
  if (const Json& json = file.json(); json.contains("best_valid_nll") && json["best_valid_nll"].is_number()) {
    state.best_valid_nll = json["best_valid_nll"].get<double>();
  }
  return state;
}

std::string directory_name(std::int64_t step) {
  return fmt::format("step-{}", step);
}

}  // namespace

void save_weights(const std::string& run, const std::string& file, meta::LanguageModel& model) {
  meta::write_weights((fs::path(run) / file).string(), model);
}

void save_checkpoint(const std::string& run, meta::LanguageModel& model, const nn::Adam& adam,
                     const TrainingState& state) {
  const fs::path directory = fs::path(run) / "checkpoint";
  const std::string name = directory_name(state.step);
  make_directory(directory / name);
  save_weights((directory / name).string(), "model.safetensors", model);
  nn::write_safetensors((directory / name / "optimizer.safetensors").string(), adam.state(), metadata);
  meta::write_file_atomically((directory / name / "state.json").string(), to_text(state));
  meta::write_file_atomically((directory / "latest").string(),
                              Json{{"format_version", 1}, {"step", state.step}}.dump() + "\n");
  remove_others(directory, name);
}

std::int64_t checkpoint_step(const std::string& run) {
  return StateFile((fs::path(run) / "checkpoint" / "latest").string()).whole("step");
}

TrainingState load_checkpoint(const Context& context, const std::string& run, meta::LanguageModel& model,
                              nn::Adam& adam) {
  const fs::path directory = fs::path(run) / "checkpoint";
  const fs::path from = directory / directory_name(checkpoint_step(run));
  const TrainingState state = read_state((from / "state.json").string());
  const std::string weights = (from / "model.safetensors").string();
  const std::string moments = (from / "optimizer.safetensors").string();
  const nn::SafetensorsFile moments_file = nn::read_safetensors(context, moments);
  meta::read_weights(context, weights, model);
  adam.restore(moments_file.tensors, state.step);
  return state;
}

}  // namespace dirigo::tools
