// Loops of the moments stage, written against kernels/common/simd.h. Only anonymous-namespace code: see there.
#pragma once

#include "../common/element.h"
#include "../common/simd.h"
#include "cpu.h"

namespace think::moments {
namespace {

// Register blocks: rows of keys times vectors of queries, and channels times vectors of channels.
constexpr int kBlock = kRegisters >= 32 ? 8 : 4;
constexpr int kVectors = kPanel / kPad;  // of a full panel: three vectors of the instruction set, not of kPad
constexpr int kWide = 2;
constexpr float kLowest = -1e30f;  // below any logit, and finite, so that differences of it are numbers

static_assert(kMaxChannels % kPad == 0 && kBlockRows % kBlock == 0);

inline int32_t panel_columns() { return kVectors * kLanes; }

template <class Element>
void convert_row(const char *row, int32_t channels, int32_t padded, float *out) {
  const auto *from = reinterpret_cast<const typename Element::Type *>(row);
  int32_t j = 0;
  for (; j + kLanes <= channels; j += kLanes) store(out + j, Element::load(from + j));
  for (; j < channels; ++j) out[j] = load_element(row, Element::dtype, j);
  for (; j < padded; ++j) out[j] = 0;
}

void convert_row(const char *row, think_dtype dtype, int32_t channels, int32_t padded, float *out) {
  if (dtype == THINK_F32) {
    convert_row<F32>(row, channels, padded, out);
  } else if (dtype == THINK_F16) {
    convert_row<F16>(row, channels, padded, out);
  } else {
    convert_row<BF16>(row, channels, padded, out);
  }
}

// Rows [row, row + count) as floats, then zero rows up to kBlockRows.
void convert_block(const SideWork &side, int64_t row, int32_t count, float *out) {
  for (int32_t done = 0; done < count;) {
    const int64_t room = rows_in_block(side.rows, row + done);
    const char *from = row_address(side.rows, row + done);
    const int32_t end = room < count - done ? done + static_cast<int32_t>(room) : count;
    for (; done < end; ++done, from += side.rows.row_stride)
      convert_row(from, side.rows.dtype, side.channels, side.padded, out + done * side.padded);
  }
  for (int64_t j = static_cast<int64_t>(count) * side.padded; j < static_cast<int64_t>(kBlockRows) * side.padded; ++j) out[j] = 0;
}

// moment[i][j] += sum over the block's rows of x_i x_j, for all vectors of j that reach the diagonal or lie right of it.
template <int Vectors>
inline void add_products(const float *rows, int32_t padded, int32_t i, int32_t j, float *moment) {
  Vec sums[kBlock][Vectors];
  for (int a = 0; a < kBlock; ++a) {
    for (int v = 0; v < Vectors; ++v) sums[a][v] = load(moment + (i + a) * padded + j + v * kLanes);
  }
  for (int32_t r = 0; r < kBlockRows; ++r) {
    const float *row = rows + r * padded;
    Vec right[Vectors];
    for (int v = 0; v < Vectors; ++v) right[v] = load(row + j + v * kLanes);
    for (int a = 0; a < kBlock; ++a) {
      const Vec left = broadcast(row[i + a]);
      for (int v = 0; v < Vectors; ++v) sums[a][v] = fma(left, right[v], sums[a][v]);
    }
  }
  for (int a = 0; a < kBlock; ++a) {
    for (int v = 0; v < Vectors; ++v) store(moment + (i + a) * padded + j + v * kLanes, sums[a][v]);
  }
}

void add_block(const float *rows, int32_t channels, int32_t padded, float *moment) {
  for (int32_t i = 0; i < channels; i += kBlock) {
    int32_t j = i / kLanes * kLanes;
    for (; j + kWide * kLanes <= padded; j += kWide * kLanes) add_products<kWide>(rows, padded, i, j, moment);
    for (; j < padded; j += kLanes) add_products<1>(rows, padded, i, j, moment);
  }
}

void prepare(const HeadWork &head) {
  if (head.moved.count == 0) return;
  const SideWork &keys = head.side[THINK_KEYS];
  const int32_t channels = keys.channels, padded = keys.padded, used = head.query_rows * head.group;
  float *moment = keys.partial;
  for (int64_t j = 0; head.query_moment && j < static_cast<int64_t>(channels) * padded; ++j) moment[j] = 0;
  alignas(64) float rows[kBlockRows * kMaxChannels];
  const float root = __builtin_sqrtf(1.0f / static_cast<float>(used));
  for (int32_t block = 0; block < head.columns; block += kBlockRows) {
    for (int32_t r = 0; r < kBlockRows && block + r < head.columns; ++r) {
      const int32_t column = block + r;
      float *row = rows + r * padded;
      if (column < used) {
        const char *query = head.query + column % head.group * head.query_head_stride + column / head.group * head.query_row_stride;
        convert_row(query, head.query_dtype, channels, padded, row);
      } else {
        for (int32_t j = 0; j < padded; ++j) row[j] = 0;
      }
      const int32_t panel = column / panel_columns() * panel_columns();
      const int32_t width = head.columns - panel < panel_columns() ? head.columns - panel : panel_columns();
      float *to = head.panels + static_cast<int64_t>(panel) * channels + (column - panel);
      for (int32_t j = 0; j < channels; ++j) to[static_cast<int64_t>(j) * width] = row[j] * head.scale;
      for (int32_t j = 0; j < padded; ++j) row[j] *= root;
    }
    if (!head.query_moment) continue;
    // The last block may be short: columns are a multiple of kPad only.
    for (int32_t r = head.columns - block; r < kBlockRows; ++r) {
      for (int32_t j = 0; j < padded; ++j) rows[r * padded + j] = 0;
    }
    add_block(rows, channels, padded, moment);
  }
  for (int32_t i = 0; head.query_moment && i < channels; ++i) {
    for (int32_t j = i; j < channels; ++j)
      head.query_moment[i * channels + j] = head.query_moment[j * channels + i] = moment[i * padded + j];
  }
}

// logits[row][column of the panel] = row . query
template <int Vectors>
void dot_panel(const float *rows, int32_t channels, int32_t padded, const float *panel, float *logits) {
  for (int32_t r = 0; r < kBlockRows; r += kBlock) {
    Vec sums[kBlock][Vectors];
    for (int a = 0; a < kBlock; ++a) {
      for (int v = 0; v < Vectors; ++v) sums[a][v] = zero();
    }
    const float *query = panel, *row = rows + r * padded;
    for (int32_t j = 0; j < channels; ++j, query += Vectors * kLanes) {
      Vec right[Vectors];
      for (int v = 0; v < Vectors; ++v) right[v] = load(query + v * kLanes);
      for (int a = 0; a < kBlock; ++a) {
        const Vec left = broadcast(row[a * padded + j]);
        for (int v = 0; v < Vectors; ++v) sums[a][v] = fma(left, right[v], sums[a][v]);
      }
    }
    for (int a = 0; a < kBlock; ++a) {
      for (int v = 0; v < Vectors; ++v) store(logits + (r + a) * panel_columns() + v * kLanes, sums[a][v]);
    }
  }
}

// tanh as 1 - 2 / (exp(2x) + 1): the error is absolute, below 2e-7, which is what a logit of size `softcap` has anyway.
inline Vec cap(Vec logit, Vec softcap, Vec twice_inverse) {
  Vec x = mul(logit, twice_inverse);
  const Vec limit = broadcast(80.0f);
  x = sub(zero(), max(sub(zero(), x), sub(zero(), limit)));
  return mul(softcap, sub(broadcast(1.0f), broadcast(2.0f) / add(exp(x), broadcast(1.0f))));
}

// Finished logits of a block of rows and one panel; -inf where a query does not see a row. `row` counts from the head's first token.
int32_t block_logits(const HeadWork &head, const float *rows, int64_t row, int32_t count, int32_t panel, float *logits) {
  const SideWork &keys = head.side[THINK_KEYS];
  const int32_t left = (head.columns - panel) / kLanes, vectors = left < kVectors ? left : kVectors;
  const float *queries = head.panels + static_cast<int64_t>(panel) * keys.channels;
  if (vectors == 3) {
    dot_panel<3>(rows, keys.channels, keys.padded, queries, logits);
  } else if (vectors == 2) {
    dot_panel<2>(rows, keys.channels, keys.padded, queries, logits);
  } else {
    dot_panel<1>(rows, keys.channels, keys.padded, queries, logits);
  }
  if (head.softcap > 0) {
    const Vec softcap = broadcast(head.softcap), twice_inverse = broadcast(2.0f / head.softcap);
    for (int32_t r = 0; r < count; ++r) {
      for (int v = 0; v < vectors; ++v) {
        float *at = logits + r * panel_columns() + v * kLanes;
        store(at, cap(load(at), softcap, twice_inverse));
      }
    }
  }
  // Row t is seen by query rows t - (tokens - query_rows) and later, and columns are in the order of query rows.
  const int64_t before = head.tokens - head.query_rows;
  if (head.causal && row + count - 1 > before) {
    for (int32_t r = 0; r < count; ++r) {
      const int64_t blind = (row + r - before) * head.group - panel;
      for (int32_t c = 0; c < vectors * kLanes && c < blind; ++c) logits[r * panel_columns() + c] = -__builtin_inff();
    }
  }
  return vectors;
}

void scan(const HeadWork &head, int32_t run) {
  if (head.moved.count == 0) return;
  const SideWork &keys = head.side[THINK_KEYS];
  const int64_t length = run_rows(head.tokens), begin = run * length, end = begin + length < head.tokens ? begin + length : head.tokens;
  float *maximum = head.run_maximum + static_cast<int64_t>(run) * head.columns,
        *sum = head.run_sum + static_cast<int64_t>(run) * head.columns;
  for (int32_t c = 0; c < head.columns; c += kLanes) {
    store(maximum + c, broadcast(kLowest));
    store(sum + c, zero());
  }
  alignas(64) float rows[kBlockRows * kMaxChannels];
  alignas(64) float logits[kBlockRows * kPanel];
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int32_t count = end - row < kBlockRows ? static_cast<int32_t>(end - row) : kBlockRows;
    convert_block(keys, head.first + row, count, rows);
    for (int32_t panel = 0; panel < head.columns; panel += panel_columns()) {
      const int32_t vectors = block_logits(head, rows, row, count, panel, logits);
      for (int v = 0; v < vectors; ++v) {
        const float *column = logits + v * kLanes;
        float *largest = maximum + panel + v * kLanes, *total = sum + panel + v * kLanes;
        const Vec before = load(largest);
        Vec now = before;
        for (int32_t r = 0; r < count; ++r) now = max(now, load(column + r * panel_columns()));
        Vec sums = mul(load(total), exp(sub(before, now)));
        for (int32_t r = 0; r < count; ++r) sums = add(sums, exp(sub(load(column + r * panel_columns()), now)));
        store(largest, now);
        store(total, sums);
      }
    }
  }
}

// Largest logit and inverse denominator of each column over all runs. Columns that only pad get the inverse 0.
void join_runs(const HeadWork &head, float *maximum, float *inverse) {
  const int64_t length = run_rows(head.tokens);
  const int32_t runs = static_cast<int32_t>((head.tokens + length - 1) / length);
  for (int32_t c = 0; c < head.columns; c += kLanes) {
    Vec largest = broadcast(kLowest), total = zero();
    for (int32_t run = 0; run < runs; ++run) largest = max(largest, load(head.run_maximum + static_cast<int64_t>(run) * head.columns + c));
    for (int32_t run = 0; run < runs; ++run) {
      const int64_t at = static_cast<int64_t>(run) * head.columns + c;
      total = fma(load(head.run_sum + at), exp(sub(load(head.run_maximum + at), largest)), total);
    }
    store(maximum + c, largest);
    store(inverse + c, broadcast(1.0f) / total);
  }
  for (int32_t c = head.query_rows * head.group; c < head.columns; ++c) inverse[c] = 0;
}

// sums[0] += x, sums[1] += mass * x, over the block's rows.
void add_sums(const float *rows, int32_t padded, const float *mass, double *sums) {
  for (int32_t j = 0; j < padded; j += kLanes) {
    Vec plain = zero(), weighted = zero();
    for (int32_t r = 0; r < kBlockRows; ++r) {
      const Vec x = load(rows + r * padded + j);
      plain = add(plain, x);
      weighted = fma(broadcast(mass[r]), x, weighted);
    }
    alignas(64) float both[2][kLanes];
    store(both[0], plain);
    store(both[1], weighted);
    for (int l = 0; l < kLanes; ++l) {
      sums[j + l] += both[0][l];
      sums[padded + j + l] += both[1][l];
    }
  }
}

// Attention mass of `count` rows from row `token` on, which `rows` holds as floats.
void block_mass(const HeadWork &head, const float *rows, int64_t token, int32_t count, const float *maximum, const float *inverse,
                float *masses) {
  alignas(64) float logits[kBlockRows * kPanel];
  alignas(64) Vec sums[kBlockRows];
  for (int32_t r = 0; r < kBlockRows; ++r) sums[r] = zero();
  for (int32_t panel = 0; panel < head.columns; panel += panel_columns()) {
    const int32_t vectors = block_logits(head, rows, token, count, panel, logits);
    for (int v = 0; v < vectors; ++v) {
      const Vec largest = load(maximum + panel + v * kLanes), factor = load(inverse + panel + v * kLanes);
      for (int32_t r = 0; r < count; ++r) {
        sums[r] = fma(exp(sub(load(logits + r * panel_columns() + v * kLanes), largest)), factor, sums[r]);
      }
    }
  }
  for (int32_t r = 0; r < count; ++r) masses[r] = sum(sums[r]);
}

void mass(const HeadWork &head, int32_t run) {
  const int64_t length = run_rows(head.moved.count), begin = run * length;
  const int64_t end = begin + length < head.moved.count ? begin + length : head.moved.count;
  if (begin >= end) return;
  const SideWork &keys = head.side[THINK_KEYS];
  for (int side = THINK_KEYS; side <= (head.values ? THINK_VALUES : THINK_KEYS); ++side) {
    double *sums = head.side[side].sums + static_cast<int64_t>(run) * 2 * head.side[side].padded;
    for (int32_t j = 0; j < 2 * head.side[side].padded; ++j) sums[j] = 0;
  }
  float *maximum = head.maximum + static_cast<int64_t>(run) * head.columns,
        *inverse = head.inverse + static_cast<int64_t>(run) * head.columns;
  if (head.share > 0) join_runs(head, maximum, inverse);
  alignas(64) float rows[kBlockRows * kMaxChannels];
  double total = 0;
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int32_t count = end - row < kBlockRows ? static_cast<int32_t>(end - row) : kBlockRows;
    const int64_t token = head.moved.first + row;
    convert_block(keys, head.first + token, count, rows);
    float *masses = head.mass + row;  // moved.count is a multiple of kBlockRows
    if (head.share > 0) {
      block_mass(head, rows, token, count, maximum, inverse, masses);
    } else {
      for (int32_t r = 0; r < count; ++r) masses[r] = 0;
    }
    for (int32_t r = 0; r < count; ++r) total += masses[r];
    add_sums(rows, keys.padded, masses, keys.sums + static_cast<int64_t>(run) * 2 * keys.padded);
    if (head.values) {
      const SideWork &values = head.side[THINK_VALUES];
      convert_block(values, head.first + token, count, rows);
      add_sums(rows, values.padded, masses, values.sums + static_cast<int64_t>(run) * 2 * values.padded);
    }
  }
  head.mass_sum[run] = total;
}

