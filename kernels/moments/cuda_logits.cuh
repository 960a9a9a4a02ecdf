// Logits of a tile of 64 rows with the window's queries: on tensor cores where both are 16-bit numbers of one type, by FMA otherwise. They are in units of
// log2(e), so that differences are exponents of two; -inf where a query does not see a row, and where there is none.
#pragma once

#include "cuda_rows.cuh"

namespace think::moments::cuda {
namespace {

// Channels of a key or of a value, whichever has more.
THINK_HOST_DEVICE int32_t widest_of(const MomentsCall &call) {
  return call.key_channels > call.value_channels ? call.key_channels : call.value_channels;
}

// How many of a tile's `count` rows a column sees. row: the tile's first, from the head's first.
THINK_DEVICE int32_t rows_seen(const MomentsCall &call, const Head &head, int32_t column, int32_t row, int32_t count) {
  if (!call.causal) return count;
  const int32_t seen = head.tokens - head.query_rows + column / call.group + 1 - row;
  return seen < count ? seen : count;
}

// From a product to a logit.
struct Scale {
  float factor, cap;  // cap: 0 = none

  THINK_DEVICE explicit Scale(const MomentsCall &call)
      : factor((call.softcap > 0 ? 2.0f * call.scale / call.softcap : call.scale) * kLog2E), cap(call.softcap > 0 ? call.softcap * kLog2E : 0.0f) {}
  THINK_DEVICE float plain(float product) const { return product * factor; }
  // tanh(x) as 1 - 2 / (exp(2x) + 1): the error is absolute, a few units in the last place of the cap.
  THINK_DEVICE float capped(float product) const { return cap * (1.0f - 2.0f * reciprocal_fast(1.0f + exp2_fast(product * factor))); }
};

// ---- by FMA: 64 columns at a time, 4 times 4 logits of each of 256 threads

struct Cell {
  int32_t row, column;  // of the thread's first logit in the tile; the next are 8 rows and 4 columns further on

  THINK_DEVICE Cell() : row(warp_index() / 4 * 32 + lane_index() % 8), column(warp_index() % 4 * 16 + lane_index() / 8) {}
};

struct LogitTiles {
  Shared<float> keys;     // [64][key_pitch], room for values too
  Shared<float> queries;  // [64][kPitch]
  Shared<Float2> columns; // [2][64]
  Shared<float> sums;     // [4][64]
  Shared<float> mass;     // [64]
};

THINK_HOST_DEVICE LogitTiles take_tiles(SharedCarver &carver, int32_t channels) {
  LogitTiles tiles;
  tiles.keys = carver.take<float>(static_cast<uint32_t>(kTile * key_pitch(channels)));
  tiles.queries = carver.take<float>(kTile * kPitch);
  tiles.columns = carver.take<Float2>(2 * kTile);
  tiles.sums = carver.take<float>(kMassParts * kTile);
  tiles.mass = carver.take<float>(kTile);
  return tiles;
}

uint32_t tiles_bytes(int32_t channels) {
  SharedCarver carver;
  take_tiles(carver, channels);
  return carver.bytes();
}

// Of the rows in tiles.keys with the queries of one tile of columns.
THINK_DEVICE void logits(const MomentsCall &call, const Head &head, const LogitTiles &tiles, int32_t slot, int32_t row, int32_t count, int32_t tile,
                         float (&z)[4][4]) {
  const Cell cell;
  const int32_t pitch = key_pitch(widest_of(call));
#pragma unroll
  for (int32_t i = 0; i < 4; ++i) {
#pragma unroll
    for (int32_t j = 0; j < 4; ++j) z[i][j] = 0;
  }
  for (int32_t channel = 0; channel < call.key_channels; channel += kDepth) {
    const int32_t left = call.key_channels - channel, chunks = (left < kDepth ? left : kDepth) / 8;
    sync_block();
    stage(tiles.queries, kPitch, kTile, chunks, [&](float(&x)[8], int32_t line, int32_t chunk) {
      const int32_t column = tile * kTile + line;
      if (column < head.columns) device::load_eight(x, query_address(call, head, slot, column, channel + chunk * 8), call.query.dtype);
    });
    sync_block();
    for (int32_t four = 0; four < 2 * chunks; ++four) {
      Float4 key[4], query[4];
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        key[i] = load_shared((tiles.keys + ((cell.row + 8 * i) * pitch + channel + four * 4)).as<Float4>());
        query[i] = load_shared((tiles.queries + ((cell.column + 4 * i) * kPitch + four * 4)).as<Float4>());
      }
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
#pragma unroll
        for (int32_t j = 0; j < 4; ++j) {
          z[i][j] = fmaf(key[i].x, query[j].x, z[i][j]);
          z[i][j] = fmaf(key[i].y, query[j].y, z[i][j]);
          z[i][j] = fmaf(key[i].z, query[j].z, z[i][j]);
          z[i][j] = fmaf(key[i].w, query[j].w, z[i][j]);
        }
      }
    }
  }
  const Scale scale(call);
#pragma unroll
  for (int32_t j = 0; j < 4; ++j) {
    const int32_t seen = rows_seen(call, head, tile * kTile + cell.column + 4 * j, row, count);
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) {
      const float x = scale.cap > 0 ? scale.capped(z[i][j]) : scale.plain(z[i][j]);
      z[i][j] = cell.row + 8 * i < seen ? x : as_float(0xff800000u);
    }
  }
}

