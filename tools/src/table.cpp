#include "table.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "dirigo/core/errors.hpp"

namespace dirigo::tools {

Table::Table(std::vector<std::string> header) {
  rows_.push_back(std::move(header));
}

void Table::add(std::vector<std::string> row) {
  if (row.size() != rows_.front().size()) {
    throw ValueError(fmt::format("[table] cells: expected {}, got {}", rows_.front().size(), row.size()));
  }
  rows_.push_back(std::move(row));
}

std::string Table::text() const {
  std::vector<std::size_t> widths(rows_.front().size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (std::size_t c = 0; c < widths.size(); ++c) {
      const std::string& cell = rows_[r][c];
      text += c == 0 ? fmt::format("{:<{}}", cell, widths[c]) : fmt::format("  {:>{}}", cell, widths[c]);
    }
    text += '\n';
    if (r > 0) continue;
    for (std::size_t c = 0; c < widths.size(); ++c)
      text += (c == 0 ? "" : "  ") + std::string(widths[c], '-');
    text += '\n';
  }
  return text;
}

}  // namespace dirigo::tools
