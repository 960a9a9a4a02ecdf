// Segments for the tests of the compact stage, on the CPU and in the emulator of CUDA kernels: memory, bases, page tables, drawn at random.
#pragma once

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/common/element.h"
#include "kernels/compact/compact.h"

namespace think::test {

inline constexpr think_dtype kDtypes[] = {THINK_F32, THINK_F16, THINK_BF16};
using Random = std::mt19937;

inline int32_t pick(Random &random, int32_t low, int32_t high) { return std::uniform_int_distribution<int32_t>(low, high)(random); }

inline Shape make_shape(int32_t kv_heads, int32_t key_channels, int32_t value_channels, int32_t batch) {
  Shape shape{};
  shape.query_heads = shape.kv_heads = kv_heads;
  shape.group = 1;
  shape.key_channels = key_channels;
  shape.value_channels = value_channels;
  shape.max_batch = batch;
  return shape;
}

// Kept channels of each slot and head, drawn at random, ascending.
struct Basis {
  std::vector<int32_t> kept, index;
  think_basis basis = THINK_BASIS_INIT;

  template <class Width>
  Basis(Random &random, int32_t slots, int32_t heads, int32_t channels, const Width &width) {
    for (int32_t i = 0; i < slots * heads; ++i) {
      std::vector<int32_t> order(channels);
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      kept.push_back(width(i));
      std::sort(order.begin(), order.begin() + kept.back());
      std::sort(order.begin() + kept.back(), order.end());
      index.insert(index.end(), order.begin(), order.end());
    }
    basis.channels = channels;
    basis.slots = slots;
    basis.kept = kept.data();
    basis.index = index.data();
  }
};

enum class Order { heads, tokens, placed };  // heads behind each other with a fixed stride, interleaved per token, or by head offsets

struct SideOptions {
  think_dtype dtype = THINK_F16;
  int32_t layout = THINK_ROWS;
  const think_basis *basis = nullptr;
  Order order = Order::heads;
  int64_t gap = 0;  // unused elements behind each row (rows without a basis only)
};

// Every dtype that a side can be stored in.
constexpr think_dtype kStored[] = {THINK_F32, THINK_F16, THINK_BF16, THINK_U8, THINK_U4, THINK_U2, THINK_F8_E4M3};

// One segment with memory of its own: blocks (pages or slots) of `capacity` rows, in shuffled order when paged.
struct Store {
  static constexpr int64_t kGuard = 512;
  think_segment segment = THINK_SEGMENT_INIT;
  std::vector<char> key, value;
  std::vector<int64_t> key_offset, value_offset;
  std::vector<float> key_scale, value_scale;
  std::vector<int32_t> pages, first, lengths;

  Store(Random &random, const Shape &shape, const Batch &batch, int32_t slots, bool paged, int32_t capacity, int32_t max_rows, const SideOptions &k,
        const SideOptions &v, std::vector<int32_t> first_, std::vector<int32_t> lengths_, bool per_head)
      : first(std::move(first_)), lengths(std::move(lengths_)) {
    segment.page_tokens = capacity;
    segment.lengths_stride[0] = per_head ? shape.kv_heads : 1;
    segment.lengths_stride[1] = per_head ? 1 : 0;
    segment.first = first.data();
    segment.lengths = lengths.data();
    int32_t blocks = slots;
    if (paged) {
      const int32_t each = (max_rows + capacity - 1) / capacity;
      blocks = batch.count * each + 2;
      std::vector<int32_t> order(blocks);
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      segment.pages_stride = each + 1;
      pages.assign(batch.count * segment.pages_stride, -12345);
      for (int32_t b = 0; b < batch.count; ++b) {
        for (int32_t p = 0; p < each; ++p) pages[b * segment.pages_stride + p] = order[b * each + p];
      }
      segment.pages = pages.data();
    }
    side(random, shape, batch, slots, blocks, capacity, true, k);
    side(random, shape, batch, slots, blocks, capacity, false, v);
  }
  Store(const Store &) = delete;

