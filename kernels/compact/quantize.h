// Tiles of codes (kernels/common/quantized.h) from rows of numbers and back. Compiled once per instruction set; all of them write the same bytes.
//
// Extremes are compared as integers, 2 bytes each where the numbers have 2: of keys line by line down the tokens, of values first between the chunks of a
// group, then across. Codes are made where the rows lie: of values they are in order, of keys 4 tokens are interleaved and then transposed as 32-bit words.
#pragma once

#include "../common/codes.h"
#include "ahead.h"
#include "cpu.h"
#include "f16_codes.h"

namespace think::compact {
namespace {

// What belongs to a number of groups: as stored, and as floats.
struct Ranges {
  uint16_t scale[kMaxChannels + kLanes], zero[kMaxChannels + kLanes];
  float start[kMaxChannels + kLanes], inverse[kMaxChannels + kLanes];
};

// How long the extremes of so many numbers take for NextTiles, in numbers that become codes: as measured.
inline int32_t work_on_extremes(int32_t numbers, bool keys) { return numbers / (keys ? 4 : 2); }

// The least and the largest number of each group.
template <class Number>
struct Extremes {
  alignas(64) Number least[kMaxChannels + 64 / sizeof(Number)], most[kMaxChannels + 64 / sizeof(Number)];
};

// What tells the extremes of numbers, each place of a line for itself. One instruction less for each number than bringing them into the order of integers
// takes. A NaN lies outside of everything. Where numbers of both signs are expected, what only matters where there are none is left out.
template <int kBytes, bool kBothSigns>
struct Extent {
  Line top, wide, narrow;  // of their bits the largest signed integer, the largest and (not of both signs) the smallest unsigned one

