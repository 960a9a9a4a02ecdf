package org.libthink;

import java.nio.charset.StandardCharsets;

/** The library as a whole. */
public final class Think {
  private Think() {}

  /** Version of the library that is loaded: major * 10000 + minor * 100 + patch. */
  public static int version() { return Native.think_version(); }

  public static String versionString() { return Native.think_version_string(); }

  public static int abiVersion() { return Native.think_abi_version(); }

  /** The file of the C library that is in use. */
  public static String libraryPath() { return Library.path(); }

  public static String statusName(int status) { return Native.think_status_name(status); }

  /** Bytes of one element; 0 for what tensors cannot hold. */
  public static int dtypeBytes(int dtype) { return Native.think_dtype_bytes(dtype); }

  public static String dtypeName(int dtype) { return Native.think_dtype_name(dtype); }

  /** Channels kept of `channels` at a pruning ratio in [0, 1), as the paper's code rounds: 77 of 128 at 0.4. */
  public static int keptChannels(int channels, double ratio) {
    int kept = Native.think_kept_channels(channels, ratio);
    if (kept < 0) throw new IllegalArgumentException("channels at least 1 and a ratio in [0, 1) are needed, not " + channels + " and " + ratio);
    return kept;
  }

  /** One fact about the library: Constants.QUERY_... */
  public static long query(int key) { return query(null, key); }

  static long query(Handle context, int key) {
    long[] value = new long[1];
    Native.think_query(context, key, value);
    return value[0];
  }

  /** Why a backend can or cannot be used here; begins with "available" if it can. */
  public static String backendReason(int device) {
    return text((memory, needed) -> Native.think_backend_reason(device, memory, memory == null ? 0 : memory.bytes(), needed));
  }

  interface Text {
    void fill(Memory memory, long[] needed);
  }

  /** A text of a length that the library tells first. */
  static String text(Text source) {
    long[] needed = new long[1];
    source.fill(null, needed);
    Memory memory = Memory.allocate(needed[0], 1);
    source.fill(memory, needed);
    byte[] bytes = new byte[(int) memory.bytes() - 1];
    memory.buffer().get(bytes);
    return new String(bytes, StandardCharsets.UTF_8);
  }
}
