// The order in which channels are kept: by score, equal scores in the order of the channels, a NaN first.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace think {

// What cannot be compared is kept: a healthy-looking choice would hide it.
static inline float nan_to_infinity(float score) { return std::isnan(score) ? std::numeric_limits<float>::infinity() : score; }

// place[i] = how many of the `count` come before i. No NaN among them.
static inline void rank(const float *value, int32_t count, int32_t *place) {
  for (int32_t i = 0; i < count; ++i) {
    int32_t before = 0;
    for (int32_t j = 0; j < i; ++j) before += value[j] >= value[i];
    for (int32_t j = i + 1; j < count; ++j) before += value[j] > value[i];
    place[i] = before;
  }
}

}  // namespace think
