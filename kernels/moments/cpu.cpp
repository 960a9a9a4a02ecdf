// The moments stage on the CPU: lays out the workspace, cuts the work, and calls the loops of the chosen instruction set.
#include "../common/dispatch.h"
#include "../common/rank.h"
#include "cpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace think::moments {
namespace {

// Heads that are worked on together: bounds the workspace, whatever the batch, and gives kWave * kRuns tasks.
constexpr int32_t kWave = 8;
constexpr int32_t kGainsWave = 16;

int64_t padded(int64_t count) { return (count + kPad - 1) / kPad * kPad; }

THINK_KERNELS_OF

void carve_side(Carver &carver, int32_t channels, SideWork &side) {
  side.channels = channels;
  side.padded = static_cast<int32_t>(padded(channels));
  side.sums = take<double>(carver, 2ll * kRuns * side.padded);
  side.partial = take<float>(carver, static_cast<int64_t>(kRuns) * channels * side.padded);
}

void carve_queries(Carver &carver, const Shape &shape, int64_t columns, HeadWork &head) {
  head.panels = take<float>(carver, shape.key_channels * columns);
  head.run_maximum = take<float>(carver, kRuns * columns);
  head.run_sum = take<float>(carver, kRuns * columns);
  head.maximum = take<float>(carver, kRuns * columns);
  head.inverse = take<float>(carver, kRuns * columns);
}

void carve_head(Carver &carver, const Shape &shape, int64_t columns, int64_t tokens, HeadWork &head) {
  carve_side(carver, shape.key_channels, head.side[THINK_KEYS]);
  carve_side(carver, shape.value_channels, head.side[THINK_VALUES]);
  carve_queries(carver, shape, columns, head);
  head.mass = take<float>(carver, tokens);
  head.mass_sum = take<double>(carver, kRuns);
}

// Query rows of a sequence are at most the window and at most its tokens.
int64_t most_columns(const Shape &shape, int64_t tokens) { return padded(shape.group * std::min<int64_t>(shape.window, tokens)); }

int64_t carve(Carver &carver, const Shape &shape, int32_t batch, int64_t tokens, HeadWork *heads) {
  const int64_t count = std::min<int64_t>(kWave, static_cast<int64_t>(batch) * shape.kv_heads);
  HeadWork none;
  for (int64_t i = 0; i < count; ++i) carve_head(carver, shape, most_columns(shape, tokens), tokens, heads ? heads[i] : none);
  return carver.offset;
}

int64_t carve_mass(Carver &carver, const Shape &shape, int32_t batch, int64_t tokens, HeadWork *heads) {
  const int64_t count = std::min<int64_t>(kMassWave, static_cast<int64_t>(batch) * shape.kv_heads);
  HeadWork none;
  for (int64_t i = 0; i < count; ++i) carve_queries(carver, shape, most_columns(shape, tokens), heads ? heads[i] : none);
  return carver.offset;
}

struct GainsWork {
  double *numbers;
  int32_t *place, *order;
};

int64_t carve_gains(Carver &carver, const Shape &shape, int32_t batch, GainsWork *heads) {
  const int64_t count = std::min<int64_t>(kGainsWave, static_cast<int64_t>(batch) * shape.kv_heads);
  const int32_t channels = std::max(shape.key_channels, shape.value_channels);
  for (int64_t i = 0; i < count; ++i) {
    GainsWork work;
    work.numbers = take<double>(carver, eliminate_doubles(channels));
    work.place = take<int32_t>(carver, channels);
    work.order = take<int32_t>(carver, channels);
    if (heads) heads[i] = work;
  }
  return carver.offset;
}

// Rows and queries of one sequence and head; the scratch is set already.
template <class Arguments>
void describe_rows(const Arguments &arguments, int32_t sequence, int32_t kv_head, HeadWork &head) {
  const Shape &shape = arguments.shape;
  const think_tensor &query = arguments.window_query;
  const int32_t slot = slot_of(arguments.batch, sequence);
  head.side[THINK_KEYS].rows = side_view(arguments.source, Side::keys, shape, arguments.batch, sequence, kv_head);
  head.first = run_first(arguments.source, sequence, kv_head);
  head.tokens = run_length(arguments.source, sequence, kv_head);
  head.group = shape.group;
  head.query_rows = static_cast<int32_t>(std::min<int64_t>(query.extent[2], head.tokens));
  head.columns = static_cast<int32_t>(padded(static_cast<int64_t>(head.query_rows) * shape.group));
  head.query = element(query, slot, static_cast<int64_t>(kv_head) * shape.group, query.extent[2] - head.query_rows);
  head.query_head_stride = query.stride[1] * dtype_bytes(query.dtype);
  head.query_row_stride = query.stride[2] * dtype_bytes(query.dtype);
  head.query_dtype = query.dtype;
  head.scale = shape.scale;
  head.softcap = shape.softcap;
  head.causal = (arguments.source.flags & THINK_SEGMENT_CAUSAL) != 0;
}

void describe(const Arguments &arguments, int32_t sequence, int32_t kv_head, HeadWork &head) {
  const Shape &shape = arguments.shape;
  const int32_t slot = slot_of(arguments.batch, sequence);
  const View out = view(shape, arguments.moments, slot, kv_head);
  SideWork &keys = head.side[THINK_KEYS], &values = head.side[THINK_VALUES];
  describe_rows(arguments, sequence, kv_head, head);
  keys.mean = out.key_mean;
  keys.covariance = out.key_covariance;
  head.values = arguments.source.value != nullptr;
  if (head.values) values.rows = side_view(arguments.source, Side::values, shape, arguments.batch, sequence, kv_head);
  values.mean = out.value_mean;
  values.covariance = out.value_covariance;
  head.moved = prune_range(head.tokens, arguments.sinks, arguments.recent);
  if (head.query_rows == 0) head.moved.count = 0;
  head.share = arguments.attention_share;
  head.query_moment = out.query_moment;
  head.measured = out.rows;
}

// Channels from the best score to the worst.
void best_first(const float *score, int32_t channels, int32_t *order) {
  float value[kMaxChannels];
  int32_t place[kMaxChannels];
  for (int32_t i = 0; i < channels; ++i) value[i] = nan_to_infinity(score[i]);
  rank(value, channels, place);
  for (int32_t i = 0; i < channels; ++i) order[place[i]] = i;
}

}  // namespace

