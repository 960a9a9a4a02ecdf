// The attend stage's CUDA kernels against the double-precision reference: the cases of the CPU's test, in 16-bit caches.
#include "attend_case.h"

#include "device.h"
#include "kernels/attend/cuda.h"

namespace think::attend {
namespace {

using namespace test;

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
    segment.pages = pages.device();
    segment.first = first.device();
    segment.lengths = lengths.device();
    segment.slot = slot.device();
  }

  simt::Buffer<int32_t> lengths;
  DeviceBasis key_basis, value_basis;
  Constant<int64_t> key_offset, value_offset;
  Constant<int32_t> pages, first, slot;
};

// A case on a fresh device, with a workspace of exactly the size asked for: only the counters are zero, the rest was never written.
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
    shape.cache_dtype = problem.owned[0]->segment.value_dtype;
    shape.batch_invariant = invariant;
    if (plan_queries) shape.max_queries = plan_queries;
    EXPECT_EQ(0, cuda::resident(shape, &shape.attend_blocks));
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
    workspace_ = std::make_unique<simt::Buffer<char>>("workspace", static_cast<size_t>(cuda::workspace(shape, extent_)));
    counter_bytes_ = cuda::workspace(shape, {0, 0, 0, 0}) - 64;  // less the end of the line
    workspace_->upload(std::vector<char>(counter_bytes_));
  }

  Result run() {
    output_->fill_bytes(kUntouched);
    lse_->upload(std::vector<float>(problem_.lse_count, -12345.0f));
    EXPECT_EQ(0, cuda::attend(arguments_, extent_, workspace_->device(), nullptr)) << simt::machine().fault().text();
    const std::vector<char> after = workspace_->download();
    EXPECT_TRUE(std::all_of(after.begin(), after.begin() + counter_bytes_, [](char byte) { return byte == 0; })) << "counters are not left at zero";
    return {output_->download(), lse_->download()};
  }

  DeviceSegment &segment(int32_t i) { return *segments_[i]; }
  const Arguments &arguments() const { return arguments_; }
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
  const think_dtype cache = problem.owned[0]->segment.value_dtype;
  const Result exact = exact_result(problem);
  const Result plain = run_with(problem, [&](const Arguments &a) { reference::attend_rounded(a, cache); });
  const Error allowed = distance(problem, plain, exact), error = distance(problem, result, exact);
  ASSERT_TRUE(std::isfinite(allowed.output)) << "the case itself is broken";
  EXPECT_LE(error.output, 2 * allowed.output + 1e-5) << what;
  EXPECT_LE(error.lse, 2 * allowed.lse + 1e-5) << what;
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

class AttendOnDevice : public testing::TestWithParam<Kind> {
 protected:
  static SegmentSpec segment(std::vector<int32_t> lengths) { return segment_of(GetParam(), std::move(lengths)); }
};

TEST_P(AttendOnDevice, EveryKeptWidth) {
  for (int32_t kept : kKept) {
    Case c;
    c.key_channels = c.value_channels = 128;
    c.group = 4;
    c.kv_heads = 2;
    SegmentSpec s = segment({161});
    s.key_kept = {kept, std::min(128, kept + 5)};
    s.value_kept = {(kept + 7) / 8 * 8, 128 - kept / 8 * 8 ? 128 - kept / 8 * 8 : 8};
    c.segments = {s};
    c.seed = kept;
    check_on_device(c);
  }
}

TEST_P(AttendOnDevice, EveryGroupAndHeadSize) {
  int32_t which = 0;
  for (int32_t group : kGroups) {
    for (int32_t channels : kChannels) {
      if (++which % 2 && cases(8) < 8) continue;
      Case c;
      c.key_channels = channels;
      c.value_channels = kChannels[(which * 3) % std::size(kChannels)];
      c.group = group;
      c.kv_heads = 3;
      c.seed = which;
      c.query_dtype = which % 3 == 0 ? THINK_F32 : which % 3 == 1 ? THINK_F16 : THINK_BF16;
      c.output_dtype = which % 4 == 0 ? THINK_F16 : which % 4 == 1 ? THINK_BF16 : THINK_F32;
      SegmentSpec s = segment({kLengths[which % std::size(kLengths)]});
      s.aligned = which % 2;
      if (which % 4) s.key_kept = widths(channels, which);
      if (which % 3 == 0) s.value_kept = value_widths(c.value_channels, which);
      c.segments = {s};
      check_on_device(c);
      if (HasFailure()) return;
    }
  }
}

TEST_P(AttendOnDevice, CacheOfAChat) {
  Case c = cache_of_a_chat(GetParam());
  check_on_device(c, 4);
  std::swap(c.segments.front(), c.segments.back());
  c.output_dtype = c.query_dtype = THINK_F16;
  check_on_device(c);
}

