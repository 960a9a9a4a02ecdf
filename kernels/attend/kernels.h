// The inner loops of attend, as tables of functions: one table per instruction set (cpu_<isa>.cpp), used by cpu.cpp. A column is one query of one query
// head; the columns of a call share a KV head, so a key or value row is loaded and widened once for all of them.
#pragma once

#include <cstdint>

#include "think/tensor.h"

namespace think::attend {

// Tokens between two softmax updates: long enough to make the maximum, the sum and the rescaling cheap, short enough for keys and values to stay in
// the first cache while several blocks of columns pass over them.
constexpr int32_t kStepTokens = 64;
// Floats from column to column in the scores of a step. Kernels may write up to 16 scores behind the last token.
constexpr int32_t kScoreStride = kStepTokens + 16;
// Vectors of channels are padded to this many floats, zeros behind the end.
constexpr int32_t kPadding = 32;
static inline int32_t padded(int32_t channels) { return (channels + kPadding - 1) / kPadding * kPadding; }

struct ScoreArguments {
  const char *key;        // THINK_TILES: one tile; THINK_ROWS: the first row
  int64_t row_stride;     // bytes, THINK_ROWS
  const char *ahead;      // rows of the same shape that will be needed later: prefetched; NULL = none
  int32_t tokens;         // at most 32 with THINK_TILES, where all 32 scores are written
  int32_t channels;       // stored per row
  int32_t columns;
  // THINK_ROWS, and codes of groups where Kernels::codes_by_column: [column][padded(channels)]; else blocks of Kernels::columns columns, inside
  // [channel][column]. For F8 times the scale and kF8Unit.
  const float *query;
  const float *constant;  // [columns]: start value of the score
  float *score;           // [columns][score_stride]
  int64_t score_stride;
};

struct ValueArguments {
  const char *value;
  int64_t row_stride;
  const char *ahead;
  int32_t tokens;
  int32_t channels;       // a multiple of 8
  int32_t columns;
  const float *weight;    // [columns][weight_stride]: what each row counts
  int64_t weight_stride;
  float *sum;             // [columns][sum_stride]: receives += weight * row
  int64_t sum_stride;
  float scale = 1;        // of F8: what 1 of a code counts
};

struct SoftmaxArguments {
  float *score;            // [columns][kScoreStride]: logits in, exp(logit - maximum) out; 0 where a column sees no token
  int32_t tokens;
  int32_t columns;
  const int32_t *visible;  // [columns] tokens of this step that a column sees; NULL = all
  float softcap;           // 0 = none
  float *maximum;          // [columns rounded up to 16] running maximum; when it grows, mass and sum are scaled down
  float *mass;             // [columns rounded up to 16] running sum of exp
  float *sum;              // [columns][sum_stride]
  int64_t sum_stride;
  int32_t channels;
};

constexpr int32_t kElements = 7, kFirstCode = 3, kGroupedCodes = 3;  // element types; from the fourth on they are codes, at first those of groups

// What a unit with integer dot products gives for tiles of codes of groups, in the order of element_index(); queries [column][padded(channels)].
struct CodeKernels {
  void (*score[kGroupedCodes])(const ScoreArguments &);
  void (*value[kGroupedCodes])(const ValueArguments &);  // weights are at most 1
};

struct Kernels {
  int32_t columns;                                   // of a query block
  // By element: if not 0, queries for THINK_ROWS lie in blocks of this many channels, the even ones first, then the odd ones.
  int32_t split[3];
  void (*score[2][kElements])(const ScoreArguments &);       // by layout and element; codes are in tiles
  void (*value[kElements])(const ValueArguments &);          // by element; codes are in tiles, of which `tokens` at the start count
  void (*softmax)(const SoftmaxArguments &);
  // out = row * factor, n floats
  void (*widen[3])(const void *row, int64_t n, float factor, float *out);
  void (*narrow[3])(const float *row, int64_t n, float factor, void *out);
  bool codes_by_column;                              // how queries for tiles of codes of groups lie
};

// Position of an element type in the tables.
static inline int32_t element_index(think_dtype dtype) {
  constexpr think_dtype elements[kElements] = {THINK_F32, THINK_F16, THINK_BF16, THINK_U8, THINK_U4, THINK_U2, THINK_F8_E4M3};
  int32_t index = 0;
  while (index < kElements - 1 && elements[index] != dtype) ++index;
  return index;
}

extern const Kernels kernels_portable, kernels_avx2, kernels_avx512, kernels_neon;
extern const CodeKernels codes_avx512bf16;

}  // namespace think::attend
