// The pages of docs/mathematics as the tests read them: worked numbers, excerpts, quoted tables.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace derivations {

struct Number {
  double value;
  double half_unit;  // of the last printed digit; 0 for an integer, which is exact
};

struct Row {
  std::string name;  // the first `name` of the line
  std::vector<Number> numbers;
};

// <!-- check: NAME --> and the table below it. Numbers are separated by commas, rows of a matrix by
// semicolons.
struct WorkedTable {
  std::string name;
  std::vector<Row> rows;
};

// <!-- code: FILE --> and the fence below it, or <!-- from: FILE --> and the table below it.
struct Excerpt {
  std::string file;
  std::vector<std::string> lines;
};

struct Page {
  std::string name;  // without .md
  std::vector<WorkedTable> tables;
  std::vector<Excerpt> code, quotes;
  std::vector<std::string> files;  // of the code, as linked before the formula
};

std::filesystem::path root();
std::vector<std::string> read_lines(const std::filesystem::path& file);
std::string trimmed(const std::string& line);
std::vector<Page> pages();  // throws std::runtime_error for a marker or a number that cannot be read

// Whether the excerpt's lines stand in `lines`, indentation apart: every run between lines "// ..." in one
// piece, the runs in order.
bool contains(const std::vector<std::string>& lines, const Excerpt& excerpt);

}  // namespace derivations
