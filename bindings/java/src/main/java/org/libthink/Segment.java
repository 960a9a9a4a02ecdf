// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/**
 * A run of cached tokens. Dense prefix, compact prefix, sinks and recent window are the same thing with other fields. Address of a row. Token t of
 * sequence b, KV head h lies in the row r = first + t: without pages: block = slot[b], row r inside the block; with pages: block = pages[b *
 * pages_stride + r / page_tokens], row r % page_tokens head base = key + block * key_stride[0] + (key_head_offset ? key_head_offset[slot[b] *
 * kv_heads + h] : h * key_stride[1]) THINK_ROWS: head base + row * key_stride[2], where channels are contiguous; key_stride[2] = 0 stands for kept
 * (or all) channels * element size THINK_TILES: head base + row / 32 * (kept * 32 * element size) + position of the channel * 32 * element size + row
 * % 32 * element size and the same for values. With a basis only the kept channels are stored. Quantized sides (THINK_U8, THINK_U4, THINK_U2,
 * THINK_F8_E4M3) are THINK_TILES, with row / 32 * bytes of a tile. A code of U8, U4 or U2 stands for zero + scale * code, with an f16 scale and zero
 * per group. c channels are kept; everything is little endian, padding is zero: keys a group is the 32 tokens of a channel. [c] rows of 32 codes (U4:
 * byte b = token b in the low nibble, token b + 16 in the high one. U2: 16 bytes for two channels, byte 2 b = tokens b, b + 8, b + 16, b + 24 of the
 * even one from the low bits up, byte 2 b + 1 of the odd one; an odd c is followed by a channel of zero codes), padded to 16 bytes; scale[c];
 * zero[c]; padded to 16 bytes values a group is 32 channels of a token, what is left over joins the last group (40 or 56: one group). [block of 32
 * channels][32 tokens][codes of the block]; the last block may be w = 8, 16 or 24 channels wide (U4: byte b = channels b and b + w / 2 of the block;
 * U2: b, b + w / 4, b + w / 2 and b + 3 w / 4, from the low bits up); scale[group][32]; zero[group][32] Each number is rounded to the nearest code of
 * its group. A group of equal numbers is exact where f16 holds them. Numbers beyond +-65504 become that, and no code stands for more, so a cache of
 * f16 that they go back to gets no infinity; a group with a NaN or infinity becomes NaN. Tokens behind the end of a partial last tile belong to no
 * group of keys. F8 has the rows of U8 and nothing behind them: a code stands for itself times key_scale or value_scale of its slot and head. Numbers
 * are divided by that (by a product with its inverse) and rounded to nearest even; beyond 448 they become 448 of their sign, NaN and infinities
 * become NaN. Tile segments begin at a row that is a multiple of 32. In a partial last tile the tokens behind the end are never used, and
 * think_compact() writes them as zero. Every base and stride is a multiple of the element size; tiles are aligned to 64 bytes for speed, 16 is
 * enough.
 */
public final class Segment extends Struct {
  static final int SIZE = 200;

  /** With what the library's init function says. */
  public Segment() {
    super(SIZE, 12);
    Native.think_segment_init(this, SIZE);
  }

  Segment(Memory memory) { super(memory, 12); }

  /** THINK_SEGMENT_CAUSAL, THINK_SEGMENT_MEASURE */
  public int flags() { return bytes.getInt(4); }

  public Segment flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** THINK_ROWS, THINK_TILES */
  public int keyLayout() { return bytes.getInt(8); }

