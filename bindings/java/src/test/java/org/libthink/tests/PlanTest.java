package org.libthink.tests;

import static org.junit.Assert.*;
import static org.libthink.Constants.*;
import static org.libthink.tests.Data.*;

import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.Test;
import org.libthink.*;
import org.libthink.tests.Data.*;

/** Every stage through the classes, against the same in plain loops. */
public class PlanTest {
  private static final int T = 200;

  private final Plan plan = plan();
  private final Rows query = Rows.of(1, HQ, T, D, 1), key = Rows.of(2, HKV, T, D, 0.125f), value = Rows.of(3, HKV, T, D, 1);

  private Memory scored() {
    Memory state = Memory.allocate(plan.scoreStateSize(1));
    plan.scoreReset(state, null, null);
    plan.scoreUpdate(query.tensor(), key.tensor(), null, state, null);
    return state;
  }

  @Test
  public void aPlanSaysWhatItIs() {
    assertTrue(plan.describe().startsWith("{") && plan.describe().contains("\"query_heads\":4"));
    for (int stage = STAGE_SCORE; stage <= STAGE_EVICT; ++stage) {
      Size size = plan.workspaceSize(stage, null);
      assertTrue(size.bytes() >= 0 && (size.alignment() == 1 || size.alignment() == 64));
    }
    Size small = plan.workspaceSize(STAGE_ATTEND, new Extent().tokens(64).queries(1).batch(1));
    assertTrue(small.bytes() <= plan.workspaceSize(STAGE_ATTEND, null).bytes());
    assertEquals(D, plan.valueChannels());
    assertEquals(F32, plan.outputDtype());
    try (Context context = new Context()) {
      assertTrue(context.supports(problem()));
      assertEquals(E_ARGUMENT, assertThrows(ThinkException.class, () -> context.supports(problem().queryHeads(3))).code());
      assertEquals(1, context.query(QUERY_THREADS));
      assertEquals(E_ARGUMENT, assertThrows(ThinkException.class, () -> new Plan(context, null)).code());
    }
    assertEquals(256, Think.query(QUERY_MAX_CHANNELS));
  }

  @Test
  public void attendIsAttention() {
    Segment segment = dense(key, value, 0, T, SEGMENT_CAUSAL);
    Rows output = Rows.zeros(HQ, 5, D), again = Rows.zeros(HQ, 5, D), lse = Rows.zeros(HQ, 5, 1);
    plan.attend(query.last(5), null, List.of(segment), null, output.tensor(), lse.memory(), null);
    assertTrue(difference(attention(query.doubles(), key.doubles(), value.doubles(), 5), output, lse.memory()) < 1e-5);
    plan.attend(query.last(5), null, List.of(segment), null, again.tensor(), null, plan.launch(null, STAGE_ATTEND));
    assertArrayEquals(output.floats(), again.floats(), 0);
    ThinkException error = assertThrows(ThinkException.class,
        () -> plan.attend(query.last(5), null, List.of(segment), null, again.tensor(), null, new Launch()));
    assertEquals(E_WORKSPACE, error.code());
    error = assertThrows(ThinkException.class, () -> plan.attend(query.last(5), List.of(), again.tensor()));
    assertEquals(E_ARGUMENT, error.code());
    Segment[] many = new Segment[MAX_SEGMENTS + 1];
    Arrays.fill(many, segment);
    assertEquals(5, assertThrows(ThinkException.class, () -> plan.attend(query.last(5), List.of(many), again.tensor())).argument());
    Tensor readOnly = Tensors.of(again.memory().floats().asReadOnlyBuffer(), 1, HQ, 5, D);
    assertThrows(IllegalArgumentException.class, () -> plan.attend(query.last(5), List.of(segment), readOnly));
  }

  @Test
  public void theHalvesOfABatchHaveTheirOwnLengths() {
    Batch batch = new Batch().count(1).lengths(T);
    Rows output = Rows.zeros(HQ, T, D), whole = Rows.zeros(HQ, T, D);
    Segment segment = dense(key, value, 0, T, SEGMENT_CAUSAL);
    plan.attend(query.tensor(), batch, List.of(segment), null, output.tensor(), null, null);
    plan.attend(query.tensor(), List.of(segment), whole.tensor());
    assertArrayEquals(whole.floats(), output.floats(), 0);
    batch.lengths(T + 1);
    ThinkException error = assertThrows(ThinkException.class, () -> plan.attend(query.tensor(), batch, List.of(segment), null, output.tensor(), null, null));
    assertTrue(error.getMessage(), error.getMessage().startsWith("batch->lengths[0]: expected"));
  }