// ---- on tensor cores: 128 columns at a time, of which each of a tile's four warps has 32 with all 64 rows. Two tiles share the queries of a block while
// rows are narrow enough.

constexpr int32_t kTileThreads = 128;
constexpr int32_t kWarpColumns = 32;
constexpr int32_t kStepColumns = kTileThreads / 32 * kWarpColumns;
constexpr int32_t kQueryPitch = row_pitch(kDepth);
constexpr int32_t kStageWords = kStepColumns * kQueryPitch;

THINK_HOST_DEVICE constexpr int32_t block_tiles(int32_t channels) { return channels > kMaxChannels / 2 ? 1 : 2; }

struct MatrixTiles {
  Shared<Words4> keys;     // [tiles * 64][row_pitch]
  Shared<Words4> ring;     // queries, [2][128][kQueryPitch]; behind them values, as keys
  Shared<Float2> columns;  // [2][128]
  Shared<float> sums;      // [tile][4][64]
  Shared<float> mass;      // [tile][64]
};

static_assert(2 * kStageWords >= block_tiles(kMaxChannels / 2) * kTile * row_pitch(kMaxChannels / 2), "room for values");
static_assert(2 * kStageWords >= block_tiles(kMaxChannels) * kTile * row_pitch(kMaxChannels), "room for values");

// widest: channels of a key or of a value.
THINK_HOST_DEVICE MatrixTiles take_matrices(SharedCarver &carver, int32_t key_channels, int32_t widest) {
  const int32_t tiles = block_tiles(widest);
  MatrixTiles matrices;
  matrices.keys = carver.take<Words4>(static_cast<uint32_t>(tiles * kTile * row_pitch(key_channels)));
  matrices.ring = carver.take<Words4>(2 * kStageWords);
  matrices.columns = carver.take<Float2>(2 * kStepColumns);
  matrices.sums = carver.take<float>(static_cast<uint32_t>(tiles * kMassParts * kTile));
  matrices.mass = carver.take<float>(static_cast<uint32_t>(tiles * kTile));
  return matrices;
}

uint32_t matrices_bytes(int32_t key_channels, int32_t widest) {
  SharedCarver carver;
  take_matrices(carver, key_channels, widest);
  return carver.bytes();
}

// A warp's part of a block: which tile, and which of the warps that share it.
struct TilePart {
  int32_t tile, warp;
  int32_t row, count;  // the tile's first row, from the head's first, and how many there are: 0 where the rows end before

  // rows: behind which there are none.
  THINK_DEVICE TilePart(int32_t first, int32_t rows) : tile(thread_index() / kTileThreads), warp(warp_index() % (kTileThreads / 32)) {
    row = first + tile * kTile;
    count = device::clamp(rows - row, kTile);
  }
};

// A lane's logits: columns lane / 4 + 8 c of the warp's 32, rows 2 (lane % 4) + 8 (i / 2) + i % 2 of the tile.
struct Logits {
  float sum[2][8][4];

  THINK_DEVICE float &at(int32_t c, int32_t i) { return sum[c / 2][i / 2][c % 2 * 2 + i % 2]; }
  template <class Change>
  THINK_DEVICE void change(const Change &change) {
#pragma unroll
    for (int32_t c = 0; c < 4; ++c) {
#pragma unroll
      for (int32_t i = 0; i < 16; ++i) at(c, i) = change(c, i, at(c, i));
    }
  }
};

THINK_DEVICE int32_t column_of(int32_t c) { return lane_index() / 4 + 8 * c; }
THINK_DEVICE int32_t row_of(int32_t i) { return lane_index() % 4 * 2 + i / 2 * 8 + i % 2; }

