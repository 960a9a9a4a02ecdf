package org.libthink.tests;

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
    System.out.println("unchanged");
  }
}
