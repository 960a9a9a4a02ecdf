// Contract of the rebuild stage: rows of one side of a segment at full width, for whoever takes rows out of a cache. Arguments are checked by the caller.
#pragma once

#include "../common/segment.h"

namespace think::rebuild {

struct Arguments {
  Shape shape;
  think_segment segment;  // of sequence 0 of the batch
  Batch batch;
  int32_t side;          // THINK_KEYS, THINK_VALUES
  int64_t first, count;  // rows, counted from the start of the sequence's pages or slot: segment.first is not added, and lengths are not looked at
  think_tensor tensor;   // [1][kv_heads][at least count][channels], f32, f16 or bf16; its row 0 receives row `first`
};

void rebuild(const Arguments &arguments);

}  // namespace think::rebuild
