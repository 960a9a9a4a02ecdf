#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "failure.h"
#include "frontier.h"

namespace think::cli {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxBytes = 64 << 20;
constexpr int kMaxDepth = 16;

// The parser keeps a place for every open bracket, and the tree is walked by hand: so only as deep as such files are.
bool too_deep(std::span<const std::byte> file) {
  int depth = 0;
  bool in_text = false, escaped = false;
  for (const std::byte byte : file) {
    const char character = static_cast<char>(byte);
    if (in_text) {
      in_text = escaped || character != '"';
      escaped = !escaped && character == '\\';
    } else if (character == '"') {
      in_text = true;
    } else if (character == '{' || character == '[') {
      if (++depth > kMaxDepth) return true;
    } else if (character == '}' || character == ']') {
      --depth;
    }
  }
  return false;
}

class Reader {
 public:
  explicit Reader(const std::string &name) : name_(name) {}

  [[noreturn]] void fail(const std::string &what) const { throw Failure(kInput, name_ + ": " + what); }
  const Json &entry(const Json &object, const char *key) const {
    if (!object.is_object() ||
        !object.contains(key)) fail(std::string("not the output of the example engine's --evaluate or --rows with --json: no '") + key + "'");
    return object.at(key);
  }
  double number(const Json &object, const char *key, double low, double high) const {
    const Json &value = entry(object, key);
    if (!value.is_number()) fail(std::string("'") + key + "' is no number");
    const double number = value.get<double>();
    if (!(number >= low && number <= high)) fail(std::string("'") + key + "' is " + value.dump() + ", which cannot be");
    return number;
  }
  EngineResults::Row row(const std::string &stack, const Json &figures, const Json &usage) const {
    if (stack.size() > 200) fail("the name of a row is too long");
    // KL of equal predictions may come out a little below zero.
    EngineResults::Row row{stack,
                           number(figures, "kl", -1e-3, 1e6),
                           number(figures, "delta_nll", -1e6, 1e6),
                           number(figures, "top1", 0, 1),
                           number(usage, "kv_bytes_held", 1, 1e18),
                           number(usage, "kv_bytes_dense", 1, 1e18)};
    row.kl = std::max(row.kl, 0.0);
    return row;
  }

 private:
  const std::string &name_;
};

}  // namespace

EngineResults parse_engine_results(std::span<const std::byte> file, const std::string &name) {
  const Reader reader(name);
  if (file.size() > kMaxBytes) reader.fail("more than " + std::to_string(kMaxBytes >> 20) + " MiB are not the output of the example engine");
  if (too_deep(file)) reader.fail("nested more than " + std::to_string(kMaxDepth) + " deep");
  const char *text = reinterpret_cast<const char *>(file.data());
  const Json json = Json::parse(text, text + file.size(), nullptr, false);
  if (json.is_discarded()) reader.fail("not JSON");
  EngineResults results;
  if (json.is_object() && json.contains("segments")) {
    const Json &segments = reader.entry(json, "segments");
    if (!segments.is_array() || segments.empty()) reader.fail("'segments' is no list, or empty");
    results.tokens = static_cast<int64_t>(reader.number(json, "prefill", 1, 1e9));
    std::map<std::string, EngineResults::Row> sums;
    for (const Json &segment : segments) {
      const Json &rows = reader.entry(segment, "rows");
      if (!rows.is_object() || rows.empty()) reader.fail("'rows' of a segment is no object, or empty");
      if (results.segments > 0 && rows.size() != sums.size()) reader.fail("the segments do not have the same rows");
      for (const auto &[stack, figures] : rows.items()) {
        const EngineResults::Row row = reader.row(stack, figures, reader.entry(figures, "usage"));
        const auto [place, first] = sums.emplace(stack, row);
        if (first && results.segments > 0) reader.fail("the segments do not have the same rows");
        if (first) continue;
        EngineResults::Row &sum = place->second;
        sum.kl += row.kl, sum.delta_nll += row.delta_nll, sum.top1 += row.top1, sum.bytes += row.bytes, sum.dense_bytes += row.dense_bytes;
      }
      ++results.segments;
    }
    for (auto &[stack, sum] : sums) {
      const auto count = static_cast<double>(results.segments);
      results.rows.push_back({stack, sum.kl / count, sum.delta_nll / count, sum.top1 / count, sum.bytes / count, sum.dense_bytes / count});
    }
    return results;
  }
  const Json &rows = reader.entry(json, "rows");
  if (!rows.is_array() || rows.empty()) reader.fail("'rows' is no list, or empty");
  results.segments = 1;
  results.tokens = static_cast<int64_t>(reader.number(json, "tokens_prefill", 1, 1e9));
  for (const Json &figures : rows) {
    const Json &stack = reader.entry(figures, "name");
    if (!stack.is_string()) reader.fail("'name' of a row is no text");
    results.rows.push_back(reader.row(stack.get<std::string>(), figures, figures));
  }
  return results;
}

void sort_frontier(std::vector<FrontierPoint> &points) {
  std::sort(points.begin(), points.end(), [](const FrontierPoint &a, const FrontierPoint &b) {
    if (a.share() != b.share()) return a.share() < b.share();
    return a.error != b.error ? a.error < b.error : a.stack < b.stack;
  });
  double closest = INFINITY;
  for (FrontierPoint &point : points) {
    point.best = point.error < closest;
    closest = std::min(closest, point.error);
  }
}

}  // namespace think::cli
