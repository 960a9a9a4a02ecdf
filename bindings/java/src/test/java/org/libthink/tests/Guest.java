package org.libthink.tests;

import static org.libthink.Constants.*;
import static org.libthink.tests.Data.*;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.libthink.*;
import org.libthink.tests.Data.*;

/** A program for a virtual machine that starts no threads by itself: what the library leaves alone in it. The argument is manners.c, compiled. */
final class Guest {
  private Guest() {}

  /** Rounding, subnormals, locale, folder, umask, environment, handlers of signals. */
  static native String manners();

  /** A host that has a context of a device current in this thread; or why there is none. */
  private static native String openDevice();

  private static native long deviceMemory(long bytes);

  private static native boolean deviceUnchanged();

  private static native void closeDevice();

  /** Signals as the kernel has them. */
  private static List<String> signals() throws IOException {
    long ofLibc = 3L << 31; // 32 and 33: the C library's own
    return Files.readAllLines(Path.of("/proc/thread-self/status")).stream().filter(line -> line.matches("Sig(Blk|Ign|Cgt):.*"))
        .map(line -> line.substring(0, 7) + Long.toHexString(Long.parseUnsignedLong(line.substring(7).trim(), 16) & ~ofLibc)).toList();
  }

  private static Set<String> threads() throws IOException {
    try (Stream<Path> tasks = Files.list(Path.of("/proc/self/task"))) {
      return tasks.map(task -> {
        try {
          return task.getFileName() + " " + Files.readString(task.resolve("comm")).trim();
        } catch (IOException gone) {
          return "";
        }
      }).collect(Collectors.toCollection(TreeSet::new));
    }
  }

  private static void expect(Object expected, Object found) {
    if (!expected.equals(found)) throw new AssertionError("expected " + expected + ", found " + found);
  }

  private static void work(Plan plan) {
    try (Cache cache = new Cache(plan)) {
      fill(cache, 0, 256, 1);
      cache.prune(0);
      Layer layer = fill(cache, 0, 1, 500);
      cache.attend(0, layer.query().tensor(), Rows.zeros(HQ, 1, D).tensor());
    }
  }

  private static void unchanged(String when) {
    if (!deviceUnchanged()) throw new AssertionError(when + " changed the current context of the device");
  }

  private static Memory memory(long bytes) { return Memory.at(deviceMemory(bytes + 1), bytes); }

  /** What the thread has current of a device, where there is one: says so, or why this was left out. */
  private static String onADevice() {
    String leftOut = "left out: the current context of a device: ", missing = openDevice();
    if (missing != null) return leftOut + missing;
    Context made;
    try {
      made = Context.builder().device(DEVICE_CUDA, 0).build();
    } catch (ThinkException none) {
      unchanged("a context that there is not");
      closeDevice();
      if (none.code() != E_UNSUPPORTED) throw none;
      return leftOut + none.getMessage();
    }
    unchanged("a context");
    try (Context context = made; Plan plan = new Plan(context, new Problem().queryHeads(HQ).kvHeads(HKV).keyChannels(D).maxTokens(512))) {
      unchanged("a plan");
      long bytes = plan.workspaceSize(STAGE_SCORE, null).bytes();
      Launch launch = new Launch().workspace(memory(bytes)).workspaceBytes(bytes);
      plan.scoreReset(memory(plan.scoreStateSize(1)), null, launch);
      unchanged("work on the device");
      try {
        plan.scoreReset(null, null, launch);
        throw new AssertionError("work without memory was done");
      } catch (ThinkException refused) {
        unchanged("an error on the device");
      }
      try (Context host = new Context(); Plan own = new Plan(host, problem())) {
        work(own);
      }
      unchanged("work beside the device");
    }
    unchanged("everything on the device");
    closeDevice();
    return "the current context of the device is as it was";
  }

  public static void main(String[] arguments) throws IOException {
    System.load(arguments[0]);
    Memory.class.getName();
    java.nio.ByteBuffer.allocateDirect(8);
    threads(); // what this program does itself has been done before
    List<String> signals = signals();
    String manners = manners();
    Set<String> before = threads();

    Think.version();
    expect(before, threads()); // loading starts none
    try (Context context = new Context(); Plan plan = new Plan(context, problem())) {
      work(plan);
      expect(signals, signals());
      expect(manners, manners());
      Set<String> more = threads();
      more.removeAll(before);
      expect(List.of("Cleaner-0"), more.stream().map(thread -> thread.split(" ", 2)[1]).toList()); // Java's own, one for all
    }
    Set<String> usual = threads();
    try (Context context = Context.builder().threads(3).build(); Plan plan = new Plan(context, problem())) {
      work(plan);
      expect(usual.size() + 2, threads().size()); // those that were asked for
    }
    expect(usual, threads());
    expect(signals, signals());
    expect(manners, manners());
    System.out.println(onADevice()); // whose driver has threads of its own
    System.out.println("unchanged");
  }
}
