// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/**
 * How to make a context. All zero (or NULL instead of options) means: CPU, the caller's thread only, malloc, no log. Hooks are called from the thread
 * that called the library, must not throw, and must stay valid until the last plan and cache of the context is gone. allocate and deallocate are
 * given together or not at all; they are used when contexts and plans are made and destroyed and by the functions of a cache (think/cache.h,
 * think/store.h), never by other run calls.
 */
public final class ContextOptions extends Struct {
  static final int SIZE = 64;

  /** With what the library's init function says. */
  public ContextOptions() {
    super(SIZE, 1);
    Native.think_context_options_init(this, SIZE);
  }

  ContextOptions(Memory memory) { super(memory, 1); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public ContextOptions flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** 0 = THINK_DEVICE_CPU. THINK_DEVICE_CUDA loads libthink_cuda.so.1 */
  public int deviceType() { return bytes.getInt(8); }

  public ContextOptions deviceType(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** 0 = the first */
  public int deviceIndex() { return bytes.getInt(12); }

  public ContextOptions deviceIndex(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /**
   * CPU: 0 = 1, the caller's own; -1 = one for every core that this process may use; n, at most 1024. With parallel_for: how many tasks the host runs
   * at the same time, 0 = -1
   */
  public int threads() { return bytes.getInt(16); }

  public ContextOptions threads(int value) {
    bytes.putInt(16, value);
    return this;
  }

  /** the host's threads; NULL = own threads, started by the first plan if threads asks for more than one */
  public long parallelFor() { return bytes.getLong(24); }

  public ContextOptions parallelFor(long value) {
    bytes.putLong(24, value);
    return this;
  }

  /** NULL = aligned_alloc */
  public long allocate() { return bytes.getLong(32); }

  public ContextOptions allocate(long value) {
    bytes.putLong(32, value);
    return this;
  }

  /** deallocate */
  public long deallocate() { return bytes.getLong(40); }

  public ContextOptions deallocate(long value) {
    bytes.putLong(40, value);
    return this;
  }

  /** NULL = silent */
  public long log() { return bytes.getLong(48); }

  public ContextOptions log(long value) {
    bytes.putLong(48, value);
    return this;
  }

  /** handed to the four hooks */
  public long user() { return bytes.getLong(56); }

  public ContextOptions user(Memory value) {
    point(56, 0, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("ContextOptions", "flags", flags(), "deviceType", deviceType(), "deviceIndex", deviceIndex(), "threads", threads(), "parallelFor",
        parallelFor(), "allocate", allocate(), "deallocate", deallocate(), "log", log(), "user", user());
  }
}