int64_t workspace(const Shape &shape, int32_t batch, int64_t tokens) {
  Carver carver{nullptr, 0};
  return carve(carver, shape, batch, tokens, nullptr);
}

void measure(int32_t isa, const Arguments &arguments, void *memory, const Parallel &parallel) {
  const Shape &shape = arguments.shape;
  const Kernels &kernel = kernels_of(isa);
  const int32_t heads = arguments.batch.count * shape.kv_heads;
  // The caller's workspace may be made for longer sequences: the longest one here needs no more than that.
  int64_t tokens = 0;
  for (int32_t i = 0; i < heads; ++i) tokens = std::max(tokens, run_length(arguments.source, i / shape.kv_heads, i % shape.kv_heads));
  HeadWork wave[kWave];
  Carver carver{static_cast<char *>(memory), 0};
  carve(carver, shape, arguments.batch.count, tokens, wave);
  for (int32_t from = 0; from < heads; from += kWave) {
    const int32_t count = std::min(kWave, heads - from);
    for (int32_t i = 0; i < count; ++i) describe(arguments, (from + i) / shape.kv_heads, (from + i) % shape.kv_heads, wave[i]);
    const int32_t sides = arguments.source.value ? 2 : 1;
    parallel_for(parallel, count, [&](int64_t i) { kernel.prepare(wave[i]); });
    if (arguments.attention_share > 0) {
      parallel_for(parallel, count * kRuns, [&](int64_t i) { kernel.scan(wave[i / kRuns], static_cast<int32_t>(i % kRuns)); });
    }
    parallel_for(parallel, count * kRuns, [&](int64_t i) { kernel.mass(wave[i / kRuns], static_cast<int32_t>(i % kRuns)); });
    parallel_for(parallel, count * kRuns * sides, [&](int64_t i) {
      kernel.covariance(wave[i / kRuns / sides], static_cast<int32_t>(i / kRuns % sides), static_cast<int32_t>(i % kRuns));
    });
    parallel_for(parallel, count * 2, [&](int64_t i) { kernel.finish(wave[i / 2], static_cast<int32_t>(i % 2)); });
  }
}

