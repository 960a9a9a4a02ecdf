package org.libthink;

import java.lang.ref.Cleaner;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.function.LongConsumer;

/** A handle of the library. It goes when its owner is closed or unreachable, no call uses it any more, and what was made from it is gone. */
final class Handle implements Runnable {
  // Java's own kind of thread: one made here would hold the class loader for ever.
  private static final Cleaner CLEANER = Cleaner.create();

  private final long address;
  private final LongConsumer destroy;
  private final Handle parent;
  private final String name;
  private final AtomicInteger uses = new AtomicInteger(1);
  private final AtomicBoolean closed = new AtomicBoolean();

  private Handle(String name, long address, LongConsumer destroy, Handle parent) {
    this.name = name;
    this.address = address;
    this.destroy = destroy;
    this.parent = parent;
    if (parent != null) parent.uses.incrementAndGet();
  }

  /** A handle that `create` puts into its array. The parent, which may be null, is held meanwhile: another thread may close it. */
  static Handle of(Object owner, Handle parent, Consumer<long[]> create, LongConsumer destroy) {
    enter(parent);
    try {
      long[] address = new long[1];
      create.accept(address);
      Handle made = new Handle(owner.getClass().getSimpleName(), address[0], destroy, parent);
      CLEANER.register(owner, made);
      return made;
    } finally {
      leave(parent);
    }
  }

  static long enter(Handle handle) {
    if (handle == null) return 0;
    int uses;
    do {
      uses = handle.uses.get();
      if (uses == 0 || handle.closed.get()) throw new IllegalStateException("this " + handle.name + " is closed");
    } while (!handle.uses.compareAndSet(uses, uses + 1));
    return handle.address;
  }

  static void leave(Handle handle) {
    if (handle == null || handle.uses.decrementAndGet() > 0) return;
    handle.destroy.accept(handle.address);
    leave(handle.parent);
  }

  boolean isClosed() { return closed.get(); }

  /** Closes it, once. */
  @Override
  public void run() {
    if (closed.compareAndSet(false, true)) leave(this);
  }
}