  public Segment keyLayout(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** THINK_ROWS; quantized values: THINK_TILES */
  public int valueLayout() { return bytes.getInt(12); }

  public Segment valueLayout(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /** rows of a page: a multiple of 32. Without pages: rows that a slot has room for (tiles: a multiple of 32); 0 = not told */
  public int pageTokens() { return bytes.getInt(16); }

  public Segment pageTokens(int value) {
    bytes.putInt(16, value);
    return this;
  }

  /** f32, f16, bf16; in tiles also u8, u4, u2, f8 */
  public int keyDtype() { return bytes.getInt(24); }

  public Segment keyDtype(int value) {
    bytes.putInt(24, value);
    return this;
  }

  /** value_dtype */
  public int valueDtype() { return bytes.getInt(28); }

  public Segment valueDtype(int value) {
    bytes.putInt(28, value);
    return this;
  }

  /** key */
  public long key() { return bytes.getLong(32); }

  public Segment key(Memory value) {
    point(32, 0, value);
    return this;
  }

  /** value */
  public long value() { return bytes.getLong(40); }

  public Segment value(Memory value) {
    point(40, 1, value);
    return this;
  }

  /** bytes: page or slot, head, token (THINK_ROWS) */
  public long[] keyStride() {
    return new long[] {bytes.getLong(48), bytes.getLong(56), bytes.getLong(64)};
  }

  public Segment keyStride(long... values) {
    expect("keyStride", 3, values.length);
    for (int i = 0; i < 3; ++i) bytes.putLong(48 + 8 * i, values[i]);
    return this;
  }

  /** value_stride */
  public long[] valueStride() {
    return new long[] {bytes.getLong(72), bytes.getLong(80), bytes.getLong(88)};
  }

  public Segment valueStride(long... values) {
    expect("valueStride", 3, values.length);
    for (int i = 0; i < 3; ++i) bytes.putLong(72 + 8 * i, values[i]);
    return this;
  }

  /** [slots][kv_heads] bytes inside a page or slot; NULL = head * stride. Written by think_segment_place() */
  public long keyHeadOffset() { return bytes.getLong(96); }

  public Segment keyHeadOffset(Memory value) {
    point(96, 2, value);
    return this;
  }

  /** value_head_offset */
  public long valueHeadOffset() { return bytes.getLong(104); }

  public Segment valueHeadOffset(Memory value) {
    point(104, 3, value);
    return this;
  }

  /** [batch][pages_stride] page numbers; NULL = contiguous in a slot */
  public long pages() { return bytes.getLong(112); }

  public Segment pages(Memory value) {
    point(112, 4, value);
    return this;
  }

  /** The same with a copy of these numbers. */
  public Segment pages(int... values) { return pages(Memory.of(values)); }

  /** entries of the page table per sequence */
  public long pagesStride() { return bytes.getLong(120); }

  public Segment pagesStride(long value) {
    bytes.putLong(120, value);
    return this;
  }

  /** first row of the run; NULL = 0 */
  public long first() { return bytes.getLong(128); }

  public Segment first(Memory value) {
    point(128, 5, value);
    return this;
  }

  /** The same with a copy of these numbers. */
  public Segment first(int... values) { return first(Memory.of(values)); }

  /** tokens of the run */
  public long lengths() { return bytes.getLong(136); }

  public Segment lengths(Memory value) {
    point(136, 6, value);
    return this;
  }

  /** The same with a copy of these numbers. */
  public Segment lengths(int... values) { return lengths(Memory.of(values)); }

  /** elements per sequence and per KV head, for first and lengths; head stride 0 = the same for all heads. Both 0 = {1, 0} */
  public long[] lengthsStride() {
    return new long[] {bytes.getLong(144), bytes.getLong(152)};
  }

  public Segment lengthsStride(long... values) {
    expect("lengthsStride", 2, values.length);
    for (int i = 0; i < 2; ++i) bytes.putLong(144 + 8 * i, values[i]);
    return this;
  }

  /** [batch] slot of each sequence; NULL = the batch's slot, or 0, 1, 2, ... */
  public long slot() { return bytes.getLong(160); }

  public Segment slot(Memory value) {
    point(160, 7, value);
    return this;
  }

  /** The same with a copy of these numbers. */
  public Segment slot(int... values) { return slot(Memory.of(values)); }

  /** NULL = all channels */
  public Basis keyBasis() { return (Basis) struct(168, 8, Basis.SIZE, Basis::new); }

  public Segment keyBasis(Basis value) {
    point(168, 8, value);
    return this;
  }

  /** NULL = all channels */
  public Basis valueBasis() { return (Basis) struct(176, 9, Basis.SIZE, Basis::new); }

  public Segment valueBasis(Basis value) {
    point(176, 9, value);
    return this;
  }

  /** [slots][kv_heads] what 1 of an F8 code counts: 2^-100 .. 2^100; NULL = 1. &#64;since 0.11 */
  public long keyScale() { return bytes.getLong(184); }

  public Segment keyScale(Memory value) {
    point(184, 10, value);
    return this;
  }

  /** value_scale */
  public long valueScale() { return bytes.getLong(192); }

  public Segment valueScale(Memory value) {
    point(192, 11, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("Segment", "flags", flags(), "keyLayout", keyLayout(), "valueLayout", valueLayout(), "pageTokens", pageTokens(), "keyDtype",
        keyDtype(), "valueDtype", valueDtype(), "key", key(), "value", value(), "keyStride", keyStride(), "valueStride", valueStride(),
        "keyHeadOffset", keyHeadOffset(), "valueHeadOffset", valueHeadOffset(), "pages", pages(), "pagesStride", pagesStride(), "first", first(),
        "lengths", lengths(), "lengthsStride", lengthsStride(), "slot", slot(), "keyBasis", keyBasis(), "valueBasis", valueBasis(), "keyScale",
        keyScale(), "valueScale", valueScale());
  }
}
