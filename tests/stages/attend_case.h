// A case of the attend stage: what it looks like, its memory, how it is run, and the check against the reference.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "instruction_sets.h"
#include "kernels/attend/attend.h"
#include "kernels/common/element.h"
#include "think/attend.h"

namespace think::attend {
namespace {

bool full_sweep() {
  const char *value = std::getenv("THINK_TEST_FULL");
  return value && value[0] == '1';
}

struct Isa {
  int32_t id;
  const char *name;
};

std::vector<Isa> host_isas() {
  std::vector<Isa> isas;
  for (const int32_t isa : test::instruction_sets()) isas.push_back({isa, test::isa_name(isa)});
  return isas;
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761u + 88172645463325252u) {}
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    return state_ ^= state_ << 17;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() >> 11) % n; }
  float uniform() { return static_cast<float>(next() >> 40) / (1 << 23) - 1.0f; }  // [-1, 1)
  float bell() { return uniform() + uniform() + uniform(); }                       // variance 1
 private:
  uint64_t state_;
};

void poison(std::vector<char> &bytes, think_dtype dtype) {
  const uint32_t f32 = 0x7fc00123;
  const uint16_t half = dtype == THINK_F16 ? 0x7e01 : dtype == THINK_F8_E4M3 ? 0xff7f : 0x7fc1;
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = dtype == THINK_F32 ? reinterpret_cast<const char *>(&f32)[i % 4] : reinterpret_cast<const char *>(&half)[i % 2];
  }
}

// ---- what a case looks like ---------------------------------------------------------------------------------------------------------------------------

struct SegmentSpec {
  int32_t key_layout = THINK_ROWS;
  think_dtype key_dtype = THINK_F16, value_dtype = THINK_F16;
  std::vector<int32_t> lengths;       // per sequence (cycled); per sequence and head with per_head
  bool per_head = false;
  std::vector<int32_t> first;         // the same; empty = NULL
  std::vector<int32_t> key_kept;      // per head (cycled over slots * heads); empty = no basis
  std::vector<int32_t> value_kept;
  int32_t page_tokens = 0;            // 0 = contiguous
  bool causal = false;
  bool own_slots = false;             // a slot table of the segment itself
  bool interleaved = false;           // rows as [token][head][channel], with a gap behind each token
  float magnitude = 1;
  bool all_equal = false;             // every key the same
  bool aligned = false;               // rows begin at multiples of 64 bytes, not just anywhere
};

struct Case {
  int32_t kv_heads = 2, group = 2, key_channels = 64, value_channels = 64;
  think_dtype query_dtype = THINK_F32, output_dtype = THINK_F32;
  std::vector<int32_t> queries{1};  // per sequence
  bool packed = false, batch_slots = false, sink = false, lse = true;
  float softcap = 0;
  std::vector<SegmentSpec> segments;
  uint64_t seed = 1;
};

constexpr int32_t kKept[] = {1, 7, 8, 9, 16, 39, 40, 52, 63, 64, 65, 77, 80, 127, 128};
constexpr int32_t kChannels[] = {64, 80, 96, 128, 256, 8, 40, 72};
constexpr int32_t kGroups[] = {1, 2, 3, 4, 5, 7, 8, 16};
constexpr int32_t kLengths[] = {0, 1, 31, 32, 33, 97, 193, 1021, 64};

// How the segments of a test are stored.
struct Kind {
  int32_t layout;
  think_dtype key, value;
};

SegmentSpec segment_of(const Kind &kind, std::vector<int32_t> lengths) {
  SegmentSpec s;
  s.key_layout = kind.layout;
  s.key_dtype = kind.key;
  s.value_dtype = kind.value;
  s.lengths = std::move(lengths);
  return s;
}

// Rows of numbers, whatever the case is about: sinks and the recent window of a cache.
void make_dense(SegmentSpec &s) {
  s.key_layout = THINK_ROWS;
  if (is_quantized(s.key_dtype)) s.key_dtype = THINK_F16;
  if (is_quantized(s.value_dtype)) s.value_dtype = THINK_F16;
}

