// Tiles of codes (kernels/common/quantized.h) from rows of numbers and back. Compiled once per instruction set; all of them write the same bytes.
//
// A tile is made from its numbers twice: once in the order in which the members of a group lie in different lines (keys: rows of tokens, values: channels of
// tokens), so that the extremes of many groups are found without horizontal operations, and once in the order in which codes are stored.
#pragma once

#include "../common/codes.h"
#include "cpu.h"

namespace think::compact {
namespace {

// What belongs to a number of groups: as stored, and as floats.
struct Ranges {
  uint16_t scale[kMaxChannels + kLanes], zero[kMaxChannels + kLanes];
  float start[kMaxChannels + kLanes], inverse[kMaxChannels + kLanes];
};

inline Vec clamp_f16(Vec x) {
  const Vec most = broadcast(kMostF16), least = broadcast(-kMostF16);
  return x < least ? least : x > most ? most : x;
}

// The vector form of code_range() and inverse_of(), for `n` groups from `at` on. Lane = group; each of `count` lines has one number of every group.
template <class Element>
void find_ranges(const char *line, int64_t stride, int32_t count, int32_t n, think_dtype to, Ranges &out, int32_t at) {
  const float infinity = bits_float(0x7f800000);
  for (int32_t i = 0; i < n; i += kLanes) {
    Vec least = broadcast(infinity), most = broadcast(-infinity), odd = zero();
    const char *from = line + i * static_cast<int64_t>(sizeof(typename Element::Type));
    for (int32_t k = 0; k < count; ++k, from += stride) {
      const Vec x = Element::load(reinterpret_cast<const typename Element::Type *>(from));
      least = x < least ? x : least;
      most = x > most ? x : most;
      odd = fma(x, zero(), odd);  // NaN where one is not finite
    }
    float low[kLanes], back[kLanes], range[kLanes], strange[kLanes];
    uint16_t half[kLanes], scale[kLanes];
    const Vec lowest = add(clamp_f16(least), zero());
    store(low, lowest);
    store(strange, odd);
    store_f16(half, lowest);
    store(back, load_f16(half));
    for (int l = 0; l < kLanes; ++l) half[l] = static_cast<uint16_t>(half[l] + (back[l] > low[l] ? (half[l] & 0x8000 ? 1 : -1) : 0));
    const Vec distance = sub(clamp_f16(most), load_f16(half));
    store(range, distance);
    store_f16(scale, distance / broadcast(static_cast<float>(most_code(to))));
    for (int l = 0; l < kLanes; ++l) {
      const bool finite = strange[l] == strange[l];
      scale[l] = finite ? static_cast<uint16_t>(scale[l] == 0 && range[l] > 0 ? 1 : scale[l]) : uint16_t{0};
      half[l] = finite ? half[l] : kNanF16;
    }
    __builtin_memcpy(out.scale + at + i, scale, sizeof scale);
    __builtin_memcpy(out.zero + at + i, half, sizeof half);
    store(out.start + at + i, load_f16(half));
    const Vec step = load_f16(scale);
    store(out.inverse + at + i, step > zero() ? broadcast(1.0f) / step : zero());
  }
}

// code_of() for a line of numbers; writes up to a vector more than `n` codes.
template <class Element>
inline void find_codes(const char *line, int32_t n, float start, float inverse, think_dtype to, uint8_t *codes) {
  const auto *from = reinterpret_cast<const typename Element::Type *>(line);
  const Vec most = broadcast(static_cast<float>(most_code(to))), begin = broadcast(start), factor = broadcast(inverse);
  for (int32_t i = 0; i < n; i += kLanes) {
    Vec code = mul(sub(Element::load(from + i), begin), factor);
    code = code > zero() ? code : zero();
    code = code < most ? code : most;
    store_codes(codes + i, add(code, broadcast(12582912.0f)));
  }
}

// A row of 32 codes, or `width` of them, packed.
inline void pack_row(const uint8_t *codes, int32_t width, think_dtype to, char *out) {
  const int32_t bits = dtype_bits(to), bytes = width * bits / 8;
  if (bits == 8) {
    __builtin_memcpy(out, codes, bytes);
    return;
  }
  if (width == kRowCodes) {
    for (int32_t b = 0; b < kRowCodes / 2; ++b) out[b] = static_cast<char>(codes[b] | codes[b + kRowCodes / 2] << 4);
    return;
  }
  for (int32_t b = 0; b < bytes; ++b) out[b] = static_cast<char>(codes[b] | codes[b + bytes] << 4);
}

template <class Element>
void encode_keys(const Encode &e) {
  constexpr int32_t number = sizeof(typename Element::Type);
  const TileLayout layout = key_tile(e.channels, e.to);
  alignas(64) uint8_t codes[kMaxChannels][kTileTokens];
  Ranges ranges;
  find_ranges<Element>(e.rows, e.row_stride, e.count, e.channels, e.to, ranges, 0);
  for (int32_t c = 0; c < e.channels; ++c) {
    find_codes<Element>(e.tile + c * kTileTokens * number, kTileTokens, ranges.start[c], ranges.inverse[c], e.to, codes[c]);
    for (int32_t t = e.count; t < kTileTokens; ++t) codes[c][t] = 0;
  }
  const int32_t row_bytes = row_bytes_of(e.to);
  for (int32_t c = 0; c < e.channels; ++c) pack_row(codes[c], kTileTokens, e.to, e.destination + c * row_bytes);
  const int64_t rows = int64_t{e.channels} * row_bytes, array = 2 * int64_t{e.channels};
  __builtin_memset(e.destination + rows, 0, static_cast<size_t>(layout.scale - rows));
  __builtin_memcpy(e.destination + layout.scale, ranges.scale, static_cast<size_t>(array));
  __builtin_memcpy(e.destination + layout.zero, ranges.zero, static_cast<size_t>(array));
  __builtin_memset(e.destination + layout.zero + array, 0, static_cast<size_t>(layout.bytes - layout.zero - array));
}

template <class Element>
void encode_values(const Encode &e) {
  constexpr int32_t number = sizeof(typename Element::Type);
  const TileLayout layout = value_tile(e.channels, e.to);
  Ranges ranges;  // [group][token]
  for (int32_t g = 0; g < layout.groups; ++g) {
    const int32_t first = g * kBlockChannels, end = g + 1 == layout.groups ? e.channels : first + kBlockChannels;
    find_ranges<Element>(e.tile + first * kTileTokens * number, kTileTokens * number, end - first, kTileTokens, e.to, ranges, g * kTileTokens);
  }
  alignas(64) uint8_t codes[kTileTokens][kBlockChannels + kLanes];
  char *out = e.destination;
  for (int32_t first = 0; first < e.channels; first += kBlockChannels) {
    const int32_t width = e.channels - first < kBlockChannels ? e.channels - first : kBlockChannels;
    const int32_t place = value_group(e.channels, first) * kTileTokens, bytes = width * dtype_bits(e.to) / 8;
    for (int32_t t = 0; t < kTileTokens; ++t) {
      find_codes<Element>(e.rows + t * e.row_stride + first * number, width, ranges.start[place + t], ranges.inverse[place + t], e.to, codes[t]);
    }
    for (int32_t t = 0; t < kTileTokens; ++t, out += bytes) pack_row(codes[t], width, e.to, out);
  }
  const size_t array = sizeof(uint16_t) * static_cast<size_t>(layout.groups * kTileTokens);
  __builtin_memcpy(e.destination + layout.scale, ranges.scale, array);
  __builtin_memcpy(e.destination + layout.zero, ranges.zero, array);
}

void encode(const Encode &e) {
  const auto with_element = [&](auto element) {
    using Element = decltype(element);
    e.keys ? encode_keys<Element>(e) : encode_values<Element>(e);
  };
  if (e.from == THINK_F32) return with_element(F32());
  e.from == THINK_F16 ? with_element(F16()) : with_element(BF16());
}

template <class Code>
void decode_keys(const Decode &d) {
  const TileLayout layout = key_tile(d.channels, Code::dtype);
  float scale[kMaxChannels + kLanes], start[kMaxChannels + kLanes];
  widen_f16(d.tile + layout.scale, d.channels, scale);
  widen_f16(d.tile + layout.zero, d.channels, start);
  for (int32_t c = 0; c < d.channels; ++c) {
    const auto *row = reinterpret_cast<const uint8_t *>(d.tile) + c * row_bytes_of(Code::dtype);
    float *to = d.out + c * kTileTokens;
    for (int32_t t = 0; t < kTileTokens; t += 2 * kLanes) {
      const CodePair codes = Code::load(row, t);
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
  widen_f16(d.tile + layout.scale, layout.groups * kTileTokens, scale);
  widen_f16(d.tile + layout.zero, layout.groups * kTileTokens, start);
  alignas(64) uint8_t codes[kTileTokens * kRowCodes];
  const auto *block = reinterpret_cast<const uint8_t *>(d.tile);
  for (int32_t first = 0; first < d.channels; first += kBlockChannels) {
    const int32_t width = d.channels - first < kBlockChannels ? d.channels - first : kBlockChannels;
    const int32_t place = value_group(d.channels, first) * kTileTokens;
    widen_rows<Code>(block, width, kTileTokens, codes);
    block += kTileTokens * width * dtype_bits(Code::dtype) / 8;
    for (int32_t t = 0; t < kTileTokens; ++t) {
      float *to = d.out + t * d.out_stride + first;
      for (int32_t c = 0; c < kBlockChannels; c += 2 * kLanes) {
        const CodePair pair = U8::load(codes + t * kRowCodes, c);
        store(to + c, fma(pair.first, broadcast(scale[place + t]), broadcast(start[place + t])));
        store(to + c + kLanes, fma(pair.second, broadcast(scale[place + t]), broadcast(start[place + t])));
      }
    }
  }
}

void decode(const Decode &d) {
  if (d.keys) return d.from == THINK_U8 ? decode_keys<U8>(d) : decode_keys<U4>(d);
  d.from == THINK_U8 ? decode_values<U8>(d) : decode_values<U4>(d);
}

}  // namespace
}  // namespace think::compact
