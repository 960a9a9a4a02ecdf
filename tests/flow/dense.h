// The oracle of the flow tests: attention over full rows, in double, and rows rebuilt from a basis. Written from the definitions in
// include/think/, independent of the library and of its reference code.
#pragma once

#include "elements.h"

namespace dense {

// All rows of one sequence that one KV head sees, in the order of their positions, at full width.
struct Rows {
  int32_t key_channels, value_channels;
  std::vector<double> key, value;  // [count][channels]
  int64_t count() const { return static_cast<int64_t>(key.size()) / key_channels; }
};

struct Logits {
  double scale;
  double softcap;           // 0 = none
  const float *sink_logit;  // of this query head, NULL = none
};

struct Attention {
  std::vector<double> output;
  double lse;
};

// One query over the first `visible` rows.
inline Attention attend(const double *query, const Rows &rows, int64_t visible, const Logits &logits) {
  std::vector<double> z(static_cast<size_t>(visible));
  double maximum = -std::numeric_limits<double>::infinity();
  for (int64_t t = 0; t < visible; ++t) {
    double dot = 0;
    for (int32_t c = 0; c < rows.key_channels; ++c) dot += query[c] * rows.key[t * rows.key_channels + c];
    z[t] = dot * logits.scale;
    if (logits.softcap > 0) z[t] = logits.softcap * std::tanh(z[t] / logits.softcap);
    maximum = std::max(maximum, z[t]);
  }
  Attention result{std::vector<double>(rows.value_channels, 0.0), -std::numeric_limits<double>::infinity()};
  if (visible == 0) return result;
  double sum = 0;
  for (int64_t t = 0; t < visible; ++t) {
    const double weight = std::exp(z[t] - maximum);
    sum += weight;
    for (int32_t c = 0; c < rows.value_channels; ++c) result.output[c] += weight * rows.value[t * rows.value_channels + c];
  }
  result.lse = maximum + std::log(sum);
  // The sink takes its share of the softmax and gives no value; the LSE does not count it.
  const double total = sum + (logits.sink_logit ? std::exp(*logits.sink_logit - maximum) : 0);
  for (double &value : result.output) value /= total;
  return result;
}

// One head's record of a think_basis, read as the header describes it.
struct Basis {
  int32_t channels, kept;
  std::vector<int32_t> index;
  bool predicts;
  std::vector<double> weight;  // [dropped][kept]
  std::vector<double> offset;  // [dropped]
};

inline Basis read_basis(const think_basis &source, int32_t kv_heads, int32_t slot, int32_t head) {
  const int64_t at = static_cast<int64_t>(slot) * kv_heads + head;
  Basis basis;
  basis.channels = source.channels;
  basis.kept = source.kept[at];
  basis.index.assign(source.index + at * source.channels, source.index + (at + 1) * source.channels);
  basis.predicts = source.weight_offset[at] >= 0;
  if (!basis.predicts) return basis;
  const int32_t dropped = basis.channels - basis.kept, padded = (basis.kept + 7) / 8 * 8;
  const char *block = static_cast<const char *>(source.weight) + source.weight_offset[at];
  for (int32_t p = 0; p < dropped; ++p) {
    for (int32_t i = 0; i < basis.kept; ++i) basis.weight.push_back(flow::load(block, THINK_F16, static_cast<int64_t>(p) * padded + i));
    for (int32_t i = basis.kept; i < padded; ++i)
      EXPECT_EQ(0.0, flow::load(block, THINK_F16, static_cast<int64_t>(p) * padded + i)) << "padding of W";
    basis.offset.push_back(source.offset[at * basis.channels + basis.kept + p]);
  }
  return basis;
}

// Replace the dropped channels of one full row by what the basis makes of the kept ones.
inline void reconstruct(const Basis &basis, double *row) {
  for (int32_t p = 0; p < basis.channels - basis.kept; ++p) {
    double value = 0;
    if (basis.predicts) {
      value = basis.offset[p];
      for (int32_t i = 0; i < basis.kept; ++i) value += basis.weight[static_cast<size_t>(p) * basis.kept + i] * row[basis.index[i]];
    }
    row[basis.index[basis.kept + p]] = value;
  }
}

}  // namespace dense
