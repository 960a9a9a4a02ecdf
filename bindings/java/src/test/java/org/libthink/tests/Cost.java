package org.libthink.tests;

import static org.libthink.tests.Data.*;

import java.util.List;
import org.libthink.*;
import org.libthink.tests.Data.*;

/** A program that prints one line: what a call costs, trivial and with a handle, a struct and an error record, and one attend over 1,024 tokens. */
final class Cost {
  private Cost() {}

  /** The best of some runs, in ns per call. */
  private static double measure(int count, Runnable call) {
    double best = Double.MAX_VALUE;
    for (int run = 0; run < 10; ++run) {
      long begin = System.nanoTime();
      for (int i = 0; i < count; ++i) call.run();
      best = Math.min(best, (double) (System.nanoTime() - begin) / count);
    }
    return best;
  }

  public static void main(String[] arguments) {
    Plan plan = new Plan(new Context(), new Problem().queryHeads(8).kvHeads(2).keyChannels(128).maxTokens(1024));
    Rows query = Rows.of(1, 8, 1, 128, 1);
    Memory rows = Memory.allocate(2L * 2 * 1024 * 128);
    Segment segment = new Segment().keyLayout(Constants.ROWS).valueLayout(Constants.ROWS).keyDtype(Constants.F16).valueDtype(Constants.F16).key(rows)
        .value(rows).keyStride(0, 2L * 1024 * 128, 2L * 128).valueStride(0, 2L * 1024 * 128, 2L * 128).lengths(1024);
    Tensor in = query.tensor(), out = Rows.zeros(8, 1, 128).tensor();
    List<Segment> segments = List.of(segment);
    double trivial = measure(2_000_000, Think::version), fallible = measure(500_000, () -> plan.scoreStateSize(1));
    double attend = measure(300, () -> plan.attend(in, segments, out));
    System.out.printf("Java %s: a trivial call %.0f ns, a fallible one on a plan %.0f ns, attend over 1,024 tokens %.0f us (its call is %.2f %% of that)%n",
        Runtime.version().feature(), trivial, fallible, attend / 1000, 100 * fallible / attend);
  }
}
