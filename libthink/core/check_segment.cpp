// Checks of segments and of the bases behind them.
#include "kernels/fit/fit.h"
#include "libthink/core/check.h"
#include "libthink/core/format.h"

namespace think {
namespace {

using Long = long long;

constexpr int64_t kBlockAlignment = 16;  // of tiles and of weight blocks
constexpr int64_t kUnreadSlots = 1 << 24;  // slots that a table on a device may name, as far as strides are concerned

// One side of a segment under the names that messages give it.
struct SideFields {
  const char *pointer, *layout, *dtype, *stride, *head_offset, *basis, *scale;
};
constexpr SideFields kKeyFields = {"key", "key_layout", "key_dtype", "key_stride", "key_head_offset", "key_basis", "key_scale"};
constexpr SideFields kValueFields = {"value", "value_layout", "value_dtype", "value_stride", "value_head_offset", "value_basis", "value_scale"};

// What of a side can be wrong by itself, whatever the lengths are.
think_status check_segment_side(const Argument &argument, const SideFields &fields, const think_segment &segment, int32_t side, bool dense) {
  const bool keys = side == THINK_KEYS;
  const int32_t layout = keys ? segment.key_layout : segment.value_layout;
  const think_dtype dtype = keys ? segment.key_dtype : segment.value_dtype;
  const void *pointer = keys ? segment.key : segment.value;
  const int64_t *stride = keys ? segment.key_stride : segment.value_stride;
  const int64_t *head_offset = keys ? segment.key_head_offset : segment.value_head_offset;
  const think_basis *basis = keys ? segment.key_basis : segment.value_basis;
  if (layout != THINK_ROWS && layout != THINK_TILES) return wrong(argument, fields.layout, "expected 0 (rows) or 1 (tiles), got %d", layout);
  if (layout == THINK_TILES && dense && !keys) return unsupported(argument, fields.layout, "expected 0 (rows) of a dense source, got %d", layout);
  if (layout == THINK_TILES && dense) return wrong(argument, fields.layout, "expected 0 (rows) of a dense source, got %d", layout);
  if (basis && dense) return wrong(argument, fields.basis, "expected NULL (a dense source), got a basis");
  if (!pointer) return THINK_OK;  // whether the side may be missing depends on the call
  if (dense && !is_float_dtype(dtype)) return wrong(argument, fields.dtype, "expected f32, f16 or bf16 of a dense source, got 0x%x", static_cast<unsigned>(dtype));
  if (const think_status status = check_storage(argument, side, layout, dtype)) return status;
  const int64_t bytes = dtype_bytes(dtype), alignment = layout == THINK_TILES ? kBlockAlignment : bytes;
  if (const think_status status = check_pointer(argument, pointer, static_cast<int32_t>(alignment), fields.pointer)) return status;
  for (int axis = 0; axis < 3; ++axis) {
    if ((axis == 1 && head_offset) || (axis == 2 && layout == THINK_TILES)) continue;  // not used
    if (stride[axis] % (axis == 2 ? bytes : alignment)) {
      return wrong(argument, Text("%s[%d]", fields.stride, axis).text, "expected a multiple of %lld bytes, got %lld", static_cast<Long>(alignment),
                   static_cast<Long>(stride[axis]));
    }
  }
  if (head_offset) {
    if (const think_status status = check_pointer(argument, head_offset, alignof(int64_t), fields.head_offset)) return status;
  }
  const float *scale = f8_scales(segment, keys);
  return scale ? check_pointer(argument, scale, alignof(float), fields.scale) : THINK_OK;
}

bool in_tiles(const think_segment &segment) { return segment.key_layout == THINK_TILES || segment.value_layout == THINK_TILES; }

// Rows that the segment is known to have room for: INT64_MAX when it does not tell.
int64_t room_of(const think_segment &segment) {
  if (segment.pages) return segment.pages_stride * segment.page_tokens;
  return segment.page_tokens > 0 ? segment.page_tokens : INT64_MAX;
}

think_status check_lengths(const Argument &argument, const think_segment &segment, const Shape &shape, const Batch &batch, int64_t &longest) {
  if (const think_status status = check_pointer(argument, segment.lengths, alignof(int32_t), "lengths")) return status;
  const int64_t room = room_of(segment);
  const int32_t heads = segment.lengths_stride[1] ? shape.kv_heads : 1;
  const bool tiles = in_tiles(segment);
  if (shape.on_device) {
    longest = room < shape.max_tokens ? room : shape.max_tokens;
    return THINK_OK;
  }
  longest = 0;
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    for (int32_t head = 0; head < heads; ++head) {
      const int64_t at = sequence * segment.lengths_stride[0] + head * segment.lengths_stride[1];
      const int64_t first = run_first(segment, sequence, head), length = run_length(segment, sequence, head);
      if (length < 0 || length > shape.max_tokens) {
        return wrong(argument, Text("lengths[%lld]", static_cast<Long>(at)).text, "expected 0 .. %lld (max_tokens of the plan), got %lld",
                     static_cast<Long>(shape.max_tokens), static_cast<Long>(length));
      }
      if (first < 0 || (tiles && first % kTileTokens)) {
        return wrong(argument, Text("first[%lld]", static_cast<Long>(at)).text, "expected %s, got %lld",
                     tiles ? "a multiple of 32 (tiles)" : "at least 0", static_cast<Long>(first));
      }
      if (length > 0 && first + length > room) {
        return wrong(argument, Text("lengths[%lld]", static_cast<Long>(at)).text, "expected at most %lld rows behind row %lld (%s: %lld), got %lld",
                     static_cast<Long>(room > first ? room - first : 0), static_cast<Long>(first),
                     segment.pages ? "page_tokens * pages_stride" : "page_tokens of a slot", static_cast<Long>(room), static_cast<Long>(length));
      }
      if (length > longest) longest = length;
    }
  }
  return THINK_OK;
}

// The farthest row of a contiguous side must be addressable in bytes. Page numbers are the caller's: pages are blocks of memory that exist.
think_status check_reach(const Argument &argument, const SideFields &fields, const think_segment &segment, int32_t side, const Shape &shape,
                         const Batch &batch, int64_t rows) {
  const bool keys = side == THINK_KEYS;
  if (!(keys ? segment.key : segment.value)) return THINK_OK;
  const int64_t *stride = keys ? segment.key_stride : segment.value_stride;
  int64_t slots = 0;
  for (int32_t sequence = 0; !segment.pages && !shape.on_device && sequence < batch.count; ++sequence) {
    const int32_t slot = slot_of(segment, batch, sequence);
    if (slot > slots) slots = slot;
  }
  if (!segment.pages && shape.on_device) slots = kUnreadSlots;
  const int64_t counts[3] = {slots, (keys ? segment.key_head_offset : segment.value_head_offset) ? 0 : shape.kv_heads - 1, rows};
  int64_t farthest = 0;
  for (int axis = 0; axis < 3; ++axis) {
    int64_t distance = stride[axis] == INT64_MIN ? INT64_MAX : stride[axis] < 0 ? -stride[axis] : stride[axis];
    if (axis == 2 && (keys ? segment.key_layout : segment.value_layout) == THINK_TILES) continue;
    if (__builtin_mul_overflow(distance, counts[axis], &distance) || __builtin_add_overflow(farthest, distance, &farthest)) {
      return wrong(argument, Text("%s[%d]", fields.stride, axis).text, "%lld times %lld bytes exceeds 64-bit offsets", static_cast<Long>(counts[axis]),
                   static_cast<Long>(stride[axis]));
    }
  }
  return THINK_OK;
}

// Contents that are trusted unless the caller asks: page numbers and head offsets.
think_status check_pages(const Argument &argument, const think_segment &segment, int32_t sequence, int64_t first, int64_t rows) {
  if (!segment.pages || rows <= 0) return THINK_OK;
  for (int64_t page = first / segment.page_tokens; page * segment.page_tokens < first + rows; ++page) {
    const int64_t at = sequence * segment.pages_stride + page;
    if (segment.pages[at] < 0) return wrong(argument, Text("pages[%lld]", static_cast<Long>(at)).text, "expected at least 0, got %d", segment.pages[at]);
  }
  return THINK_OK;
}

think_status check_head_offsets(const Argument &argument, const think_segment &segment, const Shape &shape, const Batch &batch) {
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    const int32_t slot = slot_of(segment, batch, sequence);
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      for (int side = THINK_KEYS; side <= THINK_VALUES; ++side) {
        const int64_t *offsets = side == THINK_KEYS ? segment.key_head_offset : segment.value_head_offset;
        if (!offsets) continue;
        const bool tiles = (side == THINK_KEYS ? segment.key_layout : segment.value_layout) == THINK_TILES;
        const int64_t at = int64_t{slot} * shape.kv_heads + head;
        const int64_t unit = tiles ? 16 : dtype_bytes(side == THINK_KEYS ? segment.key_dtype : segment.value_dtype);
        if (offsets[at] < 0 || (unit && offsets[at] % unit)) {
          return wrong(argument, Text("%s_head_offset[%lld]", side == THINK_KEYS ? "key" : "value", static_cast<Long>(at)).text,
                       "expected a multiple of %lld, at least 0, got %lld", static_cast<Long>(unit), static_cast<Long>(offsets[at]));
        }
      }
    }
  }
  return THINK_OK;
}

