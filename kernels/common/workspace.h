// Cuts a workspace into arrays. With no memory it only counts, so that size and layout come from the same lines of code.
#pragma once

#include <cstdint>

namespace think {

constexpr int64_t kWorkspaceAlignment = 64;

struct Carver {
  char *base;      // NULL = counting
  int64_t offset;  // bytes so far
};

template <class T>
static inline T *take(Carver &carver, int64_t count) {
  T *memory = carver.base ? reinterpret_cast<T *>(carver.base + carver.offset) : nullptr;
  carver.offset += (count * static_cast<int64_t>(sizeof(T)) + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
  return memory;
}

}  // namespace think
