package org.libthink.tests;

import static org.junit.Assert.*;
import static org.libthink.Constants.*;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.util.HexFormat;
import java.util.Map;
import org.junit.Test;
import org.libthink.*;
import org.libthink.tests.Data.*;

/** tests/vectors/bindings.json: what every language has to do alike, errors with their texts included. The file says what each call is. */
public class VectorsTest {
  private static final JsonObject ALL = Data.json("tests/vectors/bindings.json");

  /** Fields by their names in C. */
  static <S extends Struct> S set(S struct, JsonObject fields) {
    for (Map.Entry<String, JsonElement> field : fields.entrySet()) {
      String name = Names.java(field.getKey());
      try {
        if (field.getValue().isJsonObject()) {
          Struct inner = name.equals("prune") ? new PruneOptions() : new Format();
          struct.getClass().getMethod(name, inner.getClass()).invoke(struct, set(inner, field.getValue().getAsJsonObject()));
          continue;
        }
        Class<?> type = struct.getClass().getMethod(name).getReturnType();
        JsonElement value = field.getValue();
        Object number = type == int.class ? (Object) value.getAsInt() : type == long.class ? (Object) value.getAsLong() : (Object) value.getAsFloat();
        struct.getClass().getMethod(name, type).invoke(struct, number);
      } catch (ReflectiveOperationException problem) {
        throw new AssertionError("no field " + name, problem);
      }
    }
    return struct;
  }

  private static JsonObject of(JsonObject from, String name) { return from.has(name) ? from.getAsJsonObject(name) : new JsonObject(); }

  private static int[] ints(JsonElement list) { return new Gson().fromJson(list, int[].class); }

  private static Tensor zeros(JsonElement extent) {
    int[] e = ints(extent);
    return Tensors.allocate(F32, e[0], e[1], e[2], e[3]);
  }

  private static void fail(JsonObject with) throws IOException {
    String call = with.get("call").getAsString();
    if (call.equals("query")) {
      Think.query(with.get("key").getAsInt());
      return;
    }
    Plan plan = new Plan(new Context(), set(new Problem(), of(with, "problem")));
    switch (call) {
      case "preview" -> plan.prunePreview(null, with.get("tokens").getAsLong(), set(new PruneOptions(), of(with, "options")));
      case "layout" -> plan.layout(null, with.get("page_tokens").getAsInt(), with.get("total_key").getAsLong(), with.get("total_value").getAsLong());
      case "workspace_size" -> plan.workspaceSize(with.get("stage").getAsInt(), null);
      default -> {
        Cache cache = new Cache(plan, set(new CacheOptions(), of(with, "cache")));
        if (with.has("new_tokens")) cache.step(ints(with.get("sequences")), ints(with.get("new_tokens")));
        switch (call) {
          case "plan", "cache", "step" -> {}
          case "trim" -> cache.trim(with.get("sequence").getAsInt(), with.get("tokens").getAsLong());
          case "prune" -> cache.prune(ints(with.get("sequences")));
          case "load" -> cache.load(0, new ByteArrayInputStream(HexFormat.of().parseHex(with.get("bytes").getAsString())));
          case "append" -> cache.append(with.get("layer").getAsInt(), zeros(with.get("query")), zeros(with.get("key")), zeros(with.get("value")));
          case "attend" -> cache.attend(with.get("layer").getAsInt(), zeros(with.get("query")),
              Tensors.allocate(F32, 1, plan.queryHeads(), 1, plan.valueChannels()));
          default -> throw new AssertionError("no call " + call);
        }
      }
    }
  }

  @Test
  public void errorsAreTheSameInEveryLanguage() throws IOException {
    JsonArray cases = ALL.getAsJsonArray("errors");
    assertTrue(cases.size() > 20);
    for (JsonElement one : cases) {
      JsonObject with = one.getAsJsonObject(), expected = with.getAsJsonObject("error");
      ThinkException found = assertThrows(with.toString(), ThinkException.class, () -> fail(with));
      assertEquals(expected.get("message").getAsString(), found.getMessage());
      assertEquals(expected.get("code").getAsInt(), found.code());
      assertEquals(expected.get("argument").getAsInt(), found.argument());
      assertEquals(expected.get("native_code").getAsInt(), found.nativeCode());
      assertEquals(Think.statusName(found.code()), found.codeName());
      assertTrue(found.function().startsWith("think_"));
    }
  }

  private static double worst(float[] found, JsonElement expected) {
    float[] numbers = new Gson().fromJson(expected, float[].class);
    assertEquals(numbers.length, found.length);
    double worst = 0;
    for (int i = 0; i < found.length; ++i) worst = Math.max(worst, Math.abs(found[i] - numbers[i]));
    return worst;
  }

