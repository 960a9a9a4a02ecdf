/**
 * @file think/segment.h
 * @brief A segment: a run of cached tokens of one layout, for the whole batch. Source and destination of compact, input of attend.
 */
#ifndef THINK_SEGMENT_H
#define THINK_SEGMENT_H

#include "basis.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Layouts of one side of a segment. */
#define THINK_ROWS 0  /* [token][channel], one row of kept (or all) channels per token */
#define THINK_TILES 1 /* keys: [tile of 32 tokens][kept channel][32 tokens]; values: quantized ones only, see below */

/** At most one segment of think_attend() is causal. Its length includes the new rows: query i of n sees its first length - n + i + 1 rows. */
#define THINK_SEGMENT_CAUSAL 1u
/**
 * Destination of think_compact() only: key_scale and value_scale (where given, of F8 sides) are written first, from the rows that move. A scale is the least
 * power of two by which the largest finite number is at most 224, half of what a code can be, so that rows which come later have room; 1 where all are 0.
 * Bounded as below.
 * Not in slices. think_prune() always does it. @since 0.11
 */
#define THINK_SEGMENT_MEASURE 2u

/**
 * A run of cached tokens. Dense prefix, compact prefix, sinks and recent window are the same thing with other fields.
 *
 * Address of a row. Token t of sequence b, KV head h lies in the row r = first + t:
 *   without pages: block = slot[b], row r inside the block;  with pages: block = pages[b * pages_stride + r / page_tokens], row r % page_tokens
 *   head base = key + block * key_stride[0] + (key_head_offset ? key_head_offset[slot[b] * kv_heads + h] : h * key_stride[1])
 *   THINK_ROWS: head base + row * key_stride[2], where channels are contiguous; key_stride[2] = 0 stands for kept (or all) channels * element size
 *   THINK_TILES: head base + row / 32 * (kept * 32 * element size) + position of the channel * 32 * element size + row % 32 * element size
 * and the same for values. With a basis only the kept channels are stored.
 *
 * Quantized sides (THINK_U8, THINK_U4, THINK_U2, THINK_F8_E4M3) are THINK_TILES, with row / 32 * bytes of a tile. A code of U8, U4 or U2 stands for
 * zero + scale * code, with an f16 scale and zero per group. c channels are kept; everything is little endian, padding is zero:
 *   keys    a group is the 32 tokens of a channel. [c] rows of 32 codes (U4: byte b = token b in the low nibble, token b + 16 in the high one. U2: 16 bytes
 *           for two channels, byte 2 b = tokens b, b + 8, b + 16, b + 24 of the even one from the low bits up, byte 2 b + 1 of the odd one; an odd c is
 *           followed by a channel of zero codes), padded to 16 bytes; scale[c]; zero[c]; padded to 16 bytes
 *   values  a group is 32 channels of a token, what is left over joins the last group (40 or 56: one group). [block of 32 channels][32 tokens][codes of the block];
 *           the last block may be w = 8, 16 or 24 channels wide (U4: byte b = channels b and b + w / 2 of the block; U2: b, b + w / 4, b + w / 2 and
 *           b + 3 w / 4, from the low bits up); scale[group][32]; zero[group][32]
 * Each number is rounded to the nearest code of its group. A group of equal numbers is exact where f16 holds them. Numbers beyond +-65504 become that, and no
 * code stands for more, so a cache of f16 that they go back to gets no infinity; a group with a NaN or infinity becomes NaN. Tokens behind the end of a partial
 * last tile belong to no group of keys.
 *
 * F8 has the rows of U8 and nothing behind them: a code stands for itself times key_scale or value_scale of its slot and head. Numbers are divided by that (by
 * a product with its inverse) and rounded to nearest even; beyond 448 they become 448 of their sign, NaN and infinities become NaN.
 *
 * Tile segments begin at a row that is a multiple of 32. In a partial last tile the tokens behind the end are never used, and think_compact() writes
 * them as zero. Every base and stride is a multiple of the element size; tiles are aligned to 64 bytes for speed, 16 is enough.
 */
