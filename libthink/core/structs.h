// Public structs of any age become full copies of today's: callers may be older or newer than this library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "libthink/core/error.h"
#include "think.h"

namespace think {

static_assert(sizeof(void *) == 8, "the sizes of the public structs are those of 64-bit processors");

// Sizes that a struct had when it first appeared: fields behind are optional and read as zero when a caller does not have them.
template <class T>
inline constexpr uint32_t kFirstSize = 0;
template <> inline constexpr uint32_t kFirstSize<think_error> = 280;
template <> inline constexpr uint32_t kFirstSize<think_tensor> = 88;
template <> inline constexpr uint32_t kFirstSize<think_batch> = 40;
template <> inline constexpr uint32_t kFirstSize<think_context_options> = 64;
template <> inline constexpr uint32_t kFirstSize<think_problem> = 64;
template <> inline constexpr uint32_t kFirstSize<think_launch> = 40;
template <> inline constexpr uint32_t kFirstSize<think_extent> = 32;
template <> inline constexpr uint32_t kFirstSize<think_basis> = 64;
template <> inline constexpr uint32_t kFirstSize<think_segment> = 184;
template <> inline constexpr uint32_t kFirstSize<think_format> = 24;
template <> inline constexpr uint32_t kFirstSize<think_layout_info> = 48;
template <> inline constexpr uint32_t kFirstSize<think_score_options> = 8;
template <> inline constexpr uint32_t kFirstSize<think_moments_options> = 24;
template <> inline constexpr uint32_t kFirstSize<think_budget_options> = 32;
template <> inline constexpr uint32_t kFirstSize<think_select_options> = 24;
template <> inline constexpr uint32_t kFirstSize<think_fit_options> = 24;
template <> inline constexpr uint32_t kFirstSize<think_evict_options> = 48;
template <> inline constexpr uint32_t kFirstSize<think_prune_options> = 48;
template <> inline constexpr uint32_t kFirstSize<think_prune_result> = 80;
template <> inline constexpr uint32_t kFirstSize<think_cache_options> = 64;
template <> inline constexpr uint32_t kFirstSize<think_cache_info> = 96;

// A size above this one is an uninitialised field, and reading that many bytes would leave the caller's memory.
constexpr uint32_t kLargestStruct = 4096;

struct StructSizes {
  uint32_t first, current, alignment;
};

template <class T>
constexpr StructSizes struct_sizes() {
  static_assert(kFirstSize<T> >= 8 && sizeof(T) >= kFirstSize<T>);
  return {kFirstSize<T>, static_cast<uint32_t>(sizeof(T)), static_cast<uint32_t>(alignof(T))};
}

think_status read_struct_bytes(const Argument &argument, const void *in, void *out, StructSizes sizes, uint32_t known_flags);
// Pointers to arrays, numbers and handles: given, and aligned to what they point to.
think_status check_pointer(const Argument &argument, const void *pointer, int32_t alignment, const char *field = "");
template <class T>
static inline think_status check_array(const Argument &argument, const T *pointer) {
  return check_pointer(argument, pointer, static_cast<int32_t>(alignof(T)));
}
template <class T>
static inline think_status check_optional(const Argument &argument, const T *pointer) {
  return pointer ? check_array(argument, pointer) : THINK_OK;
}

think_status check_output_bytes(const Argument &argument, const void *out, StructSizes sizes);
void init_struct_bytes(void *out, uint32_t struct_size, const void *initial, uint32_t current);

// Copy a struct that the caller must give. Reserved fields are checked by whoever knows them.
template <class T>
static inline think_status read_struct(const Argument &argument, const T *in, T &out, uint32_t known_flags = 0) {
  return read_struct_bytes(argument, in, &out, struct_sizes<T>(), known_flags);
}

// The same, where NULL stands for the defaults.
template <class T>
static inline think_status read_options(const Argument &argument, const T *in, T &out, const T &defaults, uint32_t known_flags = 0) {
  if (in) return read_struct(argument, in, out, known_flags);
  out = defaults;
  return THINK_OK;
}

// Element `index` of an array of structs: its step is the struct_size of element 0, which all elements must have.
template <class T>
static inline think_status read_element(const Argument &element, const T *array, int32_t index, T &out, uint32_t known_flags = 0) {
  uint32_t step;
  std::memcpy(&step, array, sizeof step);
  if (index > 0) {
    if (step > kLargestStruct) step = kLargestStruct;  // element 0 was refused for it before
    const char *address = reinterpret_cast<const char *>(array) + static_cast<size_t>(step) * index;
    uint32_t own;
    std::memcpy(&own, address, sizeof own);
    if (own != step) return wrong(element, "struct_size", "expected %u as in element 0, got %u", step, own);
    array = reinterpret_cast<const T *>(address);
  }
  return read_struct(element, array, out, known_flags);
}

// A struct that receives an answer: only its size matters before.
template <class T>
static inline think_status check_output(const Argument &argument, const T *out) {
  return check_output_bytes(argument, out, struct_sizes<T>());
}

// Write the known fields of an answer. The caller's struct_size and whatever lies behind the known fields stay.
template <class T>
static inline void write_output(T *out, const T &answer) {
  const uint32_t size = out->struct_size < sizeof(T) ? out->struct_size : static_cast<uint32_t>(sizeof(T));
  std::memcpy(reinterpret_cast<char *>(out) + sizeof size, reinterpret_cast<const char *>(&answer) + sizeof size, size - sizeof size);
}

template <class T>
static inline void init_struct(T *out, uint32_t struct_size, const T &initial) {
  init_struct_bytes(out, struct_size, &initial, sizeof(T));
}

}  // namespace think
