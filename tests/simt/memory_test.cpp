// Global memory: what is a fault and what the report says, and exact counts of bytes and sectors.
#include "run_kernel.h"

namespace think::simt_test {
namespace {

__global__ void read_at(const uint32_t *from, int32_t index, uint32_t *to) {
  if (thread_index() == 5) store_global(to, load_global(from + index));
}
__global__ void write_at(uint32_t *to, int32_t index) {
  if (thread_index() == 5) store_global(to + index, 1);
}

TEST(GlobalMemory, ReportsOutOfBounds) {
  Buffer<uint32_t> in("input", std::vector<uint32_t>(10)), out("output", 1);
  for (int32_t index : {0, 9}) EXPECT_NO_FAULT(run_kernel({}, 1, read_at, in.device(), index, out.device()));
  for (int32_t index : {-1, 10, 11, -100, 1000, 1 << 28, -(1 << 28)}) {
    const simt::Fault fault = run_kernel({}, 1, read_at, in.device(), index, out.device());
    EXPECT_EQ(fault.kind, FaultKind::out_of_bounds) << index;
    EXPECT_EQ(fault.kernel, "tested");
    EXPECT_EQ(fault.thread, 5);
    EXPECT_EQ(fault.block[0], 0);
    EXPECT_EQ(fault.address, reinterpret_cast<uint64_t>(in.device()) + static_cast<uint64_t>(index * 4ll));
    EXPECT_EQ(run_kernel({}, 1, write_at, in.device(), index).kind, FaultKind::out_of_bounds) << index;
  }
  const simt::Fault behind = run_kernel({}, 1, read_at, in.device(), 10, out.device());
  EXPECT_EQ(behind.buffer, "input");
  EXPECT_NE(behind.text().find("memory_test.cpp:"), std::string::npos) << behind.text();
  EXPECT_NE(behind.text().find("0 bytes behind the end of buffer \"input\" (40 bytes)"), std::string::npos) << behind.text();
  EXPECT_EQ(run_kernel({}, 1, read_at, nullptr, 0, out.device()).kind, FaultKind::out_of_bounds);
  uint32_t host = 0;
  EXPECT_EQ(run_kernel({}, 1, read_at, &host, 0, out.device()).kind, FaultKind::out_of_bounds);
}

TEST(GlobalMemory, AFaultIsSticky) {
  Buffer<uint32_t> in("input", std::vector<uint32_t>(10)), out("output", 1);
  EXPECT_TRUE(run_kernel({}, 1, read_at, in.device(), 10, out.device()));
  EXPECT_EQ(launch({.name = "next", .grid = {1}, .threads = 32}, read_at, in.device(), 0, out.device()), simt::Machine::kLaunchFailure);
  EXPECT_EQ(machine().fault().kernel, "tested");
}

template <class T>
__global__ void read_bytes_at(const uint8_t *from, int32_t byte) {
  if (thread_index() == 0) load_global(static_cast<const T *>(static_cast<const void *>(from + byte)));
}

TEST(GlobalMemory, ReportsMisalignment) {
  Buffer<uint8_t> in("input", std::vector<uint8_t>(64));
  EXPECT_NO_FAULT(run_kernel({}, 1, read_bytes_at<Words4>, in.device(), 16));
  EXPECT_EQ(run_kernel({}, 1, read_bytes_at<Words4>, in.device(), 8).kind, FaultKind::misaligned);
  EXPECT_EQ(run_kernel({}, 1, read_bytes_at<Words2>, in.device(), 4).kind, FaultKind::misaligned);
  EXPECT_EQ(run_kernel({}, 1, read_bytes_at<uint32_t>, in.device(), 2).kind, FaultKind::misaligned);
  EXPECT_EQ(run_kernel({}, 1, read_bytes_at<uint16_t>, in.device(), 1).kind, FaultKind::misaligned);
  Buffer<uint8_t> odd("odd", std::vector<uint8_t>(64), 8);
  EXPECT_EQ(run_kernel({}, 1, read_bytes_at<Words4>, odd.device(), 0).kind, FaultKind::misaligned);
  EXPECT_NO_FAULT(run_kernel({}, 1, read_bytes_at<Words4>, odd.device(), 8));
}

TEST(GlobalMemory, ReportsUninitialisedReads) {
  Buffer<uint8_t> in("input", 64);
  in.upload(std::vector<uint8_t>(20), 16);  // bytes 16 .. 35
  EXPECT_NO_FAULT(run_kernel({}, 1, read_bytes_at<Words4>, in.device(), 16));
  const simt::Fault fault = run_kernel({}, 1, read_bytes_at<Words4>, in.device(), 32);
  EXPECT_EQ(fault.kind, FaultKind::uninitialised);
  EXPECT_NE(fault.what.find("byte 36 of buffer \"input\""), std::string::npos) << fault.what;
  // What a kernel has written is initialised.
  Buffer<uint32_t> both("both", 4);
  EXPECT_EQ(run_kernel({}, 1, read_at, both.device(), 2, both.device()).kind, FaultKind::uninitialised);
  EXPECT_NO_FAULT(run_kernel({}, 1, write_at, both.device(), 2));
  EXPECT_NO_FAULT(run_kernel({}, 1, read_at, both.device(), 2, both.device()));
  both.uninitialise();
  EXPECT_EQ(run_kernel({}, 1, read_at, both.device(), 2, both.device()).kind, FaultKind::uninitialised);
}

TEST(GlobalMemory, ReportsWritesToFrozenAndUseOfReleasedBuffers) {
  Buffer<uint32_t> in("input", std::vector<uint32_t>(10)), out("output", 1);
  in.freeze();
  EXPECT_NO_FAULT(run_kernel({}, 1, read_at, in.device(), 3, out.device()));
  const simt::Fault fault = run_kernel({}, 1, write_at, in.device(), 3);
  EXPECT_EQ(fault.kind, FaultKind::out_of_bounds);
  EXPECT_NE(fault.what.find("read only"), std::string::npos) << fault.what;
  in.freeze(false);
  EXPECT_NO_FAULT(run_kernel({}, 1, write_at, in.device(), 3));
  uint32_t *dangling;
  {
    Buffer<uint32_t> gone("gone", std::vector<uint32_t>(10));
    dangling = gone.device();
  }
  const simt::Fault released = run_kernel({}, 1, read_at, dangling, 3, out.device());
  EXPECT_EQ(released.kind, FaultKind::out_of_bounds);
  EXPECT_NE(released.what.find("\"gone\" (40 bytes, released)"), std::string::npos) << released.what;
}

__global__ void dereference(const uint32_t *from, uint32_t *to) { store_global(to + thread_index(), from[thread_index()]); }

TEST(GlobalMemory, ReportsWhatBypassesTheFunctions) {
  Buffer<uint32_t> in("input", std::vector<uint32_t>(32)), out("output", 32);
  const simt::Fault fault = run_kernel({}, 1, dereference, in.device(), out.device());
  EXPECT_EQ(fault.kind, FaultKind::out_of_bounds);
  EXPECT_EQ(fault.buffer, "input");
  EXPECT_NE(fault.what.find("dereferences a device pointer itself"), std::string::npos) << fault.what;
  // The machine goes on after it.
  EXPECT_NO_FAULT(run_kernel({}, 1, read_at, in.device(), 0, out.device()));
}

TEST(GlobalMemory, HoldsSparseBuffersLargerThanMemory) {
  Buffer<uint32_t> large("large", size_t{3} << 29);  // 6 GiB
  Buffer<uint32_t> out("output", 1);
  const int32_t far = static_cast<int32_t>((size_t{3} << 29) - 1);
  large.upload({42}, static_cast<size_t>(far));
  EXPECT_NO_FAULT(run_kernel({}, 1, read_at, large.device(), far, out.device()));
  EXPECT_EQ(out.download()[0], 42u);
}

template <class T>
__global__ void strided(const T *from, T *to, int32_t stride) {
  store_global(to + thread_index() * stride, load_global(from + thread_index() * stride));
}

template <class T>
void check_sectors(int32_t stride, uint64_t sectors_per_warp, uint32_t misalignment = 0) {
  constexpr int32_t kThreads = 96;
  Buffer<T> in("input", std::vector<T>(kThreads * static_cast<size_t>(stride)), misalignment),
      out("output", kThreads * static_cast<size_t>(stride), misalignment);
  EXPECT_NO_FAULT(run_kernel({.threads = kThreads}, 1, strided<T>, in.device(), out.device(), stride));
  const simt::Counters counters = machine().total();
  EXPECT_EQ(counters.global_read_bytes, kThreads * sizeof(T));
  EXPECT_EQ(counters.global_write_bytes, kThreads * sizeof(T));
  EXPECT_EQ(counters.global_read_sectors, 3 * sectors_per_warp);
  EXPECT_EQ(counters.global_write_sectors, 3 * sectors_per_warp);
  EXPECT_EQ(in.read_bytes(), kThreads * sizeof(T));
  EXPECT_EQ(in.write_bytes(), 0u);
  EXPECT_EQ(out.write_bytes(), kThreads * sizeof(T));
}

TEST(GlobalMemory, CountsSectorsOfAWarpInstruction) {
  check_sectors<uint8_t>(1, 1);
  check_sectors<uint16_t>(1, 2);
  check_sectors<uint32_t>(1, 4);
  check_sectors<Words2>(1, 8);
  check_sectors<Words4>(1, 16);
  check_sectors<uint32_t>(2, 8);
  check_sectors<uint32_t>(8, 32);
  check_sectors<uint32_t>(100, 32);
  check_sectors<uint32_t>(1, 5, 16);  // 128 bytes that start in the middle of a sector
}

__global__ void uneven(const uint32_t *from, uint32_t *to) {
  // Lane l reads l % 4 words at one place in the source, in a loop without a collective, then all read one word more at another.
  uint32_t sum = 0;
  for (int32_t i = 0; i < lane_index() % 4; ++i) sum += load_global(from + i * 32 + lane_index());
  sum += load_global(from + lane_index());
  store_global(to + lane_index(), sum);
}

TEST(GlobalMemory, MatchesInstructionsOfLanesThatTookDifferentWays) {
  Buffer<uint32_t> in("input", std::vector<uint32_t>(128, 1)), out("output", 32);
  EXPECT_NO_FAULT(run_kernel({}, 1, uneven, in.device(), out.device()));
  // Round i is run by the lanes with l % 4 > i: each of the 4 sectors of a row of 32 words is touched; then 4 sectors for the last read.
  EXPECT_EQ(machine().total().global_read_sectors, 4u * 4);
  EXPECT_EQ(machine().total().global_read_bytes, 4u * (8 * (1 + 2 + 3) + 32));
}

__global__ void long_loop(const uint32_t *from, uint32_t *to, int32_t rounds) {
  uint32_t sum = 0;
  for (int32_t i = 0; i < rounds; ++i) sum += load_stream(from + i * 32 + lane_index());
  store_global(to + lane_index(), sum);
}

TEST(GlobalMemory, CountsALongLoopWithoutCollectives) {
  constexpr int32_t kRounds = 5000;
  Buffer<uint32_t> in("input", std::vector<uint32_t>(32 * kRounds, 1)), out("output", 32);
  EXPECT_NO_FAULT(run_kernel({}, 1, long_loop, in.device(), out.device(), kRounds));
  EXPECT_EQ(machine().total().global_read_sectors, 4u * kRounds);
  EXPECT_EQ(out.download()[31], static_cast<uint32_t>(kRounds));
}

__global__ void needs_much_shared() {}

// Calls itself until the stack is full; no optimisation may turn that into a loop.
int32_t dig(int32_t depth, volatile int32_t *outer) {
  volatile int32_t room[64];
  room[depth % 64] = *outer + 1;
  return depth ? dig(depth - 1, room + depth % 64) + room[depth % 64] : room[0];
}
__global__ void needs_much_stack(int32_t depth) {
  volatile int32_t start = 0;
  dig(depth, &start);
}

TEST(Launch, FindsAFullStack) {
  EXPECT_NO_FAULT(run_kernel({}, 1, needs_much_stack, 50));
  const simt::Fault &fault = run_kernel({}, 1, needs_much_stack, 1000000);
  EXPECT_NE(fault.what.find("stack"), std::string::npos) << fault.what;
}

TEST(Launch, RefusesWhatADeviceRefuses) {
  machine().reset();
  EXPECT_EQ(launch({.name = "big", .grid = {1}, .threads = 32, .shared_bytes = 49 * 1024}, needs_much_shared), simt::Machine::kInvalidValue);
  EXPECT_NE(machine().refusal().find("50176 bytes of shared memory without a prepare()"), std::string::npos) << machine().refusal();
  EXPECT_EQ(prepare(needs_much_shared, 300 * 1024), simt::Machine::kInvalidValue);
  EXPECT_EQ(prepare(needs_much_shared, 49 * 1024), 0);
  EXPECT_EQ(launch({.name = "big", .grid = {1}, .threads = 32, .shared_bytes = 49 * 1024}, needs_much_shared), 0);
  EXPECT_EQ(launch({.name = "odd", .grid = {1}, .threads = 33}, needs_much_shared), simt::Machine::kInvalidValue);
  EXPECT_EQ(launch({.name = "empty", .grid = {0}, .threads = 32}, needs_much_shared), 0);
  EXPECT_EQ(machine().launches().size(), 1u);
}

}  // namespace
}  // namespace think::simt_test
