#include "page.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace derivations {
namespace {

using Lines = std::vector<std::string>;

// The text between `before` and `after`, or nothing.
std::string between(const std::string& line, const std::string& before, const std::string& after) {
  const std::size_t begin = line.find(before);
  if (begin == std::string::npos) return {};
  const std::size_t from = begin + before.size(), end = line.find(after, from);
  return end == std::string::npos ? std::string() : line.substr(from, end - from);
}

Number number(const std::string& text) {
  std::size_t used = 0;
  const std::string word = trimmed(text);
  double value = NAN;
  try {
    value = std::stod(word, &used);
  } catch (const std::exception&) {
  }
  if (word.empty() || used != word.size()) throw std::runtime_error("expected a number, got '" + text + "'");
  const std::size_t point = word.find('.');
  const double unit = point == std::string::npos ? 0 : std::pow(10.0, -double(word.size() - point - 1));
  return {value, unit / 2};
}

// | `name` and words | 1, 2; 3, 4 |
Row table_row(const std::string& line) {
  const std::size_t end = line.rfind('|'), middle = end == 0 ? end : line.rfind('|', end - 1);
  if (middle == std::string::npos || middle == 0) throw std::runtime_error("expected a row, got " + line);
  Row row{between(line, "`", "`"), {}};
  std::string cell = line.substr(middle + 1, end - middle - 1);
  std::replace(cell.begin(), cell.end(), ';', ',');
  std::istringstream words(cell);
  for (std::string word; std::getline(words, word, ',');) row.numbers.push_back(number(word));
  return row;
}

// The lines of the table that begins at `at`.
Lines table_at(const Lines& lines, std::size_t at) {
  Lines table;
  for (; at < lines.size() && lines[at].rfind("|", 0) == 0; ++at) table.push_back(lines[at]);
  if (table.size() < 3) throw std::runtime_error("expected a table after its marker, got none");
  return table;
}

Lines fence_at(const Lines& lines, std::size_t at) {
  Lines code;
  if (at >= lines.size() || lines[at] != "```cpp") throw std::runtime_error("expected ```cpp after a marker");
  for (++at; at < lines.size() && lines[at] != "```"; ++at) code.push_back(lines[at]);
  return code;
}

// The targets of links such as [tape.cpp](../../autograd/src/tape.cpp).
void add_files(const std::string& line, std::vector<std::string>& files) {
  const std::string up = "](../../";
  for (std::size_t at = line.find(up); at != std::string::npos; at = line.find(up, at + 1)) {
    const std::string file = between(line.substr(at), up, ")");
    if (file.find(".cpp") != std::string::npos || file.find(".hpp") != std::string::npos)
      files.push_back(file);
  }
}

Page read_page(const std::filesystem::path& file) {
  Page page;
  page.name = file.stem().string();
  const Lines lines = read_lines(file);
  for (std::size_t i = 0; i < lines.size() && lines[i] != "## Formula"; ++i) add_files(lines[i], page.files);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string check = between(lines[i], "<!-- check: ", " -->");
    const std::string code = between(lines[i], "<!-- code: ", " -->");
    const std::string from = between(lines[i], "<!-- from: ", " -->");
    if (!code.empty()) page.code.push_back({code, fence_at(lines, i + 1)});
    if (!from.empty()) page.quotes.push_back({from, table_at(lines, i + 1)});
    if (check.empty()) continue;
    WorkedTable table{check, {}};
    const Lines rows = table_at(lines, i + 1);
    for (std::size_t r = 2; r < rows.size(); ++r) table.rows.push_back(table_row(rows[r]));
    page.tables.push_back(table);
  }
  return page;
}

}  // namespace

std::filesystem::path root() {
  return std::filesystem::path(DIRIGO_TEST_DIR).parent_path();
}

Lines read_lines(const std::filesystem::path& file) {
  std::ifstream in(file);
  if (!in) throw std::runtime_error("expected a file, got " + file.string());
  Lines lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string trimmed(const std::string& line) {
  const std::size_t begin = line.find_first_not_of(" \t"), end = line.find_last_not_of(" \t");
  return begin == std::string::npos ? std::string() : line.substr(begin, end - begin + 1);
}

std::vector<Page> pages() {
  std::vector<Page> all;
  for (const auto& entry : std::filesystem::directory_iterator(root() / "docs/mathematics")) {
    if (entry.path().extension() == ".md") all.push_back(read_page(entry.path()));
  }
  std::sort(all.begin(), all.end(), [](const Page& a, const Page& b) { return a.name < b.name; });
  return all;
}

bool contains(const Lines& lines, const Excerpt& excerpt) {
  Lines text, run;
  for (const std::string& line : lines) text.push_back(trimmed(line));
  auto from = text.begin();
  const auto found = [&] {  // moves past the run
    const auto at = std::search(from, text.end(), run.begin(), run.end());
    const bool there = !run.empty() && at != text.end();
    if (there) from = at + std::ptrdiff_t(run.size());
    run.clear();
    return there;
  };
  for (const std::string& line : excerpt.lines) {
    if (trimmed(line) != "// ...") {
      run.push_back(trimmed(line));
    } else if (!found()) {
      return false;
    }
  }
  return found();
}

}  // namespace derivations
