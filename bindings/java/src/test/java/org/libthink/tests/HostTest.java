package org.libthink.tests;

import static org.junit.Assert.*;
import static org.libthink.Constants.*;
import static org.libthink.tests.Data.*;

import java.lang.ref.WeakReference;
import java.net.URL;
import java.net.URLClassLoader;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.LongStream;
import org.junit.Test;
import org.libthink.*;
import org.libthink.tests.Data.*;

/** The library among Java's threads and its collector, and the host's hooks. */
public class HostTest {
  @Test
  public void facts() {
    assertEquals(VERSION_MAJOR * 10000 + VERSION_MINOR * 100 + VERSION_PATCH, Think.version());
    assertEquals(VERSION_MAJOR + "." + VERSION_MINOR + "." + VERSION_PATCH, Think.versionString());
    assertEquals(ABI_MAJOR, Think.abiVersion());
    assertTrue(Think.libraryPath().endsWith("libthink.so.1"));
    assertTrue(Think.backendReason(DEVICE_CPU).startsWith("available"));
    assertEquals((Think.query(QUERY_BACKENDS) & 1 << DEVICE_CUDA) != 0, Think.backendReason(DEVICE_CUDA).startsWith("available"));
    assertEquals(3, Context.builder().threads(3).build().query(QUERY_THREADS));
    assertEquals(2, new Context(new ContextOptions().threads(2)).query(QUERY_THREADS));
    assertEquals(E_UNSUPPORTED, assertThrows(ThinkException.class, () -> Context.builder().device(77, 0).build()).code());
  }

  /** A thread of the platform, or a virtual one where Java has them. */
  private static Thread start(boolean virtual, Runnable work) {
    try {
      if (virtual) return (Thread) Thread.class.getMethod("startVirtualThread", Runnable.class).invoke(null, work);
    } catch (ReflectiveOperationException problem) {
      throw new AssertionError(problem);
    }
    Thread thread = new Thread(work);
    thread.start();
    return thread;
  }

  /** The same bits in every thread, while the collector runs. */
  private static void manyThreadsOnOnePlan(boolean virtual) throws InterruptedException {
    Plan plan = plan();
    Layer layer = Layer.of(1, 200);
    Segment segment = dense(layer.key(), layer.value());
    Rows expected = Rows.zeros(HQ, 4, D);
    plan.attend(layer.query().last(4), List.of(segment), expected.tensor());
    CountDownLatch ready = new CountDownLatch(64);
    AtomicInteger same = new AtomicInteger();
    ConcurrentLinkedQueue<Throwable> problems = new ConcurrentLinkedQueue<>();
    List<Thread> threads = new ArrayList<>();
    for (int i = 0; i < 64; ++i) {
      threads.add(start(virtual, () -> {
        try {
          ready.countDown();
          ready.await();
          for (int turn = 0; turn < 20; ++turn) {
            Rows output = Rows.zeros(HQ, 4, D);
            plan.attend(layer.query().last(4), List.of(segment), output.tensor());
            if (Arrays.equals(output.floats(), expected.floats())) same.incrementAndGet();
            assertEquals(2, assertThrows(ThinkException.class, () -> plan.workspaceSize(99, null)).argument());
          }
        } catch (Throwable problem) {
          problems.add(problem);
        }
      }));
    }
    for (int i = 0; i < 5; ++i) System.gc();
    for (Thread thread : threads) thread.join();
    assertEquals(List.of(), List.copyOf(problems));
    assertEquals(64 * 20, same.get());
  }

  @Test
  public void threadsOnOnePlan() throws InterruptedException { manyThreadsOnOnePlan(false); }

  @Test
  public void virtualThreadsOnOnePlan() throws InterruptedException {
    org.junit.Assume.assumeTrue("virtual threads came with Java 21", Runtime.version().feature() >= 21);
    manyThreadsOnOnePlan(true);
  }

