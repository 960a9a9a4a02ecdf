// Attention on the CPU: walks the items of a slice (work.h), feeds the kernels of the chosen instruction set (kernels.h), and puts partial results together.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "../common/dispatch.h"
#include "../common/element.h"
#include "../common/prefetch.h"
#include "kernels.h"
#include "work.h"

namespace think::attend {
namespace {

// How far in front of the rows in use memory is asked for, in bytes of keys and values together, but at least a step. Into the second cache only: rows
// wait there until they are used, and the first cache keeps what the current step works on. 8 to 20 KiB are best where a call reads little (32 KiB: 1.5 %
// slower), up to 64 KiB measure alike for more, 128 KiB lose.
constexpr int64_t kAheadBytes = 16 << 10;
// On several threads each begins with a stretch of the work of its own and walks along it slice by slice, so that what it fetched ahead is what it needs
// next; one that has finished early takes slices of the others. Slices are not made smaller than a hand-over is worth.
constexpr int64_t kStretches = 64, kSlicesPerThread = 16, kSliceWeight = 64 << 10;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A NaN among the logits must reach the output: a healthy-looking result would hide it.
inline float larger_or_nan(float a, float b) { return b != b ? b : std::max(a, b); }

THINK_KERNELS_OF

#if THINK_HAVE_AVX512BF16
Kernels with_codes(Kernels kernels, const CodeKernels &codes) {
  for (int32_t code = 0; code < kGroupedCodes; ++code) {
    kernels.score[THINK_TILES][kFirstCode + code] = codes.score[code];
    kernels.value[kFirstCode + code] = codes.value[code];
  }
  kernels.codes_by_column = true;
  return kernels;
}
#endif

// An instruction set may have better kernels for codes alone. Their table is put together once: every thread of every call reads it.
const Kernels &kernels_with_codes(int32_t isa) {
#if THINK_HAVE_AVX512BF16
  static const Kernels integer = with_codes(kernels_of(THINK_ISA_AVX512BF16), codes_avx512bf16);
  if (isa == THINK_ISA_AVX512BF16) return integer;
#endif
  return kernels_of(isa);
}

// A basis of one slot and KV head; `index` NULL = all channels.
struct HeadBasis {
  const int32_t *index;
  const char *weight;  // NULL = dropped channels count as zero
  const float *offset;
  int32_t kept, dropped;
  int64_t weight_stride;
};

HeadBasis head_basis(const think_basis *basis, int32_t channels, int32_t kv_heads, int32_t slot, int32_t head) {
  if (!basis) return {nullptr, nullptr, nullptr, channels, 0, 0};
  const int64_t place = static_cast<int64_t>(slot) * kv_heads + head, block = basis->weight_offset[place];
  const int32_t kept = basis->kept[place];
  return {basis->index + place * channels,
          block < 0 ? nullptr : static_cast<const char *>(basis->weight) + block,
          block < 0 ? nullptr : basis->offset + place * channels,
          kept,
          channels - kept,
          static_cast<int64_t>(round_up(kept, 8)) * 2};
}

// One side of a run.
struct Stream {
  SideView view;
  Run run;
};

const char *address(const Stream &stream, int64_t token) { return row_address(stream.view, stream.run.first + token); }

// Address of the row `token` of a stream, or of the stream after it where this one has ended.
const char *address_ahead(const Stream &now, const Stream &next, int64_t token) {
  if (token < now.run.length) return address(now, token);
  token -= now.run.length;
  return token < next.run.length ? address(next, token) : nullptr;
}

struct Call {
  const Arguments &a;
  const Kernels &kernels;
  int32_t *counters;
  float *partials;
};

// A group in the list of all of them, with what the groups before it take: work, floats of partial results, counters.
struct Place {
  int32_t sequence = 0, head = 0;
  int64_t block = 0, position = 0, partials = 0, counter = 0;
};

// The run that a thread will most likely read after this one.
struct Next {
  const think_segment *segment = nullptr;  // NULL = there is none
  int32_t slot = 0, head = 0;
};

// What one thread works with from slice to slice, all on its stack.
struct Worker {
  alignas(64) float query[kBlockFloats];   // folded queries of the block, in the order that the score kernel wants
  alignas(64) float sum[kBlockFloats];     // value sums of the run, in kept channels
  alignas(64) float total[kBlockFloats];   // outputs so far, all channels, of a group that is one item
  alignas(64) float score[kBlockColumns * kScoreStride];
  float constant[kBlockColumns], maximum[kBlockColumns], mass[kBlockColumns];
  int32_t visible[kBlockColumns];
  // What `query` was folded for.
  const think_basis *folded_basis;
  int32_t folded_slot, folded_split;
  float folded_factor;
  bool folded_by_column;
  bool folded = false, started = false;
  // Where the last slice ended, mostly where the next one begins: the group there, its run that was prepared last (-1 = none), and what comes after.
  Place place;
  Group group;
  bool made = false;
  int32_t prepared = -1;
  Stream key[2], value[2];
  Next next;
  // Items of the group at `place` that are done and that its counter has not been told of.
  int32_t done = 0;
};

int32_t query_head_of(const Call &call, const Group &group, int32_t column) {
  return group.head * call.a.shape.group + static_cast<int32_t>((group.first_column + column) % call.a.shape.group);
}
int64_t query_of(const Call &call, const Group &group, int32_t column) { return (group.first_column + column) / call.a.shape.group; }

// q_eff = scale * (q_I + W^T q_P) and the constant scale * q_P . offset_P for every column of the block.
void fold(const Call &call, const Group &group, const think_segment &segment, const SideView &key, Worker &w) {
  const Shape &shape = call.a.shape;
  const int32_t split = key.layout == THINK_ROWS ? call.kernels.split[element_index(key.dtype)] : 0;
  const bool by_column = key.layout == THINK_ROWS || (has_groups(key.dtype) && call.kernels.codes_by_column);
  const float factor = key.dtype == THINK_F8_E4M3 ? key.scale * kF8Unit : 1.0f;
  const bool same_basis = w.folded && w.folded_basis == segment.key_basis && w.folded_slot == key.slot;
  if (same_basis && w.folded_by_column == by_column && w.folded_split == split && w.folded_factor == factor) return;
  w.folded = true;
  w.folded_basis = segment.key_basis;
  w.folded_slot = key.slot;
  w.folded_by_column = by_column;
  w.folded_split = split;
  w.folded_factor = factor;

  const HeadBasis basis = head_basis(segment.key_basis, shape.key_channels, shape.kv_heads, key.slot, group.head);
  const RowRange rows = rows_of(call.a.query, call.a.batch, group.sequence);
  alignas(64) float full[kMaxChannels + kPadding], kept[kMaxChannels + kPadding], dropped[kMaxChannels];
  std::memset(kept, 0, sizeof kept);
  for (int32_t c = 0; c < group.columns; ++c) {
    const char *row = element(call.a.query, rows.row, query_head_of(call, group, c), rows.first + query_of(call, group, c));
    float *folded = basis.index ? kept : full;
    call.kernels.widen[element_index(call.a.query.dtype)](row, shape.key_channels, shape.scale, full);
    w.constant[c] = 0;
    if (basis.index) {
      for (int32_t i = 0; i < basis.kept; ++i) kept[i] = full[basis.index[i]];
      for (int32_t i = basis.kept; i < round_up(basis.kept, kPadding); ++i) kept[i] = 0;
    }
    if (basis.weight && basis.dropped) {
      double constant = 0;
      for (int32_t p = 0; p < basis.dropped; ++p) {
        dropped[p] = full[basis.index[basis.kept + p]];
        constant += static_cast<double>(dropped[p]) * basis.offset[basis.kept + p];
      }
      w.constant[c] = static_cast<float>(constant);
      call.kernels.value[element_index(THINK_F16)](
          {basis.weight, basis.weight_stride, nullptr, basis.dropped, round_up(basis.kept, 8), 1, dropped, 0, kept, 0});
    }
    if (!by_column) {
      const int32_t block = c / call.kernels.columns * call.kernels.columns, width = std::min(call.kernels.columns, group.columns - block);
      float *out = w.query + static_cast<int64_t>(block) * basis.kept + (c - block);
      for (int32_t i = 0; i < basis.kept; ++i) out[static_cast<int64_t>(i) * width] = folded[i] * factor;
    } else {
      float *out = w.query + static_cast<int64_t>(c) * padded(basis.kept);
      for (int32_t i = 0; i < padded(basis.kept); ++i) {
        const int32_t place = split ? i / split * split + i % 2 * (split / 2) + i % split / 2 : i;
        out[place] = i < basis.kept ? folded[i] : 0.0f;
      }
    }
  }
}

void clear(const Call &call, const Group &group, Worker &w) {
  std::memset(w.sum, 0, static_cast<size_t>(group.columns * sum_stride(call.a.shape)) * sizeof(float));
  for (int32_t c = 0; c < group.columns; ++c) {
    w.maximum[c] = -kInfinity;
    w.mass[c] = 0;
  }
}

int64_t tokens_ahead(const SideView &keys, const SideView &values) {
  const int64_t token_bytes = std::max<int64_t>(1, (keys.tile_bytes + values.tile_bytes) / kTileTokens);
  return std::max(kStepTokens, round_up(static_cast<int32_t>(kAheadBytes / token_bytes), kTileTokens));
}

// Tokens [begin, end) of the run that is prepared: scores, softmax and value sums, step by step.
void attend_tokens(const Call &call, int64_t begin, int64_t end, Worker &w) {
  const Group &group = w.group;
  const think_segment &segment = call.a.segments[w.prepared];
  const Stream(&key)[2] = w.key, (&value)[2] = w.value;
  const SideView &keys = key[0].view, &values = value[0].view;
  fold(call, group, segment, keys, w);
  const auto score = call.kernels.score[keys.layout][element_index(keys.dtype)];
  const auto add_values = call.kernels.value[element_index(values.dtype)];
  const int64_t ahead = tokens_ahead(keys, values);
  const int64_t key_piece = keys.layout == THINK_TILES ? kTileTokens : kStepTokens;
  const int64_t value_piece = values.layout == THINK_TILES ? kTileTokens : kStepTokens;
  const bool causal = segment.flags & THINK_SEGMENT_CAUSAL;
  const int64_t length = run_length(segment, group.sequence, group.head);

  for (int64_t step = begin; step < end; step += kStepTokens) {
    const int32_t tokens = static_cast<int32_t>(std::min<int64_t>(kStepTokens, end - step));
    for (int32_t done = 0; done < tokens;) {
      const int64_t row = key[0].run.first + step + done;
      const int32_t piece = static_cast<int32_t>(std::min({static_cast<int64_t>(tokens - done), key_piece, rows_in_block(keys, row)}));
      score({row_address(keys, row), keys.row_stride, address_ahead(key[0], key[1], step + done + ahead), piece, keys.channels, group.columns, w.query,
             w.constant, w.score + done, kScoreStride});
      done += piece;
    }
    if (causal) {
      for (int32_t c = 0; c < group.columns; ++c) {
        const int64_t limit = length - group.queries + query_of(call, group, c) + 1 - step;
        w.visible[c] = static_cast<int32_t>(std::clamp<int64_t>(limit, 0, tokens));
      }
    }
    call.kernels.softmax({w.score, tokens, group.columns, causal ? w.visible : nullptr, call.a.shape.softcap, w.maximum, w.mass, w.sum,
                          sum_stride(call.a.shape), values.channels});
    for (int32_t done = 0; done < tokens;) {
      const int64_t row = value[0].run.first + step + done;
      const int32_t piece = static_cast<int32_t>(std::min({static_cast<int64_t>(tokens - done), value_piece, rows_in_block(values, row)}));
      add_values({row_address(values, row), values.row_stride, address_ahead(value[0], value[1], step + done + ahead), piece, values.channels, group.columns,
                  w.score + done, kScoreStride, w.sum, sum_stride(call.a.shape), values.scale});
      done += piece;
    }
  }
}

// out += what `sum` (kept channels, zeros behind) and its mass mean in all channels.
void expand(const Call &call, const Group &group, const think_segment &segment, const float *sum, float mass, float *out) {
  const Shape &shape = call.a.shape;
  if (!segment.value_basis) {
    for (int32_t j = 0; j < shape.value_channels; ++j) out[j] += sum[j];
    return;
  }
  const HeadBasis basis =
      head_basis(segment.value_basis, shape.value_channels, shape.kv_heads, slot_of(segment, call.a.batch, group.sequence), group.head);
  for (int32_t i = 0; i < basis.kept; ++i) out[basis.index[i]] += sum[i];
  if (!basis.weight || !basis.dropped) return;
  float predicted[kMaxChannels + 16];
  const float zero = 0;
  call.kernels.score[THINK_ROWS][element_index(THINK_F16)](
      {basis.weight, basis.weight_stride, nullptr, basis.dropped, basis.kept, 1, sum, &zero, predicted, 0});
  for (int32_t p = 0; p < basis.dropped; ++p) out[basis.index[basis.kept + p]] += predicted[p] + mass * basis.offset[basis.kept + p];
}

// Divides by the mass, joins the sink logit, writes the output row and the LSE of a column.
void finish(const Call &call, const Group &group, int32_t column, const float *total, float maximum, float mass) {
  const Arguments &a = call.a;
  const int32_t head = query_head_of(call, group, column);
  const int64_t query = query_of(call, group, column);
  const float whole = mass + (a.sink_logit ? std::exp(a.sink_logit[head] - maximum) : 0.0f);
  const RowRange rows = rows_of(a.output, a.batch, group.sequence);
  char *row = const_cast<char *>(element(a.output, rows.row, head, rows.first + query));
  // A mass of 0 means that no token was seen. An infinite `whole` is a sink that outweighs every token.
  call.kernels.narrow[element_index(a.output.dtype)](total, a.shape.value_channels, mass == 0 ? 0.0f : 1.0f / whole, row);
  if (a.lse) a.lse[lse_index(a.query, a.batch, group.sequence, head, query)] = mass == 0 ? -kInfinity : maximum + std::log(mass);
}

bool same_value_basis(const Call &call, int32_t sequence, int32_t one, int32_t other) {
  const think_segment &a = call.a.segments[one], &b = call.a.segments[other];
  return a.value_basis == b.value_basis && (!a.value_basis || slot_of(a, call.a.batch, sequence) == slot_of(b, call.a.batch, sequence));
}

// What fold() and expand() will read of a basis: from memory it would take them longer than the arithmetic.
void fetch_basis(const Call &call, const think_basis *basis, int32_t channels, int32_t slot, int32_t head) {
  if (!basis) return;
  const HeadBasis of_head = head_basis(basis, channels, call.a.shape.kv_heads, slot, head);
  prefetch_far(of_head.index, channels * static_cast<int64_t>(sizeof *of_head.index));
  if (!of_head.weight) return;
  prefetch_far(of_head.offset, channels * static_cast<int64_t>(sizeof *of_head.offset));
  prefetch_far(of_head.weight, of_head.dropped * of_head.weight_stride);
}

void fetch_bases(const Call &call, const Next &next) {
  if (!next.segment) return;
  fetch_basis(call, next.segment->key_basis, call.a.shape.key_channels, next.slot, next.head);
  fetch_basis(call, next.segment->value_basis, call.a.shape.value_channels, next.slot, next.head);
}

// The first rows that a thread reads, and their bases: no run before them asked for these. As many as later steps are ahead of their use, in the order of
// use, while the first of them are on their way.
void fetch_start(const Call &call, const Next &now, const Stream &key, const Stream &value, int64_t begin) {
  fetch_bases(call, now);
  const int64_t end = std::min(begin + tokens_ahead(key.view, value.view), key.run.length);
  for (int64_t step = begin; step < end; step += kStepTokens) {
    for (const Stream *stream : {&key, &value}) {
      const bool tiles = stream->view.layout == THINK_TILES;
      for (int64_t token = step; token < std::min(step + kStepTokens, end); token += tiles ? kTileTokens : 1) {
        prefetch_far(address(*stream, token), tiles ? stream->view.tile_bytes : stream->view.tile_bytes / kTileTokens);
      }
    }
  }
}

// The run of a segment as a pair of streams, and the next one.
Next streams(const Call &call, const Group &group, int32_t segment, Stream (&key)[2], Stream (&value)[2]) {
  const Arguments &a = call.a;
  key[0] = {side_view(a.segments[segment], Side::keys, a.shape, a.batch, group.sequence, group.head), group.run[segment]};
  value[0] = {side_view(a.segments[segment], Side::values, a.shape, a.batch, group.sequence, group.head), group.run[segment]};
  key[1].run = value[1].run = {0, 0};
  int32_t sequence = group.sequence, head = group.head, next = segment + 1;
  for (int32_t tries = 0; tries < 2 * THINK_MAX_SEGMENTS; ++tries, ++next) {
    if (next >= a.segment_count) {
      next = 0;
      if (++head == a.shape.kv_heads) {
        head = 0;
        if (++sequence == a.batch.count) return {};
      }
    }
    const Run run = {run_first(a.segments[next], sequence, head), run_length(a.segments[next], sequence, head)};
    if (run.length > 0) {
      key[1] = {side_view(a.segments[next], Side::keys, a.shape, a.batch, sequence, head), run};
      value[1] = {side_view(a.segments[next], Side::values, a.shape, a.batch, sequence, head), run};
      return {&a.segments[next], key[1].view.slot, head};
    }
  }
  return {};
}

// The streams of a run of the worker's group, and where the thread has read nothing yet, what it reads first.
void begin_run(const Call &call, int32_t segment, int64_t begin, Worker &w) {
  w.prepared = segment;
  w.next = streams(call, w.group, segment, w.key, w.value);
  if (!w.started) fetch_start(call, {&call.a.segments[segment], w.key[0].view.slot, w.group.head}, w.key[0], w.value[0], begin);
  w.started = true;
}

// ---- a group that is one item ---------------------------------------------------------------------------------------------------------------------

void attend_whole(const Call &call, Worker &w) {
  const Group &group = w.group;
  const int64_t stride = sum_stride(call.a.shape);
  float maximum[kBlockColumns], mass[kBlockColumns];
  for (int32_t c = 0; c < group.columns; ++c) {
    maximum[c] = -kInfinity;
    mass[c] = 0;
  }
  std::memset(w.total, 0, static_cast<size_t>(group.columns * stride) * sizeof(float));
  clear(call, group, w);
  int32_t open = -1;  // the last segment whose sums are in `sum`
  const auto flush = [&] {
    for (int32_t c = 0; c < group.columns; ++c) {
      const float largest = std::max(maximum[c], w.maximum[c]);
      if (w.maximum[c] == -kInfinity) continue;
      const float before = std::exp(maximum[c] - largest), now = std::exp(w.maximum[c] - largest);
      float *total = w.total + c * stride, *sum = w.sum + c * stride;
      for (int64_t j = 0; j < stride; ++j) {
        total[j] *= before;
        sum[j] *= now;
      }
      expand(call, group, call.a.segments[open], sum, w.mass[c] * now, total);
      mass[c] = mass[c] * before + w.mass[c] * now;
      maximum[c] = largest;
    }
    clear(call, group, w);
  };
  for (int32_t s = 0; s < call.a.segment_count; ++s) {
    if (group.run[s].length == 0) continue;
    if (open >= 0 && !same_value_basis(call, group.sequence, open, s)) flush();
    open = s;
    begin_run(call, s, 0, w);
    fetch_bases(call, w.next);
    attend_tokens(call, 0, group.run[s].length, w);
  }
  if (open >= 0) flush();
  for (int32_t c = 0; c < group.columns; ++c) finish(call, group, c, w.total + c * stride, maximum[c], mass[c]);
}

// ---- a group of several items -----------------------------------------------------------------------------------------------------------------------

void store_partial(const Call &call, const Group &group, const Worker &w, float *partial) {
  const int32_t header = round_up(group.columns, 16);
  std::memcpy(partial, w.maximum, static_cast<size_t>(group.columns) * sizeof(float));
  std::memcpy(partial + header, w.mass, static_cast<size_t>(group.columns) * sizeof(float));
  std::memcpy(partial + 2 * header, w.sum, static_cast<size_t>(group.columns * sum_stride(call.a.shape)) * sizeof(float));
}

// All partial results of a group to one output, in the order of the segments and items.
void reduce(const Call &call, const Group &group, const float *partials) {
  const Arguments &a = call.a;
  const int64_t size = partial_floats(a.shape, group.columns), stride = sum_stride(a.shape);
  const int32_t header = round_up(group.columns, 16);
  prefetch_far(partials, group.items * size * static_cast<int64_t>(sizeof *partials));  // some are in the caches of other cores
  alignas(64) float total[kMaxChannels + kPadding], sum[kMaxChannels + kPadding], factor[kMaxItems + 1];
  for (int32_t c = 0; c < group.columns; ++c) {
    float maximum = -kInfinity, mass = 0;
    for (int32_t item = 0; item < group.items; ++item) maximum = larger_or_nan(maximum, partials[item * size + c]);
    std::memset(total, 0, sizeof total);
    for (int32_t basis = 0; basis < a.segment_count && maximum != -kInfinity; ++basis) {
      bool first = true;
      for (int32_t s = 0; s < basis; ++s) first = first && !same_value_basis(call, group.sequence, s, basis);
      if (!first) continue;
      const int32_t slot = slot_of(a.segments[basis], a.batch, group.sequence);
      const int32_t channels = kept_of(a.segments[basis].value_basis, a.shape.value_channels, a.shape.kv_heads, slot, group.head);
      float part_mass = 0;
      std::memset(sum, 0, sizeof sum);
      const float *partial = partials;
      for (int32_t s = 0; s < a.segment_count; ++s) {
        const int32_t items = static_cast<int32_t>(run_items(group, s));
        if (items > 0 && same_value_basis(call, group.sequence, basis, s)) {
          for (int32_t i = 0; i < items; ++i) {
            factor[i] = std::exp(partial[i * size + c] - maximum);
            part_mass += factor[i] * partial[i * size + header + c];
          }
          call.kernels.value[element_index(THINK_F32)]({reinterpret_cast<const char *>(partial + 2 * header + c * stride),
                                                        size * static_cast<int64_t>(sizeof(float)), nullptr, items, channels, 1, factor, 0, sum, 0});
        }
        partial += items * size;
      }
      expand(call, group, a.segments[basis], sum, part_mass, total);
      mass += part_mass;
    }
    finish(call, group, c, total, maximum, mass);
  }
}

// Tells the counter of a group which of its items this thread has done. Whoever adds the last one has seen, through the counter, the partial results of
// all others. Once per group and stretch of work, not per slice: a line that two threads write in turns costs each of them a trip to the other's cache.
void report_items(const Call &call, Worker &w) {
  if (w.done == 0) return;
  int32_t *counter = call.counters + w.place.counter;
  if (__atomic_add_fetch(counter, w.done, __ATOMIC_ACQ_REL) == w.group.items) {
    __atomic_store_n(counter, 0, __ATOMIC_RELAXED);
    reduce(call, w.group, call.partials + w.place.partials);
  }
  w.done = 0;
}

// The items of the worker's group whose start lies in [low, high) of the work.
void attend_items(const Call &call, int64_t low, int64_t high, Worker &w) {
  const Group &group = w.group;
  const int64_t size = partial_floats(call.a.shape, group.columns);
  int64_t position = w.place.position;
  float *partial = call.partials + w.place.partials;
  for (int32_t s = 0; s < call.a.segment_count; ++s) {
    for (int64_t begin = 0; begin < group.run[s].length; begin += group.item_tokens, partial += size) {
      if (position >= high) return;
      const int64_t end = std::min(begin + group.item_tokens, group.run[s].length);
      if (position >= low) {
        if (w.prepared != s) begin_run(call, s, begin, w);
        if (end == group.run[s].length) fetch_bases(call, w.next);
        clear(call, group, w);
        attend_tokens(call, begin, end, w);
        store_partial(call, group, w, partial);
        ++w.done;
      }
      position += (end - begin) * group.token_weight[s] + kItemWeight;
    }
  }
}

// The group at `place`, or at the first place after it that there is; false: none.
bool find_group(const Arguments &a, Place &place, Group &group) {
  for (; place.sequence < a.batch.count; ++place.sequence, place.head = 0) {
    const int64_t blocks = blocks_of(a.shape, rows_of(a.query, a.batch, place.sequence).count);
    for (; place.head < a.shape.kv_heads; ++place.head, place.block = 0) {
      if (place.block >= blocks) continue;
      make_group(a, place.sequence, place.head, place.block, group);
      return true;
    }
  }
  return false;
}

void pass_group(const Arguments &a, Place &place, const Group &group) {
  ++place.block;
  place.position += group.weight;
  if (group.whole) return;
  place.partials += group.items * partial_floats(a.shape, group.columns);
  ++place.counter;
}

// The slices of a stretch that nobody has taken. Who begins there takes them from the front; others from the end, so as not to take what it has fetched.
class alignas(64) Stretch {
 public:
  void set(uint32_t slices) { range_.store(uint64_t{slices} << 32, std::memory_order_relaxed); }
  // -1: none is left
  int64_t take(bool front) {
    uint64_t range = range_.load(std::memory_order_relaxed);
    for (;;) {
      const uint64_t begin = range & UINT32_MAX, end = range >> 32;
      if (begin == end) return -1;
      const uint64_t rest = front ? end << 32 | (begin + 1) : (end - 1) << 32 | begin;
      if (range_.compare_exchange_weak(range, rest, std::memory_order_relaxed)) return static_cast<int64_t>(front ? begin : end - 1);
    }
  }

