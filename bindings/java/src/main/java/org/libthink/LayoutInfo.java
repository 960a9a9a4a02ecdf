// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** Sizes that follow from a format: host constants, known before anything is allocated. */
public final class LayoutInfo extends Struct {
  static final int SIZE = 48;

  /** With what the library's init function says. */
  public LayoutInfo() {
    super(SIZE, 0);
    Native.think_layout_info_init(this, SIZE);
  }

  LayoutInfo(Memory memory) { super(memory, 0); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public LayoutInfo flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** keys of one page, all KV heads */
  public long keyPageBytes() { return bytes.getLong(8); }

  public LayoutInfo keyPageBytes(long value) {
    bytes.putLong(8, value);
    return this;
  }

  /** values of one page, all KV heads */
  public long valuePageBytes() { return bytes.getLong(16); }

  public LayoutInfo valuePageBytes(long value) {
    bytes.putLong(16, value);
    return this;
  }

  /** think_basis_size() of one slot */
  public long keyBasisBytes() { return bytes.getLong(24); }

  public LayoutInfo keyBasisBytes(long value) {
    bytes.putLong(24, value);
    return this;
  }

  /** value_basis_bytes */
  public long valueBasisBytes() { return bytes.getLong(32); }

  public LayoutInfo valueBasisBytes(long value) {
    bytes.putLong(32, value);
    return this;
  }

  /** of pages and bases */
  public long alignment() { return bytes.getLong(40); }

  public LayoutInfo alignment(long value) {
    bytes.putLong(40, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("LayoutInfo", "flags", flags(), "keyPageBytes", keyPageBytes(), "valuePageBytes", valuePageBytes(), "keyBasisBytes", keyBasisBytes(),
        "valueBasisBytes", valueBasisBytes(), "alignment", alignment());
  }
}