think_status check_scales(const Argument &argument, const think_segment &segment, const Shape &shape, const Batch &batch, int32_t sequence, int32_t head) {
  for (const int side : {THINK_KEYS, THINK_VALUES}) {
    const bool keys = side == THINK_KEYS;
    const float *scale = f8_scales(segment, keys);
    if (!scale || (segment.flags & THINK_SEGMENT_MEASURE)) continue;
    const int64_t at = int64_t{slot_of(segment, batch, sequence)} * shape.kv_heads + head;
    if (!is_scale(scale[at])) {
      return wrong(argument, Text("%s_scale[%lld]", keys ? "key" : "value", static_cast<Long>(at)).text, "expected 2^-100 .. 2^100, got %g",
                   static_cast<double>(scale[at]));
    }
  }
  return THINK_OK;
}

think_status check_tables(const Argument &argument, const think_segment &segment, const Shape &shape, const Batch &batch) {
  if (const think_status status = check_head_offsets(argument, segment, shape, batch)) return status;
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    for (int32_t head = 0; head < shape.kv_heads && segment.lengths; ++head) {
      if (const think_status status = check_scales(argument, segment, shape, batch, sequence, head)) return status;
      if (const think_status status = check_pages(argument, segment, sequence, run_first(segment, sequence, head), run_length(segment, sequence, head))) {
        return status;
      }
    }
  }
  return THINK_OK;
}

