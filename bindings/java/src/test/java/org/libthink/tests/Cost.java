package org.libthink.tests;

import static org.libthink.tests.Data.*;

import java.util.List;
import java.util.Locale;
import org.libthink.*;
import org.libthink.tests.Data.*;

/** A program that prints what a call costs: trivial, with a handle and an error record, and attention. */
final class Cost {
  private Cost() {}

  /** The best of many short runs, in ns per call: on a busy machine some of them are left alone. */
  private static double measure(int count, Runnable call) {
    double best = Double.MAX_VALUE;
    for (int run = 0; run < 200; ++run) {
      long begin = System.nanoTime();
      for (int i = 0; i < count; ++i) call.run();
      best = Math.min(best, (double) (System.nanoTime() - begin) / count);
    }
    return best;
  }

  /** Attention over so many tokens, in ns. */
  private static double attend(Plan plan, int tokens, int count) {
    Tensor in = Rows.of(1, 8, 1, 128, 1).tensor(), out = Rows.zeros(8, 1, 128).tensor();
    Rows rows = Rows.of(2, 2, tokens, 128, 1);
    List<Segment> segments = List.of(dense(rows, rows));
    return measure(count, () -> plan.attend(in, segments, out));
  }

  public static void main(String[] arguments) {
    Plan plan = new Plan(new Context(), new Problem().queryHeads(8).kvHeads(2).keyChannels(128).maxTokens(1024).cacheDtype(Constants.F32));
    double trivial = measure(100_000, Think::version), fallible = measure(20_000, () -> plan.scoreStateSize(1));
    double one = attend(plan, 1, 500), many = attend(plan, 1024, 20);
    System.out.printf(Locale.ROOT, "Java: a trivial call takes %.1f ns, attention over 1 token %.1f us, over 1024 tokens %.1f us, of which a trivial call is"
        + " %.3f %%%n", trivial, one / 1000, many / 1000, 100 * trivial / many);
    System.out.printf(Locale.ROOT, "Java %s: a call with a plan and an error record takes %.0f ns%n", Runtime.version().feature(), fallible);
  }
}
