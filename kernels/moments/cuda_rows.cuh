// What a launch of the moments stage knows of its heads, and how rows come into shared memory.
#pragma once

#include "../common/device.cuh"
#include "cuda.h"

namespace think::moments::cuda {
namespace {

using namespace ptx;

constexpr int32_t kThreads = 256;
constexpr int32_t kBlocks = 2;        // of a multiprocessor, at least
constexpr int32_t kTile = 64;         // rows and queries of a tile of logits; channels of a tile of a covariance
constexpr int32_t kDepth = 64;        // channels of the queries that are in shared memory at a time
constexpr int32_t kPitch = 64 + 4;    // floats of a line: 4 mod 32 lets eight lanes store to eight lines without meeting in a bank
constexpr int32_t kMassParts = 4;     // warps that share a row's mass, side by side
constexpr int32_t kStepRows = 32;     // rows that a covariance takes at a time
constexpr int32_t kSplits = 16;       // parts of a covariance, at most
constexpr int32_t kSplitRows = 512;   // rows of such a part, at least
constexpr float kLowest = -1e30f;     // below any logit, and finite, so that differences of it are numbers
constexpr float kLog2E = 1.4426950408889634f;

THINK_HOST_DEVICE constexpr int32_t up(int32_t value, int32_t multiple) { return (value + multiple - 1) / multiple * multiple; }
THINK_HOST_DEVICE constexpr int32_t tiles_of(int32_t count) { return (count + kTile - 1) / kTile; }
// By the rows alone: the same for a sequence in whatever batch.
THINK_HOST_DEVICE constexpr int32_t split_rows(int32_t rows) {
  const int32_t share = up((rows + kSplits - 1) / kSplits, kStepRows);
  return share > kSplitRows ? share : kSplitRows;
}
THINK_HOST_DEVICE constexpr int32_t pairs_of(int32_t channels) { return tiles_of(channels) * (tiles_of(channels) + 1) / 2; }
THINK_HOST_DEVICE constexpr int32_t key_pitch(int32_t channels) { return up(channels, 32) + 4; }
// Of 16-bit numbers, in chunks of eight. Odd, so that eight lines lie in different banks.
THINK_HOST_DEVICE constexpr int32_t row_pitch(int32_t channels) { return up(channels, 16) / 8 | 1; }

// The state of a head, as view() lays it out.
struct StateLayout {
  char *base;
  int64_t slot_bytes, head_floats;
  int32_t key_covariance, query_moment, value_mean, value_covariance, rows;  // floats from the head's first, the mean of the keys
};

struct MomentsCall {
  device::Side key, value;
  device::Run run;
  think_tensor query;
  const int32_t *query_slot, *slot;
  StateLayout state;
  int32_t first_sequence;  // of this wave
  int32_t query_bytes;     // of an element
  int32_t kv_heads, group, key_channels, value_channels;
  float scale, softcap, share;
  int32_t sinks, recent;
  bool causal, values;
  bool mass_only;  // the mass of all rows is the result; nothing is moved and nothing summed

  // Workspace of a wave, [sequence][head] of:
  Float2 *partial_columns;  // [tile of all rows][columns]: largest logit, sum of exponentials
  Float2 *all_columns;      // [columns]: largest logit, inverse of the sum
  float *mass;              // [moved rows; a whole number of tiles]
  double *tile_mass;        // [tile of moved rows]
  float *sums;              // [tile of moved rows][2][key channels + value channels]: sum of x, sum of mass * x
  double *weights;          // [2]: the weight of a row is the first + its mass times the second
  float *partial;           // [split][key channels ^ 2 + value channels ^ 2]
  int32_t tiles, moved_tiles, columns, splits;  // at most: what the arrays were made for
};

// One sequence and KV head.
struct Head {
  int32_t sequence, head;
  int64_t scratch;  // of the wave's arrays
  int32_t first, tokens;
  int32_t moved, moved_first;  // rows that a prune would move, from `first`
  int32_t query_rows, columns;
};

THINK_DEVICE Head head_of(const MomentsCall &call) {
  Head head;
  head.sequence = call.first_sequence + block_z();
  head.head = block_y();
  head.scratch = static_cast<int64_t>(block_z()) * call.kv_heads + head.head;
  head.first = device::first_of(call.run, head.sequence, head.head);
  head.tokens = device::length_of(call.run, head.sequence, head.head);
  const PruneRange range = device::prune_range(head.tokens, call.sinks, call.recent);
  head.moved_first = call.mass_only ? 0 : static_cast<int32_t>(range.first);
  head.moved = call.mass_only ? head.tokens : static_cast<int32_t>(range.count);
  const int32_t rows = static_cast<int32_t>(call.query.extent[2]);
  head.query_rows = rows < head.tokens ? rows : head.tokens;
  head.columns = head.query_rows * call.group;
  return head;
}

THINK_DEVICE float *state_of(const MomentsCall &call, const Head &head) {
  char *slot = call.state.base + device::slot_of(call.slot, head.sequence) * call.state.slot_bytes;
  return reinterpret_cast<float *>(slot) + head.head * call.state.head_floats;
}

// ---- rows in shared memory

// Eight numbers of lines of `chunks` times eight. A quarter of a warp has the same chunk of eight lines, and the whole warp four chunks of each: whole
// sectors, and no bank twice.
struct Unit {
  int32_t row, chunk;

