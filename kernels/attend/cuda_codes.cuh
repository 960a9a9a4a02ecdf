// Tiles of codes: how they lie in shared memory, how their codes become operands, and the sums of a piece of which keys, values or both are codes. Codes are
// made f16 by their bits alone, with the middle of their range as zero, so that rounding what they are multiplied with costs no more than with numbers:
//   keys    z = sum (q scale) (code - middle) + sum q (zero + scale middle): scales go into the queries of a tile, the second sum is one matrix more
//   values  o = sum (p scale) (code - middle) + sum p (zero + scale middle): scales go into the probabilities of a group, the second sum is one row of a group
// F8 has a scale for all of a head, which goes into the sums; its codes are f16 of another bias, so numbers by kF8Unit too small.
// Operands are f16 whatever the numbers of other segments are. Keys scaled by a power of two per tile, and values by one for their type, keep all products in
// f16.
// A stage of a warp's ring holds a whole tile.
#pragma once

#include "cuda_decode.cuh"

namespace think::attend::cuda {

constexpr uint32_t kMostShared = 99 << 10;  // of a block, on the smallest devices

THINK_HOST_DEVICE bool has_codes(think_dtype key, think_dtype value) { return device::is_codes(key) || device::is_codes(value); }
THINK_HOST_DEVICE int32_t code_ring(const Decode &d) { return d.code_warps * kCodeStages * d.code_words; }
THINK_DEVICE bool has_codes(const DecodeSegment &segment) { return has_codes(segment.key.dtype, segment.value.dtype); }

// ---- codes as f16

// The f16 whose lowest bits are a code is 1024 + code; less 1024 and the middle it is exact.
THINK_DEVICE uint32_t centred(uint32_t magic, int32_t bits) { return sub2<F16>(magic, bits == 8 ? 0x64806480u : bits == 4 ? 0x64086408u : 0x64026402u); }
THINK_DEVICE uint32_t middle_of(int32_t bits) { return bits == 8 ? 0x58005800u : bits == 4 ? 0x48004800u : 0x40004000u; }
// Scales of values, 131008 / 255 or 131008 / 15 at most, are multiplied by 64 or 4: as large as f16 allows, so that products with small probabilities are no
// subnormals yet. And back. Those of two bits, 131008 / 3 at most, leave no room for that.
THINK_DEVICE uint32_t enlarged(uint32_t scales, int32_t bits) { return bits == 2 ? scales : mul2<F16>(scales, bits == 8 ? 0x54005400u : 0x44004400u); }
THINK_DEVICE float reduced(float sum, int32_t bits) { return bits == 2 ? sum : sum * (bits == 8 ? 0.015625f : 0.25f); }

// Of a register of ldmatrix_trans, four bytes of two lines (channels of keys, tokens of values) and two neighbours in each: the pair of the first
// neighbours (`second` 0) or of the second ones. Nibbles: of their lower or upper halves.
THINK_DEVICE uint32_t bytes_pair(uint32_t word, int32_t second) { return centred(permute_bytes(word, 0x64646464u, second ? 0x4341 : 0x4240), 8); }
THINK_DEVICE uint32_t nibbles_pair(uint32_t word, int32_t second, int32_t upper) {
  return centred((word >> (8 * second + 4 * upper) & 0x000f000fu) | 0x64006400u, 4);
}
// Of F8: sign, exponent and fraction move to their places; the NaN becomes one by a carry into the highest bit of the exponent.
THINK_DEVICE uint32_t floats_pair(uint32_t word, int32_t second) {
  const uint32_t high = permute_bytes(word, 0u, second ? 0x3414 : 0x2404), magnitude = high >> 1 & 0x3f803f80u;
  return magnitude | (high & 0x80008000u) | (magnitude + 0x00800080u & 0x40004000u);
}
template <think_dtype kType>
THINK_DEVICE uint32_t whole_bytes_pair(uint32_t word, int32_t second) {
  return kType == THINK_F8_E4M3 ? floats_pair(word, second) : bytes_pair(word, second);
}

// Two bytes of four codes each as halves, and of those the codes `part`.
THINK_DEVICE uint32_t spread_bytes(uint32_t word, int32_t upper) { return permute_bytes(word, 0u, upper ? 0x4342 : 0x4140); }
THINK_DEVICE uint32_t quarters_pair(uint32_t halves, int32_t part) { return centred((halves >> 2 * part & 0x00030003u) | 0x64006400u, 2); }
// The operand of rows `part` and, eight rows on, `part` + 1: K goes through the lower two bytes and the upper two.
THINK_DEVICE void quarters(uint32_t (&a)[4], uint32_t word, int32_t part) {
  const uint32_t lower = spread_bytes(word, 0), upper = spread_bytes(word, 1);
  a[0] = quarters_pair(lower, part), a[1] = quarters_pair(lower, part + 1);
  a[2] = quarters_pair(upper, part), a[3] = quarters_pair(upper, part + 1);
}

// ---- in shared memory

// Chunk `half` of line r (a channel of keys, a token in a block of values) of 32 bytes: eight lines of a matrix lie in different banks. Lines of 16 bytes do so
// by themselves.
THINK_DEVICE int32_t line_place(int32_t line, int32_t half) { return line * 2 + (half ^ (line >> 2 & 1)); }

// Values are staged as whole blocks of 32 channels.
THINK_HOST_DEVICE int32_t code_blocks(int32_t channels) { return (channels + kBlockChannels - 1) / kBlockChannels; }

// A tile in a stage, in 16 bytes: of keys scales and zeros as they are stored, and KeyCodes::pairs; of values those of each group. F8 has neither.
THINK_HOST_DEVICE int32_t key_stage(int32_t channels, think_dtype dtype) {
  const int32_t groups = device::has_groups(dtype) ? 8 : 0;
  return device::is_codes(dtype) ? steps_of(channels) * (device::bits_of(dtype) * 4 + groups) : key_words(channels, kTileTokens);
}
THINK_HOST_DEVICE int32_t value_stage(int32_t channels, think_dtype dtype) {
  const int32_t groups = device::has_groups(dtype) ? 8 : 0;
  return device::is_codes(dtype) ? code_blocks(channels) * (device::bits_of(dtype) * 8 + groups) : key_words(channels, kTileTokens);
}

struct KeyCodes {
  Shared<uint16_t> half;     // scales, then zeros, as they are stored
  Shared<Words2> pairs;      // of two channels: scales, which are ready to be multiplied with queries, and zeros of centred codes
};

THINK_DEVICE KeyCodes key_codes(Shared<Words4> stage, int32_t steps, int32_t bits) {
  const Shared<Words4> behind = stage + steps * bits * 4;
  return {behind.as<uint16_t>(), (behind + steps * 4).as<Words2>()};
}

THINK_DEVICE void fetch_key_codes(Shared<Words4> to, const device::View &view, think_dtype dtype, int32_t first) {
  const int32_t bits = device::bits_of(dtype), stored = device::code_pieces(view.channels, dtype), all = steps_of(view.channels) * bits * 4;
  const int32_t rest = static_cast<int32_t>(view.step / 16) - stored;
  const char *from = device::row_address(view, first);
#pragma unroll 1
  for (int32_t i = lane_index(); i < all; i += 32) {
    cp_async_zfill<16>(to + (bits == 8 ? line_place(i / 2, i % 2) : i), i < stored ? from + i * 16 : nullptr, i < stored ? 16 : 0);
  }
#pragma unroll 1
  for (int32_t i = lane_index(); i < rest; i += 32) cp_async<16>(to + all + i, from + (stored + i) * 16);
}

// Scales and zeros of values, 32 halves of each group: rows of four chunks, placed like those of a tile of numbers.
THINK_DEVICE Shared<Words4> value_scales(Shared<Words4> stage, int32_t kept, int32_t bits) { return stage + code_blocks(kept) * bits * 8; }

// The lines of a last block of less than 32 channels lie apart like those of the others: matrices need lines of 16 bytes. What is missing of them are codes of
// 0, whose sums nobody asks for.
template <int32_t kBits>
THINK_DEVICE void fetch_narrow_block(Shared<Words4> to, const char *from, int32_t width, int32_t rows) {
  const int32_t line = width * kBits / 8;
#pragma unroll 1
  for (int32_t i = lane_index(); i < kTileTokens * 4; i += 32) {  // pieces of a quarter of a line
    const int32_t token = i / 4, at = i % 4 * kBits;
    const bool exists = at < line && token < rows;
    const Shared<uint32_t> place = (to + (kBits == 8 ? line_place(token, at / 16) : token)).template as<uint32_t>() + at % 16 / 4;
    cp_async_zfill<kBits>(place, exists ? from + token * line + at : nullptr, exists ? kBits : 0);
  }
}

// `rows` of the tile belong to the segment. Of F8 the others may be NaN and become 0; else their scales do, see sum_value_codes().
THINK_DEVICE void fetch_value_codes(Shared<Words4> to, const device::View &view, think_dtype dtype, int32_t first, int32_t rows) {
  const int32_t bits = device::bits_of(dtype), stored = device::code_pieces(view.channels, dtype);
  // A narrow block of two bits stays as it is.
  const int32_t whole = bits == 2 ? stored : view.channels / kBlockChannels * bits * 8;
  const bool has_groups = device::has_groups(dtype);
  const char *from = device::row_address(view, first);
  if (has_groups) rows = kTileTokens;
#pragma unroll 1
  for (int32_t i = lane_index(); i < whole; i += 32) {
    const bool exists = bits != 8 || i / 2 % kTileTokens < rows;
    cp_async_zfill<16>(to + (bits == 8 ? line_place(i / 2, i % 2) : i), exists ? from + i * 16 : nullptr, exists ? 16 : 0);
  }
  if (whole < stored) {
    const int32_t width = view.channels % kBlockChannels;
    if (bits == 8) {
      fetch_narrow_block<8>(to + whole, from + whole * 16, width, rows);
    } else {
      fetch_narrow_block<4>(to + whole, from + whole * 16, width, rows);
    }
  }
  if (!has_groups) return;
  const int32_t groups = device::groups_of(view.channels);
  const Shared<Words4> scales = value_scales(to, view.channels, bits);
#pragma unroll 1
  for (int32_t i = lane_index(); i < 8 * groups; i += 32) cp_async<16>(scales + tile_place<kTileTokens>(i / 4, i % 4), from + (stored + i) * 16);
}

// ---- keys

// Makes KeyCodes::pairs; the answer is what the products of a tile are too small by. Powers of two, which f16 holds: the largest scale becomes a half or more.
template <int32_t kSteps>
THINK_DEVICE float scale_keys(const KeyCodes &codes, int32_t kept, int32_t steps, int32_t bits) {
  constexpr int32_t kPairs = kSteps / 4;  // of a lane
  uint32_t scale[kPairs], zero[kPairs], largest = 0;
#pragma unroll
  for (int32_t i = 0; i < kPairs; ++i) {
    const int32_t channel = 2 * (i * 32 + lane_index());
    scale[i] = zero[i] = 0;
    if (channel < kept) scale[i] = load_shared(codes.half + channel), zero[i] = load_shared(codes.half + (kept + channel));
    if (channel + 1 < kept) {
      scale[i] |= static_cast<uint32_t>(load_shared(codes.half + (channel + 1))) << 16;
      zero[i] |= static_cast<uint32_t>(load_shared(codes.half + (kept + channel + 1))) << 16;
    }
    const uint32_t low = scale[i] & 0xffff, high = scale[i] >> 16;
    largest = low > largest ? low : largest;
    largest = high > largest ? high : largest;
  }
#pragma unroll
  for (int32_t distance = 16; distance > 0; distance /= 2) {
    const uint32_t other = shuffle_xor(largest, distance);
    largest = other > largest ? other : largest;
  }
  int32_t power = 126 - static_cast<int32_t>(as_bits(device::half_to_float(static_cast<uint16_t>(largest))) >> 23);
  power = power > 15 ? 15 : power;
  const F16 factor = from_float<F16>(as_float(static_cast<uint32_t>(127 + power) << 23));
#pragma unroll
  for (int32_t i = 0; i < kPairs; ++i) {
    const int32_t pair = i * 32 + lane_index();
    if (pair < steps * 8) store_shared(codes.pairs + pair, Words2{mul2<F16>(scale[i], pack(factor, factor)), fma2<F16>(scale[i], middle_of(bits), zero[i])});
  }
  sync_warp();
  return as_float(static_cast<uint32_t>(127 - power) << 23);
}

// The logits of a tile, as far as they are products. Row r of matrix m is token 16 m + 2 r, row 8 + r the one behind it; of two bits rows are tokens.
// scale: of F8.
template <think_dtype kType, int32_t kSteps>
THINK_DEVICE void sum_key_codes(float (&score)[2][4], const Keys<kSteps> &keys, int32_t kept, float scale, Shared<Words4> stage) {
  constexpr bool kGroups = kType != THINK_F8_E4M3;
  constexpr int32_t kBits = kType == THINK_U2 ? 2 : kType == THINK_U4 ? 4 : 8;
  const int32_t lane = lane_index();  // or what is computed of it is kept while all other kinds of tiles are summed
  const KeyCodes codes = key_codes(stage, keys.steps, kBits);
  float back = scale * kF8Unit;
  if constexpr (kGroups) back = scale_keys<kSteps>(codes, kept, keys.steps, kBits);
  float centre[4] = {keys.begin[0], keys.begin[1], 0.0f, 0.0f};
  // Of two bits a line has two channels, and lines r and r + 4 are neighbours in the matrix, so that a lane's channels are those of its queries.
  const Shared<Words4> line =
      stage + (kBits == 8 ? line_place(lane / 8 % 2 * 8 + lane % 8, lane / 16) : kBits == 4 ? lane % 16 : lane % 8 / 2 + lane % 2 * 4);
  const Shared<Words2> pairs = codes.pairs + lane % 4;
#pragma unroll
  for (int32_t m = 0; m < 2; ++m) {
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) score[m][i] = 0.0f;
  }
  // Queries that lie in shared memory need no constant steps; unrolled, they would fill the registers.
#pragma unroll(Keys<kSteps>::kInRegisters ? kSteps : 2)
  for (int32_t k = 0; k < kSteps; ++k) {
    if (k < keys.steps) {
      if (kSteps > 8 || k % 2 == 0) sync_warp();  // so that no more than one or two steps are fetched ahead: registers would spill
      uint32_t query[2];
      load_query(query, keys, k);
      if constexpr (kGroups) {
        const Words2 low = load_shared(pairs + k * 8), high = load_shared(pairs + (k * 8 + 4));
        mma<F16>(centre, low.y, 0u, high.y, 0u, query[0], query[1]);
        query[0] = mul2<F16>(query[0], low.x), query[1] = mul2<F16>(query[1], high.x);
      }
      if constexpr (kBits == 8) {
        uint32_t word[4];
        ldmatrix_trans(word, line + k * 32);
#pragma unroll
        for (int32_t m = 0; m < 2; ++m) {
          const uint32_t a[4] = {whole_bytes_pair<kType>(word[2 * m], 0), whole_bytes_pair<kType>(word[2 * m], 1),
                                 whole_bytes_pair<kType>(word[2 * m + 1], 0), whole_bytes_pair<kType>(word[2 * m + 1], 1)};
          mma<F16>(score[m], a, query);
        }
      } else if constexpr (kBits == 2) {
        uint32_t word[1];
        ldmatrix_trans(word, line + k * 8);
#pragma unroll
        for (int32_t m = 0; m < 2; ++m) {
          uint32_t a[4];
          quarters(a, word[0], 2 * m);
          mma<F16>(score[m], a, query);
        }
      } else {
        uint32_t word[2];
        ldmatrix_trans(word, line + k * 16);
#pragma unroll
        for (int32_t m = 0; m < 2; ++m) {
          const uint32_t a[4] = {nibbles_pair(word[0], 0, m), nibbles_pair(word[0], 1, m), nibbles_pair(word[1], 0, m), nibbles_pair(word[1], 1, m)};
          mma<F16>(score[m], a, query);
        }
      }
    }
  }
#pragma unroll
  for (int32_t m = 0; m < 2; ++m) {
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) score[m][i] = fmaf(score[m][i], back, centre[i % 2]);
  }
}

