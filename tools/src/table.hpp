// A table as aligned text: the first column to the left, numbers to the right.
#pragma once

#include <string>
#include <vector>

namespace dirigo::tools {

class Table {
 public:
  explicit Table(std::vector<std::string> header);
  // One cell per column. Throws ValueError for another number of them.
  void add(std::vector<std::string> row);
  std::string text() const;  // lines, each with its newline; a rule below the header

 private:
  std::vector<std::vector<std::string>> rows_;  // the header first
};

}  // namespace dirigo::tools