// Units cut among many blocks, whole units, and several of both in one block.
TEST_P(AttendOnDevice, CutsAnywhere) {
  for (const int32_t processors : {1, 3, 40}) {
    Case c;
    c.kv_heads = 2;
    c.group = 4;
    c.queries = {1, 1, 1};
    c.key_channels = c.value_channels = 128;
    SegmentSpec compact = segment({4093, 7, 513}), more = segment({1031, 0, 64}), recent = segment({77});
    compact.key_kept = {77, 33};
    compact.value_kept = {128, 96};
    more.key_kept = {64, 31};
    recent.key_layout = THINK_ROWS;
    c.segments = {compact, more, recent};
    check_on_device(c, processors == 3 ? 3 : 1, processors);
  }
}

TEST_P(AttendOnDevice, LengthsPerHead) { check_on_device(lengths_per_head(GetParam()), 3); }

TEST_P(AttendOnDevice, ManyQueries) {
  for (const bool packed : {false, true}) {
    for (const int32_t longest : {3, 9, 40}) check_on_device(many_queries(GetParam(), longest, packed, {200, 64, 301}), longest == 3 ? 3 : 1);
  }
}

TEST_P(AttendOnDevice, QueriesThatSeeNothing) {
  Case c = queries_that_see_nothing(GetParam());
  for (const bool sink : {false, true}) {
    c.sink = sink;
    check_on_device(c);
  }
  const Problem problem(c);
  OnDevice device(problem, 1);
  const Result result = device.run();
  EXPECT_EQ(result.lse[0], -std::numeric_limits<float>::infinity());
  for (int32_t j = 0; j < c.value_channels; ++j) EXPECT_EQ(load_element(result.output.data(), THINK_F32, j), 0.0f);
}

TEST_P(AttendOnDevice, SoftcapAndSink) {
  for (const float softcap : {0.0f, 1.5f, 30.0f}) check_on_device(softcap_and_sink(GetParam(), softcap));
}

// With batch_invariant a sequence has the same bits alone and among others, on small and large devices.
TEST_P(AttendOnDevice, BatchInvariance) {
  Case c;
  c.kv_heads = 2;
  c.group = 2;
  c.queries = {1, 1, 1};
  SegmentSpec compact = segment({3001, 65, 1024}), recent = segment({40, 33, 1});
  compact.key_kept = {40, 52};
  compact.value_kept = {32, 64};
  recent.key_layout = THINK_ROWS;
  c.segments = {compact, recent};
  const Problem problem(c);
  OnDevice device(problem, 1, true);
  const Result together = device.run();
  expect_close(problem, together, "together");
  {
    OnDevice larger(problem, 2, true, 30);
    expect_same_bits(together, larger.run(), "on a larger device");
  }
  // Without the other sequences: their lengths are 0.
  OnDevice alone(problem, 3, true, 7);
  for (int32_t i = 0; i < 2; ++i) {
    simt::Buffer<int32_t> &lengths = alone.segment(i).lengths;
    lengths.freeze(false);
    lengths.upload({problem.owned[i]->lengths[0], 0, 0});
  }
  const Result single = alone.run();
  ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
  const int64_t row = problem.arguments.output.stride[0];
  EXPECT_TRUE(std::equal(together.output.begin(), together.output.begin() + row * 4, single.output.begin()));
  EXPECT_TRUE(std::equal(together.lse.begin(), together.lse.begin() + 4, single.lse.begin()));
  EXPECT_NE(together.lse[4], single.lse[4]);
}

// Nor does it matter how many queries the host must expect of the others: bf16 queries are rounded in another way where columns are left for the residue.
TEST_P(AttendOnDevice, RoundingFollowsFromThePlan) {
  Case c;
  c.group = 4;
  SegmentSpec compact = segment({700});
  compact.key_kept = {40, 52};
  c.segments = {compact};
  const Problem problem(c);
  const auto run = [&](int32_t call_queries) {
    OnDevice device(problem, 1, true, 4, 2, call_queries);
    return device.run();
  };
  const Result alone = run(1);
  expect_close(problem, alone, "alone");
  expect_same_bits(alone, run(2), "among others");
}

// A captured launch is replayed with other lengths: the same arguments, other contents.
TEST_P(AttendOnDevice, ReplaysWithOtherLengths) {
  Case c;
  c.queries = {1, 1};
  c.batch_slots = true;
  SegmentSpec compact = segment({1000, 640}), recent = segment({63, 40});
  compact.key_kept = {40, 52};
  compact.page_tokens = 64;
  recent.causal = true;
  c.segments = {compact, recent};
  Problem problem(c);
  OnDevice device(problem, 5);
  const std::vector<std::vector<int32_t>> lengths = {{1000, 640, 63, 40}, {1, 0, 63, 0}, {0, 640, 1, 33}, {999, 32, 7, 40}};
  for (const std::vector<int32_t> &now : lengths) {
    for (int32_t i = 0; i < 2; ++i) {
      const std::vector<int32_t> part(now.begin() + i * 2, now.begin() + i * 2 + 2);
      std::copy(part.begin(), part.end(), problem.owned[i]->lengths.begin());
      device.segment(i).lengths.freeze(false);
      device.segment(i).lengths.upload(part);
    }
    expect_close(problem, device.run(), "replay");
    ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
  }
}