// Probabilities in the order of sum_key_codes() as B operands in the order of tokens: lane 4 g + t needs tokens 2t, 2t + 1 (+ 8) of column g, which are
// neighbours in lane 4 t + g / 2 (+ 16).
template <class T>
THINK_DEVICE void order_probabilities(uint32_t (&p)[2], const float (&score)[4]) {
  const int32_t lane = lane_index(), from = lane % 4 * 4 + lane / 8;
  const uint32_t even = pack<T>(score[0], score[2]), odd = pack<T>(score[1], score[3]);
#pragma unroll
  for (int32_t half = 0; half < 2; ++half) {
    const uint32_t of_even = shuffle(even, from + half * 16), of_odd = shuffle(odd, from + half * 16);
    p[half] = lane / 4 % 2 ? of_odd : of_even;
  }
}

// ---- values

template <int32_t kMatrices>
struct CodeSums : Sums<kMatrices> {
  float zero[2];  // of the zeros of values, [group of channels][column]
};

// Of two bits: the byte of a token's line whose codes are row lane / 4 of the matrices, and the row eight further. The order is one in which the sums of the
// channels lie in different banks.
THINK_DEVICE int32_t byte_of_lane(int32_t lane) { return lane / 4 % 4 * 2 + (lane / 16 ^ lane / 8 % 2); }