  void side(Random &random, const Shape &shape, const Batch &batch, int32_t slots, int64_t blocks, int64_t capacity, bool keys, const SideOptions &options) {
    const int64_t channels = keys ? shape.key_channels : shape.value_channels, size = dtype_bytes(options.dtype);
    (keys ? segment.key_dtype : segment.value_dtype) = options.dtype;
    (keys ? segment.key_layout : segment.value_layout) = options.layout;
    (keys ? segment.key_basis : segment.value_basis) = options.basis;
    int64_t *stride = keys ? segment.key_stride : segment.value_stride;
    const int64_t row = (channels + options.gap) * size;
    stride[0] = shape.kv_heads * capacity * row + 64;
    stride[1] = options.order == Order::tokens ? row : capacity * row;
    stride[2] = options.order == Order::tokens ? shape.kv_heads * row : options.gap ? row : 0;
    if (options.order == Order::placed) {
      auto &offset = keys ? key_offset : value_offset;
      offset.assign(slots * shape.kv_heads, -1);
      (keys ? segment.key_head_offset : segment.value_head_offset) = offset.data();
      think_segment only = segment;
      (keys ? only.value_head_offset : only.key_head_offset) = nullptr;
      compact::place(shape, only, batch);
    }
    if (is_quantized(options.dtype)) {
      stride[1] = head_bytes(capacity, static_cast<int32_t>(channels), options.dtype, keys);
      stride[0] = shape.kv_heads * stride[1] + 64;
      stride[2] = 0;
    }
    auto &scale = keys ? key_scale : value_scale;
    if (options.dtype == THINK_F8_E4M3 && pick(random, 0, 3)) {
      for (int32_t i = 0; i < slots * shape.kv_heads; ++i) {
        const float fraction = 1.0f + static_cast<float>(pick(random, 0, 2)) * 0.3f;
        scale.push_back(std::ldexp(fraction, pick(random, -12, 3)));
      }
      (keys ? segment.key_scale : segment.value_scale) = scale.data();
    }
    auto &memory = keys ? key : value;
    memory.assign(kGuard + blocks * stride[0] + kGuard, '\x5a');
    (keys ? segment.key : segment.value) = memory.data() + kGuard;
  }

  // Any codes under scales and zeros of any size.
  static void fill_codes(Random &random, const SideView &view, bool keys, char *tile) {
    const TileLayout layout = keys ? key_tile(view.channels, view.dtype) : value_tile(view.channels, view.dtype);
    for (int64_t i = 0; i < layout.bytes; ++i) tile[i] = static_cast<char>(pick(random, 0, 255));
    // A NaN has many forms: not here.
    for (int64_t i = 0; i < layout.bytes && !has_groups(view.dtype); ++i) tile[i] = static_cast<char>(tile[i] & ((tile[i] & 0x7f) == 0x7f ? 0xfe : 0xff));
    const int32_t groups = keys ? layout.groups : layout.groups * kTileTokens;
    std::normal_distribution<float> normal;
    for (int32_t group = 0; group < groups; ++group) {
      reinterpret_cast<uint16_t *>(tile + layout.scale)[group] = f32_to_f16(pick(random, 0, 9) ? std::ldexp(std::abs(normal(random)), pick(random, -14, 6)) : 0.0f);
      reinterpret_cast<uint16_t *>(tile + layout.zero)[group] = f32_to_f16(std::ldexp(normal(random), pick(random, -14, 8)));
    }
  }

