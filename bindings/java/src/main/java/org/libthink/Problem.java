// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** The shape of one attention layer. */
public final class Problem extends Struct {
  static final int SIZE = 64;

  /** With what the library's init function says. */
  public Problem() {
    super(SIZE, 0);
    Native.think_problem_init(this, SIZE);
  }

  Problem(Memory memory) { super(memory, 0); }

  /** THINK_PROBLEM_... */
  public int flags() { return bytes.getInt(4); }

  public Problem flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** of query tensors: f32, f16, bf16; 0 = f32 */
  public int queryDtype() { return bytes.getInt(8); }

  public Problem queryDtype(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** of dense key and value rows and of compact ones: f32, f16, bf16; 0 = f16 */
  public int cacheDtype() { return bytes.getInt(12); }

  public Problem cacheDtype(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /** of attention outputs: f32, f16, bf16; 0 = query_dtype */
  public int outputDtype() { return bytes.getInt(16); }

  public Problem outputDtype(int value) {
    bytes.putInt(16, value);
    return this;
  }

  /** a multiple of kv_heads, at most 65536; their quotient is the group */
  public int queryHeads() { return bytes.getInt(20); }

  public Problem queryHeads(int value) {
    bytes.putInt(20, value);
    return this;
  }

  /** at least 1 */
  public int kvHeads() { return bytes.getInt(24); }

  public Problem kvHeads(int value) {
    bytes.putInt(24, value);
    return this;
  }

  /** head size of queries and keys: 8, 16, ... 256 */
  public int keyChannels() { return bytes.getInt(28); }

  public Problem keyChannels(int value) {
    bytes.putInt(28, value);
    return this;
  }

  /** head size of values: 8, 16, ... 256; 0 = key_channels */
  public int valueChannels() { return bytes.getInt(32); }

  public Problem valueChannels(int value) {
    bytes.putInt(32, value);
    return this;
  }

  /** observation queries: 0 = 32 (ThinK), at most 1024 */
  public int window() { return bytes.getInt(36); }

  public Problem window(int value) {
    bytes.putInt(36, value);
    return this;
  }

  /** sequences in one call: 0 = 1 */
  public int maxBatch() { return bytes.getInt(40); }

  public Problem maxBatch(int value) {
    bytes.putInt(40, value);
    return this;
  }

  /** new queries of one sequence in one call: 0 = 1 */
  public int maxQueries() { return bytes.getInt(44); }

  public Problem maxQueries(int value) {
    bytes.putInt(44, value);
    return this;
  }

  /** cached tokens of one sequence, all segments together: 0 = 131072; at most 2^31 - 1 */
  public long maxTokens() { return bytes.getLong(48); }

  public Problem maxTokens(long value) {
    bytes.putLong(48, value);
    return this;
  }

  /** of logits: 0 = 1 / sqrt(key_channels), the full width also after pruning */
  public float scale() { return bytes.getFloat(56); }

  public Problem scale(float value) {
    bytes.putFloat(56, value);
    return this;
  }

  /** logit = softcap * tanh(logit / softcap): 0 or -1 = none. Applied to the finished logit, offset included */
  public float softcap() { return bytes.getFloat(60); }

  public Problem softcap(float value) {
    bytes.putFloat(60, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("Problem", "flags", flags(), "queryDtype", queryDtype(), "cacheDtype", cacheDtype(), "outputDtype", outputDtype(), "queryHeads",
        queryHeads(), "kvHeads", kvHeads(), "keyChannels", keyChannels(), "valueChannels", valueChannels(), "window", window(), "maxBatch",
        maxBatch(), "maxQueries", maxQueries(), "maxTokens", maxTokens(), "scale", scale(), "softcap", softcap());
  }
}
