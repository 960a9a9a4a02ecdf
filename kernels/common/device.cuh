// Batches, tensors and segments as kernels see them: what shape.h and segment.h do on the host, with the arrays read through ptx.cuh. The host half
// (`side_of`, `run_of`) turns a checked segment into plain values that travel as kernel arguments; nothing behind a device pointer is touched there.
#pragma once

#include "codes.cuh"
#include "launch.cuh"
#include "segment.h"

namespace think::device {

using namespace ptx;

// A length or width, which the host could not check, forced into what memory was made for. Other contents (slots, pages, indices) are trusted.
THINK_DEVICE int32_t clamp(int32_t value, int32_t most) { return value < 0 ? 0 : value > most ? most : value; }

// Of numbers that are not negative, which spares what the signs take.
THINK_HOST_DEVICE int32_t divide(int32_t number, int32_t divisor) {
  return static_cast<int32_t>(static_cast<uint32_t>(number) / static_cast<uint32_t>(divisor));
}
THINK_HOST_DEVICE int32_t divide_up(int32_t number, int32_t divisor) {
  const uint32_t wide = static_cast<uint32_t>(divisor);
  return static_cast<int32_t>((static_cast<uint32_t>(number) + wide - 1) / wide);
}

// As in rank.h.
THINK_DEVICE float nan_to_infinity(float x) { return x == x ? x : as_float(0x7f800000u); }

// What `one` does with 32 bits, done with both halves of 64.
template <class T, class One>
THINK_DEVICE T shuffle_wide(T value, const One &one) {
  const Words2 bits = bit_copy<Words2>(value);
  return bit_copy<T>(Words2{one(bits.x), one(bits.y)});
}

// Another lane's pointer.
THINK_DEVICE const char *shuffle_pointer(const char *pointer, int32_t lane) {
  return shuffle_wide(pointer, [&](uint32_t half) { return shuffle(half, lane); });
}

THINK_DEVICE int32_t slot_of(const int32_t *slots, int32_t sequence) { return slots ? load_constant(slots + sequence) : sequence; }

// Rows of one sequence inside a tensor: batch row, first token and number of tokens, `most` at most.
THINK_DEVICE RowRange rows_of(const think_tensor &tensor, const Batch &batch, int32_t sequence, int32_t most) {
  const int32_t tokens = static_cast<int32_t>(tensor.extent[2]);
  if (batch.row_start) {
    const int32_t start = clamp(load_constant(batch.row_start + sequence), tokens), end = clamp(load_constant(batch.row_start + sequence + 1), tokens);
    return {0, start, clamp(end - start, most)};
  }
  return {sequence, 0, clamp(batch.lengths ? load_constant(batch.lengths + sequence) : tokens, tokens < most ? tokens : most)};
}

THINK_DEVICE const char *element(const think_tensor &tensor, int64_t batch, int64_t head, int64_t token, int32_t element_bytes) {
  return static_cast<const char *>(tensor.data) + (batch * tensor.stride[0] + head * tensor.stride[1] + token * tensor.stride[2]) * element_bytes;
}

// One side of a segment.
struct Side {
  char *base;
  int64_t block_stride, head_stride;  // bytes
  union {
    int64_t row_stride;  // bytes; THINK_ROWS, 0 = as wide as a row is
    float *scale;        // [slots][kv_heads] of F8, which has tiles only; NULL = 1
  };
  const int64_t *head_offset;
  const int32_t *kept, *index;  // of the basis, NULL = all channels
  int32_t channels;             // of a full row
  think_dtype dtype;
  int16_t element_bytes;        // small, as kernels take many of these: parameters end at 4 KiB
  int8_t layout;
  bool keys;
};

// Where its rows are, for both sides.
struct Run {
  const int32_t *pages, *first, *lengths, *slot;
  int64_t pages_stride, sequence_stride, head_stride;
  int32_t page_tokens;
  int32_t longest;  // rows that a run can have
};

inline Side side_of(const think_segment &segment, const Shape &shape, think::Side side) {
  const bool keys = side == think::Side::keys;
  const think_basis *basis = keys ? segment.key_basis : segment.value_basis;
  const int64_t *stride = keys ? segment.key_stride : segment.value_stride;
  Side view;
  view.base = static_cast<char *>(keys ? segment.key : segment.value);
  view.block_stride = stride[0];
  view.head_stride = stride[1];
  view.row_stride = stride[2];
  if ((keys ? segment.key_dtype : segment.value_dtype) == THINK_F8_E4M3) view.scale = f8_scales(segment, keys);
  view.head_offset = keys ? segment.key_head_offset : segment.value_head_offset;
  view.kept = basis ? basis->kept : nullptr;
  view.index = basis ? basis->index : nullptr;
  view.channels = keys ? shape.key_channels : shape.value_channels;
  view.dtype = keys ? segment.key_dtype : segment.value_dtype;
  view.element_bytes = static_cast<int16_t>(dtype_bytes(view.dtype));
  view.layout = static_cast<int8_t>(keys ? segment.key_layout : segment.value_layout);
  view.keys = keys;
  return view;
}

inline Run run_of(const think_segment &segment, const Batch &batch, int64_t longest) {
  return {segment.pages,
          segment.first,
          segment.lengths,
          segment.slot ? segment.slot : batch.slot,
          segment.pages_stride,
          segment.lengths_stride[0],
          segment.lengths_stride[1],
          segment.page_tokens,
          static_cast<int32_t>(longest)};
}

THINK_DEVICE int32_t first_of(const Run &run, int32_t sequence, int32_t head) {
  return run.first ? load_constant(run.first + sequence * run.sequence_stride + head * run.head_stride) : 0;
}

THINK_DEVICE int32_t length_of(const Run &run, int32_t sequence, int32_t head) {
  return clamp(load_constant(run.lengths + sequence * run.sequence_stride + head * run.head_stride), run.longest);
}

// Rows that a prune moves: prune_range() of shape.h.
THINK_DEVICE PruneRange prune_range(int64_t tokens, int64_t sinks, int64_t recent) {
  const int64_t free_rows = tokens - sinks - recent;
  return {sinks, free_rows > 0 ? free_rows / kTileTokens * kTileTokens : 0};
}

// Channels that a head keeps. Widths are at least 1 everywhere; what is no width would lead out of the index.
THINK_DEVICE int32_t width_of(const Side &side, int64_t head_of_slot) {
  return side.kept ? clamp(load_constant(side.kept + head_of_slot), side.channels) : side.channels;
}

// Of a side that is F8.
THINK_DEVICE float scale_of(const Side &side, int64_t head_of_slot) {
  return side.dtype == THINK_F8_E4M3 && side.scale ? load_constant(side.scale + head_of_slot) : 1.0f;
}

// A side of one sequence and KV head, resolved as far as the page: SideView of segment.h.
struct View {
  char *base;
  int64_t block_stride, step;  // bytes; step: from one row to the next, or from one tile
  const int32_t *pages;
  int32_t page_tokens, slot, channels, layout;
};

THINK_DEVICE View view_of(const Side &side, const Run &run, int32_t kv_heads, int32_t sequence, int32_t head) {
  View view;
  view.slot = slot_of(run.slot, sequence);
  const int64_t head_of_slot = static_cast<int64_t>(view.slot) * kv_heads + head;
  view.channels = width_of(side, head_of_slot);
  view.base = side.base + (side.head_offset ? load_constant(side.head_offset + head_of_slot) : head * side.head_stride);
  view.block_stride = side.block_stride;
  const int64_t bytes = static_cast<int64_t>(view.channels) * side.element_bytes;
  if (side.layout == THINK_ROWS) {
    view.step = side.row_stride ? side.row_stride : bytes;
  } else {
    view.step = is_codes(side.dtype) ? code_tile(side.keys, view.channels, side.dtype).bytes : bytes * kTileTokens;
  }
  view.pages = run.pages ? run.pages + sequence * run.pages_stride : nullptr;
  view.page_tokens = run.page_tokens;
  view.layout = side.layout;
  return view;
}

// The page or slot that has a row, and which one of its rows that is: the same for both sides. `row` counts from the start of the pages or slot.
struct RowInBlock {
  int64_t block;
  int32_t row;
};

THINK_DEVICE RowInBlock find_row(const View &view, int32_t row) {
  if (!view.pages) return {view.slot, row};
  const int32_t page = divide(row, view.page_tokens);
  return {load_constant(view.pages + page), row - page * view.page_tokens};
}

// Address of a row (THINK_ROWS), or of the tile that holds it (THINK_TILES).
THINK_DEVICE char *row_address(const View &view, const RowInBlock &place) {
  char *start = view.base + place.block * view.block_stride;
  return start + (view.layout == THINK_TILES ? divide(place.row, kTileTokens) : place.row) * view.step;
}

THINK_DEVICE char *row_address(const View &view, int32_t row) { return row_address(view, find_row(view, row)); }

// ---- chunks of eight 16-bit numbers in shared memory, of which the first `numbers` exist; the others become zero

// By an asynchronous copy, which is not waited for. The address is a multiple of 16.
THINK_DEVICE void copy_aligned_eight(Shared<Words4> to, const char *from, int32_t numbers) {
  cp_async_zfill<16>(to, numbers > 0 ? from : nullptr, numbers <= 0 ? 0 : numbers < 8 ? numbers * 2 : 16);
}

// Off the 16 bytes they go through registers.
THINK_DEVICE void copy_eight(Shared<Words4> to, const char *from, int32_t numbers) {
  if (numbers <= 0 || (reinterpret_cast<uint64_t>(from) & 15) == 0) return copy_aligned_eight(to, from, numbers);
  uint32_t words[4] = {};
#pragma unroll
  for (int32_t i = 0; i < 8; ++i) {
    if (i < numbers) words[i / 2] |= static_cast<uint32_t>(load_constant(reinterpret_cast<const uint16_t *>(from) + i)) << i % 2 * 16;
  }
  store_shared(to, Words4{words[0], words[1], words[2], words[3]});
}

// ---- numbers of any type. It is the same for a whole launch, so nothing diverges, where a kernel for each pair of types would be nine of each.

template <class T>
THINK_DEVICE void unpack_eight(float (&x)[8], const Words4 &eight) {
  const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
  for (int32_t i = 0; i < 4; ++i) {
    const Float2 two = unpack<T>(words[i]);
    x[2 * i] = two.x, x[2 * i + 1] = two.y;
  }
}

// Those of a and of b.
THINK_DEVICE void unpack_eight(float (&x)[8], const Float4 &a, const Float4 &b) {
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}

template <class T>
THINK_DEVICE void load_eight(float (&x)[8], const char *at) {
  constexpr int32_t kWords = 8 * static_cast<int32_t>(sizeof(T)) / 16;
  if (reinterpret_cast<uintptr_t>(at) % 16 == 0) {
#pragma unroll
    for (int32_t i = 0; i < kWords; ++i) {
      const Words4 chunk = load_constant(reinterpret_cast<const Words4 *>(at) + i);
      const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
      for (int32_t j = 0; j < 4; ++j) {
        if constexpr (sizeof(T) == 4) {
          x[4 * i + j] = as_float(words[j]);
        } else {
          const Float2 two = unpack<T>(words[j]);
          x[2 * j] = two.x, x[2 * j + 1] = two.y;
        }
      }
    }
  } else {
#pragma unroll
    for (int32_t i = 0; i < 8; ++i) x[i] = to_float(load_constant(reinterpret_cast<const T *>(at) + i));
  }
}

THINK_DEVICE void load_eight(float (&x)[8], const char *at, think_dtype dtype) {
  if (dtype == THINK_F32) {
    load_eight<float>(x, at);
  } else if (dtype == THINK_F16) {
    load_eight<F16>(x, at);
  } else {
    load_eight<BF16>(x, at);
  }
}

THINK_DEVICE float load_number(const char *row, think_dtype dtype, int32_t i) {
  if (dtype == THINK_F32) return load_constant(reinterpret_cast<const float *>(row) + i);
  if (dtype == THINK_F16) return to_float(load_constant(reinterpret_cast<const F16 *>(row) + i));
  return to_float(load_constant(reinterpret_cast<const BF16 *>(row) + i));
}

THINK_DEVICE void store_number(char *row, think_dtype dtype, int32_t i, float value) {
  if (dtype == THINK_F32) {
    store_global(reinterpret_cast<float *>(row) + i, value);
  } else if (dtype == THINK_F16) {
    store_global(reinterpret_cast<F16 *>(row) + i, from_float<F16>(value));
  } else {
    store_global(reinterpret_cast<BF16 *>(row) + i, from_float<BF16>(value));
  }
}

}  // namespace think::device
