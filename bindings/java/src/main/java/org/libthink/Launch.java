// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/**
 * What a run call works with, besides its data. NULL is allowed where think_workspace_size() gives 0. A workspace is plain memory of the plan's
 * device. Zero it once when it is new: every completed call leaves its counters zero. It serves one call at a time, and one plan: before a sliced
 * call of another plan, zero it again. Run calls never allocate, free, synchronise or start threads.
 */
public final class Launch extends Struct {
  static final int SIZE = 40;

  /** With what the library's init function says. */
  public Launch() {
    super(SIZE, 2);
    Native.think_launch_init(this, SIZE);
  }

  Launch(Memory memory) { super(memory, 2); }

  /** THINK_LAUNCH_... */
  public int flags() { return bytes.getInt(4); }

  public Launch flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** aligned as think_workspace_size() says */
  public long workspace() { return bytes.getLong(8); }

  public Launch workspace(Memory value) {
    point(8, 0, value);
    return this;
  }

  /** at least as many as think_workspace_size() says */
  public long workspaceBytes() { return bytes.getLong(16); }

  public Launch workspaceBytes(long value) {
    bytes.putLong(16, value);
    return this;
  }

  /** CUDA: a CUstream; ignored on the CPU */
  public long stream() { return bytes.getLong(24); }

  public Launch stream(Memory value) {
    point(24, 1, value);
    return this;
  }

  /** CPU, think_score_update, think_compact and think_attend only: the part of the work that this call does, 0 .. slices - 1 */
  public int slice() { return bytes.getInt(32); }

  public Launch slice(int value) {
    bytes.putInt(32, value);
    return this;
  }

  /**
   * 0 or 1 = all of it. Otherwise exactly one call per slice, with the same arguments and workspace, from any threads in any order; no slice waits
   * for another, the last one completes the result. Elsewhere THINK_E_UNSUPPORTED
   */
  public int slices() { return bytes.getInt(36); }

  public Launch slices(int value) {
    bytes.putInt(36, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("Launch", "flags", flags(), "workspace", workspace(), "workspaceBytes", workspaceBytes(), "stream", stream(), "slice", slice(),
        "slices", slices());
  }
}