  @Test
  public void aPlanMayBeClosedWhileItIsUsed() throws InterruptedException {
    for (int turn = 0; turn < 20; ++turn) {
      Plan plan = plan();
      AtomicBoolean closed = new AtomicBoolean();
      Thread thread = start(false, () -> {
        while (!closed.get()) {
          try {
            plan.scoreStateSize(1);
            new Cache(plan).step(new int[] {0}, new int[] {1}); // which keeps the plan that another thread closes
          } catch (IllegalStateException is) {
            closed.set(is.getMessage().equals("this Plan is closed"));
          }
        }
      });
      Thread.yield();
      plan.close();
      thread.join(10_000);
      assertTrue(closed.get());
    }
  }

  /** Counts what the library has, with memory of direct buffers. */
  private static final class Counting implements Context.Allocator {
    final ConcurrentHashMap<Long, Memory> held = new ConcurrentHashMap<>();

    @Override
    public long allocate(long bytes, long alignment) {
      Memory made = Memory.allocate(bytes, alignment);
      held.put(made.address(), made);
      return made.address();
    }

    @Override
    public void deallocate(long address, long bytes, long alignment) { assertNotNull(held.remove(address)); }

    /** The collector says when; true when nothing is held any more. */
    boolean emptied() throws InterruptedException {
      for (int i = 0; i < 200 && !held.isEmpty(); ++i) {
        System.gc();
        Thread.sleep(10);
      }
      return held.isEmpty();
    }
  }

  @Test
  public void whatIsUnreachableIsGivenBack() throws InterruptedException {
    Counting memory = new Counting();
    AtomicBoolean stop = new AtomicBoolean();
    Thread collector = start(false, () -> {
      for (; !stop.get(); Thread.yield()) System.gc();
    });
    for (int turn = 0; turn < 30; ++turn) {
      Plan plan = new Plan(Context.builder().allocator(memory).build(), problem());
      Cache cache = new Cache(plan);
      Layer layer = fill(cache, 0, 40, turn);
      Rows output = Rows.zeros(HQ, 40, D);
      cache.attend(0, layer.query().tensor(), output.tensor());
      List<Segment> segments = new Cache(plan).usage(-1).tokens() == 0 ? cache.segments(0) : List.of();
      plan = null;
      cache = null; // the segments keep it
      Rows again = Rows.zeros(HQ, 40, D);
      Data.plan().attend(layer.query().tensor(), segments, again.tensor());
      assertArrayEquals(output.floats(), again.floats(), 1e-6f);
    }
    stop.set(true);
    collector.join();
    assertTrue(memory.held.size() + " blocks are left", memory.emptied());
  }

  @Test
  public void closingGivesBackAtOnce() {
    Counting memory = new Counting();
    Context context = Context.builder().allocator(memory).build();
    Plan plan = new Plan(context, problem());
    Cache cache = new Cache(plan);
    context.close();
    plan.close();
    cache.step(new int[] {0}, new int[] {10});
    assertFalse(memory.held.isEmpty());
    cache.close();
    assertTrue(memory.held.isEmpty());
    ThinkException error = assertThrows(ThinkException.class, () -> Context.builder().allocator(new Context.Allocator() {
      @Override
      public long allocate(long bytes, long alignment) { return 0; }

      @Override
      public void deallocate(long address, long bytes, long alignment) {}
    }).build());
    assertEquals(E_MEMORY, error.code());
  }

  /** A loader of its own has used the library, and is let go. */
  private static WeakReference<ClassLoader> used() throws Exception {
    URL classes = Think.class.getProtectionDomain().getCodeSource().getLocation();
    try (URLClassLoader loader = new URLClassLoader(new URL[] {classes}, ClassLoader.getPlatformClassLoader())) {
      Class<?> think = loader.loadClass("org.libthink.Think");
      assertNotSame(Think.class, think);
      assertNotEquals(Think.libraryPath(), think.getMethod("libraryPath").invoke(null));
      ((AutoCloseable) loader.loadClass("org.libthink.Context").getConstructor().newInstance()).close();
      return new WeakReference<>(loader);
    }
  }