void rows_mass(const HeadWork &head, int32_t run) {
  const int64_t length = run_rows(head.tokens), begin = run * length, end = begin + length < head.tokens ? begin + length : head.tokens;
  if (begin >= end) return;
  float *maximum = head.maximum + static_cast<int64_t>(run) * head.columns,
        *inverse = head.inverse + static_cast<int64_t>(run) * head.columns;
  join_runs(head, maximum, inverse);
  alignas(64) float rows[kBlockRows * kMaxChannels];
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int32_t count = end - row < kBlockRows ? static_cast<int32_t>(end - row) : kBlockRows;
    convert_block(head.side[THINK_KEYS], head.first + row, count, rows);
    block_mass(head, rows, row, count, maximum, inverse, head.mass + row);
  }
}

// The weight of a row is even + by_mass * its mass.
struct Weighting {
  double even, by_mass;
  int32_t runs;
};

Weighting weighting(const HeadWork &head) {
  const int64_t length = run_rows(head.moved.count);
  const int32_t runs = static_cast<int32_t>((head.moved.count + length - 1) / length);
  double total = 0;
  for (int32_t run = 0; run < runs; ++run) total += head.mass_sum[run];
  const double rows = static_cast<double>(head.moved.count);
  // No attention at all on these rows: they weigh the same.
  if (head.share <= 0 || total == 0) return {1 / rows, 0, runs};
  return {(1 - static_cast<double>(head.share)) / rows, head.share / total, runs};
}