// A block of two bits: the bytes of byte_of_lane() of tokens 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 of each half of the tile.
THINK_DEVICE void load_quarters(uint32_t (&word)[2], Shared<Words4> block) {
  const int32_t lane = lane_index();
  // Two tokens share 16 bytes, of which t and t + 4 are neighbours in a matrix, as with keys. A lane has two bytes of one token of each, the lane 16 further
  // those of the other.
  ldmatrix_trans(word, block + (lane / 8 % 2 * 8 + lane % 8 / 2 + lane % 2 * 4));
#pragma unroll
  for (int32_t m = 0; m < 2; ++m) {
    const uint32_t other = shuffle_xor(word[m], 16);
    word[m] = permute_bytes(word[m], other, (lane < 16 ? 0x6240 : 0x2604) + byte_of_lane(lane) % 2 * 0x1111);
  }
}

// Of a narrow one, whose lines are `line` bytes.
THINK_DEVICE void load_narrow_quarters(uint32_t (&word)[2], Shared<Words4> block, int32_t line) {
  const int32_t lane = lane_index(), byte = byte_of_lane(lane);
  const Shared<uint8_t> bytes = block.as<uint8_t>() + (lane % 4 * 2 * line + byte);
#pragma unroll
  for (int32_t m = 0; m < 2; ++m) {
    word[m] = 0;
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) {
      if (byte < line) word[m] |= static_cast<uint32_t>(load_shared(bytes + (m * 16 + i / 2 * 8 + i % 2) * line)) << 8 * i;
    }
  }
}

