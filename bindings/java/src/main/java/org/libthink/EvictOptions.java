// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** Options of think_evict(). */
public final class EvictOptions extends Struct {
  static final int SIZE = 48;

  /** With what the library's init function says. */
  public EvictOptions() {
    super(SIZE, 0);
    Native.think_evict_options_init(this, SIZE);
  }

  EvictOptions(Memory memory) { super(memory, 0); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public EvictOptions flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** THINK_EVICT_... */
  public int method() { return bytes.getInt(8); }

  public EvictOptions method(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** rows that every head keeps: at least 1 where no budgets are given, which may be 0 */
  public int budget() { return bytes.getInt(12); }

  public EvictOptions budget(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /** first rows that are always kept: 0 = none (RECENT: 4), -1 = none */
  public int sinks() { return bytes.getInt(16); }

  public EvictOptions sinks(int value) {
    bytes.putInt(16, value);
    return this;
  }

  /** last rows that are always kept: 0 = the plan's window (TOVA: none), -1 = none. RECENT: must be 0, all that the sinks leave */
  public int recent() { return bytes.getInt(20); }

  public EvictOptions recent(int value) {
    bytes.putInt(20, value);
    return this;
  }

  /** SNAPKV: THINK_POOL_...; elsewhere 0 */
  public int pooling() { return bytes.getInt(24); }

  public EvictOptions pooling(int value) {
    bytes.putInt(24, value);
    return this;
  }

  /** SNAPKV: rows that are pooled, an odd number up to 255: 0 = 7, -1 = none; elsewhere 0 */
  public int kernel() { return bytes.getInt(28); }

  public EvictOptions kernel(int value) {
    bytes.putInt(28, value);
    return this;
  }

  /** elements of `kept` per head: 0 = budget */
  public long keptStride() { return bytes.getLong(32); }

  public EvictOptions keptStride(long value) {
    bytes.putLong(32, value);
    return this;
  }

  /** elements of `score` per head; at least the tokens of the longest sequence where `score` is given */
  public long scoreStride() { return bytes.getLong(40); }

  public EvictOptions scoreStride(long value) {
    bytes.putLong(40, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("EvictOptions", "flags", flags(), "method", method(), "budget", budget(), "sinks", sinks(), "recent", recent(), "pooling", pooling(),
        "kernel", kernel(), "keptStride", keptStride(), "scoreStride", scoreStride());
  }
}
