// The warp collectives: what each lane hands in, and what is done for all once the last one has arrived.
#pragma once

#include "machine.h"

namespace simt {

struct ShuffleArguments {
  uint32_t value, result;
  int32_t from;  // lane; checked to be one of those that take part
};

struct VoteArguments {
  bool value;
  uint32_t result;  // lanes of the mask that said yes
};

struct MatrixArguments {
  uint32_t *fragment;
  Bounds bounds;
  uint32_t row;
};

struct MoveArguments {
  uint32_t fragment, result;
};

struct MmaArguments {
  float *acc;
  uint32_t a[4], b[2];
};

extern const Operation kShuffle, kVote, kSyncWarp, kMoveMatrix, kMma[2];  // kMma: bf16, f16
extern const Operation kLdmatrix[3], kLdmatrixTrans[3];                   // 1, 2, 4 matrices

}  // namespace simt