int64_t mass_workspace(const Shape &shape, int32_t batch, int64_t tokens) {
  Carver carver{nullptr, 0};
  return carve_mass(carver, shape, batch, tokens, nullptr);
}

void attention_mass(int32_t isa, const MassArguments &arguments, int64_t from, int32_t count, float *mass, int64_t longest, void *memory,
                    const Parallel &parallel) {
  const Shape &shape = arguments.shape;
  const Kernels &kernel = kernels_of(isa);
  HeadWork wave[kMassWave] = {};
  Carver carver{static_cast<char *>(memory), 0};
  carve_mass(carver, shape, arguments.batch.count, longest, wave);
  for (int32_t i = 0; i < count; ++i) {
    HeadWork &head = wave[i];
    describe_rows(arguments, static_cast<int32_t>((from + i) / shape.kv_heads), static_cast<int32_t>((from + i) % shape.kv_heads), head);
    head.side[THINK_KEYS].channels = shape.key_channels;
    head.side[THINK_KEYS].padded = static_cast<int32_t>(padded(shape.key_channels));
    head.moved = {0, head.tokens};
    head.mass = mass + i * longest;
  }
  parallel_for(parallel, count, [&](int64_t i) { kernel.prepare(wave[i]); });
  parallel_for(parallel, count * kRuns, [&](int64_t i) { kernel.scan(wave[i / kRuns], static_cast<int32_t>(i % kRuns)); });
  parallel_for(parallel, count * kRuns, [&](int64_t i) { kernel.rows_mass(wave[i / kRuns], static_cast<int32_t>(i % kRuns)); });
}

int64_t gains_workspace(const Shape &shape, int32_t batch) {
  Carver carver{nullptr, 0};
  return carve_gains(carver, shape, batch, nullptr);
}

void gains(int32_t isa, const Shape &shape, const void *moments, const Batch &batch, int32_t side, const float *score, float *gains,
           int32_t *order, void *memory, const Parallel &parallel) {
  const Kernels &kernel = kernels_of(isa);
  const int32_t channels = side == THINK_KEYS ? shape.key_channels : shape.value_channels;
  const int32_t heads = batch.count * shape.kv_heads;
  GainsWork wave[kGainsWave];
  Carver carver{static_cast<char *>(memory), 0};
  carve_gains(carver, shape, batch.count, wave);
  for (int32_t from = 0; from < heads; from += kGainsWave) {
    parallel_for(parallel, std::min(kGainsWave, heads - from), [&](int64_t i) {
      const int64_t head = from + i;
      const View from_moments = view(shape, const_cast<void *>(moments), slot_of(batch, static_cast<int32_t>(head / shape.kv_heads)),
                                     static_cast<int32_t>(head % shape.kv_heads));
      const bool keys = side == THINK_KEYS;
      if (keys) best_first(score + head * channels, channels, wave[i].order);
      kernel.eliminate(channels, keys ? from_moments.query_moment : nullptr,
                       keys ? from_moments.key_covariance : from_moments.value_covariance, wave[i].numbers, wave[i].place, wave[i].order,
                       gains + head * channels);
      if (order) std::memcpy(order + head * channels, wave[i].order, channels * sizeof(int32_t));
    });
  }
}

}  // namespace think::moments