void weighted_mean(const SideWork &side, const Weighting &weights, float *mean) {
  for (int32_t j = 0; j < side.padded; ++j) {
    double plain = 0, weighted = 0;
    for (int32_t run = 0; run < weights.runs; ++run) {
      const double *sums = side.sums + static_cast<int64_t>(run) * 2 * side.padded;
      plain += sums[j];
      weighted += sums[side.padded + j];
    }
    mean[j] = static_cast<float>(weights.even * plain + weights.by_mass * weighted);
  }
}

void covariance(const HeadWork &head, int32_t side_index, int32_t run) {
  const SideWork &side = head.side[side_index];
  const int64_t length = run_rows(head.moved.count), begin = run * length;
  const int64_t end = begin + length < head.moved.count ? begin + length : head.moved.count;
  if (begin >= end) return;
  alignas(64) float mean[kMaxChannels];
  alignas(64) float rows[kBlockRows * kMaxChannels];
  const Weighting weights = weighting(head);
  weighted_mean(side, weights, mean);
  float *partial = side.partial + static_cast<int64_t>(run) * side.channels * side.padded;
  for (int64_t j = 0; j < static_cast<int64_t>(side.channels) * side.padded; ++j) partial[j] = 0;
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int32_t count = end - row < kBlockRows ? static_cast<int32_t>(end - row) : kBlockRows;
    convert_block(side, head.first + head.moved.first + row, count, rows);
    for (int32_t r = 0; r < count; ++r) {
      const Vec root = broadcast(__builtin_sqrtf(static_cast<float>(weights.even + weights.by_mass * head.mass[row + r])));
      float *x = rows + r * side.padded;
      for (int32_t j = 0; j < side.padded; j += kLanes) store(x + j, mul(sub(load(x + j), load(mean + j)), root));
    }
    add_block(rows, side.channels, side.padded, partial);
  }
}