// Three widths per call, none wider than a full row.
std::vector<int32_t> widths(int32_t channels, int which) {
  std::vector<int32_t> kept;
  for (int i = 0; i < 3; ++i) kept.push_back(std::min(channels, kKept[(which * 3 + i * 4) % std::size(kKept)]));
  return kept;
}
std::vector<int32_t> value_widths(int32_t channels, int which) {
  std::vector<int32_t> kept;
  for (int i = 0; i < 3; ++i) kept.push_back(8 * (1 + (which * 5 + i * 3) % (channels / 8)));
  return kept;
}

// The shape of a pruned cache in use: sinks, compact prefix with widths per head, recent window, on pages in any order.
Case cache_of_a_chat(const Kind &kind) {
  Case c;
  c.kv_heads = 3;
  c.group = 3;
  c.queries = {1, 1, 1};
  c.batch_slots = true;
  c.sink = true;
  SegmentSpec sinks = segment_of(kind, {4, 4, 2}), compact = segment_of(kind, {1184, 0, 96}), recent = segment_of(kind, {41, 32, 63});
  make_dense(sinks);
  make_dense(recent);
  sinks.interleaved = true;
  recent.first = {4, 36, 17};
  recent.interleaved = true;
  recent.causal = true;
  compact.key_kept = {39, 17, 52, 40, 24, 64};
  compact.value_kept = {40, 64, 48};
  compact.page_tokens = 64;
  compact.first = {32, 0, 64};
  c.segments = {sinks, compact, recent};
  return c;
}

Case lengths_per_head(const Kind &kind) {
  Case c;
  c.kv_heads = 3;
  c.queries = {1, 2};
  c.packed = true;
  SegmentSpec s = segment_of(kind, {700, 0, 65, 31, 1200, 1});
  s.per_head = true;
  s.first = {0, 32, 64};
  s.key_kept = {16, 63, 7};
  s.own_slots = true;
  c.segments = {s, segment_of(kind, {5, 33})};
  return c;
}

// The third sequence has fewer rows than queries: the first query sees none of them.
Case many_queries(const Kind &kind, int32_t longest, bool packed, const std::vector<int32_t> &prefix_lengths) {
  Case c;
  c.group = longest == 9 ? 16 : 3;
  c.queries = {longest, 0, 2};
  c.packed = packed;
  SegmentSpec prefix = segment_of(kind, prefix_lengths), recent = segment_of(kind, {longest + 13, 5, 1});
  prefix.key_kept = {40, 52};
  prefix.value_kept = {32, 64};
  prefix.page_tokens = 96;
  recent.causal = true;
  c.segments = {prefix, recent};
  c.seed = longest;
  return c;
}

// The first query of one sequence and the only one of the other see nothing.
Case queries_that_see_nothing(const Kind &kind) {
  Case c;
  c.queries = {3, 1};
  SegmentSpec empty = segment_of(kind, {0}), recent = segment_of(kind, {2, 0});
  recent.causal = true;
  c.segments = {empty, recent};
  return c;
}

Case softcap_and_sink(const Kind &kind, float softcap) {
  Case c;
  c.softcap = softcap;
  c.sink = true;
  c.queries = {2};
  c.output_dtype = c.query_dtype = THINK_BF16;
  SegmentSpec s = segment_of(kind, {333}), recent = segment_of(kind, {20});
  s.key_kept = {40, 9};
  s.magnitude = 4;
  recent.causal = true;
  c.segments = {s, recent};
  return c;
}

// ---- memory behind a case -----------------------------------------------------------------------------------------------------------------------------

struct OwnedBasis {
  think_basis basis{};
  std::vector<int32_t> kept, index;
  std::vector<int64_t> weight_offset;
  std::vector<float> offset;
  std::unique_ptr<char[]> storage;

