package org.libthink;

import java.nio.charset.StandardCharsets;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.concurrent.atomic.AtomicLong;

/** The hooks of one context, as C calls them (glue.h). Nothing is thrown from here. */
final class Hooks {
  Context.Log log;
  Context.ParallelFor parallelFor;
  Context.Allocator allocator;

  /** Bits of the hooks that are set, for NativeJNI.hook(). */
  int which() { return (parallelFor != null ? 1 : 0) | (allocator != null ? 2 : 0) | (log != null ? 4 : 0); }

  void log(int level, byte[] message) {
    try {
      log.log(level, new String(message, StandardCharsets.UTF_8));
    } catch (Throwable problem) {
      report(problem);
    }
  }

  /** Whatever the host's loop does, when this returns every task has run exactly once, as the library needs it. */
  void parallelFor(long count, long task, long argument) {
    AtomicIntegerArray taken = new AtomicIntegerArray((int) count);
    AtomicLong finished = new AtomicLong();
    try {
      parallelFor.run(count, index -> {
        if (!taken.compareAndSet((int) index, 0, 1)) throw new IllegalStateException("task " + index + " has run already");
        NativeJNI.task(task, argument, index);
        finished.incrementAndGet();
      });
    } catch (Throwable problem) {
      report(problem);
    }
    for (int index = 0; index < count; ++index) {
      if (!taken.compareAndSet(index, 0, 1)) continue;
      NativeJNI.task(task, argument, index);
      finished.incrementAndGet();
    }
    while (finished.get() < count) Thread.yield();
  }

  long allocate(long bytes, long alignment) {
    try {
      return allocator.allocate(bytes, alignment);
    } catch (Throwable problem) {
      report(problem);
      return 0;
    }
  }

  void deallocate(long address, long bytes, long alignment) {
    try {
      allocator.deallocate(address, bytes, alignment);
    } catch (Throwable problem) {
      report(problem);
    }
  }

  private static void report(Throwable problem) {
    Thread thread = Thread.currentThread();
    try {
      thread.getUncaughtExceptionHandler().uncaughtException(thread, problem);
    } catch (Throwable again) {
      // the handler's own trouble; there is nobody left to tell
    }
  }
}