void finish(const HeadWork &head, int32_t side_index) {
  const SideWork &side = head.side[side_index];
  const int32_t channels = side.channels;
  const bool measured = head.moved.count > 0 && (side_index == THINK_KEYS || head.values);
  if (side_index == THINK_KEYS) *head.measured = static_cast<float>(head.moved.count);
  if (!measured) {
    for (int32_t j = 0; j < channels; ++j) side.mean[j] = 0;
    for (int64_t j = 0; j < static_cast<int64_t>(channels) * channels; ++j) side.covariance[j] = 0;
    for (int64_t j = 0; side_index == THINK_KEYS && j < static_cast<int64_t>(channels) * channels; ++j) head.query_moment[j] = 0;
    return;
  }
  alignas(64) float mean[kMaxChannels];
  const Weighting weights = weighting(head);
  weighted_mean(side, weights, mean);
  for (int32_t i = 0; i < channels; ++i) side.mean[i] = mean[i];
  const int64_t step = static_cast<int64_t>(channels) * side.padded;
  for (int32_t i = 0; i < channels; ++i) {
    double row[kMaxChannels];
    for (int32_t j = i; j < channels; ++j) row[j] = 0;
    for (int32_t run = 0; run < weights.runs; ++run) {
      const float *partial = side.partial + run * step + static_cast<int64_t>(i) * side.padded;
      for (int32_t j = i; j < channels; ++j) row[j] += partial[j];
    }
    for (int32_t j = i; j < channels; ++j)
      side.covariance[i * channels + j] = side.covariance[j * channels + i] = static_cast<float>(row[j]);
  }
  // A constant channel, here smaller than the rounding of its mean, has no variance: it must not look like a tiny one.
  for (int32_t i = 0; i < channels; ++i) {
    const float noise = 4e-7f * mean[i], variance = side.covariance[i * channels + i];
    if (!(variance <= noise * noise)) continue;
    for (int32_t j = 0; j < channels; ++j) side.covariance[i * channels + j] = side.covariance[j * channels + i] = 0;
  }
}