typedef struct think_segment {
  uint32_t struct_size;        /* sizeof(think_segment) */
  uint32_t flags;              /* THINK_SEGMENT_CAUSAL, THINK_SEGMENT_MEASURE */
  int32_t key_layout;          /* THINK_ROWS, THINK_TILES */
  int32_t value_layout;        /* THINK_ROWS; quantized values: THINK_TILES */
  int32_t page_tokens;         /* rows of a page: a multiple of 32. Without pages: rows that a slot has room for (tiles: a multiple of 32); 0 = not told */
  int32_t reserved;            /* 0 */
  think_dtype key_dtype;       /* f32, f16, bf16; in tiles also u8, u4, u2, f8 */
  think_dtype value_dtype;
  void *key;
  void *value;
  int64_t key_stride[3];       /* bytes: page or slot, head, token (THINK_ROWS) */
  int64_t value_stride[3];
  int64_t *key_head_offset;    /* [slots][kv_heads] bytes inside a page or slot; NULL = head * stride. Written by think_segment_place() */
  int64_t *value_head_offset;
  const int32_t *pages;        /* [batch][pages_stride] page numbers; NULL = contiguous in a slot */
  int64_t pages_stride;        /* entries of the page table per sequence */
  const int32_t *first;        /* first row of the run; NULL = 0 */
  const int32_t *lengths;      /* tokens of the run */
  int64_t lengths_stride[2];   /* elements per sequence and per KV head, for first and lengths; head stride 0 = the same for all heads. Both 0 = {1, 0} */
  const int32_t *slot;         /* [batch] slot of each sequence; NULL = the batch's slot, or 0, 1, 2, ... */
  const think_basis *key_basis;   /* NULL = all channels */
  const think_basis *value_basis; /* NULL = all channels */
  float *key_scale;               /* [slots][kv_heads] what 1 of an F8 code counts: 2^-100 .. 2^100; NULL = 1. @since 0.11 */
  float *value_scale;
} think_segment;

#define THINK_SEGMENT_INIT                                                                                                                        \
  {(uint32_t)sizeof(think_segment), 0, 0, 0, 0, 0, 0, 0, NULL, NULL, {0, 0, 0}, {0, 0, 0}, NULL, NULL, NULL, 0, NULL, NULL, {0, 0}, NULL, NULL, NULL, NULL, \
   NULL}

/** How a compact segment stores its two sides. */
typedef struct think_format {
  uint32_t struct_size;    /* sizeof(think_format) */
  uint32_t flags;          /* 0 */
  int32_t key_layout;      /* THINK_ROWS, THINK_TILES */
  int32_t value_layout;    /* THINK_ROWS; quantized values: THINK_TILES */
  think_dtype key_dtype;   /* 0 = the plan's cache_dtype */
  think_dtype value_dtype; /* 0 = the plan's cache_dtype */
} think_format;

/** Compact keys in tiles, 16-bit or 32-bit as the plan's cache. */
#define THINK_FORMAT_INIT {(uint32_t)sizeof(think_format), 0, THINK_TILES, THINK_ROWS, 0, 0}

/** Sizes that follow from a format: host constants, known before anything is allocated. */
typedef struct think_layout_info {
  uint32_t struct_size;      /* sizeof(think_layout_info) */
  uint32_t flags;            /* 0 */
  int64_t key_page_bytes;    /* keys of one page, all KV heads */
  int64_t value_page_bytes;  /* values of one page, all KV heads */
  int64_t key_basis_bytes;   /* think_basis_size() of one slot */
  int64_t value_basis_bytes;
  int64_t alignment;         /* of pages and bases */
} think_layout_info;

#define THINK_LAYOUT_INFO_INIT {(uint32_t)sizeof(think_layout_info), 0, 0, 0, 0, 0, 0}

/** THINK_SEGMENT_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_segment_init(think_segment *segment, uint32_t struct_size);
/** THINK_FORMAT_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_format_init(think_format *format, uint32_t struct_size);
/** THINK_LAYOUT_INFO_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_layout_info_init(think_layout_info *info, uint32_t struct_size);

/**
 * Bytes of a page (or of a contiguous slot with room for page_tokens rows) whose heads keep total_key and total_value channels together. Of quantized sides
 * at least the most that it can be, however the heads share the channels; exact where that makes no difference.
 * @param format       NULL = THINK_FORMAT_INIT
 * @param page_tokens  a multiple of 32
 * @param total_key    kept key channels of all KV heads together, at most kv_heads * key_channels; kv_heads * key_channels is dense
 * @param total_value  the same for values
 * @param info         receives the sizes; its struct_size is read
 * @since 0.9
 */
THINK_API think_status think_layout(const think_plan *plan, const think_format *format, int32_t page_tokens, int64_t total_key, int64_t total_value, think_layout_info *info, think_error *error);

/**
 * Put the heads of a segment one behind the other: writes key_head_offset and value_head_offset (where given) of the slots of the batch, as prefix
 * sums of the widths in its bases, for pages (or slots) of page_tokens rows. think_prune() does it by itself.
 * @param batch  which slots; NULL = slot 0 of a batch of one
 * @return THINK_E_ARGUMENT also when page_tokens is 0
 * @since 0.9
 */
THINK_API think_status think_segment_place(const think_plan *plan, const think_segment *segment, const think_batch *batch, const think_launch *launch, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
