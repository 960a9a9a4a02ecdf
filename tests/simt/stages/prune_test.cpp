// The small kernels between the stages of a prune: what is decided about sequences whose lengths only the device knows.
#include "kernels/prune/cuda.h"

#include <numeric>
#include <random>

#include "device.h"

namespace think {
namespace {

using namespace test;

TEST(PruneKernels, DecideAsTheHostDoes) {
  std::mt19937 random(1);
  for (int32_t i = 0; i < cases(40); ++i) {
    const int32_t batch = i % 4 == 0 ? 300 : 1 + i % 7, most = 5000, stride = 1 + i % 3;
    std::vector<int32_t> lengths(static_cast<size_t>(batch) * stride, -7), first(lengths.size(), -7), to_first(static_cast<size_t>(batch), -7);
    for (int32_t b = 0; b < batch; ++b) {
      lengths[b * stride] = static_cast<int32_t>(random() % (b % 5 ? 400 : most + 1));
      first[b * stride] = static_cast<int32_t>(random() % 100);
      to_first[b] = 32 * static_cast<int32_t>(random() % 9);
    }
    lengths[0] = i % 3 ? 1 << 30 : -1;  // forced into what memory was made for
    begin(static_cast<uint64_t>(i));
    const Constant<int32_t> device_lengths("lengths", lengths.data(), static_cast<int64_t>(lengths.size()));
    const Constant<int32_t> device_first("first", first.data(), static_cast<int64_t>(first.size())), device_to("to", to_first.data(), batch);
    const Constant<int32_t> slots("slots", lengths.data() + (lengths.size() - batch), batch);
    simt::Buffer<int32_t> out("out", static_cast<size_t>(8 * batch));
    pruning::Plan plan{};
    plan.source.lengths = device_lengths.device();
    plan.source.lengths_stride[0] = stride;
    plan.source.first = i % 2 ? device_first.device() : nullptr;
    plan.destination.first = i % 5 ? device_to.device() : nullptr;
    plan.destination.lengths_stride[0] = 1;
    plan.batch = {batch, nullptr, nullptr, nullptr};
    plan.sinks = i % 6;
    plan.recent = i % 11 * 8;
    plan.key = {i % 7 != 0, static_cast<int64_t>(random() % 40000), 96, 256, i % 9 ? 0.9 : -1.0};
    plan.value = {i % 2 != 0, static_cast<int64_t>(random() % 40000), 200, 256, 0.8};
    int32_t *at = out.device();
    plan.source_first = at, plan.destination_first = at + batch, plan.rows = at + 2 * batch, plan.key_dense = at + 3 * batch, plan.value_dense = at + 4 * batch;
    plan.state_slot = at + 5 * batch, plan.source_slot = at + 6 * batch, plan.destination_slot = at + 7 * batch;
    plan.batch.slot = i % 2 ? slots.device() : nullptr;
    plan.source.slot = i % 3 ? device_to.device() : nullptr;
    ASSERT_RUNS(pruning::cuda::plan(plan, most, nullptr));
    const std::vector<int32_t> got = out.download();
    for (int32_t b = 0; b < batch; ++b) {
      const int32_t tokens = std::min(most, std::max(0, lengths[b * stride]));
      const PruneRange range = prune_range(tokens, plan.sinks, plan.recent);
      ASSERT_EQ(got[2 * batch + b], range.count) << "case " << i << " sequence " << b;
      if (range.count > 0) {
        ASSERT_EQ(got[b], (i % 2 ? first[b * stride] : 0) + range.first);
      }
      ASSERT_EQ(got[batch + b], i % 5 ? to_first[b] : 0);
      const int32_t slot = i % 2 ? lengths[lengths.size() - batch + b] : b;
      ASSERT_EQ(got[5 * batch + b], slot);
      ASSERT_EQ(got[6 * batch + b], i % 3 ? to_first[b] : slot);
      ASSERT_EQ(got[7 * batch + b], slot);
      ASSERT_EQ(got[3 * batch + b], !pruning::prunes(plan.key, range.count));
      ASSERT_EQ(got[4 * batch + b], !pruning::prunes(plan.value, range.count));
    }
  }
}

TEST(PruneKernels, RankAnOrder) {
  std::mt19937 random(2);
  for (const int32_t channels : {8, 40, 256}) {
    std::vector<int32_t> order(3 * channels);
    for (int32_t h = 0; h < 3; ++h) {
      std::iota(&order[h * channels], &order[h * channels] + channels, 0);
      std::shuffle(&order[h * channels], &order[h * channels] + channels, random);
    }
    begin(2);
    const Constant<int32_t> device_order("order", order.data(), static_cast<int64_t>(order.size()));
    simt::Buffer<float> score("score", order.size());
    ASSERT_RUNS(pruning::cuda::rank(3, channels, device_order.device(), score.device(), nullptr));
    const std::vector<float> got = score.download();
    for (int32_t i = 0; i < 3 * channels; ++i) ASSERT_EQ(got[i / channels * channels + order[i]], static_cast<float>(channels - i % channels));
  }
}

TEST(PruneKernels, KeepAllOfTheSequencesThatStayDense) {
  constexpr int32_t kHeads = 2, kChannels = 24, kSlots = 4, kBatch = 3;
  const int32_t slots[kBatch] = {3, 0, 2}, dense[kBatch] = {1, 0, 1};
  for (const bool all : {false, true}) {
    begin(3);
    const DeviceBatch batch({kBatch, nullptr, nullptr, slots});
    const Constant<int32_t> flags("dense", dense, kBatch);
    simt::Buffer<int32_t> kept("kept", std::vector<int32_t>(kSlots * kHeads, -5)), index("index", std::vector<int32_t>(kSlots * kHeads * kChannels, -5));
    simt::Buffer<int64_t> weight_offset("weight_offset", std::vector<int64_t>(kSlots * kHeads, 777));
    simt::Buffer<uint8_t> mask("mask", std::vector<uint8_t>(kBatch * kHeads * kChannels, 9));
    think_basis basis = THINK_BASIS_INIT;
    basis.kept = kept.device(), basis.index = index.device(), basis.weight_offset = weight_offset.device();
    ASSERT_RUNS(pruning::cuda::keep_all(kHeads, kChannels, basis, batch.batch, all ? nullptr : flags.device(), mask.device(), nullptr));
    const std::vector<int32_t> got_kept = kept.download(), got_index = index.download();
    const std::vector<uint8_t> got_mask = mask.download();
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      const int32_t *at = std::find(slots, slots + kBatch, slot);
      const bool whole = at != slots + kBatch && (all || dense[at - slots]);
      for (int32_t h = 0; h < kHeads; ++h) {
        ASSERT_EQ(got_kept[slot * kHeads + h], whole ? kChannels : -5);
        ASSERT_EQ(weight_offset.download()[slot * kHeads + h], whole ? -1 : 777);
        for (int32_t c = 0; c < kChannels; ++c) ASSERT_EQ(got_index[(slot * kHeads + h) * kChannels + c], whole ? c : -5);
      }
    }
    for (int32_t i = 0; i < kBatch * kHeads * kChannels; ++i) ASSERT_EQ(got_mask[i], all || dense[i / (kHeads * kChannels)] ? 1 : 9);
    // Neither a basis nor a mask is fine too.
    const think_basis none = THINK_BASIS_INIT;
    ASSERT_RUNS(pruning::cuda::keep_all(kHeads, kChannels, none, batch.batch, nullptr, nullptr, nullptr));
  }
}

}  // namespace
}  // namespace think
