// Warp collectives and block barriers: what they return, and that lanes which do not converge are found.
#include "run_kernel.h"

namespace think::simt_test {
namespace {

struct Shuffled {
  uint32_t index, bitwise, down, up, half;
  float value;
};

__global__ void shuffle_kernel(uint32_t *out) {
  const int32_t lane = lane_index();
  const uint32_t own = static_cast<uint32_t>(lane) * 3 + 1;
  uint32_t *to = out + thread_index() * 6;
  store_global(to + 0, shuffle(own, (lane * 7 + 2) % 32));
  store_global(to + 1, shuffle_xor(own, 21));
  store_global(to + 2, shuffle_down(own, 5));
  store_global(to + 3, shuffle_up(own, 5));
  store_global(to + 4, as_bits(shuffle_xor(static_cast<float>(lane) + 0.5f, 1)));
  store_global(to + 5, static_cast<uint32_t>(shuffle(-lane, 31)));
}

TEST(Collectives, Shuffles) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    Buffer<uint32_t> out("out", 64 * 6);
    EXPECT_NO_FAULT(run_kernel({.threads = 64}, seed, shuffle_kernel, out.device()));
    const std::vector<uint32_t> result = out.download();
    for (int32_t thread = 0; thread < 64; ++thread) {
      const int32_t lane = thread % 32;
      const auto own = [](int32_t l) { return static_cast<uint32_t>(l * 3 + 1); };
      const uint32_t *of = result.data() + thread * 6;
      EXPECT_EQ(of[0], own((lane * 7 + 2) % 32));
      EXPECT_EQ(of[1], own(lane ^ 21));
      EXPECT_EQ(of[2], own(lane + 5 < 32 ? lane + 5 : lane));
      EXPECT_EQ(of[3], own(lane >= 5 ? lane - 5 : lane));
      EXPECT_EQ(as_float(of[4]), static_cast<float>(lane ^ 1) + 0.5f);
      EXPECT_EQ(static_cast<int32_t>(of[5]), -31);
    }
  }
}

__global__ void vote_kernel(uint32_t *out, uint32_t yes) {
  const bool mine = yes >> lane_index() & 1;
  const uint32_t votes = ballot(mine);
  const bool some = any(mine), every = all(mine);
  store_global(out + lane_index(), votes);
  store_global(out + 32 + lane_index(), static_cast<uint32_t>(some) + 2 * static_cast<uint32_t>(every));
}

TEST(Collectives, Votes) {
  for (uint32_t yes : {0u, 1u, 0x80000000u, 0xdeadbeefu, 0xffffffffu}) {
    Buffer<uint32_t> out("out", 64);
    EXPECT_NO_FAULT(run_kernel({}, 2, vote_kernel, out.device(), yes));
    const std::vector<uint32_t> result = out.download();
    for (int32_t lane = 0; lane < 32; ++lane) {
      EXPECT_EQ(result[lane], yes);
      EXPECT_EQ(result[32 + lane], (yes != 0) + 2u * (yes == 0xffffffffu));
    }
  }
}

__global__ void masked_kernel(uint32_t *out) {
  // Two halves that each vote and shuffle among themselves, in different places and different numbers of times.
  uint32_t result;
  if (lane_index() < 16) {
    result = ballot(true, 0x0000ffffu);
  } else {
    result = shuffle(static_cast<uint32_t>(lane_index()), 20, 0xffff0000u);
    result += ballot(lane_index() == 31, 0xffff0000u);
  }
  sync_warp();
  store_global(out + lane_index(), result + ballot(true));
}

TEST(Collectives, MasksOfDivergentHalves) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    Buffer<uint32_t> out("out", 32);
    EXPECT_NO_FAULT(run_kernel({}, seed, masked_kernel, out.device()));
    for (int32_t lane = 0; lane < 32; ++lane) EXPECT_EQ(out.download()[lane], (lane < 16 ? 0xffffu : 20u + 0x80000000u) + 0xffffffffu);
  }
}

__global__ void ended_kernel(uint32_t *out) {
  if (lane_index() >= 20) return;
  // The lanes that ended need not come; those that are left may even name them.
  store_global(out + lane_index(), ballot(true));
  sync_warp();
}

TEST(Collectives, GoOnWithoutLanesThatEnded) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    Buffer<uint32_t> out("out", 32);
    EXPECT_NO_FAULT(run_kernel({}, seed, ended_kernel, out.device()));
    EXPECT_EQ(out.download()[3], (1u << 20) - 1);
  }
}

__global__ void sums_kernel(float *out) {
  const float lane = static_cast<float>(lane_index());
  store_global(out + lane_index() * 3, warp_sum(lane));
  store_global(out + lane_index() * 3 + 1, warp_sum(lane, 4));
  store_global(out + lane_index() * 3 + 2, warp_max(-lane, 8));
}