// Bytes against the model: stored rows with padding, bases once per sequence and KV head, q_eff for each block that has a part of a unit, partial results
// written and read, tables, queries and outputs.
TEST_P(AttendOnDevice, MovesWhatTheModelSays) {
  for (const bool values : {false, true}) {
    uint64_t conflicts = 0;
    for (const int32_t tokens : {512, 4096, 8192}) {
      Case c;
      c.kv_heads = 2;
      c.group = 4;
      c.key_channels = c.value_channels = 128;
      c.query_dtype = c.output_dtype = GetParam().key;
      c.sink = true;
      SegmentSpec s = segment({tokens});
      s.aligned = true;
      s.key_kept = GetParam().layout == THINK_TILES ? std::vector<int32_t>{77, 52} : std::vector<int32_t>{80, 56};
      if (values) s.value_kept = {64, 88};
      c.segments = {s};
      const Problem problem(c);
      OnDevice device(problem, 7);
      expect_close(problem, device.run(), "traffic");
      ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
      double cache = 0, basis = 0, folded = 0, partial = 0, small = 0, partial_out = 0;
      const think_segment &host = problem.owned[0]->segment;
      const int64_t line = [&] {
        int64_t sum = 0;
        for (int32_t h = 0; h < c.kv_heads; ++h) {
          const SideView key = side_view(host, Side::keys, problem.arguments.shape, problem.arguments.batch, 0, h);
          const SideView value = side_view(host, Side::values, problem.arguments.shape, problem.arguments.batch, 0, h);
          cache += 2.0 * tokens * (key.channels + value.channels);
          basis += 2.0 * (128 - key.channels) * ((key.channels + 7) / 8 * 8) + 4 * 128 + 4 * (128 - key.channels);
          if (values) basis += 2.0 * (128 - value.channels) * value.channels + 4 * 128 + 4 * (128 - value.channels);
          sum += tokens / 32 * ((key.channels + 15) / 16 * 16 + (value.channels + 15) / 16 * 16);
        }
        return sum;
      }();
      const int64_t blocks = std::max<int64_t>(1, std::min<int64_t>(device.arguments().shape.attend_blocks, line / (8 * 256)));
      const int64_t parts = blocks + c.kv_heads - 1;  // a block with parts of two units has two
      folded = parts * (128 * 8 * 2 + 32.0);
      partial = partial_out = parts * 8 * 4 * (2 + 128.0);
      small = 2.0 * 8 * 128 * 2 + 8 * 8;  // query, output, sink and LSE
      const simt::Counters total = simt::machine().total();
      const double queries_folded = 2.0 * 8 * 128 * 2;  // written, and the queries that they came from
      // Lengths, widths, slots and places, looked up by every warp: the emulator counts all 32 lanes that load one number.
      const double tables = static_cast<double>(parts) * device.warps() * 12 * 32 * 8;
      const double model = cache + basis + folded + partial + partial_out + small + queries_folded * 2 + tables;
      const double moved = static_cast<double>(total.global_read_bytes + total.global_write_bytes);
      report_traffic("attend, " + std::string(GetParam().layout == THINK_TILES ? "tiles, " : "rows, ") + (GetParam().key == THINK_F16 ? "f16" : "bf16") +
                         (values ? ", values pruned, " : ", ") + std::to_string(tokens) + " tokens",
                     total, model - partial_out, partial_out);
      if (std::getenv("THINK_TEST_REPORT")) std::printf("moved %.4f of the model, %lld blocks\n", moved / model, static_cast<long long>(blocks));
      EXPECT_LE(moved, model * (tokens >= 4096 ? 1.02 : 1.10));
      EXPECT_GE(moved, cache) << "the model is wrong";
      // What there is lies in front of and behind the loop over the tiles: it does not grow with them.
      if (tokens == 512) conflicts = total.bank_conflicts;
      EXPECT_EQ(conflicts, total.bank_conflicts) << "bank conflicts in the main loop";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, AttendOnDevice,
                         testing::Values(Kind{THINK_ROWS, THINK_F16, THINK_F16}, Kind{THINK_TILES, THINK_F16, THINK_F16},
                                         Kind{THINK_ROWS, THINK_BF16, THINK_BF16}, Kind{THINK_TILES, THINK_BF16, THINK_BF16}),
                         [](const auto &info) {
                           return std::string(info.param.layout == THINK_TILES ? "Tiles" : "Rows") + (info.param.key == THINK_F16 ? "F16" : "BF16");
                         });

}  // namespace
}  // namespace think::attend
