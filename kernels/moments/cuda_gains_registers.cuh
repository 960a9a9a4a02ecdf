// Gains of a matrix in the registers of one block, some rows of each warp; what warps must know of each other's rows passes through shared memory.
// Keys: 128 rows of up to 128 channels, or 64 of up to 256 at a time. Values, of which every row changes in every step: up to 128 channels.
#pragma once

#include "cuda_gains.cuh"

namespace think::moments::cuda {
namespace {

constexpr int32_t kRegisterChannels = 128;  // whose matrix lies in registers as a whole
constexpr int32_t kRegisterWarps = 16;
constexpr int32_t kRegisterThreads = kRegisterWarps * 32;

// What a warp has of the matrix: kRows rows, of which a lane has the columns lane, lane + 32, ...
template <int32_t kRows, int32_t kColumns>
struct Rest {
  static constexpr uint32_t kAll = (1u << kRows) - 1;
  static constexpr int32_t kRowLanes = 32 / kRows;  // lanes that get the sum of a row

  double x[kRows][kColumns];
  int32_t channel[kRows];  // of each row
  uint32_t gone;           // the lane's columns that were eliminated: publish() clears what rounding leaves there, so that it never grows
};

struct RegisterElimination {
  Shared<double> column;   // [2][kRows][32 kColumns] columns of channels that are taken
  Shared<double> inverse;  // of their pivots, 0 = not alive; values: of each channel's variance
  Shared<double> worth;    // values: what each channel would gain
  Shared<float> first;     // keys: variances at the start
  Shared<int32_t> order;   // keys: by score
};

THINK_HOST_DEVICE RegisterElimination take_registers(SharedCarver &carver) {
  RegisterElimination work;
  work.column = carver.take<double>(2 * 8 * kRegisterChannels);
  work.inverse = carver.take<double>(kMaxChannels);
  work.worth = carver.take<double>(kRegisterChannels);
  work.first = carver.take<float>(kMaxChannels);
  work.order = carver.take<int32_t>(kMaxChannels);
  return work;
}

uint32_t registers_bytes() {
  SharedCarver carver;
  take_registers(carver);
  return carver.bytes();
}

THINK_DEVICE int32_t column_of(int32_t place) { return 32 * place + lane_index(); }

template <int32_t kRows, int32_t kColumns>
THINK_DEVICE void load_row(Rest<kRows, kColumns> &rest, int32_t row, const float *covariance, int32_t channels, int32_t channel) {
  rest.channel[row] = channel;
#pragma unroll
  for (int32_t j = 0; j < kColumns; ++j) rest.x[row][j] = column_of(j) < channels ? load_constant(covariance + (channel * channels + column_of(j))) : 0;
}

template <int32_t kRows, int32_t kColumns>
THINK_DEVICE void publish(Rest<kRows, kColumns> &rest, int32_t row, Shared<double> column) {
#pragma unroll
  for (int32_t j = 0; j < kColumns; ++j) {
    if (rest.gone >> j & 1) rest.x[row][j] = 0;
    store_shared(column + column_of(j), rest.x[row][j]);
  }
}

// Each row's sum over the warp, row 0 for the first 32 / kRows lanes and so on. Lanes hand over the half of the rows that is not theirs.
template <int32_t kRows, int32_t kDistance = 16>
THINK_DEVICE double sum_rows(const double (&sum)[kRows]) {
  const auto add_from = [](double own, double given, int32_t distance) {
    return own + device::shuffle_wide(given, [&](uint32_t half) { return shuffle_xor(half, distance); });
  };
  if constexpr (kRows > 1) {
    double half[kRows / 2];
#pragma unroll
    for (int32_t a = 0; a < kRows / 2; ++a) {
      const double low = sum[a], high = sum[a + kRows / 2];  // values, as a choice between two places would need an address
      const bool upper = lane_index() & kDistance;
      half[a] = add_from(upper ? high : low, upper ? low : high, kDistance);
    }
    return sum_rows<kRows / 2, kDistance / 2>(half);
  } else {
    double total = sum[0];
    for (int32_t distance = kDistance; distance > 0; distance /= 2) total = add_from(total, total, distance);
    return total;
  }
}

// Takes what `channel` explains out of the rows from kFirst on that are `left`. then(row): after each of them.
template <int32_t kFirst, int32_t kRows, int32_t kColumns, class Then>
THINK_DEVICE void eliminate(Rest<kRows, kColumns> &rest, uint32_t left, Shared<double> column, int32_t channel, double inverse, const Then &then) {
  double factor[kColumns], own[kRows];
#pragma unroll
  for (int32_t j = 0; j < kColumns; ++j) {
    const bool gone = column_of(j) == channel;
    const double entry = load_shared(column + column_of(j));
    factor[j] = gone ? 1 : entry * inverse;
    rest.gone |= gone ? 1u << j : 0;
  }
#pragma unroll
  for (int32_t a = kFirst; a < kRows; ++a) own[a] = load_shared(column + rest.channel[a]);
#pragma unroll
  for (int32_t a = kFirst; a < kRows; ++a) {
    if (!(left >> a & 1)) continue;
#pragma unroll
    for (int32_t j = 0; j < kColumns; ++j) rest.x[a][j] -= own[a] * factor[j];
    then(a);
  }
}

// Publishes the warp's rows from kRow on, one after the other, as columns and inverses of their pivots, and eliminates their channels in those that come
// later.
template <int32_t kRow = 0, int32_t kRows, int32_t kColumns>
THINK_DEVICE void eliminate_own(const RegisterElimination &work, Rest<kRows, kColumns> &rest, Shared<double> columns, Shared<double> inverses) {
  const Shared<double> column = columns + kRow * 32 * kColumns;
  const int32_t channel = rest.channel[kRow];
  publish(rest, kRow, column);
  sync_warp();
  const double pivot = load_shared(column + channel), inverse = is_alive(pivot, load_shared(work.first + channel)) ? 1 / pivot : 0;
  if (lane_index() == 0) store_shared(inverses + kRow, inverse);
  if constexpr (kRow + 1 < kRows) {
    if (inverse != 0) eliminate<kRow + 1>(rest, rest.kAll, column, channel, inverse, [](int32_t) {});
    eliminate_own<kRow + 1>(work, rest, columns, inverses);
  }
}

// Keys, of a block's rows from `begin` of the order on. As they lie by score, a warp is done with all rows of earlier warps before it takes its own, waits
// for no later one, and goes on to its gains: a row of what was left when its channel was taken is that channel's column, and the gain a product of two
// of those with the metric.
template <int32_t kRows, int32_t kColumns>
THINK_DEVICE void gains_by_score(const GainsCall &call, const RegisterElimination &work, int32_t begin) {
  constexpr int32_t kBlockRows = kRegisterWarps * kRows;
  constexpr bool kInPortions = kBlockRows < 32 * kColumns;
  const int32_t channels = call.channels, warp = warp_index(), own_step = begin + warp * kRows;
  const int32_t warps = (channels - begin < kBlockRows ? channels - begin : kBlockRows) / kRows;
  if (warp >= warps) return;
  Rest<kRows, kColumns> rest;
  rest.gone = 0;
  const float *covariance = gains_head(call).covariance;
#pragma unroll
  for (int32_t a = 0; a < kRows; ++a) load_row(rest, a, covariance, channels, load_shared(work.order + (own_step + a)));

  double *columns = kInPortions ? call.left + (static_cast<int64_t>(block_x()) * call.kv_heads + block_y()) * channels * channels : nullptr;
  // Panels of kRows columns, first those of earlier portions. A panel's buffer is free again when all have come for the next one.
  const int32_t earlier = begin / kRows;
  const auto columns_of = [&](int32_t panel) { return work.column + panel % 2 * kRows * 32 * kColumns; };
  const auto meet = [&](int32_t panel) { sync_named(1, (panel < earlier ? warps : earlier + warps - panel) * 32); };  // those for whom it is new
  // One place for the barrier: compute-sanitizer wants a block's threads to meet in one.
#pragma unroll 1
  for (int32_t panel = 0;; ++panel) {
    const bool own = panel == earlier + warp;
    if (own) {
      eliminate_own(work, rest, columns_of(panel), work.inverse + own_step);
    } else if (kInPortions && panel < earlier) {
      for (int32_t i = thread_index(); i < kRows * 32 * kColumns; i += warps * 32) {
        const int32_t line = panel * kRows + i / (32 * kColumns), column = i % (32 * kColumns);
        store_shared(columns_of(panel) + i, column < channels ? load_global(columns + (line * channels + column)) : 0);
      }
    }
    meet(panel);
    if (own) break;
#pragma unroll 1
    for (int32_t i = 0; i < kRows; ++i) {
      const int32_t step = panel * kRows + i;
      const double factor = load_shared(work.inverse + step);
      if (factor != 0) eliminate<0>(rest, rest.kAll, columns_of(panel) + i * 32 * kColumns, load_shared(work.order + step), factor, [](int32_t) {});
    }
  }
  if (kInPortions && begin + kBlockRows < channels) {
#pragma unroll
    for (int32_t j = 0; j < kColumns; ++j) {
      if (column_of(j) >= channels) continue;
#pragma unroll
      for (int32_t a = 0; a < kRows; ++a) store_global(columns + ((own_step + a) * channels + column_of(j)), rest.x[a][j]);
    }
  }

  const GainsHead head = gains_head(call);  // found again rather than kept: registers are what is short
  double sum[kRows] = {};
#pragma unroll
  for (int32_t j = 0; j < kColumns; ++j) {
    bool used = false;  // not by channels that were taken before
#pragma unroll
    for (int32_t a = 0; a < kRows; ++a) used |= rest.x[a][j] != 0;
#pragma unroll 1
    for (uint32_t lanes = ballot(used && column_of(j) < channels); lanes; lanes &= lanes - 1) {
      const int32_t lane = trailing_zeros(lanes);
      const float *line = head.metric + (32 * j + lane) * channels;
      float metric[kColumns];  // behind the last channel any of them, for what is left there is 0
#pragma unroll
      for (int32_t i = 0; i < kColumns; ++i) metric[i] = load_constant(line + (column_of(i) < channels ? column_of(i) : 0));
#pragma unroll
      for (int32_t a = 0; a < kRows; ++a) {
        double product = 0;
#pragma unroll
        for (int32_t i = 0; i < kColumns; ++i) product += static_cast<double>(metric[i]) * rest.x[a][i];
        sum[a] += device::shuffle_wide(rest.x[a][j], [&](uint32_t half) { return shuffle(half, lane); }) * product;
      }
    }
  }
  const double drop = sum_rows(sum);
  const int32_t step = own_step + lane_index() / rest.kRowLanes;
  if (lane_index() % rest.kRowLanes == 0) store_step(head, step, load_shared(work.order + step), drop * load_shared(work.inverse + step));
}

// Values. The worth of a channel is the sum of its column's squares, by symmetry of its row's, which its warp has.
template <int32_t kRows, int32_t kColumns>
THINK_DEVICE void gains_best_first(const GainsHead &head, int32_t channels, const RegisterElimination &work) {
  Rest<kRows, kColumns> rest;
  rest.gone = 0;
#pragma unroll
  for (int32_t a = 0; a < kRows; ++a) load_row(rest, a, head.covariance, channels, warp_index() * kRows + a);
  const int32_t own_row = lane_index() / rest.kRowLanes, own = warp_index() * kRows + own_row;
  uint32_t left = rest.kAll;
  double squares[kRows] = {};
  const auto square = [&](int32_t a) {
    const double(&x)[kColumns] = rest.x[a];
    squares[a] = (x[0] * x[0] + x[1] * x[1]) + (x[2] * x[2] + x[3] * x[3]);
  };
  static_assert(kColumns == 4);
#pragma unroll
  for (int32_t a = 0; a < kRows; ++a) square(a);
  double sum = sum_rows(squares), variance = load_constant(head.covariance + own * (channels + 1));
  const double first = variance;
#pragma unroll 1
  for (int32_t step = 0; step < channels; ++step) {
    const double own_inverse = is_alive(variance, first) ? 1 / variance : 0, gain = sum * own_inverse;
    if (lane_index() % rest.kRowLanes == 0) {
      store_shared(work.inverse + own, own_inverse);
      store_shared(work.worth + own, left >> own_row & 1 ? gain > 0 ? gain : 0 : -1);
    }
    sync_block();
    const Best best = choose(work.worth, channels);
    const double inverse = load_shared(work.inverse + best.channel);
    const int32_t place = best.channel - warp_index() * kRows;
#pragma unroll
    for (int32_t a = 0; a < kRows; ++a) {
      if (place != a) continue;
      publish(rest, a, work.column);
      left &= ~(1u << a);
    }
    if (thread_index() == 0) store_step(head, step, best.channel, best.worth);
    sync_block();
    if (inverse == 0) continue;
    const double entry = load_shared(work.column + own);
    variance -= entry * (entry * inverse);
#pragma unroll
    for (int32_t a = 0; a < kRows; ++a) squares[a] = 0;
    eliminate<0>(rest, left, work.column, best.channel, inverse, square);
    sum = sum_rows(squares);
  }
}

template <bool kKeys, int32_t kRows, int32_t kColumns>
__global__ void __launch_bounds__(kRegisterThreads, 1) moments_gains(const __grid_constant__ GainsCall call) {
  const GainsHead head = gains_head(call);
  SharedCarver carver = shared_memory();
  const RegisterElimination work = take_registers(carver);
  if constexpr (kKeys) {
    const int32_t own = thread_index();
    rank(work.order, head.score, call.channels);
    if (own < call.channels) store_shared(work.first + own, load_constant(head.covariance + own * (call.channels + 1)));
    sync_block();
    for (int32_t begin = 0; begin < call.channels; begin += kRegisterWarps * kRows) {
      if (begin > 0) sync_block();  // the columns of earlier rows are in memory
      gains_by_score<kRows, kColumns>(call, work, begin);
    }
  } else {
    gains_best_first<kRows, kColumns>(head, call.channels, work);
  }
}

}  // namespace
}  // namespace think::moments::cuda
