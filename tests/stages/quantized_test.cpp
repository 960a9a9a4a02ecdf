// Tiles of codes: their bytes against files made from index tables (tests/vectors/quantized.py), what they lose, and what becomes of numbers that f16 does not
// hold.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "compact_case.h"
#include "instruction_sets.h"
#include "kernels/compact/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace think {
namespace {

constexpr Parallel kSerial = {1, nullptr, nullptr};

// One head and one tile, through the stage: rows of f32 (or of 16 bits) to a tile of codes, and back to rows of f32.
struct Tile {
  bool keys;
  think_dtype dtype;
  int32_t channels, tokens;
  std::vector<float> rows;  // [token][channel]
  std::vector<uint8_t> bytes;
  float scale = 1;  // of F8
  think_dtype short_dtype = THINK_F16;
  std::vector<uint16_t> short_rows;  // in place of `rows`, if any

  Tile(bool keys_, think_dtype dtype_, int32_t channels_, int32_t tokens_) : keys(keys_), dtype(dtype_), channels(channels_), tokens(tokens_) {
    rows.resize(static_cast<size_t>(channels) * tokens);
    bytes.assign(static_cast<size_t>((keys ? key_tile(channels, dtype) : value_tile(channels, dtype)).bytes), 0xee);
  }
  float &at(int32_t channel, int32_t token) { return rows[static_cast<size_t>(token) * channels + channel]; }