TEST(Collectives, SumAndMaximum) {
  Buffer<float> out("out", 96);
  EXPECT_NO_FAULT(run_kernel({}, 1, sums_kernel, out.device()));
  const std::vector<float> result = out.download();
  for (int32_t lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(result[lane * 3], 496.0f);
    EXPECT_EQ(result[lane * 3 + 1], static_cast<float>(lane / 4 * 16 + 6));
    EXPECT_EQ(result[lane * 3 + 2], static_cast<float>(-(lane / 8 * 8)));
  }
}

// ---- lanes that do not converge ------------------------------------------------------------------------------------------------------------

__global__ void half_shuffle() {
  if (lane_index() < 16) shuffle_xor(1.0f, 1);
}
__global__ void two_places() {
  if (lane_index() < 16) {
    shuffle_xor(1.0f, 1);
  } else {
    shuffle_xor(2.0f, 1);
  }
}
__global__ void different_collectives() {
  if (lane_index() == 7) {
    ballot(true);
  } else {
    sync_warp();
  }
}
__global__ void mma_without_some() {
  if (lane_index() == 31) return;
  float acc[4] = {};
  mma<F16>(acc, 0, 0, 0, 0, 0, 0);
}
__global__ void mask_without_self() { ballot(true, 0x0000ffffu); }
__global__ void shuffle_from_outside() {
  if (lane_index() < 16) shuffle(1.0f, 20, 0x0000ffffu);
}
__global__ void shuffle_from_ended() {
  if (lane_index() >= 16) return;
  shuffle(1.0f, 20);
}
__global__ void barrier_in_half() {
  if (lane_index() < 16) sync_block();
}
__global__ void barrier_in_two_places() {
  if (lane_index() < 16) {
    sync_block();
  } else {
    sync_block();
  }
}
__global__ void barrier_in_one_warp_only() {
  if (warp_index() == 0) sync_named(1, 64);
}
__global__ void barrier_against_collective() {
  if (lane_index() < 16) {
    sync_block();
  } else {
    sync_warp();
  }
}
__global__ void loop_of_unequal_length() {
  for (int32_t i = 0; i < 4 + (lane_index() == 9); ++i) sync_warp();
  mma_without_some();
}
__global__ void odd_named_barrier() { sync_named(1, 48); }

TEST(Divergence, IsFound) {
  void (*const kernels[])() = {
      half_shuffle,       two_places,      different_collectives, mma_without_some,         mask_without_self,          shuffle_from_outside,
      shuffle_from_ended, barrier_in_half, barrier_in_two_places, barrier_in_one_warp_only, barrier_against_collective, loop_of_unequal_length,
      odd_named_barrier};
  int32_t number = 0;
  for (void (*kernel)() : kernels) {
    // In these two the other lanes end, and those that are left may go on without them.
    const int32_t expected = kernel == half_shuffle || kernel == barrier_in_half ? 0 : 30;
    EXPECT_EQ(seeds_caught(FaultKind::divergence, {.threads = 64}, kernel), expected) << "kernel " << number;
    ++number;
  }
}

TEST(Divergence, IsExplained) {
  const simt::Fault &fault = run_kernel({}, 0, different_collectives);
  EXPECT_NE(fault.what.find("lanes 0-6 wait in sync_warp at line"), std::string::npos) << fault.what;
  EXPECT_NE(fault.what.find("lanes 7-7 wait in ballot, any or all at line"), std::string::npos) << fault.what;
}

// ---- barriers ------------------------------------------------------------------------------------------------------------------------------

__global__ void or_kernel(uint32_t *out) {
  bool first = sync_block_or(thread_index() == 77), second = sync_block_or(false), third = sync_block_or(true);
  store_global(out + thread_index(), static_cast<uint32_t>(first) + 2 * static_cast<uint32_t>(second) + 4 * static_cast<uint32_t>(third));
}

TEST(Barriers, OrOfTheBlock) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    Buffer<uint32_t> out("out", 128);
    EXPECT_NO_FAULT(run_kernel({.threads = 128}, seed, or_kernel, out.device()));
    EXPECT_EQ(out.download(), std::vector<uint32_t>(128, 5));
  }
}

__global__ void pairs_kernel(uint32_t *out) {
  // Warps 0 and 1, and 2 and 3, pass values through shared memory under barriers of their own, a different number of times.
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> slot = carver.take<uint32_t>(128);
  const int32_t pair = warp_index() / 2;
  uint32_t value = static_cast<uint32_t>(thread_index());
  for (int32_t round = 0; round < 1 + pair; ++round) {
    store_shared(slot + thread_index(), value);
    sync_named(1 + pair, 64);
    value = load_shared(slot + (thread_index() ^ 32)) + 1000;
    sync_named(1 + pair, 64);
  }
  store_global(out + thread_index(), value);
}

TEST(Barriers, NamedBarriersOfSomeWarps) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Buffer<uint32_t> out("out", 128);
    EXPECT_NO_FAULT(run_kernel({.threads = 128, .shared_bytes = 512}, seed, pairs_kernel, out.device()));
    for (uint32_t thread = 0; thread < 128; ++thread) {
      EXPECT_EQ(out.download()[thread], thread < 64 ? (thread ^ 32) + 1000 : thread + 2000) << seed;
    }
  }
}

}  // namespace
}  // namespace think::simt_test