// Matrix 2 b + e has a half of block b: bytes 16 e + 2 r of its lines in row r and those behind them in row 8 + r, of nibbles the lower or upper halves of
// bytes 2 r and 2 r + 1, of two bits codes 2 e and 2 e + 1 of the bytes of byte_of_lane(). p: f16. Tokens from `rows` on have scales that are none.
template <think_dtype kType, int32_t kMatrices>
THINK_DEVICE void sum_value_codes(CodeSums<kMatrices> &sums, const uint32_t (&p)[2][2], Shared<Words4> stage, int32_t kept, int32_t rows) {
  constexpr bool kGroups = kType != THINK_F8_E4M3;
  constexpr int32_t kBits = kType == THINK_U2 ? 2 : kType == THINK_U4 ? 4 : 8;
  const int32_t lane = lane_index(), group = lane / 4, groups = device::groups_of(kept);
  const Shared<Words4> scales = value_scales(stage, kept, kBits);
  const auto load_pair = [&](int32_t line, int32_t m, int32_t half) {
    const int32_t left = rows - (m * 16 + half * 8 + lane % 4 * 2);
    const uint32_t word = load_shared((scales + tile_place<kTileTokens>(line, 2 * m + half)).template as<uint32_t>() + lane % 4);
    return left >= 2 ? word : left == 1 ? word & 0xffffu : 0u;
  };
  if constexpr (kGroups) {
#pragma unroll
    for (int32_t m = 0; m < 2; ++m) {
      if (kMatrices > 8) sync_warp();
      uint32_t centre[2] = {0, 0};
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        if (group < groups) centre[half] = fma2<F16>(load_pair(group, m, half), middle_of(kBits), load_pair(groups + group, m, half));
      }
      float zero[4] = {sums.zero[0], sums.zero[1], 0.0f, 0.0f};
      mma<F16>(zero, centre[0], 0u, centre[1], 0u, p[m][0], p[m][1]);
      sums.zero[0] = zero[0], sums.zero[1] = zero[1];
    }
  }
  uint32_t narrow[2] = {0, 0};
  if constexpr (kBits == 2) {
    if (kept % kBlockChannels) load_narrow_quarters(narrow, stage + kept / kBlockChannels * kBits * 8, kept % kBlockChannels / 4);
  }
