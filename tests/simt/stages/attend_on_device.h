// Cases of the attend stage on the emulated device: memory, run, check, and the model of the bytes that a call moves.
#pragma once

#include "attend_case.h"
#include "device.h"
#include "kernels/attend/cuda.h"

namespace think::attend {
namespace {

using namespace test;

// The type of what is stored as numbers, f16 where nothing is.
inline think_dtype numbers_of(const Problem &problem) {
  for (const think_segment &segment : problem.segments) {
    for (const think_dtype dtype : {segment.key_dtype, segment.value_dtype}) {
      if (!is_quantized(dtype)) return dtype;
    }
  }
  return THINK_F16;
}

struct DeviceSegment {
  think_segment segment;
  simt::Buffer<char> key, value;

  DeviceSegment(const OwnedSegment &host, int32_t kv_heads)
      : segment(host.segment),
        key("keys", host.key),
        value("values", host.value),
        lengths("lengths", host.lengths),
        key_basis(host.segment.key_basis, kv_heads),
        value_basis(host.segment.value_basis, kv_heads),
        key_scale("key_scale", host.segment.key_scale, static_cast<int64_t>(host.key_scale.size())),
        value_scale("value_scale", host.segment.value_scale, static_cast<int64_t>(host.value_scale.size())),
        key_offset("key_head_offset", host.segment.key_head_offset, static_cast<int64_t>(host.key_head_offset.size())),
        value_offset("value_head_offset", host.segment.value_head_offset, static_cast<int64_t>(host.value_head_offset.size())),
        pages("pages", host.segment.pages, static_cast<int64_t>(host.pages.size())),
        first("first", host.segment.first, static_cast<int64_t>(host.first.size())),
        slot("slot", host.segment.slot, static_cast<int64_t>(host.slot.size())) {
    key.freeze(), value.freeze(), lengths.freeze();
    segment.key = key.device() + (static_cast<const char *>(host.segment.key) - host.key.data());
    segment.value = value.device() + (static_cast<const char *>(host.segment.value) - host.value.data());
    segment.key_basis = key_basis.get();
    segment.value_basis = value_basis.get();
    segment.key_head_offset = const_cast<int64_t *>(key_offset.device());
    segment.value_head_offset = const_cast<int64_t *>(value_offset.device());
    segment.key_scale = const_cast<float *>(key_scale.device());
    segment.value_scale = const_cast<float *>(value_scale.device());
    segment.pages = pages.device();
    segment.first = first.device();
    segment.lengths = lengths.device();
    segment.slot = slot.device();
  }

  simt::Buffer<int32_t> lengths;
  DeviceBasis key_basis, value_basis;
  Constant<float> key_scale, value_scale;
  Constant<int64_t> key_offset, value_offset;
  Constant<int32_t> pages, first, slot;
};

// A case on a fresh device, with a workspace of exactly the size asked for that was never written.
class OnDevice {
 public:
  // plan_queries, call_queries: what the plan allows and what the host knows of the call, where that is more than there are.
  OnDevice(const Problem &problem, uint64_t seed, bool invariant = false, int32_t processors = 4, int32_t plan_queries = 0, int32_t call_queries = 0)
      : problem_(problem) {
    begin(seed);
    simt::machine().options.multiprocessors = processors;
    EXPECT_EQ(0, cuda::load());
    arguments_ = problem.arguments;
    Shape &shape = arguments_.shape;
    shape.cache_dtype = numbers_of(problem);
    shape.batch_invariant = invariant;
    if (plan_queries) shape.max_queries = plan_queries;
    EXPECT_EQ(0, cuda::resident(shape));
    query_ = std::make_unique<simt::Buffer<char>>("query", problem.query);
    query_->freeze();
    arguments_.query.data = query_->device();
    batch_ = std::make_unique<DeviceBatch>(problem.arguments.batch);
    arguments_.batch = batch_->batch;
    for (const auto &one : problem.owned) {
      segments_.push_back(std::make_unique<DeviceSegment>(*one, shape.kv_heads));
      list_.push_back(segments_.back()->segment);
    }
    arguments_.segments = list_.data();
    sinks_ = std::make_unique<Constant<float>>("sink_logit", problem.arguments.sink_logit, shape.query_heads);
    arguments_.sink_logit = sinks_->device();
    output_ = std::make_unique<simt::Buffer<char>>("output", static_cast<size_t>(problem.output_elements * dtype_bytes(arguments_.output.dtype)));
    lse_ = std::make_unique<simt::Buffer<float>>("lse", static_cast<size_t>(problem.lse_count));
    arguments_.output.data = output_->device();
    arguments_.lse = problem.spec.lse ? lse_->device() : nullptr;
    extent_ = {arguments_.batch.count, call_queries ? call_queries : shape.max_queries, arguments_.segment_count, problem.most_tokens};
    if (arguments_.batch.row_start) extent_.rows = arguments_.query.extent[2];
    workspace_ = std::make_unique<simt::Buffer<char>>("workspace", static_cast<size_t>(cuda::workspace(shape, extent_)));
    const int64_t units = shape.kv_heads * (extent_.batch * ((extent_.queries * shape.group + 7) / 8));
    counter_bytes_ = 4 * (!invariant ? 3 * shape.attend_blocks : extent_.rows > 0 ? 0 : units);
  }

