package org.libthink;

import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.function.Consumer;

/**
 * One attention shape on one context, and every stage on the caller's own memory. Immutable: any number of threads may call one plan at the same time.
 *
 * <p>Arguments are those of the C functions, in their order, and may be null where they may be NULL there. Where `launch` is null, a plan on the CPU uses a
 * workspace of its own, one for each call that runs at the same time.
 */
public final class Plan implements AutoCloseable {
  final Handle handle;
  private final boolean onCpu;
  private final int queryHeads;
  private final int kvHeads;
  private final int keyChannels;
  private final int valueChannels;
  private final int outputDtype;
  private final ConcurrentHashMap<Integer, ConcurrentLinkedQueue<Launch>> idle = new ConcurrentHashMap<>();

  public Plan(Context context, Problem problem) {
    Handle parent = context.handle;
    handle = Handle.of(this, parent, made -> Native.think_plan_create(parent, problem, made), NativeJNI::think_plan_destroy);
    onCpu = context.device == 0 || context.device == Constants.DEVICE_CPU;
    queryHeads = problem.queryHeads();
    kvHeads = problem.kvHeads();
    keyChannels = problem.keyChannels();
    valueChannels = problem.valueChannels() == 0 ? keyChannels : problem.valueChannels();
    int queryDtype = problem.queryDtype() == 0 ? Constants.F32 : problem.queryDtype();
    outputDtype = problem.outputDtype() == 0 ? queryDtype : problem.outputDtype();
  }

  public int queryHeads() { return queryHeads; }

  public int kvHeads() { return kvHeads; }

  public int keyChannels() { return keyChannels; }

  public int valueChannels() { return valueChannels; }

  public int outputDtype() { return outputDtype; }

  public boolean isClosed() { return handle.isClosed(); }

  /** Gives it up when the calls that use it have returned; twice is allowed. Caches made of it go on working. */
  @Override
  public void close() { handle.run(); }

  /** What the plan is, as JSON: the problem with its defaults, the kernel of every stage and why, workspaces, bytes moved. */
  public String describe() {
    return Think.text((memory, needed) -> Native.think_plan_describe(handle, memory, memory == null ? 0 : memory.bytes(), needed));
  }

  // ---- sizes and memory ----

  /** What one call of a stage needs: Constants.STAGE_... */
  public Size workspaceSize(int stage, Extent extent) {
    return Size.of((bytes, alignment) -> Native.think_workspace_size(handle, stage, extent, bytes, alignment));
  }

  /** A launch whose workspace, in memory of this host, serves these stages at this extent; null = the largest. */
  public Launch launch(Extent extent, int... stages) {
    long bytes = 0, alignment = 1;
    for (int stage : stages) {
      Size size = workspaceSize(stage, extent);
      bytes = Math.max(bytes, size.bytes());
      alignment = Math.max(alignment, size.alignment());
    }
    return new Launch().workspace(Memory.allocate(bytes, alignment)).workspaceBytes(bytes);
  }

  /** Calls with the launch that is given, or with one that no other call uses. After a failure that one is not used again. */
  private void run(int stage, Launch given, Consumer<Launch> call) {
    if (given != null || !onCpu) {
      call.accept(given);
      return;
    }
    ConcurrentLinkedQueue<Launch> own = idle.computeIfAbsent(stage, any -> new ConcurrentLinkedQueue<>());
    Launch launch = own.poll();
    if (launch == null) launch = launch(null, stage);
    call.accept(launch);
    own.add(launch);
  }

  public LayoutInfo layout(Format format, int pageTokens, long totalKey, long totalValue) {
    LayoutInfo info = new LayoutInfo();
    Native.think_layout(handle, format, pageTokens, totalKey, totalValue, info);
    return info;
  }

  public Size basisSize(int side, int slots) {
    return Size.of((bytes, alignment) -> Native.think_basis_size(handle, side, slots, bytes, alignment));
  }

  /** A basis in memory of its own. */
  public Basis basis(int side, int slots) { return basis(side, slots, basisSize(side, slots).allocate()); }

  /** A basis in memory of the caller's. */
  public Basis basis(int side, int slots, Memory memory) {
    Basis basis = new Basis();
    Native.think_basis_bind(handle, side, slots, memory, memory == null ? 0 : memory.bytes(), basis);
    return basis.weight(Memory.at(basis.weight(), basis.weightBytes(), memory));
  }

  public void segmentPlace(Segment segment, Batch batch, Launch launch) {
    run(Constants.STAGE_COMPACT, launch, own -> Native.think_segment_place(handle, segment, batch, own));
  }

  // ---- score ----

  public long scoreStateSize(int slots) {
    long[] bytes = new long[1];
    Native.think_score_state_size(handle, slots, bytes);
    return bytes[0];
  }

  public void scoreReset(Memory state, Batch batch, Launch launch) {
    run(Constants.STAGE_SCORE, launch, own -> Native.think_score_reset(handle, state, batch, own));
  }

