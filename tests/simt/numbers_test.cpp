// 16-bit arithmetic against its definition: of all 16-bit numbers the one nearest to the exact result, ties to even.
#include <cmath>
#include <random>

#include "run_kernel.h"

namespace think::simt_test {
namespace {

// Value of a finite 16-bit number from its bits, by the formula of the format.
template <bool Half>
__float128 value_of(uint32_t bits) {
  const int32_t mantissa_bits = Half ? 10 : 7, bias = Half ? 15 : 127;
  const int32_t exponent = static_cast<int32_t>(bits >> mantissa_bits & (Half ? 0x1f : 0xff)),
                mantissa = static_cast<int32_t>(bits & ((1u << mantissa_bits) - 1));
  __float128 value = exponent ? mantissa + (1 << mantissa_bits) : mantissa;
  for (int32_t e = (exponent ? exponent : 1) - bias - mantissa_bits; e > 0; --e) value *= 2;
  for (int32_t e = (exponent ? exponent : 1) - bias - mantissa_bits; e < 0; ++e) value /= 2;
  return bits & 0x8000 ? -value : value;
}

// Whether `bits` is what an exact result rounds to.
template <bool Half>
bool is_nearest(uint32_t bits, __float128 exact) {
  const uint32_t infinity = Half ? 0x7c00 : 0x7f80;
  const __float128 largest = value_of<Half>(infinity - 1), step = largest - value_of<Half>(infinity - 2);
  if ((bits & 0x7fff) > infinity) return false;
  const __float128 magnitude = exact < 0 ? -exact : exact;
  if (magnitude >= largest + step / 2) return (bits & 0x7fff) == infinity && (bits >> 15 != 0) == (exact < 0);
  if ((bits & 0x7fff) == infinity) return false;
  const auto distance = [&](uint32_t candidate) {
    const __float128 d = value_of<Half>(candidate) - exact;
    return d < 0 ? -d : d;
  };
  const __float128 own = distance(bits);
  const uint32_t sign = bits & 0x8000, size = bits & 0x7fff;
  const uint32_t neighbours[] = {size ? bits - 1 : (sign ^ 0x8000) | 1, size + 1 < infinity ? bits + 1 : bits};
  for (uint32_t neighbour : neighbours) {
    if (neighbour == bits) continue;
    const __float128 other = distance(neighbour);
    if (other < own || (other == own && (bits & 1))) return false;
  }
  return true;
}

// Finite numbers, many with exponents close to each other, many subnormal.
template <bool Half>
uint32_t draw(std::mt19937 &random) {
  for (;;) {
    const uint32_t bits = random() % 4 == 0 ? random() & 0x83ff : random() & 0xffff;
    if ((bits & 0x7fff) < (Half ? 0x7c00u : 0x7f80u)) return bits;
  }
}

template <class T>
void check_arithmetic() {
  constexpr bool kHalf = IsF16<T>::value;
  std::mt19937 random(11);
  int32_t exact = 0;
  for (int32_t i = 0; i < 30000; ++i) {
    const uint32_t a = draw<kHalf>(random), b = draw<kHalf>(random), c = draw<kHalf>(random);
    const __float128 x = value_of<kHalf>(a), y = value_of<kHalf>(b), z = value_of<kHalf>(c);
    const __float128 product = x * y, sum = product + z;
    exact += sum - product == z && sum - z == product;  // else 113 bits are too few for the oracle
    if (sum - product == z && sum - z == product) ASSERT_TRUE(is_nearest<kHalf>(fma2<T>(a, b, c) & 0xffff, sum)) << a << " " << b << " " << c;
    ASSERT_TRUE(is_nearest<kHalf>(add2<T>(a, b) & 0xffff, x + y)) << a << " " << b;
    ASSERT_TRUE(is_nearest<kHalf>(sub2<T>(a, b) & 0xffff, x - y)) << a << " " << b;
    ASSERT_TRUE(is_nearest<kHalf>(mul2<T>(a << 16, b << 16) >> 16, x * y)) << a << " " << b;
    ASSERT_EQ(max2<T>(a, b) & 0xffff, x > y || (x == y && !(a & 0x8000)) ? a : b);
    ASSERT_EQ(min2<T>(a, b) & 0xffff, x < y || (x == y && (a & 0x8000)) ? a : b);
    const float single = static_cast<float>(x) * (1.0f + static_cast<float>(static_cast<int32_t>(random() % 2001) - 1000) * 1e-6f);
    ASSERT_TRUE(is_nearest<kHalf>(from_float<T>(single).bits, single)) << single;
    const uint32_t pair = pack<T>(static_cast<float>(x), static_cast<float>(y));
    ASSERT_EQ(pair, a | b << 16);
    ASSERT_EQ(unpack<T>(pair).x, static_cast<float>(x));
    ASSERT_EQ(unpack<T>(pair).y, static_cast<float>(y));
  }
  EXPECT_GT(exact, 10000);
}

TEST(Numbers, F16) { check_arithmetic<F16>(); }
TEST(Numbers, Bf16) { check_arithmetic<BF16>(); }

TEST(Numbers, Specials) {
  EXPECT_EQ(to_float(F16{0x7c00}), INFINITY);
  EXPECT_TRUE(std::isnan(to_float(F16{0x7e00})));
  EXPECT_EQ(from_float<F16>(65520.0f).bits, 0x7c00);
  EXPECT_EQ(max2<F16>(0x7e00, 0x3c00) & 0xffff, 0x3c00u);  // a NaN loses
  EXPECT_EQ(max2<F16>(0x3c00, 0x7e00) & 0xffff, 0x3c00u);
  EXPECT_EQ(min2<BF16>(0x7fc0, 0x3f80) & 0xffff, 0x3f80u);
  EXPECT_EQ(fma2<F16>(0x7c00, 0x3c00, 0x3c00) & 0xffff, 0x7c00u);
  EXPECT_GT(fma2<F16>(0x7c00, 0x3c00, 0xfc00) & 0x7fff, 0x7c00u);
  EXPECT_EQ(exp2_fast(-INFINITY), 0.0f);
  EXPECT_EQ(exp2_fast(10.0f), 1024.0f);
  EXPECT_EQ(log2_fast(0.0f), -INFINITY);
  EXPECT_EQ(reciprocal_fast(4.0f), 0.25f);
  EXPECT_EQ(rsqrt_fast(4.0f), 0.5f);
  EXPECT_EQ(exp2_fast(-140.0f), 0.0f);  // flushed
}

TEST(Numbers, Bits) {
  EXPECT_EQ(permute_bytes(0x33221100, 0x77665544, 0x7410), 0x77441100u);
  EXPECT_EQ(permute_bytes(0x80, 0, 0x8888), 0xffffffffu);
  EXPECT_EQ(count_bits(0xf0f0), 8);
  EXPECT_EQ(leading_zeros(0), 32);
  EXPECT_EQ(leading_zeros(1), 31);
  EXPECT_EQ(trailing_zeros(0), 32);
  EXPECT_EQ(trailing_zeros(8), 3);
  EXPECT_EQ(as_float(as_bits(1.5f)), 1.5f);
}

}  // namespace
}  // namespace think::simt_test
