// The evict stage on the CPU. Choosing reads a score four times per row and moving is memory copies: neither gains from an instruction set of its own.
#include <algorithm>
#include <cstring>

#include "../common/element.h"
#include "../common/rank.h"
#include "evict.h"
#include "think/evict.h"

namespace think::evict {
namespace {

constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;
constexpr int64_t kMoveRows = 512;  // of a task

// Whole numbers in the order of the scores; -0 equals 0.
uint32_t key_of(float score) {
  const uint32_t bits = float_bits(nan_to_infinity(score) + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

void pool(const Choice &choice, int64_t begin, int64_t end, float *pooled) {
  const int64_t reach = choice.kernel / 2;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t from = std::max(t - reach, begin), to = std::min(t + reach + 1, end);
    if (choice.pooling == THINK_POOL_MEAN) {
      double sum = 0;  // what lies outside counts as zero, so the divisor is the same everywhere
      for (int64_t near = from; near < to; ++near) sum += nan_to_infinity(choice.score[near]);
      pooled[t] = nan_to_infinity(static_cast<float>(sum / choice.kernel));
    } else {
      float largest = nan_to_infinity(choice.score[from]);
      for (int64_t near = from + 1; near < to; ++near) largest = std::max(largest, nan_to_infinity(choice.score[near]));
      pooled[t] = largest;
    }
  }
}

// The key of the `wanted`-th best row (from 1), and how many rows with just that key are among the best `wanted`. Digit by digit, highest first.
struct Limit {
  uint32_t key;
  int64_t equal;
};

Limit find_limit(const float *score, int64_t begin, int64_t end, int64_t wanted) {
  Limit limit{0, wanted};
  uint32_t known = 0;  // bits of the key that are settled
  for (const int shift : {2 * kDigitBits - 1, kDigitBits - 1, 0}) {
    const int bits = shift ? kDigitBits : kDigitBits - 1;
    const uint32_t mask = (1u << bits) - 1;
    int64_t rows[kDigits] = {};
    for (int64_t t = begin; t < end; ++t) {
      const uint32_t key = key_of(score[t]);
      if ((key & known) == limit.key) ++rows[key >> shift & mask];
    }
    uint32_t digit = mask;
    while (digit > 0 && rows[digit] < limit.equal) limit.equal -= rows[digit--];
    limit.key |= digit << shift;
    known |= mask << shift;
  }
  return limit;
}

// Rows [begin, begin + count) of one side. In ascending order, so that in place no row is overwritten before it has moved.
void move_side(const SideView &from, const SideView &to, int64_t from_first, int64_t to_first, const int32_t *kept, int64_t begin, int64_t end) {
  const size_t bytes = static_cast<size_t>(from.channels) * static_cast<size_t>(dtype_bytes(from.dtype));
  for (int64_t i = begin; i < end; ++i) {
    const char *source = row_address(from, from_first + kept[i]);
    char *destination = row_address(to, to_first + i);
    if (source == destination) continue;
    if (from.dtype == to.dtype) {
      std::memcpy(destination, source, bytes);
    } else {
      for (int32_t j = 0; j < from.channels; ++j) store_element(destination, to.dtype, j, load_element(source, from.dtype, j));
    }
  }
}

}  // namespace

int32_t choose(const Choice &choice, int32_t *kept) {
  const int64_t tokens = choice.tokens;
  if (tokens <= choice.budget) {
    for (int64_t t = 0; t < tokens; ++t) kept[t] = static_cast<int32_t>(t);
    return static_cast<int32_t>(tokens);
  }
  const int64_t first = std::min(choice.sinks, choice.budget), last = std::min(choice.recent, choice.budget - first);
  const int64_t wanted = choice.budget - first - last, end = tokens - last;
  for (int64_t t = 0; t < first; ++t) *kept++ = static_cast<int32_t>(t);
  if (wanted > 0) {
    const float *score = choice.score;
    if (choice.kernel > 1) {
      pool(choice, first, end, choice.pooled);
      score = choice.pooled;
    }
    Limit limit = find_limit(score, first, end, wanted);
    for (int64_t t = first; t < end; ++t) {
      const uint32_t key = key_of(score[t]);
      const bool best = key > limit.key || (key == limit.key && limit.equal-- > 0);
      if (best) *kept++ = static_cast<int32_t>(t);
    }
  }
  for (int64_t t = end; t < tokens; ++t) *kept++ = static_cast<int32_t>(t);
  return static_cast<int32_t>(choice.budget);
}

void move_rows(const Move &move, int64_t longest, const Parallel &parallel) {
  const Shape &shape = move.shape;
  // In place the rows of a head move one after the other; otherwise any run of them is a task.
  const int64_t step = same_memory(move) ? std::max<int64_t>(longest, 1) : kMoveRows, runs = (longest + step - 1) / step;
  const int64_t heads = static_cast<int64_t>(move.batch.count) * shape.kv_heads;
  parallel_for(parallel, heads * 2 * runs, [&](int64_t task) {
    const int32_t sequence = static_cast<int32_t>(task / runs / 2 / shape.kv_heads), head = static_cast<int32_t>(task / runs / 2 % shape.kv_heads);
    const Side side = task / runs % 2 ? Side::values : Side::keys;
    if (!(side == Side::keys ? move.source.key : move.source.value)) return;
    const int64_t begin = task % runs * step, end = std::min(begin + step, run_length(move.destination, sequence, head));
    if (begin >= end) return;
    move_side(side_view(move.source, side, shape, move.batch, sequence, head), side_view(move.destination, side, shape, move.batch, sequence, head),
              run_first(move.source, sequence, head), run_first(move.destination, sequence, head),
              move.kept + (static_cast<int64_t>(sequence) * shape.kv_heads + head) * move.kept_stride, begin, end);
  });
  if (!move.score) return;
  parallel_for(parallel, heads, [&](int64_t task) {
    const int32_t sequence = static_cast<int32_t>(task / shape.kv_heads), head = static_cast<int32_t>(task % shape.kv_heads);
    const int32_t *kept = move.kept + task * move.kept_stride;
    float *score = move.score + (static_cast<int64_t>(slot_of(move.batch, sequence)) * shape.kv_heads + head) * move.score_stride;
    const int64_t length = run_length(move.destination, sequence, head), before = run_length(move.source, sequence, head);
    for (int64_t i = 0; i < length; ++i) score[i] = score[kept[i]];
    for (int64_t i = length; i < before; ++i) score[i] = 0;  // rows that come later start from nothing
  });
}

}  // namespace think::evict
