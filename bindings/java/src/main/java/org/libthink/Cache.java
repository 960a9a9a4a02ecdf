package org.libthink;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.List;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;
import java.util.stream.IntStream;

/**
 * A managed cache: all layers of many sequences in pages that the library allocates and counts. For every engine step step() once, then for every layer
 * append() and attend(); after the prefill prune(); at the end drop(). Calls from several threads wait for each other. What it needs of its plan lives as long.
 *
 * <p>Where a launch may be given and is not, the cache uses a workspace of its own.
 */
public final class Cache implements AutoCloseable {
  private final Handle handle;
  private final Plan plan;
  private final ReentrantLock oneAtATime = new ReentrantLock();
  private boolean busy;
  private Launch own;
  private volatile long changes;

  /** With the defaults. */
  public Cache(Plan plan) { this(plan, null); }

  public Cache(Plan plan, CacheOptions options) {
    handle = Handle.of(this, plan.handle, made -> Native.think_cache_create(plan.handle, options, made), NativeJNI::think_cache_destroy);
    this.plan = plan;
  }

  /** Bytes of the slab of a cache of a CUDA plan that has room for so many rows at the same time. */
  public static long slabSize(Plan plan, CacheOptions options, long denseTokens, long compactTokens) {
    long[] bytes = new long[1];
    Native.think_cache_slab_size(plan.handle, options, denseTokens, compactTokens, bytes);
    return bytes[0];
  }

  public boolean isClosed() { return handle.isClosed(); }

  /** Gives it up when a call that uses it has returned; twice is allowed. */
  @Override
  public void close() { handle.run(); }

  private void locked(Runnable call) {
    oneAtATime.lock();
    try {
      if (busy) throw new IllegalStateException("a stream or hook may not use the cache that calls it");
      busy = true;
      try {
        call.run();
      } finally {
        busy = false;
      }
    } finally {
      oneAtATime.unlock();
    }
  }

  private void run(Launch given, Consumer<Launch> call) { locked(() -> call.accept(launch(given))); }

  /** A call after which segments that were lent are no more. */
  private void change(Runnable call) {
    locked(() -> {
      ++changes;
      call.run();
    });
  }

  private void change(Launch given, Consumer<Launch> call) { change(() -> call.accept(launch(given))); }

  private Launch launch(Launch given) {
    if (given != null) return given;
    if (own == null) {
      Size size = workspaceSize();
      own = new Launch().workspace(size.allocate()).workspaceBytes(size.bytes());
    }
    return own;
  }

  /** What serves every call. */
  public Size workspaceSize() { return Size.of((bytes, alignment) -> Native.think_cache_workspace_size(handle, bytes, alignment)); }

  /** Begins an engine step: which sequences get how many new tokens. */
  public void step(int[] sequences, int[] newTokens) { step(sequences, newTokens, null); }

  public void step(int[] sequences, int[] newTokens, Launch launch) {
    if (sequences.length != newTokens.length)
      throw new IllegalArgumentException(sequences.length + " sequences, but " + newTokens.length + " numbers of new tokens");
    change(launch, with -> Native.think_cache_step(handle, sequences, newTokens, sequences.length, with));
  }

  /** Stores the new keys and values of one layer; `query` may be null where no sequence keeps scores. */
  public void append(int layer, Tensor query, Tensor key, Tensor value) { append(layer, query, key, value, null); }

  public void append(int layer, Tensor query, Tensor key, Tensor value, Launch launch) {
    change(launch, with -> Native.think_cache_append(handle, layer, query, key, value, with));
  }

  /** Attention of the step's new tokens over everything that their sequences hold. */
  public void attend(int layer, Tensor query, Tensor output) { attend(layer, query, null, output, null, null); }

  public void attend(int layer, Tensor query, Memory sinkLogit, Tensor output, Memory lse, Launch launch) {
    Tensors.written(output);
    run(launch, with -> Native.think_cache_attend(handle, layer, query, sinkLogit, output, lse, with));
  }

  public void prune(int... sequences) { prune(sequences, null); }

  public void prune(int[] sequences, Launch launch) { change(launch, with -> Native.think_cache_prune(handle, sequences, sequences.length, with)); }

