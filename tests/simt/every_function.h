// See every_function.cu.
#pragma once

#include <cstdint>

namespace think::simt_test {

struct Everything {
  const uint32_t *input;  // [64][4]
  uint32_t *output;       // [blocks][4][64][4]
  uint32_t *counter;      // [5]: blocks counted up, counted down, last_block's, grid size as the last block stored it, largest number of a block
};

int32_t everything(const Everything &e, int32_t blocks, void *stream);

}  // namespace think::simt_test