#pragma unroll
  for (int32_t b = 0; b < kMatrices / 2; ++b) {
    if (b * kBlockChannels >= kept) continue;
    sync_warp();  // as above
    uint32_t scaled[2][2];
#pragma unroll
    for (int32_t m = 0; m < 2; ++m) {
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        scaled[m][half] = p[m][half];
        if constexpr (kGroups) scaled[m][half] = mul2<F16>(p[m][half], enlarged(load_pair(b < groups ? b : groups - 1, m, half), kBits));
      }
    }
    const auto add = [&](int32_t j, int32_t m, uint32_t low, uint32_t high, int32_t upper) {
      if constexpr (kBits == 8) {
        mma<F16>(sums.out[j], whole_bytes_pair<kType>(low, 0), whole_bytes_pair<kType>(low, 1), whole_bytes_pair<kType>(high, 0),
                 whole_bytes_pair<kType>(high, 1), scaled[m][0], scaled[m][1]);
      } else {
        mma<F16>(sums.out[j], nibbles_pair(low, 0, upper), nibbles_pair(low, 1, upper), nibbles_pair(high, 0, upper), nibbles_pair(high, 1, upper),
                 scaled[m][0], scaled[m][1]);
      }
    };
    const Shared<Words4> block = stage + b * kBits * 8;
    if constexpr (kBits == 2) {
      uint32_t word[2] = {narrow[0], narrow[1]};
      if ((b + 1) * kBlockChannels <= kept) load_quarters(word, block);
#pragma unroll
      for (int32_t e = 0; e < 2; ++e) {
        if (kMatrices > 8) sync_warp();
#pragma unroll
        for (int32_t m = 0; m < 2; ++m) {
          uint32_t a[4];
          quarters(a, word[m], 2 * e);
          mma<F16>(sums.out[2 * b + e], a, scaled[m]);
        }
      }
      continue;
    }
    uint32_t word[4];
    if constexpr (kBits == 4) ldmatrix_trans(word, block + lane);