// Swap rows and columns p and q of a symmetric matrix.
void swap_channels(double *matrix, int32_t channels, int32_t p, int32_t q) {
  double *a = matrix + static_cast<int64_t>(p) * channels, *b = matrix + static_cast<int64_t>(q) * channels;
  for (int32_t j = 0; j < channels; ++j) {
    const double x = a[j];
    a[j] = b[j];
    b[j] = x;
  }
  for (int64_t i = 0; i < static_cast<int64_t>(channels) * channels; i += channels) {
    const double x = matrix[i + p];
    matrix[i + p] = matrix[i + q];
    matrix[i + q] = x;
  }
}

// sum x_j y_j over [begin, channels), both multiples of 8, in a fixed order that vectors can follow.
double dot(const double *__restrict x, const double *__restrict y, int32_t begin, int32_t channels) {
  double lanes[8] = {};
  for (int32_t j = begin; j < channels; j += 8) {
    for (int l = 0; l < 8; ++l) lanes[l] += x[j + l] * y[j + l];
  }
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// product += S x over the active channels; S is symmetric, so its rows serve as columns.
void multiply(const double *__restrict metric, const double *__restrict x, int32_t begin, int32_t channels, double *__restrict product) {
  for (int32_t j = begin; j < channels; ++j) product[j] = 0;
  for (int32_t i = begin; i < channels; i += 4) {
    const double *__restrict a = metric + static_cast<int64_t>(i) * channels;
    const double *__restrict b = a + channels, *__restrict c = b + channels, *__restrict d = c + channels;
    const double xa = x[i], xb = x[i + 1], xc = x[i + 2], xd = x[i + 3];
    for (int32_t j = begin; j < channels; ++j) product[j] += (a[j] * xa + b[j] * xb) + (c[j] * xc + d[j] * xd);
  }
}

// left -= column column^T / pivot; with `squares` also the sum of squares of each column of what remains.
void remove_channel(double *__restrict left, const double *__restrict column, double pivot, int32_t begin, int32_t channels,
                    double *__restrict squares) {
  if (squares) {
    for (int32_t j = begin; j < channels; ++j) squares[j] = 0;
  }
  for (int32_t i = begin; i < channels; ++i) {
    double *__restrict row = left + static_cast<int64_t>(i) * channels;
    const double factor = column[i] / pivot;
    if (squares) {
      for (int32_t j = begin; j < channels; ++j) {
        const double x = row[j] - factor * column[j];
        row[j] = x;
        squares[j] += x * x;
      }
    } else {
      for (int32_t j = begin; j < channels; ++j) row[j] -= factor * column[j];
    }
  }
}

// One elimination. Channels that were taken move to the front, so that the work shrinks; a channel that has nothing left stays among the
// others, because eliminating it would divide by nothing. place[channel] is its row.
void eliminate(int32_t channels, const float *metric_in, const float *covariance_in, double *scratch, int32_t *place, int32_t *order,
               float *gains) {
  const int64_t square = static_cast<int64_t>(channels) * channels;
  double *left = scratch, *metric = left + square, *column = metric + square, *product = column + channels, *first = product + channels;
  double *squares = first + channels;
  for (int64_t i = 0; i < square; ++i) left[i] = covariance_in[i];
  for (int64_t i = 0; metric_in && i < square; ++i) metric[i] = metric_in[i];
  for (int32_t i = 0; i < channels; ++i) {
    first[i] = left[i * channels + i];
    place[i] = i;
    squares[i] = 0;
  }
  for (int32_t i = 0; !metric_in && i < channels; ++i) {
    for (int32_t j = 0; j < channels; ++j) squares[j] += left[i * channels + j] * left[i * channels + j];
  }
  const auto alive = [&](int32_t channel) {
    const double variance = left[static_cast<int64_t>(place[channel]) * (channels + 1)];
    return variance > 1e-6 * first[channel];  // false for NaN
  };
  int32_t taken = 0;  // rows [0, taken) are eliminated
  for (int32_t step = 0; step < channels; ++step) {
    const int32_t begin = taken / 8 * 8;
    int32_t channel = -1;
    if (metric_in) {
      channel = order[step];
    } else {
      double best = -1;
      for (int32_t i = 0; i < channels; ++i) {
        if (place[i] < 0) continue;
        const double variance = left[static_cast<int64_t>(place[i]) * (channels + 1)];
        const double gain = alive(i) && squares[place[i]] > 0 ? squares[place[i]] / variance : 0;
        if (gain > best) {
          best = gain;
          channel = i;
        }
      }
      order[step] = channel;
    }
    const int32_t p = place[channel];
    if (!alive(channel)) {
      gains[step] = 0;
      if (!metric_in) place[channel] = -1;
      continue;
    }
    const double pivot = left[static_cast<int64_t>(p) * (channels + 1)];
    for (int32_t j = begin; j < channels; ++j) column[j] = left[static_cast<int64_t>(p) * channels + j];
    double gain = squares[p];
    if (metric_in) {
      multiply(metric, column, begin, channels, product);
      gain = dot(column, product, begin, channels);
    }
    gain /= pivot;
    gains[step] = gain > 0 ? static_cast<float>(gain) : 0;
    if (p != taken) {
      swap_channels(left, channels, p, taken);
      if (metric_in) swap_channels(metric, channels, p, taken);
      column[p] = column[taken];
      for (int32_t i = 0; i < channels; ++i) {
        if (place[i] == taken) {
          place[i] = p;
          break;
        }
      }
    }
    place[channel] = metric_in ? taken : -1;
    for (int32_t j = 0; j < channels; ++j)
      left[static_cast<int64_t>(taken) * channels + j] = left[static_cast<int64_t>(j) * channels + taken] = 0;
    column[taken] = 0;
    ++taken;
    remove_channel(left, column, pivot, begin, channels, metric_in ? nullptr : squares);
  }
}

}  // namespace
}  // namespace think::moments
