package org.libthink;

/** Bytes of memory, and what its address must be a multiple of. */
public record Size(long bytes, long alignment) {
  interface Question {
    void ask(long[] bytes, long[] alignment);
  }

  static Size of(Question question) {
    long[] bytes = new long[1], alignment = new long[1];
    question.ask(bytes, alignment);
    return new Size(bytes[0], alignment[0]);
  }

  /** Zeroed. */
  public Memory allocate() { return Memory.allocate(bytes, alignment); }
}
