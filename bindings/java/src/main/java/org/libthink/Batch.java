// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/**
 * Which rows of the tensors of one call are real, and where the sequences keep their state. NULL instead of a batch: every row is real, sequence b
 * uses slot b. Rectangular: sequence b is batch row b, its first lengths[b] tokens are real. Packed: all sequences lie one after the other in batch
 * row 0, and sequence b owns tokens row_start[b] .. row_start[b + 1]. Padding never enters a statistic and is never written.
 */
public final class Batch extends Struct {
  static final int SIZE = 40;

  /** With what the library's init function says. */
  public Batch() {
    super(SIZE, 3);
    Native.think_batch_init(this, SIZE);
  }

  Batch(Memory memory) { super(memory, 3); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public Batch flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** sequences, at least 1 and at most the plan's max_batch */
  public int count() { return bytes.getInt(8); }

  public Batch count(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** [count] valid tokens of each sequence (rectangular); NULL = all */
  public long lengths() { return bytes.getLong(16); }

  public Batch lengths(Memory value) {
    point(16, 0, value);
    return this;
  }

  /** The same with a copy of these numbers. */
  public Batch lengths(int... values) { return lengths(Memory.of(values)); }

  /** [count + 1] packed rows, row_start[0] = 0, ascending; NULL = rectangular. Not together with lengths */
  public long rowStart() { return bytes.getLong(24); }

  public Batch rowStart(Memory value) {
    point(24, 1, value);
    return this;
  }

  /** The same with a copy of these numbers. */
  public Batch rowStart(int... values) { return rowStart(Memory.of(values)); }

  /** [count] slot of each sequence in score states, moments and bases; NULL = 0, 1, 2, ... */
  public long slot() { return bytes.getLong(32); }

  public Batch slot(Memory value) {
    point(32, 2, value);
    return this;
  }

  /** The same with a copy of these numbers. */
  public Batch slot(int... values) { return slot(Memory.of(values)); }

  @Override
  public String toString() {
    return shown("Batch", "flags", flags(), "count", count(), "lengths", lengths(), "rowStart", rowStart(), "slot", slot());
  }
}
