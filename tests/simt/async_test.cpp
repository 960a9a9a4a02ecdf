// cp.async: data come late and in any order, and a kernel that forgets a wait or a barrier is caught.
#include "run_kernel.h"

namespace think::simt_test {
namespace {

constexpr int32_t kStages = 3, kTiles = 12;

enum Mistake { none, no_wait, wait_for_too_few, no_barrier_after_wait, no_barrier_before_refill, no_commit };

// A ring of stages per warp, as the decode kernel has: each lane copies 16 bytes of a tile of 512, and sums what another lane has copied.
template <Mistake What>
__global__ void ring(const Words4 *from, uint32_t *out) {
  SharedCarver carver = shared_memory();
  const Shared<Words4> stages = carver.take<Words4>(kStages * 32);
  const int32_t lane = lane_index();
  const auto fetch = [&](int32_t tile) {
    if (tile < kTiles) cp_async<16>(stages + tile % kStages * 32 + lane, from + tile * 32 + lane);
    if (What != no_commit) cp_async_commit();
  };
  for (int32_t tile = 0; tile < kStages - 1; ++tile) fetch(tile);
  uint32_t sum = 0;
  for (int32_t tile = 0; tile < kTiles; ++tile) {
    if (What == wait_for_too_few) {
      cp_async_wait<kStages - 1>();
    } else if (What != no_wait) {
      cp_async_wait<kStages - 2>();
    }
    if (What != no_barrier_after_wait) sync_warp();
    sum = sum * 31 + load_shared(stages + tile % kStages * 32 + (lane ^ 5)).x;
    // The stage of tile - 1 is refilled: everybody must have read it, which the barrier of this round says; without it:
    if (What == no_barrier_before_refill) fetch(tile + kStages);
    if (What != no_barrier_before_refill) fetch(tile + kStages - 1);
  }
  cp_async_wait<0>();
  store_global(out + lane, sum);
}

std::vector<Words4> tiles() {
  std::vector<Words4> values(kTiles * 32);
  for (uint32_t i = 0; i < values.size(); ++i) values[i] = {i * 2654435761u, i, i, i};
  return values;
}

TEST(Copies, ARingIsRightUnderEverySeed) {
  const std::vector<Words4> values = tiles();
  Buffer<Words4> in("tiles", values);
  Buffer<uint32_t> out("out", 32);
  for (uint64_t seed = 0; seed < 100; ++seed) {
    EXPECT_NO_FAULT(run_kernel({.shared_bytes = kStages * 512}, seed, ring<none>, in.device(), out.device()));
    const std::vector<uint32_t> result = out.download();
    for (uint32_t lane = 0; lane < 32; ++lane) {
      uint32_t sum = 0;
      for (uint32_t tile = 0; tile < kTiles; ++tile) sum = sum * 31 + values[tile * 32 + (lane ^ 5)].x;
      EXPECT_EQ(result[lane], sum);
    }
    EXPECT_EQ(machine().total().copies, 32u * kTiles);
    EXPECT_EQ(machine().total().global_read_bytes, 512u * kTiles);
    EXPECT_EQ(machine().total().global_read_sectors, 16u * kTiles);
    EXPECT_EQ(machine().total().bank_conflicts, 0u);
  }
}

template <Mistake What>
void expect_caught(std::initializer_list<FaultKind> kinds) {
  Buffer<Words4> in("tiles", tiles());
  Buffer<uint32_t> out("out", 32);
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const simt::Fault &fault = run_kernel({.shared_bytes = kStages * 512}, seed, ring<What>, in.device(), out.device());
    EXPECT_TRUE(std::count(kinds.begin(), kinds.end(), fault.kind)) << "mistake " << What << ": " << fault.text();
  }
}

TEST(Copies, MistakesOfARingAreCaught) {
  expect_caught<no_wait>({FaultKind::in_flight});
  expect_caught<wait_for_too_few>({FaultKind::in_flight});
  // The other lane may not even have asked for its copy yet.
  expect_caught<no_barrier_after_wait>({FaultKind::race, FaultKind::in_flight, FaultKind::uninitialised});
  expect_caught<no_barrier_before_refill>({FaultKind::race, FaultKind::in_flight});
  expect_caught<no_commit>({FaultKind::in_flight});
}

// With the race check off, what is left is that data really come late.
TEST(Copies, ComeAtARandomMoment) {
  Buffer<Words4> in("tiles", tiles());
  Buffer<uint32_t> out("out", 32);
  int32_t caught = 0;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    machine().reset();
    machine().options = {.seed = seed, .races = false, .traffic = false};
    launch({.name = "tested", .grid = {1}, .threads = 32, .shared_bytes = kStages * 512}, ring<no_barrier_after_wait>, in.device(), out.device());
    caught += static_cast<bool>(machine().fault());
  }
  EXPECT_EQ(caught, 30);
}