  @Test
  public void flowsAreTheSameInEveryLanguage() throws ReflectiveOperationException {
    for (JsonElement one : ALL.getAsJsonArray("flows")) {
      JsonObject with = one.getAsJsonObject();
      String name = with.get("name").getAsString();
      double tolerance = with.get("tolerance").getAsDouble();
      Plan plan = new Plan(new Context(), set(new Problem(), of(with, "problem")));
      CacheOptions options = set(new CacheOptions(), of(with, "cache"));
      Cache cache = new Cache(plan, options);
      int prompt = with.get("prompt").getAsInt(), row = 0;
      cache.step(new int[] {0}, new int[] {prompt});
      for (int layer = 0; layer < options.layers(); ++layer) append(cache, layer, Layer.of(10 * layer, prompt, plan.keyChannels(), plan.valueChannels()));
      cache.prune(0);
      for (int token = 1; token <= with.get("tokens").getAsInt(); ++token) {
        cache.step(new int[] {0}, new int[] {1});
        for (int layer = 0; layer < options.layers(); ++layer, ++row) {
          Layer rows = Layer.of(1000 * token + 10 * layer, 1, plan.keyChannels(), plan.valueChannels());
          append(cache, layer, rows);
          Rows output = Rows.zeros(plan.queryHeads(), 1, plan.valueChannels()), lse = Rows.zeros(plan.queryHeads(), 1, 1);
          cache.attend(layer, rows.query().tensor(), null, output.tensor(), lse.memory(), null);
          assertTrue(name, worst(output.floats(), with.getAsJsonArray("output").get(row)) <= tolerance);
          assertTrue(name, worst(lse.floats(), with.getAsJsonArray("lse").get(row)) <= tolerance);
        }
      }
      assertEquals(with.getAsJsonArray("output").size(), row);
      CacheInfo usage = cache.usage(0);
      for (Map.Entry<String, JsonElement> field : with.getAsJsonObject("usage").entrySet()) {
        Number found = (Number) CacheInfo.class.getMethod(Names.java(field.getKey())).invoke(usage);
        assertEquals(name + " " + field.getKey(), field.getValue().getAsLong(), found.longValue());
      }
    }
  }

  private static void append(Cache cache, int layer, Layer rows) { cache.append(layer, rows.query().tensor(), rows.key().tensor(), rows.value().tensor()); }

  @Test
  public void namesAndNumbers() {
    for (JsonElement one : ALL.getAsJsonArray("kept_channels")) {
      JsonArray numbers = one.getAsJsonArray();
      assertEquals(numbers.get(2).getAsInt(), Think.keptChannels(numbers.get(0).getAsInt(), numbers.get(1).getAsDouble()));
    }
    assertThrows(IllegalArgumentException.class, () -> Think.keptChannels(8, 1.0));
    JsonObject names = ALL.getAsJsonObject("names");
    for (Map.Entry<String, JsonElement> one : of(names, "status").entrySet())
      assertEquals(one.getValue().getAsString(), Think.statusName(Integer.parseInt(one.getKey())));
    for (Map.Entry<String, JsonElement> one : of(names, "dtype").entrySet())
      assertEquals(one.getValue().getAsString(), Think.dtypeName(Integer.parseInt(one.getKey())));
  }

  /** Score and select against recorded masks of somebody else's code (tests/vectors/kvpress_record.py). */
  @Test
  public void channelsThatKvpressDrops() {
    JsonArray cases = Data.json("tests/vectors/kvpress.json").getAsJsonArray("cases");
    assertTrue(cases.size() > 0);
    for (JsonElement one : cases) {
      JsonObject with = one.getAsJsonObject();
      int heads = with.get("query_heads").getAsInt(), kvHeads = with.get("kv_heads").getAsInt(), tokens = with.get("tokens").getAsInt();
      int channels = with.get("channels").getAsInt();
      Rows query = new Rows(Memory.of(new Gson().fromJson(with.get("query"), float[].class)), heads, tokens, channels);
      Rows key = new Rows(Memory.of(new Gson().fromJson(with.get("key"), float[].class)), kvHeads, tokens, channels);
      Plan plan = new Plan(new Context(), new Problem().queryHeads(heads).kvHeads(kvHeads).keyChannels(channels).window(with.get("window").getAsInt())
          .cacheDtype(F32).maxTokens(tokens));
      Memory state = Memory.allocate(plan.scoreStateSize(1)), score = Memory.allocate(4L * kvHeads * channels);
      Memory mask = Memory.allocate((long) kvHeads * channels);
      plan.scoreReset(state, null, null);
      plan.scoreUpdate(query.tensor(), key.tensor(), null, state, null);
      plan.scoreFinish(state, null, null, score, null);
      for (Map.Entry<String, JsonElement> dropped : with.getAsJsonObject("dropped").entrySet()) {
        SelectOptions options = new SelectOptions().side(KEYS).kept(Think.keptChannels(channels, Double.parseDouble(dropped.getKey())));
        plan.select(score, null, options, null, plan.basis(KEYS, 1), mask, null);
        for (int head = 0; head < kvHeads; ++head) {
          JsonArray found = new JsonArray();
          for (int channel = 0; channel < channels; ++channel) if (mask.buffer().get(head * channels + channel) == 0) found.add(channel);
          assertEquals(dropped.getValue().getAsJsonArray().get(head), found);
        }
      }
    }
  }
}