think_status read_segment_basis(const Argument &segment_argument, const SideFields &fields, const Shape &shape, int32_t side, const Batch &batch,
                                const SegmentRule &rule, bool check, const think_segment &segment, const think_basis *&in, think_basis &copy) {
  if (!in) return THINK_OK;
  const Text name("%s%s%s", segment_argument.name, segment_argument.member, fields.basis);
  const Argument argument{segment_argument.error, segment_argument.position, name.text};
  if (const think_status status = read_basis(argument, in, shape, side, false, copy)) return status;
  if (shape.on_device && rule.weights && !copy.weight_offset) return null_pointer(argument, "weight_offset");
  for (int32_t sequence = 0; !shape.on_device && sequence < batch.count; ++sequence) {
    const int32_t slot = slot_of(segment, batch, sequence);
    if (slot >= copy.slots) return wrong(argument, "slots", "expected more than slot %d of sequence %d, got %d", slot, sequence, copy.slots);
    if (check && rule.contents) {
      if (const think_status status = check_basis_contents(argument, copy, shape, side, slot)) return status;
    }
    if (!rule.weights) continue;
    if (!copy.weight_offset) return null_pointer(argument, "weight_offset");
    if (copy.weight && copy.offset) continue;
    // Without weights (static masks) no head may ask for them.
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      const int64_t offset = copy.weight_offset[int64_t{slot} * shape.kv_heads + head];
      if (offset != -1) {
        return wrong(argument, copy.weight ? "offset" : "weight", "expected a pointer, as weight_offset of slot %d, head %d is %lld, got NULL", slot, head,
                     static_cast<Long>(offset));
      }
    }
  }
  in = &copy;
  return THINK_OK;
}

}  // namespace

