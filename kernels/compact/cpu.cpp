#include "../common/dispatch.h"
#include "cpu.h"

#include <cstring>
#include <initializer_list>
#include <iterator>

#include "compact.h"

namespace think::compact {

namespace {

// A call that writes less than this keeps what it wrote in the caches; more would only push out the rest.
constexpr int64_t kStreamBytes = int64_t{256} << 10;

// Rows behind the end of a run, for a partial last tile.
alignas(64) const char zero_row[kMaxChannels * 4] = {};

THINK_KERNELS_OF

// The rows of one sequence, KV head and side.
struct Run {
  SideView source, destination;
  int64_t source_first, destination_first, count, tiles;
  const int32_t *index;  // kept channels; NULL = rows keep all that they have
  int64_t tile_cost;     // bytes read and written
  bool keys;
  float *most;           // [kept channels] nothing is moved, this becomes the largest magnitude of each; NULL = rows are moved
};

bool is_present(const think_segment &destination, Side side) { return (side == Side::keys ? destination.key : destination.value) != nullptr; }

Run run_of(const Arguments &arguments, int32_t sequence, int32_t head, Side side) {
  const auto &[shape, source, destination, batch] = arguments;
  Run run;
  run.source = side_view(source, side, shape, batch, sequence, head);
  run.destination = side_view(destination, side, shape, batch, sequence, head);
  run.source_first = run_first(source, sequence, head);
  run.destination_first = run_first(destination, sequence, head);
  run.keys = side == Side::keys;
  run.count = run_length(destination, sequence, head);
  run.tiles = (run.count + kTileTokens - 1) / kTileTokens;
  const think_basis *from = side == Side::keys ? source.key_basis : source.value_basis;
  const think_basis *to = side == Side::keys ? destination.key_basis : destination.value_basis;
  const bool gathers = to && !from && run.destination.channels < run.source.channels;
  run.index = gathers ? to->index + (static_cast<int64_t>(run.destination.slot) * shape.kv_heads + head) * to->channels : nullptr;
  run.tile_cost = run.source.tile_bytes + run.destination.tile_bytes;
  run.most = nullptr;
  return run;
}

// Runs of heads whose source rows lie side by side, token by token: they are moved together, tile by tile, so that memory is read in the order in
// which it lies. Everything else is a bundle of one.
constexpr int32_t kMostHeads = 16;
struct Bundle {
  Run run[kMostHeads];
  int32_t heads;
  int64_t tile_cost;  // of all heads

