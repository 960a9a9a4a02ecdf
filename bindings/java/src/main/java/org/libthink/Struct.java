package org.libthink;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.function.BooleanSupplier;
import java.util.function.Function;

/**
 * A struct of the C interface in direct memory. Setters return the struct itself; what a pointer was set to stays alive with it. Not for several threads at
 * once while one of them writes. Structs can be used again, which is cheaper than making new ones for each call.
 */
public abstract class Struct {
  final ByteBuffer bytes;
  final Memory memory;
  private final Object[] kept;
  private BooleanSupplier valid;

  Struct(int size, int references) { this(Memory.allocate(size, 8), references); }

  Struct(Memory memory, int references) {
    this.memory = memory;
    bytes = memory.buffer();
    kept = new Object[references];
  }

  static long addressOf(Struct struct) {
    if (struct == null) return 0;
    if (struct.valid != null && !struct.valid.getAsBoolean()) throw new IllegalStateException("the cache has changed since it lent this");
    return struct.memory.address();
  }

  /** This points into what may change: every use asks first. */
  final void lentWhile(BooleanSupplier valid) { this.valid = valid; }

  static long[] addressesOf(List<? extends Struct> structs) {
    return structs == null ? null : structs.stream().mapToLong(Struct::addressOf).toArray();
  }

  final void point(int offset, int place, Memory value) {
    bytes.putLong(offset, Memory.readable(value));
    kept[place] = value;
  }

  final void point(int offset, int place, Struct value) {
    bytes.putLong(offset, addressOf(value));
    kept[place] = value;
  }

  /** What a pointer to a struct points to: the object that was set, or a view of what the library pointed it to. */
  final Struct struct(int offset, int place, int size, Function<Memory, Struct> view) {
    long address = bytes.getLong(offset);
    if (address == 0) return null;
    if (!(kept[place] instanceof Struct held) || held.memory.address() != address) {
      Struct made = view.apply(Memory.at(address, size, this));
      made.lentWhile(valid);
      kept[place] = made;
    }
    return (Struct) kept[place];
  }

  /** What was set last at a pointer. */
  final Object referenceAt(int place) { return kept[place]; }

  /** Copies one behind the other. They point to what the structs do, which is kept. */
  static Memory packed(Struct... structs) {
    int size = structs[0].bytes.capacity();
    Memory made = Memory.allocate((long) size * structs.length, 8, structs.clone());
    for (int i = 0; i < structs.length; ++i) made.buffer().put(i * size, structs[i].bytes, 0, size);
    return made;
  }

  final String text(int offset, int size) {
    byte[] read = new byte[size];
    bytes.get(offset, read);
    int length = 0;
    while (length < size && read[length] != 0) ++length;
    return new String(read, 0, length, StandardCharsets.UTF_8);
  }

  final void text(int offset, int size, String value) {
    byte[] written = value.getBytes(StandardCharsets.UTF_8);
    if (written.length >= size) throw new IllegalArgumentException("at most " + (size - 1) + " bytes, got " + written.length);
    bytes.put(offset, written).put(offset + written.length, (byte) 0);
  }

  static void expect(String field, int count, int found) {
    if (found != count) throw new IllegalArgumentException(field + ": expected " + count + " numbers, got " + found);
  }

  static String shown(String name, Object... fields) {
    StringBuilder text = new StringBuilder(name).append('(');
    for (int i = 0; i < fields.length; i += 2) {
      Object value = fields[i + 1];
      if (value instanceof long[] numbers) value = Arrays.toString(numbers);
      text.append(i == 0 ? "" : ", ").append(fields[i]).append('=').append(value);
    }
    return text.append(')').toString();
  }
}