think_status read_basis(const Argument &argument, const think_basis *in, const Shape &shape, int32_t side, bool weights, think_basis &basis) {
  if (const think_status status = read_struct(argument, in, basis)) return status;
  const int32_t channels = channels_of(shape, side);
  if (basis.channels != channels) {
    return wrong(argument, "channels", "expected %d (%s_channels of the plan), got %d", channels, side == THINK_KEYS ? "key" : "value", basis.channels);
  }
  if (basis.slots < 1) return wrong(argument, "slots", "expected at least 1, got %d", basis.slots);
  if (const think_status status = check_pointer(argument, basis.kept, alignof(int32_t), "kept")) return status;
  if (const think_status status = check_pointer(argument, basis.index, alignof(int32_t), "index")) return status;
  if (basis.weight_bytes < 0) return wrong(argument, "weight_bytes", "expected at least 0, got %lld", static_cast<Long>(basis.weight_bytes));
  if (weights || basis.weight) {
    if (const think_status status = check_pointer(argument, basis.weight, kBlockAlignment, "weight")) return status;
  }
  if (weights || basis.weight_offset) {
    if (const think_status status = check_pointer(argument, basis.weight_offset, alignof(int64_t), "weight_offset")) return status;
  }
  if (weights || basis.offset) return check_pointer(argument, basis.offset, alignof(float), "offset");
  return THINK_OK;
}

think_status check_basis_contents(const Argument &argument, const think_basis &basis, const Shape &shape, int32_t side, int32_t slot) {
  const int32_t channels = basis.channels, unit = side == THINK_VALUES ? 8 : 1;
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    const int64_t row = int64_t{slot} * shape.kv_heads + head;
    const int32_t kept = basis.kept[row];
    if (kept < 1 || kept > channels || kept % unit) {
      return wrong(argument, Text("kept[%lld]", static_cast<Long>(row)).text, "expected 1 .. %d%s, got %d", channels,
                   unit > 1 ? ", a multiple of 8 (values)" : "", kept);
    }
    // Two ascending runs over `channels` numbers, each number once, are a choice and the rest.
    bool seen[kMaxChannels] = {};
    const int32_t *index = basis.index + row * channels;
    for (int32_t place = 0; place < channels; ++place) {
      const int32_t channel = index[place];
      const bool ascending = place == 0 || place == kept || channel > index[place - 1];
      if (channel < 0 || channel >= channels || seen[channel] || !ascending) {
        return wrong(argument, Text("index[%lld]", static_cast<Long>(row * channels + place)).text,
                     "expected the kept channels ascending, then the dropped ones ascending, of 0 .. %d, got %d", channels - 1, channel);
      }
      seen[channel] = true;
    }
    if (!basis.weight_offset) continue;
    const int64_t offset = basis.weight_offset[row], bytes = int64_t{channels - kept} * ((kept + 7) / 8 * 8) * 2;
    if (offset == -1) continue;
    if (offset < 0 || offset % kBlockAlignment || offset > basis.weight_bytes - bytes) {
      return wrong(argument, Text("weight_offset[%lld]", static_cast<Long>(row)).text,
                   "expected -1 or a multiple of 16 with %lld bytes behind it (weight_bytes is %lld), got %lld", static_cast<Long>(bytes),
                   static_cast<Long>(basis.weight_bytes), static_cast<Long>(offset));
    }
  }
  return THINK_OK;
}

