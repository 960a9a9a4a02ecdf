package org.libthink;

import java.util.Objects;
import java.util.function.LongConsumer;

/** The device, the threads and the host's hooks. Immutable; any number of threads may use it. Plans keep what they need of it. */
public final class Context implements AutoCloseable {
  final Handle handle;
  final int device;

  /** The CPU and the caller's own thread. */
  public Context() { this(new Builder()); }

  /** With options of C; its hooks are addresses of C functions. */
  public Context(ContextOptions options) { this(new Builder(Objects.requireNonNull(options))); }

  private Context(Builder from) {
    Hooks hooks = from.hooks;
    long reference = hooks.which() == 0 ? 0 : NativeJNI.hook(Struct.addressOf(from.options), hooks, hooks.which());
    device = from.options.deviceType();
    try {
      handle = Handle.of(this, null, made -> Native.think_context_create(from.options, made), address -> {
        NativeJNI.think_context_destroy(address);
        if (reference != 0) NativeJNI.unhook(reference);
      });
    } catch (Throwable problem) {
      if (reference != 0) NativeJNI.unhook(reference);
      throw problem;
    }
  }

  public static Builder builder() { return new Builder(); }

  /** One fact about the context: Constants.QUERY_... */
  public long query(int key) { return Think.query(handle, key); }

  /** Can it run this problem? A wrong problem is a ThinkException. */
  public boolean supports(Problem problem) {
    try {
      Native.think_supports(handle, problem);
      return true;
    } catch (ThinkException problemOfDevice) {
      if (problemOfDevice.code() == Constants.E_UNSUPPORTED) return false;
      throw problemOfDevice;
    }
  }

  public boolean isClosed() { return handle.isClosed(); }

  /** Gives it up; twice is allowed. What was made of it goes on working. */
  @Override
  public void close() { handle.run(); }

  /** A line of text for the host's log, in the thread that called the library. */
  public interface Log {
    void log(int level, String message);
  }

  /** Runs task.accept(0) .. task.accept(count - 1) on threads of its own, in any order, and returns when all are done. */
  public interface ParallelFor {
    void run(long count, LongConsumer task);
  }

  /** Memory of contexts, plans and caches, as addresses; 0 when there is none. */
  public interface Allocator {
    long allocate(long bytes, long alignment);

    void deallocate(long address, long bytes, long alignment);
  }

  /** Options of a context. What a hook throws goes to its thread's handler of uncaught exceptions. */
  public static final class Builder {
    private final ContextOptions options;
    private final Hooks hooks = new Hooks();

    private Builder() { this(new ContextOptions()); }

    private Builder(ContextOptions options) { this.options = options; }

    /** Constants.DEVICE_CPU or DEVICE_CUDA, and which of them. */
    public Builder device(int type, int index) {
      options.deviceType(type).deviceIndex(index);
      return this;
    }

    /** 0 = the caller's own, -1 = one for every core, n; with parallelFor: how many tasks run at the same time. */
    public Builder threads(int count) {
      options.threads(count);
      return this;
    }

    public Builder log(Log log) {
      hooks.log = log;
      return this;
    }

    public Builder parallelFor(ParallelFor parallelFor) {
      hooks.parallelFor = parallelFor;
      return this;
    }

    public Builder allocator(Allocator allocator) {
      hooks.allocator = allocator;
      return this;
    }

    public Context build() { return new Context(this); }
  }
}
