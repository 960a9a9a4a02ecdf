// The select stage: budgets by handing out blocks one at a time, choices by counting ranks. Integers and comparisons only, but for the sums
// of a block's gains and of a RoPE pair's scores, so every backend can give the same bits.
#include <algorithm>
#include <cmath>
#include <limits>

#include "../common/rank.h"
#include "select.h"

namespace think::select {
namespace {

// For one sequence.
struct Worth {
  double *block;   // [layers][kv_heads][blocks]: what a further block is worth to each head, non-increasing along the head
  int64_t *offer;  // heads that can still take a block, as a heap: the one with the best next block first
};

int64_t blocks_of(const Budgets &budgets) { return budgets.channels / budgets.step; }

Worth carve(Carver &carver, const Budgets &budgets) {
  const int64_t heads = static_cast<int64_t>(budgets.layers) * budgets.kv_heads;
  Worth worth;
  worth.block = take<double>(carver, heads * blocks_of(budgets));
  worth.offer = take<int64_t>(carver, heads);
  return worth;
}

// Gains that are no positive numbers are worth nothing: a head without a usable covariance keeps the floor.
double usable(float gain) { return gain > 0 ? static_cast<double>(gain) : 0; }

void fill_worth(const Budgets &budgets, const float *gains, int32_t sequence, double *block) {
  const int64_t blocks = blocks_of(budgets);
  for (int32_t layer = 0; layer < budgets.layers; ++layer) {
    const float *from = gains + (static_cast<int64_t>(layer) * budgets.batch + sequence) * budgets.kv_heads * budgets.channels;
    double total = 0;
    for (int64_t i = 0; budgets.normalise && i < static_cast<int64_t>(budgets.kv_heads) * budgets.channels; ++i) total += usable(from[i]);
    for (int32_t head = 0; head < budgets.kv_heads; ++head) {
      const float *gain = from + static_cast<int64_t>(head) * budgets.channels;
      double least = std::numeric_limits<double>::infinity();
      for (int64_t b = 0; b < blocks; ++b) {
        double sum = 0;
        for (int32_t j = 0; j < budgets.step; ++j) sum += usable(gain[b * budgets.step + j]);
        if (budgets.normalise) sum = total > 0 && !std::isinf(total) ? sum / total : 0;
        if (sum < least) least = sum;
        *block++ = least;
      }
    }
  }
}

void choose(const float *score, int32_t channels, int32_t kept, Pairs pairs, bool *chosen) {
  float value[kMaxChannels];
  int32_t place[kMaxChannels];
  if (pairs == Pairs::none) {
    for (int32_t i = 0; i < channels; ++i) value[i] = nan_to_infinity(score[i]);
    rank(value, channels, place);
    for (int32_t i = 0; i < channels; ++i) chosen[i] = place[i] < kept;
    return;
  }
  const int32_t half = channels / 2;
  const int32_t stride = pairs == Pairs::halves ? 1 : 2, partner = pairs == Pairs::halves ? half : 1;
  for (int32_t i = 0; i < half; ++i) value[i] = nan_to_infinity(score[i * stride] + score[i * stride + partner]);
  rank(value, half, place);
  for (int32_t i = 0; i < half; ++i) chosen[i * stride] = chosen[i * stride + partner] = place[i] < kept / 2;
}

}  // namespace

int64_t budgets_workspace(const Budgets &budgets) {
  Carver carver{nullptr, 0};
  carve(carver, budgets);
  return carver.offset;
}

void budgets(const Budgets &arguments, const float *gains, int32_t *kept, void *workspace) {
  Carver carver{static_cast<char *>(workspace), 0};
  const auto [worth, offer] = carve(carver, arguments);
  const int64_t blocks = blocks_of(arguments), heads = static_cast<int64_t>(arguments.layers) * arguments.kv_heads;
  for (int32_t sequence = 0; sequence < arguments.batch; ++sequence) {
    fill_worth(arguments, gains, sequence, worth);
    // Head numbers run over layers and heads; the widths so far are the counters.
    const auto width = [&](int64_t head) -> int32_t & {
      return kept[(head / arguments.kv_heads * arguments.batch + sequence) * arguments.kv_heads + head % arguments.kv_heads];
    };
    // By value: clang 14, which builds the fuzzers, cannot refer to a structured binding in a lambda.
    const auto next = [&, worth = worth](int64_t head) { return worth[head * blocks + width(head) / arguments.step]; };
    const auto worse = [&](int64_t one, int64_t other) { return next(one) != next(other) ? next(one) < next(other) : one > other; };
    int64_t count = 0;
    for (int64_t head = 0; head < heads; ++head) {
      width(head) = arguments.floor;
      if (arguments.floor / arguments.step < blocks) offer[count++] = head;
    }
    std::make_heap(offer, offer + count, worse);
    int64_t left = arguments.total / arguments.step - heads * (arguments.floor / arguments.step);
    for (; left > 0 && count > 0; --left) {
      std::pop_heap(offer, offer + count, worse);
      const int64_t best = offer[count - 1];
      width(best) += arguments.step;
      if (width(best) / arguments.step < blocks) {
        std::push_heap(offer, offer + count, worse);
      } else {
        --count;
      }
    }
  }
}

int32_t rounded_width(int32_t kept, int32_t round_to, int32_t channels, Pairs pairs) {
  int64_t width = kept < 1 ? 1 : kept;
  const int64_t step = round_to < 1 ? 1 : round_to;
  width = (width + step - 1) / step * step;
  if (pairs != Pairs::none) width = (width + 1) / 2 * 2;
  return width < channels ? static_cast<int32_t>(width) : channels;
}

void select(const Select &arguments, const float *score, const Batch &batch, const think_basis &basis, uint8_t *mask) {
  const int32_t channels = arguments.channels;
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    for (int32_t head = 0; head < arguments.kv_heads; ++head) {
      const int64_t from = static_cast<int64_t>(sequence) * arguments.kv_heads + head;
      const int64_t to = static_cast<int64_t>(slot_of(batch, sequence)) * arguments.kv_heads + head;
      const int32_t wanted = arguments.kept ? arguments.kept[from] : arguments.uniform_kept;
      const int32_t kept = rounded_width(wanted, arguments.round_to, channels, arguments.pairs);
      bool chosen[kMaxChannels];
      choose(score + from * channels, channels, kept, arguments.pairs, chosen);
      int32_t *index = basis.index + to * channels, *kept_end = index, *dropped_end = index + kept;
      for (int32_t i = 0; i < channels; ++i) *(chosen[i] ? kept_end : dropped_end)++ = i;
      for (int32_t i = 0; mask && i < channels; ++i) mask[from * channels + i] = chosen[i];
      basis.kept[to] = kept;
      if (basis.weight_offset) basis.weight_offset[to] = -1;
    }
  }
}

}  // namespace think::select