  static inline Extent of(Line x) {
    x = once(x);
    return {x, x, x};
  }
  inline void add(const Extent &x) {
    top = max_signed<kBytes>(top, x.top);
    wide = max_unsigned<kBytes>(wide, x.wide);
    if constexpr (!kBothSigns) narrow = min_unsigned<kBytes>(narrow, x.narrow);
  }
  inline void add(Line x) { add(of(x)); }
  // Of negative numbers the least is the widest, the most the narrowest.
  inline Line least() const { return kBothSigns ? wide : by_sign<kBytes>(wide, wide, narrow); }
  inline Line most() const { return kBothSigns ? top : by_sign<kBytes>(top, narrow, top); }
};

// Of each channel over the tokens; up to a line behind the last channel is read. Row after row, as they come from memory.
template <class Number>
void find_extremes_of_channels(const Encode &e, Extremes<Number> &out) {
  constexpr int kBytes = sizeof(Number), kLines = 4;
  const int64_t row_bytes = e.channels * kBytes;
  for (int64_t strip = 0; strip < row_bytes; strip += kLines * sizeof(Line)) {
    const int64_t left = (row_bytes - strip + sizeof(Line) - 1) / sizeof(Line);
    const auto take = [&](auto lines) {
      using All = Extent<kBytes, false>;  // of some channels every token has the same sign
      All x[lines];
      for (int i = 0; i < lines; ++i) x[i] = All::of(load_line(e.rows[0] + strip + i * sizeof(Line)));
      for (int32_t t = 1; t < kTileTokens; ++t) {
        for (int i = 0; i < lines; ++i) x[i].add(load_line(e.rows[t] + strip + i * sizeof(Line)));
      }
      for (int i = 0; i < lines; ++i) {
        store_line(reinterpret_cast<char *>(out.least) + strip + i * sizeof(Line), x[i].least());
        store_line(reinterpret_cast<char *>(out.most) + strip + i * sizeof(Line), x[i].most());
      }
    };
    if (left >= kLines) {
      take(std::integral_constant<int, kLines>());
    } else {
      for (int64_t i = 0; i < left; ++i, strip += sizeof(Line)) take(std::integral_constant<int, 1>());
    }
  }
}

// Places 2 i and 2 i + 1 of both as one, those of `a` (low) and of `b` side by side in the order of the functions.
template <class Extent, class Low, class High>
inline Extent fold(const Extent &a, const Extent &b, const Low &low, const High &high) {
  Extent sum = {low(a.top, b.top), low(a.wide, b.wide), low(a.narrow, b.narrow)};
  sum.add({high(a.top, b.top), high(a.wide, b.wide), high(a.narrow, b.narrow)});
  return sum;
}

// of(j), number i of a lane -> number j of the same lane: over all i. Depth first, as three registers belong to each.
template <int kBytes, class Of>
inline auto fold_lanes(const Of &of) {
  const auto pair = [&](int j) {
    if constexpr (kBytes == 4) return of(j);
    const auto a = of(2 * j);
    return fold(a, of(2 * j + 1), low16, high16);
  };
  const auto quad = [&](int j) {
    const auto a = pair(2 * j);
    return fold(a, pair(2 * j + 1), low32, high32);
  };
  const auto a = quad(0);
  return fold(a, quad(1), low64, high64);
}

// Of channels [first, end) of each of 32 rows, to out.least[at + row]. False: they were taken to have both signs, and one did not.
template <bool kBothSigns, class Number>
bool find_extremes_of_rows(const char *const *row, int32_t first, int32_t end, Extremes<Number> &out, int32_t at) {
  constexpr int kBytes = sizeof(Number);
  using U = Unit<kBytes>;
  using All = Extent<kBytes, kBothSigns>;
  const int64_t begin = int64_t{first} * kBytes, bytes = int64_t{end - first} * kBytes;
  bool mixed = true;
  for (int32_t token = 0; token < kTileTokens; token += U::kTokens) {
    const auto put = [&](const All &all) {
      if constexpr (kBothSigns) mixed &= differ_in_sign<kBytes>(all.top, all.wide);
      store_line(reinterpret_cast<char *>(out.least + at + token), all.least());
      store_line(reinterpret_cast<char *>(out.most + at + token), all.most());
    };
#if defined(THINK_ISA_UNIT_AVX512)
    if (bytes == sizeof(Line)) {  // half a line at a time takes half the loads
      const auto halves = [&](int j) {
        const char *one = row[token + j] + begin, *other = row[token + j + U::kCount] + begin;
        auto x = All::of(gather_halves(one, other));
        x.add(gather_halves(one + 32, other + 32));
        return x;
      };
      put(fold_lanes<kBytes>([&](int j) {
        const All a = halves(j);
        return fold(a, halves(j + 2 * U::kCount), even_lanes, odd_lanes);
      }));
      continue;
    }
#endif
    put(fold_lanes<kBytes>([&](int j) {
      auto x = All::of(gather_lanes(row + token + j, U::kCount, begin));
      for (int64_t byte = kChunkBytes; byte < bytes; byte += kChunkBytes) x.add(gather_lanes(row + token + j, U::kCount, begin + byte));
      return x;
    }));
  }
  return mixed;
}

template <class Number>
void find_extremes_of_tokens(const Encode &e, int32_t first, int32_t end, Extremes<Number> &out, int32_t at) {
  // Behind the last token there are zeros, which have one sign.
  if (e.count == kTileTokens && find_extremes_of_rows<true>(e.rows, first, end, out, at)) return;
  find_extremes_of_rows<false>(e.rows, first, end, out, at);
}

inline Vec clamp_f16(Vec x) {
  const Vec most = broadcast(kMostF16), least = broadcast(-kMostF16);
  return x < least ? least : x > most ? most : x;
}

// The vector form of code_range() and inverse_of() for `n` groups. One result waits for the next all the way through, so what f16 does without is left out.
template <class Element>
void find_ranges(const Extremes<typename Element::Type> &extremes, int32_t n, think_dtype to, Ranges &out) {
  typedef int32_t Numbers __attribute__((vector_size(sizeof(Vec))));
  const Vec steps = broadcast(static_cast<float>(most_code(to))), tiny = broadcast(0x1p-24f), nan = broadcast(bits_float(0x7fc00000));
  for (int32_t i = 0; i < n; i += kLanes) {
    Vec least = Element::load(extremes.least + i), most = Element::load(extremes.most + i);
    Vec start, odd;  // odd: NaN where one of them is not finite
    if constexpr (Element::dtype == THINK_F16) {
      start = add(least, zero());  // -0 becomes 0
    } else {
      odd = fma(least, zero(), mul(most, zero()));
      least = add(clamp_f16(least), zero());
      most = add(clamp_f16(most), zero());
      float exact[kLanes], rounded[kLanes];
      store(exact, least);
      store_f16(out.zero + i, least);
      store(rounded, load_f16(out.zero + i));
      for (int l = 0; l < kLanes; ++l) {  // the f16 below
        uint16_t &half = out.zero[i + l];
        half = static_cast<uint16_t>(half + (rounded[l] > exact[l] ? (half & 0x8000 ? 1 : -1) : 0));
      }
      start = load_f16(out.zero + i);
    }
    const Vec distance = sub(most, start);
    if constexpr (Element::dtype == THINK_F16) odd = sub(distance, distance);  // of finite f16 it is finite
    Vec step = distance / steps;
    step = step < tiny ? tiny : step;
    step = distance > zero() ? step : zero();
    step = round_to_f16(odd == odd ? step : zero());
    start = odd == odd ? start : nan;
    // The f16 below, where code_range() takes one: such a step is no subnormal, so an f32 has that distance in the same digit.
    const Vec below = reinterpret_cast<Vec>(reinterpret_cast<Numbers>(step) - (1 << 13));
    step = add(start, mul(step, steps)) > broadcast(kMostF16) ? below : step;
    store_f16(out.scale + i, step);
    store_f16(out.zero + i, start);
    store(out.start + i, start);
    store(out.inverse + i, step > zero() ? broadcast(1.0f) / step : zero());
  }
}

// The vector form of code_of(), or of f8_code_of().
template <class Element, class Code>
inline Words find_codes(const char *from, Vec start, Vec inverse, Vec most) {
  if constexpr (!has_groups(Code::dtype)) {
    const Vec x = Element::load(reinterpret_cast<const typename Element::Type *>(from));
    return round_f8(x, mul(x, inverse));
  }
  // A step is rounded by less than half of itself, so no code of an f16 is far above the largest one. f32 and bf16 may be beyond f16, where the zero is cut.
  return round_codes<Element::dtype == THINK_F16>(mul(fused_sub(Element::load(reinterpret_cast<const typename Element::Type *>(from)), start), inverse), most);
}

// Calls body(code) with a value of the type that stands for a dtype.
template <class Body>
inline void with_code(think_dtype dtype, const Body &body) {
  if (dtype == THINK_F8_E4M3) return body(F8());
  if (dtype == THINK_U8) return body(U8());
  dtype == THINK_U4 ? body(U4()) : body(U2());
}

#if defined(THINK_ISA_UNIT_AVX512)
// F8 that is looked up.
struct F8OfF16 : F8 {
  F8Table table;
};
#endif

// ... of codes that are made of numbers.
template <class Element, class Body>
inline void with_code_of(const Encode &e, const Body &body) {
#if defined(THINK_ISA_UNIT_AVX512)
  if constexpr (Element::dtype == THINK_F16) {
    if (e.to == THINK_F8_E4M3 && e.steps) return body(F8OfF16{{}, F8Table(*e.steps)});
  }
#endif
  with_code(e.to, body);
}

// ... and of numbers.
template <class Body>
inline void with_element(think_dtype dtype, const Body &body) {
  if (dtype == THINK_F32) return body(F32());
  dtype == THINK_F16 ? body(F16()) : body(BF16());
}

// What F8 has instead of find_ranges().
inline void fill_ranges(float scale, int32_t n, Ranges &out) {
  for (int32_t i = 0; i < n; i += kLanes) {
    store(out.start + i, zero());
    store(out.inverse + i, broadcast(1.0f / scale));
  }
}

inline void put_line(char *to, Line line, bool stream) { stream ? stream_line(to, line) : store_line(to, line); }

// Codes of kLanes channels, 32 tokens each, to lines in the order of a tile.
template <int kBits, class FourTokens>
inline void pack_keys(const FourTokens &four_tokens, char *out, bool stream) {
  constexpr int32_t kRowBytes = kTileTokens * kBits / 8, kPieces = kRowBytes / kChunkBytes;
  if constexpr (kBits == 2) {
    Line part[2];  // bytes 0 .. 7 and 8 .. 15 of a pair of channels
#pragma GCC unroll 2  // else the lines go through memory
    for (int q = 0; q < 2; ++q) {
      Line x[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) x[i] = bound_codes<2>(four_tokens(4 * q + 8 * i));
      part[q] = pair_codes(join_codes<4>(join_codes<2>(x[0], x[1]), join_codes<2>(x[2], x[3])));
    }
    Line first = low64(part[0], part[1]), second = high64(part[0], part[1]);
    interleave_lanes(first, second);
    put_line(out, first, stream);
    put_line(out + sizeof(Line), second, stream);
  } else {
    Line half[kPieces][4];  // 16 bytes of a channel's row
#pragma GCC unroll 4  // else the lines go through memory
    for (int q = 0; q < 4; ++q) {
      if constexpr (kBits == 8) {
        half[0][q] = four_tokens(4 * q);
        half[1][q] = four_tokens(4 * q + kTileTokens / 2);
      } else {
        const Line low = bound_codes<4>(four_tokens(4 * q));
        half[0][q] = join_codes<4>(low, bound_codes<4>(four_tokens(4 * q + kTileTokens / 2)));
      }
    }
    for (int p = 0; p < kPieces; ++p) transpose32(half[p]);
    // Lane l of half[p][j] is piece p of channel 4 l + j.
    for (int i = 0; i < 4 * kPieces; i += kLaneCount) {
      Line x[kLaneCount];
      for (int l = 0; l < kLaneCount; ++l) x[l] = half[(i + l) % kPieces][(i + l) / kPieces];
      transpose_lanes(x);
      for (int l = 0; l < kLaneCount; ++l) put_line(out + 4 * l * kRowBytes + i * kChunkBytes, x[l], stream);
    }
  }
}

template <class Element, class Code>
void encode_key_rows(const Encode &e, NextTiles *next, const Ranges &ranges, [[maybe_unused]] const Code &code, bool stream) {
  constexpr int kBits = dtype_bits(Code::dtype);
  constexpr int32_t kNumber = sizeof(typename Element::Type), kRowBytes = kTileTokens * kBits / 8;
  const Vec most = broadcast(static_cast<float>((1 << kBits) - 1));
  alignas(64) char last[kLanes * kRowBytes];
  for (int32_t c = 0; c < e.channels; c += kLanes) {
    const Vec start = load(ranges.start + c), inverse = load(ranges.inverse + c);
    const bool whole = e.channels - c >= kLanes;
    if (next) next->fetch_for(kTileTokens * kLanes);
    // Words of 4 tokens, a channel each.
    const auto four_tokens = [&](int32_t token) {
#if defined(THINK_ISA_UNIT_AVX512)
      if constexpr (std::is_same_v<Code, F8OfF16>) {
        const auto two_tokens = [&](int32_t t) { return gather_halves(e.rows[t] + c * kNumber, e.rows[t + 2] + c * kNumber); };
        const Line even = two_tokens(token), odd = two_tokens(token + 1);
        if (code.table.holds(even, odd)) [[likely]] return interleave_words(code.table.codes(even), code.table.codes(odd), even, odd);
      }
#endif
      Words w[4];
      for (int i = 0; i < 4; ++i) w[i] = find_codes<Element, Code>(e.rows[token + i] + c * kNumber, start, inverse, most);
      return interleave_codes(w);
    };
    pack_keys<kBits>(four_tokens, whole ? e.destination + c * kRowBytes : last, stream && whole);
    if (whole) continue;
    const int32_t left = e.channels - c;
    if (kBits == 2 && left % 2) {  // what lies behind the last channel
      for (int32_t byte = 0; byte < kRowBytes; ++byte) last[left / 2 * 2 * kRowBytes + 2 * byte + 1] = 0;
    }
    __builtin_memcpy(e.destination + c * kRowBytes, last, static_cast<size_t>(key_row(key_rows(left, e.to), e.to)));
  }
}

// Tokens behind the end belong to no group: their codes are zero.
inline void clear_key_tokens(const Encode &e) {
  for (int32_t c = 0; c < e.channels; ++c) {
    for (int32_t t = e.count; t < kTileTokens; ++t) {
      const CodePlace place = key_code(e.to, c, t);
      char &byte = e.destination[place.byte];
      byte = static_cast<char>(byte & ~(most_code(e.to) << place.shift));
    }
  }
}

template <class Element>
void encode_keys(const Encode &e, NextTiles *next) {
  const TileLayout layout = key_tile(e.channels, e.to);
  if (e.channels < 1) return;
  Ranges ranges;
  if (has_groups(e.to)) {
    Extremes<typename Element::Type> extremes;
    if (next) next->fetch_for(work_on_extremes(e.channels * kTileTokens, true));
    find_extremes_of_channels(e, extremes);
    find_ranges<Element>(extremes, e.channels, e.to, ranges);
  } else {
    fill_ranges(e.scale, e.channels, ranges);
  }
  // Keys of 8 bits past the caches, like everything that moves many bytes; for fewer bits stores into them were measured to be faster.
  const bool past = e.stream && dtype_bits(e.to) == 8, stream = can_stream(e.destination, past && e.count == kTileTokens);
  with_code_of<Element>(e, [&](const auto &code) { encode_key_rows<Element>(e, next, ranges, code, stream); });
  if (e.count < kTileTokens) clear_key_tokens(e);
  if (!has_groups(e.to)) return;
  const int64_t rows = key_row(key_rows(e.channels, e.to), e.to), array = 2 * int64_t{e.channels};
  __builtin_memset(e.destination + rows, 0, static_cast<size_t>(layout.scale - rows));
  copy_out(e.destination + layout.scale, reinterpret_cast<const char *>(ranges.scale), array, past);
  copy_out(e.destination + layout.zero, reinterpret_cast<const char *>(ranges.zero), array, past);
  __builtin_memset(e.destination + layout.zero + array, 0, static_cast<size_t>(layout.bytes - layout.zero - array));
}

// Codes of a block of 32 channels from `first` on, in the order in which they are stored.
template <class Element, class Code>
inline void encode_value_block(const Encode &e, NextTiles *next, int32_t first, const float *start, const float *inverse, [[maybe_unused]] const Code &code,
                               char *out, bool stream) {
  constexpr int kBits = dtype_bits(Code::dtype);
  constexpr int32_t kRowBytes = kBlockChannels * kBits / 8, kNumber = sizeof(typename Element::Type), kLine = sizeof(Line);
  const Vec most = broadcast(static_cast<float>((1 << kBits) - 1));
  // Number `place` of those of `width` channels of each token, and what follows, as a line of bytes. GCC leaves it a call for codes of 2 bits: a tenth slower.
  const auto codes_from = [&](int32_t channel, int32_t width, int32_t place) __attribute__((always_inline)) {
    if (kBits == 8 && next) next->fetch_for(4 * kLanes);
#if defined(THINK_ISA_UNIT_AVX512)
    if constexpr (std::is_same_v<Code, F8OfF16>) {  // of codes of 8 bits: two whole tokens
      const char *const *row = e.rows + place / width;
      const Line x = load_line(row[0] + first * kNumber), y = load_line(row[1] + first * kNumber);
      if (code.table.holds(x, y)) [[likely]] return concat_words(code.table.codes(x), code.table.codes(y), x, y);
    }
#endif
    Words w[4];
    for (int i = 0; i < 4; ++i, place += kLanes) {
      const int32_t t = place / width, c = first + channel + place % width;
      w[i] = find_codes<Element, Code>(e.rows[t] + c * kNumber, broadcast(start[t]), broadcast(inverse[t]), most);
    }
    return bound_codes<kBits>(concat_codes(w));
  };
  // 16 bytes a token, channel b low and b + 16 high.
  const auto nibbles_from = [&](int32_t byte) __attribute__((always_inline)) {
    if (next) next->fetch_for(8 * kLanes);
    const Line low = codes_from(0, kBlockChannels / 2, byte);
    return join_codes<4>(low, codes_from(kBlockChannels / 2, kBlockChannels / 2, byte));
  };
  for (int32_t byte = 0; byte < kTileTokens * kRowBytes; byte += kLine) {
    if constexpr (kBits == 8) {
      put_line(out + byte, codes_from(0, kBlockChannels, byte), stream);
    } else if constexpr (kBits == 4) {
      put_line(out + byte, nibbles_from(byte), stream);
    } else {
      const Line a = nibbles_from(2 * byte), b = nibbles_from(2 * byte + kLine);
      put_line(out + byte, concat_halves(join_codes<2>(a, high64(a, a)), join_codes<2>(b, high64(b, b))), stream);
    }
  }
}

#if defined(THINK_ISA_UNIT_AVX512)
// U2 of f16: those blocks of which all borders are found.
void compare_values(const Encode &e, NextTiles *next, const Borders &borders, bool stream) {
  constexpr int32_t kBytes = kTileTokens * kBlockChannels / 4;
  const int32_t blocks = e.channels / kBlockChannels;
  // Eight bytes at a time do not go past the caches; and as lines they are only read when they have arrived where they lie.
  alignas(64) char lines[kMaxChannels / kBlockChannels * kBytes];
  char *to = stream ? lines : e.destination;
  for (int32_t block = 0; block < blocks; ++block) {
    if (!borders.found[block]) continue;
    for (int32_t t = 0; t < kTileTokens; t += kCodeRows) {
      if (next) next->fetch_for(kCodeRows * kBlockChannels);
      find_codes_between(e.rows, block, borders, t, to + block * kBytes);
    }
  }
  for (int32_t block = 0; stream && block < blocks; ++block) {
    if (borders.found[block]) copy_lines<kBytes / sizeof(Line)>(e.destination + block * kBytes, lines + block * kBytes, true);
  }
}
#endif

template <class Element, class Code>
void encode_value_rows(const Encode &e, NextTiles *next, const Ranges &ranges, const Code &code, bool stream) {
  constexpr int kBits = dtype_bits(Code::dtype);
  const bool *done = nullptr;  // blocks
#if defined(THINK_ISA_UNIT_AVX512)
  [[maybe_unused]] Borders borders;
  if constexpr (kCompares<Element> && Code::dtype == THINK_U2) {
    if (e.nearest) {
      find_borders(ranges.scale, ranges.start, ranges.inverse, e.channels / kBlockChannels, next, borders);
      compare_values(e, next, borders, stream);
      done = borders.found;
    }
  }
#endif
  char *out = e.destination;
  for (int32_t first = 0; first < e.channels; first += kBlockChannels) {
    const int32_t width = e.channels - first < kBlockChannels ? e.channels - first : kBlockChannels, bytes = width * kBits / 8;
    const int32_t place = has_groups(Code::dtype) ? value_group(e.channels, first) * kTileTokens : 0;
    if (width == kBlockChannels) {
      if (!done || !done[first / kBlockChannels]) {
        encode_value_block<Element>(e, next, first, ranges.start + place, ranges.inverse + place, code, out, stream);
      }
    } else {
      // A narrower block: as whole rows of bytes first.
      alignas(64) uint8_t codes[kTileTokens][kBlockChannels];
      encode_value_block<Element>(e, next, first, ranges.start + place, ranges.inverse + place, ByteCode<Code>(), reinterpret_cast<char *>(codes), false);
      for (int32_t t = 0; t < kTileTokens; ++t) {
        for (int32_t b = 0; b < bytes; ++b) {
          int joined = 0;
          for (int part = 0; part < 8 / kBits; ++part) {
            const int number = codes[t][part * bytes + b];
            joined |= (number < most_code(e.to) ? number : most_code(e.to)) << (part * kBits);
          }
          out[t * bytes + b] = static_cast<char>(joined);
        }
      }
    }
    out += kTileTokens * bytes;
  }
}

template <class Element>
void encode_values(const Encode &e, NextTiles *next) {
  const TileLayout layout = value_tile(e.channels, e.to);
  Ranges ranges;
  if (has_groups(e.to)) {
    Extremes<typename Element::Type> extremes;  // [group][token]
    int32_t g = 0;
    do {  // there is a group
      const int32_t first = g * kBlockChannels, end = g + 1 == layout.groups ? e.channels : first + kBlockChannels;
      if (next) next->fetch_for(work_on_extremes(kBlockChannels * kTileTokens, false));
      find_extremes_of_tokens(e, first, end, extremes, g * kTileTokens);
    } while (++g < layout.groups);
    find_ranges<Element>(extremes, layout.groups * kTileTokens, e.to, ranges);
  } else {
    fill_ranges(e.scale, kTileTokens, ranges);
  }
  const bool stream = can_stream(e.destination, e.stream);
  with_code_of<Element>(e, [&](const auto &code) { encode_value_rows<Element>(e, next, ranges, code, stream); });
  const int64_t array = int64_t{2} * layout.groups * kTileTokens;
  copy_out(e.destination + layout.scale, reinterpret_cast<const char *>(ranges.scale), array, e.stream);
  copy_out(e.destination + layout.zero, reinterpret_cast<const char *>(ranges.zero), array, e.stream);
}

template <class Element>
int32_t work_on_tile(const Encode &e) {
  const int32_t unit = e.keys ? kLanes : kBlockChannels, numbers = (e.channels + unit - 1) / unit * unit * kTileTokens;
  int32_t work = numbers;
  if (has_groups(e.to)) work += work_on_extremes(e.keys ? e.channels * kTileTokens : value_groups(e.channels) * kBlockChannels * kTileTokens, e.keys);
  if (kCompares<Element> && !e.keys && e.to == THINK_U2) work += work_on_borders(e.channels / kBlockChannels * kBlockChannels * kTileTokens);
  return work;
}

void encode(const Encode &e, const Block *ahead) {
  with_element(e.from, [&](auto element) {
    using Element = decltype(element);
    if (!ahead || e.channels < 1) return e.keys ? encode_keys<Element>(e, nullptr) : encode_values<Element>(e, nullptr);
    const int64_t row_bytes = ahead->map->channels * static_cast<int64_t>(sizeof(typename Element::Type));
    NextTiles next(ahead->rows + kTileTokens, row_bytes, work_on_tile<Element>(e));
    e.keys ? encode_keys<Element>(e, &next) : encode_values<Element>(e, &next);
  });
}

// Scales and zeros of `n` groups; of F8 what stands for them.
template <class Code>
inline void load_ranges(const Decode &d, const TileLayout &layout, int32_t n, float *scale, float *start) {
  if constexpr (has_groups(Code::dtype)) {
    widen_f16(d.tile + layout.scale, n, scale);
    widen_f16(d.tile + layout.zero, n, start);
  } else {
    for (int32_t i = 0; i < n; ++i) scale[i] = d.scale * kF8Unit, start[i] = -0.0f;  // keeps the sign of a product that is 0
  }
}

template <class Code>
void decode_keys(const Decode &d) {
  float scale[kMaxChannels + kLanes], start[kMaxChannels + kLanes];
  load_ranges<Code>(d, key_tile(d.channels, Code::dtype), d.channels, scale, start);
  for (int32_t c = 0; c < d.channels; ++c) {
    const auto *row = reinterpret_cast<const uint8_t *>(d.tile) + key_row(c, Code::dtype);
    float *to = d.out + c * kTileTokens;
    for (int32_t t = 0; t < kTileTokens; t += 2 * kLanes) {
      const CodePair codes = Code::load_key(row, t);
      // Products of 11 and 8 bits are exact, so it does not matter whether this is one rounding or two.
      store(to + t, fma(codes.first, broadcast(scale[c]), broadcast(start[c])));
      store(to + t + kLanes, fma(codes.second, broadcast(scale[c]), broadcast(start[c])));
    }
  }
}

// Rows of 32-channel blocks: d.out_stride is a multiple of 32 floats.
template <class Code>
void decode_values(const Decode &d) {
  const TileLayout layout = value_tile(d.channels, Code::dtype);
  float scale[kMaxChannels + kLanes], start[kMaxChannels + kLanes];
  load_ranges<Code>(d, layout, has_groups(Code::dtype) ? layout.groups * kTileTokens : kTileTokens, scale, start);
  alignas(64) uint8_t codes[kTileTokens * kRowCodes];
  const auto *block = reinterpret_cast<const uint8_t *>(d.tile);
  for (int32_t first = 0; first < d.channels; first += kBlockChannels) {
    const int32_t width = d.channels - first < kBlockChannels ? d.channels - first : kBlockChannels;
    const int32_t place = has_groups(Code::dtype) ? value_group(d.channels, first) * kTileTokens : 0;
    widen_rows<Code>(block, width, kTileTokens, codes);
    block += kTileTokens * width * dtype_bits(Code::dtype) / 8;
    for (int32_t t = 0; t < kTileTokens; ++t) {
      float *to = d.out + t * d.out_stride + first;
      for (int32_t c = 0; c < kBlockChannels; c += 2 * kLanes) {
        const CodePair pair = ByteCode<Code>::load(codes + t * kRowCodes, c);
        store(to + c, fma(pair.first, broadcast(scale[place + t]), broadcast(start[place + t])));
        store(to + c + kLanes, fma(pair.second, broadcast(scale[place + t]), broadcast(start[place + t])));
      }
    }
  }
}

void decode(const Decode &d) {
  with_code(d.from, [&](auto code) { d.keys ? decode_keys<decltype(code)>(d) : decode_values<decltype(code)>(d); });
}

void find_largest(const char *const *rows, int32_t count, int32_t channels, think_dtype dtype, float *most) {
  with_element(dtype, [&](auto element) {
    using Element = decltype(element);
    for (int32_t c = 0; c < channels; c += kLanes) {
      Vec largest = load(most + c);
      for (int32_t t = 0; t < count; ++t) {
        const Vec x = Element::load(reinterpret_cast<const typename Element::Type *>(rows[t]) + c), magnitude = max(x, sub(zero(), x));
        largest = max(largest, mul(x, zero()) == zero() ? magnitude : zero());
      }
      store(most + c, largest);
    }
  });
}

}  // namespace
}  // namespace think::compact
