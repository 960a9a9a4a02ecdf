// The compact stage against its reference, byte for byte: the whole destination memory, with everything around it, must come out the same.
#include "kernels/compact/compact.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "compact_case.h"
#include "instruction_sets.h"

namespace think {
namespace {

using namespace test;

struct ThreadedLoop {
  static void run(void *, int64_t count, think_task task, void *arg) {
    std::vector<std::thread> threads;
    for (int64_t i = 0; i < count; ++i) threads.emplace_back(task, arg, i);
    for (std::thread &thread : threads) thread.join();
  }
};
constexpr Parallel kSerial = {1, nullptr, nullptr};
constexpr Parallel kThreaded = {3, ThreadedLoop::run, nullptr};

void run_slices(int32_t isa, const compact::Arguments &arguments, const Parallel &parallel, int slices) {
  if (slices == 1) {
    compact::compact(isa, arguments, parallel, {0, 1});
    return;
  }
  std::vector<std::thread> threads;
  for (int i = slices - 1; i >= 0; --i) {
    threads.emplace_back([&, i] { compact::compact(isa, arguments, parallel, {i, slices}); });
  }
  for (std::thread &thread : threads) thread.join();
}

// Runs the stage and the reference on equal memory and compares every byte of the destination, guards included; the source must not change.
void expect_as_reference(int32_t isa, const Shape &shape, const Batch &batch, Store &source, Store &destination, const std::string &what,
                         const Parallel &parallel = kSerial, int slices = 1) {
  const std::vector<char> key = source.key, value = source.value, empty_key = destination.key, empty_value = destination.value;
  const compact::Arguments arguments{shape, source.segment, destination.segment, batch};
  const std::vector<float> given_key = destination.key_scale, given_value = destination.value_scale;
  compact::reference::compact(arguments);
  const std::vector<float> key_scale = destination.key_scale, value_scale = destination.value_scale;
  std::copy(given_key.begin(), given_key.end(), destination.key_scale.begin());
  std::copy(given_value.begin(), given_value.end(), destination.value_scale.begin());
  const std::vector<char> expected_key = destination.key, expected_value = destination.value;
  std::copy(empty_key.begin(), empty_key.end(), destination.key.begin());
  std::copy(empty_value.begin(), empty_value.end(), destination.value.begin());
  run_slices(isa, arguments, parallel, slices);
  const auto compare = [&](const std::vector<char> &actual, const std::vector<char> &expected, const char *side) {
    const auto at = std::mismatch(actual.begin(), actual.end(), expected.begin()).first - actual.begin();
    ASSERT_EQ(at, static_cast<int64_t>(actual.size())) << what << ": " << side << " differ from byte " << at - Store::kGuard << " on";
  };
  compare(destination.key, expected_key, "keys");
  compare(destination.value, expected_value, "values");
  ASSERT_TRUE(destination.key_scale == key_scale && destination.value_scale == value_scale) << what << ": scales";
  ASSERT_TRUE(source.key == key && source.value == value) << what << ": the source was written";
}

class CompactTest : public testing::TestWithParam<int32_t> {};
INSTANTIATE_TEST_SUITE_P(Isa, CompactTest, testing::ValuesIn(test::instruction_sets()),
                         [](const auto &set) { return std::string(test::isa_name(set.param)); });

// A prune: rows of every dtype to tiles of every dtype, heads of different widths, an odd first row, a partial last tile.
TEST_P(CompactTest, RowsToTilesEveryWidth) {
  Random random(1);
  const int32_t widths[] = {1, 7, 8, 9, 39, 64, 77, 127, 128, 200, 256};
  for (int32_t channels : {8, 24, 64, 80, 96, 128, 256}) {
    for (size_t w = 0; w < std::size(widths); ++w) {
      if (widths[w] > channels) break;
      for (think_dtype from : kDtypes) {
        for (think_dtype to : kDtypes) {
          const std::string what = std::to_string(widths[w]) + " of " + std::to_string(channels) + " channels, dtype " + std::to_string(from);
          prune_rows(random, channels, widths, w, from, to, w % 2 ? 3 : 0,
                     [&](const Shape &shape, const Batch &batch, int32_t, Store &source, Store &destination) {
                       expect_as_reference(GetParam(), shape, batch, source, destination, what + " to " + std::to_string(to));
                     });
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Any layouts, pages on either side, per-head lengths and first rows, slots, gaps, bases on one or both sides.
TEST_P(CompactTest, RandomSegments) {
  for (int32_t seed = 0; seed < 1200; ++seed) {
    const int slices[] = {1, 1, 2, 5};
    random_segments(seed, static_cast<int32_t>(std::size(kStored)), [&](const Shape &shape, const Batch &batch, int32_t, Store &source, Store &destination) {
      expect_as_reference(GetParam(), shape, batch, source, destination, "seed " + std::to_string(seed), kSerial, slices[seed % 4]);
    });
    if (HasFatalFailure()) return;
  }
}

// Heads side by side in each token, which are moved together: more of them than one bundle holds, rows a power of two apart, paged, streamed, in slices.
TEST_P(CompactTest, HeadsSideBySide) {
  Random random(5);
  for (int32_t heads : {2, 8, 16, 17, 37}) {
    for (const int32_t channels : {64, 128}) {
      const Shape shape = make_shape(heads, channels, channels, 1);
      const Batch batch{1, nullptr, nullptr, nullptr};
      const Basis keys(random, 1, heads, channels, [&](int32_t h) { return 1 + (h * 29 + 13) % channels; });
      const Basis values(random, 1, heads, channels, [&](int32_t h) { return 8 + h * 24 % channels; });
      for (int32_t tokens : {1, 95, 352}) {
        for (bool paged : {false, true}) {
          for (think_dtype from : {THINK_F16, THINK_F32}) {
            Store source(random, shape, batch, 1, paged, paged ? 96 : 384, 384, {from, THINK_ROWS, nullptr, Order::tokens}, {from, THINK_ROWS, nullptr, Order::tokens},
                         {7}, {}, false);
            source.poison();
            source.fill(random, shape, batch, {tokens});
            Store destination(random, shape, batch, 1, paged, paged ? 64 : 384, 384, {THINK_F16, THINK_TILES, &keys.basis, Order::placed},
                              {THINK_F16, THINK_ROWS, heads % 2 ? &values.basis : nullptr, Order::tokens}, {0}, {tokens}, false);
            if (heads % 2) destination.segment.value_stride[2] = 0, destination.segment.value_stride[1] = (paged ? 64 : 384) * channels * 2;
            expect_as_reference(GetParam(), shape, batch, source, destination,
                                std::to_string(heads) + " heads of " + std::to_string(channels) + ", " + std::to_string(tokens) + " tokens" + (paged ? ", paged" : ""),
                                kSerial, tokens == 95 ? 3 : 1);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

// Large enough for streamed writes; aligned and not; slices and threads.
TEST_P(CompactTest, LargeCallsInSlices) {
  Random random(3);
  const Shape shape = make_shape(2, 128, 128, 1);
  const Batch batch{1, nullptr, nullptr, nullptr};
  const Basis keys(random, 1, 2, 128, [](int32_t h) { return h ? 77 : 50; });
  const Basis values(random, 1, 2, 128, [](int32_t h) { return h ? 40 : 88; });
  const int32_t tokens = 1100;
  for (bool values_pruned : {false, true}) {
    Store source(random, shape, batch, 1, false, 1120, 1120, {THINK_F16}, {THINK_F16}, {3}, {}, false);
    source.poison();
    source.fill(random, shape, batch, {tokens});
    Store destination(random, shape, batch, 1, false, 1120, 1120, {THINK_F16, THINK_TILES, &keys.basis, Order::placed},
                      {THINK_F16, THINK_ROWS, values_pruned ? &values.basis : nullptr, Order::placed}, {0}, {tokens}, false);
    for (int shift : {0, 2}) {
      // The allocator gives 16 bytes; bring the base to 64, and once off it by one number.
      const auto align = [&](std::vector<char> &memory) {
        const int64_t off = reinterpret_cast<uintptr_t>(memory.data() + Store::kGuard) % 64;
        return memory.data() + Store::kGuard - off + shift;
      };
      destination.segment.key = align(destination.key);
      destination.segment.value = align(destination.value);
      for (int slices : {1, 2, 7, 40}) {
        for (const Parallel &parallel : {kSerial, kThreaded}) {
          expect_as_reference(GetParam(), shape, batch, source, destination, std::to_string(slices) + " slices", parallel, slices);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Codes past the caches, and rows of the next head that are fetched meanwhile: heads of partial last tiles, cut anywhere.
TEST_P(CompactTest, LargeCallsOfCodesInSlices) {
  Random random(4);
  const Shape shape = make_shape(4, 128, 64, 1);
  const Batch batch{1, nullptr, nullptr, nullptr};
  const int32_t tokens = 2090;
  Store source(random, shape, batch, 1, false, 2112, 2112, {THINK_F16}, {THINK_F16}, {3}, {}, false);
  source.poison();
  source.fill(random, shape, batch, {tokens});
  for (const auto &[keys, values] : {std::pair{THINK_U4, THINK_F8_E4M3}, std::pair{THINK_F8_E4M3, THINK_U2}}) {
    Store destination(random, shape, batch, 1, false, 2112, 2112, {keys, THINK_TILES, nullptr, Order::placed}, {values, THINK_TILES, nullptr, Order::placed}, {0},
                      {tokens}, false);
    for (const auto &[slices, parallel] : {std::pair{1, kSerial}, std::pair{7, kSerial}, std::pair{1, kThreaded}}) {
      expect_as_reference(GetParam(), shape, batch, source, destination, std::to_string(slices) + " slices", parallel, slices);
      if (HasFatalFailure()) return;
    }
  }
}

// One full block of the window goes to the end of the tiles that are there already.
TEST_P(CompactTest, FoldAppendsOneTile) {
  fold_one_tile([](const Shape &shape, const Batch &batch, int32_t, Store &source, Store &destination) {
    for (int slices : {1, 4}) expect_as_reference(GetParam(), shape, batch, source, destination, "fold", kSerial, slices);
  });
}

// The reference itself, against numbers written down by hand.
TEST(CompactReferenceTest, TilesHoldKeptChannelsTokenByToken) {
  Random random(5);
  const Shape shape = make_shape(1, 8, 8, 1);
  const Batch batch{1, nullptr, nullptr, nullptr};
  Basis keys(random, 1, 1, 8, [](int32_t) { return 3; });
  keys.index = {1, 4, 7, 0, 2, 3, 5, 6};
  keys.basis.index = keys.index.data();
  Store source(random, shape, batch, 1, false, 64, 64, {THINK_F32}, {THINK_F32}, {0}, {}, false);
  for (int t = 0; t < 40; ++t) {
    for (int c = 0; c < 8; ++c) {
      store_element(source.segment.key, THINK_F32, t * 8 + c, static_cast<float>(t * 10 + c));
      store_element(source.segment.value, THINK_F32, t * 8 + c, static_cast<float>(-t * 10 - c));
    }
  }
  Store destination(random, shape, batch, 1, false, 64, 64, {THINK_BF16, THINK_TILES, &keys.basis, Order::placed}, {THINK_F32}, {0}, {40}, false);
  compact::reference::compact({shape, source.segment, destination.segment, batch});
  const int32_t channel[] = {1, 4, 7};
  for (int t = 0; t < 64; ++t) {
    for (int i = 0; i < 3; ++i) {
      const float expected = t < 40 ? bf16_to_f32(f32_to_bf16(static_cast<float>(t * 10 + channel[i]))) : 0.0f;
      ASSERT_EQ(load_element(destination.segment.key, THINK_BF16, t / 32 * 3 * 32 + i * 32 + t % 32), expected) << t << " " << i;
    }
  }
  for (int t = 0; t < 40; ++t) ASSERT_EQ(load_element(destination.segment.value, THINK_F32, t * 8 + 3), static_cast<float>(-t * 10 - 3));
}

TEST(CompactPlaceTest, HeadsLieBehindEachOther) {
  Random random(6);
  const Shape shape = make_shape(3, 64, 32, 2);
  const int32_t slot[] = {2, 0};
  const Batch batch{2, nullptr, nullptr, slot};
  const Basis keys(random, 3, 3, 64, [](int32_t i) { return 10 + i; });
  std::vector<int64_t> key_offset(9, -1), value_offset(9, -1);
  think_segment segment = THINK_SEGMENT_INIT;
  segment.page_tokens = 64;
  segment.key_layout = THINK_TILES;
  segment.key_dtype = THINK_F16;
  segment.value_dtype = THINK_F32;
  segment.key_head_offset = key_offset.data();
  segment.value_head_offset = value_offset.data();
  segment.key_basis = &keys.basis;
  compact::place(shape, segment, batch);
  EXPECT_EQ(key_offset, (std::vector<int64_t>{0, 10 * 128, 21 * 128, -1, -1, -1, 0, 16 * 128, 33 * 128}));
  EXPECT_EQ(value_offset, (std::vector<int64_t>{0, 32 * 256, 64 * 256, -1, -1, -1, 0, 32 * 256, 64 * 256}));
  segment.key_head_offset = nullptr;
  segment.value_stride[2] = 40 * 4;
  compact::place(shape, segment, batch);
  EXPECT_EQ(value_offset[2], 2 * 64 * 160);
}

}  // namespace
}  // namespace think
