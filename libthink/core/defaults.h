// What 0 and -1 mean in options that think_prune() and its stages share.
#pragma once

#include <cstdint>

namespace think {

inline constexpr int32_t kDefaultSinks = 4, kDefaultRecent = 32;
inline constexpr float kDefaultAttentionShare = 0.9f, kDefaultRidge = 1e-3f;

// 0 = the default, -1 = none.
inline int32_t count_option(int32_t value, int32_t otherwise) { return value == 0 ? otherwise : value == -1 ? 0 : value; }
inline float share_option(float value, float otherwise) { return value == 0 ? otherwise : value == -1 ? 0.0f : value; }

}  // namespace think
