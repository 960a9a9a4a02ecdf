// Memory and tensors of the flow tests: stored numbers with their rounding, memory between guard bytes, views with gaps. Everything that no
// call is meant to read is NaN, so that a kernel that reads it cannot go unnoticed. Shares no code with the library.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "think.h"

namespace flow {

struct FloatFormat {
  int mantissa_bits, bias;
};

inline FloatFormat format_of(think_dtype dtype) { return dtype == THINK_F16 ? FloatFormat{10, 15} : FloatFormat{7, 127}; }
inline int64_t bytes_of(think_dtype dtype) { return dtype == THINK_F32 ? 4 : 2; }

// The 16-bit pattern nearest to `value`, ties to even, by arithmetic on doubles.
inline uint16_t encode(double value, FloatFormat format) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const uint16_t infinity = static_cast<uint16_t>((1 << 15) - (1 << format.mantissa_bits));
  if (std::isnan(value)) return static_cast<uint16_t>(infinity | 1 << (format.mantissa_bits - 1));
  const double magnitude = std::fabs(value);
  if (magnitude == 0 || std::isinf(value)) return static_cast<uint16_t>(sign | (magnitude == 0 ? 0 : infinity));
  const int exponent = std::max(std::ilogb(magnitude), 1 - format.bias);
  const double steps = std::nearbyint(std::ldexp(magnitude, format.mantissa_bits - exponent));
  // The implicit leading one adds itself to the exponent field; it is missing in subnormals and doubled by a carry, and both come out
  // right.
  const int64_t pattern = (static_cast<int64_t>(exponent + format.bias - 1) << format.mantissa_bits) + static_cast<int64_t>(steps);
  return static_cast<uint16_t>(sign | std::min<int64_t>(pattern, infinity));
}

inline double decode(uint16_t pattern, FloatFormat format) {
  const double sign = pattern & 0x8000 ? -1 : 1;
  const int exponent = (pattern & 0x7fff) >> format.mantissa_bits, mantissa = pattern & ((1 << format.mantissa_bits) - 1);
  if (exponent == 2 * format.bias + 1)
    return mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - format.bias - format.mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << format.mantissa_bits), exponent - format.bias - format.mantissa_bits);
}

inline void store(void *memory, think_dtype dtype, int64_t index, double value) {
  if (dtype == THINK_F32) {
    static_cast<float *>(memory)[index] = static_cast<float>(value);
  } else {
    static_cast<uint16_t *>(memory)[index] = encode(value, format_of(dtype));
  }
}

inline double load(const void *memory, think_dtype dtype, int64_t index) {
  if (dtype == THINK_F32) return static_cast<const float *>(memory)[index];
  return decode(static_cast<const uint16_t *>(memory)[index], format_of(dtype));
}

inline double rounded(think_dtype dtype, double value) {
  if (dtype == THINK_F32) return static_cast<float>(value);
  return decode(encode(value, format_of(dtype)), format_of(dtype));
}

constexpr unsigned char kPoison = 0xff;  // NaN in f32, f16 and bf16; -1 as an integer

// Exactly `bytes` bytes, aligned to 64, between guard bytes that nobody may change.
class Memory {
 public:
  explicit Memory(int64_t bytes = 0, unsigned char fill = kPoison) : bytes_(bytes) {
    block_ = static_cast<unsigned char *>(::operator new(static_cast<size_t>(bytes) + 2 * kGuard, std::align_val_t(64)));
    std::memset(block_, kGuardByte, static_cast<size_t>(bytes) + 2 * kGuard);
    if (bytes > 0) std::memset(data(), fill, static_cast<size_t>(bytes));
  }
  Memory(Memory &&other) noexcept : block_(other.block_), bytes_(other.bytes_) { other.block_ = nullptr; }
  Memory &operator=(Memory &&other) noexcept {
    std::swap(block_, other.block_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory() {
    if (!block_) return;
    check();
    ::operator delete(block_, std::align_val_t(64));
  }

  template <class T = unsigned char>
  T *data() const {
    return reinterpret_cast<T *>(block_ + kGuard);
  }
  int64_t bytes() const { return bytes_; }
  std::vector<unsigned char> copy() const { return {data(), data() + bytes_}; }

  void check() const {
    for (size_t i = 0; i < kGuard; ++i) {
      if (block_[i] != kGuardByte) ADD_FAILURE() << "byte " << kGuard - i << " before a block of " << bytes_ << " bytes was written";
      if (data()[bytes_ + static_cast<int64_t>(i)] != kGuardByte)
        ADD_FAILURE() << "byte " << i << " behind a block of " << bytes_ << " bytes was written";
    }
  }

 private:
  static constexpr size_t kGuard = 192;  // a multiple of 64 that holds two vectors of 512 bits
  static constexpr unsigned char kGuardByte = 0xa5;
  unsigned char *block_;
  int64_t bytes_;
};

enum class Order { heads_first, tokens_first };  // [batch][head][token][channel], [batch][token][head][channel]

// Fresh rows as an engine hands them over, with `gap` unused channels behind each row.
class Tensor {
 public:
  Tensor(think_dtype dtype, int64_t batch, int64_t heads, int64_t tokens, int64_t channels, Order order = Order::heads_first,
         int64_t gap = 0)
      : memory_(batch * heads * tokens * (channels + gap) * bytes_of(dtype)) {
    const int64_t row = channels + gap;
    think_tensor_init(&view_, sizeof view_);
    view_.data = memory_.data();
    view_.dtype = dtype;
    const int64_t extent[4] = {batch, heads, tokens, channels};
    const int64_t heads_first[4] = {heads * tokens * row, tokens * row, row, 1},
                  tokens_first[4] = {heads * tokens * row, row, heads * row, 1};
    std::copy(extent, extent + 4, view_.extent);
    std::copy_n(order == Order::heads_first ? heads_first : tokens_first, 4, view_.stride);
  }
  const think_tensor *view() const { return &view_; }
  const Memory &memory() const { return memory_; }
  double get(int64_t b, int64_t h, int64_t t, int64_t c) const { return load(view_.data, view_.dtype, position(b, h, t, c)); }
  void set(int64_t b, int64_t h, int64_t t, int64_t c, double value) { store(view_.data, view_.dtype, position(b, h, t, c), value); }

 private:
  int64_t position(int64_t b, int64_t h, int64_t t, int64_t c) const {
    return b * view_.stride[0] + h * view_.stride[1] + t * view_.stride[2] + c;
  }
  Memory memory_;
  think_tensor view_;
};

}  // namespace flow
