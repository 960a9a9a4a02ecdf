// What the units of the instruction sets give to cpu.cpp: one block of up to 32 rows of one KV head at a time.
#pragma once

#include "../common/shape.h"

namespace think::compact {

constexpr int32_t kChunkBytes = 16;

// Which channels of a source row a destination row holds; made once per sequence, KV head and side.
struct Map {
  int32_t channels;      // of a source row
  int32_t kept;          // of a destination row
  const int32_t *index;  // ascending; NULL = all channels in order
  uint8_t mask[kMaxChannels / 8];             // bit c of byte g: channel 8 g + c is kept
  // How the kept numbers of each Kernels::gather_bytes of a row (in the destination's dtype) come to the front, and how many bytes they are.
  alignas(64) uint8_t order[kMaxChannels * 4];
  uint8_t advance[kMaxChannels * 4 / kChunkBytes];
};

// What the bits of an f16 make its F8 of one scale (f16_codes.h).
struct F8Steps {
  alignas(64) uint16_t normal[32], small[64];
  uint16_t least_normal, floor, least;
};

struct Block {
  const Map *map;
  const F8Steps *f8_steps;  // of a destination of F8 from f16, or NULL
  bool nearest;             // the host rounds to nearest even, as the rules do; else its arithmetic is what codes follow
  const char *const *rows;  // source rows: addresses of 32 (to a tile) or `count` rows, and behind them of those that come next, to be fetched meanwhile
  int32_t known;            // addresses in `rows`
  bool next_tiles;          // there are 96: behind those of this tile those of the next two, of the next head behind the last, or addresses that do no harm
  const char *const *next;  // what to fetch meanwhile for the next block: this many pieces of memory, each of so many bytes
  int32_t next_count;
  int64_t next_bytes;
  bool together;            // `next` serves several heads, whose rows lie side by side
  const char *tile;         // or a source tile, of which tokens first .. first + count are meant
  int32_t first, count;
  think_dtype source_dtype, destination_dtype;
  char *destination;           // the tile, or the first row
  int64_t destination_stride;  // bytes from row to row
  bool stream;                 // write past the caches: the destination is larger than them
  bool padded;                 // rows of the destination have 64 bytes to spare
};

// A tile of codes from rows of numbers.
struct Encode {
  // Of 32 tokens; in steps of 64 bytes (values: and of 32 channels) all can be read. Behind `count`: keys: one before it, values: zeros.
  const char *const *rows;
  int32_t channels;
  int32_t count;  // tokens
  think_dtype from, to;
  bool keys;
  char *destination;
  bool stream;
  float scale;           // of F8
  const F8Steps *steps;  // ... of f16; NULL: not known
  bool nearest;          // see Block
};

// f32 numbers from a tile of codes.
struct Decode {
  const char *tile;
  int32_t channels;
  think_dtype from;
  bool keys;
  float scale;         // of F8
  float *out;          // keys: [channels][32 tokens]; values: [32 tokens][out_stride], channels rounded up to 32 are written
  int64_t out_stride;  // floats
};

struct Kernels {
  int32_t gather_bytes;  // 16: an order names bytes; 64: it names numbers, each as wide as they are; 0: not used
  void (*rows_to_tile)(const Block &block);
  void (*rows_to_rows)(const Block &block);
  void (*tile_to_tile)(const Block &block);  // tokens behind `count` become zero
  void (*tile_to_rows)(const Block &block);
  bool (*find_f8_steps)(float scale, F8Steps &);       // false: this instruction set or scale has none
  void (*encode)(const Encode &, const Block *ahead);  // ahead: its next_tiles are fetched; NULL: none
  void (*decode)(const Decode &);
  // most[c] = the largest finite magnitude of channel c of `count` rows, or what it was before; numbers behind the last channel may be read.
  void (*largest)(const char *const *rows, int32_t count, int32_t channels, think_dtype dtype, float *most);
  void (*finish)();  // make streamed writes visible to other threads
};

extern const Kernels kernels_portable, kernels_avx2, kernels_avx512, kernels_neon;

}  // namespace think::compact