  public void scoreUpdate(Tensor query, Tensor key, Batch batch, Memory state, Launch launch) {
    run(Constants.STAGE_SCORE, launch, own -> Native.think_score_update(handle, query, key, batch, state, own));
  }

  public void scoreFinish(Memory state, Batch batch, ScoreOptions options, Memory score, Launch launch) {
    run(Constants.STAGE_SCORE, launch, own -> Native.think_score_finish(handle, state, batch, options, score, own));
  }

  /** A view of the last queries inside the state. */
  public Tensor scoreWindow(Memory state, int slots) {
    Tensor query = new Tensor();
    Native.think_score_window(handle, state, slots, query);
    return query.data(Memory.at(query.data(), state.address() + state.bytes() - query.data(), state));
  }

  public void valueScore(Tensor attention, Batch batch, Memory score, Launch launch) {
    run(Constants.STAGE_SCORE, launch, own -> Native.think_value_score(handle, attention, batch, score, own));
  }

  // ---- moments, budgets, select, fit ----

  public long momentsSize(int slots) {
    long[] bytes = new long[1];
    Native.think_moments_size(handle, slots, bytes);
    return bytes[0];
  }

  public void moments(Tensor windowQuery, Segment source, Batch batch, MomentsOptions options, Memory moments, Launch launch) {
    run(Constants.STAGE_MOMENTS, launch, own -> Native.think_moments(handle, windowQuery, source, batch, options, moments, own));
  }

  public void gains(Memory moments, Batch batch, int side, Memory score, Memory gains, Memory order, Launch launch) {
    run(Constants.STAGE_MOMENTS, launch, own -> Native.think_gains(handle, moments, batch, side, score, gains, order, own));
  }

  public void budgets(Memory gains, Batch batch, int side, BudgetOptions options, Memory kept, Launch launch) {
    run(Constants.STAGE_SELECT, launch, own -> Native.think_budgets(handle, gains, batch, side, options, kept, own));
  }

  public void select(Memory score, Batch batch, SelectOptions options, Memory kept, Basis basis, Memory mask, Launch launch) {
    run(Constants.STAGE_SELECT, launch, own -> Native.think_select(handle, score, batch, options, kept, basis, mask, own));
  }

  public void fit(Memory moments, Batch batch, FitOptions options, Basis basis, Launch launch) {
    run(Constants.STAGE_FIT, launch, own -> Native.think_fit(handle, moments, batch, options, basis, own));
  }

  // ---- rows ----

  public void compact(Segment source, Segment destination, Batch batch, Launch launch) {
    run(Constants.STAGE_COMPACT, launch, own -> Native.think_compact(handle, source, destination, batch, own));
  }

  public void evict(Tensor windowQuery, Segment source, Batch batch, EvictOptions options, Memory budget, Memory score, Memory kept, Memory lengths,
      Launch launch) {
    run(Constants.STAGE_EVICT, launch, own -> Native.think_evict(handle, windowQuery, source, batch, options, budget, score, kept, lengths, own));
  }

  public void evictMove(Segment source, Segment destination, Batch batch, Memory kept, long keptStride, Memory score, long scoreStride, Launch launch) {
    Native.think_evict_move(handle, source, destination, batch, kept, keptStride, score, scoreStride, launch);
  }

  // ---- attention ----

  /** Attention over the rows of all segments together. */
  public void attend(Tensor query, List<Segment> segments, Tensor output) { attend(query, null, segments, null, output, null, null); }

  /** Attention over the rows of all segments together. */
  public void attend(Tensor query, Batch batch, List<Segment> segments, Memory sinkLogit, Tensor output, Memory lse, Launch launch) {
    Tensors.written(output);
    run(Constants.STAGE_ATTEND, launch, own -> Native.think_attend(handle, query, batch, segments, sinkLogit, output, lse, own));
  }

  /** Merges attention over disjoint sets of rows. */
  public void merge(List<Tensor> outputs, List<Memory> lses, Tensor output, Memory lse, Launch launch) {
    Parts parts = new Parts(outputs, lses);
    Tensors.written(output);
    run(Constants.STAGE_ATTEND, launch, own -> Native.think_merge(handle, parts, output, lse, own));
  }

  // ---- all of the middle in one call ----

  public PruneResult prunePreview(Format format, long tokens, PruneOptions options) {
    PruneResult result = new PruneResult();
    Native.think_prune_preview(handle, format, tokens, options, result);
    return result;
  }

  /** Scores are finished, channels chosen, and rows moved; `mask` receives the kept key channels. */
  public void prune(Memory scoreState, Segment source, Segment destination, Batch batch, PruneOptions options, Memory mask, Launch launch) {
    run(Constants.STAGE_PRUNE, launch, own -> Native.think_prune(handle, scoreState, source, destination, batch, options, mask, own));
  }
}