  OwnedBasis(int32_t channels, int32_t slots, int32_t kv_heads, const std::vector<int32_t> &widths, Random &random) {
    const int64_t places = static_cast<int64_t>(slots) * kv_heads;
    index.resize(places * channels);
    offset.assign(places * channels, std::nanf(""));
    int64_t bytes = 0;
    for (int64_t place = 0; place < places; ++place) {
      kept.push_back(widths[place % widths.size()]);
      std::vector<int32_t> order(channels);
      std::iota(order.begin(), order.end(), 0);
      for (int32_t i = channels - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
      std::sort(order.begin(), order.begin() + kept[place]);
      std::sort(order.begin() + kept[place], order.end());
      std::copy(order.begin(), order.end(), index.begin() + place * channels);
      weight_offset.push_back(place % 3 == 2 ? -1 : bytes);  // every third head drops its channels without a prediction
      bytes += static_cast<int64_t>(channels - kept[place]) * ((kept[place] + 7) / 8 * 8) * 2;
    }
    storage = std::make_unique<char[]>(bytes + 16);
    char *weight = storage.get() + (16 - reinterpret_cast<uintptr_t>(storage.get()) % 16) % 16;
    std::memset(weight, 0, bytes);
    for (int64_t place = 0; place < places; ++place) {
      if (weight_offset[place] < 0) continue;
      uint16_t *block = reinterpret_cast<uint16_t *>(weight + weight_offset[place]);
      const int32_t width = (kept[place] + 7) / 8 * 8;
      for (int32_t p = 0; p < channels - kept[place]; ++p) {
        for (int32_t i = 0; i < kept[place]; ++i) block[p * width + i] = f32_to_f16(random.bell() / std::sqrt(static_cast<float>(kept[place])));
        offset[place * channels + kept[place] + p] = random.bell();
      }
    }
    basis.struct_size = sizeof basis;
    basis.channels = channels;
    basis.slots = slots;
    basis.kept = kept.data();
    basis.index = index.data();
    basis.weight = weight;
    basis.weight_bytes = bytes;
    basis.weight_offset = weight_offset.data();
    basis.offset = offset.data();
  }
};

struct OwnedSegment {
  think_segment segment{};
  std::vector<char> key, value;
  std::vector<int64_t> key_head_offset, value_head_offset;
  std::vector<float> key_scale, value_scale;
  std::vector<int32_t> pages, first, lengths, slot;
  std::unique_ptr<OwnedBasis> key_basis, value_basis;
};

struct Problem {
  Case spec;
  Arguments arguments{};
  std::vector<std::unique_ptr<OwnedSegment>> owned;
  std::vector<think_segment> segments;
  std::vector<char> query;
  std::vector<int32_t> lengths, row_start, slot;
  std::vector<float> sinks;
  int64_t output_elements = 0, lse_count = 0, most_tokens = 0;

