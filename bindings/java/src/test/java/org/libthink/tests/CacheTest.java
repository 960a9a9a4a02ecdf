package org.libthink.tests;

import static org.junit.Assert.*;
import static org.libthink.Constants.*;
import static org.libthink.tests.Data.*;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.FilterInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.Test;
import org.libthink.*;
import org.libthink.tests.Data.*;

/** The managed cache: attention over it, its life, and files. */
public class CacheTest {
  private final Plan plan = plan();

  private static Cache cache(Plan plan, int sequences) { return new Cache(plan, new CacheOptions().sequences(sequences)); }

  @Test
  public void attentionOverDenseRows() {
    Cache cache = cache(plan, 2);
    Layer layer = fill(cache, 0, 50, 1);
    Rows output = Rows.zeros(HQ, 50, D), again = Rows.zeros(HQ, 50, D), lse = Rows.zeros(HQ, 50, 1);
    cache.attend(0, layer.query().tensor(), null, output.tensor(), lse.memory(), null);
    assertTrue(difference(attention(layer.query().doubles(), layer.key().doubles(), layer.value().doubles(), 50), output, lse.memory()) < 1e-5);
    List<Segment> segments = cache.segments(0);
    assertEquals(SEGMENT_CAUSAL, segments.get(segments.size() - 1).flags());
    plan.attend(layer.query().tensor(), segments, again.tensor());
    assertArrayEquals(output.floats(), again.floats(), 0);
    assertTrue(cache.workspaceSize().bytes() > 0);
    assertSame(plan, cache.plan());
  }

  @Test
  public void prunedRowsExportAsAttentionSeesThem() {
    Cache cache = new Cache(plan, new CacheOptions().layers(1).sequences(1).prune(new PruneOptions().keyKept(8).denseLimit(-1)));
    fill(cache, 0, 200, 1);
    cache.prune(0);
    CacheInfo usage = cache.usage(0);
    assertEquals(List.of(200L, 160L, 1), List.of(usage.tokens(), usage.compactTokens(), usage.runs()));
    assertTrue(usage.pageBytes() < usage.denseBytes());
    assertEquals(1, cache.usage(-1).sequences());
    Layer layer = fill(cache, 0, 1, 500);
    Rows output = Rows.zeros(HQ, 1, D), key = Rows.zeros(HKV, 201, D), value = Rows.zeros(HKV, 201, D);
    cache.attend(0, layer.query().tensor(), output.tensor());
    cache.exportDense(0, 0, 0, 201, key.tensor(), value.tensor(), null);
    assertTrue(difference(attention(layer.query().doubles(), key.doubles(), value.doubles(), 1), output, null) < 1e-4);
    Segment compact = cache.sequenceSegments(0, 0).get(0);
    Basis basis = compact.keyBasis();
    assertEquals(List.of(D, 16), List.of(basis.channels(), IntStream.range(0, HKV).map(Memory.at(basis.kept(), 4 * HKV).ints()::get).sum()));
  }

  @Test
  public void formatsOfLayers() {
    CacheOptions options = new CacheOptions().layers(2).sequences(1).prune(new PruneOptions().keyKept(8).denseLimit(-1));
    Format codes = new Format().keyDtype(U8);
    options.layerFormats(new Format(), codes);
    Cache cache = new Cache(plan, options);
    cache.step(new int[] {0}, new int[] {100});
    for (int i = 0; i < 2; ++i) {
      Layer layer = Layer.of(i, 100);
      cache.append(i, layer.query().tensor(), layer.key().tensor(), layer.value().tensor());
    }
    cache.prune(new int[] {0}, null);
    assertEquals(F32, cache.sequenceSegments(0, 0).get(0).keyDtype());
    assertEquals(U8, cache.sequenceSegments(0, 1).get(0).keyDtype());
  }

  @Test
  public void whatIsForCuda() {
    Cache cache = cache(plan, 2);
    for (Runnable call : List.<Runnable>of(() -> Cache.slabSize(plan, null, 64, 64), cache::graphId, () -> cache.replayed(1))) {
      ThinkException refused = assertThrows(ThinkException.class, call::run);
      assertTrue(refused.getMessage(), refused.getMessage().contains("CUDA"));
    }
  }

  @Test
  public void eviction() {
    Cache cache = cache(plan, 2);
    Layer layer = fill(cache, 0, 100, 1);
    cache.evict(new int[] {0}, new EvictOptions().method(EVICT_RECENT).sinks(4).budget(40), null, null, null);
    assertEquals(List.of(40L, 60L), List.of(cache.usage(0).tokens(), cache.usage(0).evictedTokens()));
    int[] lists = IntStream.range(0, HKV * 20).map(i -> i % 20 * 2).toArray();
    cache.keep(0, Memory.of(lists), 20);
    Rows key = Rows.zeros(HKV, 20, D), value = Rows.zeros(HKV, 20, D), output = Rows.zeros(HQ, 1, D);
    cache.exportDense(0, 0, 0, 20, key.tensor(), value.tensor(), null);
    for (int i = 0; i < 20; ++i) assertEquals(layer.key().at(1, i < 2 ? 2 * i : 60 + 2 * i, 3), key.at(1, i, 3), 0);
    plan.attend(layer.query().last(1), cache.sequenceSegments(0, 0), output.tensor());
    double[][][] expected = attention(layer.query().doubles(), key.doubles(), value.doubles(), 1);
    assertTrue(difference(expected, output, null) < 1e-5);
    ThinkException error = assertThrows(ThinkException.class, () -> cache.evict(new int[] {0}, new EvictOptions().method(EVICT_RECENT), null, null, null));
    assertTrue(error.getMessage(), error.getMessage().contains("budget"));
  }

