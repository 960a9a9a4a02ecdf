// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/**
 * The size of a call, for think_workspace_size(). On a CUDA plan lengths are not read by the host, which takes them for as large as they can be:
 * `queries` and the new tokens of the score are then the rows of the tensors (packed rows: all of them together), up to max_queries, and `tokens` the
 * room that the segments tell (pages_stride * page_tokens, or page_tokens), up to max_tokens. Ask for as much. think_attend() on packed rows there
 * works in proportion to all rows together and the batch, not to batch * queries: say in `rows` how many the query tensor has. Without it the size is
 * that of a batch in which every sequence has `queries` rows, which serves as well but may be many times as large.
 */
public final class Extent extends Struct {
  static final int SIZE = 40;

  /** With what the library's init function says. */
  public Extent() {
    super(SIZE, 0);
    Native.think_extent_init(this, SIZE);
  }

  Extent(Memory memory) { super(memory, 0); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public Extent flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** sequences: 0 = the plan's max_batch */
  public int batch() { return bytes.getInt(8); }

  public Extent batch(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** new queries of one sequence, at most: 0 = the plan's max_queries */
  public int queries() { return bytes.getInt(12); }

  public Extent queries(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /** segments of think_attend(): 0 = 4 */
  public int segments() { return bytes.getInt(16); }

  public Extent segments(int value) {
    bytes.putInt(16, value);
    return this;
  }

  /** cached tokens of one sequence, at most: 0 = the plan's max_tokens */
  public long tokens() { return bytes.getLong(24); }

  public Extent tokens(long value) {
    bytes.putLong(24, value);
    return this;
  }

  /**
   * new queries of all sequences together, where they are packed (row_start): 0 = batch * queries; at most max_batch * max_queries of the plan.
   * &#64;since 0.11
   */
  public long rows() { return bytes.getLong(32); }

  public Extent rows(long value) {
    bytes.putLong(32, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("Extent", "flags", flags(), "batch", batch(), "queries", queries(), "segments", segments(), "tokens", tokens(), "rows", rows());
  }
}