  explicit Problem(const Case &c) : spec(c) {
    Random random(c.seed);
    Shape &shape = arguments.shape;
    const int32_t count = static_cast<int32_t>(c.queries.size()), most = *std::max_element(c.queries.begin(), c.queries.end());
    shape.kv_heads = c.kv_heads;
    shape.group = c.group;
    shape.query_heads = c.kv_heads * c.group;
    shape.key_channels = c.key_channels;
    shape.value_channels = c.value_channels;
    shape.window = 32;
    shape.max_batch = count;
    shape.max_queries = most;
    shape.query_dtype = c.query_dtype;
    shape.output_dtype = c.output_dtype;
    shape.scale = 1.0f / std::sqrt(static_cast<float>(c.key_channels));
    shape.softcap = c.softcap;
    arguments.batch.count = count;
    int64_t tokens = most, rows = count;
    if (c.packed) {
      row_start.push_back(0);
      for (int32_t n : c.queries) row_start.push_back(row_start.back() + n);
      tokens = row_start.back();
      rows = 1;
      arguments.batch.row_start = row_start.data();
    } else {
      lengths = c.queries;
      arguments.batch.lengths = lengths.data();
    }
    const int32_t slots = count + 2;
    std::vector<int32_t> order(slots);
    std::iota(order.begin(), order.end(), 0);
    for (int32_t i = slots - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
    slot = order;
    if (c.batch_slots) arguments.batch.slot = slot.data();

    // Queries as [row][token][head][channel] with gaps, outputs as [row][head][token][channel] with other gaps.
    think_tensor &q = arguments.query, &o = arguments.output;
    q.dtype = c.query_dtype;
    q.extent[0] = rows, q.extent[1] = shape.query_heads, q.extent[2] = tokens, q.extent[3] = c.key_channels;
    q.stride[3] = 1, q.stride[1] = c.key_channels + 3, q.stride[2] = q.stride[1] * shape.query_heads + 1, q.stride[0] = q.stride[2] * tokens + 5;
    query.resize(q.stride[0] * rows * dtype_bytes(q.dtype));
    poison(query, q.dtype);
    q.data = query.data();
    for (int32_t b = 0; b < count; ++b) {
      const RowRange range = rows_of(q, arguments.batch, b);
      for (int32_t h = 0; h < shape.query_heads; ++h) {
        for (int64_t t = 0; t < range.count; ++t) {
          char *row = const_cast<char *>(element(q, range.row, h, range.first + t));
          for (int32_t j = 0; j < c.key_channels; ++j) store_element(row, q.dtype, j, random.bell());
        }
      }
    }
    o.dtype = c.output_dtype;
    o.extent[0] = rows, o.extent[1] = shape.query_heads, o.extent[2] = tokens, o.extent[3] = c.value_channels;
    o.stride[3] = 1, o.stride[2] = c.value_channels + 1, o.stride[1] = o.stride[2] * tokens + 3, o.stride[0] = o.stride[1] * shape.query_heads + 7;
    output_elements = o.stride[0] * rows;
    lse_count = rows * shape.query_heads * tokens;

    for (const SegmentSpec &s : c.segments) add_segment(s, slots, random);
    for (auto &one : owned) segments.push_back(one->segment);
    arguments.segments = segments.data();
    arguments.segment_count = static_cast<int32_t>(segments.size());
    for (int32_t b = 0; b < count; ++b) {
      for (int32_t h = 0; h < c.kv_heads; ++h) {
        int64_t sum = 0;
        for (const think_segment &s : segments) sum += run_length(s, b, h);
        most_tokens = std::max(most_tokens, sum);
      }
    }
    shape.max_tokens = most_tokens;
    for (int32_t h = 0; h < shape.query_heads; ++h) sinks.push_back(random.bell() * 2);
    if (c.sink) arguments.sink_logit = sinks.data();
  }

  // Random codes; scales and zeros that make numbers of variance 1, and groups of equal numbers among them. What belongs to tokens behind the end stays poisoned.
  static void fill_codes(const SideView &view, bool keys, int32_t count, const std::vector<float> *equal, float magnitude, Random &random, char *tile) {
    for (int32_t c = 0; c < view.channels && !has_groups(view.dtype); ++c) {
      for (int32_t t = 0; t < count; ++t) {
        const CodePlace place = keys ? key_code(view.dtype, c, t) : value_code(view.dtype, view.channels, c, t);
        tile[place.byte] = static_cast<char>(f8_code_of(equal ? (*equal)[c] : random.bell() * magnitude, 1.0f / view.scale));
      }
    }
    if (!has_groups(view.dtype)) return;
    const TileLayout layout = keys ? key_tile(view.channels, view.dtype) : value_tile(view.channels, view.dtype);
    uint16_t *scale = reinterpret_cast<uint16_t *>(tile + layout.scale), *zero = reinterpret_cast<uint16_t *>(tile + layout.zero);
    const float step = 4.0f / static_cast<float>(most_code(view.dtype)) * magnitude;
    for (int32_t group = 0; group < (keys ? layout.groups : layout.groups * kTileTokens); ++group) {
      if (!keys && group % kTileTokens >= count) continue;
      const bool constant = equal || random.below(8) == 0;
      scale[group] = f32_to_f16(constant ? 0.0f : step * (1.0f + 0.5f * random.uniform()));
      zero[group] = f32_to_f16(equal ? (*equal)[group] : (constant ? random.bell() : -2.0f + random.uniform()) * magnitude);
    }
    for (int32_t t = 0; t < count; ++t) {
      for (int32_t c = 0; c < view.channels; ++c) {
        const CodePlace place = keys ? key_code(view.dtype, c, t) : value_code(view.dtype, view.channels, c, t);
        uint8_t &byte = reinterpret_cast<uint8_t *>(tile)[place.byte];
        const uint32_t mask = static_cast<uint32_t>(most_code(view.dtype)) << place.shift;
        byte = static_cast<uint8_t>((byte & ~mask) | (static_cast<uint32_t>(random.next() >> 20) << place.shift & mask));
      }
    }
  }

  void add_segment(const SegmentSpec &s, int32_t slots, Random &random) {
    const int32_t count = arguments.batch.count, heads = spec.kv_heads;
    owned.push_back(std::make_unique<OwnedSegment>());
    OwnedSegment &own = *owned.back();
    think_segment &segment = own.segment;
    segment.struct_size = sizeof segment;
    segment.flags = s.causal ? THINK_SEGMENT_CAUSAL : 0;
    segment.key_layout = s.key_layout;
    segment.value_layout = is_quantized(s.value_dtype) ? THINK_TILES : THINK_ROWS;
    segment.key_dtype = s.key_dtype;
    segment.value_dtype = s.value_dtype;
    const int32_t per = s.per_head ? heads : 1;
    int64_t capacity = 32;
    for (int32_t i = 0; i < count * per; ++i) {
      own.lengths.push_back(s.lengths[i % s.lengths.size()]);
      own.first.push_back(s.first.empty() ? 0 : s.first[i % s.first.size()]);
      capacity = std::max<int64_t>(capacity, own.lengths.back() + own.first.back());
    }
    capacity = (capacity + 31) / 32 * 32;
    segment.lengths = own.lengths.data();
    if (!s.first.empty()) segment.first = own.first.data();
    segment.lengths_stride[0] = per;
    segment.lengths_stride[1] = s.per_head ? 1 : 0;
    if (s.own_slots) {
      for (int32_t b = 0; b < count; ++b) own.slot.push_back((b + 1) % slots);
      segment.slot = own.slot.data();
    }
    if (!s.key_kept.empty()) own.key_basis = std::make_unique<OwnedBasis>(spec.key_channels, slots, heads, s.key_kept, random);
    if (!s.value_kept.empty()) own.value_basis = std::make_unique<OwnedBasis>(spec.value_channels, slots, heads, s.value_kept, random);
    segment.key_basis = own.key_basis ? &own.key_basis->basis : nullptr;
    segment.value_basis = own.value_basis ? &own.value_basis->basis : nullptr;

    int64_t blocks = slots, block_tokens = capacity;
    if (s.page_tokens) {
      block_tokens = s.page_tokens;
      segment.pages_stride = (capacity + block_tokens - 1) / block_tokens + 1;
      blocks = segment.pages_stride * count;
      own.pages.resize(blocks);
      std::iota(own.pages.begin(), own.pages.end(), 0);
      for (int64_t i = blocks - 1; i > 0; --i) std::swap(own.pages[i], own.pages[random.below(i + 1)]);
      own.pages.pop_back();  // the last table ends with its last page
      segment.pages = own.pages.data();
    }
    segment.page_tokens = static_cast<int32_t>(block_tokens);
    for (const Side side : {Side::keys, Side::values}) {
      const bool keys = side == Side::keys;
      const think_dtype dtype = keys ? s.key_dtype : s.value_dtype;
      const bool tiles = (keys ? s.key_layout : segment.value_layout) == THINK_TILES;
      const int64_t size = dtype_bytes(dtype), channels = keys ? spec.key_channels : spec.value_channels;
      const think_basis *basis = keys ? segment.key_basis : segment.value_basis;
      int64_t *stride = keys ? segment.key_stride : segment.value_stride;
      auto &offsets = keys ? own.key_head_offset : own.value_head_offset;
      auto &bytes = keys ? own.key : own.value;
      if (dtype == THINK_F8_E4M3) {
        auto &scale = keys ? own.key_scale : own.value_scale;
        for (int32_t i = 0; i < slots * heads; ++i) scale.push_back(std::ldexp(1.0f + 0.3f * static_cast<float>(i % 3), i % 4 - 4) * s.magnitude);
        (keys ? segment.key_scale : segment.value_scale) = scale.data();
      }
      if (s.interleaved && !basis && !tiles) {
        stride[1] = channels * size;
        stride[2] = channels * heads * size + size;
        stride[0] = stride[2] * block_tokens;
      } else if (basis) {
        int64_t widest = 0;
        for (int32_t place = 0; place < slots; ++place) {
          int64_t offset = 0;
          for (int32_t h = 0; h < heads; ++h) {
            offsets.push_back(offset);
            offset += head_bytes(block_tokens, basis->kept[place * heads + h], dtype, keys);
          }
          widest = std::max(widest, offset);
        }
        stride[0] = widest;
        (keys ? segment.key_head_offset : segment.value_head_offset) = offsets.data();
      } else {
        stride[1] = head_bytes(block_tokens, static_cast<int32_t>(channels), dtype, keys);
        stride[0] = stride[1] * heads;
      }
      // Tiles start at multiples of 16 bytes, rows anywhere; nothing lies behind the last block.
      const int64_t skew = s.aligned ? 64 : tiles ? 16 : size;
      bytes.resize(stride[0] * blocks + 64 + skew);
      poison(bytes, dtype);
      char *base = bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64 + skew;
      poison(bytes, dtype);
      (keys ? segment.key : segment.value) = base;
      for (int32_t b = 0; b < count; ++b) {
        for (int32_t h = 0; h < heads; ++h) {
          const SideView view = side_view(segment, side, arguments.shape, arguments.batch, b, h);
          const int64_t first = run_first(segment, b, h), length = run_length(segment, b, h);
          Random same(h + 7);
          std::vector<float> equal(channels);
          for (float &x : equal) x = same.bell();
          if (is_quantized(dtype)) {
            for (int64_t t = first; t < first + length; t += kTileTokens) {
              const int32_t count = static_cast<int32_t>(std::min<int64_t>(kTileTokens, first + length - t));
              fill_codes(view, keys, count, keys && s.all_equal ? &equal : nullptr, keys ? s.magnitude : 1, random, row_address(view, t));
            }
            continue;
          }
          for (int64_t t = 0; t < length; ++t) {
            char *row = row_address(view, first + t);
            for (int32_t j = 0; j < view.channels; ++j) {
              const int64_t place = view.layout == THINK_TILES ? j * int64_t{kTileTokens} + (first + t) % kTileTokens : j;
              store_element(row, dtype, place, keys && s.all_equal ? equal[j] : random.bell() * (keys ? s.magnitude : 1));
            }
          }
        }
      }
    }
  }
};

struct Result {
  std::vector<char> output;
  std::vector<float> lse;
};

constexpr char kUntouched = 0x5b;

template <class Run>
Result run_with(const Problem &problem, const Run &run, think_dtype output_dtype = 0) {
  Result result;
  Arguments arguments = problem.arguments;
  if (output_dtype) arguments.output.dtype = output_dtype;
  result.output.assign(problem.output_elements * dtype_bytes(arguments.output.dtype), kUntouched);
  result.lse.assign(problem.lse_count, -12345.0f);
  arguments.output.data = result.output.data();
  arguments.lse = problem.spec.lse ? result.lse.data() : nullptr;
  run(arguments);
  return result;
}

Parallel threads_of(int32_t threads) {
  return {threads,
          [](void *self, int64_t count, think_task task, void *arg) {
            std::vector<std::thread> team;
            std::atomic<int64_t> next{0};
            for (intptr_t i = 0; i < reinterpret_cast<intptr_t>(self); ++i) {
              team.emplace_back([&] {
                for (int64_t index; (index = next++) < count;) task(arg, index);
              });
            }
            for (std::thread &thread : team) thread.join();
          },
          reinterpret_cast<void *>(static_cast<intptr_t>(threads))};
}

// The kernel with a workspace of exactly the size asked for, guarded and dirty behind the counters.
Result run_kernel(const Problem &problem, int32_t isa, int32_t threads, int32_t slices, bool slices_in_threads = false) {
  const Shape &shape = problem.arguments.shape;
  const int64_t bytes = workspace(shape, {problem.arguments.batch.count, shape.max_queries, problem.arguments.segment_count, problem.most_tokens});
  const int64_t counters = workspace(shape, {0, 0, 1, 0});
  constexpr int64_t guard = 256;
  char *memory = static_cast<char *>(std::aligned_alloc(64, (bytes + guard + 63) / 64 * 64));
  std::memset(memory, 0xff, bytes + guard);
  if (slices > 1) std::memset(memory, 0, counters);  // alone, a call does not need it
  const Result result = run_with(problem, [&](const Arguments &arguments) {
    if (slices <= 1) {
      attend(isa, arguments, memory, threads_of(threads), {0, 1});
      return;
    }
    std::vector<std::thread> team;
    for (int32_t slice = slices - 1; slice >= 0; --slice) {
      const auto work = [&, slice] { attend(isa, arguments, memory, threads_of(1), {slice, slices}); };
      if (slices_in_threads) {
        team.emplace_back(work);
      } else {
        work();
      }
    }
    for (std::thread &thread : team) thread.join();
  });
  for (int64_t i = 0; i < guard; ++i) EXPECT_EQ(memory[bytes + i], static_cast<char>(0xff)) << "written behind the workspace";
  for (int64_t i = 0; i < counters; ++i) EXPECT_EQ(memory[i], 0) << "counters are not left at zero";
  std::free(memory);
  return result;
}

struct Error {
  double output = 0, lse = 0;
};

// The oracle, in f32 whatever the output type is: rounding to 16 bits is part of what is measured.
Result exact_result(const Problem &problem) {
  return run_with(problem, [](const Arguments &a) { reference::attend(a); }, THINK_F32);
}

// Largest distance from the oracle; padding must be untouched. NaN counts as infinitely far.
Error distance(const Problem &problem, const Result &one, const Result &exact) {
  Error error;
  const think_tensor &o = problem.arguments.output;
  std::vector<char> real(problem.output_elements);
  for (int32_t b = 0; b < problem.arguments.batch.count; ++b) {
    const RowRange rows = rows_of(o, problem.arguments.batch, b);
    for (int32_t h = 0; h < problem.arguments.shape.query_heads; ++h) {
      for (int64_t t = 0; t < rows.count; ++t) {
        const int64_t place = rows.row * o.stride[0] + h * o.stride[1] + (rows.first + t) * o.stride[2];
        for (int32_t j = 0; j < problem.spec.value_channels; ++j) {
          real[place + j] = 1;
          const double x = load_element(one.output.data(), o.dtype, place + j), y = load_element(exact.output.data(), THINK_F32, place + j);
          const double d = std::fabs(x - y);
          error.output = std::max(error.output, std::isnan(d) ? std::numeric_limits<double>::infinity() : d);
        }
        if (problem.spec.lse) {
          const int64_t index = lse_index(problem.arguments.query, problem.arguments.batch, b, h, t);
          const double x = one.lse[index], y = exact.lse[index], d = x == y ? 0 : std::fabs(x - y);
          error.lse = std::max(error.lse, std::isnan(d) ? std::numeric_limits<double>::infinity() : d);
        }
      }
    }
  }
  const int64_t size = dtype_bytes(o.dtype);
  for (int64_t i = 0; i < problem.output_elements * size; ++i) {
    if (!real[i / size] && one.output[i] != kUntouched) ADD_FAILURE() << "padding written at byte " << i;
  }
  return error;
}

void expect_same_bits(const Result &one, const Result &other, const char *what) {
  EXPECT_TRUE(one.output == other.output) << what;
  EXPECT_EQ(std::memcmp(one.lse.data(), other.lse.data(), one.lse.size() * sizeof(float)), 0) << what;
}

void check(const Case &spec, bool slices = false) {
  const Problem problem(spec);
  const Result exact = exact_result(problem);
  const Result plain = run_with(problem, [](const Arguments &a) { reference::attend_single(a); });
  const Error allowed = distance(problem, plain, exact);
  ASSERT_TRUE(std::isfinite(allowed.output)) << "the case itself is broken";
  for (const Isa &isa : host_isas()) {
    SCOPED_TRACE(isa.name);
    const Result result = run_kernel(problem, isa.id, 1, 1);
    const Error error = distance(problem, result, exact);
    EXPECT_LE(error.output, 2 * allowed.output + 1e-5) << "D " << spec.key_channels << "/" << spec.value_channels << " G " << spec.group;
    EXPECT_LE(error.lse, 2 * allowed.lse + 1e-5);
    if (!slices) continue;
    expect_same_bits(result, run_kernel(problem, isa.id, 1, 1), "second run");
    expect_same_bits(result, run_kernel(problem, isa.id, 3, 1), "three threads");
    expect_same_bits(result, run_kernel(problem, isa.id, 1, 2), "two slices");
    expect_same_bits(result, run_kernel(problem, isa.id, 1, 5), "five slices");
    expect_same_bits(result, run_kernel(problem, isa.id, 1, 4, true), "four slices in threads");
  }
}

}  // namespace
}  // namespace think::attend
