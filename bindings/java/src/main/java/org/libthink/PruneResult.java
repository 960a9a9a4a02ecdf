// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** What think_prune() will do with a sequence of a given length. */
public final class PruneResult extends Struct {
  static final int SIZE = 80;

  /** With what the library's init function says. */
  public PruneResult() {
    super(SIZE, 0);
    Native.think_prune_result_init(this, SIZE);
  }

  PruneResult(Memory memory) { super(memory, 0); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public PruneResult flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** first row that is moved: the sinks */
  public long first() { return bytes.getLong(8); }

  public PruneResult first(long value) {
    bytes.putLong(8, value);
    return this;
  }

  /** rows that are moved: a multiple of 32; 0 = too short, nothing happens */
  public long rows() { return bytes.getLong(16); }

  public PruneResult rows(long value) {
    bytes.putLong(16, value);
    return this;
  }

  /** key channels that the heads keep together; kv_heads * key_channels = the keys stay dense */
  public long keyTotal() { return bytes.getLong(24); }

  public PruneResult keyTotal(long value) {
    bytes.putLong(24, value);
    return this;
  }

  /** the same for values */
  public long valueTotal() { return bytes.getLong(32); }

  public PruneResult valueTotal(long value) {
    bytes.putLong(32, value);
    return this;
  }

  /** of the moved rows before */
  public long denseBytes() { return bytes.getLong(40); }

  public PruneResult denseBytes(long value) {
    bytes.putLong(40, value);
    return this;
  }

  /** of the moved keys after, as stored; adaptive and quantized: at most */
  public long keyBytes() { return bytes.getLong(48); }

  public PruneResult keyBytes(long value) {
    bytes.putLong(48, value);
    return this;
  }

  /** of the moved values after, as stored; adaptive and quantized: at most */
  public long valueBytes() { return bytes.getLong(56); }

  public PruneResult valueBytes(long value) {
    bytes.putLong(56, value);
    return this;
  }

  /** of the basis, as think_basis_size() lays it out; 0 where the side stays dense */
  public long keyBasisBytes() { return bytes.getLong(64); }

  public PruneResult keyBasisBytes(long value) {
    bytes.putLong(64, value);
    return this;
  }

  /** value_basis_bytes */
  public long valueBasisBytes() { return bytes.getLong(72); }

  public PruneResult valueBasisBytes(long value) {
    bytes.putLong(72, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("PruneResult", "flags", flags(), "first", first(), "rows", rows(), "keyTotal", keyTotal(), "valueTotal", valueTotal(), "denseBytes",
        denseBytes(), "keyBytes", keyBytes(), "valueBytes", valueBytes(), "keyBasisBytes", keyBasisBytes(), "valueBasisBytes", valueBasisBytes());
  }
}
