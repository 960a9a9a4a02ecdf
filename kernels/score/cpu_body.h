// The loops of the score stage, compiled once per instruction set.
#pragma once

#include "../common/simd.h"
#include "cpu.h"

namespace think::score {
namespace {

// How far ahead of its use a row is fetched. Rows of one head: a little, into the first cache, the processor's own prefetcher does the rest. Wide rows
// (the heads of a token side by side) are summed two at a time, so that the sums move less often than the rows; that prefetcher then wants help from
// further away, into the second cache. More rows at a time lose it altogether, and so do two that are a page apart.
constexpr int64_t kNearBytes = 2048, kFarBytes = 8192, kPage = 4096;
constexpr int kBlock = kRegisters >= 32 ? 16 : 8;

template <class E, int kVectors, bool kFar = false>
inline void add_block(const char *row, int64_t stride, int64_t rows, int64_t ahead, float *sum) {
  constexpr int64_t kBytes = kVectors * kLanes * sizeof(typename E::Type);
  Vec total[kVectors];
  for (int i = 0; i < kVectors; ++i) total[i] = load(sum + i * kLanes);
  for (int64_t r = 0; r < rows; ++r, row += stride) {
    for (int64_t byte = 0; byte < kBytes; byte += 64) kFar ? prefetch_far(row + ahead + byte) : prefetch_near(row + ahead + byte);
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
  const int64_t row_bytes = channels * kSize;
  const auto rows_for = [&](int64_t bytes) { return (bytes + row_bytes - 1) / row_bytes; };
  // Rows that fit into the registers are summed there.
  if (channels == kBlock * kLanes) return add_block<E, kBlock>(row, stride, rows, rows_for(kNearBytes) * stride, sum);
  if (channels == 8 * kLanes) return add_block<E, 8>(row, stride, rows, rows_for(kNearBytes) * stride, sum);
  if (channels == 4 * kLanes) return add_block<E, 4>(row, stride, rows, rows_for(kNearBytes) * stride, sum);
  const int64_t most = row_bytes < kPage ? 2 : 1, ahead = rows_for(kFarBytes) * stride;
  for (int64_t done = 0; done < rows; done += most, row += most * stride) {
    const int64_t strip = rows - done < most ? rows - done : most;
    int32_t c = 0;
    for (; c + kBlock * kLanes <= channels; c += kBlock * kLanes) add_block<E, kBlock, true>(row + c * kSize, stride, strip, ahead, sum + c);
    for (; c + 8 * kLanes <= channels; c += 8 * kLanes) add_block<E, 8, true>(row + c * kSize, stride, strip, ahead, sum + c);
    for (; c + 4 * kLanes <= channels; c += 4 * kLanes) add_block<E, 4, true>(row + c * kSize, stride, strip, ahead, sum + c);
    for (; c + kLanes <= channels; c += kLanes) add_block<E, 1, true>(row + c * kSize, stride, strip, ahead, sum + c);
    if (c < channels) add_tail<E>(row + c * kSize, stride, strip, channels - c, sum + c);
  }
}

constexpr Kernels kKernels = {add_squares<F32>, add_squares<F16>, add_squares<BF16>};

}  // namespace
}  // namespace think::score
