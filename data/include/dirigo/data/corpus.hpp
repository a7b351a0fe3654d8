// Text files of any size, their split into training and held-out bytes, and their tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dirigo/data/vocabulary.hpp"

namespace dirigo {

// A file mapped read-only: its size is bounded by the address space, not by memory.
class MappedFile {
 public:
  // Throws IoError naming the file if it is missing, a directory or other special file, unreadable or empty.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::uint8_t> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }

  // SHA-256 of the contents as 64 hexadecimal digits; reads the whole file.
  std::string sha256() const;

 private:
  std::filesystem::path path_;
  std::span<const std::uint8_t> bytes_;
};

// The bytes [begin, end) of a file.
struct ByteRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t size() const { return end - begin; }
};

// Which bytes train and which are held out. With a separate held-out file, `held_out` covers that file.
struct Split {
  ByteRange train;
  ByteRange held_out;
};

// The held-out rule: the last tenth of the corpus (rounded down) unless there is a separate held-out file of
// `valid_bytes` bytes; training never reads the held-out bytes. `train_bytes` > 0 keeps only that many bytes
// at the beginning for training. Throws ValueError if fewer than train_bytes are there.
Split split_corpus(std::uint64_t corpus_bytes, std::uint64_t train_bytes,
                   std::optional<std::uint64_t> valid_bytes);

// A text as tokens, without its unknown bytes. Tokens are encoded as they are read; only a text that has
// unknown bytes is copied. Views `text`, which must outlive it.
class TokenText {
 public:
  TokenText(std::span<const std::uint8_t> text, const Vocabulary& vocabulary);

  std::uint64_t size() const { return known_bytes().size(); }
  std::uint64_t skipped() const { return skipped_; }

  // tokens[i] = token number begin + i. Precondition: begin + tokens.size() <= size().
  void read(std::uint64_t begin, std::span<std::int32_t> tokens) const;

 private:
  std::span<const std::uint8_t> known_bytes() const { return skipped_ == 0 ? text_ : std::span(filtered_); }

  Vocabulary vocabulary_;
  std::span<const std::uint8_t> text_;
  std::uint64_t skipped_ = 0;
  std::vector<std::uint8_t> filtered_;
};

}  // namespace dirigo
