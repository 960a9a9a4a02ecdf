// Attention over segments in plain loops. Deliberately built another way than the kernels: logits of all tokens are computed first, the softmax has two
// passes, and nothing is cut or merged. See include/think/attend.h.
#include <cmath>
#include <limits>
#include <vector>

#include "../common/element.h"
#include "../common/quantized.h"
#include "attend.h"

namespace think::attend::reference {
namespace {

// One side's basis of one slot and KV head. `kept` channels come first in `index`, then the dropped ones.
struct Head {
  const int32_t *index;   // NULL = all channels
  const uint16_t *weight; // NULL = no prediction
  const float *offset;
  int32_t kept, channels;
  int32_t weight_width() const { return (kept + 7) / 8 * 8; }
};

Head head_of(const think_basis *basis, int32_t channels, int32_t kv_heads, int32_t slot, int32_t head) {
  if (!basis) return {nullptr, nullptr, nullptr, channels, channels};
  const int64_t place = static_cast<int64_t>(slot) * kv_heads + head, block = basis->weight_offset[place];
  const char *weight = static_cast<const char *>(basis->weight);
  return {basis->index + place * channels, block < 0 ? nullptr : reinterpret_cast<const uint16_t *>(weight + block),
          basis->offset ? basis->offset + place * channels : nullptr, basis->kept[place], channels};
}

// What is left of a number in an element type; 0 = all of it.
template <class Real>
Real rounded(Real value, think_dtype dtype) {
  if (!dtype) return value;
  char place[4];
  store_element(place, dtype, 0, static_cast<float>(value));
  return load_element(place, dtype, 0);
}

template <class Real>
struct Reader {
  SideView view;
  bool keys;
  // Stored channel `position` of a row that counts from the start of the pages or slot.
  Real operator()(int64_t row, int32_t position) const {
    const char *address = row_address(view, row);
    if (is_quantized(view.dtype)) return decode(address, static_cast<int32_t>(row % kTileTokens), position);
    if (view.layout == THINK_ROWS) return load_element(address, view.dtype, position);
    return load_element(address, view.dtype, static_cast<int64_t>(position) * kTileTokens + row % kTileTokens);
  }
  // `factor` times a number as matrix units multiply it: factors are rounded to `operands`. Of codes that is the product with the scale, and codes count
  // from the middle of their range.
  Real product(Real factor, int64_t row, int32_t position, think_dtype operands) const {
    if (!operands || !has_groups(view.dtype)) return rounded(factor, operands && is_quantized(view.dtype) ? THINK_F16 : operands) * (*this)(row, position);
    const char *tile = row_address(view, row);
    const int32_t token = static_cast<int32_t>(row % kTileTokens);
    const TileLayout layout = keys ? key_tile(view.channels, view.dtype) : value_tile(view.channels, view.dtype);
    const int64_t group = keys ? position : value_group(view.channels, position) * kTileTokens + token;
    const CodePlace place = keys ? key_code(view.dtype, position, token) : value_code(view.dtype, view.channels, position, token);
    const Real scale = load_element(tile + layout.scale, THINK_F16, group), zero = load_element(tile + layout.zero, THINK_F16, group);
    const Real middle = static_cast<Real>((most_code(view.dtype) + 1) / 2), code = static_cast<Real>(load_code(tile, view.dtype, place));
    const Real narrow = rounded(factor, THINK_F16);
    return rounded(narrow * scale, THINK_F16) * (code - middle) + narrow * rounded(zero + scale * middle, THINK_F16);
  }
  Real decode(const char *tile, int32_t token, int32_t channel) const {
    if (view.dtype == THINK_F8_E4M3) {
      const CodePlace code = keys ? key_code(view.dtype, channel, token) : value_code(view.dtype, view.channels, channel, token);
      return static_cast<Real>(view.scale) * static_cast<Real>(f8_to_f32(load_code(tile, view.dtype, code)));
    }
    const TileLayout layout = keys ? key_tile(view.channels, view.dtype) : value_tile(view.channels, view.dtype);
    const int64_t group = keys ? channel : value_group(view.channels, channel) * kTileTokens + token;
    const CodePlace place = keys ? key_code(view.dtype, channel, token) : value_code(view.dtype, view.channels, channel, token);
    const Real scale = load_element(tile + layout.scale, THINK_F16, group), zero = load_element(tile + layout.zero, THINK_F16, group);
    return zero + scale * static_cast<Real>(load_code(tile, view.dtype, place));
  }
};

template <class Real>
void attend_one(const Arguments &a, int32_t sequence, int32_t query_head, int64_t token, int64_t queries, think_dtype operands) {
  const Shape &shape = a.shape;
  const int32_t head = query_head / shape.group;
  const RowRange rows = rows_of(a.query, a.batch, sequence);
  const int32_t key_channels = shape.key_channels, value_channels = shape.value_channels;
  std::vector<Real> query(key_channels);
  for (int32_t j = 0; j < key_channels; ++j) query[j] = load_element(element(a.query, rows.row, query_head, rows.first + token), a.query.dtype, j);

  std::vector<std::vector<Real>> logits(a.segment_count);
  Real maximum = -std::numeric_limits<Real>::infinity();
  for (int32_t s = 0; s < a.segment_count; ++s) {
    const think_segment &segment = a.segments[s];
    const int32_t slot = slot_of(segment, a.batch, sequence);
    const Head basis = head_of(segment.key_basis, key_channels, shape.kv_heads, slot, head);
    std::vector<Real> folded(basis.kept);
    Real constant = 0;
    for (int32_t i = 0; i < basis.kept; ++i) folded[i] = query[basis.index ? basis.index[i] : i];
    for (int32_t p = basis.kept; p < key_channels && basis.weight; ++p) {
      const Real dropped = query[basis.index[p]];
      const uint16_t *weight = basis.weight + static_cast<int64_t>(p - basis.kept) * basis.weight_width();
      for (int32_t i = 0; i < basis.kept; ++i) folded[i] += dropped * f16_to_f32(weight[i]);
      constant += dropped * basis.offset[p];
    }
    int64_t visible = run_length(segment, sequence, head);
    if (segment.flags & THINK_SEGMENT_CAUSAL) visible -= queries - token - 1;
    const Reader<Real> key{side_view(segment, Side::keys, shape, a.batch, sequence, head), true};
    const int64_t first = run_first(segment, sequence, head);
    for (int64_t t = 0; t < visible; ++t) {
      Real logit = constant;
      for (int32_t i = 0; i < basis.kept; ++i) logit += key.product(folded[i], first + t, i, operands);
      logit *= shape.scale;
      if (shape.softcap > 0) logit = shape.softcap * std::tanh(logit / shape.softcap);
      logits[s].push_back(logit);
      maximum = std::max(maximum, logit);
    }
  }

  std::vector<Real> output(value_channels);
  Real mass = 0;
  for (int32_t s = 0; s < a.segment_count; ++s) {
    const think_segment &segment = a.segments[s];
    const int32_t slot = slot_of(segment, a.batch, sequence);
    const Head basis = head_of(segment.value_basis, value_channels, shape.kv_heads, slot, head);
    const Reader<Real> value{side_view(segment, Side::values, shape, a.batch, sequence, head), false};
    const int64_t first = run_first(segment, sequence, head);
    std::vector<Real> kept(basis.kept);
    Real segment_mass = 0;
    for (size_t t = 0; t < logits[s].size(); ++t) {
      const Real probability = std::exp(logits[s][t] - maximum);
      segment_mass += probability;
      for (int32_t i = 0; i < basis.kept; ++i) kept[i] += value.product(probability, first + static_cast<int64_t>(t), i, operands);
    }
    mass += segment_mass;
    for (int32_t i = 0; i < basis.kept; ++i) output[basis.index ? basis.index[i] : i] += kept[i];
    for (int32_t p = basis.kept; p < value_channels && basis.weight; ++p) {
      Real predicted = segment_mass * basis.offset[p];
      const uint16_t *weight = basis.weight + static_cast<int64_t>(p - basis.kept) * basis.weight_width();
      for (int32_t i = 0; i < basis.kept; ++i) predicted += f16_to_f32(weight[i]) * kept[i];
      output[basis.index[p]] += predicted;
    }
  }

  const Real whole = mass + (a.sink_logit ? std::exp(a.sink_logit[query_head] - maximum) : Real(0));
  const RowRange out_rows = rows_of(a.output, a.batch, sequence);
  char *row = const_cast<char *>(element(a.output, out_rows.row, query_head, out_rows.first + token));
  for (int32_t j = 0; j < value_channels; ++j) store_element(row, a.output.dtype, j, mass > 0 ? static_cast<float>(output[j] / whole) : 0.0f);
  if (a.lse) a.lse[lse_index(a.query, a.batch, sequence, query_head, token)] = static_cast<float>(mass > 0 ? maximum + std::log(mass) : maximum);
}

template <class Real>
void attend_all(const Arguments &a, think_dtype operands = 0) {
  for (int32_t sequence = 0; sequence < a.batch.count; ++sequence) {
    const int64_t queries = rows_of(a.query, a.batch, sequence).count;
    for (int32_t head = 0; head < a.shape.query_heads; ++head) {
      for (int64_t token = 0; token < queries; ++token) attend_one<Real>(a, sequence, head, token, queries, operands);
    }
  }
}

}  // namespace

void attend(const Arguments &arguments) { attend_all<double>(arguments); }
void attend_single(const Arguments &arguments) { attend_all<float>(arguments); }
void attend_rounded(const Arguments &arguments, think_dtype operands) { attend_all<float>(arguments, operands); }

void merge(const Merge &a) {
  const int64_t *extent = a.output.extent;
  for (int64_t b = 0; b < extent[0]; ++b) {
    for (int64_t h = 0; h < extent[1]; ++h) {
      for (int64_t t = 0; t < extent[2]; ++t) {
        const int64_t place = (b * extent[1] + h) * extent[2] + t;
        double maximum = -std::numeric_limits<double>::infinity(), mass = 0;
        for (int32_t i = 0; i < a.count; ++i) maximum = std::max(maximum, static_cast<double>(a.lses[i][place]));
        std::vector<double> row(extent[3]);
        for (int32_t i = 0; i < a.count; ++i) {
          if (std::isinf(a.lses[i][place])) continue;
          const double share = std::exp(a.lses[i][place] - maximum);
          mass += share;
          for (int64_t j = 0; j < extent[3]; ++j) row[j] += share * load_element(element(a.outputs[i], b, h, t), a.outputs[i].dtype, j);
        }
        char *out = const_cast<char *>(element(a.output, b, h, t));
        for (int64_t j = 0; j < extent[3]; ++j) store_element(out, a.output.dtype, j, mass > 0 ? static_cast<float>(row[j] / mass) : 0.0f);
        if (a.lse) a.lse[place] = static_cast<float>(maximum + (mass > 0 ? std::log(mass) : 0.0));
      }
    }
  }
}

}  // namespace think::attend::reference