  void add(const Run &more) {
    run[heads++] = more;
    tile_cost += more.tile_cost;
  }
};

bool side_by_side(const Run &one, const Run &next) {
  return one.source.layout == THINK_ROWS && next.source.layout == THINK_ROWS && one.source.channels == next.source.channels &&
         next.source.base - one.source.base == static_cast<int64_t>(one.source.channels) * dtype_bytes(one.source.dtype) &&
         one.source.row_stride == next.source.row_stride && one.source_first == next.source_first && one.destination_first == next.destination_first &&
         one.count == next.count;
}

// Body(bundle) for every bundle, in an order that puts keys and values of the same heads side by side, until it says false.
template <class Body>
void for_each_bundle(const Arguments &arguments, const Body &body) {
  Bundle bundle;
  for (int32_t sequence = 0; sequence < arguments.batch.count; ++sequence) {
    for (int32_t first = 0, end; first < arguments.shape.kv_heads; first = end) {
      end = 0;  // not known before the first side has been bundled
      for (Side side : {Side::keys, Side::values}) {
        if (!is_present(arguments.destination, side)) continue;
        const int32_t limit = end ? end : arguments.shape.kv_heads;
        int32_t head = first;
        Run next = run_of(arguments, sequence, head, side);
        do {
          bundle.heads = 0;
          bundle.tile_cost = 0;
          bool fits;
          do {
            bundle.add(next);
            if (++head == limit) break;
            next = run_of(arguments, sequence, head, side);
            fits = bundle.heads < kMostHeads && side_by_side(bundle.run[bundle.heads - 1], next);
          } while (fits);
          if (!body(bundle)) return;
        } while (end && head < limit);
        if (!end) end = head;
      }
      if (!end) return;
    }
  }
}

Map map_of(const Kernels &kernels, const Run &run) {
  Map map;
  map.channels = run.source.channels;
  map.kept = run.destination.channels;
  map.index = run.index;
  std::memset(map.mask, 0, sizeof map.mask);
  if (!run.index) std::memset(map.mask, 0xff, static_cast<size_t>(map.kept / 8));
  for (int32_t i = run.index ? 0 : map.kept / 8 * 8; i < map.kept; ++i) {
    const int32_t channel = run.index ? run.index[i] : i;
    map.mask[channel / 8] |= static_cast<uint8_t>(1u << channel % 8);
  }
  if (!run.index || kernels.gather_bytes == 0) return map;
  // Numbers are collected in the dtype that they are moved in: codes come from numbers of the source, and go through f32.
  const think_dtype moved = !is_quantized(run.destination.dtype) ? run.destination.dtype : is_quantized(run.source.dtype) ? THINK_F32 : run.source.dtype;
  const int32_t bytes = dtype_bytes(moved);
  std::memset(map.order, 0, sizeof map.order);
  std::memset(map.advance, 0, sizeof map.advance);
  for (int32_t i = 0; i < map.kept; ++i) {
    const int32_t place = run.index[i] * bytes, part = place / kernels.gather_bytes;
    uint8_t *order = map.order + part * kernels.gather_bytes + map.advance[part];
    for (int32_t b = 0; b < bytes; ++b) {
      const int32_t in_part = place % kernels.gather_bytes;
      order[b] = static_cast<uint8_t>(kernels.gather_bytes == kChunkBytes ? in_part + b : b == 0 ? in_part / bytes : 0);
    }
    map.advance[part] = static_cast<uint8_t>(map.advance[part] + bytes);
  }
  return map;
}

// Addresses of `count` rows, wherever pages begin and end.
void row_addresses(const SideView &view, int64_t first, int64_t count, const char **rows) {
  for (int64_t done = 0; done < count;) {
    const char *row = row_address(view, first + done);
    const int64_t left = rows_in_block(view, first + done), piece = count - done < left ? count - done : left;
    for (int64_t i = 0; i < piece; ++i, row += view.row_stride) rows[done + i] = row;
    done += piece;
  }
}

// Destination rows of a block, cut where pages end: body(rows done, rows of the piece, address).
template <class Body>
void for_each_piece(const SideView &destination, int64_t first, int64_t count, const Body &body) {
  for (int64_t done = 0; done < count;) {
    const int64_t left = rows_in_block(destination, first + done), piece = count - done < left ? count - done : left;
    body(done, static_cast<int32_t>(piece), row_address(destination, first + done));
    done += piece;
  }
}

// Where numbers wait that become codes or were codes. Rows are a little longer than their channels, so that they do not all begin in the same few places of the
// first cache.
constexpr int32_t kRowPadding = 32;
struct Staging {
  alignas(64) char rows[kTileTokens * (kMaxChannels + kRowPadding) * 4 + 64];
};

// A block of numbers, rows or a tile, to a tile of codes. Rows are copied where channels are chosen, where they end inside a line, and where their distance
// sends their lines to the same few places of the first cache: they are read twice.
void quantize_tile(const Kernels &kernels, const Run &run, const Block &block, bool from_rows, bool keys, Staging &staging) {
  const int32_t channels = run.destination.channels, whole = (channels + 7) / 8 * 8, bytes = dtype_bytes(block.source_dtype);
  const bool crowded = from_rows && (reinterpret_cast<uintptr_t>(block.rows[1]) - reinterpret_cast<uintptr_t>(block.rows[0])) % 1024 == 0;
  const bool whole_lines = channels * bytes % 64 == 0 && (keys || channels % kBlockChannels == 0);
  const bool in_place = from_rows && !run.index && whole_lines && !crowded && !block.together;
  const bool fetches = from_rows && block.next_tiles && !run.most;
  const int64_t stride = static_cast<int64_t>(whole + kRowPadding) * bytes;
  if (!in_place) {
    Block part = block;
    part.destination = staging.rows;
    part.destination_stride = stride;
    part.destination_dtype = block.source_dtype;
    part.stream = false;
    part.padded = true;
    part.first = 0;
    part.count = kTileTokens;
    if (fetches) part.known = 0;  // encode() does
    if (keys && block.f8_steps && !whole_lines) {  // what lies behind the last channel decides whether all of it is looked up
      for (int32_t t = 0; t < kTileTokens; ++t) std::memset(staging.rows + t * stride + channels * bytes, 0, static_cast<size_t>(stride - channels * bytes));
    }
    from_rows ? kernels.rows_to_rows(part) : kernels.tile_to_rows(part);
  }
  const char *other[kTileTokens], *const *rows = block.rows;
  if (!in_place || (keys && block.count < kTileTokens)) {
    for (int32_t t = 0; t < kTileTokens; ++t) other[t] = keys && t >= block.count ? other[0] : in_place ? block.rows[t] : staging.rows + t * stride;
    rows = other;
  }
  if (run.most) return kernels.largest(rows, block.count, channels, block.source_dtype, run.most);
  const SideView &to = run.destination;
  const Encode to_codes{rows, channels, block.count, block.source_dtype, to.dtype, keys, block.destination, block.stream, to.scale,
                        block.f8_steps, block.nearest};
  kernels.encode(to_codes, fetches ? &block : nullptr);
}

void store_tile(const Kernels &kernels, const Run &run, int64_t first, int64_t count, Block &block, bool from_rows) {
  if (run.destination.layout == THINK_TILES) {
    block.count = static_cast<int32_t>(count);
    block.destination = row_address(run.destination, run.destination_first + first);
    from_rows ? kernels.rows_to_tile(block) : kernels.tile_to_tile(block);
    return;
  }
  for_each_piece(run.destination, run.destination_first + first, count, [&](int64_t done, int32_t piece, char *destination) {
    Block part = block;
    part.count = piece;
    part.destination = destination;
    part.rows = block.rows + done;
    part.known = block.known - static_cast<int32_t>(done);
    part.first = static_cast<int32_t>(done);
    from_rows ? kernels.rows_to_rows(part) : kernels.tile_to_rows(part);
  });
}

// Apart, because its 70 KiB of stack are nothing that a move of plain numbers should need.
[[gnu::noinline]] void move_quantized_tile(const Kernels &kernels, const Run &run, int64_t first, int64_t count, Block &block) {
  bool from_rows = run.source.layout == THINK_ROWS;
  const char *decoded_rows[kTileTokens];
  alignas(64) float decoded[kTileTokens * kMaxChannels];
  if (is_quantized(run.source.dtype)) {
    const bool same_codes = run.source.dtype == run.destination.dtype && run.source.scale == run.destination.scale;
    if (same_codes && !run.index && !run.most && count == kTileTokens) {
      // As they are: a code of a code would not be better.
      std::memcpy(row_address(run.destination, run.destination_first + first), block.tile, static_cast<size_t>(run.destination.tile_bytes));
      return;
    }
    const int64_t stride = run.keys ? kTileTokens : (run.source.channels + kBlockChannels - 1) / kBlockChannels * kBlockChannels;
    kernels.decode({block.tile, run.source.channels, run.source.dtype, run.keys, run.source.scale, decoded, stride});
    block.source_dtype = THINK_F32;
    block.tile = reinterpret_cast<const char *>(decoded);
    if (!run.keys) {
      for (int64_t t = 0; t < kTileTokens; ++t) decoded_rows[t] = t < count ? reinterpret_cast<const char *>(decoded + t * stride) : zero_row;
      block.rows = decoded_rows;
      block.known = kTileTokens;
      block.next_tiles = false;
      block.next_count = 0;
      block.together = false;
      from_rows = true;
    }
  }
  if (!is_quantized(run.destination.dtype)) return store_tile(kernels, run, first, count, block, from_rows);
  block.count = static_cast<int32_t>(count);
  block.destination = row_address(run.destination, run.destination_first + first);
  Staging staging;
  quantize_tile(kernels, run, block, from_rows, run.keys, staging);
}

void move_tile(const Kernels &kernels, const Run &run, int64_t tile, const Block &whole_block) {
  const int64_t first = tile * kTileTokens, left = run.count - first, count = left < kTileTokens ? left : kTileTokens;
  const bool from_rows = run.source.layout == THINK_ROWS;
  Block block = whole_block;
  if (!from_rows) block.tile = row_address(run.source, run.source_first + first);
  if (is_quantized(run.source.dtype) || is_quantized(run.destination.dtype)) return move_quantized_tile(kernels, run, first, count, block);
  store_tile(kernels, run, first, count, block, from_rows);
}

// Does the host have its processor round to nearest even?
bool rounds_to_nearest() {
  const volatile float one = 1;
  return one + 0x1p-24f == 1 && one + 0x1.8p-24f > 1;
}

// Tiles of a bundle.
struct Work {
  Bundle bundle;
  int64_t begin, end;
};

// What is made next may be fetched meanwhile, where there is something.
void move_tiles(const Kernels &kernels, const Work &work, const Work *then, bool stream) {
  const auto &[bundle, begin, end] = work;
  Map map[kMostHeads];
  const bool nearest = rounds_to_nearest();
  F8Steps steps[kMostHeads];
  bool has_steps[kMostHeads];
  for (int32_t h = 0; h < bundle.heads; ++h) {
    const Run &run = bundle.run[h];
    map[h] = map_of(kernels, run);
    const bool may_have = run.source.dtype == THINK_F16 && run.destination.dtype == THINK_F8_E4M3 && !run.most;
    has_steps[h] = may_have && nearest && kernels.find_f8_steps(run.destination.scale, steps[h]);
  }
  const Run &lead = bundle.run[0];
  const int64_t row_bytes = static_cast<int64_t>(lead.source.channels) * dtype_bytes(lead.source.dtype);
  const bool from_rows = lead.source.layout == THINK_ROWS;
  // Of this tile and the next two, first head, in a window that slides; of this tile, another head.
  const char *window[8 * kTileTokens], **rows = window, *rows_of_head[kTileTokens];
  Block block{};
  block.stream = stream;
  block.nearest = nearest;
  block.source_dtype = lead.source.dtype;
  block.destination_dtype = lead.destination.dtype;
  block.together = bundle.heads > 1;
  block.next_bytes = bundle.heads * row_bytes;
  // Tiles whose rows are known beforehand: making codes fetches two of them.
  block.next_tiles = from_rows && bundle.heads == 1 && is_quantized(lead.destination.dtype);
  const int32_t beforehand = block.next_tiles ? 2 : 1;
  const auto find_rows_of = [](const Run &run, int64_t tile, int64_t end_of_run, const char **addresses) {
    const int64_t first = tile * kTileTokens, left = tile < end_of_run ? run.count - first : 0, count = left < kTileTokens ? left : kTileTokens;
    row_addresses(run.source, run.source_first + first, count, addresses);
    for (int64_t t = count; t < kTileTokens; ++t) addresses[t] = zero_row;
  };
  const SideView *behind = then && block.next_tiles ? &then->bundle.run[0].source : nullptr;
  const bool goes_on = behind && behind->layout == THINK_ROWS && behind->channels == lead.source.channels && behind->dtype == lead.source.dtype;
  const auto find_rows = [&](int64_t tile, const char **addresses) {
    tile >= end && goes_on ? find_rows_of(then->bundle.run[0], then->begin + tile - end, then->end, addresses) : find_rows_of(lead, tile, end, addresses);
  };
  for (int32_t next = 0; from_rows && next < beforehand; ++next) find_rows(begin + next, rows + (next + 1) * kTileTokens);
  for (int64_t tile = begin; tile < end; ++tile) {
    const bool last = tile + 1 == end;
    if (from_rows) {
      rows += kTileTokens;
      if (rows + (beforehand + 1) * kTileTokens > std::end(window)) {
        std::memcpy(window, rows, beforehand * kTileTokens * sizeof *rows);
        rows = window;
      }
      find_rows(tile + beforehand, rows + beforehand * kTileTokens);
    }
    // Rows behind the end of a run are not of memory that may be fetched as if other heads followed.
    const int64_t whole = (lead.count - tile * kTileTokens) / kTileTokens;
    for (int32_t h = 0; h < bundle.heads; ++h) {
      block.map = &map[h];
      block.f8_steps = has_steps[h] ? &steps[h] : nullptr;
      block.destination_stride = bundle.run[h].destination.row_stride;
      block.rows = rows;
      block.known = last || bundle.heads > 1 ? kTileTokens : 2 * kTileTokens;
      if (h > 0) {
        for (int32_t t = 0; t < kTileTokens; ++t) rows_of_head[t] = rows[t] == zero_row ? zero_row : rows[t] + h * row_bytes;
        block.rows = rows_of_head;
      }
      const int32_t from = kTileTokens * h / bundle.heads, to = kTileTokens * (h + 1) / bundle.heads;
      block.next = rows + kTileTokens + from;
      block.next_count = from_rows && !last && (whole > 1 || bundle.heads == 1) ? to - from : 0;
      move_tile(kernels, bundle.run[h], tile, block);
    }
  }
}

// The scales of F8 sides, each from the numbers that are going to be moved.
void measure(const Kernels &kernels, const Arguments &arguments, const Parallel &parallel) {
  const int32_t heads = arguments.shape.kv_heads;
  for (const Side side : {Side::keys, Side::values}) {
    float *scale = f8_scales(arguments.destination, side == Side::keys);
    if (!scale || !is_present(arguments.destination, side)) continue;
    parallel_for(parallel, int64_t{heads} * arguments.batch.count, [&](int64_t task) {
      const int32_t head = static_cast<int32_t>(task % heads);
      Run run = run_of(arguments, static_cast<int32_t>(task / heads), head, side);
      alignas(64) float most[kMaxChannels + 16] = {};
      run.most = most;
      Bundle bundle;
      bundle.heads = 0;
      bundle.tile_cost = 0;
      bundle.add(run);
      if (run.tiles > 0) move_tiles(kernels, {bundle, 0, run.tiles}, nullptr, false);
      float largest = 0;
      for (int32_t c = 0; c < run.destination.channels; ++c) largest = most[c] > largest ? most[c] : largest;
      scale[static_cast<int64_t>(run.destination.slot) * heads + head] = f8_scale_of(largest);
    });
  }
}

// Tiles whose place in the list of all tiles, measured in bytes, lies in [begin, end).
void move_part(const Kernels &kernels, const Arguments &arguments, int64_t begin, int64_t end, bool stream) {
  int64_t start = 0;
  Work work[2];
  int32_t found = 0;  // each waits until the one behind it is known
  for_each_bundle(arguments, [&](const Bundle &bundle) {
    const int64_t tiles = bundle.run[0].tiles;
    const auto tile_at = [&](int64_t cost) {
      const int64_t tile = cost <= start ? 0 : (cost - start + bundle.tile_cost - 1) / bundle.tile_cost;
      return tile < tiles ? tile : tiles;
    };
    const int64_t first = tile_at(begin), last = tile_at(end);
    if (first < last) {
      Work &next = work[found++ % 2];
      next = {bundle, first, last};
      if (found > 1) move_tiles(kernels, work[found % 2], &next, stream);
    }
    start += tiles * bundle.tile_cost;
    return start < end;
  });
  if (found > 0) move_tiles(kernels, work[(found - 1) % 2], nullptr, stream);
  if (stream) kernels.finish();
}

}  // namespace

void compact(int32_t isa, const Arguments &arguments, const Parallel &parallel, Slice slice) {
  if (arguments.destination.flags & THINK_SEGMENT_MEASURE) measure(kernels_of(isa), arguments, parallel);
  int64_t cost = 0, written = 0;
  for_each_bundle(arguments, [&](const Bundle &bundle) {
    cost += bundle.run[0].tiles * bundle.tile_cost;
    for (int32_t h = 0; h < bundle.heads; ++h) written += bundle.run[h].tiles * bundle.run[h].destination.tile_bytes;
    return true;
  });
  const bool stream = written >= kStreamBytes;
  const Kernels &chosen = kernels_of(isa);
  if (slice.count > 1) {
    move_part(chosen, arguments, cost * slice.index / slice.count, cost * (slice.index + 1) / slice.count, stream);
    return;
  }
  // A few parts per thread even out what the machine does beside us.
  const int64_t parts = parallel.threads > 1 ? int64_t{4} * parallel.threads : 1;
  parallel_for(parallel, parts, [&](int64_t part) { move_part(chosen, arguments, cost * part / parts, cost * (part + 1) / parts, stream); });
}

void place(const Shape &shape, const think_segment &segment, const Batch &batch) {
  for (Side side : {Side::keys, Side::values}) {
    const bool keys = side == Side::keys;
    int64_t *offsets = keys ? segment.key_head_offset : segment.value_head_offset;
    if (!offsets) continue;
    const think_basis *basis = keys ? segment.key_basis : segment.value_basis;
    const think_dtype dtype = keys ? segment.key_dtype : segment.value_dtype;
    const int64_t row_stride = (keys ? segment.key_layout : segment.value_layout) == THINK_ROWS ? (keys ? segment.key_stride : segment.value_stride)[2] : 0;
    for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
      const int32_t slot = slot_of(segment, batch, sequence);
      int64_t end = 0;
      for (int32_t head = 0; head < shape.kv_heads; ++head) {
        offsets[static_cast<int64_t>(slot) * shape.kv_heads + head] = end;
        const int32_t channels = kept_of(basis, keys ? shape.key_channels : shape.value_channels, shape.kv_heads, slot, head);
        end += row_stride ? segment.page_tokens * row_stride : head_bytes(segment.page_tokens, channels, dtype, keys);
      }
    }
  }
}

}  // namespace think::compact
