package org.libthink.tests;

import static org.junit.Assert.*;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.lang.reflect.Array;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import org.junit.Test;
import org.libthink.*;

/** Nothing of bindings/think.json is missing in the classes, and memory goes in and out as it should. That every function is called is asked by test.sh. */
public class StructsTest {
  private static final JsonObject THINK = Data.json("bindings/think.json");

  private static String text(JsonObject from, String name) { return from.get(name).getAsString(); }

  private static boolean isStruct(String type) {
    for (JsonElement one : THINK.getAsJsonArray("structs")) if (type.equals("const " + text(one.getAsJsonObject(), "name") + " *")) return true;
    return false;
  }

  @Test
  public void everyFieldOfEveryStruct() throws ReflectiveOperationException {
    assertTrue(THINK.getAsJsonArray("structs").size() > 20);
    for (JsonElement one : THINK.getAsJsonArray("structs")) {
      JsonObject struct = one.getAsJsonObject();
      Class<?> type = Names.classOf(text(struct, "name"));
      Object made = type.getConstructor().newInstance();
      for (JsonElement each : struct.getAsJsonArray("fields")) {
        JsonObject field = each.getAsJsonObject();
        String name = Names.java(text(field, "name")), kind = text(field, "type"), what = type + "." + name;
        if (name.equals("structSize") || name.startsWith("reserved")) {
          assertThrows(what, NoSuchMethodException.class, () -> type.getMethod(name));
          continue;
        }
        Method getter = type.getMethod(name);
        if (kind.equals("char")) {
          assertSame(made, type.getMethod(name, String.class).invoke(made, "text é"));
          assertEquals(what, "text é", getter.invoke(made));
        } else if (isStruct(kind) && getter.getReturnType() != long.class) {
          Object inner = getter.getReturnType().getConstructor().newInstance();
          type.getMethod(name, getter.getReturnType()).invoke(made, inner);
          assertSame(what, inner, getter.invoke(made));
          type.getMethod(name, getter.getReturnType()).invoke(made, (Object) null);
          assertNull(what, getter.invoke(made));
        } else if (isStruct(kind)) {
          Object inner = Array.newInstance(Format.class, 2);
          for (int i = 0; i < 2; ++i) Array.set(inner, i, new Format());
          type.getMethod(name, inner.getClass()).invoke(made, inner);
          assertNotEquals(what, 0L, getter.invoke(made));
        } else if (kind.endsWith("*")) {
          type.getMethod(name, Memory.class).invoke(made, Memory.at(4096, 8));
          assertEquals(what, 4096L, getter.invoke(made));
          type.getMethod(name, Memory.class).invoke(made, (Object) null);
          assertEquals(what, 0L, getter.invoke(made));
        } else if (field.has("count")) {
          Class<?> array = getter.getReturnType();
          Object values = Array.newInstance(array.getComponentType(), field.get("count").getAsInt());
          for (int i = 0; i < Array.getLength(values); ++i) Array.setLong(values, i, i + 1);
          type.getMethod(name, array).invoke(made, values);
          for (int i = 0; i < Array.getLength(values); ++i) assertEquals(what, Array.get(values, i), Array.get(getter.invoke(made), i));
          Object fewer = Array.newInstance(array.getComponentType(), 1);
          assertThrows(what, ReflectiveOperationException.class, () -> type.getMethod(name, array).invoke(made, fewer));
        } else {
          Class<?> number = getter.getReturnType();
          Object value = number == int.class ? (Object) 7 : number == long.class ? (Object) (7L << 32) : (Object) 0.5f;
          assertSame(what, made, type.getMethod(name, number).invoke(made, value));
          assertEquals(what, value, getter.invoke(made));
          assertTrue(made.toString(), made.toString().contains(name + "=" + value));
        }
      }
    }
  }

  @Test
  public void everyConstant() throws ReflectiveOperationException {
    int count = 0;
    for (JsonElement group : THINK.getAsJsonArray("constants")) {
      for (JsonElement one : group.getAsJsonObject().getAsJsonArray("members")) {
        JsonObject member = one.getAsJsonObject();
        assertEquals(member.get("value").getAsInt(), Constants.class.getField(text(member, "name").substring("THINK_".length())).getInt(null));
        ++count;
      }
    }
    assertEquals(Constants.class.getFields().length, count);
  }