  @Test
  public void mergeOfTwoHalves() {
    Rows[] parts = {Rows.zeros(HQ, 1, D), Rows.zeros(HQ, 1, D)}, lses = {Rows.zeros(HQ, 1, 1), Rows.zeros(HQ, 1, 1)};
    for (int i = 0; i < 2; ++i)
      plan.attend(query.last(1), null, List.of(dense(key, value, i * 90, i == 0 ? 90 : T - 90, 0)), null, parts[i].tensor(), lses[i].memory(), null);
    Rows output = Rows.zeros(HQ, 1, D), lse = Rows.zeros(HQ, 1, 1);
    List<Tensor> outputs = List.of(parts[0].tensor(), parts[1].tensor());
    plan.merge(outputs, List.of(lses[0].memory(), lses[1].memory()), output.tensor(), lse.memory(), null);
    assertTrue(difference(attention(query.doubles(), key.doubles(), value.doubles(), 1), output, lse.memory()) < 1e-5);
    assertThrows(IllegalArgumentException.class, () -> plan.merge(outputs, List.of(lses[0].memory()), output.tensor(), null, null));
  }

  /** score, moments, gains, budgets, select, fit, compact, attend: what comes out is attention over the rows that the basis stands for. */
  @Test
  public void stagesOneByOne() {
    Memory state = scored(), score = Memory.allocate(4 * HKV * D);
    plan.scoreFinish(state, null, null, score, null);
    for (int head = 0; head < HKV; ++head) {
      for (int channel = 0; channel < D; ++channel) {
        double queries = 0, keys = 0;
        for (int h = 2 * head; h < 2 * head + 2; ++h) for (int t = T - 8; t < T; ++t) queries += Math.pow(query.at(h, t, channel), 2);
        for (int t = 0; t < T; ++t) keys += Math.pow(key.at(head, t, channel), 2);
        assertEquals(queries * keys, score.floats().get(head * D + channel), 1e-5 * queries * keys);
      }
    }
    Memory perHead = Memory.allocate(4 * HQ * D);
    plan.scoreFinish(state, null, new ScoreOptions().flags(SCORE_QUERY_HEADS), perHead, null);
    assertTrue(perHead.floats().get(HQ * D - 1) > 0);
    Tensor window = plan.scoreWindow(state, 1);
    assertArrayEquals(new long[] {1, HQ, 8, D}, window.extent());
    assertEquals(query.at(0, T - 8, 0), Tensors.memory(window).floats().get(0), 0);

    Memory moments = Memory.allocate(plan.momentsSize(1)), gains = Memory.allocate(4 * HKV * D), order = Memory.allocate(4 * HKV * D);
    plan.moments(window, dense(key, value, 0, T, SEGMENT_CAUSAL), null, new MomentsOptions(), moments, null);
    plan.gains(moments, null, KEYS, score, gains, order, null);
    for (int head = 0; head < HKV; ++head)
      for (int i = 1; i < D; ++i)
        assertTrue(score.floats().get(head * D + order.ints().get(head * D + i - 1)) >= score.floats().get(head * D + order.ints().get(head * D + i)));
    Memory kept = Memory.allocate(4 * HKV), mask = Memory.allocate(HKV * D);
    plan.budgets(gains, null, KEYS, new BudgetOptions().total(HKV * 8), kept, null);
    assertEquals(HKV * 8, kept.ints().get(0) + kept.ints().get(1));
    Basis basis = plan.basis(KEYS, 1);
    plan.select(score, null, new SelectOptions().side(KEYS).kept(8), kept, basis, mask, null);
    for (int head = 0; head < HKV; ++head) {
      int at = head * D;
      assertEquals(kept.ints().get(head), IntStream.range(0, D).map(i -> mask.buffer().get(at + i)).sum());
    }
    plan.fit(moments, null, new FitOptions().side(KEYS), basis, null);

    int first = 4, moved = 32 * ((T - 4 - 32) / 32);
    LayoutInfo info = plan.layout(null, 224, HKV * 8, HKV * D);
    Memory keys = Memory.allocate(info.keyPageBytes()), offsets = Memory.allocate(8 * HKV);
    Rows values = Rows.zeros(HKV, 224, D);
    Segment compact = new Segment().keyLayout(TILES).valueLayout(ROWS).pageTokens(224).keyDtype(F32).valueDtype(F32).key(keys).value(values.memory())
        .keyHeadOffset(offsets).valueStride(0, 4L * 224 * D, 4L * D).lengths(moved).keyBasis(basis);
    assertSame(basis, compact.keyBasis());
    plan.segmentPlace(compact, null, null);
    assertEquals(kept.ints().get(0) * 224L * 4, offsets.longs().get(1));
    plan.compact(dense(key, value, first, moved, 0), compact, null, null);
    Rows output = Rows.zeros(HQ, 1, D);
    plan.attend(query.last(1), List.of(dense(key, value, 0, first, 0), compact, dense(key, value, first + moved, T - first - moved, SEGMENT_CAUSAL)),
        output.tensor());
    assertTrue(difference(attention(query.doubles(), rebuilt(basis, first, moved), value.doubles(), 1), output, null) < 1e-5);
  }

