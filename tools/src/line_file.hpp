// A file that appears whole or not at all, written line by line.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace dirigo::tools {

// Lines go to a temporary file beside `path`; commit() flushes and renames it. Without commit() it is
// removed.
class LineFile {
 public:
  explicit LineFile(const std::string& path);  // throws IoError
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  void add(std::string_view line);  // and a newline; throws IoError (no disk space)
  void commit();                    // throws IoError

 private:
  [[noreturn]] void fail(int error) const;

  std::string path_, temporary_;
  std::FILE* file_;
};

}  // namespace dirigo::tools
