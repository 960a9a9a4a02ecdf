// The compact stage's CUDA kernels against the reference, byte for byte over the whole destination.
#include "kernels/compact/cuda.h"

#include "device_segment.h"

namespace think {
namespace {

using namespace test;

struct Traffic {
  simt::Counters counters;
  uint64_t source_bytes;
};

// Runs kernels and reference on equal memory and compares every byte, guards included.
void expect_as_reference(const Shape &shape, const Batch &batch, int32_t slots, Store &source, Store &destination, uint64_t seed, const std::string &what,
                         int64_t longest = 512, Traffic *traffic = nullptr) {
  begin(seed);
  ASSERT_RUNS(compact::cuda::load());
  const DeviceBatch device_batch(batch);
  const DeviceSegment from(source, shape, batch, slots, true), to(destination, shape, batch, slots, false);
  compact::reference::compact({shape, source.segment, destination.segment, batch});
  ASSERT_EQ(0, compact::cuda::compact({shape, from.segment, to.segment, device_batch.batch}, longest, nullptr)) << what << ": "
                                                                                                                << simt::machine().fault().text();
  const auto compare = [&](const std::vector<char> &actual, const std::vector<char> &expected, const char *side) {
    const auto at = std::mismatch(actual.begin(), actual.end(), expected.begin()).first - actual.begin();
    ASSERT_EQ(at, static_cast<int64_t>(actual.size())) << what << ": " << side << " differ from byte " << at - Store::kGuard << " on";
  };
  compare(to.key.download(), destination.key, "keys");
  compare(to.value.download(), destination.value, "values");
  ASSERT_EQ(to.key_scale.download(), DeviceSegment::some(destination.key_scale)) << what;
  ASSERT_EQ(to.value_scale.download(), DeviceSegment::some(destination.value_scale)) << what;
  ASSERT_EQ(0u, simt::machine().total().bank_conflicts) << what;
  if (traffic) *traffic = {simt::machine().total(), from.key.read_bytes() + from.value.read_bytes()};
}

// A prune: rows of every dtype to tiles of every dtype, heads of different widths, an odd first row, a partial last tile.
TEST(CompactOnDevice, RowsToTilesEveryWidth) {
  Random random(1);
  const int32_t widths[] = {1, 7, 8, 9, 16, 39, 40, 52, 63, 64, 65, 77, 80, 127, 128, 200, 256};
  uint64_t seed = 0;
  for (int32_t channels : {8, 24, 64, 80, 96, 128, 256}) {
    for (size_t w = 0; w < std::size(widths); ++w) {
      if (widths[w] > channels) break;
      for (think_dtype from : kDtypes) {
        const think_dtype to = kDtypes[seed % 3];
        // Gaps of 3 numbers put rows off the 16 bytes that the fast way needs.
        prune_rows(random, channels, widths, w, from, to, w % 4 == 1 ? 3 : 0,
                   [&](const Shape &shape, const Batch &batch, int32_t slots, Store &source, Store &destination) {
                     const std::string what = std::to_string(widths[w]) + " of " + std::to_string(channels) + " channels, dtype " + std::to_string(from);
                     expect_as_reference(shape, batch, slots, source, destination, ++seed, what + " to " + std::to_string(to));
                   });
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Any layouts, pages on either side, per-head lengths and first rows, slots, gaps, bases on one or both sides.
TEST(CompactOnDevice, RandomSegments) {
  for (int32_t seed = 0; seed < cases(400); ++seed) {
    const int32_t forms = static_cast<int32_t>(std::size(kDtypes));
    random_segments(seed, forms, [&](const Shape &shape, const Batch &batch, int32_t slots, Store &source, Store &destination) {
      expect_as_reference(shape, batch, slots, source, destination, seed, "seed " + std::to_string(seed));
    });
    if (HasFatalFailure()) return;
  }
}

// The same with tiles of codes on either side, of whole and partial tiles, between each other, and from and to every type of numbers.
TEST(CompactOnDevice, RandomSegmentsOfCodes) {
  for (int32_t seed = 0; seed < cases(240); ++seed) {
    random_segments(seed, static_cast<int32_t>(std::size(kStored)), [&](const Shape &shape, const Batch &batch, int32_t slots, Store &source, Store &destination) {
      expect_as_reference(shape, batch, slots, source, destination, seed, "seed " + std::to_string(seed));
    });
    if (HasFatalFailure()) return;
  }
}

TEST(CompactOnDevice, BytesOfTheFile) {
  for (const GoldenTile &golden : golden_tiles(THINK_TEST_VECTORS "/quantized.txt")) {
    SCOPED_TRACE(golden.name);
    begin(1);
    ASSERT_RUNS(compact::cuda::load());
    const Constant<float> rows("rows", golden.rows.data(), static_cast<int64_t>(golden.rows.size()));
    const Constant<int32_t> tokens("tokens", &golden.tokens, 1);
    const Constant<float> scale("scale", &golden.scale, 1);
    simt::Buffer<uint8_t> tile("tile", golden.bytes.size());
    think_segment dense = THINK_SEGMENT_INIT, codes = THINK_SEGMENT_INIT;
    dense.lengths = codes.lengths = tokens.device();
    (golden.keys ? dense.key : dense.value) = const_cast<float *>(rows.device());
    (golden.keys ? codes.key : codes.value) = tile.device();
    dense.key_dtype = dense.value_dtype = THINK_F32;
    codes.key_dtype = codes.value_dtype = golden.dtype;
    codes.key_layout = codes.value_layout = THINK_TILES;
    codes.key_scale = codes.value_scale = const_cast<float *>(scale.device());
    const Shape shape = make_shape(1, golden.channels, golden.channels, 1);
    ASSERT_RUNS(compact::cuda::compact({shape, dense, codes, {1, nullptr, nullptr, nullptr}}, golden.tokens, nullptr));
    EXPECT_EQ(golden.bytes, tile.download());
  }
}

TEST(CompactOnDevice, CodesMoveTheBytesOfTheirModel) {
  Random random(7);
  constexpr int32_t kTokens = 8192;
  const Shape shape = make_shape(1, 128, 128, 1);
  const Batch batch{1, nullptr, nullptr, nullptr};
  const Basis keys(random, 1, 1, 128, [](int32_t) { return 77; });
  Store source(random, shape, batch, 1, false, kTokens, kTokens, {THINK_F16}, {THINK_F16}, {0}, {}, false);
  source.poison();
  source.fill(random, shape, batch, {kTokens});
  Store destination(random, shape, batch, 1, false, kTokens, kTokens, {THINK_U4, THINK_TILES, &keys.basis, Order::placed},
                    {THINK_U8, THINK_TILES, nullptr, Order::placed}, {0}, {kTokens}, false);
  Traffic traffic;
  expect_as_reference(shape, batch, 1, source, destination, 7, "codes", kTokens, &traffic);
  if (HasFatalFailure()) return;
  const double read = 2.0 * kTokens * 128 * 2, written = kTokens / 32.0 * static_cast<double>(key_tile(77, THINK_U4).bytes + value_tile(128, THINK_U8).bytes);
  report_traffic("compact 8,192 tokens, 77 of 128 channels in u4, values in u8", traffic.counters, read, written);
  EXPECT_LE(static_cast<double>(traffic.source_bytes), read);
  EXPECT_EQ(static_cast<double>(traffic.counters.global_write_bytes), written);
  EXPECT_LE(static_cast<double>(traffic.counters.global_read_bytes), 1.02 * read);
}

// One full block of the window goes to the end of the tiles that are there already.
TEST(CompactOnDevice, FoldAppendsOneTile) {
  fold_one_tile([](const Shape &shape, const Batch &batch, int32_t slots, Store &source, Store &destination) {
    expect_as_reference(shape, batch, slots, source, destination, 4, "fold");
  });
}

// A prune of a long prompt reads each dense row once and writes each compact one once. Index, widths and tables are all that comes on top.
TEST(CompactOnDevice, MovesTheBytesOfItsModel) {
  Random random(5);
  for (const int32_t tokens : {4096, 9000, 1024}) {
    const Shape shape = make_shape(1, 128, 128, 1);
    const Batch batch{1, nullptr, nullptr, nullptr};
    const Basis keys(random, 1, 1, 128, [](int32_t) { return 77; });
    const Basis values(random, 1, 1, 128, [](int32_t) { return 88; });
    const int32_t capacity = (tokens + 31) / 32 * 32 + 32;
    Store source(random, shape, batch, 1, false, capacity, capacity, {THINK_F16}, {THINK_F16}, {8}, {}, false);
    source.poison();
    source.fill(random, shape, batch, {tokens});
    Store destination(random, shape, batch, 1, false, capacity, capacity, {THINK_F16, THINK_TILES, &keys.basis, Order::placed},
                      {THINK_F16, THINK_ROWS, &values.basis, Order::placed}, {0}, {tokens}, false);
    Traffic traffic;
    expect_as_reference(shape, batch, 1, source, destination, 5, std::to_string(tokens) + " tokens", tokens, &traffic);
    if (HasFatalFailure()) return;
    const double limit = tokens >= 4096 ? 1.02 : 1.10;
    const int64_t tiled = (tokens + 31) / 32 * 32;
    const double keys_read = tokens * 128.0 * 2, values_read = tokens * 128.0 * 2, written = tiled * 77.0 * 2 + tokens * 88.0 * 2;
    report_traffic("compact " + std::to_string(tokens) + " tokens, 77 and 88 of 128 channels, f16", traffic.counters, keys_read + values_read, written);
    EXPECT_LE(static_cast<double>(traffic.source_bytes), keys_read + values_read);
    EXPECT_LE(static_cast<double>(traffic.counters.global_write_bytes), written);
    EXPECT_LE(static_cast<double>(traffic.counters.global_read_bytes), limit * (keys_read + values_read)) << tokens;
    EXPECT_LE(static_cast<double>(traffic.counters.global_read_sectors * 32), limit * (keys_read + values_read)) << tokens;
    // Rows of 176 bytes begin and end in the middle of sectors, which then count twice.
    EXPECT_LE(static_cast<double>(traffic.counters.global_write_sectors * 32), 1.10 * written) << tokens;
  }
}

// Arrays of the device cannot be checked, so lengths and widths that are none must not lead out of memory.
TEST(CompactOnDevice, WrongLengthsAndWidthsStayInside) {
  Random random(6);
  const Shape shape = make_shape(2, 64, 64, 2);
  const Batch batch{2, nullptr, nullptr, nullptr};
  Basis keys(random, 2, 2, 64, [&](int32_t) { return 40; }), values(random, 2, 2, 64, [&](int32_t) { return 24; });
  const SideOptions to_key{THINK_F16, THINK_TILES, &keys.basis, Order::placed}, to_value{THINK_F16, THINK_ROWS, &values.basis, Order::placed};
  Store source(random, shape, batch, 2, false, 96, 96, {THINK_F16}, {THINK_F16}, {0, 0}, {}, false);
  source.poison();
  source.fill(random, shape, batch, {96, 96});
  Store destination(random, shape, batch, 2, false, 96, 96, to_key, to_value, {0, 0}, {96, 0}, false);
  begin(6);
  ASSERT_RUNS(compact::cuda::load());
  const DeviceSegment from(source, shape, batch, 2, true), right(destination, shape, batch, 2, false);
  ASSERT_RUNS(compact::cuda::compact({shape, from.segment, right.segment, batch}, 96, nullptr));
  destination.lengths = {1 << 30, -1};
  destination.segment.lengths = destination.lengths.data();
  const DeviceSegment to(destination, shape, batch, 2, false);
  ASSERT_RUNS(compact::cuda::compact({shape, from.segment, to.segment, batch}, 96, nullptr));
  EXPECT_EQ(right.key.download(), to.key.download());
  EXPECT_EQ(right.value.download(), to.value.download());
  // Heads that keep nothing.
  for (const int32_t width : {0, -3}) {
    std::fill(keys.kept.begin(), keys.kept.end(), width);
    std::fill(values.kept.begin(), values.kept.end(), width);
    const DeviceSegment odd(destination, shape, batch, 2, false);
    ASSERT_RUNS(compact::cuda::compact({shape, from.segment, odd.segment, batch}, 96, nullptr));
  }
}

TEST(PlaceOnDevice, AsTheCpu) {
  for (const int32_t heads : {1, 3, 32, 45}) {
    Random random(heads);
    const Shape shape = make_shape(heads, 64, 32, 2);
    const int32_t slot[] = {2, 0};
    const Batch batch{2, nullptr, nullptr, slot};
    const Basis keys(random, 3, heads, 64, [&](int32_t) { return pick(random, 1, 64); });
    const Basis values(random, 3, heads, 32, [&](int32_t) { return 8 * pick(random, 1, 4); });
    for (const int64_t row_stride : {0, 160}) {
      for (const bool has_values : {true, false}) {
        std::vector<int64_t> key_offset(3 * heads, -1), value_offset(3 * heads, -1);
        think_segment segment = THINK_SEGMENT_INIT;
        segment.page_tokens = 1 << 30;
        segment.key_layout = THINK_TILES;
        segment.key_dtype = row_stride ? THINK_U4 : THINK_F16;
        segment.value_dtype = row_stride || has_values ? THINK_F32 : THINK_U8;
        segment.value_stride[2] = row_stride;
        segment.key_head_offset = key_offset.data();
        segment.value_head_offset = value_offset.data();
        segment.key_basis = &keys.basis;
        segment.value_basis = has_values ? &values.basis : nullptr;
        compact::place(shape, segment, batch);
        begin(heads);
        const DeviceBatch device_batch(batch);
        const DeviceBasis key_basis(&keys.basis, heads), value_basis(segment.value_basis, heads);
        simt::Buffer<int64_t> device_key("key_head_offset", 3 * heads), device_value("value_head_offset", 3 * heads);
        think_segment on_device = segment;
        on_device.key_head_offset = device_key.device();
        on_device.value_head_offset = device_value.device();
        on_device.key_basis = key_basis.get();
        on_device.value_basis = value_basis.get();
        ASSERT_RUNS(compact::cuda::place(shape, on_device, device_batch.batch, nullptr));
        EXPECT_EQ(key_offset, device_key.download());
        EXPECT_EQ(value_offset, device_value.download());
      }
    }
  }
}

}  // namespace
}  // namespace think
