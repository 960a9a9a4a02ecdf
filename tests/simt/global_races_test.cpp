// Races in global memory: between blocks, warps and lanes of one launch.
#include "run_kernel.h"

namespace think::simt_test {
namespace {

enum class Sync { none, warp, block };

template <Sync Between>
__global__ void through_global(uint32_t *words, int32_t distance) {
  uint32_t *own = words + block_x() * block_threads();
  store_global(own + thread_index(), static_cast<uint32_t>(thread_index()));
  if (Between == Sync::warp) sync_warp();
  if (Between == Sync::block) sync_block();
  load_global(own + (thread_index() ^ distance));
}

template <Sync Between>
int32_t races(int32_t distance) {
  // Initialised, so that reading too early is not found as uninitialised.
  Buffer<uint32_t> words("words", std::vector<uint32_t>(128));
  return seeds_caught(FaultKind::race, {.blocks = 2, .threads = 64}, through_global<Between>, words.device(), distance);
}

TEST(GlobalRaces, InsideABlock) {
  EXPECT_EQ(races<Sync::none>(0), 0);
  EXPECT_EQ(races<Sync::none>(1), 30);
  EXPECT_EQ(races<Sync::warp>(1), 0);
  EXPECT_EQ(races<Sync::warp>(32), 30);
  EXPECT_EQ(races<Sync::block>(32), 0);
}

__global__ void overlapping_blocks(uint8_t *bytes, int32_t stride) { store_global(bytes + block_x() * stride + thread_index(), 1); }

TEST(GlobalRaces, BlocksThatWriteTheSameBytes) {
  Buffer<uint8_t> bytes("bytes", 4 * 32);
  EXPECT_EQ(seeds_caught(FaultKind::race, {.blocks = 4}, overlapping_blocks, bytes.device(), 32), 0);
  EXPECT_EQ(seeds_caught(FaultKind::race, {.blocks = 4}, overlapping_blocks, bytes.device(), 31), 30);
  // One launch after the other is no race.
  machine().reset();
  machine().options = {};
  for (int32_t i = 0; i < 2; ++i) EXPECT_EQ(launch({.name = "tested", .grid = {1}, .threads = 32}, overlapping_blocks, bytes.device(), 0), 0);
}

enum Mistake { correct, no_meeting, counter_too_early, no_barrier_before, single_atomics, chain };

// Every block stores a row, the last one reads all rows.
template <Mistake What>
__global__ void last_reads_all(uint32_t *rows, uint32_t *counter) {
  uint32_t *own = rows + block_x() * block_threads();
  const uint32_t count = static_cast<uint32_t>(grid_x());
  bool last = false;
  if (What == counter_too_early) last = last_block(counter, count);
  store_global(own + thread_index(), 1);
  if (What == correct) last = last_block(counter, count);
  if (What == no_meeting) last = block_x() == 0;
  if (What == no_barrier_before) {  // thread 0 speaks for threads that may still be storing
    if (thread_index() == 0) last = atomic_increment_wrap(counter, count - 1) == count - 1;
    last = sync_block_or(last);
  }
  if (What == single_atomics) {  // each thread counts itself, and only then the block asks
    last = atomic_add(counter, 1u) == count * static_cast<uint32_t>(block_threads()) - 1;
    last = sync_block_or(last);
  }
  if (What == chain) {  // block 2 i and 2 i + 1 meet at a counter of their own first, the last of each pair goes on to the common one
    if (last_block(counter + 1 + block_x() / 2, 2)) last = last_block(counter, count / 2);
  }
  if (!last) return;
  for (uint32_t i = 0; i < count; ++i) load_l2(rows + i * static_cast<uint32_t>(block_threads()) + static_cast<uint32_t>(thread_index()));
}

template <Mistake What>
int32_t caught() {
  int32_t found = 0;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    Buffer<uint32_t> rows("rows", std::vector<uint32_t>(6 * 64)), counter("counter", std::vector<uint32_t>(4));
    const simt::Fault &fault = run_kernel({.blocks = 6, .threads = 64}, seed, last_reads_all<What>, rows.device(), counter.device());
    EXPECT_TRUE(!fault || fault.kind == FaultKind::race) << fault.text();
    found += static_cast<bool>(fault);
  }
  return found;
}

TEST(GlobalRaces, OfTheLastBlock) {
  EXPECT_EQ(caught<correct>(), 0);
  EXPECT_EQ(caught<single_atomics>(), 0);
  EXPECT_EQ(caught<chain>(), 0);
  EXPECT_GE(caught<no_meeting>(), 20);  // where block 0 comes last the others have stored, or not started: seeds differ
  EXPECT_GE(caught<counter_too_early>(), 20);
  EXPECT_EQ(caught<no_barrier_before>(), 30);
}

// ---- launches that overlap -----------------------------------------------------------------------------------------------------------------

__global__ void writes(uint32_t *words) { store_global(words + thread_index(), 1); }
enum Wait { before, behind, never, through_the_block };
template <Wait When>
__global__ void reads(uint32_t *words, const uint32_t *others, uint32_t *out) {
  load_global(others + thread_index());  // nobody writes these
  if (When == before) wait_for_previous_launch();
  if (When == through_the_block) {
    if (thread_index() == 0) wait_for_previous_launch();
    sync_block();
  }
  const uint32_t x = load_global(words + (thread_index() ^ 33));
  if (When == behind) wait_for_previous_launch();
  store_global(out + thread_index(), x);
}

template <Wait When>
const simt::Fault &overlapped(bool overlap, bool zero_between) {
  Buffer<uint32_t> words("words", std::vector<uint32_t>(64)), others("others", std::vector<uint32_t>(64)), out("out", 64);
  machine().reset();
  machine().options = {};
  EXPECT_EQ(launch({.name = "writes", .grid = {1}, .threads = 64}, writes, words.device()), 0);
  if (zero_between) EXPECT_EQ(set_zero(out.device(), 4, nullptr), 0);
  launch({.name = "reads", .grid = {1}, .threads = 64, .overlap = overlap}, reads<When>, words.device(), others.device(), out.device());
  return machine().fault();
}

TEST(GlobalRaces, OverlappingLaunches) {
  EXPECT_NO_FAULT(overlapped<before>(true, false));
  EXPECT_NO_FAULT(overlapped<through_the_block>(true, false));
  EXPECT_EQ(overlapped<behind>(true, false).kind, FaultKind::race);
  EXPECT_EQ(overlapped<never>(true, false).kind, FaultKind::race);
  EXPECT_EQ(overlapped<never>(true, true).kind, FaultKind::race);  // nobody ever waits
  EXPECT_NO_FAULT(overlapped<behind>(true, true));
  EXPECT_NO_FAULT(overlapped<behind>(false, false));
  EXPECT_NO_FAULT(overlapped<never>(false, false));
}

__global__ void writes_and_reads_constant(uint32_t *words) {
  store_global(words + thread_index(), 1);
  sync_block();
  load_constant(words + (thread_index() ^ 1));
}
__global__ void reads_constant(const uint32_t *words) {
  wait_for_previous_launch();
  load_stream(words + thread_index());
}

TEST(GlobalRaces, ConstantLoadsOfWhatIsBeingWritten) {
  Buffer<uint32_t> words("words", std::vector<uint32_t>(64));
  EXPECT_EQ(seeds_caught(FaultKind::race, {.threads = 64}, writes_and_reads_constant, words.device()), 30);
  for (const bool overlap : {false, true}) {
    machine().reset();
    EXPECT_EQ(launch({.name = "writes", .grid = {1}, .threads = 64}, writes, words.device()), 0);
    launch({.name = "reads", .grid = {1}, .threads = 64, .overlap = overlap}, reads_constant, words.device());
    EXPECT_EQ(machine().fault().kind, overlap ? FaultKind::race : FaultKind::none) << machine().fault().text();
  }
}

TEST(GlobalRaces, AreNotLookedForWhenSwitchedOff) {
  Buffer<uint8_t> bytes("bytes", 64);
  machine().reset();
  machine().options = {.races = false};
  EXPECT_EQ(launch({.name = "tested", .grid = {2}, .threads = 32}, overlapping_blocks, bytes.device(), 0), 0);
}

}  // namespace
}  // namespace think::simt_test
