package org.libthink;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;

/** A stream of Java as C calls it (glue.h). What it throws comes out of the call. */
final class Stream {
  private final OutputStream out;
  private final InputStream in;
  private byte[] block = new byte[1 << 16];

  Stream(OutputStream out) { this(out, null); }

  Stream(InputStream in) { this(null, in); }

  private Stream(OutputStream out, InputStream in) {
    this.out = out;
    this.in = in;
  }

  void write(ByteBuffer from) throws IOException {
    while (from.hasRemaining()) {
      int step = Math.min(from.remaining(), block.length);
      from.get(block, 0, step);
      out.write(block, 0, step);
    }
  }

  /** How many bytes were read: fewer only at the end. */
  int read(ByteBuffer to) throws IOException {
    int filled = 0;
    while (to.hasRemaining()) {
      int step = in.readNBytes(block, 0, Math.min(to.remaining(), block.length));
      if (step == 0) break;
      to.put(block, 0, step);
      filled += step;
    }
    return filled;
  }
}
