#include "dirigo/data/corpus.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "dirigo/core/errors.hpp"
#include "dirigo/data/sha256.hpp"

namespace dirigo {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& got) {
  throw IoError(fmt::format("[corpus] {}: expected a readable, non-empty file, got {}", path.string(), got));
}

std::string reason(int error) {
  return std::generic_category().message(error);
}

// A file descriptor that closes itself: the mapping outlives it.
class Descriptor {
 public:
  explicit Descriptor(const std::filesystem::path& path)
      : value_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (value_ < 0) fail(path, reason(errno));
  }
  ~Descriptor() { ::close(value_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int value() const { return value_; }

 private:
  int value_;
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const Descriptor file(path);  // non-blocking, so that a pipe is refused below instead of waited for
  struct stat status {};
  if (::fstat(file.value(), &status) != 0) fail(path, reason(errno));
  if (S_ISDIR(status.st_mode)) fail(path, "a directory");
  if (!S_ISREG(status.st_mode)) fail(path, "a special file");
  if (status.st_size == 0) fail(path, "an empty file");
  const auto size = static_cast<std::size_t>(status.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.value(), 0);
  if (address == MAP_FAILED) fail(path, reason(errno));
  bytes_ = {static_cast<const std::uint8_t*>(address), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::uint8_t*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

std::string MappedFile::sha256() const {
  return sha256_hex(bytes_);
}

Split split_corpus(std::uint64_t corpus_bytes, std::uint64_t train_bytes,
                   std::optional<std::uint64_t> valid_bytes) {
  Split split;
  split.train = {0, valid_bytes ? corpus_bytes : corpus_bytes - corpus_bytes / 10};
  split.held_out = valid_bytes ? ByteRange{0, *valid_bytes} : ByteRange{split.train.end, corpus_bytes};
  if (train_bytes > split.train.end) {
    throw ValueError(fmt::format("[corpus] train_bytes: expected at most {} ({} of the corpus), got {}",
                                 split.train.end, valid_bytes ? "all" : "the first nine tenths",
                                 train_bytes));
  }
  if (train_bytes > 0) split.train.end = train_bytes;
  return split;
}

TokenText::TokenText(std::span<const std::uint8_t> text, const Vocabulary& vocabulary)
    : vocabulary_(vocabulary), text_(text), skipped_(vocabulary.count_unknown(text)) {
  if (skipped_ == 0) return;
  filtered_.reserve(text.size() - skipped_);
  for (const std::uint8_t byte : text) {
    if (vocabulary.token(byte) != Vocabulary::kUnknown) filtered_.push_back(byte);
  }
}

void TokenText::read(std::uint64_t begin, std::span<std::int32_t> tokens) const {
  const auto window = known_bytes().subspan(begin, tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = vocabulary_.token(window[i]);
}

}  // namespace dirigo