  compact::Arguments arguments(void *numbers, think_dtype numbers_dtype, bool to_codes) {
    Shape shape{};
    shape.query_heads = shape.kv_heads = shape.group = shape.max_batch = 1;
    shape.key_channels = shape.value_channels = channels;
    think_segment dense = THINK_SEGMENT_INIT, codes = THINK_SEGMENT_INIT;
    dense.lengths = codes.lengths = &tokens;
    dense.lengths_stride[0] = codes.lengths_stride[0] = 1;
    (keys ? dense.key : dense.value) = numbers;
    (keys ? codes.key : codes.value) = bytes.data();
    dense.key_dtype = dense.value_dtype = numbers_dtype;
    codes.key_dtype = codes.value_dtype = dtype;
    codes.key_layout = codes.value_layout = THINK_TILES;
    codes.key_scale = codes.value_scale = &scale;
    return {shape, to_codes ? dense : codes, to_codes ? codes : dense, {1, nullptr, nullptr, nullptr}};
  }
  void encode(int32_t isa) {
    const bool is_short = !short_rows.empty();
    void *numbers = is_short ? static_cast<void *>(short_rows.data()) : rows.data();
    compact::compact(isa, arguments(numbers, is_short ? short_dtype : THINK_F32, true), kSerial, {0, 1});
  }
  std::vector<float> decoded(int32_t isa) {
    std::vector<float> numbers(rows.size());
    compact::compact(isa, arguments(numbers.data(), THINK_F32, false), kSerial, {0, 1});
    return numbers;
  }
};

class Quantized : public testing::TestWithParam<int32_t> {};
INSTANTIATE_TEST_SUITE_P(Isa, Quantized, testing::ValuesIn(test::instruction_sets()), [](const auto &set) { return std::string(test::isa_name(set.param)); });

TEST_P(Quantized, BytesOfTheFile) {
  const std::vector<test::GoldenTile> golden = test::golden_tiles(THINK_TEST_VECTORS "/quantized.txt");
  EXPECT_EQ(golden.size(), 20u);
  for (const test::GoldenTile &expected : golden) {
    Tile tile(expected.keys, expected.dtype, expected.channels, expected.tokens);
    tile.rows = expected.rows;
    tile.scale = expected.scale;
    tile.encode(GetParam());
    EXPECT_EQ(expected.bytes, tile.bytes) << expected.name;
  }
}

// Every number comes back to half a step of its group, whatever its size; groups of equal numbers come back exactly.
TEST_P(Quantized, LosesHalfAStep) {
  uint32_t random = 1;
  const auto uniform = [&] { return static_cast<float>((random = random * 1664525u + 1013904223u) >> 8) / (1 << 24); };
  for (const bool keys : {true, false}) {
    for (const think_dtype dtype : {THINK_U8, THINK_U4, THINK_U2}) {
      for (int32_t channels = keys ? 1 : 8; channels <= 136; channels += keys ? 1 : 8) {
        const int32_t tokens = channels % 3 == 0 ? 32 : 1 + channels * 7 % 32;
        Tile tile(keys, dtype, channels, tokens);
        for (int32_t t = 0; t < tokens; ++t) {
          for (int32_t c = 0; c < channels; ++c) {
            const int32_t group = keys ? c : value_group(channels, c) * kTileTokens + t;
            tile.at(c, t) = group % 5 == 0 ? 1.5f : std::ldexp(uniform() - 0.3f, group % 29 - 12) + static_cast<float>(group % 7) * 10;
          }
        }
        tile.encode(GetParam());
        const std::vector<float> back = tile.decoded(GetParam());
        for (int32_t t = 0; t < tokens; ++t) {
          for (int32_t c = 0; c < channels; ++c) {
            float least = INFINITY, most = -INFINITY;
            for (int32_t u = keys ? 0 : t; u < (keys ? tokens : t + 1); ++u) {
              for (int32_t d = keys ? c : 0; d < (keys ? c + 1 : channels); ++d) {
                if (!keys && value_group(channels, d) != value_group(channels, c)) continue;
                least = std::min(least, tile.at(d, u));
                most = std::max(most, tile.at(d, u));
              }
            }
            // The zero may be one f16 below the least number, and the scale is rounded.
            const double span = (most - least) + std::fabs(least) * 0x1p-10 + 0x1p-24;
            const double step = span / most_code(dtype) * (1 + 0x1p-10), far = span * 0x1p-11;
            const float x = tile.at(c, t), y = back[static_cast<size_t>(t) * channels + c];
            if (least == most && x == 1.5f) {
              ASSERT_EQ(x, y);
            } else {
              ASSERT_NEAR(x, y, step / 2 + far + most_code(dtype) * 0x1p-25) << channels << " channels, " << c << ", token " << t;
            }
          }
        }
      }
    }
  }
}

// A scale that was rounded up must not carry the largest code beyond f16: rows of f16 would hold an infinity.
TEST_P(Quantized, NoCodeIsBeyondF16) {
  for (const bool keys : {true, false}) {
    for (const think_dtype dtype : {THINK_U8, THINK_U4, THINK_U2}) {
      Tile tile(keys, dtype, 32, 32);
      for (int32_t group = 0; group < 32; ++group) {
        const float low = group == 0 ? -65504.0f : 65504.0f - static_cast<float>(group * group) * 64;
        for (int32_t i = 0; i < 32; ++i) tile.at(keys ? group : i, keys ? i : group) = i % 2 ? 65504.0f : i % 3 ? low : (low + 65504.0f) / 2;
      }
      tile.encode(GetParam());
      for (const float y : tile.decoded(GetParam())) {
        ASSERT_LE(y, 65504.0f);
        ASSERT_GE(y, -65504.0f);
      }
    }
  }
}

// -0 is 0, wherever it stands: a group of zeros has one form.
TEST_P(Quantized, ZerosOfBothSigns) {
  for (const bool keys : {true, false}) {
    for (const think_dtype dtype : {THINK_U8, THINK_U4, THINK_U2}) {
      Tile tile(keys, dtype, 8, 32);
      for (int32_t t = 0; t < 32; ++t) {
        for (int32_t c = 0; c < 8; ++c) tile.at(c, t) = (keys ? c < 4 || t % 3 : t < 16 || c % 3) ? -0.0f : 0.0f;
      }
      tile.encode(GetParam());
      for (const uint8_t byte : tile.bytes) ASSERT_EQ(byte, 0);
    }
  }
}

TEST_P(Quantized, NumbersThatF16DoesNotHold) {
  for (const bool keys : {true, false}) {
    for (const think_dtype dtype : {THINK_U8, THINK_U4, THINK_U2}) {
      Tile tile(keys, dtype, 8, 8);
      for (float &x : tile.rows) x = 1;
      for (int32_t i = 0; i < 8; ++i) {
        tile.at(keys ? 1 : i, keys ? i : 1) = 3e38f;
        tile.at(keys ? 2 : i, keys ? i : 2) = i % 2 ? 1e5f : -1e5f;
      }
      tile.at(3, 3) = std::nanf("");
      tile.at(4, 4) = -INFINITY;
      tile.encode(GetParam());
      const std::vector<float> back = tile.decoded(GetParam());
      for (int32_t t = 0; t < 8; ++t) {
        for (int32_t c = 0; c < 8; ++c) {
          const int32_t group = keys ? c : t;
          const float y = back[static_cast<size_t>(t) * 8 + c];
          if (group == 1) EXPECT_EQ(y, 65504.0f);
          if (group == 2) EXPECT_NEAR(y, (keys ? t : c) % 2 ? 65504.0f : -65504.0f, 65504 * 0x1p-9);
          if (group == 3 || group == 4) EXPECT_TRUE(std::isnan(y));
          if (group == 0 || group > 4) EXPECT_EQ(y, 1.0f);
        }
      }
    }
  }
}

// What a code of F8 is, from the definition of e4m3; exact in double.
double f8_number(int32_t code) {
  const int32_t exponent = code >> 3 & 15, fraction = code & 7;
  if (exponent == 15 && fraction == 7) return std::nan("");
  const double magnitude = exponent ? std::ldexp(8 + fraction, exponent - 10) : std::ldexp(fraction, -9);
  return code & 0x80 ? -magnitude : magnitude;
}

// 256 numbers at a time through tiles of keys and of values, there (codes) or back (numbers), on one instruction set.
template <class Check>
void with_f8_tiles(int32_t isa, float scale, const std::vector<float> &numbers, const Check &check) {
  ASSERT_EQ(numbers.size(), 256u);
  for (const bool keys : {true, false}) {
    for (const int32_t channels : {8, 32}) {  // narrow and whole blocks of values
      Tile tile(keys, THINK_F8_E4M3, channels, 256 / 8);
      tile.scale = scale;
      const auto which = [&](int32_t c, int32_t t) { return static_cast<size_t>((t * 8 + c % 8) % 256); };
      for (int32_t t = 0; t < 32; ++t) {
        for (int32_t c = 0; c < channels; ++c) tile.at(c, t) = numbers[which(c, t)];
      }
      tile.encode(isa);
      const std::vector<float> back = tile.decoded(isa);
      for (int32_t t = 0; t < 32; ++t) {
        for (int32_t c = 0; c < channels; ++c) {
          const CodePlace place = keys ? key_code(THINK_F8_E4M3, c, t) : value_code(THINK_F8_E4M3, channels, c, t);
          check(which(c, t), tile.bytes[static_cast<size_t>(place.byte)], back[static_cast<size_t>(t) * channels + c]);
        }
      }
    }
  }
}

TEST_P(Quantized, EveryCodeOfF8) {
  for (const float scale : {1.0f, 0.25f, 0x1p-20f, 0x1p40f}) {
    std::vector<float> numbers;
    for (int32_t code = 0; code < 256; ++code) {
      const float scalar = f8_to_f32(static_cast<uint32_t>(code));
      if (code % 128 == 127) ASSERT_TRUE(std::isnan(scalar));
      else ASSERT_EQ(f8_number(code), scalar);
      numbers.push_back(static_cast<float>(f8_number(code)) * scale);
    }
    with_f8_tiles(GetParam(), scale, numbers, [&](size_t code, uint8_t stored, float back) {
      if (code % 128 == 127) {
        EXPECT_EQ(stored & 0x7f, 0x7f);
        EXPECT_TRUE(std::isnan(back));
      } else {
        EXPECT_EQ(stored, code);
        EXPECT_EQ(back, numbers[code]);
        EXPECT_EQ(std::signbit(back), code >= 128);
      }
    });
  }
}

// Between two codes, half way the even one; and what lies just beside that.
TEST_P(Quantized, RoundsToTheNearestF8) {
  for (const int beside : {-1, 0, 1}) {
    for (const float sign : {1.0f, -1.0f}) {
      std::vector<float> numbers(256, 0.0f);
      std::vector<int32_t> expected(256, 0);
      for (int32_t code = 0; code < 126; ++code) {
        const float half = static_cast<float>((f8_number(code) + f8_number(code + 1)) / 2);
        const auto at = static_cast<size_t>(code);
        numbers[at] = sign * (beside == 0 ? half : std::nextafter(half, beside < 0 ? 0.0f : 1e9f));
        expected[at] = (beside < 0 ? code : beside > 0 ? code + 1 : code + code % 2) | (sign < 0 ? 0x80 : 0);
        numbers[at + 128] = sign * std::nextafter(static_cast<float>(f8_number(code)), beside < 0 ? 0.0f : 1e9f);
        expected[at + 128] = code | (sign < 0 ? 0x80 : 0);
      }
      with_f8_tiles(GetParam(), 1, numbers, [&](size_t at, uint8_t stored, float) {
        if (at % 128 < 126) EXPECT_EQ(stored, expected[at]) << numbers[at];
      });
      for (size_t at = 0; at < 256; ++at) {
        if (at % 128 < 126) EXPECT_EQ(f8_code_of(numbers[at], 1), static_cast<uint32_t>(expected[at])) << numbers[at];
      }
    }
  }
}

// Finite numbers beyond 448 become that; what is not finite becomes NaN, alone.
TEST_P(Quantized, F8Saturates) {
  std::vector<float> numbers(256, 1.0f);
  const std::vector<std::pair<float, int32_t>> cases = {{449.0f, 0x7e}, {464.0f, 0x7e}, {1e5f, 0x7e}, {3e38f, 0x7e}, {-480.0f, 0xfe}, {-3e38f, 0xfe},
                                                        {INFINITY, 0x7f}, {-INFINITY, 0xff}, {1e-40f, 0}, {0x1p-11f, 0}, {-0.0f, 0x80}};
  for (size_t i = 0; i < cases.size(); ++i) numbers[i] = cases[i].first;
  numbers[255] = std::nanf("");
  with_f8_tiles(GetParam(), 1, numbers, [&](size_t at, uint8_t stored, float back) {
    if (at < cases.size()) EXPECT_EQ(stored, cases[at].second) << numbers[at];
    else if (at == 255) EXPECT_TRUE((stored & 0x7f) == 0x7f && std::isnan(back));
    else EXPECT_EQ(back, 1.0f);
  });
  // A product beyond f32 is finite all the same.
  for (float &x : numbers) x = 3e38f;
  with_f8_tiles(GetParam(), 0x1p-30f, numbers, [](size_t, uint8_t stored, float) { EXPECT_EQ(stored, 0x7e); });
}

uint32_t stored_code(const Tile &tile, int32_t c, int32_t t) {
  return load_code(tile.bytes.data(), tile.dtype, tile.keys ? key_code(tile.dtype, c, t) : value_code(tile.dtype, tile.channels, c, t));
}

// Every f16 that there is, by scales from one end to the other; `made` makes the codes of a tile.
template <class Made>
void expect_every_f16_becomes_its_f8(const Made &made) {
  for (const bool keys : {true, false}) {
    for (const int32_t channels : {32, 40}) {
      for (const float scale : {1.0f, 0.7f, 3.0f, 0x1p-9f, 1.3e-6f, 1e5f, 0x1p-100f, 0x1p100f}) {
        for (int32_t first = 0; first < 0x10000; first += channels * kTileTokens) {
          Tile tile(keys, THINK_F8_E4M3, channels, kTileTokens);
          tile.scale = scale;
          for (int32_t i = 0; i < channels * kTileTokens; ++i) tile.short_rows.push_back(static_cast<uint16_t>(first + i));
          made(tile);
          for (int32_t i = 0; i < channels * kTileTokens; ++i) {
            const float x = f16_to_f32(tile.short_rows[static_cast<size_t>(i)]);
            ASSERT_EQ(stored_code(tile, i % channels, i / channels), f8_code_of(x, 1.0f / scale)) << x << " by " << scale;
          }
        }
      }
    }
  }
}

TEST_P(Quantized, EveryF16BecomesItsF8) {
  expect_every_f16_becomes_its_f8([](Tile &tile) { tile.encode(GetParam()); });
}

// Lines of ordinary numbers in any order, as they are looked up, by scales of every power of two and digit.
TEST_P(Quantized, OrdinaryF16BecomesItsF8) {
  std::mt19937 random(5);
  std::vector<uint16_t> numbers;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7c00) != 0x7c00 && (bits & 0x7c00) != 0) numbers.push_back(static_cast<uint16_t>(bits));
  }
  for (int32_t round = 0; round < 48; ++round) {
    Tile tile(round % 2, THINK_F8_E4M3, 32, kTileTokens);
    tile.scale = std::ldexp(1 + static_cast<float>(random() & 0x7fffff) * 0x1p-23f, round < 40 ? round - 24 : static_cast<int32_t>(random() % 200) - 100);
    std::shuffle(numbers.begin(), numbers.end(), random);
    for (size_t first = 0; first < numbers.size(); first += 32 * kTileTokens) {
      tile.short_rows.assign(numbers.begin() + static_cast<int64_t>(first), numbers.begin() + static_cast<int64_t>(first) + 32 * kTileTokens);
      tile.encode(GetParam());
      for (int32_t i = 0; i < 32 * kTileTokens; ++i) {
        const float x = f16_to_f32(tile.short_rows[static_cast<size_t>(i)]);
        ASSERT_EQ(stored_code(tile, i % 32, i / 32), f8_code_of(x, 1.0f / tile.scale)) << x << " by " << tile.scale;
      }
    }
  }
}

