// What the units of the instruction sets give to cpu.cpp.
#pragma once

#include <cstdint>

namespace think::score {

// sum[c] += square of channel c, over `rows` rows that lie `stride` bytes apart. Always in the order of the rows.
using AddSquares = void (*)(const char *row, int64_t stride, int64_t rows, int32_t channels, float *sum);

struct Kernels {
  AddSquares f32, f16, bf16;
};

extern const Kernels kernels_portable, kernels_avx2, kernels_avx512, kernels_neon;

}  // namespace think::score
