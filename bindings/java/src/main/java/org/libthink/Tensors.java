package org.libthink;

import java.nio.FloatBuffer;

/** Tensors of rows in the order (batch, head, token, channel), with the strides of rows that lie one behind the other. Others are made field by field. */
public final class Tensors {
  private Tensors() {}

  /** A view of 32-bit numbers, from the buffer's position on. */
  public static Tensor of(FloatBuffer rows, long batch, long heads, long tokens, long channels) {
    return of(Memory.of(rows), Constants.F32, batch, heads, tokens, channels);
  }

  /** A view of memory that holds elements of `dtype`. */
  public static Tensor of(Memory rows, int dtype, long batch, long heads, long tokens, long channels) {
    long bytes = bytes(dtype, batch, heads, tokens, channels);
    if (rows.bytes() < bytes) throw new IllegalArgumentException("a tensor of " + bytes + " bytes is no view of " + rows.bytes());
    return new Tensor().data(rows).dtype(dtype).extent(batch, heads, tokens, channels)
        .stride(heads * tokens * channels, tokens * channels, channels, 1);
  }

  /** Zeroed rows of its own. */
  public static Tensor allocate(int dtype, long batch, long heads, long tokens, long channels) {
    return of(Memory.allocate(bytes(dtype, batch, heads, tokens, channels)), dtype, batch, heads, tokens, channels);
  }

  /** A view of a DLTensor at this address, of DLPack 0.x or 1.x. Its memory is its owner's. */
  public static OnDevice fromDlpack(long address) {
    int[] device = new int[1];
    Tensor made = new Tensor();
    Native.think_tensor_from_dlpack(Memory.at(address, 0), device, made);
    return new OnDevice(made, device[0]);
  }

  /** A tensor, and the kind of device that its memory was said to be on: Constants.DEVICE_... */
  public record OnDevice(Tensor tensor, int device) {}

  /** The memory that the tensor was made of. */
  public static Memory memory(Tensor tensor) { return (Memory) tensor.referenceAt(0); }

  /** What the library is to write must not be read-only. */
  static Tensor written(Tensor output) {
    if (output != null) Memory.writable(memory(output));
    return output;
  }

  private static long bytes(int dtype, long batch, long heads, long tokens, long channels) {
    int size = Think.dtypeBytes(dtype);
    if (size == 0) throw new IllegalArgumentException("no type of tensors: " + Think.dtypeName(dtype));
    if (batch < 0 || heads < 0 || tokens < 0 || channels < 0) throw new IllegalArgumentException("a negative extent");
    return Math.multiplyExact(Math.multiplyExact(Math.multiplyExact(batch, heads), Math.multiplyExact(tokens, channels)), size);
  }
}