  @Test
  public void memory() {
    Memory aligned = Memory.allocate(100, 4096);
    assertEquals(0, aligned.address() % 4096);
    assertEquals(100, aligned.buffer().capacity());
    aligned.buffer().putInt(96, 5);
    assertEquals(5, Memory.at(aligned.address() + 96, 4).ints().get(0));
    ByteBuffer direct = ByteBuffer.allocateDirect(64).order(ByteOrder.nativeOrder());
    FloatBuffer floats = direct.position(8).slice().order(ByteOrder.nativeOrder()).asFloatBuffer();
    Memory shared = Memory.of(floats.position(2));
    assertEquals(Memory.of(direct.position(0)).address() + 16, shared.address());
    assertEquals(64 - 16, shared.bytes());
    shared.floats().put(0, 2.5f);
    assertEquals(2.5f, direct.getFloat(16), 0);
    assertEquals(3, Memory.of(1L, 2L, 3L).longs().get(2));
    for (java.nio.Buffer wrong : new java.nio.Buffer[] {ByteBuffer.allocate(8), FloatBuffer.allocate(2), ByteBuffer.allocateDirect(8).asIntBuffer()})
      assertThrows(IllegalArgumentException.class, () -> Memory.of(wrong));
    assertThrows(IllegalArgumentException.class, () -> Memory.allocate(1L << 31));
    assertThrows(IllegalArgumentException.class, () -> Memory.allocate(-1));
    assertThrows(IllegalStateException.class, () -> Memory.at(4096, 1L << 40).buffer());
    assertTrue(Memory.of(direct.asReadOnlyBuffer()).buffer().isReadOnly());
    Plan plan = Data.plan();
    Memory state = Memory.of(ByteBuffer.allocateDirect((int) plan.scoreStateSize(1)).asReadOnlyBuffer());
    assertThrows(IllegalArgumentException.class, () -> plan.scoreReset(state, null, null));
  }

  @Test
  public void tensors() {
    FloatBuffer floats = ByteBuffer.allocateDirect(4 * 48).order(ByteOrder.nativeOrder()).asFloatBuffer();
    Tensor tensor = Tensors.of(floats, 1, 2, 3, 8);
    assertArrayEquals(new long[] {48, 24, 8, 1}, tensor.stride());
    assertThrows(IllegalArgumentException.class, () -> Tensors.of(floats, 1, 2, 4, 8));
    assertThrows(IllegalArgumentException.class, () -> Tensors.of(floats, -1, 2, 4, 8));
    assertThrows(IllegalArgumentException.class, () -> Tensors.allocate(Constants.U4, 1, 1, 1, 8));
    assertThrows(ArithmeticException.class, () -> Tensors.allocate(Constants.F16, 1L << 40, 1L << 40, 1, 8));
    assertEquals(2 * 48, Tensors.memory(Tensors.allocate(Constants.BF16, 1, 2, 3, 8)).bytes());
    assertEquals(2, Think.dtypeBytes(Constants.BF16));

    // DLTensor: data, device (kind, number), dimensions, dtype (code, bits, lanes), shape, strides, byte offset
    Memory shape = Memory.of(2L, 3L, 8L), source = Memory.allocate(48);
    source.buffer().putLong(0, tensor.data()).putInt(8, Constants.DEVICE_CUDA).putInt(16, 3).put(20, (byte) 2).put(21, (byte) 32).putShort(22, (short) 1)
        .putLong(24, shape.address());
    Tensors.OnDevice described = Tensors.fromDlpack(source.address());
    assertEquals(Constants.DEVICE_CUDA, described.device());
    assertEquals(tensor.data(), described.tensor().data());
    assertArrayEquals(new long[] {1, 2, 3, 8}, described.tensor().extent());
    source.buffer().putInt(16, 2);
    assertEquals(Constants.E_UNSUPPORTED, assertThrows(ThinkException.class, () -> Tensors.fromDlpack(source.address())).code());
    assertEquals(1, assertThrows(ThinkException.class, () -> Tensors.fromDlpack(0)).argument());
  }
}