think_status read_segment(const Argument &argument, const think_segment *array, int32_t element, const Shape &shape, const Batch &batch,
                          const SegmentRule &rule, bool check, SegmentCopy &copy) {
  think_segment &segment = copy.segment;
  copy.longest = 0;
  if (!array) return null_pointer(argument);
  const uint32_t flags = THINK_SEGMENT_CAUSAL | (rule.measured ? THINK_SEGMENT_MEASURE : 0u);
  if (const think_status status = read_element(argument, array, element, segment, flags)) return status;
  if (segment.reserved != 0) return wrong(argument, "reserved", "expected 0, got %d", segment.reserved);
  if (segment.page_tokens < 0) return wrong(argument, "page_tokens", "expected at least 0, got %d", segment.page_tokens);
  if (const think_status status = check_segment_side(argument, kKeyFields, segment, THINK_KEYS, rule.dense)) return status;
  if (const think_status status = check_segment_side(argument, kValueFields, segment, THINK_VALUES, rule.dense)) return status;
  constexpr int32_t alignment = alignof(int32_t);
  if (segment.pages) {
    if (segment.page_tokens == 0 || segment.page_tokens % kTileTokens) {
      return wrong(argument, "page_tokens", "expected a positive multiple of 32 (rows of a page), got %d", segment.page_tokens);
    }
    if (const think_status status = check_pointer(argument, segment.pages, alignment, "pages")) return status;
    if (segment.pages_stride < 1) return wrong(argument, "pages_stride", "expected at least 1, got %lld", static_cast<Long>(segment.pages_stride));
    if (segment.pages_stride > INT32_MAX) {
      return wrong(argument, "pages_stride", "expected at most %d, got %lld", INT32_MAX, static_cast<Long>(segment.pages_stride));
    }
  }
  if (in_tiles(segment) && segment.page_tokens % kTileTokens) {
    return wrong(argument, "page_tokens", "expected a multiple of 32 (tiles), got %d", segment.page_tokens);
  }
  for (int axis = 0; axis < 2; ++axis) {
    if (segment.lengths_stride[axis] < 0 || segment.lengths_stride[axis] > INT32_MAX) {
      return wrong(argument, Text("lengths_stride[%d]", axis).text, "expected 0 .. %d, got %lld", INT32_MAX,
                   static_cast<Long>(segment.lengths_stride[axis]));
    }
  }
  if (segment.lengths_stride[0] == 0 && segment.lengths_stride[1] == 0) segment.lengths_stride[0] = 1;
  if (segment.first) {
    if (const think_status status = check_pointer(argument, segment.first, alignment, "first")) return status;
  }
  if (segment.slot) {
    if (const think_status status = check_pointer(argument, segment.slot, alignment, "slot")) return status;
  }
  if (segment.slot) {
    const Batch own{batch.count, nullptr, nullptr, segment.slot};
    if (const think_status status = check_slots(argument, own, shape, INT32_MAX, "a slot", check && rule.distinct)) return status;
  }
  if (rule.lengths) {
    if (const think_status status = check_lengths(argument, segment, shape, batch, copy.longest)) return status;
  }
  if (const think_status status = read_segment_basis(argument, kKeyFields, shape, THINK_KEYS, batch, rule, check, segment, segment.key_basis,
                                                     copy.key_basis)) {
    return status;
  }
  if (const think_status status = read_segment_basis(argument, kValueFields, shape, THINK_VALUES, batch, rule, check, segment, segment.value_basis,
                                                     copy.value_basis)) {
    return status;
  }
  const int64_t rows = segment.pages ? segment.page_tokens : int64_t{2} * INT32_MAX;  // first + length is below
  if (const think_status status = check_reach(argument, kKeyFields, segment, THINK_KEYS, shape, batch, rows)) return status;
  if (const think_status status = check_reach(argument, kValueFields, segment, THINK_VALUES, shape, batch, rows)) return status;
  return check && rule.tables ? check_tables(argument, segment, shape, batch) : THINK_OK;
}

