#include "study_data.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <string_view>

#include "dirigo/core/errors.hpp"
#include "dirigo/data/sha256.hpp"
#include "dirigo/meta_attention/run_files.hpp"

namespace dirigo::tools {
namespace {

namespace fs = std::filesystem;
using Bytes = std::span<const std::uint8_t>;

StudyData synthetic_data(const StudyDataOptions& options) {
  const auto refuse_flag = [&](const char* flag, const std::string& got) {
    throw ValueError(fmt::format("[study] {}: expected none with {} (it has streams of its own), got {}",
                                 flag, options.corpus, got));
  };
  if (!options.valid.empty()) refuse_flag("--valid", options.valid);
  if (options.train_bytes != 0) refuse_flag("--train-bytes", fmt::format("{}", options.train_bytes));
  if (options.corpus.find("stream=") != std::string::npos) {
    throw ValueError(
        fmt::format("[study] --corpus: expected no stream (a study uses 0 and 1), got {}", options.corpus));
  }
  const char* sign = options.corpus.find('?') == std::string::npos ? "?" : "&";
  return {options.corpus, "", options.corpus + sign + "stream=1"};
}

void check_holds_a_window(const char* part, Bytes bytes, std::int64_t length) {
  if (bytes.size() > static_cast<std::uint64_t>(length)) return;
  throw ValueError(fmt::format("[study] {} text: expected at least seq_len + 1 = {} bytes, got {}", part,
                               length + 1, bytes.size()));
}

// Writes a part, or checks the one of an earlier start.
std::string place_part(const fs::path& path, Bytes bytes) {
  if (!fs::exists(path)) {
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    meta::write_file_atomically(path.string(), std::string(text));
    return path.string();
  }
  const std::string found = MappedFile(path).sha256(), wanted = sha256_hex(bytes);
  if (found != wanted) {
    throw ValueError(fmt::format(
        "[{}] bytes: expected those that the study's --corpus gives (SHA-256 {:.12}...), got others "
        "({:.12}...)",
        path.string(), wanted, found));
  }
  return path.string();
}

}  // namespace

StudyTexts::StudyTexts(const StudyDataOptions& options, std::int64_t length) {
  if (options.corpus.empty())
    throw ValueError("[study] --corpus: expected a file or synthetic:NAME, got none");
  if (options.corpus.rfind("synthetic:", 0) == 0) {
    synthetic_ = synthetic_data(options);
    return;
  }
  corpus_.emplace(fs::path(options.corpus));
  if (!options.valid.empty() && test_.emplace(fs::path(options.valid)).sha256() == corpus_->sha256()) {
    throw ValueError(
        fmt::format("[study] --valid: expected another text than the corpus, got {}", options.valid));
  }
  cut(options);
  check_holds_a_window("training", train_part_, length);
  check_holds_a_window("development", development_part_, length);
  check_holds_a_window("test", test_part_, length);
}

void StudyTexts::cut(const StudyDataOptions& options) {
  const Bytes corpus = corpus_->bytes();
  const std::uint64_t nine_tenths = corpus.size() - corpus.size() / 10;
  const std::uint64_t limit = test_ ? corpus.size() - 1 : nine_tenths;
  const auto wanted = static_cast<std::uint64_t>(options.train_bytes);
  if (options.train_bytes < 0 || wanted > limit) {
    throw ValueError(
        fmt::format("[study] --train-bytes: expected 0 to {}, so that text is left to choose by, got {}",
                    limit, options.train_bytes));
  }
  train_part_ = corpus.first(wanted == 0 ? nine_tenths : wanted);
  if (test_) {
    development_part_ = corpus.subspan(train_part_.size());
    test_part_ = test_->bytes();
  } else {
    const Bytes held_out = corpus.subspan(nine_tenths);
    development_part_ = held_out.first(held_out.size() / 2);
    test_part_ = held_out.subspan(held_out.size() / 2);
  }
}

StudyData StudyTexts::place(const std::string& directory) const {
  if (synthetic_) return *synthetic_;
  const fs::path data = fs::absolute(directory).lexically_normal();
  std::error_code error;
  fs::create_directories(data, error);
  if (error)
    throw IoError(fmt::format("[{}] --out: expected a writable place, got {}", directory, error.message()));
  return {place_part(data / "train.txt", train_part_),
          place_part(data / "development.txt", development_part_), place_part(data / "test.txt", test_part_)};
}

}  // namespace dirigo::tools
