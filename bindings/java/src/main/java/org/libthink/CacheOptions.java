// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** Options of think_cache_create(). */
public final class CacheOptions extends Struct {
  static final int SIZE = 96;

  /** With what the library's init function says. */
  public CacheOptions() {
    super(SIZE, 4);
    Native.think_cache_options_init(this, SIZE);
  }

  CacheOptions(Memory memory) { super(memory, 4); }

  /** THINK_CACHE_... */
  public int flags() { return bytes.getInt(4); }

  public CacheOptions flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** 0 = 1 */
  public int layers() { return bytes.getInt(8); }

  public CacheOptions layers(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** they are called 0 .. sequences - 1; 0 = the plan's max_batch */
  public int sequences() { return bytes.getInt(12); }

  public CacheOptions sequences(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /** THINK_FOLD_... */
  public int fold() { return bytes.getInt(16); }

  public CacheOptions fold(int value) {
    bytes.putInt(16, value);
    return this;
  }

  /** after so many folds, the next so many blocks are held back, and a new basis is fitted to them: 0 = never. Uses up a run */
  public int refit() { return bytes.getInt(20); }

  public CacheOptions refit(int value) {
    bytes.putInt(20, value);
    return this;
  }

  /** newest dense rows, the recent ones among them, that folds leave for think_cache_trim(): 0 = max_queries, -1 = only recent ones */
  public int rollback() { return bytes.getInt(24); }

  public CacheOptions rollback(int value) {
    bytes.putInt(24, value);
    return this;
  }

  /** CPU: dense rows, of all sequences together, that have memory from the start and for ever: 0 = none. CUDA: 0 */
  public long reserveTokens() { return bytes.getLong(32); }

  public CacheOptions reserveTokens(long value) {
    bytes.putLong(32, value);
    return this;
  }

  /** CPU: the cache never has more than this, not even for a moment: 0 = no limit. CUDA: 0, the slab is the limit */
  public long limitBytes() { return bytes.getLong(40); }

  public CacheOptions limitBytes(long value) {
    bytes.putLong(40, value);
    return this;
  }

  /** mode, budgets, sinks, recent rows; NULL = defaults */
  public PruneOptions prune() { return (PruneOptions) struct(48, 0, PruneOptions.SIZE, PruneOptions::new); }

  public CacheOptions prune(PruneOptions value) {
    point(48, 0, value);
    return this;
  }

  /** of compact rows; NULL = defaults. Dense rows are the plan's cache_dtype */
  public Format format() { return (Format) struct(56, 1, Format.SIZE, Format::new); }

  public CacheOptions format(Format value) {
    point(56, 1, value);
    return this;
  }

  /**
   * [layers] in place of format, for first and last layers that need more bits, say; NULL = format in every layer. The step of the array is the first
   * element's struct_size
   */
  public long layerFormats() { return bytes.getLong(64); }

  public CacheOptions layerFormats(Format... values) {
    point(64, 2, values.length == 0 ? null : packed(values));
    return this;
  }

  /** CUDA: device memory that the cache lives in, a multiple of 256; the caller's before and after. CPU: NULL */
  public long slab() { return bytes.getLong(72); }

  public CacheOptions slab(Memory value) {
    point(72, 3, value);
    return this;
  }

  /** CUDA: of it, see think_cache_slab_size(). CPU: 0 */
  public long slabBytes() { return bytes.getLong(80); }

  public CacheOptions slabBytes(long value) {
    bytes.putLong(80, value);
    return this;
  }

  /**
   * CUDA: how many runs of all sequences together the slab has room for the bases of: 0 = one for each sequence, or THINK_CACHE_MAX_RUNS for each
   * where one can be pruned again (refit, THINK_CACHE_KEEP_SCORES). CPU: 0
   */
  public int bases() { return bytes.getInt(88); }

  public CacheOptions bases(int value) {
    bytes.putInt(88, value);
    return this;
  }

  /**
   * CUDA: how many sequences at the same time the slab has room for the scores of, from their first token to their prune: 0 = max_batch of the plan,
   * or all sequences where they keep scores for longer. CPU: 0
   */
  public int scored() { return bytes.getInt(92); }

  public CacheOptions scored(int value) {
    bytes.putInt(92, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("CacheOptions", "flags", flags(), "layers", layers(), "sequences", sequences(), "fold", fold(), "refit", refit(), "rollback",
        rollback(), "reserveTokens", reserveTokens(), "limitBytes", limitBytes(), "prune", prune(), "format", format(), "layerFormats",
        layerFormats(), "slab", slab(), "slabBytes", slabBytes(), "bases", bases(), "scored", scored());
  }
}