  /** The keys, their dropped channels predicted in some rows. */
  private double[][][] rebuilt(Basis basis, int first, int rows) {
    double[][][] keys = key.doubles();
    for (int head = 0; head < HKV; ++head) {
      int width = Memory.at(basis.kept(), 4 * HKV).ints().get(head), padded = (width + 7) / 8 * 8;
      int[] index = new int[D];
      float[] offset = new float[D];
      Memory.at(basis.index() + 4L * head * D, 4 * D).ints().get(index);
      Memory.at(basis.offset() + 4L * head * D, 4 * D).floats().get(offset);
      long at = Memory.at(basis.weightOffset(), 8 * HKV).longs().get(head);
      assertTrue(at >= 0);
      var weight = Memory.at(basis.weight() + at, 2L * (D - width) * padded).buffer().asShortBuffer();
      for (int t = first; t < first + rows; ++t) {
        double[] row = keys[head][t], full = row.clone();
        for (int dropped = 0; dropped < D - width; ++dropped) {
          double sum = offset[width + dropped];
          for (int i = 0; i < width; ++i) sum += half(weight.get(dropped * padded + i)) * full[index[i]];
          row[index[width + dropped]] = sum;
        }
      }
    }
    return keys;
  }

  private static double half(short bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double magnitude = exponent == 0 ? fraction * 0x1p-24 : (1024 + fraction) * Math.pow(2, exponent - 25);
    return bits < 0 ? -magnitude : magnitude;
  }

  @Test
  public void pruneInOneCall() {
    PruneOptions options = new PruneOptions().keyKept(8).denseLimit(-1);
    PruneResult preview = plan.prunePreview(null, T, options);
    assertEquals(List.of(4L, 160L, HKV * 8L), List.of(preview.first(), preview.rows(), preview.keyTotal()));
    Memory keys = Memory.allocate(HKV * 8 * 160 * 4), mask = Memory.allocate(HKV * D);
    Rows values = Rows.zeros(HKV, 160, D);
    Segment compact = new Segment().keyLayout(TILES).valueLayout(ROWS).pageTokens(160).keyDtype(F32).valueDtype(F32).key(keys).value(values.memory())
        .keyStride(keys.bytes(), 0, 0).keyHeadOffset(Memory.allocate(8 * HKV)).valueStride(values.memory().bytes(), 4L * 160 * D, 4L * D)
        .keyBasis(plan.basis(KEYS, 1)).lengths(160);
    plan.prune(scored(), dense(key, value), compact, null, options, mask, null);
    assertEquals(HKV * 8, IntStream.range(0, HKV * D).map(mask.buffer()::get).sum());
    for (int head = 0; head < HKV; ++head) for (int t = 0; t < 160; ++t) assertEquals(value.at(head, 4 + t, 3), values.at(head, t, 3), 0);
  }

  @Test
  public void valueScore() {
    Rows attention = Rows.of(7, HQ, 8, D, 1);
    Memory score = Memory.allocate(4 * HKV * D);
    plan.valueScore(attention.tensor(), null, score, null);
    for (int head = 0; head < HKV; ++head) {
      for (int channel = 0; channel < D; ++channel) {
        double expected = 0;
        for (int h = 2 * head; h < 2 * head + 2; ++h) for (int t = 0; t < 8; ++t) expected += Math.pow(attention.at(h, t, channel), 2);
        assertEquals(expected, score.floats().get(head * D + channel), 1e-5 * expected);
      }
    }
  }

  @Test
  public void evictAndMove() {
    Segment source = dense(key, value, 0, T, SEGMENT_CAUSAL), destination = dense(key, value);
    Memory kept = Memory.allocate(4 * HKV * 64), lengths = Memory.allocate(4 * HKV);
    float[] before = key.floats();
    plan.evict(plan.scoreWindow(scored(), 1), source, null, new EvictOptions().method(EVICT_SNAPKV).budget(64), null, null, kept, lengths, null);
    for (int head = 0; head < HKV; ++head) {
      assertEquals(64, lengths.ints().get(head));
      for (int i = 0; i < 64; ++i) {
        if (i > 0) assertTrue(kept.ints().get(head * 64 + i) > kept.ints().get(head * 64 + i - 1));
        if (i >= 56) assertEquals(T - 64 + i, kept.ints().get(head * 64 + i));
      }
    }
    destination.lengths(lengths).lengthsStride(HKV, 1);
    plan.evictMove(source, destination, null, kept, 64, null, 0, null);
    for (int head = 0; head < HKV; ++head)
      for (int i = 0; i < 64; ++i) assertEquals(before[(head * T + kept.ints().get(head * 64 + i)) * D + 5], key.at(head, i, 5), 0);
  }
}
