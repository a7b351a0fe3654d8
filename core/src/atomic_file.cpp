#include "dirigo/core/atomic_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "dirigo/core/errors.hpp"

namespace dirigo {
namespace {

// Makes a rename survive a power failure. Some file systems cannot: the file is whole all the same.
void sync_directory_of(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const int directory = ::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return;
  ::fsync(directory);
  ::close(directory);
}

}  // namespace

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  // O_EXCL instead of mkstemp: the file gets the user's umask, and no two writers share one.
  for (int attempt = 0; attempt < 1000; ++attempt) {
    temporary_ = fmt::format("{}.tmp-{}-{}", path, ::getpid(), attempt);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ >= 0) return;
    if (errno != EEXIST) break;
  }
  fail("create");
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!committed_) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write");
    next += written;
    bytes -= std::size_t(written);
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail("flush");
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0) fail("close");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename");
  committed_ = true;
  sync_directory_of(path_);
}

void AtomicFile::fail(const char* action) const {
  const int code = errno;
  throw IoError(fmt::format("[{}] {}: expected a writable place with room, got {}", path_, action,
                            std::generic_category().message(code)));
}

}  // namespace dirigo
