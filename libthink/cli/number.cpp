#include "number.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

namespace think::cli {

Buffer::Buffer(int64_t bytes, bool zero) : size_(bytes) {
  if (bytes <= 0) {
    size_ = 0;
    return;
  }
  constexpr size_t kAlignment = 64;
  if (static_cast<uint64_t>(bytes) > std::numeric_limits<size_t>::max() - kAlignment) throw std::bad_alloc();
  const size_t rounded = (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
  memory_.reset(static_cast<std::byte *>(std::aligned_alloc(kAlignment, rounded)));
  if (!memory_) throw std::bad_alloc();
  if (zero) std::memset(memory_.get(), 0, rounded);
}

namespace {

// All 65,536 values once: a layer has hundreds of millions of numbers.
std::array<float, 65536> make_half_table() {
  std::array<float, 65536> table;
  for (uint32_t bits = 0; bits < table.size(); ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31), fraction = static_cast<int>(bits & 1023);
    float magnitude;
    if (exponent == 31) {
      magnitude = fraction ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    } else if (exponent == 0) {
      magnitude = std::ldexp(static_cast<float>(fraction), -24);
    } else {
      magnitude = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    }
    table[bits] = bits & 0x8000 ? -magnitude : magnitude;
  }
  return table;
}

template <class T>
T load(const std::byte *data, int64_t index) {
  T value;
  std::memcpy(&value, data + index * static_cast<int64_t>(sizeof(T)), sizeof value);
  return value;
}

// A number is not finite when all bits of its exponent are set.
template <class T>
int64_t first_with_exponent(const std::byte *data, int64_t count, T exponent) {
  for (int64_t index = 0; index < count; ++index) {
    if ((load<T>(data, index) & exponent) == exponent) return index;
  }
  return -1;
}

}  // namespace

float half_value(uint16_t bits) {
  static const std::array<float, 65536> table = make_half_table();
  return table[bits];
}

float bfloat_value(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

float number_at(const std::byte *data, think_dtype dtype, int64_t index) {
  if (dtype == THINK_F32) return load<float>(data, index);
  const uint16_t bits = load<uint16_t>(data, index);
  return dtype == THINK_F16 ? half_value(bits) : bfloat_value(bits);
}

int64_t first_not_finite(const std::byte *data, think_dtype dtype, int64_t count) {
  if (dtype == THINK_F32) return first_with_exponent<uint32_t>(data, count, 0x7f800000u);
  return first_with_exponent<uint16_t>(data, count, dtype == THINK_F16 ? 0x7c00 : 0x7f80);
}

int64_t first_above_half(const std::byte *data, think_dtype dtype, int64_t count) {
  if (dtype == THINK_F16) return -1;
  // 65504 is the largest f16; from 65520 on rounding to nearest gives infinity.
  for (int64_t index = 0; index < count; ++index) {
    if (!(std::fabs(number_at(data, dtype, index)) < 65520.0f)) return index;
  }
  return -1;
}

std::string position_text(const std::vector<int64_t> &shape, int64_t index) {
  std::string text = "]";
  for (size_t axis = shape.size(); axis-- > 0;) {
    const int64_t extent = shape[axis] > 0 ? shape[axis] : 1;
    text = (axis ? ", " : "[") + std::to_string(index % extent) + text;
    index /= extent;
  }
  return shape.empty() ? "[]" : text;
}

}  // namespace think::cli
