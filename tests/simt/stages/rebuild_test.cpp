// The rebuild stage's CUDA kernel against the CPU's loops, byte for byte over the whole tensor.
#include "kernels/rebuild/cuda.h"

#include "device_segment.h"

namespace think {
namespace {

using namespace test;

enum class Dropped { nothing, predicted, some_predicted, not_predicted };
constexpr Dropped kDropped[] = {Dropped::nothing, Dropped::predicted, Dropped::some_predicted, Dropped::not_predicted};

// A basis with weights and offsets, as far as its heads have them.
struct Prediction {
  Basis own;
  std::vector<int64_t> weight_offset;
  std::vector<float> offset;
  std::vector<uint16_t> weight;

  template <class Width>
  Prediction(Random &random, int32_t slots, int32_t heads, int32_t channels, Dropped dropped, const Width &width) : own(random, slots, heads, channels, width) {
    std::normal_distribution<float> normal;
    for (int32_t place = 0; place < slots * heads; ++place) {
      const int32_t kept = own.kept[place], padded = (kept + 7) / 8 * 8;
      const bool predicted = dropped == Dropped::predicted || (dropped == Dropped::some_predicted && place % 2 == 0);
      weight_offset.push_back(predicted ? static_cast<int64_t>(2 * weight.size()) : -1);
      for (int32_t i = 0; i < channels; ++i) offset.push_back(normal(random));
      for (int32_t i = 0; predicted && i < (channels - kept) * padded; ++i) {
        // Padding is zero by contract; here it is not, as nobody may look at it.
        weight.push_back(f32_to_f16(i % padded < kept ? 0.3f * normal(random) : 1000.0f));
      }
    }
    own.basis.weight_offset = weight_offset.data();
    own.basis.offset = offset.data();
    own.basis.weight = weight.empty() ? nullptr : weight.data();
    own.basis.weight_bytes = static_cast<int64_t>(2 * weight.size());
  }
};

struct Target {
  think_tensor tensor = THINK_TENSOR_INIT;
  std::vector<char> memory;

