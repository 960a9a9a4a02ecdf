// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** Options of think_fit(). */
public final class FitOptions extends Struct {
  static final int SIZE = 24;

  /** With what the library's init function says. */
  public FitOptions() {
    super(SIZE, 0);
    Native.think_fit_options_init(this, SIZE);
  }

  FitOptions(Memory memory) { super(memory, 0); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public FitOptions flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** THINK_KEYS, THINK_VALUES */
  public int side() { return bytes.getInt(8); }

  public FitOptions side(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** added to the diagonal, as a share of its mean: 0 = 1e-3; -1 = none, where singular covariances fail no call but predict the mean */
  public float ridge() { return bytes.getFloat(16); }

  public FitOptions ridge(float value) {
    bytes.putFloat(16, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("FitOptions", "flags", flags(), "side", side(), "ridge", ridge());
  }
}
