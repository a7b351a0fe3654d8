#include "line_file.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "dirigo/core/errors.hpp"

namespace dirigo::tools {

LineFile::LineFile(const std::string& path)
    : path_(path),
      temporary_(fmt::format("{}.{}.tmp", path, ::getpid())),
      file_(std::fopen(temporary_.c_str(), "wb")) {
  if (!file_) fail(errno);
}

LineFile::~LineFile() {
  if (!file_) return;
  std::fclose(file_);
  ::unlink(temporary_.c_str());
}

void LineFile::add(std::string_view line) {
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fputc('\n', file_) == EOF)
    fail(errno);
}

void LineFile::commit() {
  if (std::fflush(file_) != 0 || ::fsync(fileno(file_)) != 0) fail(errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(errno);
  std::fclose(file_);  // its bytes are on the disk
  file_ = nullptr;
}

void LineFile::fail(int error) const {
  throw IoError(
      fmt::format("[{}] file: expected a writable place with room, got {}", path_, std::strerror(error)));
}

}  // namespace dirigo::tools
