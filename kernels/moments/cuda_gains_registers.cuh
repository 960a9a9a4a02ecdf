// Gains of up to 128 channels: the matrix stays in the registers of one block, eight rows of each warp, and what warps must know of each other's rows
// passes through shared memory.
#pragma once

#include "cuda_gains.cuh"

namespace think::moments::cuda {
namespace {

constexpr int32_t kRegisterChannels = 128;
constexpr int32_t kWarpRows = 8;                          // channels come in steps of 8, so no warp has fewer
constexpr int32_t kLaneColumns = kRegisterChannels / 32;  // lane, lane + 32, ...
constexpr int32_t kRowLanes = 32 / kWarpRows;             // lanes that get the sum of a row
constexpr int32_t kRegisterThreads = kRegisterChannels / kWarpRows * 32;

// What a warp has of the matrix.
struct Rest {
  double x[kWarpRows][kLaneColumns];
  int32_t channel[kWarpRows];  // of each row
  uint32_t gone;               // the lane's columns that were eliminated: publish() clears what rounding leaves there, so that it never grows
};

struct RegisterElimination {
  Shared<double> column;   // [2][kWarpRows] columns of channels that are taken
  Shared<double> inverse;  // of their pivots, 0 = not alive; values: of each channel's variance
  Shared<double> worth;    // values: what each channel would gain
  Shared<float> first;     // keys: variances at the start
  Shared<int32_t> order;   // keys: by score
};

THINK_HOST_DEVICE RegisterElimination take_registers(SharedCarver &carver) {
  RegisterElimination work;
  work.column = carver.take<double>(2 * kWarpRows * kRegisterChannels);
  work.inverse = carver.take<double>(kRegisterChannels);
  work.worth = carver.take<double>(kRegisterChannels);
  work.first = carver.take<float>(kRegisterChannels);
  work.order = carver.take<int32_t>(kRegisterChannels);
  return work;
}

uint32_t registers_bytes() {
  SharedCarver carver;
  take_registers(carver);
  return carver.bytes();
}

THINK_DEVICE int32_t column_of(int32_t place) { return 32 * place + lane_index(); }

THINK_DEVICE void publish(Rest &rest, int32_t row, Shared<double> column) {
#pragma unroll
  for (int32_t j = 0; j < kLaneColumns; ++j) {
    if (rest.gone >> j & 1) rest.x[row][j] = 0;
    store_shared(column + column_of(j), rest.x[row][j]);
  }
}

// Each row's sum over the warp, for the kRowLanes lanes from kRowLanes times the row on. Lanes hand over the half of the rows that is not theirs.
THINK_DEVICE double sum_rows(double (&sum)[kWarpRows]) {
  const auto add_from = [](double own, double given, int32_t distance) {
    return own + device::shuffle_wide(given, [&](uint32_t half) { return shuffle_xor(half, distance); });
  };
  const auto hand_over = [&](int32_t rows) {
#pragma unroll
    for (int32_t a = 0; a < rows; ++a) {
      const double low = sum[a], high = sum[a + rows];  // values, as a choice between two places would need an address
      const bool upper = lane_index() & rows * kRowLanes;
      sum[a] = add_from(upper ? high : low, upper ? low : high, rows * kRowLanes);
    }
  };
  static_assert(kWarpRows == 8 && kRowLanes == 4);
  hand_over(4), hand_over(2), hand_over(1);
  const double half = add_from(sum[0], sum[0], 2);
  return add_from(half, half, 1);
}

// Takes what `channel` explains out of the rows from kFirst on that are `left`. then(row): after each of them.
template <int32_t kFirst, class Then>
THINK_DEVICE void eliminate(Rest &rest, uint32_t left, Shared<double> column, int32_t channel, double inverse, const Then &then) {
  double factor[kLaneColumns], own[kWarpRows];
#pragma unroll
  for (int32_t j = 0; j < kLaneColumns; ++j) {
    const bool gone = column_of(j) == channel;
    factor[j] = gone ? 1 : load_shared(column + column_of(j)) * inverse;
    rest.gone |= gone ? 1u << j : 0;
  }
#pragma unroll
  for (int32_t a = kFirst; a < kWarpRows; ++a) own[a] = load_shared(column + rest.channel[a]);
#pragma unroll
  for (int32_t a = kFirst; a < kWarpRows; ++a) {
    if (!(left >> a & 1)) continue;
#pragma unroll
    for (int32_t j = 0; j < kLaneColumns; ++j) rest.x[a][j] -= own[a] * factor[j];
    then(a);
  }
}

constexpr uint32_t kAllRows = (1u << kWarpRows) - 1;

// Publishes the warp's rows from kRow on, one after the other, as columns [kWarpRows] and inverses of their pivots, and eliminates their channels in
// those that come later. Gives the inverse of the row that the lane has in sum_rows().
template <int32_t kRow = 0>
THINK_DEVICE double eliminate_own(const RegisterElimination &work, Rest &rest, Shared<double> columns, Shared<double> inverses) {
  const Shared<double> column = columns + kRow * kRegisterChannels;
  const int32_t channel = rest.channel[kRow];
  publish(rest, kRow, column);
  sync_warp();
  const double pivot = load_shared(column + channel), inverse = is_alive(pivot, load_shared(work.first + channel)) ? 1 / pivot : 0;
  if (lane_index() == 0) store_shared(inverses + kRow, inverse);
  if constexpr (kRow + 1 == kWarpRows) {
    return inverse;
  } else {
    if (inverse != 0) eliminate<kRow + 1>(rest, kAllRows, column, channel, inverse, [](int32_t) {});
    const double later = eliminate_own<kRow + 1>(work, rest, columns, inverses);
    return lane_index() / kRowLanes == kRow ? inverse : later;
  }
}

// Keys. Rows lie by score, so a warp is done with all rows of earlier warps before it takes its own, waits for no later one, and goes on to its gains:
// a row of what was left when its channel was taken is that channel's column, and the gain a product of two of those with the metric.
THINK_DEVICE void gains_by_score(const GainsHead &head, int32_t channels, const RegisterElimination &work, Rest &rest) {
  const int32_t warp = warp_index(), warps = block_threads() / 32;
  const auto columns_of = [&](int32_t panel) { return work.column + panel % 2 * kWarpRows * kRegisterChannels; };
  const auto meet = [&](int32_t panel) { sync_named(1, (warps - panel) * 32); };  // of the warps from `panel` on
#pragma unroll 1
  for (int32_t panel = 0; panel < warp; ++panel) {
    meet(panel);
#pragma unroll 1
    for (int32_t i = 0; i < kWarpRows; ++i) {
      const int32_t step = panel * kWarpRows + i;
      const double inverse = load_shared(work.inverse + step);
      const Shared<double> column = columns_of(panel) + i * kRegisterChannels;
      if (inverse != 0) eliminate<0>(rest, kAllRows, column, load_shared(work.order + step), inverse, [](int32_t) {});
    }
  }
  const double inverse = eliminate_own(work, rest, columns_of(warp), work.inverse + warp * kWarpRows);
  meet(warp);

  double sum[kWarpRows] = {};
#pragma unroll
  for (int32_t j = 0; j < kLaneColumns; ++j) {
    bool used = false;  // not by channels that were taken before
#pragma unroll
    for (int32_t a = 0; a < kWarpRows; ++a) used |= rest.x[a][j] != 0;
#pragma unroll 1
    for (uint32_t lanes = ballot(used && column_of(j) < channels); lanes; lanes &= lanes - 1) {
      const int32_t lane = trailing_zeros(lanes);
      const float *line = head.metric + (32 * j + lane) * channels;
      float metric[kLaneColumns] = {};
#pragma unroll
      for (int32_t i = 0; i < kLaneColumns; ++i) {
        if (column_of(i) < channels) metric[i] = load_constant(line + column_of(i));
      }
#pragma unroll
      for (int32_t a = 0; a < kWarpRows; ++a) {
        double product = 0;
#pragma unroll
        for (int32_t i = 0; i < kLaneColumns; ++i) product += static_cast<double>(metric[i]) * rest.x[a][i];
        sum[a] += device::shuffle_wide(rest.x[a][j], [&](uint32_t half) { return shuffle(half, lane); }) * product;
      }
    }
  }
  const double drop = sum_rows(sum);
  const int32_t step = warp * kWarpRows + lane_index() / kRowLanes;
  if (lane_index() % kRowLanes == 0) store_step(head, step, load_shared(work.order + step), drop * inverse);
}

// Values. The worth of a channel is the sum of its column's squares, by symmetry of its row's, which its warp has.
THINK_DEVICE void gains_best_first(const GainsHead &head, int32_t channels, const RegisterElimination &work, Rest &rest) {
  const int32_t own_row = lane_index() / kRowLanes, own = warp_index() * kWarpRows + own_row;
  uint32_t left = kAllRows;
  double squares[kWarpRows] = {};
  const auto square = [&](int32_t a) {
    const double(&x)[kLaneColumns] = rest.x[a];
    squares[a] = (x[0] * x[0] + x[1] * x[1]) + (x[2] * x[2] + x[3] * x[3]);
  };
  static_assert(kLaneColumns == 4);
#pragma unroll
  for (int32_t a = 0; a < kWarpRows; ++a) square(a);
  double sum = sum_rows(squares), variance = load_constant(head.covariance + own * (channels + 1));
  const double first = variance;
#pragma unroll 1
  for (int32_t step = 0; step < channels; ++step) {
    const double own_inverse = is_alive(variance, first) ? 1 / variance : 0, gain = sum * own_inverse;
    if (lane_index() % kRowLanes == 0) {
      store_shared(work.inverse + own, own_inverse);
      store_shared(work.worth + own, left >> own_row & 1 ? gain > 0 ? gain : 0 : -1);
    }
    sync_block();
    const Best best = choose(work.worth, channels);
    const double inverse = load_shared(work.inverse + best.channel);
    const int32_t place = best.channel - warp_index() * kWarpRows;
#pragma unroll
    for (int32_t a = 0; a < kWarpRows; ++a) {
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
    for (int32_t a = 0; a < kWarpRows; ++a) squares[a] = 0;
    eliminate<0>(rest, left, work.column, best.channel, inverse, square);
    sum = sum_rows(squares);
  }
}

template <bool kKeys>
__global__ void __launch_bounds__(kRegisterThreads, 1) moments_gains(const __grid_constant__ GainsCall call) {
  const GainsHead head = gains_head(call);
  const int32_t channels = call.channels;
  SharedCarver carver = shared_memory();
  const RegisterElimination work = take_registers(carver);
  if constexpr (kKeys) {
    rank(work.order, head.score, channels);
    if (thread_index() < channels) store_shared(work.first + thread_index(), load_constant(head.covariance + thread_index() * (channels + 1)));
    sync_block();
  }
  Rest rest;
  rest.gone = 0;
#pragma unroll
  for (int32_t a = 0; a < kWarpRows; ++a) {
    const int32_t place = warp_index() * kWarpRows + a;
    rest.channel[a] = kKeys ? load_shared(work.order + place) : place;
    const float *line = head.covariance + rest.channel[a] * channels;
#pragma unroll
    for (int32_t j = 0; j < kLaneColumns; ++j) rest.x[a][j] = column_of(j) < channels ? load_constant(line + column_of(j)) : 0;
  }
  if constexpr (kKeys) {
    gains_by_score(head, channels, work, rest);
  } else {
    gains_best_first(head, channels, work, rest);
  }
}

}  // namespace
}  // namespace think::moments::cuda