// The source is read when the data travel: between the copy and the wait. A kernel that changes the source meanwhile gets either.
__global__ void source_changes(uint32_t *word, uint32_t *out) {
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> slot = carver.take<uint32_t>(32);
  cp_async<4>(slot + lane_index(), word + lane_index());
  cp_async_commit();
  for (int32_t i = 0; i < 16; ++i) sync_warp();
  store_global(word + lane_index(), 2);
  cp_async_wait<0>();
  store_global(out + lane_index(), load_shared(slot + lane_index()));
}

TEST(Copies, TravelBetweenTheirStartAndTheWait) {
  int32_t early = 0, late = 0;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    Buffer<uint32_t> word("word", std::vector<uint32_t>(32, 1)), out("out", 32);
    EXPECT_NO_FAULT(run_kernel({.shared_bytes = 128}, seed, source_changes, word.device(), out.device()));
    for (uint32_t seen : out.download()) (seen == 1 ? early : late) += 1;
  }
  EXPECT_GT(early, 100);
  EXPECT_GT(late, 100);
}

__global__ void zero_filled(const uint8_t *from, uint32_t *out) {
  SharedCarver carver = shared_memory();
  const Shared<Words4> rows = carver.take<Words4>(32);
  const int32_t lane = lane_index(), valid = lane < 17 ? lane : 0;
  cp_async_zfill<16>(rows + lane, valid ? from + 16 * lane : nullptr, valid);
  cp_async_commit();
  cp_async_wait<0>();
  sync_warp();
  for (int32_t i = 0; i < 4; ++i) store_global(out + 4 * lane + i, load_shared((rows + lane).as<uint32_t>() + i));
}

TEST(Copies, FillWithZeros) {
  // Row l has l valid bytes, and no more exist of it: the rest is not read.
  Buffer<uint8_t> in("rows", 17 * 16);
  for (size_t row = 0; row < 17; ++row) in.upload(std::vector<uint8_t>(row, static_cast<uint8_t>(row + 1)), row * 16);
  Buffer<uint32_t> out("out", 128);
  EXPECT_NO_FAULT(run_kernel({.shared_bytes = 512}, 4, zero_filled, in.device(), out.device()));
  const std::vector<uint32_t> result = out.download();
  for (uint32_t row = 0; row < 32; ++row) {
    for (uint32_t byte = 0; byte < 16; ++byte) {
      EXPECT_EQ(result[row * 4 + byte / 4] >> 8 * (byte % 4) & 0xff, row < 17 && byte < row ? row + 1 : 0u) << row << " " << byte;
    }
  }
  EXPECT_EQ(in.read_bytes(), 16u * 17 / 2);
}

__global__ void never_waits(const uint32_t *from) {
  SharedCarver carver = shared_memory();
  cp_async<4>(carver.take<uint32_t>(32) + lane_index(), from + lane_index());
  cp_async_commit();
}
__global__ void store_into_flight(const uint32_t *from) {
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> slot = carver.take<uint32_t>(32) + lane_index();
  cp_async<4>(slot, from + lane_index());
  cp_async_commit();
  store_shared(slot, 1);
  cp_async_wait<0>();
}
__global__ void copies_out_of_bounds(const uint32_t *from, int32_t index) {
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> slots = carver.take<uint32_t>(32);
  if (lane_index() == 0) cp_async<4>(slots, from + index);
  cp_async_wait<0>();
}
__global__ void copies_misaligned(const uint32_t *from) {
  SharedCarver carver = shared_memory();
  if (lane_index() == 0) cp_async<8>(carver.take<uint32_t>(32) + 1, from);
}

TEST(Copies, OtherFaults) {
  Buffer<uint32_t> in("words", std::vector<uint32_t>(32));
  EXPECT_EQ(seeds_caught(FaultKind::in_flight, {.shared_bytes = 128}, never_waits, in.device()), 30);
  EXPECT_EQ(seeds_caught(FaultKind::in_flight, {.shared_bytes = 128}, store_into_flight, in.device()), 30);
  EXPECT_EQ(seeds_caught(FaultKind::out_of_bounds, {.shared_bytes = 128}, copies_out_of_bounds, in.device(), 32), 30);
  EXPECT_EQ(seeds_caught(FaultKind::misaligned, {.shared_bytes = 128}, copies_misaligned, in.device()), 30);
  in.uninitialise();
  EXPECT_EQ(seeds_caught(FaultKind::uninitialised, {.shared_bytes = 128}, copies_out_of_bounds, in.device(), 3), 30);
}

}  // namespace
}  // namespace think::simt_test
