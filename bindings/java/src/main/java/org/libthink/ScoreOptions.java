// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** Options of think_score_finish(). */
public final class ScoreOptions extends Struct {
  static final int SIZE = 8;

  /** With what the library's init function says. */
  public ScoreOptions() {
    super(SIZE, 0);
    Native.think_score_options_init(this, SIZE);
  }

  ScoreOptions(Memory memory) { super(memory, 0); }

  /** THINK_SCORE_QUERY_HEADS */
  public int flags() { return bytes.getInt(4); }

  public ScoreOptions flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("ScoreOptions", "flags", flags());
  }
}
