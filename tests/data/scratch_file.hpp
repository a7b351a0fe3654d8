// A file in the temporary directory that removes itself.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace dirigo::test {

class ScratchFile {
 public:
  explicit ScratchFile(const std::string& contents) {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("dirigo_data_test_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
    std::ofstream(path_, std::ios::binary) << contents;
  }
  ~ScratchFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace dirigo::test