  void poison() {
    for (auto *memory : {&key, &value}) {
      // NaN as f32, f16 and bf16 alike
      std::fill(memory->begin(), memory->end(), '\xff');
    }
  }
  // Random numbers in all rows that the sequence has, through the address rule.
  void fill(Random &random, const Shape &shape, const Batch &batch, const std::vector<int32_t> &rows_of_run) {
    std::normal_distribution<float> normal;
    for (Side s : {Side::keys, Side::values}) {
      if (!(s == Side::keys ? segment.key : segment.value)) continue;
      for (int32_t b = 0; b < batch.count; ++b) {
        for (int32_t h = 0; h < shape.kv_heads; ++h) {
          const SideView view = side_view(segment, s, shape, batch, b, h);
          const int64_t at = b * segment.lengths_stride[0] + h * segment.lengths_stride[1];
          for (int64_t t = first[at]; t < first[at] + rows_of_run[at]; ++t) {
            char *row = row_address(view, t);
            if (is_quantized(view.dtype)) {
              if (t % kTileTokens == 0 || t == first[at]) fill_codes(random, view, s == Side::keys, row);
              continue;
            }
            for (int64_t c = 0; c < view.channels; ++c) {
              const float x = std::ldexp(normal(random), pick(random, -20, 10));
              if (view.layout == THINK_TILES) {
                store_element(row, view.dtype, c * 32 + t % 32, x);
              } else {
                store_element(row, view.dtype, c, x);
              }
            }
          }
        }
      }
    }
  }
};

// Rows of three heads, pruned to widths[w] and the widths behind it: an odd first row, a partial last tile. check(shape, batch, slots, source, destination)
template <size_t count, class Check>
void prune_rows(Random &random, int32_t channels, const int32_t (&widths)[count], size_t w, think_dtype from, think_dtype to, int64_t gap, const Check &check) {
  const Shape shape = make_shape(3, channels, channels, 1);
  const Batch batch{1, nullptr, nullptr, nullptr};
  const Basis keys(random, 1, 3, channels, [&](int32_t h) { return std::min(channels, widths[(w + h) % count]); });
  const Basis values(random, 1, 3, channels, [&](int32_t h) { return std::min(channels, (widths[w] + 7 + 8 * h) / 8 * 8); });
  Store source(random, shape, batch, 1, false, 128, 128, {from, THINK_ROWS, nullptr, Order::tokens, gap}, {from}, {5}, {}, false);
  source.poison();
  source.fill(random, shape, batch, {75});
  Store destination(random, shape, batch, 1, false, 128, 128, {to, THINK_TILES, &keys.basis, Order::placed},
                    {to, THINK_ROWS, &values.basis, Order::placed}, {32}, {75}, false);
  check(shape, batch, 1, source, destination);
}

// Any layouts, pages on either side, per-head lengths and first rows, slots, gaps, bases on one or both sides. Stored in one of the first `forms` of kStored.
template <class Check>
void random_segments(int32_t seed, int32_t forms, const Check &check) {
  Random random(seed);
  const int32_t heads = pick(random, 1, 3), count = pick(random, 1, 3), slots = count + pick(random, 0, 2);
  const int32_t key_channels = 8 * pick(random, 1, 17), value_channels = 8 * pick(random, 1, 17);
  const Shape shape = make_shape(heads, key_channels, value_channels, count);
  std::vector<int32_t> slot(slots);
  std::iota(slot.begin(), slot.end(), 0);
  std::shuffle(slot.begin(), slot.end(), random);
  const Batch batch{count, nullptr, nullptr, slot.data()};
  const bool per_head = pick(random, 0, 1), has_basis = pick(random, 0, 3) > 0, same_basis = has_basis && pick(random, 0, 2) == 0;
  const Basis keys(random, slots, heads, key_channels, [&](int32_t) { return pick(random, 1, key_channels); });
  const Basis values(random, slots, heads, value_channels, [&](int32_t) { return 8 * pick(random, 1, value_channels / 8); });
  const int32_t runs = per_head ? count * heads : count;
  std::vector<int32_t> lengths(runs), source_first(runs), first(runs);
  SideOptions from_key, from_value, to_key, to_value;
  const auto choose = [&](SideOptions &side, bool key, const think_basis *basis) {
    side.dtype = kStored[pick(random, 0, forms - 1)];
    side.basis = basis;
    side.layout = is_quantized(side.dtype) || (key && pick(random, 0, 1)) ? THINK_TILES : THINK_ROWS;
    side.order = basis ? Order::placed : static_cast<Order>(side.layout == THINK_TILES ? 2 * pick(random, 0, 1) : pick(random, 0, 2));
    if (!basis && side.layout == THINK_ROWS) side.gap = pick(random, 0, 2) * 4;
  };
  choose(from_key, true, same_basis ? &keys.basis : nullptr);
  choose(from_value, false, same_basis ? &values.basis : nullptr);
  choose(to_key, true, has_basis ? &keys.basis : nullptr);
  choose(to_value, false, has_basis ? &values.basis : nullptr);
  const auto same_dtype = [&](const SideOptions &from, SideOptions &to) {
    to.dtype = from.dtype;
    if (!is_quantized(to.dtype)) return;
    to.layout = THINK_TILES;
    to.gap = 0;
    if (to.order == Order::tokens) to.order = Order::heads;
  };
  if (pick(random, 0, 1)) same_dtype(from_key, to_key), same_dtype(from_value, to_value);
  const bool from_tiles = from_key.layout == THINK_TILES || from_value.layout == THINK_TILES;
  const bool to_tiles = to_key.layout == THINK_TILES || to_value.layout == THINK_TILES;
  for (int32_t i = 0; i < runs; ++i) {
    lengths[i] = pick(random, 0, 3) == 0 ? 32 * pick(random, 0, 4) : pick(random, 0, 140);
    source_first[i] = from_tiles ? 32 * pick(random, 0, 2) : pick(random, 0, 70);
    first[i] = to_tiles ? 32 * pick(random, 0, 2) : pick(random, 0, 70);
  }
  const bool source_paged = pick(random, 0, 1), paged = pick(random, 0, 1);
  Store source(random, shape, batch, slots, source_paged, source_paged ? 32 * pick(random, 1, 3) : 256, 256, from_key, from_value, source_first,
               std::vector<int32_t>(runs, -1), per_head);
  Store destination(random, shape, batch, slots, paged, paged ? 32 * pick(random, 1, 3) : 256, 256, to_key, to_value, first, lengths, per_head);
  const int32_t left_out = pick(random, 0, 9);
  if (left_out == 0) source.segment.key = destination.segment.key = nullptr;
  if (left_out == 1) source.segment.value = destination.segment.value = nullptr;
  if (seed % 4 == 0 && !destination.segment.pages) destination.segment.flags = THINK_SEGMENT_MEASURE;
  source.poison();
  source.fill(random, shape, batch, lengths);
  check(shape, batch, slots, source, destination);
}

// One full block of the window, for the end of the tiles that are there already.
template <class Check>
void fold_one_tile(const Check &check) {
  Random random(4);
  const Shape shape = make_shape(8, 64, 64, 2);
  const int32_t slot[] = {1, 0};
  const Batch batch{2, nullptr, nullptr, slot};
  const Basis keys(random, 2, 8, 64, [&](int32_t i) { return 8 + i; });
  Store source(random, shape, batch, 2, false, 96, 96, {THINK_BF16}, {THINK_BF16}, {4, 17}, {}, false);
  source.poison();
  source.fill(random, shape, batch, {32, 32});
  Store destination(random, shape, batch, 2, true, 64, 256, {THINK_BF16, THINK_TILES, &keys.basis, Order::placed},
                    {THINK_BF16, THINK_ROWS, nullptr, Order::placed}, {96, 160}, {32, 32}, false);
  check(shape, batch, 2, source, destination);
}

// A line of tests/vectors/quantized.txt: the bytes of a tile, and the rows [token][channel] of which tests/vectors/quantized.py made it.
struct GoldenTile {
  std::string name;
  bool keys;
  think_dtype dtype;
  int32_t channels, tokens;
  std::vector<float> rows;
  std::vector<uint8_t> bytes;
  float scale = 0.5f;  // of F8
};

inline float golden_number(int32_t channel, int32_t token) {
  if (channel == 1) return 2.75f;
  if (channel == 2) return 0.1f;
  if (channel == 5 && token == 9) return std::numeric_limits<float>::infinity();
  if (channel == 6 && token == 3) return 1e6f;
  return static_cast<float>((channel * 37 + token * 11) % 64 - 20) / 8;
}

inline std::vector<GoldenTile> golden_tiles(const char *path) {
  std::ifstream file(path);
  std::vector<GoldenTile> tiles;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string side, dtype, hex;
    GoldenTile tile{line.substr(0, 20), false, 0, 0, 0, {}, {}};
    words >> side >> dtype >> tile.channels >> tile.tokens >> hex;
    tile.keys = side == "keys";
    tile.dtype = dtype == "u8" ? THINK_U8 : dtype == "u4" ? THINK_U4 : dtype == "u2" ? THINK_U2 : THINK_F8_E4M3;
    for (int32_t t = 0; t < tile.tokens; ++t) {
      for (int32_t c = 0; c < tile.channels; ++c) tile.rows.push_back(golden_number(c, t));
    }
    for (size_t i = 0; i + 2 <= hex.size(); i += 2) tile.bytes.push_back(static_cast<uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    tiles.push_back(std::move(tile));
  }
  return tiles;
}

}  // namespace think::test