  // Heads or tokens outermost, unused numbers behind each row.
  Target(think_dtype dtype, int32_t heads, int64_t tokens, int32_t channels, bool token_major, int64_t gap) {
    const int64_t row = channels + gap;
    tensor.dtype = dtype;
    const int64_t extent[4] = {1, heads, tokens, channels}, stride[4] = {0, token_major ? row : tokens * row, token_major ? heads * row : row, 1};
    std::copy_n(extent, 4, tensor.extent);
    std::copy_n(stride, 4, tensor.stride);
    memory.assign(static_cast<size_t>(heads * tokens * row * dtype_bytes(dtype)), '\x5a');
    tensor.data = memory.data();
  }
};

// Rows [first, first + count) of the segment in `host`, on both; `longer` rows of the tensor stay as they are.
void expect_as_cpu(const Shape &shape, const Batch &batch, int32_t slots, const Store &host, int32_t side, int64_t first, int64_t count, Target target,
                   uint64_t seed, const std::string &what, simt::Counters *counters = nullptr) {
  begin(seed);
  ASSERT_RUNS(rebuild::cuda::load());
  const DeviceBatch device_batch(batch);
  const DeviceSegment device(host, shape, batch, slots, true);
  simt::Buffer<char> output("output", target.memory);
  think_tensor tensor = target.tensor;
  tensor.data = output.device();
  ASSERT_EQ(0, rebuild::cuda::rebuild({shape, device.segment, device_batch.batch, side, first, count, tensor}, nullptr))
      << what << ": " << simt::machine().fault().text();
  rebuild::rebuild({shape, host.segment, batch, side, first, count, target.tensor});
  const std::vector<char> actual = output.download();
  const auto at = std::mismatch(actual.begin(), actual.end(), target.memory.begin()).first - actual.begin();
  ASSERT_EQ(at, static_cast<int64_t>(actual.size())) << what << ": differs from byte " << at << " on";
  ASSERT_EQ(0u, simt::machine().total().bank_conflicts) << what;
  if (counters) *counters = simt::machine().total();
}

// Every stored form and way of dropping channels, of both sides: heads of different widths, odd first rows and counts, pages or a slot, every type of tensor.
TEST(RebuildOnDevice, EveryStoredForm) {
  const int32_t slot = 1, slots = 2, heads = 4, rows = 160;
  const Batch batch{1, nullptr, nullptr, &slot};
  uint64_t seed = 0;
  for (const think_dtype stored : kStored) {
    for (const int32_t channels : {64, 80, 128, 256}) {
      for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
        for (const Dropped dropped : kDropped) {
          for (const bool paged : {false, true}) {
            Random random(static_cast<uint32_t>(++seed));
            const bool keys = side == THINK_KEYS;
            const Shape shape = keys ? make_shape(heads, channels, 8, 1) : make_shape(heads, 8, channels, 1);
            const int32_t key_widths[] = {1, 7, 40, channels}, value_widths[] = {8, 24, 40, channels};
            Prediction prediction(random, slots, heads, channels, dropped, [&](int32_t place) { return (keys ? key_widths : value_widths)[place % heads]; });
            SideOptions options{stored, is_quantized(stored) || (keys && seed % 3) ? THINK_TILES : THINK_ROWS, nullptr, Order::heads};
            if (dropped != Dropped::nothing) options.basis = &prediction.own.basis, options.order = Order::placed;
            if (dropped == Dropped::nothing && options.layout == THINK_ROWS) options.order = seed % 2 ? Order::tokens : Order::heads, options.gap = 3;
            const SideOptions other{THINK_F16};
            Store store(random, shape, batch, slots, paged, paged ? 64 : rows, rows, keys ? options : other, keys ? other : options, {0}, {rows}, false);
            (keys ? store.segment.value : store.segment.key) = nullptr;
            store.poison();
            store.fill(random, shape, batch, {rows});
            store.first[0] = 1 << 20;  // counted from the start of the pages: not added
            const int64_t first = 31 + 2 * static_cast<int64_t>(seed % 4), count = seed % 5 ? 43 : 1;
            const think_dtype dtype = kDtypes[seed / 2 % 3];
            expect_as_cpu(shape, batch, slots, store, side, first, count,
                          Target(dtype, heads, count + static_cast<int64_t>(seed % 3), channels, seed % 4 == 0, seed % 2 ? 5 : 0), seed,
                          "stored as " + std::to_string(stored) + (keys ? " keys, " : " values, ") + std::to_string(channels) + " channels, dropped " +
                              std::to_string(static_cast<int32_t>(dropped)) + (paged ? ", paged, to " : ", to ") + std::to_string(dtype));
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

// What is kept comes out as it went in, what is dropped as the basis says: two channels of three, by hand.
TEST(RebuildOnDevice, ByHand) {
  const Shape shape = make_shape(1, 8, 8, 1);
  const float stored[2][2] = {{1, -2}, {0.5f, 4}};
  const int32_t kept = 2, index[8] = {1, 6, 0, 2, 3, 4, 5, 7};
  const int64_t weight_offset = 0;
  float offset[8] = {99, 99, 0, 1, 0, 0, 0, -3};
  uint16_t weight[6][8] = {};
  weight[0][0] = f32_to_f16(2), weight[0][1] = f32_to_f16(1), weight[5][1] = f32_to_f16(-0.5f);
  think_basis basis = THINK_BASIS_INIT;
  basis.channels = 8, basis.slots = 1, basis.weight_bytes = sizeof weight;
  basis.kept = const_cast<int32_t *>(&kept), basis.index = const_cast<int32_t *>(index), basis.weight_offset = const_cast<int64_t *>(&weight_offset);
  basis.offset = offset, basis.weight = weight;
  const float expected[2][8] = {{0, 1, 1, 0, 0, 0, -2, -2}, {5, 0.5f, 1, 0, 0, 0, 4, -5}};
  begin(1);
  ASSERT_RUNS(rebuild::cuda::load());
  const DeviceBasis device_basis(&basis, 1);
  const Constant<float> rows("rows", &stored[0][0], 4);
  simt::Buffer<float> output("output", 16);
  think_segment segment = THINK_SEGMENT_INIT;
  segment.key = const_cast<float *>(rows.device());
  segment.key_dtype = THINK_F32;
  segment.key_basis = device_basis.get();
  think_tensor tensor = {sizeof tensor, 0, output.device(), THINK_F32, 0, {1, 1, 2, 8}, {16, 16, 8, 1}};
  ASSERT_RUNS(rebuild::cuda::rebuild({shape, segment, kOneSequence, THINK_KEYS, 0, 2, tensor}, nullptr));
  EXPECT_EQ(std::vector<float>(&expected[0][0], &expected[0][0] + 16), output.download());
  float host[16];
  segment.key = const_cast<float *>(&stored[0][0]), segment.key_basis = &basis, tensor.data = host;
  rebuild::rebuild({shape, segment, kOneSequence, THINK_KEYS, 0, 2, tensor});
  EXPECT_EQ(std::vector<float>(&expected[0][0], &expected[0][0] + 16), std::vector<float>(host, host + 16));
}

// Arrays of the device cannot be checked, so widths that are none must not lead out of memory.
TEST(RebuildOnDevice, WrongWidthsStayInside) {
  for (const int32_t width : {0, -3}) {
    Random random(3);
    const Shape shape = make_shape(2, 64, 8, 1);
    Prediction prediction(random, 1, 2, 64, Dropped::predicted, [](int32_t) { return 40; });
    Store store(random, shape, kOneSequence, 1, false, 96, 96, {THINK_F16, THINK_TILES, &prediction.own.basis, Order::placed}, {THINK_F16}, {0}, {96}, false);
    store.segment.value = nullptr;
    store.poison();
    store.fill(random, shape, kOneSequence, {96});
    std::fill(prediction.own.kept.begin(), prediction.own.kept.end(), width);
    begin(3);
    const DeviceSegment device(store, shape, kOneSequence, 1, true);
    simt::Buffer<float> output("output", 2 * 33 * 64);
    const think_tensor tensor = {sizeof tensor, 0, output.device(), THINK_F32, 0, {1, 2, 33, 64}, {0, 33 * 64, 64, 1}};
    ASSERT_RUNS(rebuild::cuda::rebuild({shape, device.segment, kOneSequence, THINK_KEYS, 0, 33, tensor}, nullptr));
  }
}

}  // namespace
}  // namespace think