#if defined(__x86_64__)
// The tests above would pass as well if nothing were ever looked up.
TEST(F8, OrdinaryScalesAreLookedUp) {
#if THINK_HAVE_AVX512
  const std::vector<int32_t> isas = test::instruction_sets();
  if (std::find(isas.begin(), isas.end(), THINK_ISA_AVX512) == isas.end()) GTEST_SKIP() << "no AVX-512 here";
  std::mt19937 random(6);
  compact::F8Steps steps;
  for (int32_t exponent = -37; exponent < 100; ++exponent) {
    EXPECT_TRUE(compact::kernels_avx512.find_f8_steps(std::ldexp(1.0f, exponent), steps)) << exponent;
    EXPECT_TRUE(compact::kernels_avx512.find_f8_steps(std::ldexp(1 + static_cast<float>(random() & 0x7fffff) * 0x1p-23f, exponent), steps)) << exponent;
  }
#else
  GTEST_SKIP() << "built without AVX-512";
#endif
}

// With another rounding, which some hosts choose, codes still are those of the scalar rules under it.
TEST_P(Quantized, FollowsTheRoundingOfTheHost) {
  std::mt19937 random(8);
  for (const unsigned mode : {_MM_ROUND_DOWN, _MM_ROUND_UP, _MM_ROUND_TOWARD_ZERO}) {
    for (const think_dtype dtype : {THINK_U2, THINK_F8_E4M3}) {
      Tile tile(false, dtype, 128, kTileTokens);
      tile.scale = 0.7f;
      for (size_t i = 0; i < tile.rows.size(); ++i) tile.short_rows.push_back(static_cast<uint16_t>(random() & 0xbfff));
      const unsigned usual = _mm_getcsr();
      _mm_setcsr((usual & ~static_cast<unsigned>(_MM_ROUND_MASK)) | mode);
      tile.encode(GetParam());
      Tile plain = tile;
      plain.encode(THINK_ISA_PORTABLE);
      _mm_setcsr(usual);
      EXPECT_EQ(tile.bytes, plain.bytes) << mode;
    }
  }
}

