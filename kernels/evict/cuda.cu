// The evict stage on a CUDA device. A block chooses the rows of a head: the score of the last one that stays is found in eight histograms of 4 bits, each
// thread counting in a column of its own, so no two of them meet and no sum depends on an order; then its warps write their runs of rows, ascending. Moving is
// copies: rows of a step are all in registers before the first is stored, which makes overlaps safe.
#include "cuda.h"

#include <cmath>

#include "../common/device.cuh"
#include "think/evict.h"

namespace think::evict::cuda {
namespace {

using namespace ptx;

constexpr int32_t kThreads = 512, kWarps = kThreads / 32;
constexpr int32_t kDigitBits = 4, kDigits = 1 << kDigitBits;
static_assert(kWarps == kDigits, "a warp adds up the columns of a digit");
constexpr int32_t kPoolThreads = 256;
constexpr int32_t kUnitChannels = 8;   // what a thread moves at a time
constexpr int32_t kUnits = 4;          // of a thread in a step
constexpr int32_t kMoveThreads = 512;
constexpr int32_t kMoveRows = 512;     // of a block, between different memories
constexpr int32_t kScores = 8;         // of a thread in a step

struct ChooseCall {
  device::Run run;
  const int32_t *slot;
  int32_t first_sequence, kv_heads;
  int32_t budget, sinks, recent, pooling, kernel;
  const int32_t *budgets;
  bool accumulate;
  const float *mass;
  int64_t mass_stride;
  float *score;
  int64_t score_stride;
  float *pooled;
  int32_t *kept;
  int64_t kept_stride;
  int32_t *lengths;
};

// One sequence and KV head: of its rows [first, end) the `wanted` best ones stay, and all of those before and behind them.
struct Head {
  int64_t at, scratch;
  float *score;
  int32_t tokens, budget, first, end, wanted;
};

THINK_DEVICE Head head_of(const ChooseCall &call) {
  Head head;
  const int32_t sequence = call.first_sequence + block_z();
  head.at = static_cast<int64_t>(sequence) * call.kv_heads + block_y();
  head.scratch = static_cast<int64_t>(block_z()) * call.kv_heads + block_y();
  const int64_t head_of_slot = static_cast<int64_t>(device::slot_of(call.slot, sequence)) * call.kv_heads + block_y();
  head.score = call.score ? call.score + head_of_slot * call.score_stride : nullptr;
  head.tokens = device::length_of(call.run, sequence, block_y());
  const int32_t room = static_cast<int32_t>(call.kept_stride);
  head.budget = device::clamp(call.budgets ? load_constant(call.budgets + head.at) : call.budget, room);
  head.first = call.sinks < head.budget ? call.sinks : head.budget;
  const int32_t left = head.budget - head.first, last = call.recent < left ? call.recent : left;
  head.wanted = left - last;
  head.end = head.tokens - last;
  return head;
}

// What rows are chosen by, if they are not pooled: the sums of H2O, or the mass.
THINK_DEVICE const float *plain_score(const ChooseCall &call, const Head &head) {
  return head.score ? head.score : call.mass + head.scratch * call.mass_stride;
}

// ---- scores, grid (runs of 256 rows, KV heads, sequences): the mass goes into the caller's scores

__global__ void __launch_bounds__(kPoolThreads) evict_score(const __grid_constant__ ChooseCall call) {
  const Head head = head_of(call);
  const int32_t row = block_x() * kPoolThreads + thread_index();
  if (row >= head.tokens) return;
  const float mass = load_stream(call.mass + head.scratch * call.mass_stride + row);
  store_global(head.score + row, call.accumulate ? load_global(head.score + row) + mass : mass);
}

// ---- pooling, the same grid. The order of sums is that of the rows, as on the CPU.

__global__ void __launch_bounds__(kPoolThreads) evict_pool(const __grid_constant__ ChooseCall call) {
  const Head head = head_of(call);
  const int32_t row = block_x() * kPoolThreads + thread_index();
  if (head.tokens <= head.budget || row < head.first || row >= head.end) return;
  const float *score = plain_score(call, head);
  const int32_t reach = call.kernel / 2, from = row - reach > head.first ? row - reach : head.first;
  const int32_t to = row + reach + 1 < head.end ? row + reach + 1 : head.end;
  float pooled = device::nan_to_infinity(load_constant(score + from));
  if (call.pooling == THINK_POOL_MEAN) {
    double sum = 0;  // what lies outside counts as zero, so the divisor is the same everywhere
    for (int32_t near = from; near < to; ++near) sum += static_cast<double>(device::nan_to_infinity(load_constant(score + near)));
    pooled = device::nan_to_infinity(static_cast<float>(sum / call.kernel));
  } else {
    for (int32_t near = from + 1; near < to; ++near) pooled = fmaxf(pooled, device::nan_to_infinity(load_constant(score + near)));
  }
  store_global(call.pooled + head.scratch * call.run.longest + row, pooled);
}

// ---- choice, grid (1, KV heads, sequences)

// Whole numbers in the order of the scores; -0 equals 0.
THINK_DEVICE uint32_t key_of(float score) {
  const uint32_t bits = as_bits(device::nan_to_infinity(score) + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct ChooseParts {
  Shared<int32_t> columns;  // [digit][thread]
  Shared<int32_t> rows;     // [digit]; then above[warp]
  Shared<int32_t> equal;    // [warp]
};

THINK_HOST_DEVICE ChooseParts take_parts(SharedCarver &carver) {
  return {carver.take<int32_t>(kDigits * kThreads), carver.take<int32_t>(kDigits), carver.take<int32_t>(kWarps)};
}

uint32_t parts_bytes() {
  SharedCarver carver;
  take_parts(carver);
  return carver.bytes();
}

// The key of the `wanted`-th best row (from 1), and how many rows with just that key are among the best `wanted`.
struct Limit {
  uint32_t key;
  int32_t equal;
};

THINK_DEVICE Limit find_limit(const ChooseParts &parts, const float *score, const Head &head) {
  Limit limit = {0, head.wanted};
  const int32_t thread = thread_index();
  uint32_t known = 0;  // bits of the key that are settled
#pragma unroll 1
  for (int32_t shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
#pragma unroll
    for (int32_t digit = 0; digit < kDigits; ++digit) store_shared(parts.columns + (digit * kThreads + thread), 0);
#pragma unroll 2
    for (int32_t row = head.first + thread; row < head.end; row += kThreads) {
      const uint32_t key = key_of(load_constant(score + row));
      if ((key & known) != limit.key) continue;
      const Shared<int32_t> column = parts.columns + (static_cast<int32_t>(key >> shift & (kDigits - 1)) * kThreads + thread);
      store_shared(column, load_shared(column) + 1);
    }
    sync_block();
    int32_t rows = 0;
#pragma unroll
    for (int32_t i = 0; i < kThreads; i += 32) rows += load_shared(parts.columns + (warp_index() * kThreads + i + lane_index()));
    rows = warp_sum(rows);
    if (lane_index() == 0) store_shared(parts.rows + warp_index(), rows);
    sync_block();
    int32_t digit = kDigits - 1;
    for (int32_t here; digit > 0 && (here = load_shared(parts.rows + digit)) < limit.equal; --digit) limit.equal -= here;
    limit.key |= static_cast<uint32_t>(digit) << shift;
    known |= (kDigits - 1u) << shift;
  }
  return limit;
}

__global__ void __launch_bounds__(kThreads) evict_choose(const __grid_constant__ ChooseCall call) {
  const Head head = head_of(call);
  const int32_t thread = thread_index();
  int32_t *kept = call.kept + head.at * call.kept_stride;
  const bool all = head.tokens <= head.budget;
  if (thread == 0) store_global(call.lengths + head.at, all ? head.tokens : head.budget);
  if (all) {
    for (int32_t row = thread; row < head.tokens; row += kThreads) store_global(kept + row, row);
    return;
  }
  for (int32_t row = thread; row < head.first; row += kThreads) store_global(kept + row, row);
  int32_t *recent = kept + head.first + head.wanted;
  for (int32_t row = head.end + thread; row < head.tokens; row += kThreads) store_global(recent + (row - head.end), row);
  if (head.wanted == 0) return;

  SharedCarver carver = shared_memory();
  const ChooseParts parts = take_parts(carver);
  const float *score = call.kernel > 1 ? call.pooled + head.scratch * call.run.longest : plain_score(call, head);
  const Limit limit = find_limit(parts, score, head);
  // Each warp has a run of whole groups of 32 rows: it counts, learns what comes before it, and writes.
  const int32_t rows = head.end - head.first, run = (rows + kThreads - 1) / kThreads * 32;
  const int32_t begin = head.first + warp_index() * run, end = begin + run < head.end ? begin + run : head.end;
  int32_t above = 0, equal = 0;
#pragma unroll 2
  for (int32_t row = begin + lane_index(); row < end; row += 32) {
    const uint32_t key = key_of(load_constant(score + row));
    above += key > limit.key;
    equal += key == limit.key;
  }
  above = warp_sum(above);
  equal = warp_sum(equal);
  sync_block();
  if (lane_index() == 0) {
    store_shared(parts.rows + warp_index(), above);
    store_shared(parts.equal + warp_index(), equal);
  }
  sync_block();
  above = equal = 0;
  for (int32_t warp = 0; warp < warp_index(); ++warp) {
    above += load_shared(parts.rows + warp);
    equal += load_shared(parts.equal + warp);
  }
  const uint32_t before = (1u << lane_index()) - 1;
#pragma unroll 1
  for (int32_t group = begin; group < end; group += 32) {
    const int32_t row = group + lane_index();
    const uint32_t key = row < end ? key_of(load_constant(score + row)) : 0;  // below every key of a number
    const bool is_above = row < end && key > limit.key, is_equal = row < end && key == limit.key;
    const uint32_t aboves = ballot(is_above), equals = ballot(is_equal);
    const int32_t above_before = above + count_bits(aboves & before), equal_before = equal + count_bits(equals & before);
    if (is_above || (is_equal && equal_before < limit.equal)) {
      const int32_t equal_kept = equal_before < limit.equal ? equal_before : limit.equal;
      store_global(kept + head.first + above_before + equal_kept, row);
    }
    above += count_bits(aboves);
    equal += count_bits(equals);
  }
}

// ---- moves

struct MoveCall {
  device::Side from[2], to[2];
  device::Run from_run, to_run;
  const int32_t *slot;
  int32_t kv_heads, rows;  // of a block
  const int32_t *kept;
  int64_t kept_stride;
  float *score;
  int64_t score_stride;
};

// Eight numbers of a row: the bits that they are stored as, f32 in two of them.
struct Unit {
  Words4 words[2];
};

// Not through the cache for constants: in place the rows are being written.
THINK_DEVICE float number_of(const char *at, think_dtype dtype) {
  if (dtype == THINK_F32) return load_global(reinterpret_cast<const float *>(at));
  if (dtype == THINK_F16) return to_float(load_global(reinterpret_cast<const F16 *>(at)));
  return to_float(load_global(reinterpret_cast<const BF16 *>(at)));
}

// grid (keys and values of each run of rows, KV heads, sequences). In place there is one run: the rows of a step never lie before those that it
// replaces, and every later step reads behind them.
__global__ void __launch_bounds__(kMoveThreads) evict_move(const __grid_constant__ MoveCall call) {
  const int32_t head = block_y(), sequence = block_z(), number = block_x() % 2;
  const device::Side &from_side = call.from[number], &to_side = call.to[number];
  if (!from_side.base) return;
  const device::View from = device::view_of(from_side, call.from_run, call.kv_heads, sequence, head);
  const device::View to = device::view_of(to_side, call.to_run, call.kv_heads, sequence, head);
  const int32_t room = static_cast<int32_t>(call.kept_stride), length = device::clamp(device::length_of(call.to_run, sequence, head), room);
  const int32_t from_first = device::first_of(call.from_run, sequence, head), to_first = device::first_of(call.to_run, sequence, head);
  const int32_t *kept = call.kept + (static_cast<int64_t>(sequence) * call.kv_heads + head) * call.kept_stride;
  const int32_t begin = block_x() / 2 * call.rows, end = length - begin < call.rows ? length : begin + call.rows;
  const int32_t row_units = from.channels / kUnitChannels, step = kUnits * kMoveThreads / row_units;  // rows
  const int32_t from_bytes = from_side.element_bytes * kUnitChannels, to_bytes = to_side.element_bytes * kUnitChannels;
  const bool as_it_is = from_side.dtype == to_side.dtype;
  for (int32_t row = begin; row < end; row += step) {
    const int32_t units = (end - row < step ? end - row : step) * row_units;
    Unit unit[kUnits];
#pragma unroll
    for (int32_t i = 0; i < kUnits; ++i) {
      const int32_t at = i * kMoveThreads + thread_index();
      if (at >= units) continue;
      const int32_t line = at / row_units;
      const char *source = device::row_address(from, from_first + load_constant(kept + row + line)) + (at - line * row_units) * from_bytes;
      if (as_it_is && reinterpret_cast<uintptr_t>(source) % 16 == 0) {
        unit[i].words[0] = load_global(reinterpret_cast<const Words4 *>(source));
        if (from_bytes > 16) unit[i].words[1] = load_global(reinterpret_cast<const Words4 *>(source) + 1);
      } else if (as_it_is && from_bytes == 16) {
        uint32_t half[8];
#pragma unroll
        for (int32_t j = 0; j < 8; ++j) half[j] = load_global(reinterpret_cast<const F16 *>(source) + j).bits;
        unit[i].words[0] = {half[0] | half[1] << 16, half[2] | half[3] << 16, half[4] | half[5] << 16, half[6] | half[7] << 16};
      } else {
        float x[8];
#pragma unroll
        for (int32_t j = 0; j < 8; ++j) x[j] = number_of(source + j * from_side.element_bytes, from_side.dtype);
        unit[i].words[0] = {as_bits(x[0]), as_bits(x[1]), as_bits(x[2]), as_bits(x[3])};
        unit[i].words[1] = {as_bits(x[4]), as_bits(x[5]), as_bits(x[6]), as_bits(x[7])};
      }
    }
    sync_block();
#pragma unroll
    for (int32_t i = 0; i < kUnits; ++i) {
      const int32_t at = i * kMoveThreads + thread_index();
      if (at >= units) continue;
      const int32_t line = at / row_units;
      char *target = device::row_address(to, to_first + row + line) + (at - line * row_units) * to_bytes;
      const Words4 &low = unit[i].words[0], &high = unit[i].words[1];
      if (as_it_is && reinterpret_cast<uintptr_t>(target) % 16 == 0) {
        store_global(reinterpret_cast<Words4 *>(target), low);
        if (to_bytes > 16) store_global(reinterpret_cast<Words4 *>(target) + 1, high);
      } else if (as_it_is && to_bytes == 16) {
        const uint32_t words[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
        for (int32_t j = 0; j < 8; ++j) {
          store_global(reinterpret_cast<F16 *>(target) + j, F16{static_cast<uint16_t>(words[j / 2] >> (j % 2 * 16))});
        }
      } else {
        const uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int32_t j = 0; j < 8; ++j) device::store_number(target, to_side.dtype, j, as_float(words[j]));
      }
    }
  }
}

// grid (1, KV heads, sequences)
__global__ void __launch_bounds__(kMoveThreads) evict_move_scores(const __grid_constant__ MoveCall call) {
  const int32_t head = block_y(), sequence = block_z(), room = static_cast<int32_t>(call.kept_stride);
  const int32_t length = device::clamp(device::length_of(call.to_run, sequence, head), room);
  const int32_t before = device::length_of(call.from_run, sequence, head);
  const int32_t *kept = call.kept + (static_cast<int64_t>(sequence) * call.kv_heads + head) * call.kept_stride;
  float *score = call.score + (static_cast<int64_t>(device::slot_of(call.slot, sequence)) * call.kv_heads + head) * call.score_stride;
  for (int32_t begin = 0; begin < before; begin += kScores * kMoveThreads) {
    float x[kScores];
#pragma unroll
    for (int32_t i = 0; i < kScores; ++i) {
      const int32_t row = begin + i * kMoveThreads + thread_index();
      x[i] = row < length ? load_global(score + load_constant(kept + row)) : 0.0f;  // rows that come later start from nothing
    }
    sync_block();
#pragma unroll
    for (int32_t i = 0; i < kScores; ++i) {
      const int32_t row = begin + i * kMoveThreads + thread_index();
      if (row < before) store_global(score + row, x[i]);
    }
  }
}

}  // namespace

int32_t load() {
  if (const int32_t error = prepare(evict_score, 0)) return error;
  if (const int32_t error = prepare(evict_pool, 0)) return error;
  if (const int32_t error = prepare(evict_choose, parts_bytes())) return error;
  if (const int32_t error = prepare(evict_move, 0)) return error;
  return prepare(evict_move_scores, 0);
}

int32_t choose(const Choices &choices, int64_t longest, void *stream) {
  ChooseCall call;
  call.run = device::run_of(choices.source, choices.batch, longest);
  call.slot = choices.batch.slot;
  call.first_sequence = choices.first_sequence;
  call.kv_heads = choices.shape.kv_heads;
  call.budget = choices.budget;
  call.budgets = choices.budgets;
  call.sinks = static_cast<int32_t>(choices.sinks);
  call.recent = static_cast<int32_t>(choices.recent);
  call.pooling = choices.pooling;
  call.kernel = choices.kernel;
  call.accumulate = choices.accumulate;
  call.mass = choices.mass;
  call.mass_stride = choices.mass_stride;
  call.score = choices.score;
  call.score_stride = choices.score_stride;
  call.pooled = choices.pooled;
  call.kept = choices.kept;
  call.kept_stride = choices.kept_stride;
  call.lengths = choices.lengths;
  const int32_t runs = static_cast<int32_t>((longest + kPoolThreads - 1) / kPoolThreads), heads = call.kv_heads;
  const bool updates = choices.mass && choices.score;
  const Launch score{.name = "evict_score", .grid = {updates ? runs : 0, heads, choices.sequences}, .threads = kPoolThreads, .stream = stream};
  if (const int32_t error = launch(score, evict_score, call)) return error;
  const Launch pool{.name = "evict_pool", .grid = {call.kernel > 1 ? runs : 0, heads, choices.sequences}, .threads = kPoolThreads, .stream = stream};
  if (const int32_t error = launch(pool, evict_pool, call)) return error;
  const Launch how{.name = "evict_choose", .grid = {1, heads, choices.sequences}, .threads = kThreads, .shared_bytes = parts_bytes(), .stream = stream};
  return launch(how, evict_choose, call);
}

int32_t move_rows(const Move &move, int64_t longest, int64_t longest_source, void *stream) {
  MoveCall call;
  for (const think::Side side : {think::Side::keys, think::Side::values}) {
    call.from[static_cast<int32_t>(side)] = device::side_of(move.source, move.shape, side);
    call.to[static_cast<int32_t>(side)] = device::side_of(move.destination, move.shape, side);
  }
  call.from_run = device::run_of(move.source, move.batch, longest_source);
  call.to_run = device::run_of(move.destination, move.batch, longest);
  call.slot = move.batch.slot;
  call.kv_heads = move.shape.kv_heads;
  call.kept = move.kept;
  call.kept_stride = move.kept_stride;
  call.score = move.score;
  call.score_stride = move.score_stride;
  const int32_t rows = static_cast<int32_t>(longest), heads = call.kv_heads;
  const bool in_place = same_memory(move);
  call.rows = in_place ? rows : kMoveRows;
  const int32_t runs = rows == 0 ? 0 : in_place ? 1 : (rows + kMoveRows - 1) / kMoveRows;
  const Launch how{.name = "evict_move", .grid = {2 * runs, heads, move.batch.count}, .threads = kMoveThreads, .stream = stream};
  if (const int32_t error = launch(how, evict_move, call)) return error;
  const Launch scores{.name = "evict_move_scores", .grid = {move.score ? 1 : 0, heads, move.batch.count}, .threads = kMoveThreads, .stream = stream};
  return launch(scores, evict_move_scores, call);
}

}  // namespace think::evict::cuda
