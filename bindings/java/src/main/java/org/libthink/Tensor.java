// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/**
 * A view of rows that belong to the caller, in the order (batch, head, token, channel). Layouts such as BSHD and BHSD are just strides. The channel
 * stride must be 1; the other strides are free (in elements), also zero or negative. A query tensor has the plan's query heads on axis 1, key and
 * value tensors its KV heads. `data` is memory of the plan's device, aligned to its element.
 */
public final class Tensor extends Struct {
  static final int SIZE = 88;

  /** With what the library's init function says. */
  public Tensor() {
    super(SIZE, 1);
    Native.think_tensor_init(this, SIZE);
  }

  Tensor(Memory memory) { super(memory, 1); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public Tensor flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** first element */
  public long data() { return bytes.getLong(8); }

  public Tensor data(Memory value) {
    point(8, 0, value);
    return this;
  }

  /** dtype */
  public int dtype() { return bytes.getInt(16); }

  public Tensor dtype(int value) {
    bytes.putInt(16, value);
    return this;
  }

  /** batch, heads, tokens, channels */
  public long[] extent() {
    return new long[] {bytes.getLong(24), bytes.getLong(32), bytes.getLong(40), bytes.getLong(48)};
  }

  public Tensor extent(long... values) {
    expect("extent", 4, values.length);
    for (int i = 0; i < 4; ++i) bytes.putLong(24 + 8 * i, values[i]);
    return this;
  }

  /** elements; stride[3] must be 1 */
  public long[] stride() {
    return new long[] {bytes.getLong(56), bytes.getLong(64), bytes.getLong(72), bytes.getLong(80)};
  }

  public Tensor stride(long... values) {
    expect("stride", 4, values.length);
    for (int i = 0; i < 4; ++i) bytes.putLong(56 + 8 * i, values[i]);
    return this;
  }

  @Override
  public String toString() {
    return shown("Tensor", "flags", flags(), "data", data(), "dtype", dtype(), "extent", extent(), "stride", stride());
  }
}
