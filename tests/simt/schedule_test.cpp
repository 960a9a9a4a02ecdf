// Blocks, warps and lanes interleave under the seed, and blocks meet at atomics.
#include <set>

#include "run_kernel.h"

namespace think::simt_test {
namespace {

__global__ void order_of_blocks(uint32_t *counter, uint32_t *order) {
  if (thread_index() == 0) store_global(order + atomic_add(counter, 1u), static_cast<uint32_t>(block_x()));
}

std::vector<uint32_t> blocks_in_order(uint64_t seed) {
  Buffer<uint32_t> counter("counter", std::vector<uint32_t>(1)), order("order", 16);
  EXPECT_NO_FAULT(run_kernel({.blocks = 16}, seed, order_of_blocks, counter.device(), order.device()));
  return order.download();
}

TEST(Schedule, OrderOfBlocksFollowsTheSeed) {
  std::set<std::vector<uint32_t>> orders;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::vector<uint32_t> order = blocks_in_order(seed);
    EXPECT_EQ(order, blocks_in_order(seed));
    orders.insert(order);
    std::sort(order.begin(), order.end());
    for (uint32_t i = 0; i < 16; ++i) EXPECT_EQ(order[i], i);
  }
  EXPECT_GE(orders.size(), 19u);
}

__global__ void grid_kernel(uint32_t *out) {
  const int32_t place = (block_z() * grid_y() + block_y()) * grid_x() + block_x();
  if (thread_index() == 33) store_global(out + place, static_cast<uint32_t>(block_threads() + warp_index() * 1000 + lane_index() * 10000));
}

TEST(Schedule, RunsEveryBlockOfAGridOnce) {
  Buffer<uint32_t> out("out", 3 * 4 * 5);
  machine().reset();
  machine().options = {.seed = 3};
  ASSERT_EQ(launch({.name = "grid", .grid = {3, 4, 5}, .threads = 64}, grid_kernel, out.device()), 0);
  EXPECT_EQ(out.download(), std::vector<uint32_t>(60, 64 + 1000 + 10000));
  EXPECT_EQ(out.write_bytes(), 60u * 4);
}

// Two atomics that are no unit: another block may come in between.
__global__ void two_atomics(uint32_t *counter, uint32_t *seen) {
  if (thread_index() != 0) return;
  const uint32_t before = atomic_add(counter, 1u), after = atomic_add(counter, 0u);
  store_global(seen + block_x(), after - before);
}

TEST(Schedule, BlocksInterleaveAtAtomics) {
  int32_t together = 0, apart = 0;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    Buffer<uint32_t> counter("counter", std::vector<uint32_t>(1)), seen("seen", 8);
    EXPECT_NO_FAULT(run_kernel({.blocks = 8}, seed, two_atomics, counter.device(), seen.device()));
    EXPECT_EQ(counter.download()[0], 8u);
    for (uint32_t difference : seen.download()) (difference == 1 ? together : apart) += 1;
  }
  EXPECT_GT(together, 20);
  EXPECT_GT(apart, 20);
}

// Every block stores a part; the last to arrive adds them in order.
__global__ void reduce(const uint32_t *values, uint32_t *parts, uint32_t *counter, uint32_t *out, uint32_t *last) {
  const uint32_t sum = warp_sum(load_global(values + block_x() * 64 + thread_index()));
  if (lane_index() == 0) store_global(parts + block_x() * 2 + warp_index(), sum);
  if (!last_block(counter, static_cast<uint32_t>(grid_x()))) return;
  uint32_t total = 0;
  for (int32_t i = 0; i < grid_x() * 2; ++i) total = total * 3 + load_l2(parts + i);
  if (thread_index() == 0) {
    store_global(out, total);
    store_global(last, static_cast<uint32_t>(block_x()));
  }
}

TEST(Schedule, TheLastBlockSeesAllOthers) {
  std::vector<uint32_t> values(6 * 64);
  for (uint32_t i = 0; i < values.size(); ++i) values[i] = i * i;
  uint32_t expected = 0;
  for (uint32_t part = 0; part < 12; ++part) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 32; ++i) sum += values[part * 32 + i];
    expected = expected * 3 + sum;
  }
  std::set<uint32_t> last_blocks;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Buffer<uint32_t> in("values", values), parts("parts", 12), counter("counter", std::vector<uint32_t>(1)), out("out", 1), last("last", 1);
    EXPECT_NO_FAULT(
        run_kernel({.blocks = 6, .threads = 64}, seed, reduce, in.device(), parts.device(), counter.device(), out.device(), last.device()));
    EXPECT_EQ(out.download()[0], expected);
    EXPECT_EQ(counter.download()[0], 0u);  // ready for the next launch
    last_blocks.insert(last.download()[0]);
  }
  EXPECT_GE(last_blocks.size(), 4u);
}

TEST(Report, NamesEveryPlace) {
  Buffer<uint32_t> counter("counter", std::vector<uint32_t>(1)), order("order", 16);
  EXPECT_NO_FAULT(run_kernel({.blocks = 16}, 1, order_of_blocks, counter.device(), order.device()));
  ASSERT_EQ(machine().launches().size(), 1u);
  const std::string text = machine().launches()[0].text();
  EXPECT_NE(text.find("tested: grid 16 x 1 x 1, 32 threads, 0 bytes shared; read 0 B in 0 sectors, wrote 64 B in 16 sectors"), std::string::npos) << text;
  EXPECT_NE(text.find("schedule_test.cpp:"), std::string::npos) << text;
  EXPECT_NE(text.find("atomic                       16 instructions"), std::string::npos) << text;
}

TEST(Atomics, WrapAndCountDown) {
  Buffer<uint32_t> counter("counter", std::vector<uint32_t>(3));
  const auto kernel = +[](uint32_t *at) {
    atomic_increment_wrap(at, 4);
    atomic_add(at + 1, 2u);
    atomic_add(static_cast<int32_t *>(static_cast<void *>(at + 2)), -1);
  };
  EXPECT_NO_FAULT(run_kernel({.blocks = 3}, 1, kernel, counter.device()));  // 96 threads: 96 mod 5
  EXPECT_EQ(counter.download(), (std::vector<uint32_t>{1, 192, static_cast<uint32_t>(-96)}));
  EXPECT_EQ(machine().total().atomics, 3u * 96);
  // Uninitialised counters are a fault.
  counter.uninitialise();
  EXPECT_EQ(run_kernel({}, 1, kernel, counter.device()).kind, FaultKind::uninitialised);
}

}  // namespace
}  // namespace think::simt_test