  Result run() {
    output_->fill_bytes(kUntouched);
    lse_->upload(std::vector<float>(problem_.lse_count, -12345.0f));
    EXPECT_EQ(0, cuda::attend(arguments_, extent_, nullptr, workspace_->device(), nullptr)) << simt::machine().fault().text();
    const std::vector<char> after = workspace_->download();
    EXPECT_TRUE(std::all_of(after.begin(), after.begin() + counter_bytes_, [](char byte) { return byte == 0; })) << "counters are not left at zero";
    return {output_->download(), lse_->download()};
  }

  DeviceSegment &segment(int32_t i) { return *segments_[i]; }
  void replace_row_start(const std::vector<int32_t> &row_start) { batch_->replace_row_start(row_start); }
  const Arguments &arguments() const { return arguments_; }
  const Extent &extent() const { return extent_; }
  size_t workspace_bytes() const { return workspace_->bytes(); }
  int32_t warps() const { return simt::machine().launches().back().threads / 32; }

 private:
  const Problem &problem_;
  Arguments arguments_{};
  Extent extent_{};
  int64_t counter_bytes_ = 0;
  std::unique_ptr<simt::Buffer<char>> query_, output_, workspace_;
  std::unique_ptr<simt::Buffer<float>> lse_;
  std::unique_ptr<DeviceBatch> batch_;
  std::unique_ptr<Constant<float>> sinks_;
  std::vector<std::unique_ptr<DeviceSegment>> segments_;
  std::vector<think_segment> list_;
};

void expect_close(const Problem &problem, const Result &result, const std::string &what) {
  const think_dtype cache = numbers_of(problem);
  const Result exact = exact_result(problem);
  const Result plain = run_with(problem, [&](const Arguments &a) { reference::attend_rounded(a, cache); });
  const Error allowed = distance(problem, plain, exact), error = distance(problem, result, exact);
  ASSERT_TRUE(std::isfinite(allowed.output)) << "the case itself is broken";
  EXPECT_LE(error.output, 2 * allowed.output + 1e-5) << what;
  EXPECT_LE(error.lse, 2 * allowed.lse + 1e-5) << what;
}

// A batch_invariant plan: the bits of sequence 0 are those on a larger device, and without the other sequences, whose lengths are then 0. f32 outputs.
struct Invariant {
  Result together, alone;
};
inline Invariant run_together_and_alone(const Problem &problem) {
  Invariant result;
  result.together = OnDevice(problem, 1, true).run();
  expect_close(problem, result.together, "together");
  expect_same_bits(result.together, OnDevice(problem, 2, true, 30).run(), "on a larger device");
  OnDevice alone(problem, 3, true, 7);
  for (size_t i = 0; i < problem.owned.size(); ++i) {
    std::vector<int32_t> first = problem.owned[i]->lengths;
    std::fill(first.begin() + 1, first.end(), 0);
    simt::Buffer<int32_t> &lengths = alone.segment(static_cast<int32_t>(i)).lengths;
    lengths.freeze(false);
    lengths.upload(first);
  }
  result.alone = alone.run();
  EXPECT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
  const int64_t row = problem.arguments.output.stride[0];
  EXPECT_TRUE(std::equal(result.together.output.begin(), result.together.output.begin() + row * 4, result.alone.output.begin()));
  const auto heads = problem.arguments.shape.query_heads;
  EXPECT_TRUE(std::equal(result.together.lse.begin(), result.together.lse.begin() + heads, result.alone.lse.begin()));
  return result;
}

void check_on_device(const Case &c, int32_t seeds = 1, int32_t processors = 4) {
  const Problem problem(c);
  const std::string what = "D " + std::to_string(c.key_channels) + "/" + std::to_string(c.value_channels) + " G " + std::to_string(c.group) + " seed " +
                           std::to_string(c.seed);
  Result first;
  for (int32_t seed = 0; seed < seeds; ++seed) {
    OnDevice device(problem, static_cast<uint64_t>(seed ? seed : c.seed), false, processors);
    const Result result = device.run();
    if (simt::machine().fault() || testing::Test::HasFailure()) {
      ADD_FAILURE() << what;
      return;
    }
    if (seed == 0) first = result, expect_close(problem, result, what);
    expect_same_bits(first, result, what.c_str());
  }
}

// ---- bytes

// All counters, but of each access the bytes that its lanes ask for, or the sectors of 32 bytes that they touch where many lanes ask for the same ones.
simt::Counters moved_counters() {
  simt::Counters counters = simt::machine().total();
  counters.global_read_bytes = counters.global_write_bytes = 0;
  for (const simt::LaunchRecord &launch : simt::machine().launches()) {
    for (const simt::SiteCounters &site : launch.sites) {
      const bool writes = site.access == simt::Access::global_write;
      if (!writes && site.access != simt::Access::global_read && site.access != simt::Access::copy_read) continue;
      (writes ? counters.global_write_bytes : counters.global_read_bytes) += std::min(site.bytes, 32 * site.transactions);
    }
  }
  return counters;
}

// Of a part: lengths, widths, slots, places; and of each of its warps: pages, constants.
constexpr int64_t kLookups = 8, kLookupsOfWarp = 2;

struct Model {
  double cache = 0, reads = 0, writes = 0;
};

// Stored rows with padding, bases once per sequence and KV head, queries, q_eff for each warp that has a part of a unit, partial results written and read,
// and what says where all of that is. One segment, one query of each sequence, in at most one column group.
Model model_of(const Problem &problem, const OnDevice &device) {
  const Arguments &a = problem.arguments;
  const Shape &shape = a.shape;
  const think_segment &host = problem.owned[0]->segment;
  const int64_t units = int64_t{a.batch.count} * shape.kv_heads, columns = shape.group, key = shape.key_channels, value = shape.value_channels;
  const bool sparse = columns * 2 <= 8, residue = sparse && host.key_dtype == THINK_BF16;
  const auto steps = [](int64_t channels) { return (channels + 15) / 16; };
  const auto weight_of = [](think_dtype dtype) { return is_quantized(dtype) ? dtype_bits(dtype) + 1 : 16; };
  Model model;
  struct Head {
    int64_t key, value, weight;
  };
  std::vector<Head> heads;
  int64_t line = 0, all_tiles = 0;
  for (int64_t unit = 0; unit < units; ++unit) {
    const int32_t sequence = static_cast<int32_t>(unit % a.batch.count), head = static_cast<int32_t>(unit / a.batch.count);
    const SideView keys = side_view(host, Side::keys, shape, a.batch, sequence, head), values = side_view(host, Side::values, shape, a.batch, sequence, head);
    const int64_t tokens = run_length(host, sequence, head), tiles = (tokens + 31) / 32;
    const int64_t weight = 64 + tiles * (steps(keys.channels) * weight_of(keys.dtype) + steps(values.channels) * weight_of(values.dtype));
    const int64_t width = (keys.channels + 7) / 8 * 8, dropped = key - keys.channels, values_dropped = value - values.channels;
    const int64_t head_of_slot = slot_of(host, a.batch, sequence) * shape.kv_heads + head;
    const auto predicts = [&](const think_basis *basis) { return basis && basis->weight_offset[head_of_slot] >= 0; };
    for (const SideView &side : {keys, values}) {
      model.cache += static_cast<double>(side.layout == THINK_TILES ? tiles * side.tile_bytes : tokens * side.channels * dtype_bytes(side.dtype));
    }
    heads.push_back({keys.channels, values.channels, weight});
    line += weight, all_tiles += tiles + 1;
    // prepare: rows of queries and the index beside each, W, and the offsets for every column.
    const int64_t wanted = predicts(host.key_basis) ? key : keys.channels;
    model.reads += static_cast<double>(columns * wanted * (dtype_bytes(shape.query_dtype) + (host.key_basis ? 4 : 0)));
    if (predicts(host.key_basis)) model.reads += static_cast<double>(2 * dropped * width + 8 * 4 * dropped);
    model.writes += static_cast<double>(steps(keys.channels) * (sparse && !residue ? 128 : 256) + 32);
    // reduce: index, W and offsets of values; outputs, LSE, and the sink.
    if (host.value_basis) model.reads += static_cast<double>(4 * value);
    if (predicts(host.value_basis)) model.reads += static_cast<double>(2 * values_dropped * values.channels + 4 * values_dropped);
    if (a.sink_logit) model.reads += static_cast<double>(columns * 4);
    model.writes += static_cast<double>(columns * (value * dtype_bytes(shape.output_dtype) + 4));
  }
  // The parts: what each block has of each unit, at most one part more than there are blocks and units.
  const int64_t least = sparse ? 6 : 8;  // tiles
  int64_t blocks = std::max<int64_t>(1, std::min<int64_t>(device.arguments().shape.attend_blocks, all_tiles / least));
  if (const int64_t shared = blocks % units; shared * 16 <= blocks) blocks -= shared;
  int64_t start = 0;
  for (const Head &head : heads) {
    const int64_t first = ((start + 1) * blocks - 1) / line, last = ((start + head.weight - 64) * blocks - 1) / line, parts = last - first + 1;
    const int64_t folded = device.warps() * (steps(head.key) * 32 * (residue ? 8 : columns) + 32);
    const int64_t tables = (kLookups + device.warps() * kLookupsOfWarp) * 32;
    const int64_t partial = (2 + head.value) * 16 * (columns > 4 ? 2 : 1);  // maximum, mass and sums of four columns, or of eight
    model.reads += static_cast<double>(parts * (folded + tables + partial));
    model.writes += static_cast<double>(parts * partial);
    start += head.weight;
  }
  // The line: of few units every block makes it from a length and two widths of each, twice where a thread has several; else prepare does, and each warp
  // searches it.
  const int64_t all_blocks = device.arguments().shape.attend_blocks, weighed = units * (4 + (host.key_basis ? 4 : 0) + (host.value_basis ? 4 : 0));
  if (units <= 256) {
    model.reads += static_cast<double>(all_blocks * weighed * (units > device.warps() * 32 ? 2 : 1));
  } else {
    model.reads += static_cast<double>(units * 64 + blocks * device.warps() * 32 * 8);
  }
  model.writes += static_cast<double>((units <= 256 ? 0 : units * 8) + 3 * 4 * all_blocks);
  return model;
}

}  // namespace
}  // namespace think::attend
