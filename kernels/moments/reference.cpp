// The moments stage in double precision and plain loops: what the fast versions are compared with.
#include <algorithm>
#include <cmath>
#include <vector>

#include "moments.h"

namespace think::moments::reference {
namespace {

void weighted(int64_t tokens, int32_t channels, const std::vector<double> &weight, const double *rows, double *mean, double *covariance) {
  std::fill(mean, mean + channels, 0.0);
  std::fill(covariance, covariance + static_cast<int64_t>(channels) * channels, 0.0);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int32_t j = 0; j < channels; ++j) mean[j] += weight[t] * rows[t * channels + j];
  }
  std::vector<double> centred(channels);
  for (int64_t t = 0; t < tokens; ++t) {
    if (weight[t] == 0) continue;
    for (int32_t j = 0; j < channels; ++j) centred[j] = rows[t * channels + j] - mean[j];
    for (int32_t i = 0; i < channels; ++i) {
      for (int32_t j = 0; j < channels; ++j) covariance[i * channels + j] += weight[t] * centred[i] * centred[j];
    }
  }
}

}  // namespace

void attention_mass(const Head &head, double *mass) {
  std::fill(mass, mass + head.tokens, 0.0);
  std::vector<double> logit(head.tokens);
  for (int32_t g = 0; g < head.group; ++g) {
    for (int32_t i = 0; i < head.query_rows; ++i) {
      const double *query = head.query + (static_cast<int64_t>(g) * head.query_rows + i) * head.key_channels;
      const int64_t seen = head.causal ? head.tokens - head.query_rows + i + 1 : head.tokens;
      double largest = -INFINITY, total = 0;
      for (int64_t t = 0; t < seen; ++t) {
        double z = 0;
        for (int32_t j = 0; j < head.key_channels; ++j) z += query[j] * head.key[t * head.key_channels + j];
        z *= head.scale;
        if (head.softcap > 0) z = head.softcap * std::tanh(z / head.softcap);
        logit[t] = z;
        largest = std::max(largest, z);
      }
      for (int64_t t = 0; t < seen; ++t) total += std::exp(logit[t] - largest);
      for (int64_t t = 0; t < seen; ++t) mass[t] += std::exp(logit[t] - largest) / total;
    }
  }
}

void measure(const Head &head, double *key_mean, double *key_covariance, double *query_moment, double *value_mean,
             double *value_covariance) {
  const PruneRange range = prune_range(head.tokens, head.sinks, head.recent);
  const int32_t channels = head.key_channels;
  std::vector<double> mass(head.tokens), weight(head.tokens, 0.0);
  if (range.count > 0) {
    attention_mass(head, mass.data());
    double total = 0;
    for (int64_t t = range.first; t < range.first + range.count; ++t) total += mass[t];
    for (int64_t t = range.first; t < range.first + range.count; ++t) {
      weight[t] = total > 0 ? (1 - head.share) / range.count + head.share * mass[t] / total : 1.0 / range.count;
    }
  }
  weighted(head.tokens, channels, weight, head.key, key_mean, key_covariance);
  if (head.value) weighted(head.tokens, head.value_channels, weight, head.value, value_mean, value_covariance);
  std::fill(query_moment, query_moment + static_cast<int64_t>(channels) * channels, 0.0);
  const int64_t rows = range.count > 0 ? static_cast<int64_t>(head.group) * head.query_rows : 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int32_t i = 0; i < channels; ++i) {
      for (int32_t j = 0; j < channels; ++j)
        query_moment[i * channels + j] += head.query[r * channels + i] * head.query[r * channels + j] / rows;
    }
  }
}

void gains(int32_t channels, const double *metric, const double *covariance, const int32_t *order_in, double *gains, int32_t *order_out) {
  const int32_t n = channels;
  std::vector<double> left(covariance, covariance + static_cast<int64_t>(n) * n), first(n), column(n);
  std::vector<char> done(n, 0);
  for (int32_t i = 0; i < n; ++i) first[i] = left[i * n + i];
  const auto dead = [&](int32_t i) { return left[i * n + i] <= 1e-6 * first[i]; };
  const auto gain = [&](int32_t i) {
    if (dead(i)) return 0.0;
    double drop = 0;
    for (int32_t a = 0; a < n; ++a) {
      for (int32_t b = 0; b < n; ++b) drop += left[i * n + a] * metric[a * n + b] * left[i * n + b];
    }
    return std::max(0.0, drop / left[i * n + i]);
  };
  for (int32_t step = 0; step < n; ++step) {
    int32_t chosen = -1;
    double worth = -1;
    if (order_in) {
      chosen = order_in[step];
      worth = gain(chosen);
    } else {
      for (int32_t i = 0; i < n; ++i) {
        if (done[i]) continue;
        const double candidate = gain(i);
        if (candidate > worth) worth = candidate, chosen = i;
      }
    }
    const bool skip = dead(chosen);
    gains[step] = worth;
    order_out[step] = chosen;
    done[chosen] = 1;
    if (skip) continue;
    for (int32_t i = 0; i < n; ++i) column[i] = left[i * n + chosen];
    const double pivot = column[chosen];
    for (int32_t i = 0; i < n; ++i) {
      for (int32_t j = 0; j < n; ++j) left[i * n + j] -= column[i] * column[j] / pivot;
    }
  }
}

}  // namespace think::moments::reference