// queries: the warp's first column, keys: the tile's first row, both at the first channel; steps of 16 channels.
template <class T>
THINK_DEVICE void add_products(Logits &z, Shared<Words4> queries, Shared<Words4> keys, int32_t pitch, int32_t steps) {
  const int32_t matrix = lane_index() / 8, line = lane_index() % 8;
  const Shared<Words4> query = queries + ((matrix % 2 * 8 + line) * kQueryPitch + matrix / 2);
  const Shared<Words4> key = keys + ((matrix / 2 * 8 + line) * pitch + matrix % 2);
#pragma unroll 1
  for (int32_t k = 0; k < steps; ++k) {
    uint32_t a[2][4];
    ldmatrix(a[0], query + k * 2);
    ldmatrix(a[1], query + (16 * kQueryPitch + k * 2));
#pragma unroll
    for (int32_t two = 0; two < 4; ++two) {
      uint32_t b[4];
      ldmatrix(b, key + (two * 16 * pitch + k * 2));
#pragma unroll
      for (int32_t m = 0; m < 2; ++m) {
        mma<T>(z.sum[m][two * 2], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
        mma<T>(z.sum[m][two * 2 + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
      }
    }
  }
}

// Products of the warp's columns, from `column` on, to logits.
THINK_DEVICE void finish_logits(Logits &z, const MomentsCall &call, const Head &head, const TilePart &part, int32_t column) {
  const Scale scale(call);
  if (scale.cap > 0) {
    z.change([&](int32_t, int32_t, float product) { return scale.capped(product); });
  } else {
    z.change([&](int32_t, int32_t, float product) { return scale.plain(product); });
  }
  // Later columns see no less than the first.
  if (rows_seen(call, head, column, part.row, part.count) == kTile) return;
#pragma unroll
  for (int32_t c = 0; c < 4; ++c) {
    const int32_t seen = rows_seen(call, head, column + column_of(c), part.row, part.count);
#pragma unroll
    for (int32_t i = 0; i < 16; ++i) {
      if (row_of(i) >= seen) z.at(c, i) = as_float(0xff800000u);
    }
  }
}

// The logits of all columns with the rows whose copies to matrices.keys the caller has begun. body(z, first column of the warp, place of that column in
// matrices.columns). columns: what is to be there for each, or NULL. Afterwards copies and ring have come to rest for this thread alone.
template <class T, class Body>
THINK_DEVICE void for_logits(const MomentsCall &call, const Head &head, const MatrixTiles &matrices, const TilePart &part, const Float2 *columns,
                             const Body &body) {
  const int32_t slot = device::slot_of(call.query_slot, head.sequence), pitch = row_pitch(call.key_channels);
  const int32_t depths = (call.key_channels + kDepth - 1) / kDepth, stages = (head.columns + kStepColumns - 1) / kStepColumns * depths;
  const auto fetch = [&](int32_t stage) {
    if (stage < stages) {
      const int32_t step = stage / depths, first = step * kStepColumns, left = head.columns - first, channel = (stage - step * depths) * kDepth;
      const int32_t channels = call.key_channels - channel < kDepth ? call.key_channels - channel : kDepth;
      copy_lines(matrices.ring + stage % 2 * kStageWords, kQueryPitch, up(left < kStepColumns ? left : kStepColumns, kWarpColumns), channels,
                 [&](int32_t line) { return line < left ? query_address(call, head, slot, first + line, channel) : nullptr; });
      if (columns && channel == 0 && thread_index() < kStepColumns) {
        const int32_t own = thread_index();
        cp_async_zfill<8>(matrices.columns + (step % 2 * kStepColumns + own), own < left ? columns + first + own : nullptr, own < left ? 8 : 0);
      }
    }
    cp_async_commit();
  };
  fetch(0);
  fetch(1);
  const int32_t own = part.warp * kWarpColumns;
  int32_t stage = 0;
#pragma unroll 1
  for (int32_t step = 0; stage < stages; ++step) {
    const bool some = part.count > 0 && step * kStepColumns + own < head.columns;
    Logits z = {};
#pragma unroll 1
    for (int32_t channel = 0; channel < call.key_channels; channel += kDepth, ++stage) {
      cp_async_wait<1>();
      sync_block();
      const int32_t left = call.key_channels - channel;
      if (some) {
        add_products<T>(z, matrices.ring + (stage % 2 * kStageWords + own * kQueryPitch), matrices.keys + (part.tile * kTile * pitch + channel / 8), pitch,
                        up(left < kDepth ? left : kDepth, 16) / 16);
        if (left <= kDepth) {
          finish_logits(z, call, head, part, step * kStepColumns + own);
          body(z, step * kStepColumns + own, step % 2 * kStepColumns + own);
        }
      }
      if (stage + 2 < stages) sync_block();
      fetch(stage + 2);
    }
  }
}

}  // namespace
}  // namespace think::moments::cuda
