// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** Options of think_cache_create(). */
public final class CacheOptions extends Struct {
  static final int SIZE = 72;

  /** With what the library's init function says. */
  public CacheOptions() {
    super(SIZE, 3);
    Native.think_cache_options_init(this, SIZE);
  }

  CacheOptions(Memory memory) { super(memory, 3); }

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

  /** dense rows, of all sequences together, that have memory from the start and for ever: 0 = none */
  public long reserveTokens() { return bytes.getLong(32); }

  public CacheOptions reserveTokens(long value) {
    bytes.putLong(32, value);
    return this;
  }

  /** the cache never has more than this, not even for a moment: 0 = no limit */
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

  @Override
  public String toString() {
    return shown("CacheOptions", "flags", flags(), "layers", layers(), "sequences", sequences(), "fold", fold(), "refit", refit(), "rollback",
        rollback(), "reserveTokens", reserveTokens(), "limitBytes", limitBytes(), "prune", prune(), "format", format(), "layerFormats",
        layerFormats());
  }
}
