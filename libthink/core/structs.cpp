#include "libthink/core/structs.h"

namespace think {

think_status read_struct_bytes(const Argument &argument, const void *in, void *out, StructSizes sizes, uint32_t known_flags) {
  if (!in) return null_pointer(argument);
  if (reinterpret_cast<uintptr_t>(in) % sizes.alignment) return wrong(argument, "", "expected an address that is a multiple of %u", sizes.alignment);
  uint32_t head[2];
  std::memcpy(head, in, sizeof head[0]);
  const uint32_t size = head[0];
  if (size < sizes.first || size > kLargestStruct) {
    return wrong(argument, "struct_size", "expected %u (sizeof of the struct), got %u", sizes.current, size);
  }
  std::memcpy(head, in, sizeof head);
  const uint32_t known = size < sizes.current ? size : sizes.current;
  for (uint32_t at = known; at < size; ++at) {
    if (static_cast<const unsigned char *>(in)[at]) {
      return unsupported(argument, "struct_size", "byte %u is set, this library (%d.%d) knows the first %u bytes only", at, THINK_VERSION_MAJOR,
                         THINK_VERSION_MINOR, sizes.current);
    }
  }
  if (head[1] & ~known_flags) return wrong(argument, "flags", "expected a combination of 0x%x, got 0x%x", known_flags, head[1]);
  std::memset(out, 0, sizes.current);
  std::memcpy(out, in, known);
  std::memcpy(out, &sizes.current, sizeof sizes.current);
  return THINK_OK;
}

think_status check_pointer(const Argument &argument, const void *pointer, int32_t alignment, const char *field) {
  if (!pointer) return null_pointer(argument, field);
  if (reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(alignment)) {
    return wrong(argument, field, "expected an address that is a multiple of %d, got %p", alignment, pointer);
  }
  return THINK_OK;
}

think_status check_output_bytes(const Argument &argument, const void *out, StructSizes sizes) {
  if (!out) return null_pointer(argument);
  if (reinterpret_cast<uintptr_t>(out) % sizes.alignment) return wrong(argument, "", "expected an address that is a multiple of %u", sizes.alignment);
  uint32_t size;
  std::memcpy(&size, out, sizeof size);
  if (size < sizes.first || size > kLargestStruct) {
    return wrong(argument, "struct_size", "expected %u (sizeof of the struct), got %u", sizes.current, size);
  }
  return THINK_OK;
}

void init_struct_bytes(void *out, uint32_t struct_size, const void *initial, uint32_t current) {
  if (!out || struct_size < sizeof struct_size || struct_size > kLargestStruct) return;
  std::memset(out, 0, struct_size);
  std::memcpy(out, initial, struct_size < current ? struct_size : current);
  std::memcpy(out, &struct_size, sizeof struct_size);
}

}  // namespace think
