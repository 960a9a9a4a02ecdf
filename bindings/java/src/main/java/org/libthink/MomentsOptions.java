// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** Options of think_moments(). */
public final class MomentsOptions extends Struct {
  static final int SIZE = 24;

  /** With what the library's init function says. */
  public MomentsOptions() {
    super(SIZE, 0);
    Native.think_moments_options_init(this, SIZE);
  }

  MomentsOptions(Memory memory) { super(memory, 0); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public MomentsOptions flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** first rows that stay dense: 0 = 4, -1 = none */
  public int sinks() { return bytes.getInt(8); }

  public MomentsOptions sinks(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** last rows that stay dense, at least: 0 = 32, -1 = none */
  public int recent() { return bytes.getInt(12); }

  public MomentsOptions recent(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /** share of the weight that follows the attention: 0 = 0.9, -1 = none */
  public float attentionShare() { return bytes.getFloat(16); }

  public MomentsOptions attentionShare(float value) {
    bytes.putFloat(16, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("MomentsOptions", "flags", flags(), "sinks", sinks(), "recent", recent(), "attentionShare", attentionShare());
  }
}
