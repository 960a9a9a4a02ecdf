// What the units of the instruction sets give to cpu.cpp.
#pragma once

#include <cstdint>

namespace think::score {

// sum[c] += square of channel c, over `rows` rows that lie `stride` bytes apart. Each channel in the order of the rows, so that it does not matter how
// many channels (at most kMaxRowChannels) are summed at once.
constexpr int32_t kMaxRowChannels = 1024;
using AddSquares = void (*)(const char *row, int64_t stride, int64_t rows, int32_t channels, float *sum);

struct Kernels {
  AddSquares f32, f16, bf16;
};

extern const Kernels kernels_portable, kernels_avx2, kernels_avx512, kernels_neon;

}  // namespace think::score
