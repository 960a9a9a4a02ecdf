package org.libthink;

import java.util.List;
import java.util.stream.LongStream;

/** What merge() takes: as many outputs as lists of LSE. */
record Parts(List<Tensor> outputs, List<Memory> lses) {
  Parts {
    if (outputs.size() != lses.size()) throw new IllegalArgumentException(outputs.size() + " outputs, but " + lses.size() + " lses");
  }

  long[] addresses() {
    return LongStream.concat(outputs.stream().mapToLong(Struct::addressOf), lses.stream().mapToLong(Memory::readable)).toArray();
  }
}
