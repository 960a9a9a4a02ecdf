// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** How a compact segment stores its two sides. */
public final class Format extends Struct {
  static final int SIZE = 24;

  /** With what the library's init function says. */
  public Format() {
    super(SIZE, 0);
    Native.think_format_init(this, SIZE);
  }

  Format(Memory memory) { super(memory, 0); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public Format flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** THINK_ROWS, THINK_TILES */
  public int keyLayout() { return bytes.getInt(8); }

  public Format keyLayout(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** THINK_ROWS; quantized values: THINK_TILES */
  public int valueLayout() { return bytes.getInt(12); }

  public Format valueLayout(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /** 0 = the plan's cache_dtype */
  public int keyDtype() { return bytes.getInt(16); }

  public Format keyDtype(int value) {
    bytes.putInt(16, value);
    return this;
  }

  /** 0 = the plan's cache_dtype */
  public int valueDtype() { return bytes.getInt(20); }

  public Format valueDtype(int value) {
    bytes.putInt(20, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("Format", "flags", flags(), "keyLayout", keyLayout(), "valueLayout", valueLayout(), "keyDtype", keyDtype(), "valueDtype",
        valueDtype());
  }
}
