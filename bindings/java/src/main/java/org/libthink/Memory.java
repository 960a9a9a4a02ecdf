package org.libthink;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.DoubleBuffer;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.nio.LongBuffer;
import java.nio.ShortBuffer;

/**
 * Memory outside of Java's heap: an address, and how many bytes there are. New and zeroed, of a direct buffer, or at an address of the caller's, on a GPU say.
 * It lives as long as this object or a struct that points to it.
 */
public final class Memory {
  private final long address;
  private final long bytes;
  private final boolean readOnly;
  private final ByteBuffer own;
  private final Object kept;

  private Memory(long address, long bytes, boolean readOnly, ByteBuffer own, Object kept) {
    this.address = address;
    this.bytes = bytes;
    this.readOnly = readOnly;
    this.own = own;
    this.kept = kept;
  }

  /** Zeroed bytes, aligned to 64. */
  public static Memory allocate(long bytes) { return allocate(bytes, 64); }

  /** Zeroed bytes at a multiple of `alignment`, a power of two. At most 2 GiB, as for every buffer of Java; larger memory comes in by its address. */
  public static Memory allocate(long bytes, long alignment) { return allocate(bytes, alignment, null); }

  static Memory allocate(long bytes, long alignment, Object kept) {
    long room = bytes + Math.max(alignment, 1);
    if (bytes < 0 || room > Integer.MAX_VALUE) throw new IllegalArgumentException("a buffer has up to 2^31 bytes, not " + bytes + ": hand over an address");
    ByteBuffer buffer = ByteBuffer.allocateDirect((int) room);
    long start = NativeJNI.address(buffer);
    int skipped = (int) (-start & Math.max(alignment, 1) - 1);
    buffer = buffer.position(skipped).limit(skipped + (int) bytes).slice().order(ByteOrder.nativeOrder());
    return new Memory(start + skipped, bytes, false, buffer, kept);
  }

  /** What is left of a direct buffer of any type: from its position to its limit. Shared, not copied. */
  public static Memory of(Buffer buffer) {
    if (!buffer.isDirect()) throw new IllegalArgumentException("a direct buffer is needed: the library cannot see Java's heap");
    int size = buffer instanceof ByteBuffer ? 1 : buffer instanceof ShortBuffer ? 2 : buffer instanceof LongBuffer || buffer instanceof DoubleBuffer ? 8 : 4;
    ByteOrder order = buffer instanceof FloatBuffer floats ? floats.order() : buffer instanceof IntBuffer ints ? ints.order()
        : buffer instanceof ShortBuffer shorts ? shorts.order() : buffer instanceof LongBuffer longs ? longs.order() : ByteOrder.nativeOrder();
    if (order != ByteOrder.nativeOrder()) throw new IllegalArgumentException("the buffer is not in the machine's byte order, ByteOrder.nativeOrder()");
    return new Memory(NativeJNI.address(buffer) + (long) buffer.position() * size, (long) buffer.remaining() * size, buffer.isReadOnly(), null, buffer);
  }

  /** A copy. */
  public static Memory of(int... values) {
    Memory made = allocate(4L * values.length);
    made.ints().put(values);
    return made;
  }

  /** A copy. */
  public static Memory of(long... values) {
    Memory made = allocate(8L * values.length);
    made.longs().put(values);
    return made;
  }

  /** A copy. */
  public static Memory of(float... values) {
    Memory made = allocate(4L * values.length);
    made.floats().put(values);
    return made;
  }

  /** Memory of the caller's that outlives every use of it, on whatever device. */
  public static Memory at(long address, long bytes) { return at(address, bytes, null); }

  static Memory at(long address, long bytes, Object kept) { return new Memory(address, bytes, false, null, kept); }

  public long address() { return address; }

  public long bytes() { return bytes; }

  /** The bytes, shared; of memory of this host, at most 2 GiB. Of memory that came in by of() or at() the buffer is good as long as this object is held. */
  public ByteBuffer buffer() {
    if (bytes > Integer.MAX_VALUE) throw new IllegalStateException("a buffer has up to 2^31 bytes, not " + bytes);
    ByteBuffer made = own != null ? own.slice() : (ByteBuffer) NativeJNI.buffer(address, bytes);
    return (readOnly ? made.asReadOnlyBuffer() : made).order(ByteOrder.nativeOrder());
  }

  public FloatBuffer floats() { return buffer().asFloatBuffer(); }

  public IntBuffer ints() { return buffer().asIntBuffer(); }

  public LongBuffer longs() { return buffer().asLongBuffer(); }

  static long readable(Memory memory) { return memory == null ? 0 : memory.address; }

  static long writable(Memory memory) {
    if (memory != null && memory.readOnly) throw new IllegalArgumentException("the buffer is read-only, the library writes here");
    return readable(memory);
  }

  @Override
  public String toString() { return "Memory(0x" + Long.toHexString(address) + ", " + bytes + " bytes)"; }
}