  @Test
  public void lentSegmentsAreRefusedWhenTheCacheHasChanged() {
    PruneOptions prune = new PruneOptions().keyKept(8).denseLimit(-1);
    Cache cache = new Cache(plan, new CacheOptions().sequences(2).flags(CACHE_KEEP_SCORES).prune(prune));
    Layer layer = fill(cache, 0, 100, 1);
    cache.prune(0);
    Rows output = Rows.zeros(HQ, 1, D);
    List<Runnable> changing = List.of(() -> cache.fork(0, 1), () -> cache.drop(1), () -> cache.trim(0, 99), () -> cache.prune(0),
        () -> fill(cache, 0, 1, 2), cache::reset);
    for (Runnable change : changing) {
      List<Segment> segments = cache.sequenceSegments(0, 0);
      Basis basis = segments.get(0).keyBasis();
      cache.usage(0);
      plan.attend(layer.query().last(1), segments, output.tensor());
      change.run();
      assertThrows(IllegalStateException.class, () -> plan.attend(layer.query().last(1), segments, output.tensor()));
      assertThrows(IllegalStateException.class, () -> new Segment().keyBasis(basis));
    }
    fill(cache, 0, 10, 1);
    List<Segment> segments = cache.sequenceSegments(0, 0);
    cache.close();
    IllegalStateException problem = assertThrows(IllegalStateException.class, () -> plan.attend(layer.query().last(1), segments, output.tensor()));
    assertEquals("the cache has changed since it lent this", problem.getMessage());
  }

  private static List<Long> tokens(Cache cache) { return IntStream.range(0, 3).mapToObj(i -> cache.usage(i).tokens()).toList(); }

  @Test
  public void life() {
    Cache cache = cache(plan, 3);
    fill(cache, 0, 40, 1);
    cache.fork(0, 1);
    cache.trim(1, 30);
    assertEquals(List.of(40L, 30L, 0L), tokens(cache));
    cache.drop(0);
    assertEquals(List.of(0L, 30L, 0L), tokens(cache));
    cache.reset();
    assertEquals(0, cache.usage(-1).tokens());
    assertThrows(IllegalArgumentException.class, () -> cache.step(new int[] {0, 1}, new int[] {1}));
  }

  @Test
  public void files() throws IOException {
    Cache cache = cache(plan, 2);
    fill(cache, 0, 100, 1);
    cache.prune(0);
    ByteArrayOutputStream file = new ByteArrayOutputStream(), again = new ByteArrayOutputStream();
    cache.save(0, file);
    assertEquals(cache.saveSize(0), file.size());
    cache.load(1, new ByteArrayInputStream(file.toByteArray()));
    assertEquals(100, cache.usage(1).tokens());
    cache.save(1, again);
    assertArrayEquals(file.toByteArray(), again.toByteArray());
    cache.drop(1);
    ThinkException error = assertThrows(ThinkException.class, () -> cache.load(1, new ByteArrayInputStream(file.toByteArray(), 0, file.size() - 1)));
    assertEquals(E_FORMAT, error.code());
    assertEquals(0, cache.usage(1).tokens());
  }

  /** A few bytes at a time, as sockets do. */
  private static InputStream slow(byte[] bytes) {
    return new FilterInputStream(new ByteArrayInputStream(bytes)) {
      @Override
      public int read(byte[] to, int at, int length) throws IOException { return super.read(to, at, Math.min(length, 7)); }
    };
  }

  @Test
  public void whatAStreamThrowsComesOut() throws IOException {
    Cache cache = cache(plan, 2);
    fill(cache, 0, 20, 1);
    IOException gone = new IOException("the peer is gone");
    OutputStream out = new OutputStream() {
      @Override
      public void write(int one) throws IOException { throw gone; }
    };
    InputStream in = new InputStream() {
      @Override
      public int read() throws IOException { throw gone; }
    };
    assertSame(gone, assertThrows(IOException.class, () -> cache.save(0, out)));
    assertSame(gone, assertThrows(IOException.class, () -> cache.load(1, in)));
    OutputStream nosy = new OutputStream() {
      @Override
      public void write(int one) { cache.usage(0); }
    };
    IllegalStateException problem = assertThrows(IllegalStateException.class, () -> cache.save(0, nosy));
    assertEquals("a stream or hook may not use the cache that calls it", problem.getMessage());
    ByteArrayOutputStream file = new ByteArrayOutputStream();
    cache.save(0, file);
    cache.load(1, slow(file.toByteArray()));
    assertEquals(20, cache.usage(1).tokens());
  }

  @Test
  public void closed() {
    Plan brief = plan();
    Cache cache = new Cache(brief);
    brief.close();
    brief.close();
    assertTrue(brief.isClosed() && !cache.isClosed());
    IllegalStateException problem = assertThrows(IllegalStateException.class, brief::describe);
    assertEquals("this Plan is closed", problem.getMessage());
    cache.step(new int[] {0}, new int[] {1}); // the cache keeps what it needs
    cache.close();
    assertThrows(IllegalStateException.class, cache::reset);
    assertThrows(IllegalStateException.class, () -> new Cache(brief));
  }
}