  /** Every KV head keeps options.budget() of its dense rows, in all layers, as Plan.evict() would choose them. Comes before prune(). */
  public void evict(int[] sequences, EvictOptions options, Tensor windowQuery, Memory score, Launch launch) {
    change(launch, with -> Native.think_cache_evict(handle, sequences, sequences.length, options, windowQuery, score, with));
  }

  /** Evicts by lists of the caller's: int32 [layers][kv_heads][rows], dense rows in ascending order. */
  public void keep(int sequence, Memory kept, int rows) { change(() -> Native.think_cache_keep(handle, sequence, kept, rows)); }

  /** What a sequence holds, or the whole cache (-1). */
  public CacheInfo usage(int sequence) {
    CacheInfo info = new CacheInfo();
    locked(() -> Native.think_cache_usage(handle, sequence, info));
    return info;
  }

  private interface Segments {
    void borrow(Memory array, int capacity, int[] count);
  }

  private List<Segment> segments(Segments source) {
    Memory array = Memory.allocate((long) Constants.MAX_SEGMENTS * Segment.SIZE, 8, this);
    Native.think_segment_init(segment(array, 0), Segment.SIZE);
    int[] count = new int[1];
    long[] now = new long[1];
    locked(() -> {
      source.borrow(array, Constants.MAX_SEGMENTS, count);
      now[0] = changes;
    });
    List<Segment> lent = IntStream.range(0, count[0]).mapToObj(i -> segment(array, i)).toList();
    for (Segment segment : lent) segment.lentWhile(() -> changes == now[0] && !isClosed());
    return lent;
  }

  private static Segment segment(Memory array, int place) {
    return new Segment(Memory.at(array.address() + (long) place * Segment.SIZE, Segment.SIZE, array));
  }

  /** The segments that attend() works on. They point into the cache; after the next call that changes it they are refused. */
  public List<Segment> segments(int layer) { return segments((array, capacity, count) -> Native.think_cache_segments(handle, layer, array, capacity, count)); }

  /** The same of one sequence, of a step or not: a batch of one, compact runs from the oldest on, then dense rows. */
  public List<Segment> sequenceSegments(int sequence, int layer) {
    return segments((array, capacity, count) -> Native.think_cache_sequence_segments(handle, sequence, layer, array, capacity, count));
  }

  /** Rows at full width: `key` and `value` receive [1][kv_heads][count][channels]; one of them may be null. */
  public void exportDense(int sequence, int layer, long first, long count, Tensor key, Tensor value, Launch launch) {
    Tensors.written(key);
    Tensors.written(value);
    run(launch, with -> Native.think_cache_export_dense(handle, sequence, layer, first, count, key, value, with));
  }

  /** CUDA: what a graph that holds append() and attend() of every layer of this step depends on. */
  public long graphId() {
    long[] id = new long[1];
    locked(() -> Native.think_cache_graph_id(handle, id));
    return id[0];
  }

  /** CUDA: a graph of that number has been launched for this step. */
  public void replayed(long graphId) { change(() -> Native.think_cache_replayed(handle, graphId)); }

  /** Forgets all but the first tokens of a sequence. */
  public void trim(int sequence, long tokens) { change(() -> Native.think_cache_trim(handle, sequence, tokens)); }

  public void fork(int source, int destination) { change(() -> Native.think_cache_fork(handle, source, destination)); }

  public void drop(int sequence) { change(() -> Native.think_cache_drop(handle, sequence)); }

  /** Drops all sequences. */
  public void reset() { change(() -> Native.think_cache_reset(handle)); }

  public long saveSize(int sequence) {
    long[] bytes = new long[1];
    locked(() -> Native.think_cache_save_size(handle, sequence, bytes));
    return bytes[0];
  }

  /** Writes a sequence, which a cache of the same kind can load. What the stream throws comes out. */
  public void save(int sequence, OutputStream out) throws IOException { locked(() -> Native.think_cache_save(handle, sequence, new Stream(out))); }

  /** Reads a sequence, from a stream that should be buffered. What the stream throws comes out. */
  public void load(int sequence, InputStream in) throws IOException { change(() -> Native.think_cache_load(handle, sequence, new Stream(in))); }

  /** The plan it was made of. */
  public Plan plan() { return plan; }
}
