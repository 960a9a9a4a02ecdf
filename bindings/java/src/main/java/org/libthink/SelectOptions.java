// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** Options of think_select(). */
public final class SelectOptions extends Struct {
  static final int SIZE = 24;

  /** With what the library's init function says. */
  public SelectOptions() {
    super(SIZE, 0);
    Native.think_select_options_init(this, SIZE);
  }

  SelectOptions(Memory memory) { super(memory, 0); }

  /** THINK_SELECT_PAIRS_... */
  public int flags() { return bytes.getInt(4); }

  public SelectOptions flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** THINK_KEYS, THINK_VALUES */
  public int side() { return bytes.getInt(8); }

  public SelectOptions side(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** channels that every head keeps, where no budgets are given */
  public int kept() { return bytes.getInt(12); }

  public SelectOptions kept(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /** round widths up to a multiple of this: 0 = 1 (keys) or 8 (values). The places won go to the next best channels */
  public int roundTo() { return bytes.getInt(16); }

  public SelectOptions roundTo(int value) {
    bytes.putInt(16, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("SelectOptions", "flags", flags(), "side", side(), "kept", kept(), "roundTo", roundTo());
  }
}
