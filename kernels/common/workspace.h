// Cuts a workspace into arrays. With no memory it only counts, so that size and layout come from the same lines of code.
#pragma once

#include <cstdint>

namespace think {

constexpr int64_t kWorkspaceAlignment = 64;

// Up to a whole number of kWorkspaceAlignment.
constexpr int64_t aligned_bytes(int64_t bytes) { return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment; }

struct Carver {
  char *base;      // NULL = counting
  int64_t offset;  // bytes so far
};

template <class T>
static inline T *take(Carver &carver, int64_t count) {
  T *memory = carver.base ? reinterpret_cast<T *>(carver.base + carver.offset) : nullptr;
  carver.offset += aligned_bytes(count * static_cast<int64_t>(sizeof(T)));
  return memory;
}

}  // namespace think