#pragma unroll
    for (int32_t e = 0; e < 2; ++e) {
      if (kMatrices > 8) sync_warp();
      if constexpr (kBits == 8) ldmatrix_trans(word, block + line_place(lane, e));
#pragma unroll
      for (int32_t m = 0; m < 2; ++m) add(2 * b + e, m, word[2 * m], word[2 * m + 1], e);
    }
  }
}

// store_sums(): scaled back and with their zeros. `scale` of F8.
template <int32_t kMatrices>
THINK_DEVICE void store_value_codes(Shared<float> to, bool sparse, const CodeSums<kMatrices> &sums, int32_t kept, think_dtype dtype, float scale) {
  const int32_t bits = device::bits_of(dtype), lane = lane_index(), column = lane % 4, groups = device::groups_of(kept), blocks = code_blocks(kept);
  // Of each four rows two begin with their second channel, as eight would lie in four banks; of each eight rows of single numbers four.
  const int32_t turn = !sparse ? lane / 8 % 2 : bits == 2 ? 0 : lane / 16;
  const int32_t row = bits == 2 ? byte_of_lane(lane) : lane / 4 * 2;
  const float unit = device::has_groups(dtype) ? reduced(1.0f, bits) : scale * kF8Unit;
#pragma unroll
  for (int32_t j = 0; j < kMatrices; ++j) {
    const int32_t block = j / 2, of_zero = (block < groups ? block : groups - 1) * 4 + column;
    if (block >= blocks) continue;
    if (kMatrices > 8) sync_warp();  // as above
    const float zero[2] = {shuffle(sums.zero[0], of_zero), shuffle(sums.zero[1], of_zero)};
    const int32_t width = block + 1 < blocks ? kBlockChannels : kept - block * kBlockChannels;
    // The block's channels in this matrix; and where a row's second one is.
    const int32_t first = bits == 8 ? j % 2 * kStep : j % 2 * width / 2, end = bits == 8 || j % 2 ? width : width / 2, apart = bits == 2 ? width / 4 : 1;
#pragma unroll
    for (int32_t i = 0; i < 2; ++i) {
      const int32_t half = i ^ turn, channel = first + row + half * apart;
      const float(&sum)[4] = sums.out[j];
      const float x = fmaf(half ? sum[2] : sum[0], unit, zero[0]), y = fmaf(half ? sum[3] : sum[1], unit, zero[1]);
      if (channel < end && (bits != 2 || row < apart)) store_columns(to + (block * kBlockChannels + channel) * 4, sparse, x, y);
    }
  }
}

// ---- numbers beside codes

