// Rows and tiles of 16-bit numbers in the shared memory of a warp, and what else is known of the tile that is summed next.
#pragma once

#include "cuda_plan.cuh"

namespace think::attend::cuda {

// ---- staged tiles

// Channel-major keys: chunk c of eight tokens of channel r. Eight rows of a matrix lie in different banks.
THINK_DEVICE int32_t tile_place(int32_t channel, int32_t chunk) { return channel * 4 + (chunk ^ (channel >> 1 & 3)); }

// Rows of `chunks` (even) chunks without gaps: an exclusive-or with the bits of the row that the multiplication by `chunks` shifts out.
struct RowPlace {
  int32_t chunks, shift, mask;
  THINK_DEVICE int32_t operator()(int32_t row, int32_t chunk) const { return row * chunks + (chunk ^ (row >> shift & mask)); }
};

THINK_DEVICE RowPlace row_place(int32_t steps) {
  const int32_t chunks = steps * 2, even = trailing_zeros(static_cast<uint32_t>(chunks)), bits = even < 3 ? even : 3;
  return {chunks, 3 - bits, (1 << bits) - 1};
}

// place(m * 16 + row, k * 2 + half) of a lane's matrix row, in few registers: the exclusive-or knows neither m nor more of k than its two lowest bits.
struct LanePlace {
  int32_t begin, step, half, twist;
  THINK_DEVICE int32_t operator()(int32_t m, int32_t k) const { return begin + m * step + ((k % 4 * 2 + half) ^ twist) + k / 4 * 8; }
};

THINK_DEVICE LanePlace lane_place(int32_t steps, int32_t row, int32_t half) {
  const RowPlace place = row_place(steps);
  return {row * place.chunks, 16 * place.chunks, half, row >> place.shift & place.mask};
}

// `rows` rows from `first` on; what is missing of rows and channels becomes zero. Rows off the 16 bytes go through registers.
THINK_DEVICE void fetch_rows(Shared<Words4> to, const device::View &view, int32_t first, int32_t rows) {
  const int32_t lane = lane_index(), steps = steps_of(view.channels), chunks = steps * 2;
  const RowPlace place = row_place(steps);
  const char *own = lane < rows ? device::row_address(view, first + lane) : nullptr;
  int32_t row = lane / chunks, chunk = lane - row * chunks;
  const int32_t rows_on = 32 / chunks, chunks_on = 32 - rows_on * chunks;
#pragma unroll 1
  for (int32_t i = 0; i < chunks; ++i) {
    const char *from = device::shuffle_pointer(own, row) + chunk * 16;
    const int32_t numbers = row < rows ? view.channels - chunk * 8 : 0;
    const Shared<Words4> at = to + place(row, chunk);
    if (numbers <= 0 || (reinterpret_cast<uint64_t>(from) & 15) == 0) {
      cp_async_zfill<16>(at, numbers > 0 ? from : nullptr, numbers <= 0 ? 0 : numbers < 8 ? numbers * 2 : 16);
    } else {
      uint32_t words[4] = {};
#pragma unroll
      for (int32_t x = 0; x < 8; ++x) {
        if (x < numbers) words[x / 2] |= static_cast<uint32_t>(load_constant(reinterpret_cast<const uint16_t *>(from) + x)) << x % 2 * 16;
      }
      store_shared(at, Words4{words[0], words[1], words[2], words[3]});
    }
    row += rows_on;
    chunk += chunks_on;
    if (chunk >= chunks) chunk -= chunks, ++row;
  }
}

THINK_DEVICE void fetch_tile(Shared<Words4> to, const device::View &view, int32_t first) {
  const int32_t stored = view.channels * 4, all = steps_of(view.channels) * kStep * 4;
  const char *from = device::row_address(view, first);
#pragma unroll 2
  for (int32_t i = lane_index(); i < all; i += 32) cp_async_zfill<16>(to + tile_place(i / 4, i % 4), i < stored ? from + i * 16 : nullptr, i < stored ? 16 : 0);
}

// ---- what is summed

// What a segment means for the tiles that are summed next.
template <int32_t kSteps>
struct Keys {
  static constexpr bool kInRegisters = kSteps <= 8;
  uint32_t query[kInRegisters ? kSteps : 1][2];
  Shared<Words2> folded;
  float begin[2];   // of the sums of this lane's two columns
  int32_t limit[2];  // rows that they see
  int32_t steps, layout;
  int32_t kept, bits, length;  // bits: of a code, 16 of numbers; length: rows of the segment
};

template <int32_t kSteps>
THINK_DEVICE void load_query(uint32_t (&query)[2], const Keys<kSteps> &keys, int32_t k) {
  if constexpr (Keys<kSteps>::kInRegisters) {
    query[0] = keys.query[k][0], query[1] = keys.query[k][1];
  } else {
    const Words2 pair = load_shared(keys.folded + k * 32 + lane_index());
    query[0] = pair.x, query[1] = pair.y;
  }
}

template <int32_t kMatrices>
struct Sums {
  float out[kMatrices][4], maximum[2], mass[2];
  float zero[2];  // of values that are codes: the sums of their zeros, [group of channels][column]
};

}  // namespace think::attend::cuda
