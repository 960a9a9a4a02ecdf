// What a launch of the compact stage moves, and what a block finds out about it.
#pragma once

#include "../common/device.cuh"

namespace think::compact::cuda {

using namespace ptx;

// One side of a call. The grid is (groups of tiles, KV heads, sequences).
struct Move {
  device::Side source, destination;
  device::Run from, to;
  int32_t kv_heads;
  int32_t warps;           // of a block
  int32_t tiles_per_warp;  // that follow each other in time, `warps` apart in place
  int32_t row_chunks;      // of a staged row, a multiple of 8
  int32_t out_words;       // of a warp, for rows on their way out
};

// What a block moves: rows of one sequence and head.
struct alignas(16) Job {
  device::View source, destination;
  const int32_t *index;  // kept channels; NULL = rows keep all that they have
  int32_t source_first, destination_first, count;
  float source_scale, destination_scale;  // of F8
};

THINK_DEVICE Job find_job(const Move &move) {
  Job job;
  const int32_t head = block_y(), sequence = block_z();
  job.source = device::view_of(move.source, move.from, move.kv_heads, sequence, head);
  job.destination = device::view_of(move.destination, move.to, move.kv_heads, sequence, head);
  job.source_first = device::first_of(move.from, sequence, head);
  job.destination_first = device::first_of(move.to, sequence, head);
  job.count = device::length_of(move.to, sequence, head);
  const bool gathers = move.destination.index && !move.source.index && job.destination.channels < job.source.channels;
  const int64_t head_of_slot = static_cast<int64_t>(job.destination.slot) * move.kv_heads + head;
  job.index = gathers ? move.destination.index + head_of_slot * move.destination.channels : nullptr;
  job.source_scale = device::scale_of(move.source, static_cast<int64_t>(job.source.slot) * move.kv_heads + head);
  job.destination_scale = device::scale_of(move.destination, head_of_slot);
  return job;
}

// One thread looks everything up, the others are told. Every thread of the block must call it.
constexpr int32_t kJobWords = static_cast<int32_t>(sizeof(Job) / sizeof(Words4));

THINK_DEVICE Job job_of(const Move &move, SharedCarver &carver) {
  const Shared<Words4> told = carver.take<Words4>(kJobWords);
  struct Copy {
    Words4 words[kJobWords];
  } copy;
  if (thread_index() == 0) {
    copy = bit_copy<Copy>(find_job(move));
#pragma unroll
    for (int32_t i = 0; i < kJobWords; ++i) store_shared(told + i, copy.words[i]);
  }
  sync_block();
#pragma unroll
  for (int32_t i = 0; i < kJobWords; ++i) copy.words[i] = load_shared(told + i);
  return bit_copy<Job>(copy);
}

THINK_DEVICE int32_t first_tile(const Move &move) { return block_x() * move.warps * move.tiles_per_warp; }
THINK_DEVICE int32_t first_row(const Move &move, int32_t turn) { return (first_tile(move) + turn * move.warps + warp_index()) * kTileTokens; }

THINK_DEVICE bool is_aligned(const void *address) { return (reinterpret_cast<uint64_t>(address) & 15) == 0; }

// Tiles of codes on either side, see cuda_codes.cu. `tiles` of the longest run. measures: the destination's scales are found first.
int32_t load_codes();
int32_t launch_codes(Move move, int32_t tiles, int32_t sequences, bool measures, void *stream);

}  // namespace think::compact::cuda