template <class T, int32_t kSteps>
THINK_DEVICE void sum_key_numbers(float (&score)[2][4], const Keys<kSteps> &keys, Shared<Words4> stage) {
  const int32_t lane = lane_index(), matrix = lane / 8, row = lane % 8;
#pragma unroll
  for (int32_t m = 0; m < 2; ++m) score[m][0] = score[m][2] = keys.begin[0], score[m][1] = score[m][3] = keys.begin[1];
  const auto add = [&](const auto &load) {
#pragma unroll(Keys<kSteps>::kInRegisters ? kSteps : 2)
    for (int32_t k = 0; k < kSteps; ++k) {
      if (k < keys.steps) {
        if (kSteps > 8 && k % 2 == 0) sync_warp();  // as in sum_key_codes()
        uint32_t query[2];
        load_query(query, keys, k);
#pragma unroll
        for (int32_t m = 0; m < 2; ++m) {
          uint32_t a[4];
          load(a, m, k);
          mma<T>(score[m], a, query);
        }
      }
    }
  };
  if (keys.layout == THINK_TILES) {
    const int32_t place[2] = {tile_place<kTileTokens>(matrix / 2 * 8 + row, matrix % 2), tile_place<kTileTokens>(matrix / 2 * 8 + row, 2 + matrix % 2)};
    add([&](uint32_t(&a)[4], int32_t m, int32_t k) { ldmatrix_trans(a, stage + (place[m] + k * kStep * 4)); });
  } else {
    const LanePlace place = lane_place(keys.steps, matrix % 2 * 8 + row, matrix / 2);
    add([&](uint32_t(&a)[4], int32_t m, int32_t k) { ldmatrix(a, stage + place(m, k)); });
  }
}

