// The attend stage's CUDA kernels against the double-precision reference: the cases of the CPU's test, in 16-bit caches.
#include "attend_on_device.h"

namespace think::attend {
namespace {

using namespace test;

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

// Steps of 16 channels that are no multiple of those that are loaded together, in every kernel: what lies behind the queries is none.
TEST_P(AttendOnDevice, EveryNumberOfSteps) {
  int32_t which = 0;
  for (const int32_t value_channels : {64, 160, 256}) {
    for (const int32_t key_channels : {16, 48, 80, 112, 144, 160, 208, 240}) {
      Case c;
      c.kv_heads = 2;
      c.key_channels = key_channels;
      c.value_channels = value_channels;
      SegmentSpec s = segment({101});
      if (which++ % 2) s.key_kept = {key_channels, key_channels - 7};
      c.segments = {s};
      c.seed = which;
      check_on_device(c);
      if (HasFailure()) return;
    }
  }
}

// Units of many more parts than a group has, two of them meeting inside of a block; a value basis that ends before the unit does; and another cut afterwards.
Case long_units(const Kind &kind) {
  Case c;
  c.kv_heads = 1;
  c.group = 4;
  c.queries = {1, 1, 1};
  c.key_channels = c.value_channels = 64;
  SegmentSpec compact = segment_of(kind, {8000, 9001, 60}), more = segment_of(kind, {4100, 0, 40});
  compact.value_kept = {40};
  more.key_layout = THINK_ROWS;
  c.segments = {compact, more};
  return c;
}

TEST_P(AttendOnDevice, LongUnitsAreReducedInGroups) {
  const Problem problem(long_units(GetParam()));
  Result first;
  for (int32_t seed = 1; seed <= 4; ++seed) {
    OnDevice device(problem, static_cast<uint64_t>(seed), false, 64);
    const Result result = device.run();
    ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
    EXPECT_GT(device.arguments().shape.attend_blocks, 5 * 32);
    if (seed == 1) first = result, expect_close(problem, result, "long units");
    expect_same_bits(first, result, "another schedule");
  }
  // The same workspace, with lengths that fewer blocks share, and with the old ones again.
  OnDevice device(problem, 5, false, 64);
  device.run();
  const auto set_lengths = [&](int32_t segment, const std::vector<int32_t> &lengths) {
    device.segment(segment).lengths.freeze(false);
    device.segment(segment).lengths.upload(lengths);
  };
  set_lengths(0, {40, 3000, 0});
  set_lengths(1, {0, 0, 7});
  device.run();
  for (int32_t i = 0; i < 2; ++i) set_lengths(i, problem.owned[i]->lengths);
  expect_same_bits(first, device.run(), "after another cut");
}

// A part whose weight is nothing beside the others' still counts when it holds a NaN, however the unit is cut.
TEST_P(AttendOnDevice, NaNValuesAreNeverLost) {
  const Case c = long_units(GetParam());
  const Problem damaged(c);
  constexpr int32_t kSequence = 0, kRow = 100, kChannel = 3;
  const Arguments &a = damaged.arguments;
  const SideView values = side_view(damaged.owned[0]->segment, Side::values, a.shape, a.batch, kSequence, 0);
  const SideView keys = side_view(damaged.owned[0]->segment, Side::keys, a.shape, a.batch, kSequence, 0);
  store_element(row_address(values, kRow), values.dtype, kChannel, std::numeric_limits<float>::quiet_NaN());
  // All queries turn away from the rows around it by hundreds, which are all that some blocks have.
  for (int32_t row = 0; row < 2048; ++row) {
    for (int32_t j = 0; j < keys.channels; ++j) {
      char *at = keys.layout == THINK_TILES ? row_address(keys, row) + (j * 32 + row % 32) * 2 : row_address(keys, row) + j * 2;
      float sum = 0;
      for (int32_t head = 0; head < c.group; ++head) sum += load_element(element(a.query, kSequence, head, 0), a.query.dtype, j);
      store_element(at, keys.dtype, 0, sum > 0 ? -300.0f : 300.0f);
    }
  }
  for (const int32_t processors : {1, 64}) {
    OnDevice device(damaged, 3, false, processors);
    const Result result = device.run();
    ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
    for (int32_t head = 0; head < c.group; ++head) {
      const think_tensor &o = a.output;
      const int64_t at = kSequence * o.stride[0] + head * o.stride[1];
      int32_t lost = 0;
      for (int32_t j = 0; j < c.value_channels; ++j) lost += std::isnan(load_element(result.output.data(), THINK_F32, at + j));
      EXPECT_GE(lost, 1) << processors << " multiprocessors, head " << head;
    }
  }
}

// A warp's maximum follows logits that rise from one segment to the next, and sums and masses with it; scales of any sign.
TEST_P(AttendOnDevice, LogitsThatRise) {
  for (const float factor : {1.0f, -1.0f, 0.0f}) {
    for (const int32_t group : {1, 4, 5, 8}) {
      const int32_t channels = group == 1 ? 256 : group == 4 ? 128 : group == 5 ? 64 : 128;
      SCOPED_TRACE(std::to_string(factor) + ", group " + std::to_string(group));
      Case c;
      c.group = group;
      c.key_channels = c.value_channels = channels;
      c.sink = group == 5;
      c.queries = {1, 1};
      for (const float magnitude : {0.3f, 3.0f, 10.0f, 30.0f}) {
        SegmentSpec s = segment({301, 140});
        s.magnitude = magnitude;
        c.segments.push_back(s);
      }
      Problem problem(c);
      problem.arguments.shape.scale *= factor;
      for (const int32_t processors : {1, 16}) {
        OnDevice device(problem, 6, false, processors);
        const Result result = device.run();
        ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
        expect_close(problem, result, "rising");
      }
    }
  }
}

// One token has nearly all of the mass, and comes late: its probability must not be rounded where it meets the values.
TEST_P(AttendOnDevice, ALateTokenDominates) {
  for (const float lead : {0.31f, 0.57f, 0.72f}) {  // of each of 64 channels: eight times that in the logit
    Case c;
    c.kv_heads = c.group = 1;
    c.key_channels = c.value_channels = 64;
    c.segments = {segment({512})};
    const Problem problem(c);
    const SideView keys = side_view(problem.owned[0]->segment, Side::keys, problem.arguments.shape, problem.arguments.batch, 0, 0);
    char *query = const_cast<char *>(element(problem.arguments.query, 0, 0, 0));
    for (int32_t channel = 0; channel < 64; ++channel) {
      store_element(query, c.query_dtype, channel, 1.0f);
      for (int32_t token = 0; token < 512; ++token) {
        const int32_t place = keys.layout == THINK_TILES ? channel * kTileTokens + token % kTileTokens : channel;
        store_element(row_address(keys, token), keys.dtype, place, token == 0 ? 0.0f : token == 133 ? lead : -3.0f);
      }
    }
    OnDevice device(problem, 6, false, 1);
    expect_close(problem, device.run(), "late");
  }
}

// Groups of parts of both halves and of wide heads, of two runs with a basis.
TEST_P(AttendOnDevice, WideUnitsAreReducedInGroups) {
  for (const int32_t channels : {128, 256}) {
    for (const bool invariant : {false, true}) {
      SCOPED_TRACE(std::to_string(channels) + (invariant ? " invariant" : ""));
      Case c;
      c.kv_heads = 1;
      c.group = 7;
      c.queries = {1};
      c.key_channels = c.value_channels = channels;
      c.sink = true;
      SegmentSpec compact = segment({9000}), more = segment({2100});
      compact.key_kept = {16};
      compact.value_kept = {channels / 2 - 8};
      more.key_layout = THINK_ROWS;
      more.magnitude = 12;
      c.segments = {compact, more};
      const Problem problem(c);
      OnDevice device(problem, 5, invariant, 64);
      EXPECT_GT(device.arguments().shape.attend_blocks, (9000 + 2100) / 32 / 8);  // more than are reduced at once
      const Result result = device.run();
      ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
      expect_close(problem, result, "wide");
    }
  }
}

// As many parts as are reduced at once, and one more, which is a group of its own.
TEST_P(AttendOnDevice, PartsOfOneGroupAndOneMore) {
  for (const int32_t tiles : {6 * 32, 6 * 33}) {
    Case c;
    c.kv_heads = 1;
    c.group = 4;
    c.queries = {1};
    c.segments = {segment({(tiles - 1) * 32})};  // a unit counts as a tile
    const Problem problem(c);
    OnDevice device(problem, 3, false, 64);
    const Result result = device.run();
    ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
    expect_close(problem, result, std::to_string(tiles / 6) + " parts");
  }
}

// Half tiles behind the last row of a page, of which there is no next one.
TEST_P(AttendOnDevice, SegmentsThatEndInsideOfAPage) {
  for (const int32_t length : {8, 12, 40}) {
    Case c;
    c.key_channels = c.value_channels = 128;
    SegmentSpec s = segment({length});
    s.key_layout = THINK_ROWS;
    s.page_tokens = 64;
    s.first = {64 - 12};
    c.segments = {s};
    check_on_device(c);
  }
}

// The smallest devices give a block 99 KiB.
TEST(AttendShape, FitsSmallDevices) {
  for (const int32_t channels : {64, 128, 256}) {
    Case c;
    c.key_channels = c.value_channels = channels;
    c.segments = {segment_of({THINK_TILES, THINK_F16, THINK_F16}, {64})};
    const Problem problem(c);
    OnDevice device(problem, 1);
    device.run();
    ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
    EXPECT_LE(simt::machine().launches().back().shared_bytes, 99u << 10) << channels;
    EXPECT_EQ(3, device.arguments().shape.attend_each) << channels;  // of 228 KiB
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
  const auto [together, alone] = run_together_and_alone(Problem(c));
  EXPECT_NE(together.lse[4], alone.lse[4]);
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

// Sequences of very different numbers of queries on packed rows: a few prompts among many single tokens.
Case ragged_batch(const Kind &kind, int32_t sequences, int32_t longest) {
  Case c;
  c.group = 3;
  c.packed = true;
  c.batch_slots = true;
  c.queries.clear();
  for (int32_t b = 0; b < sequences; ++b) c.queries.push_back(b % 16 == 5 ? longest : b % 7 == 3 ? 0 : b % 5 == 1 ? 2 + b % 9 : 1);
  SegmentSpec prefix = segment_of(kind, {70, 0, 129, 33, 1}), recent = segment_of(kind, {longest, 9, 31});
  prefix.key_kept = {40, 52, 17};
  prefix.value_kept = {32, 64};
  recent.causal = true;
  c.segments = {prefix, recent};
  c.seed = 3;
  return c;
}

// Work and workspace follow the rows of all sequences together, and a captured launch is replayed with the same rows dealt out in another way.
TEST_P(AttendOnDevice, PackedRowsOfManySequences) {
  constexpr int32_t kSequences = 64, kLongest = 21;
  Problem problem(ragged_batch(GetParam(), kSequences, kLongest));
  OnDevice device(problem, 2);
  expect_close(problem, device.run(), "packed");
  ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();

  const Shape &shape = device.arguments().shape;
  const Extent &extent = device.extent();
  const int64_t rows = problem.row_start.back(), units = shape.kv_heads * (rows * shape.group / 8 + kSequences);
  EXPECT_GT(units, 256) << "every block makes the plan of so few, and nobody tries the one that prepare writes";
  const int64_t of_unit = 8 + extent.segments * (8 * 4 + 8 * shape.key_channels * 2);
  const int64_t partial = int64_t{shape.attend_blocks} * (3 * extent.segments * (4 + shape.value_channels) * 8 * 4 + 3 * 4);
  EXPECT_LE(static_cast<int64_t>(device.workspace_bytes()), units * of_unit + partial + 5 * 64);
  for (const bool invariant : {false, true}) {
    // Without the rows every sequence counts as if it were the longest. Twice the batch with twice the rows takes twice as much and a place of each KV head,
    // as both halves may have rounded down; each of the five arrays begins at a multiple of 64.
    Shape of_plan = shape;
    of_plan.batch_invariant = invariant;
    Extent as_longest = extent, twice = extent;
    as_longest.rows = 0;
    twice.batch *= 2, twice.rows *= 2;
    const int64_t fixed = invariant ? 0 : partial, bytes = cuda::workspace(of_plan, extent) - fixed;
    EXPECT_GE(cuda::workspace(of_plan, as_longest) - fixed, 2 * bytes);
    EXPECT_LE(cuda::workspace(of_plan, twice) - fixed, 2 * bytes + bytes / units * shape.kv_heads + 5 * 64);
    // Rows that are more than the longest sequence allows change nothing.
    twice.rows = extent.rows * 1000, as_longest.batch = twice.batch;
    EXPECT_EQ(cuda::workspace(of_plan, twice), cuda::workspace(of_plan, as_longest));
  }
  // Blocks of the first launch: one for each place and basis, and the plan.
  const simt::LaunchRecord &prepare = simt::machine().launches().front();
  EXPECT_LE(prepare.grid[0] * prepare.grid[1] * prepare.grid[2], 2 * units + shape.kv_heads);

  std::vector<std::vector<int32_t>> deals(3);
  std::vector<int32_t> reversed(problem.spec.queries.rbegin(), problem.spec.queries.rend());
  for (const int32_t queries : reversed) deals[0].push_back(queries);
  for (int32_t b = 0; b < kSequences; ++b) deals[1].push_back(b < rows / kLongest ? kLongest : 0);
  for (int32_t b = 0; b < kSequences; ++b) deals[2].push_back(b == kSequences - 1 ? 7 : 0);  // rows at the end belong to nobody
  for (const std::vector<int32_t> &queries : deals) {
    for (int32_t b = 0; b < kSequences; ++b) problem.row_start[b + 1] = problem.row_start[b] + queries[b];
    device.replace_row_start(problem.row_start);
    expect_close(problem, device.run(), "replay");
    ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
  }
}

// What row_start says cannot be checked, so it must not lead out of memory.
TEST_P(AttendOnDevice, WrongRowStartsStayInside) {
  Problem problem(ragged_batch(GetParam(), 24, 12));
  for (const bool invariant : {false, true}) {
    OnDevice device(problem, 4, invariant);
    std::vector<int32_t> starts(problem.row_start.size());
    for (size_t i = 0; i < starts.size(); ++i) starts[i] = i % 2 ? 1 << 30 : 1000000 - static_cast<int32_t>(i);
    device.replace_row_start(starts);
    device.run();
    for (size_t i = 0; i < starts.size(); ++i) starts[i] = i == 0 ? 5 : i == 1 ? 9 : -static_cast<int32_t>(i);
    device.replace_row_start(starts);
    device.run();
    std::fill(starts.begin(), starts.end(), 9);
    starts[0] = 0;  // more rows than a sequence can have
    device.replace_row_start(starts);
    device.run();
    ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
  }
}

// A sequence has the same bits alone and among others on packed rows too, whatever places its units have.
TEST_P(AttendOnDevice, BatchInvarianceOnPackedRows) {
  Case c;
  c.kv_heads = 2;
  c.group = 3;
  c.packed = true;
  c.queries = {1, 9, 0, 30, 2};
  SegmentSpec compact = segment({65, 1301, 77, 40, 300}), recent = segment({1, 40, 33, 30, 2});
  compact.key_kept = {40, 52};
  compact.value_kept = {32, 64};
  recent.causal = true;
  c.segments = {compact, recent};
  Problem problem(c);
  OnDevice device(problem, 1, true);
  const Result together = device.run();
  expect_close(problem, together, "together");
  OnDevice alone(problem, 2, true, 9);
  alone.replace_row_start({0, 1, 10, 10, 10, 10});
  for (int32_t i = 0; i < 2; ++i) {
    simt::Buffer<int32_t> &lengths = alone.segment(i).lengths;
    lengths.freeze(false);
    lengths.upload({0, problem.owned[i]->lengths[1], 0, 5, 0});
  }
  const Result single = alone.run();
  ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
  const think_tensor &o = problem.arguments.output;
  for (int32_t head = 0; head < 6; ++head) {
    for (int64_t token = 1; token < 10; ++token) {
      const int64_t at = head * o.stride[1] + token * o.stride[2], lse = head * o.extent[2] + token;
      EXPECT_EQ(0, std::memcmp(together.output.data() + at * 4, single.output.data() + at * 4, static_cast<size_t>(c.value_channels) * 4));
      EXPECT_EQ(together.lse[lse], single.lse[lse]);
    }
  }
}

// A NaN among the logits of a query gives NaN for that query, and stays away from those beside it in the matrices.
TEST_P(AttendOnDevice, NaNLogitsGiveNaN) {
  for (const float softcap : {0.0f, 30.0f}) {
    Case c;
    c.group = softcap ? 4 : 3;
    c.queries = {2, softcap ? 1 : 3};
    c.softcap = softcap;
    c.sink = true;
    SegmentSpec prefix = segment({301, 40}), recent = segment({9, 5});
    prefix.key_kept = {40, 52};
    prefix.value_kept = {32, 64};
    recent.causal = true;
    c.segments = {prefix, recent};
    const Problem clean(c), damaged(c);
    constexpr int32_t kSequence = 1, kHead = 4, kToken = 0;
    char *row = const_cast<char *>(element(damaged.arguments.query, kSequence, kHead, kToken));
    for (int32_t j = 0; j < c.key_channels; ++j) store_element(row, c.query_dtype, j, std::numeric_limits<float>::quiet_NaN());
    OnDevice device(damaged, 6);
    Result result = device.run();
    ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
    const think_tensor &o = clean.arguments.output;
    const int64_t at = kSequence * o.stride[0] + kHead * o.stride[1] + kToken * o.stride[2];
    float &lse = result.lse[lse_index(clean.arguments.query, clean.arguments.batch, kSequence, kHead, kToken)];
    EXPECT_TRUE(std::isnan(lse));
    const Result exact = exact_result(clean);
    for (int32_t j = 0; j < c.value_channels; ++j) {
      EXPECT_TRUE(std::isnan(load_element(result.output.data(), THINK_F32, at + j))) << j;
      store_element(result.output.data(), THINK_F32, at + j, load_element(exact.output.data(), THINK_F32, at + j));
    }
    lse = exact.lse[lse_index(clean.arguments.query, clean.arguments.batch, kSequence, kHead, kToken)];
    expect_close(clean, result, "the others");
  }
}

// ---- bytes

TEST_P(AttendOnDevice, MovesWhatTheModelSays) {
  struct Layer {
    const char *name;
    int32_t kv_heads, group, channels, batch, key_kept[2], value_kept[2];
  };
  for (const auto &shape : {Layer{"", 2, 4, 128, 1, {77, 52}, {128, 128}}, Layer{"values pruned, ", 2, 4, 128, 1, {77, 52}, {64, 88}},
                            Layer{"groups of 7 in heads of 64, ", 2, 7, 64, 2, {39, 32}, {64, 64}},
                            Layer{"heads of 256, ", 1, 2, 256, 1, {154, 154}, {256, 256}},
                            Layer{"one query head each, ", 4, 1, 128, 1, {64, 77}, {128, 88}}, Layer{"dense, ", 1, 8, 128, 2, {128, 128}, {128, 128}}}) {
    uint64_t conflicts = 0;
    for (const int32_t tokens : {512, 4096, 8192}) {
      if (tokens == 8192 && (shape.group != 4 || shape.value_kept[0] < 128)) continue;
      Case c;
      c.kv_heads = shape.kv_heads;
      c.group = shape.group;
      c.key_channels = c.value_channels = shape.channels;
      c.queries.assign(static_cast<size_t>(shape.batch), 1);
      c.query_dtype = c.output_dtype = GetParam().key;
      c.sink = true;
      const bool dense = shape.key_kept[0] == shape.channels;
      SegmentSpec s = segment({tokens});
      s.aligned = true;
      // Rows begin at multiples of 16 bytes.
      const auto width = [&](int32_t kept) { return GetParam().layout == THINK_TILES ? kept : (kept + 7) / 8 * 8; };
      if (!dense) s.key_kept = {width(shape.key_kept[0]), width(shape.key_kept[1])};
      if (shape.value_kept[0] < shape.channels) s.value_kept = {shape.value_kept[0], shape.value_kept[1]};
      c.segments = {s};
      const Problem problem(c);
      OnDevice device(problem, 7);
      expect_close(problem, device.run(), shape.name);
      ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
      const Model model = model_of(problem, device);
      const simt::Counters counters = moved_counters();
      const double moved = static_cast<double>(counters.global_read_bytes + counters.global_write_bytes), whole = model.cache + model.reads + model.writes;
      const std::string name = std::string(GetParam().layout == THINK_TILES ? "tiles, " : "rows, ") + (GetParam().key == THINK_F16 ? "f16, " : "bf16, ") +
                               shape.name + std::to_string(tokens) + " tokens";
      report_traffic("attend, " + name, counters, model.cache + model.reads, model.writes);
      if (std::getenv("THINK_TEST_REPORT")) std::printf("moved %.4f of the model, which is %.4f of the cache\n", moved / whole, whole / model.cache);
      EXPECT_LE(moved, whole * (tokens >= 4096 ? 1.02 : 1.10)) << name;
      EXPECT_GE(moved, whole * 0.95) << name << ": the model is wrong";
      // What there is lies in front of and behind the loop over the tiles: it does not grow with them.
      if (tokens == 512) conflicts = counters.bank_conflicts;
      EXPECT_EQ(conflicts, counters.bank_conflicts) << name << ": bank conflicts in the main loop";
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
