// A directory of its own for a test, a small text, and a configuration that trains in a moment.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "dirigo/meta_attention/config.hpp"

namespace dirigo::test {

namespace fs = std::filesystem;

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (fs::temp_directory_path() / "dirigo-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string operator/(const std::string& name) const { return (fs::path(path_) / name).string(); }
  std::string path() const { return path_; }

 private:
  std::string path_;
};

inline void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Words in an order that a small model can learn something about.
inline std::string small_text() {
  const char* words[] = {"red fox ", "old dog ", "big cat ", "sees ", "likes ", "and ", "a "};
  std::string text;
  for (unsigned i = 0, state = 1; i < 400; ++i) {
    state = state * 1103515245u + 12345u;
    text += words[(state >> 16) % 7];
  }
  return text;
}

inline meta::Config small_config(const std::string& corpus) {
  meta::Config config = meta::preset("tiny");
  const std::pair<const char*, const char*> settings[] = {
      {"model.d_model", "16"},   {"model.heads", "2"},          {"router.hidden", "8"},
      {"attention.window", "4"}, {"train.batch", "4"},          {"train.seq_len", "16"},
      {"train.steps", "30"},     {"train.eval_every", "12"},    {"train.lr", "0.01"},
      {"train.lr_warmup", "5"},  {"model.positions", "learned"}};
  for (const auto& [key, value] : settings) meta::set_field(config, key, value);
  meta::set_field(config, "data.corpus", corpus);
  meta::resolve(config);
  return config;
}

}  // namespace dirigo::test