template <class T, int32_t kMatrices>
THINK_DEVICE void sum_value_numbers(CodeSums<kMatrices> &sums, const uint32_t (&p)[2][2], Shared<Words4> stage, int32_t value_steps) {
  const int32_t lane = lane_index();
  const LanePlace place = lane_place(value_steps, lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
  for (int32_t j = 0; j < kMatrices; ++j) {
    if (j < value_steps) {
      if (kMatrices > 8 && j % 2 == 0) sync_warp();
#pragma unroll
      for (int32_t m = 0; m < 2; ++m) {
        uint32_t a[4];
        ldmatrix_trans(a, stage + place(m, j));
        mma<T>(sums.out[j], a, p[m]);
      }
    }
  }
}

// ---- a piece

// `first`: the tile's first token in the segment, of which `rows` are left.
template <class T, int32_t kSteps>
THINK_DEVICE void sum_code_tile(CodeSums<kSteps> &sums, const Keys<kSteps> &keys, const Geometry &g, float scale, float softcap, Shared<Words4> staged_keys,
                                Shared<Words4> staged_values, int32_t key_kept, think_dtype key_type, float key_scale, int32_t value_kept,
                                think_dtype value_type, int32_t first, int32_t rows) {
  const int32_t group = lane_index() / 4;
  const bool in_pairs = device::is_codes(key_type) && key_type != THINK_U2;
  float score[2][4];
  if (key_type == THINK_U8) {
    sum_key_codes<THINK_U8>(score, keys, key_kept, 1.0f, staged_keys);
  } else if (key_type == THINK_U4) {
    sum_key_codes<THINK_U4>(score, keys, key_kept, 1.0f, staged_keys);
  } else if (key_type == THINK_U2) {
    sum_key_codes<THINK_U2>(score, keys, key_kept, 1.0f, staged_keys);
  } else if (key_type == THINK_F8_E4M3) {
    sum_key_codes<THINK_F8_E4M3>(score, keys, key_kept, key_scale, staged_keys);
  } else {
    sum_key_numbers<T>(score, keys, staged_keys);
  }
  make_probabilities(
      score, sums, keys, g, scale, softcap,
      [&](int32_t m, int32_t half) { return first + m * 16 + (in_pairs ? 2 * group + half : half * 8 + group); },
      [&](int32_t x, float rest) { sums.zero[x] *= rest; });
  uint32_t p[2][2];
  const auto make_operands = [&](auto type) {
    using P = decltype(type);
#pragma unroll
    for (int32_t m = 0; m < 2; ++m) {
      if (in_pairs) {
        order_probabilities<P>(p[m], score[m]);
      } else {
        p[m][0] = movmatrix_trans(pack<P>(score[m][0], score[m][1]));
        p[m][1] = movmatrix_trans(pack<P>(score[m][2], score[m][3]));
      }
    }
  };
  if (!device::is_codes(value_type)) {
    make_operands(T{});
    sum_value_numbers<T>(sums, p, staged_values, steps_of(value_kept));
    return;
  }
  make_operands(F16{});
  if (value_type == THINK_U8) {
    sum_value_codes<THINK_U8>(sums, p, staged_values, value_kept, rows);
  } else if (value_type == THINK_U4) {
    sum_value_codes<THINK_U4>(sums, p, staged_values, value_kept, rows);
  } else if (value_type == THINK_U2) {
    sum_value_codes<THINK_U2>(sums, p, staged_values, value_kept, rows);
  } else {
    sum_value_codes<THINK_F8_E4M3>(sums, p, staged_values, value_kept, rows);
  }
}

// sum_piece() of a run of which keys, values or both are codes, the same in all its segments.
template <class T, int32_t kSteps, class Place>
THINK_DEVICE void sum_code_piece(const Decode &d, float scale, float softcap, const Block &block, Cursor cursor, int32_t first, int32_t end,
                                 const Place &place) {
  const Geometry &g = d.geometry;
  const DecodeSegment &one = d.segment[cursor.segment];
  const think_dtype key_type = one.key.dtype, value_type = one.value.dtype;
  const int32_t warp = warp_index(), keys_at = key_stage(g.key_channels, key_type);
  const Shared<Words4> ring = block.ring + warp * kCodeStages * d.code_words;
  Cursor ahead = cursor;  // of what is fetched
  const auto fetch = [&](int32_t tile, int32_t round) {
    if (tile < end) {
      advance(ahead, block, tile);
      const Located at = located(block, ahead.segment);
      const int32_t behind = (tile - ahead.begin) * kTileTokens, left = at.rows.length - behind, row = at.rows.first + behind;
      const int32_t rows = left < kTileTokens ? left : kTileTokens;
      const Shared<Words4> stage = ring + round % kCodeStages * d.code_words;
      if (device::is_codes(key_type)) {
        fetch_key_codes(stage, at.key, key_type, row);
      } else if (at.key.layout == THINK_TILES) {
        fetch_tile<kTileTokens, kSteps>(stage, at.key, row);
      } else {
        fetch_rows<kTileTokens, kSteps>(stage, at.key, row, rows);
      }
      const device::View value = located(block, ahead.segment).value;  // anew, as registers are for the keys until here
      if (device::is_codes(value_type)) {
        fetch_value_codes(stage + keys_at, value, value_type, row, rows);
      } else {
        fetch_rows<kTileTokens, kSteps>(stage + keys_at, value, row, rows);
      }
    }
    cp_async_commit();
  };

  const auto place_of = [&](const DecodeSegment &segment) { return head_of_slot(g, segment.run.slot, read_shared<Visit>(block.visit).unit); };
  const int32_t value_kept = located(block, cursor.segment).value.channels;
  CodeSums<kSteps> sums = {};
  sums.maximum[0] = sums.maximum[1] = kLowest;
  Keys<kSteps> keys;
  keys.folded = block.folded + (Keys<kSteps>::kInRegisters ? 0 : warp * steps_of(g.key_channels) * 32);
  int32_t key_kept = 0, length = 0;
  float key_scale = 1.0f;
  bool met = false;
  const int32_t last = warp < d.code_warps ? end : 0;
  // The first rounds only fetch.
#pragma unroll 1
  for (int32_t round = 1 - kCodeStages, tile = first + warp + round * d.code_warps; tile < last; tile += d.code_warps, ++round) {
    fetch(tile + (kCodeStages - 1) * d.code_warps, round + kCodeStages - 1);
    if (round < 0) continue;
    if (advance(cursor, block, tile) || !met) {
      const DecodeSegment &segment = d.segment[cursor.segment];
      meet_segment(keys, d, block, cursor.segment);
      key_kept = located(block, cursor.segment).key.channels;
      key_scale = device::scale_of(segment.key, place_of(segment));
      length = located(block, cursor.segment).rows.length;
      met = true;
    }
    cp_async_wait<kCodeStages - 1>();
    sync_warp();
    const Shared<Words4> stage = ring + round % kCodeStages * d.code_words;
    const int32_t begin = (tile - cursor.begin) * kTileTokens;
    sum_code_tile<T>(sums, keys, g, scale, softcap, stage, stage + keys_at, key_kept, key_type, key_scale, value_kept, value_type, begin, length - begin);
    sync_warp();  // the stage may be filled again
  }
  cp_async_wait<0>();
  const int32_t halves = read_shared<Visit>(block.visit).halves;
  merge_warps(sums, block, steps_of(value_kept), value_kept, g.value_channels, halves, g.sparse, place(), [&](Shared<float> own) {
    if (device::is_codes(value_type)) {
      store_value_codes(own, g.sparse, sums, value_kept, value_type, device::scale_of(one.value, place_of(one)));
    } else {
      store_sums(own, g.sparse, sums, steps_of(value_kept));
    }
  });
}

}  // namespace think::attend::cuda