  @Test
  public void classLoadersComeAndGo() throws Exception {
    for (int turn = 0; turn < 3; ++turn) {
      WeakReference<ClassLoader> loader = used();
      for (int i = 0; i < 200 && loader.get() != null; ++i) {
        System.gc();
        Thread.sleep(10);
      }
      assertNull("the classes stay", loader.get());
    }
    assertEquals(ABI_MAJOR, Think.abiVersion());
  }

  private static Rows attended(Context context) {
    Plan plan = new Plan(context, problem().maxTokens(8192));
    Layer layer = Layer.of(1, 8000);
    Rows output = Rows.zeros(HQ, 1, D);
    plan.attend(layer.query().last(1), List.of(dense(layer.key(), layer.value())), output.tensor());
    return output;
  }

  @Test
  public void loopsOfTheHost() {
    Rows expected = attended(new Context());
    AtomicInteger loops = new AtomicInteger();
    Context.ParallelFor[] kinds = {
      (count, task) -> LongStream.range(0, count).parallel().forEach(task),
      (count, task) -> { // threads of its own
        Thread thread = start(false, () -> LongStream.range(1, count).forEach(task::accept));
        task.accept(0);
        try {
          thread.join();
        } catch (InterruptedException problem) {
          throw new AssertionError(problem);
        }
      },
      (count, task) -> {}, // forgets all of them
      (count, task) -> {
        task.accept(count - 1);
        throw new IllegalStateException("on purpose");
      },
    };
    ConcurrentLinkedQueue<Throwable> reported = new ConcurrentLinkedQueue<>();
    Thread.currentThread().setUncaughtExceptionHandler((thread, problem) -> reported.add(problem));
    for (Context.ParallelFor kind : kinds) {
      Context context = Context.builder().threads(3).parallelFor((count, task) -> {
        loops.incrementAndGet();
        kind.run(count, task);
      }).build();
      assertArrayEquals(expected.floats(), attended(context).floats(), 1e-6f);
    }
    assertTrue(loops.get() >= kinds.length);
    assertTrue(reported.toString(), reported.stream().anyMatch(problem -> "on purpose".equals(problem.getMessage())));
  }

  @Test
  public void linesOfTheLog() {
    ConcurrentLinkedQueue<String> lines = new ConcurrentLinkedQueue<>();
    ConcurrentLinkedQueue<Throwable> reported = new ConcurrentLinkedQueue<>();
    Thread.currentThread().setUncaughtExceptionHandler((thread, problem) -> reported.add(problem));
    new Plan(Context.builder().log((level, message) -> lines.add(level + " " + message)).build(), problem()).close();
    assertTrue(lines.toString(), lines.stream().anyMatch(line -> line.startsWith(LOG_INFO + " libthink " + Think.versionString() + ": cpu, ")));
    assertTrue(lines.toString(), lines.stream().anyMatch(line -> line.startsWith(LOG_DEBUG + " libthink: plan for 4 query heads")));
    IllegalStateException thrown = new IllegalStateException("on purpose");
    Context.builder().log((level, message) -> { throw thrown; }).build().close();
    assertTrue(reported.contains(thrown));
  }

  @Test
  public void otherThreadsGoOnMeanwhile() throws InterruptedException {
    CountDownLatch entered = new CountDownLatch(1), other = new CountDownLatch(1);
    Context context = Context.builder().threads(2).parallelFor((count, task) -> {
      entered.countDown();
      try {
        assertTrue(other.await(10, TimeUnit.SECONDS));
      } catch (InterruptedException problem) {
        throw new AssertionError(problem);
      }
      for (long i = 0; i < count; ++i) task.accept(i);
    }).build();
    Thread thread = start(false, () -> attended(context));
    assertTrue(entered.await(10, TimeUnit.SECONDS));
    other.countDown();
    thread.join(10_000);
    assertFalse(thread.isAlive());
  }
}