// Does the processor widen subnormal f16 where it takes subnormal f32 for zeros? Its makers say so; qemu 7.2 does not.
__attribute__((target("f16c"))) bool widens_subnormal_f16() {
  const unsigned usual = _mm_getcsr();
  _mm_setcsr(usual | _MM_DENORMALS_ZERO_ON);
  const volatile uint16_t least = 1;
  const volatile float wide = _cvtsh_ss(least);
  _mm_setcsr(usual);
  return wide > 0;
}

// Also in a host that has its processor take subnormal f32 for zeros: an f16 that is subnormal is none as f32.
TEST_P(Quantized, F8OfSubnormalF16WhereF32HasNone) {
  if (GetParam() == 0) GTEST_SKIP() << "the portable code widens f16 by a product with a subnormal f32";
  if (!widens_subnormal_f16()) GTEST_SKIP() << "this processor, or what emulates one, takes subnormal f16 for zeros as well";
  expect_every_f16_becomes_its_f8([](Tile &tile) {
    const unsigned usual = _mm_getcsr();
    _mm_setcsr(usual | _MM_DENORMALS_ZERO_ON);
    tile.encode(GetParam());
    _mm_setcsr(usual);
  });
}
#endif

// Groups of 16 bits, of one sign and of both, with codes that begin close to 0, with zeros, subnormals and what is not finite among them: scale, zero and codes
// as the scalar rules say.
TEST_P(Quantized, ShortNumbersFollowTheRules) {
  std::mt19937 random(11);
  for (int32_t round = 0; round < 120; ++round) {
    const bool keys = round % 2;
    const int32_t channels = (round % 3 ? 32 : 40) + round % 5 / 4 * 64;
    for (const think_dtype from : {THINK_F16, THINK_BF16}) {
      for (const think_dtype dtype : {THINK_U8, THINK_U4, THINK_U2}) {
        Tile tile(keys, dtype, channels, kTileTokens);
        tile.short_dtype = from;
        tile.short_rows.resize(tile.rows.size());
        const auto group_of = [&](int32_t c, int32_t t) { return keys ? c : value_group(channels, c) * kTileTokens + t; };
        const auto widen = [&](uint16_t bits) { return from == THINK_F16 ? f16_to_f32(bits) : bf16_to_f32(bits); };
        const int32_t groups = keys ? channels : value_groups(channels) * kTileTokens;
        std::vector<uint16_t> clear(static_cast<size_t>(groups)), set(static_cast<size_t>(groups));
        const uint16_t infinity = from == THINK_F16 ? 0x7c00 : 0x7f80;
        for (int32_t g = 0; g < groups; ++g) {
          // Signs: both, none, all. Exponents: few, small ones, all (bf16 goes beyond f16), all with what is not finite.
          const auto kind = random();
          set[static_cast<size_t>(g)] = kind % 3 == 1 ? 0x8000 : 0;
          const int exponents = kind / 3 % 4 == 0 ? infinity / 2 : kind / 3 % 4 == 1 ? infinity & 0x7000 : 0;
          clear[static_cast<size_t>(g)] = static_cast<uint16_t>((kind % 3 == 2 ? 0x8000 : 0) | exponents);
        }
        std::vector<float> least(static_cast<size_t>(groups), INFINITY), most(static_cast<size_t>(groups), -INFINITY);
        std::vector<char> finite(static_cast<size_t>(groups), 1);
        for (int32_t t = 0; t < kTileTokens; ++t) {
          for (int32_t c = 0; c < channels; ++c) {
            const auto g = static_cast<size_t>(group_of(c, t));
            uint16_t bits = static_cast<uint16_t>((random() & ~uint32_t{clear[g]} & 0xffff) | set[g]);
            if ((bits & infinity) == infinity && (g % 4 || random() % 4)) bits = static_cast<uint16_t>(bits & ~(infinity & -infinity));
            if (g % 5 == 4) {
              // -a and a, a multiple of three steps, and numbers close to 0, where a code begins: a has too few digits to tell them apart.
              const int32_t place = keys ? t : c % kBlockChannels;
              const uint32_t sign = place == 0 ? 0x8000 : place == 1 ? 0 : random() & 0x8000;
              bits = static_cast<uint16_t>(sign | (place < 2 ? infinity / 2 + 3 * g : random() % (2u << random() % 12)));
            }
            if (g % 13 == 12) bits = static_cast<uint16_t>(infinity | (g % 2 ? 0x8000 : 0) | (g % 3 == 2 ? t % 2 : 0));  // infinite, or with NaN beside
            tile.short_rows[static_cast<size_t>(t) * channels + c] = bits;
            const float x = widen(bits);
            finite[g] = static_cast<char>(finite[g] && std::isfinite(x));
            least[g] = std::fmin(least[g], x);
            most[g] = std::fmax(most[g], x);
          }
        }
        tile.encode(GetParam());
        const TileLayout layout = keys ? key_tile(channels, dtype) : value_tile(channels, dtype);
        const auto half_at = [&](int64_t byte, size_t g) {
          uint16_t half;
          std::memcpy(&half, tile.bytes.data() + byte + 2 * static_cast<int64_t>(g), sizeof half);
          return half;
        };
        for (int32_t t = 0; t < kTileTokens; ++t) {
          for (int32_t c = 0; c < channels; ++c) {
            const auto g = static_cast<size_t>(group_of(c, t));
            const CodeRange range = code_range(least[g], most[g], finite[g], dtype);
            ASSERT_EQ(half_at(layout.scale, g), range.scale) << least[g] << " to " << most[g];
            ASSERT_EQ(half_at(layout.zero, g), range.zero) << least[g] << " to " << most[g];
            const float x = widen(tile.short_rows[static_cast<size_t>(t) * channels + c]);
            const uint32_t code = finite[g] ? code_of(x, f16_to_f32(range.zero), inverse_of(f16_to_f32(range.scale)), dtype) : 0;
            ASSERT_EQ(stored_code(tile, c, t), code) << x << " of " << least[g] << " to " << most[g];
          }
        }
      }
    }
  }
}

TEST(F8, ScalesLeaveRoom) {
  EXPECT_EQ(f8_scale_of(0), 1);
  EXPECT_EQ(f8_scale_of(224), 1);
  EXPECT_EQ(f8_scale_of(std::nextafter(224.0f, 300.0f)), 2);
  EXPECT_EQ(f8_scale_of(112), 0.5f);
  EXPECT_EQ(f8_scale_of(3e38f), 0x1p100f);
  EXPECT_EQ(f8_scale_of(1e-40f), 0x1p-100f);
}

}  // namespace
}  // namespace think
