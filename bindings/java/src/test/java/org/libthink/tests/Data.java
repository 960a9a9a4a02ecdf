package org.libthink.tests;

import static org.libthink.Constants.*;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import org.libthink.*;

/** What the tests share: numbers that are the same in every language, rows made of them, and attention in double. */
final class Data {
  static final int HQ = 4, HKV = 2, D = 16;

  private Data() {}

  /** A JSON file of the repository, whose root THINK_ROOT names. */
  static JsonObject json(String file) {
    try (var reader = Files.newBufferedReader(Path.of(System.getenv("THINK_ROOT"), file))) {
      return new Gson().fromJson(reader, JsonObject.class);
    } catch (IOException problem) {
      throw new UncheckedIOException(problem);
    }
  }

  static float[] numbers(int seed, int count) {
    float[] made = new float[count];
    for (int i = 0; i < count; ++i) {
      int x = i * (int) 2654435761L + seed * 40503 + 12345;
      x = (x ^ x >>> 15) * (int) 2246822519L;
      x = (x ^ x >>> 13) * (int) 3266489917L;
      x ^= x >>> 16;
      made[i] = (float) (Integer.toUnsignedLong(x) / 2147483648.0 - 1.0);
    }
    return made;
  }

  /** f32 rows in memory of their own: [1][heads][tokens][channels]. */
  record Rows(Memory memory, int heads, int tokens, int channels) {
    static Rows of(int seed, int heads, int tokens, int channels, float odd) {
      float[] made = numbers(seed, heads * tokens * channels);
      for (int i = 1; i < made.length; i += 2) made[i] *= odd;
      return new Rows(Memory.of(made), heads, tokens, channels);
    }

    static Rows zeros(int heads, int tokens, int channels) { return new Rows(Memory.allocate(4L * heads * tokens * channels), heads, tokens, channels); }

    Tensor tensor() { return Tensors.of(memory, F32, 1, heads, tokens, channels); }

    /** The last tokens, as a view. */
    Tensor last(int count) {
      Tensor whole = tensor();
      long skipped = 4L * (tokens - count) * channels;
      return whole.data(Memory.at(memory.address() + skipped, memory.bytes() - skipped)).extent(1, heads, count, channels);
    }

    float[] floats() {
      float[] made = new float[heads * tokens * channels];
      memory.floats().get(made);
      return made;
    }

    float at(int head, int token, int channel) { return memory.floats().get((head * tokens + token) * channels + channel); }

    double[][][] doubles() {
      double[][][] made = new double[heads][tokens][channels];
      FloatBuffer floats = memory.floats();
      for (double[][] head : made) for (double[] row : head) for (int i = 0; i < channels; ++i) row[i] = floats.get();
      return made;
    }
  }

  /** Query, key and value of one layer. */
  record Layer(Rows query, Rows key, Rows value) {
    static Layer of(int seed, int tokens, int keyChannels, int valueChannels) {
      return new Layer(Rows.of(seed, HQ, tokens, keyChannels, 1), Rows.of(seed + 1, HKV, tokens, keyChannels, 0.125f),
          Rows.of(seed + 2, HKV, tokens, valueChannels, 1));
    }

    static Layer of(int seed, int tokens) { return of(seed, tokens, D, D); }
  }

  static Problem problem() {
    return new Problem().queryHeads(HQ).kvHeads(HKV).keyChannels(D).window(8).maxTokens(512).maxQueries(512).maxBatch(4).cacheDtype(F32);
  }

  static Plan plan() { return new Plan(new Context(), problem()); }

  /** One step of one sequence and layer. */
  static Layer fill(Cache cache, int sequence, int tokens, int seed) {
    Layer layer = Layer.of(seed, tokens);
    cache.step(new int[] {sequence}, new int[] {tokens});
    cache.append(0, layer.query().tensor(), layer.key().tensor(), layer.value().tensor());
    return layer;
  }

  /** A segment of dense rows first .. first + tokens. */
  static Segment dense(Rows key, Rows value, int first, int tokens, int flags) {
    return new Segment().keyLayout(ROWS).valueLayout(ROWS).keyDtype(F32).valueDtype(F32).key(key.memory()).value(value.memory()).flags(flags)
        .keyStride(0, 4L * key.tokens() * key.channels(), 4L * key.channels()).valueStride(0, 4L * value.tokens() * value.channels(), 4L * value.channels())
        .first(first).lengths(tokens);
  }

  static Segment dense(Rows key, Rows value) { return dense(key, value, 0, key.tokens(), 0); }

  /** Softmax attention of the last queries, causal, in double: [head][query][channel], and the LSE behind the channels. */
  static double[][][] attention(double[][][] query, double[][][] key, double[][][] value, int queries) {
    int group = query.length / key.length, tokens = key[0].length, width = value[0][0].length;
    double[][][] made = new double[query.length][queries][width + 1];
    for (int h = 0; h < query.length; ++h) {
      for (int n = 0; n < queries; ++n) {
        double[] q = query[h][query[h].length - queries + n], logits = new double[tokens - queries + n + 1], out = made[h][n];
        double top = Double.NEGATIVE_INFINITY, total = 0;
        for (int t = 0; t < logits.length; ++t) {
          for (int c = 0; c < q.length; ++c) logits[t] += q[c] * key[h / group][t][c];
          logits[t] /= Math.sqrt(q.length);
          top = Math.max(top, logits[t]);
        }
        for (double logit : logits) total += Math.exp(logit - top);
        for (int t = 0; t < logits.length; ++t)
          for (int c = 0; c < width; ++c) out[c] += Math.exp(logits[t] - top) / total * value[h / group][t][c];
        out[width] = top + Math.log(total);
      }
    }
    return made;
  }

  /** Largest difference between an output and attention(), the LSE too if it is given. */
  static double difference(double[][][] expected, Rows output, Memory lse) {
    double worst = 0;
    for (int h = 0; h < expected.length; ++h) {
      for (int n = 0; n < expected[h].length; ++n) {
        for (int c = 0; c < output.channels(); ++c) worst = worse(worst, expected[h][n][c] - output.at(h, n, c));
        if (lse != null) worst = worse(worst, expected[h][n][output.channels()] - lse.floats().get(h * expected[h].length + n));
      }
    }
    return worst;
  }

  /** The larger magnitude; a NaN stays. */
  private static double worse(double worst, double next) { return Math.max(worst, Math.abs(next)); }
}
