// The memory that everything is measured on, and how fast this machine can read it.
#pragma once

#include <cstdint>

#include "kernels/common/parallel.h"

namespace think::bench {

// Huge pages full of numbers that are harmless as f16, bf16 and f32: |x| < 1, no NaN, no subnormal. All layouts under test are views of it.
class Arena {
 public:
  explicit Arena(int64_t bytes);
  ~Arena();
  Arena(const Arena &) = delete;
  Arena &operator=(const Arena &) = delete;

  char *data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  char *data_;
  int64_t bytes_;
};

// What a thread reads in one go, and the distance of the parts that several threads read from their own caches.
constexpr int64_t kProbeBlock = int64_t{8} << 20;

// Reads the arena once with all threads of `parallel`.
double probe_seconds_per_byte(const Arena &arena, const Parallel &parallel);

// Bytes per second of `threads` threads that each read `bytes` (in their own cache) again and again.
double cached_probe_rate(const Arena &arena, int64_t bytes, int32_t threads);

}  // namespace think::bench
