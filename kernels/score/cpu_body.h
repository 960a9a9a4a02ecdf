// The loops of the score stage, compiled once per instruction set.
#pragma once

#include "../common/simd.h"
#include "cpu.h"

namespace think::score {
namespace {

// How far ahead of its use a row is fetched. Short, because the processor's own prefetcher does the rest: twice as far was slower.
constexpr int64_t kAheadBytes = 2048;
constexpr int kBlock = kRegisters >= 32 ? 16 : 8;

template <class E, int kVectors>
inline void add_block(const char *row, int64_t stride, int64_t rows, int64_t ahead, float *sum) {
  constexpr int64_t kBytes = kVectors * kLanes * sizeof(typename E::Type);
  Vec total[kVectors];
  for (int i = 0; i < kVectors; ++i) total[i] = load(sum + i * kLanes);
  for (int64_t r = 0; r < rows; ++r, row += stride) {
    for (int64_t byte = 0; byte < kBytes; byte += 64) prefetch_near(row + ahead + byte);
    const auto *x = reinterpret_cast<const typename E::Type *>(row);
    for (int i = 0; i < kVectors; ++i) {
      const Vec v = E::load(x + i * kLanes);
      total[i] = fma(v, v, total[i]);
    }
  }
  for (int i = 0; i < kVectors; ++i) store(sum + i * kLanes, total[i]);
}

// Head sizes are multiples of 8, which may leave half a vector.
template <class E>
inline void add_tail(const char *row, int64_t stride, int64_t rows, int32_t channels, float *sum) {
  float padded[kLanes] = {};
  __builtin_memcpy(padded, sum, channels * sizeof(float));
  Vec total = load(padded);
  for (int64_t r = 0; r < rows; ++r, row += stride) {
    typename E::Type x[kLanes] = {};
    __builtin_memcpy(x, row, channels * sizeof(typename E::Type));
    const Vec v = E::load(x);
    total = fma(v, v, total);
  }
  store(padded, total);
  __builtin_memcpy(sum, padded, channels * sizeof(float));
}

template <class E>
void add_squares(const char *row, int64_t stride, int64_t rows, int32_t channels, float *sum) {
  constexpr int64_t kSize = sizeof(typename E::Type);
  const int64_t row_bytes = channels * kSize, ahead = (kAheadBytes + row_bytes - 1) / row_bytes * stride;
  // Rows that fit into the registers are summed there. Wider ones are read one after the other all the same, as memory likes it best.
  const bool fits = channels == 8 * kLanes || channels == 4 * kLanes || channels == kBlock * kLanes;
  const int64_t strip = fits ? rows : 1;
  for (int64_t done = 0; done < rows; done += strip, row += strip * stride) {
    int32_t c = 0;
    for (; c + kBlock * kLanes <= channels; c += kBlock * kLanes) add_block<E, kBlock>(row + c * kSize, stride, strip, ahead, sum + c);
    for (; c + 8 * kLanes <= channels; c += 8 * kLanes) add_block<E, 8>(row + c * kSize, stride, strip, ahead, sum + c);
    for (; c + 4 * kLanes <= channels; c += 4 * kLanes) add_block<E, 4>(row + c * kSize, stride, strip, ahead, sum + c);
    for (; c + kLanes <= channels; c += kLanes) add_block<E, 1>(row + c * kSize, stride, strip, ahead, sum + c);
    if (c < channels) add_tail<E>(row + c * kSize, stride, strip, channels - c, sum + c);
  }
}

constexpr Kernels kKernels = {add_squares<F32>, add_squares<F16>, add_squares<BF16>};

}  // namespace
}  // namespace think::score