  THINK_DEVICE Unit(int32_t number, int32_t chunks) : row(number / 8 / chunks * 8 + number % 8), chunk(number / 8 % chunks) {}
};

THINK_DEVICE void store_unit(Shared<float> lines, int32_t pitch, const Unit &unit, const float (&x)[8]) {
  const Shared<float> to = lines + (unit.row * pitch + unit.chunk * 8);
  store_shared(to.as<Float4>(), Float4{x[0], x[1], x[2], x[3]});
  store_shared((to + 4).as<Float4>(), Float4{x[4], x[5], x[6], x[7]});
}

// `rows` lines, a multiple of 8.
template <class Fetch>
THINK_DEVICE void stage(Shared<float> lines, int32_t pitch, int32_t rows, int32_t chunks, const Fetch &fetch) {
  for (int32_t number = thread_index(); number < rows * chunks; number += kThreads) {
    const Unit unit(number, chunks);
    float x[8] = {};
    fetch(x, unit.row, unit.chunk);
    store_unit(lines, pitch, unit, x);
  }
}

// Rows [row, row + count) of the head, zeros behind them.
THINK_DEVICE void stage_rows(Shared<float> lines, int32_t pitch, const device::Side &side, const device::View &view, int32_t channels, int32_t row,
                             int32_t count) {
  stage(lines, pitch, kTile, channels / 8, [&](float(&x)[8], int32_t line, int32_t chunk) {
    if (line < count) device::load_eight(x, device::row_address(view, row + line) + chunk * 8 * side.element_bytes, side.dtype);
  });
}

// Begins to copy `lines` lines (a multiple of 8) of 16-bit numbers, with zeros behind them up to a multiple of 16 channels. address(line): NULL where there
// is none, which makes zeros too. Lanes as in a Unit.
template <class Address>
THINK_DEVICE void copy_lines(Shared<Words4> to, int32_t pitch, int32_t lines, int32_t channels, const Address &address) {
  for (int32_t line = warp_index() * 8 + lane_index() % 8; line < lines; line += block_threads() / 4) {
    const char *from = address(line);
    for (int32_t chunk = lane_index() / 8; chunk < up(channels, 16) / 8; chunk += 4) {
      device::copy_eight(to + (line * pitch + chunk), from + chunk * 16, from && chunk < channels / 8 ? 8 : 0);
    }
  }
}

// Rows [row, row + count) of the head, zeros behind them.
THINK_DEVICE void copy_rows(Shared<Words4> to, const device::View &view, int32_t channels, int32_t lines, int32_t row, int32_t count) {
  copy_lines(to, row_pitch(channels), lines, channels, [&](int32_t line) { return line < count ? device::row_address(view, row + line) : nullptr; });
}

// Where a column's query lies, from `channel` on. Columns are in the order of the query rows: member = column mod group.
THINK_DEVICE const char *query_address(const MomentsCall &call, const Head &head, int32_t slot, int32_t column, int32_t channel) {
  const int32_t bytes = call.query_bytes, row = column / call.group, member = column - row * call.group;
  const int64_t token = call.query.extent[2] - head.query_rows + row;
  return device::element(call.query, slot, static_cast<int64_t>(head.head) * call.group + member, token, bytes) + channel * bytes;
}

}  // namespace
}  // namespace think::moments::cuda
