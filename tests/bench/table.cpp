#include <unistd.h>

#include <cstdio>

#include "measure.h"

namespace think::bench {

namespace {

std::string cell(const Json &row, const std::string &column) {
  if (!row.contains(column) || row[column].is_null()) return "";
  const Json &value = row[column];
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_number_integer()) return std::to_string(value.get<int64_t>());
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", value.get<double>());
  return text;
}

}  // namespace

int64_t second_cache_bytes() {
  const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? bytes : int64_t{1} << 20;
}

std::string table(const Json &rows, const std::vector<std::string> &columns, bool markdown) {
  std::vector<std::vector<std::string>> cells = {columns};
  for (const Json &row : rows) {
    cells.emplace_back();
    for (const std::string &column : columns) cells.back().push_back(cell(row, column));
  }
  std::vector<size_t> width(columns.size());
  for (const auto &line : cells) {
    for (size_t i = 0; i < line.size(); ++i) width[i] = std::max(width[i], line[i].size());
  }
  std::string text;
  for (size_t n = 0; n < cells.size(); ++n) {
    text += markdown ? "|" : "";
    for (size_t i = 0; i < columns.size(); ++i) {
      text += (markdown ? " " : i ? "  " : "") + std::string(width[i] - cells[n][i].size(), ' ') + cells[n][i] + (markdown ? " |" : "");
    }
    text += "\n";
    if (markdown && n == 0) {
      text += "|";
      for (size_t i = 0; i < columns.size(); ++i) text += std::string(width[i] + 1, '-') + ":|";
      text += "\n";
    }
  }
  return text;
}

}  // namespace think::bench
