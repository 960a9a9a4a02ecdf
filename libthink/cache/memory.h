// Memory of a cache: everything through the context's allocator, counted, and never beyond the limit.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "libthink/core/context.h"

namespace think::cache {

struct Memory {
  think_context *context;
  int64_t bytes;  // handed out now
  int64_t limit;  // 0 = none
};

// NULL: no memory, or beyond the limit.
static inline void *take(Memory &memory, int64_t bytes) {
  if (memory.limit && bytes > memory.limit - memory.bytes) return nullptr;
  void *block = allocate(*memory.context, static_cast<size_t>(bytes));
  if (block) memory.bytes += bytes;
  return block;
}

static inline void give(Memory &memory, void *block, int64_t bytes) {
  if (!block) return;
  deallocate(*memory.context, block, static_cast<size_t>(bytes));
  memory.bytes -= bytes;
}

// A growing array of plain data. Room is made first, where it may fail; what follows cannot.
template <class T>
struct Array {
  static_assert(std::is_trivially_copyable_v<T>);
  T *data;
  int32_t size, capacity;

  T &operator[](int64_t index) { return data[index]; }
  const T &operator[](int64_t index) const { return data[index]; }
  void push(const T &value) { data[size++] = value; }
  void erase(int32_t first, int32_t count) {
    if (count > 0) std::memmove(data + first, data + first + count, static_cast<size_t>(size - first - count) * sizeof(T));
    size -= count;
  }
};

template <class T>
static inline bool reserve(Memory &memory, Array<T> &array, int64_t room) {
  if (room <= array.capacity) return true;
  const int64_t larger = std::min<int64_t>(INT32_MAX, std::max<int64_t>({room, int64_t{array.capacity} + array.capacity / 2, 8}));
  if (room > larger) return false;
  T *grown = static_cast<T *>(take(memory, larger * static_cast<int64_t>(sizeof(T))));
  if (!grown) return false;
  if (array.size > 0) std::memcpy(grown, array.data, static_cast<size_t>(array.size) * sizeof(T));
  give(memory, array.data, int64_t{array.capacity} * static_cast<int64_t>(sizeof(T)));
  array.data = grown;
  array.capacity = static_cast<int32_t>(larger);
  return true;
}

template <class T>
static inline void release(Memory &memory, Array<T> &array) {
  give(memory, array.data, int64_t{array.capacity} * static_cast<int64_t>(sizeof(T)));
  array = {};
}

}  // namespace think::cache
