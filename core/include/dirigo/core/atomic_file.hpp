// A file that appears whole or not at all.
#pragma once

#include <cstddef>
#include <string>

namespace dirigo {

// Writes to a temporary file beside `path`; commit() flushes it to disk and renames it. Without commit (an
// exception) the temporary file is removed and what was at `path` stays. All functions throw IoError.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t bytes);
  void commit();

 private:
  [[noreturn]] void fail(const char* action) const;  // from errno

  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
  bool committed_ = false;
};

}  // namespace dirigo