think_status check_place(const Argument &argument, const think_segment &segment) {
  const bool tiles = in_tiles(segment);
  if (segment.page_tokens < 1 || (tiles && segment.page_tokens % kTileTokens)) {
    return wrong(argument, "page_tokens", "expected %s (rows of a page or slot), got %d", tiles ? "a positive multiple of 32" : "at least 1",
                 segment.page_tokens);
  }
  // Pointers may be missing here, and with them what has been checked of the dtypes.
  if (segment.key_head_offset) {
    if (const think_status status = check_storage(argument, THINK_KEYS, segment.key_layout, segment.key_dtype)) return status;
  }
  if (segment.value_head_offset) {
    if (const think_status status = check_storage(argument, THINK_VALUES, segment.value_layout, segment.value_dtype)) return status;
  }
  for (const int64_t *offsets : {segment.key_head_offset, segment.value_head_offset}) {
    if (!offsets) continue;
    const bool keys = offsets == segment.key_head_offset;
    if (const think_status status = check_pointer(argument, offsets, alignof(int64_t), keys ? "key_head_offset" : "value_head_offset")) return status;
  }
  return THINK_OK;
}

think_status check_source_room(const Argument &argument, const think_segment &source, const think_segment &destination, const Shape &shape,
                               const Batch &batch, bool check) {
  if (shape.on_device) return THINK_OK;
  if (check) {
    if (const think_status status = check_head_offsets(argument, source, shape, batch)) return status;
  }
  const int64_t room = room_of(source);
  const int32_t heads = source.lengths_stride[1] || destination.lengths_stride[1] ? shape.kv_heads : 1;
  const bool tiles = in_tiles(source);
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    for (int32_t head = 0; head < heads; ++head) {
      const int64_t first = run_first(source, sequence, head), length = run_length(destination, sequence, head);
      if (first < 0 || (tiles && first % kTileTokens)) {
        return wrong(argument, "first", "expected %s, got %lld in sequence %d", tiles ? "a multiple of 32 (tiles)" : "at least 0",
                     static_cast<Long>(first), sequence);
      }
      if (length > 0 && first + length > room) {
        return wrong(argument, source.pages ? "pages_stride" : "page_tokens", "expected room for %lld rows behind row %lld of sequence %d, got %lld rows",
                     static_cast<Long>(length), static_cast<Long>(first), sequence, static_cast<Long>(room));
      }
      if (!check) continue;
      if (const think_status status = check_pages(argument, source, sequence, first, length)) return status;
    }
  }
  return THINK_OK;
}

think_status check_prune_room(const Argument &argument, const think_segment &source, const think_segment &destination, const Shape &shape, int32_t sinks,
                              int32_t recent, const Batch &batch, bool check) {
  if (shape.on_device) return THINK_OK;
  const int64_t room = room_of(destination);
  const bool tiles = in_tiles(destination);
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    const int64_t tokens = run_length(source, sequence, 0), source_first = run_first(source, sequence, 0);
    if (source_first + tokens > INT32_MAX) {
      return wrong(Argument{argument.error, 3, "source"}, "first", "expected first + length up to %d, got %lld in sequence %d", INT32_MAX,
                   static_cast<Long>(source_first + tokens), sequence);
    }
    const int64_t first = run_first(destination, sequence, 0), rows = prune_range(tokens, sinks, recent).count;
    if (first < 0 || (tiles && first % kTileTokens)) {
      return wrong(argument, "first", "expected %s, got %lld in sequence %d", tiles ? "a multiple of 32 (tiles)" : "at least 0",
                   static_cast<Long>(first), sequence);
    }
    if (rows > 0 && first + rows > room) {
      return wrong(argument, destination.pages ? "pages_stride" : "page_tokens",
                   "expected room for %lld rows behind row %lld of sequence %d, got %lld rows", static_cast<Long>(rows), static_cast<Long>(first), sequence,
                   static_cast<Long>(room));
    }
    if (!check) continue;
    if (const think_status status = check_pages(argument, destination, sequence, first, rows)) return status;
  }
  return THINK_OK;
}

think_status check_weight_room(const Argument &argument, const think_basis &basis, const Shape &shape) {
  const int64_t needed = int64_t{basis.slots} * shape.kv_heads * fit::weight_head_bytes(basis.channels);
  if (basis.weight_bytes >= needed) return THINK_OK;
  return wrong(argument, "weight_bytes", "expected at least %lld for %d slots (as think_basis_bind() sets it), got %lld", static_cast<Long>(needed),
               basis.slots, static_cast<Long>(basis.weight_bytes));
}

}  // namespace think
