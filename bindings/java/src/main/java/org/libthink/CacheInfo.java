// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** What a cache, or one sequence of it, holds. Bytes are of all layers. */
public final class CacheInfo extends Struct {
  static final int SIZE = 104;

  /** With what the library's init function says. */
  public CacheInfo() {
    super(SIZE, 0);
    Native.think_cache_info_init(this, SIZE);
  }

  CacheInfo(Memory memory) { super(memory, 0); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public CacheInfo flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** rows that the sequence holds; of the cache: of all sequences, forks counted each */
  public long tokens() { return bytes.getLong(8); }

  public CacheInfo tokens(long value) {
    bytes.putLong(8, value);
    return this;
  }

  /** of them in compact runs */
  public long compactTokens() { return bytes.getLong(16); }

  public CacheInfo compactTokens(long value) {
    bytes.putLong(16, value);
    return this;
  }

  /** what the tokens, evicted ones too, would take as dense rows of cache_dtype, without any slack */
  public long denseBytes() { return bytes.getLong(24); }

  public CacheInfo denseBytes(long value) {
    bytes.putLong(24, value);
    return this;
  }

  /** pages that hold rows, whole; of the cache: shared ones once */
  public long pageBytes() { return bytes.getLong(32); }

  public CacheInfo pageBytes(long value) {
    bytes.putLong(32, value);
    return this;
  }

  /** bases and head offsets; shared ones once */
  public long basisBytes() { return bytes.getLong(40); }

  public CacheInfo basisBytes(long value) {
    bytes.putLong(40, value);
    return this;
  }

  /** score states */
  public long scoreBytes() { return bytes.getLong(48); }

  public CacheInfo scoreBytes(long value) {
    bytes.putLong(48, value);
    return this;
  }

  /** of the cache: the handle, page tables and counts */
  public long tableBytes() { return bytes.getLong(56); }

  public CacheInfo tableBytes(long value) {
    bytes.putLong(56, value);
    return this;
  }

  /** of the cache: allocated for pages and bases (CUDA: and scores), but free */
  public long spareBytes() { return bytes.getLong(64); }

  public CacheInfo spareBytes(long value) {
    bytes.putLong(64, value);
    return this;
  }

  /**
   * the sum of the five; of the cache: what the context's allocator gave and has not got back (CUDA: with the slab and page-locked memory of the
   * host, through which tables reach the device)
   */
  public long allocatedBytes() { return bytes.getLong(72); }

  public CacheInfo allocatedBytes(long value) {
    bytes.putLong(72, value);
    return this;
  }

  /** of a sequence: key channels that all KV heads of a layer keep together in its last run; all of them if it has none */
  public int keyChannels() { return bytes.getInt(80); }

  public CacheInfo keyChannels(int value) {
    bytes.putInt(80, value);
    return this;
  }

  /** the same for values */
  public int valueChannels() { return bytes.getInt(84); }

  public CacheInfo valueChannels(int value) {
    bytes.putInt(84, value);
    return this;
  }

  /** of a sequence: compact runs */
  public int runs() { return bytes.getInt(88); }

  public CacheInfo runs(int value) {
    bytes.putInt(88, value);
    return this;
  }

  /** of the cache: sequences that hold tokens */
  public int sequences() { return bytes.getInt(92); }

  public CacheInfo sequences(int value) {
    bytes.putInt(92, value);
    return this;
  }

  /** that the sequence has been given and no longer holds: think_cache_evict(), think_cache_keep() */
  public long evictedTokens() { return bytes.getLong(96); }

  public CacheInfo evictedTokens(long value) {
    bytes.putLong(96, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("CacheInfo", "flags", flags(), "tokens", tokens(), "compactTokens", compactTokens(), "denseBytes", denseBytes(), "pageBytes",
        pageBytes(), "basisBytes", basisBytes(), "scoreBytes", scoreBytes(), "tableBytes", tableBytes(), "spareBytes", spareBytes(), "allocatedBytes",
        allocatedBytes(), "keyChannels", keyChannels(), "valueChannels", valueChannels(), "runs", runs(), "sequences", sequences(), "evictedTokens",
        evictedTokens());
  }
}
