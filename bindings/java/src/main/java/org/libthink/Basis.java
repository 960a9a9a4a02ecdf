// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/**
 * Bases of one side of one layer, one per slot and KV head. A compact row holds the kept channels I of a full row, as they are, in ascending order.
 * What the dropped channels P contributed is predicted from them, independently of the token: x_P ~ W x_I + offset_P. Attention never rebuilds rows:
 * keys: logit = scale * ((q_I + W^T q_P) . k_I + q_P . offset_P) folded into the query, in f32 values: out_I = sum p v_I; out_P = W out_I + (sum p)
 * offset_P expanded once, where sum p is the attention mass of the segment Where weight_offset is -1 there is no prediction: the dropped channels
 * count as zero (the paper's method). think_basis_bind() lays the arrays out in one block of memory; they may also lie apart, and be filled by the
 * caller (static masks, calibrated matrices). A basis is tied to the slot, so sequences may change their place in the batch.
 */
public final class Basis extends Struct {
  static final int SIZE = 64;

  /** With what the library's init function says. */
  public Basis() {
    super(SIZE, 5);
    Native.think_basis_init(this, SIZE);
  }

  Basis(Memory memory) { super(memory, 5); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public Basis flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** of a full row: key_channels or value_channels of the plan */
  public int channels() { return bytes.getInt(8); }

  public Basis channels(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** slots */
  public int slots() { return bytes.getInt(12); }

  public Basis slots(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /** [slots][kv_heads] number of kept channels, 1 .. channels (values: a multiple of 8) */
  public long kept() { return bytes.getLong(16); }

  public Basis kept(Memory value) {
    point(16, 0, value);
    return this;
  }

  /** [slots][kv_heads][channels]: the kept channels ascending, then the dropped ones ascending */
  public long index() { return bytes.getLong(24); }

  public Basis index(Memory value) {
    point(24, 1, value);
    return this;
  }

  /** f16; the block of one head: W as [dropped][kept rounded up to 8], the padding zero. 16-byte aligned */
  public long weight() { return bytes.getLong(32); }

  public Basis weight(Memory value) {
    point(32, 2, value);
    return this;
  }

  /** size of `weight` */
  public long weightBytes() { return bytes.getLong(40); }

  public Basis weightBytes(long value) {
    bytes.putLong(40, value);
    return this;
  }

  /** [slots][kv_heads] byte offset of a head's block in `weight`, a multiple of 16; -1 = none */
  public long weightOffset() { return bytes.getLong(48); }

  public Basis weightOffset(Memory value) {
    point(48, 3, value);
    return this;
  }

  /** [slots][kv_heads][channels] in the order of `index`; only the dropped part is used */
  public long offset() { return bytes.getLong(56); }

  public Basis offset(Memory value) {
    point(56, 4, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("Basis", "flags", flags(), "channels", channels(), "slots", slots(), "kept", kept(), "index", index(), "weight", weight(),
        "weightBytes", weightBytes(), "weightOffset", weightOffset(), "offset", offset());
  }
}
