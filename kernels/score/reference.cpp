#include <cmath>
#include <limits>
#include <vector>

#include "score.h"

namespace think::score::reference {

namespace {

double nan_to_infinity(double x) { return std::isnan(x) ? std::numeric_limits<double>::infinity() : x; }

}  // namespace

void score(const Shape &shape, const double *query, const double *key, int64_t tokens, bool query_heads, double *score) {
  const int64_t channels = shape.key_channels;
  const int64_t observed = tokens < shape.window ? tokens : shape.window;
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    std::vector<double> key_sum(channels, 0.0), group_sum(channels, 0.0);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t c = 0; c < channels; ++c) key_sum[c] += std::pow(key[(head * tokens + t) * channels + c], 2);
    }
    for (int32_t q = head * shape.group; q < (head + 1) * shape.group; ++q) {
      std::vector<double> query_sum(channels, 0.0);
      for (int64_t t = tokens - observed; t < tokens; ++t) {
        for (int64_t c = 0; c < channels; ++c) query_sum[c] += std::pow(query[(q * tokens + t) * channels + c], 2);
      }
      for (int64_t c = 0; c < channels; ++c) {
        if (query_heads) score[q * channels + c] = nan_to_infinity(query_sum[c] * key_sum[c]);
        group_sum[c] += query_sum[c];
      }
    }
    if (query_heads) continue;
    for (int64_t c = 0; c < channels; ++c) score[head * channels + c] = nan_to_infinity(group_sum[c] * key_sum[c]);
  }
}

void value_score(const Shape &shape, const double *attention, int64_t rows, double *score) {
  const int64_t channels = shape.value_channels;
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int32_t q = head * shape.group; q < (head + 1) * shape.group; ++q) {
        for (int64_t t = 0; t < rows; ++t) sum += std::pow(attention[(q * rows + t) * channels + c], 2);
      }
      score[head * channels + c] = nan_to_infinity(sum);
    }
  }
}

}  // namespace think::score::reference