 private:
  std::atomic<uint64_t> range_;
};

void run_slice(const Call &call, int64_t total, Slice slice, Worker &w) {
  const int64_t low = total / slice.count * slice.index + total % slice.count * slice.index / slice.count;
  const int64_t high = total / slice.count * (slice.index + 1) + total % slice.count * (slice.index + 1) / slice.count;
  // A slice mostly follows the one before it: go on from there.
  if (w.place.position > low) {
    report_items(call, w);
    w.place = {};
    w.made = false;
  }
  for (;;) {
    if (!w.made) {
      if (!find_group(call.a, w.place, w.group)) return;
      w.made = true;
      w.folded = false;
      w.prepared = -1;
    }
    const int64_t position = w.place.position, end = position + w.group.weight;
    if (position >= high) return;
    if (end > low && !w.group.whole) {
      attend_items(call, low, high, w);
    } else if (position >= low) {
      attend_whole(call, w);
    }
    if (end >= high) return;
    report_items(call, w);
    pass_group(call.a, w.place, w.group);
    w.made = false;
  }
}

}  // namespace

void attend(int32_t isa, const Arguments &arguments, void *workspace, const Parallel &parallel, Slice slice) {
  const int64_t counters = counter_bytes(arguments.shape);
  const Call call{arguments, kernels_with_codes(isa), static_cast<int32_t *>(workspace), reinterpret_cast<float *>(static_cast<char *>(workspace) + counters)};
  int64_t total = 0;
  Place place;
  for (Group group; find_group(arguments, place, group); pass_group(arguments, place, group)) total += group.weight;
  if (slice.count > 1) {
    Worker worker;
    run_slice(call, total, slice, worker);
    report_items(call, worker);
    return;
  }
  // Alone, the call need not rely on the counters being zero.
  std::memset(workspace, 0, static_cast<size_t>(counters));
  const int64_t threads = std::clamp<int64_t>(total / kSliceWeight, 1, parallel.threads);
  const int64_t stretches = std::min(threads, kStretches);
  // Slices of one stretch. Without others to share with, one slice is all.
  const int64_t slices = threads == 1 ? 1 : std::clamp<int64_t>(total / (stretches * kSliceWeight), 1, kSlicesPerThread * threads / stretches);
  Stretch left[kStretches];
  for (int64_t stretch = 0; stretch < stretches; ++stretch) left[stretch].set(static_cast<uint32_t>(slices));
  parallel_for(parallel, threads, [&](int64_t task) {
    Worker worker;
    for (int64_t turn = 0; turn < stretches; ++turn) {
      const int64_t stretch = (task + turn) % stretches;
      const bool own = turn == 0;
      for (int64_t i; (i = left[stretch].take(own)) >= 0;) {
        if (!own) worker.started = false;  // nothing was fetched for what another thread leaves
        run_slice(call, total, {static_cast<int32_t>(stretch * slices + i), static_cast<int32_t>(stretches * slices)}, worker);
      }
      report_items(call, worker);
    }
  });
}

void merge(int32_t isa, const Merge &a) {
  const Kernels &kernels = kernels_of(isa);
  const int64_t *extent = a.output.extent;
  alignas(64) float total[kMaxChannels + kPadding], row[kMaxChannels + kPadding];
  for (int64_t b = 0; b < extent[0]; ++b) {
    for (int64_t h = 0; h < extent[1]; ++h) {
      for (int64_t t = 0; t < extent[2]; ++t) {
        const int64_t place = (b * extent[1] + h) * extent[2] + t;
        float maximum = -kInfinity, mass = 0;
        for (int32_t i = 0; i < a.count; ++i) maximum = larger_or_nan(maximum, a.lses[i][place]);
        std::memset(total, 0, sizeof total);
        for (int32_t i = 0; i < a.count && maximum != -kInfinity; ++i) {
          if (a.lses[i][place] == -kInfinity) continue;
          const float share = std::exp(a.lses[i][place] - maximum);
          mass += share;
          kernels.widen[element_index(a.outputs[i].dtype)](element(a.outputs[i], b, h, t), extent[3], share, row);
          for (int64_t j = 0; j < extent[3]; ++j) total[j] += row[j];
        }
        char *out = const_cast<char *>(element(a.output, b, h, t));
        kernels.narrow[element_index(a.output.dtype)](total, extent[3], mass > 0 ? 1.0f / mass : 0.0f, out);
        if (a.lse) a.lse[place] = mass == 0 ? -kInfinity : maximum + std::log(mass);
      }
    }
  }
}

}  // namespace think::attend
