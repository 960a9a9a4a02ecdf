// Shared memory: bounds of views, uninitialised reads, races, and bank conflicts counted exactly for known patterns.
#include "run_kernel.h"

namespace think::simt_test {
namespace {

// ---- bounds and initialisation -------------------------------------------------------------------------------------------------------------

__global__ void views(int32_t index, bool write_first) {
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> first = carver.take<uint32_t>(8), second = carver.take<uint32_t>(8);
  if (thread_index() != 3) return;
  for (int32_t i = 0; i < 8; ++i) store_shared(first + i, 1);
  if (write_first) store_shared(second + index, 1);
  load_shared(second + index);
}

TEST(SharedMemory, ReportsWhatLeavesItsView) {
  const Shape shape = {.shared_bytes = 64};
  EXPECT_NO_FAULT(run_kernel(shape, 1, views, 0, true));
  EXPECT_NO_FAULT(run_kernel(shape, 1, views, 7, true));
  for (int32_t index : {-1, 8, -9, 100, -(1 << 29)}) {
    const simt::Fault &fault = run_kernel(shape, 1, views, index, true);
    EXPECT_EQ(fault.kind, FaultKind::out_of_bounds) << index;
    EXPECT_EQ(fault.thread, 3);
  }
  // A launch with less shared memory than the kernel cuts.
  EXPECT_EQ(run_kernel({.shared_bytes = 48}, 1, views, 7, true).kind, FaultKind::out_of_bounds);
}

TEST(SharedMemory, ReportsUninitialisedReads) { EXPECT_EQ(run_kernel({.shared_bytes = 64}, 1, views, 0, false).kind, FaultKind::uninitialised); }

__global__ void partly_written() {
  SharedCarver carver = shared_memory();
  const Shared<Words4> slot = carver.take<Words4>(1);
  if (thread_index() != 0) return;
  for (int32_t i = 0; i < 15; ++i) store_shared(slot.as<uint8_t>() + i, 1);
  load_shared(slot);
}
__global__ void misaligned() {
  SharedCarver carver = shared_memory();
  const Shared<uint8_t> slot = carver.take<uint8_t>(64);
  if (thread_index() == 0) store_shared((slot + 4).as<Words2>(), Words2());
}
__global__ void ldmatrix_uninitialised() {
  SharedCarver carver = shared_memory();
  const Shared<Words4> slot = carver.take<Words4>(8);
  if (lane_index() < 7) store_shared(slot + lane_index(), Words4());
  sync_warp();
  uint32_t fragment[1];
  ldmatrix<1>(fragment, slot + lane_index() % 8);
}

TEST(SharedMemory, ReportsSingleBytes) {
  EXPECT_EQ(run_kernel({.shared_bytes = 16}, 1, partly_written).kind, FaultKind::uninitialised);
  EXPECT_EQ(run_kernel({.shared_bytes = 64}, 1, misaligned).kind, FaultKind::misaligned);
  const simt::Fault &fault = run_kernel({.shared_bytes = 128}, 1, ldmatrix_uninitialised);
  EXPECT_EQ(fault.kind, FaultKind::uninitialised);
  EXPECT_EQ(fault.thread, 7);
}

// A block finds nothing of what an earlier block left.
__global__ void left_over(uint32_t *out) {
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> slot = carver.take<uint32_t>(32);
  if (block_x() == 0) store_shared(slot + thread_index(), 1);
  store_global(out + block_x() * 32 + thread_index(), load_shared(slot + thread_index()));
}

TEST(SharedMemory, StartsEmptyInEveryBlock) {
  Buffer<uint32_t> out("out", 64);
  for (uint64_t seed = 0; seed < 5; ++seed) {
    EXPECT_EQ(run_kernel({.blocks = 2, .shared_bytes = 128}, seed, left_over, out.device()).kind, FaultKind::uninitialised);
  }
}

// ---- races ---------------------------------------------------------------------------------------------------------------------------------

enum class Sync { none, warp, block };

// Each thread writes its slot and reads that of thread ^ distance, writes again, and so on.
template <Sync First, Sync Second>
__global__ void exchange(int32_t distance, uint32_t *out) {
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> slot = carver.take<uint32_t>(64);
  uint32_t value = static_cast<uint32_t>(thread_index());
  for (int32_t round = 0; round < 3; ++round) {
    store_shared(slot + thread_index(), value);
    if (First == Sync::warp) sync_warp();
    if (First == Sync::block) sync_block();
    value = load_shared(slot + (thread_index() ^ distance));
    if (Second == Sync::warp) sync_warp();
    if (Second == Sync::block) sync_block();
  }
  store_global(out + thread_index(), value);
}

template <Sync First, Sync Second>
int32_t races(int32_t distance) {
  Buffer<uint32_t> out("out", 64);
  int32_t caught = 0;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const simt::Fault &fault = run_kernel({.threads = 64, .shared_bytes = 256}, seed, exchange<First, Second>, distance, out.device());
    // A lane that comes first reads what was never written: also found.
    caught += fault.kind == FaultKind::race || fault.kind == FaultKind::uninitialised;
    if (!fault) {
      for (int32_t thread = 0; thread < 64; ++thread) EXPECT_EQ(out.download()[thread], static_cast<uint32_t>(thread ^ distance));
    }
  }
  return caught;
}

TEST(Races, BetweenLanesOfAWarp) {
  EXPECT_EQ((races<Sync::none, Sync::none>(1)), 30);
  EXPECT_EQ((races<Sync::none, Sync::warp>(1)), 30);
  EXPECT_EQ((races<Sync::warp, Sync::none>(1)), 30);  // write after read
  EXPECT_EQ((races<Sync::warp, Sync::warp>(1)), 0);
  EXPECT_EQ((races<Sync::block, Sync::warp>(1)), 0);
}

TEST(Races, BetweenWarps) {
  EXPECT_EQ((races<Sync::warp, Sync::warp>(32)), 30);
  EXPECT_EQ((races<Sync::warp, Sync::block>(32)), 30);
  EXPECT_EQ((races<Sync::block, Sync::warp>(32)), 30);
  EXPECT_EQ((races<Sync::block, Sync::block>(32)), 0);
}

TEST(Races, NoneWithOneself) { EXPECT_EQ((races<Sync::none, Sync::none>(0)), 0); }

__global__ void same_word() {
  SharedCarver carver = shared_memory();
  store_shared(carver.take<uint32_t>(1), 7);
}
__global__ void neighbours_in_a_word() {
  SharedCarver carver = shared_memory();
  const Shared<uint8_t> bytes = carver.take<uint8_t>(32);
  store_shared(bytes + lane_index(), 7);
  sync_warp();
  load_shared(bytes.as<Words4>() + lane_index() % 2);
}
// All lanes read a word; the last to read also writes it, with no barrier in between.
__global__ void write_after_broadcast() {
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> word = carver.take<uint32_t>(1);
  if (lane_index() == 0) store_shared(word, 7);
  sync_warp();
  load_shared(word);
  if (lane_index() == 31) store_shared(word, 8);
}
// The writer hands its own row to ldmatrix: the others get it as well, so a barrier is needed.
__global__ void ldmatrix_of_own_rows() {
  SharedCarver carver = shared_memory();
  const Shared<Words4> rows = carver.take<Words4>(32);
  store_shared(rows + lane_index(), Words4());
  uint32_t fragment[4];
  ldmatrix<4>(fragment, rows + lane_index());
}
// A shuffle is no barrier for memory.
__global__ void shuffle_is_no_barrier() {
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> slot = carver.take<uint32_t>(32);
  store_shared(slot + lane_index(), 1);
  shuffle_xor(1.0f, 1);
  load_shared(slot + (lane_index() ^ 1));
}
// Warp 0 tells warp 1 and warp 1 tells warp 2: what warp 0 wrote is known to warp 2 as well.
__global__ void chain_of_named_barriers() {
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> word = carver.take<uint32_t>(1);
  if (thread_index() == 0) store_shared(word, 7);
  if (warp_index() < 2) sync_named(1, 64);
  if (warp_index() > 0) sync_named(2, 64);
  if (warp_index() == 2) load_shared(word);
}
__global__ void wrong_named_barrier() {
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> word = carver.take<uint32_t>(1);
  if (thread_index() == 0) store_shared(word, 7);
  if (warp_index() > 0) sync_named(2, 64);
  if (warp_index() == 2) load_shared(word);
  if (warp_index() < 2) sync_named(1, 64);
}

TEST(Races, KnownPatterns) {
  EXPECT_EQ(seeds_caught(FaultKind::race, {.shared_bytes = 16}, same_word), 30);
  EXPECT_EQ(seeds_caught(FaultKind::race, {.shared_bytes = 32}, neighbours_in_a_word), 0);
  EXPECT_EQ(seeds_caught(FaultKind::race, {.shared_bytes = 16}, write_after_broadcast), 30);
  EXPECT_EQ(seeds_caught(FaultKind::race, {.shared_bytes = 512}, ldmatrix_of_own_rows), 30);
  EXPECT_EQ(seeds_caught(FaultKind::race, {.shared_bytes = 128}, shuffle_is_no_barrier), 30);
  EXPECT_EQ(seeds_caught(FaultKind::race, {.threads = 96, .shared_bytes = 16}, chain_of_named_barriers), 0);
  int32_t caught = 0;
  for (uint64_t seed = 0; seed < 30; ++seed) caught += static_cast<bool>(run_kernel({.threads = 96, .shared_bytes = 16}, seed, wrong_named_barrier));
  EXPECT_EQ(caught, 30);
}

TEST(Races, AreNotLookedForWhenSwitchedOff) {
  machine().reset();
  machine().options = {.seed = 1, .races = false};
  EXPECT_EQ(launch({.name = "tested", .grid = {1}, .threads = 32, .shared_bytes = 16}, same_word), 0);
}

// The clock of a block ends at two million barriers (here earlier) and starts again.
__global__ void many_barriers(int32_t rounds) {
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> slot = carver.take<uint32_t>(32);
  for (int32_t i = 0; i < rounds; ++i) sync_warp();
  for (int32_t i = 0; i < 3; ++i) {
    store_shared(slot + lane_index(), 1);
    sync_warp();
    load_shared(slot + (lane_index() ^ 1));
    sync_warp();
  }
  store_shared(slot + lane_index(), 1);
  load_shared(slot + (lane_index() ^ 1));
}

TEST(Races, SurviveTheEndOfTheClock) {
  for (int32_t left = 0; left < 10; ++left) {
    machine().reset();
    machine().options = {.clock_limit = 1000};
    launch({.name = "tested", .grid = {1}, .threads = 32, .shared_bytes = 128}, many_barriers, 3000 - left);
    EXPECT_EQ(machine().fault().kind, FaultKind::race) << machine().fault().text();
  }
}

// ---- bank conflicts ------------------------------------------------------------------------------------------------------------------------

template <class T>
__global__ void strided(int32_t stride) {
  SharedCarver carver = shared_memory();
  const Shared<T> slots = carver.take<T>(static_cast<uint32_t>(32 * stride > 32 ? 32 * stride : 32));
  const Shared<T> own = slots + lane_index() * stride;
  if (stride) {
    store_shared(own, T());
  } else if (lane_index() == 0) {
    store_shared(own, T());
  }
  sync_warp();
  load_shared(own);
}

template <class T>
void check_conflicts(int32_t stride, uint64_t wavefronts, uint64_t conflicts) {
  const uint32_t bytes = static_cast<uint32_t>(std::max(32, 32 * stride) * static_cast<int32_t>(sizeof(T)));
  EXPECT_NO_FAULT(run_kernel({.shared_bytes = bytes}, 1, strided<T>, stride));
  const simt::LaunchRecord &record = machine().launches().back();
  for (const simt::SiteCounters &site : record.sites) {
    if (site.access == simt::Access::shared_read) {
      EXPECT_EQ(site.instructions, 1u);
      EXPECT_EQ(site.transactions, wavefronts) << sizeof(T) << " bytes, stride " << stride;
      EXPECT_EQ(site.conflicts, conflicts) << sizeof(T) << " bytes, stride " << stride;
    } else if (stride) {
      EXPECT_EQ(site.conflicts, conflicts) << "stores of " << sizeof(T) << " bytes, stride " << stride;
    }
  }
  if (stride) EXPECT_EQ(record.counters.bank_conflicts, 2 * conflicts);
}

TEST(BankConflicts, OfStrides) {
  check_conflicts<uint32_t>(0, 1, 0);  // one word for all: a broadcast
  check_conflicts<uint32_t>(1, 1, 0);
  check_conflicts<uint32_t>(2, 2, 1);
  check_conflicts<uint32_t>(3, 1, 0);
  check_conflicts<uint32_t>(8, 8, 7);
  check_conflicts<uint32_t>(32, 32, 31);
  check_conflicts<uint32_t>(33, 1, 0);
  check_conflicts<uint8_t>(1, 1, 0);  // four lanes in a word
  check_conflicts<uint16_t>(1, 1, 0);
  check_conflicts<uint16_t>(2, 1, 0);
  check_conflicts<uint16_t>(64, 32, 31);
  check_conflicts<Words2>(1, 2, 0);  // two phases of 16 lanes
  check_conflicts<Words2>(2, 4, 2);
  check_conflicts<Words2>(16, 32, 30);
  check_conflicts<Words2>(0, 2, 0);
  check_conflicts<Words4>(1, 4, 0);  // four phases of 8 lanes
  check_conflicts<Words4>(2, 8, 4);
  check_conflicts<Words4>(8, 32, 28);
  check_conflicts<Words4>(9, 4, 0);
  check_conflicts<Words4>(0, 4, 0);
}

// Rows of `units` chunks of 16 bytes, eight of them to a matrix; with the swizzle chunk c of row r lies at c ^ (r & 7).
template <bool Swizzled>
__global__ void matrices(int32_t units) {
  SharedCarver carver = shared_memory();
  const Shared<Words4> chunks = carver.take<Words4>(static_cast<uint32_t>(16 * units));
  for (int32_t i = lane_index(); i < 16 * units; i += 32) store_shared(chunks + i, Words4());
  sync_warp();
  for (int32_t chunk = 0; chunk + 1 < units; chunk += 2) {
    const int32_t row = lane_index() % 16, column = chunk + lane_index() / 16;
    uint32_t fragment[4];
    ldmatrix<4>(fragment, chunks + row * units + (Swizzled ? column ^ (row & 7) : column));
  }
}

template <bool Swizzled>
uint64_t matrix_conflicts(int32_t units) {
  EXPECT_NO_FAULT(run_kernel({.shared_bytes = static_cast<uint32_t>(256 * units)}, 1, matrices<Swizzled>, units));
  uint64_t conflicts = 0;
  for (const simt::SiteCounters &site : machine().launches().back().sites) {
    if (site.access == simt::Access::ldmatrix) conflicts += site.conflicts;
  }
  return conflicts;
}

TEST(BankConflicts, OfLdmatrix) {
  EXPECT_EQ(matrix_conflicts<true>(8), 0u);
  EXPECT_EQ(matrix_conflicts<true>(16), 0u);
  EXPECT_EQ(matrix_conflicts<false>(9), 0u);          // odd stride
  EXPECT_EQ(matrix_conflicts<false>(8), 4u * 4 * 7);  // four instructions, four matrices, all eight rows in the same four banks
  EXPECT_EQ(matrix_conflicts<false>(16), 8u * 4 * 7);
  EXPECT_EQ(matrix_conflicts<false>(2), 4u * 1);  // stride 32 bytes: rows 0 and 4 meet
  EXPECT_EQ(matrix_conflicts<false>(4), 2u * 4 * 3);
}

__global__ void two_sites() {
  SharedCarver carver = shared_memory();
  const Shared<uint32_t> slots = carver.take<uint32_t>(1024);
  for (int32_t i = 0; i < 5; ++i) {
    store_shared(slots + lane_index(), 1);  // no conflict
    sync_warp();
    store_shared(slots + lane_index() * 32, 1);  // 31
    sync_warp();
  }
}

TEST(BankConflicts, AreKeptPerLine) {
  EXPECT_NO_FAULT(run_kernel({.shared_bytes = 4096}, 1, two_sites));
  const simt::LaunchRecord &record = machine().launches().back();
  ASSERT_EQ(record.sites.size(), 2u);
  for (const simt::SiteCounters &site : record.sites) {
    EXPECT_EQ(site.instructions, 5u);
    EXPECT_TRUE(site.conflicts == 0 || site.conflicts == 5 * 31);
    EXPECT_EQ(record.conflicts_at(site.site.line()), site.conflicts);
  }
  EXPECT_EQ(record.counters.bank_conflicts, 5u * 31);
}

}  // namespace
}  // namespace think::simt_test
