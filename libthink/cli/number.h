// Numbers in the three element types that the library knows, read from memory of any alignment; and the memory itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "think/tensor.h"

namespace think::cli {

// Memory aligned for the library, not initialised unless asked.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes, bool zero = false);
  std::byte *data() { return memory_.get(); }
  const std::byte *data() const { return memory_.get(); }
  int64_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {memory_.get(), static_cast<size_t>(size_)}; }
  template <class T>
  T *as() {
    return reinterpret_cast<T *>(memory_.get());
  }

 private:
  struct Free {
    void operator()(std::byte *memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  int64_t size_ = 0;
};

// Bytes of an element; the same as think_dtype_bytes(), for code that does not link the library.
inline int32_t element_bytes(think_dtype dtype) { return (dtype >> 8 & 0xff) / 8; }

float half_value(uint16_t bits);  // exact
float bfloat_value(uint16_t bits);
float number_at(const std::byte *data, think_dtype dtype, int64_t index);

// Index of the first NaN or infinity, -1 when all are finite.
int64_t first_not_finite(const std::byte *data, think_dtype dtype, int64_t count);
// Index of the first number that f16 cannot hold (its rounded magnitude would be infinite), -1 when there is none.
int64_t first_above_half(const std::byte *data, think_dtype dtype, int64_t count);
// [1, 5, 7] for an index into an array of this shape.
std::string position_text(const std::vector<int64_t> &shape, int64_t index);

}  // namespace think::cli
