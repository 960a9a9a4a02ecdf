// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** Options of think_prune(). */
public final class PruneOptions extends Struct {
  static final int SIZE = 48;

  /** With what the library's init function says. */
  public PruneOptions() {
    super(SIZE, 0);
    Native.think_prune_options_init(this, SIZE);
  }

  PruneOptions(Memory memory) { super(memory, 0); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public PruneOptions flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** THINK_MODE_... */
  public int mode() { return bytes.getInt(8); }

  public PruneOptions mode(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** THINK_BUDGET_... */
  public int budget() { return bytes.getInt(12); }

  public PruneOptions budget(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /** key channels per head, on average if adaptive: 0 = half of them, -1 = all, keys are copied */
  public int keyKept() { return bytes.getInt(16); }

  public PruneOptions keyKept(int value) {
    bytes.putInt(16, value);
    return this;
  }

  /** value channels per head, shared in steps of 8 (uniform: rounded up to 8): 0 or -1 = all, values are copied */
  public int valueKept() { return bytes.getInt(20); }

  public PruneOptions valueKept(int value) {
    bytes.putInt(20, value);
    return this;
  }

  /** first rows that are not moved: 0 = 4, -1 = none */
  public int sinks() { return bytes.getInt(24); }

  public PruneOptions sinks(int value) {
    bytes.putInt(24, value);
    return this;
  }

  /** last rows that are not moved, at least: 0 = 32, -1 = none */
  public int recent() { return bytes.getInt(28); }

  public PruneOptions recent(int value) {
    bytes.putInt(28, value);
    return this;
  }

  /** see think_moments_options: 0 = 0.9 */
  public float attentionShare() { return bytes.getFloat(32); }

  public PruneOptions attentionShare(float value) {
    bytes.putFloat(32, value);
    return this;
  }

  /** see think_fit_options: 0 = 1e-3 */
  public float ridge() { return bytes.getFloat(36); }

  public PruneOptions ridge(float value) {
    bytes.putFloat(36, value);
    return this;
  }

  /**
   * a side stays dense unless basis + compact rows are below this share of its rows with all channels, as they would be stored (quantized where the
   * plan says so): 0 = 0.9, -1 = prune anyway
   */
  public float denseLimit() { return bytes.getFloat(40); }

  public PruneOptions denseLimit(float value) {
    bytes.putFloat(40, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("PruneOptions", "flags", flags(), "mode", mode(), "budget", budget(), "keyKept", keyKept(), "valueKept", valueKept(), "sinks",
        sinks(), "recent", recent(), "attentionShare", attentionShare(), "ridge", ridge(), "denseLimit", denseLimit());
  }
}
