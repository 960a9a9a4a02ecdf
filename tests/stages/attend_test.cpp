// The attend stage against its double-precision reference: one body over instruction sets, element types and layouts. THINK_TEST_FULL=1 crosses all shapes.
#include "attend_case.h"
#include "kernels/attend/work.h"

namespace think::attend {
namespace {

// ---- the sweep --------------------------------------------------------------------------------------------------------------------------------------------

class Attend : public testing::TestWithParam<Kind> {
 protected:
  static SegmentSpec segment(std::vector<int32_t> lengths) { return segment_of(GetParam(), std::move(lengths)); }
};

TEST_P(Attend, OneSegmentOfEveryShape) {
  int which = static_cast<int>(GetParam().layout + GetParam().key % 7);
  for (int32_t channels : kChannels) {
    for (int32_t group : kGroups) {
      if (!full_sweep() && (which++ % 3)) continue;
      Case c;
      c.key_channels = channels;
      c.value_channels = kChannels[which % std::size(kChannels)];
      c.group = group;
      c.seed = which;
      const int rounds = full_sweep() ? static_cast<int>(std::size(kLengths)) : 2;
      for (int i = 0; i < rounds; ++i) {
        SegmentSpec s = segment({kLengths[(which * 2 + i) % std::size(kLengths)]});
        if ((which + i) % 4) s.key_kept = widths(channels, which + i);
        if ((which + i) % 3 == 0) s.value_kept = value_widths(c.value_channels, which + i);
        c.segments = {s};
        check(c);
      }
    }
  }
}

TEST_P(Attend, EveryKeptWidth) {
  for (int32_t kept : kKept) {
    Case c;
    c.key_channels = c.value_channels = 128;
    c.group = 4;
    c.kv_heads = 1;
    SegmentSpec s = segment({161});
    s.key_kept = {kept};
    s.value_kept = {(kept + 7) / 8 * 8};
    c.segments = {s};
    c.seed = kept;
    check(c);
  }
}

TEST_P(Attend, CacheOfAChat) {
  Case c = cache_of_a_chat(GetParam());
  check(c, true);
  std::swap(c.segments.front(), c.segments.back());
  c.output_dtype = THINK_F16;
  c.query_dtype = THINK_F16;
  check(c);
}

TEST_P(Attend, LongSequencesInSlices) {
  Case c;
  c.kv_heads = 2;
  c.group = 4;
  c.key_channels = c.value_channels = 128;
  SegmentSpec compact = segment({8192}), more = segment({1031}), recent = segment({77});
  compact.key_kept = {77, 33};
  compact.value_kept = {128, 96};
  more.key_kept = {64, 31};
  make_dense(recent);
  c.segments = {compact, more, recent};
  check(c, true);
}

TEST_P(Attend, LengthsPerHead) { check(lengths_per_head(GetParam()), true); }

TEST_P(Attend, ManyQueries) {
  for (const bool packed : {false, true}) {
    for (const int32_t longest : {3, 9, 40, 150}) {
      Case c = many_queries(GetParam(), longest, packed, {640, 64, 1100});
      c.kv_heads = longest == 150 ? 1 : 2;
      check(c, longest == 9 || longest == 150);
    }
  }
}

TEST_P(Attend, LongPrefill) {
  // So many column blocks that the tokens are not cut.
  Case c;
  c.key_channels = 256;
  c.value_channels = 24;
  c.group = 16;
  c.kv_heads = 1;
  c.queries = {36};
  SegmentSpec prefix = segment({520}), recent = segment({40});
  prefix.key_kept = {65};
  prefix.value_kept = {16};
  recent.causal = true;
  c.segments = {prefix, recent};
  check(c, true);
}

// A few tokens outweigh each of many others by e^10 to e^20 and all of them together by little, in a group that is not cut: small probabilities count.
TEST_P(Attend, ManySmallProbabilities) {
  if (GetParam().key != THINK_U4 && GetParam().key != THINK_U2 && GetParam().key != THINK_F8_E4M3) return;  // values of all kinds of codes
  Case c;
  c.key_channels = 256;
  c.value_channels = 32;
  c.group = 16;
  c.kv_heads = 1;
  c.queries = {32};
  SegmentSpec sinks = segment({4}), others = segment({1024});
  sinks.magnitude = 8;
  others.all_equal = true;
  c.segments = {sinks, others};
  check(c);
}

TEST_P(Attend, QueriesThatSeeNothing) {
  Case c = queries_that_see_nothing(GetParam());
  for (const bool sink : {false, true}) {
    c.sink = sink;
    check(c, true);
  }
  const Problem problem(c);
  for (const Isa &isa : host_isas()) {
    const Result result = run_kernel(problem, isa.id, 1, 1);
    EXPECT_EQ(result.lse[0], -std::numeric_limits<float>::infinity());
    for (int32_t j = 0; j < c.value_channels; ++j) EXPECT_EQ(load_element(result.output.data(), THINK_F32, j), 0.0f);
  }
}

TEST_P(Attend, SoftcapAndSink) {
  for (const float softcap : {0.0f, 1.5f, 30.0f}) {
    Case c = softcap_and_sink(GetParam(), softcap);
    check(c);
    c.output_dtype = THINK_F32;
    c.lse = false;
    check(c);
  }
}

TEST_P(Attend, LargeAndEqualKeys) {
  Case c;
  SegmentSpec s = segment({400});
  s.magnitude = 300;  // squares overflow f16, logits reach thousands
  c.segments = {s};
  check(c);
  s.magnitude = 1;
  s.all_equal = true;
  s.key_kept = {33, 64};
  c.segments = {s};
  check(c);
}

// 16 segments, some empty, all kinds of bases.
TEST_P(Attend, MostSegments) {
  Case c;
  c.group = 5;
  for (int i = 0; i < THINK_MAX_SEGMENTS; ++i) {
    SegmentSpec s = segment({i % 5 == 3 ? 0 : 31 * i, 7});
    if (i % 2) s.key_kept = widths(64, i);
    if (i % 3 == 0) s.value_kept = value_widths(64, i);
    if (i % 4 == 1) s.page_tokens = 32;
    s.causal = i == 9;
    c.segments.push_back(s);
  }
  c.queries = {1, 4};
  check(c, true);
}

std::string name(think_dtype dtype) {
  constexpr std::pair<think_dtype, const char *> names[] = {{THINK_F32, "F32"}, {THINK_F16, "F16"}, {THINK_BF16, "BF16"},
                                                            {THINK_U8, "U8"},   {THINK_U4, "U4"},   {THINK_U2, "U2"}};
  for (const auto &[known, text] : names) {
    if (known == dtype) return text;
  }
  return "F8";
}

INSTANTIATE_TEST_SUITE_P(, Attend,
                         testing::Values(Kind{THINK_TILES, THINK_F16, THINK_F16}, Kind{THINK_TILES, THINK_BF16, THINK_BF16},
                                         Kind{THINK_TILES, THINK_F32, THINK_F32}, Kind{THINK_TILES, THINK_BF16, THINK_F32},
                                         Kind{THINK_ROWS, THINK_F16, THINK_BF16}, Kind{THINK_ROWS, THINK_BF16, THINK_F16},
                                         Kind{THINK_ROWS, THINK_F32, THINK_F32}, Kind{THINK_TILES, THINK_U8, THINK_F16},
                                         Kind{THINK_TILES, THINK_U4, THINK_U8}, Kind{THINK_TILES, THINK_U8, THINK_U4},
                                         Kind{THINK_TILES, THINK_U4, THINK_U4}, Kind{THINK_ROWS, THINK_F16, THINK_U8},
                                         Kind{THINK_TILES, THINK_U2, THINK_U2}, Kind{THINK_TILES, THINK_F8_E4M3, THINK_F8_E4M3}),
                         [](const testing::TestParamInfo<Kind> &kind) {
                           return std::string(kind.param.layout == THINK_TILES ? "Tiles" : "Rows") + name(kind.param.key) + name(kind.param.value);
                         });

// ---- facts that need no sweep -------------------------------------------------------------------------------------------------------------------------

// The reference itself: a compact segment with a basis is dense attention over rows whose dropped channels are put back from the kept ones.
TEST(AttendReference, BasisMeansReconstructedRows) {
  Case c;
  c.kv_heads = 3;
  SegmentSpec s;
  s.key_dtype = s.value_dtype = THINK_F32;
  s.lengths = {50};
  s.key_kept = {20, 33, 64};
  s.value_kept = {24, 64, 8};
  c.segments = {s};
  const Problem compact(c);
  Case d = c;
  d.segments[0].key_kept.clear();
  d.segments[0].value_kept.clear();
  Problem dense(d);
  dense.query = compact.query;
  dense.arguments.query.data = dense.query.data();
  for (const Side side : {Side::keys, Side::values}) {
    const think_basis &basis = *(side == Side::keys ? compact.segments[0].key_basis : compact.segments[0].value_basis);
    for (int32_t h = 0; h < 3; ++h) {
      const SideView from = side_view(compact.segments[0], side, compact.arguments.shape, compact.arguments.batch, 0, h);
      const SideView to = side_view(dense.segments[0], side, dense.arguments.shape, dense.arguments.batch, 0, h);
      const int32_t *index = basis.index + h * 64, kept = basis.kept[h];
      for (int64_t t = 0; t < 50; ++t) {
        const float *row = reinterpret_cast<const float *>(row_address(from, t));
        float *out = reinterpret_cast<float *>(row_address(to, t));
        for (int32_t i = 0; i < kept; ++i) out[index[i]] = row[i];
        for (int32_t p = 0; p < 64 - kept; ++p) {
          double value = 0;
          if (basis.weight_offset[h] >= 0) {
            const uint16_t *weight = reinterpret_cast<const uint16_t *>(static_cast<char *>(basis.weight) + basis.weight_offset[h]) + p * ((kept + 7) / 8 * 8);
            value = basis.offset[h * 64 + kept + p];
            for (int32_t i = 0; i < kept; ++i) value += f16_to_f32(weight[i]) * static_cast<double>(row[i]);
          }
          out[index[kept + p]] = static_cast<float>(value);
        }
      }
    }
  }
  const auto reference_run = [](const Arguments &a) { reference::attend(a); };
  const Error error = distance(compact, run_with(compact, reference_run), run_with(dense, reference_run));
  EXPECT_LT(error.output, 1e-5);
  EXPECT_LT(error.lse, 1e-5);
}

TEST(AttendWorkspace, GrowsWithEveryField) {
  Shape shape{};
  shape.query_heads = 24, shape.kv_heads = 3, shape.group = 8;
  shape.key_channels = 64, shape.value_channels = 128;
  shape.max_batch = 8, shape.max_queries = 4096, shape.max_tokens = 1 << 20;
  Random random(3);
  for (int i = 0; i < 2000; ++i) {
    const Extent small{static_cast<int32_t>(random.below(8)), static_cast<int32_t>(random.below(random.below(4096) + 1)),
                       static_cast<int32_t>(1 + random.below(16)), random.below(random.below(1 << 20) + 1)};
    for (int field = 0; field < 4; ++field) {
      Extent large = small;
      if (field == 0) ++large.batch;
      if (field == 1) large.queries += static_cast<int32_t>(1 + random.below(100));
      if (field == 2) ++large.segments;
      if (field == 3) large.tokens += 1 + random.below(1000);
      EXPECT_LE(workspace(shape, small), workspace(shape, large));
    }
  }
}

// "No limit" for the queries of a plan: what a small call needs stays what it is.
TEST(AttendWorkspace, AnyNumberOfQueriesMayBeAllowed) {
  for (const int32_t group : {1, 64, 128}) {
    for (const int32_t channels : {8, 128, 256}) {
      Shape shape{};
      shape.query_heads = group, shape.kv_heads = 1, shape.group = group;
      shape.key_channels = shape.value_channels = channels;
      shape.max_batch = 8, shape.max_queries = INT32_MAX, shape.max_tokens = 1 << 20;
      const int64_t counters = counter_bytes(shape), one = workspace(shape, {1, 1, 1, 1024}), most = workspace(shape, {8, INT32_MAX, 1, 1 << 20});
      EXPECT_EQ(counters, 8 * kWholeBlocks * static_cast<int64_t>(sizeof(int32_t)));
      EXPECT_GT(one, counters);
      EXPECT_GE(most, workspace(shape, {8, 4096, 1, 1 << 20}));
      EXPECT_EQ(blocks_of(shape, INT32_MAX), (int64_t{INT32_MAX} * group + block_columns(shape) - 1) / block_columns(shape));
    }
  }
}

TEST(AttendMerge, EqualsOneCall) {
  for (const think_dtype dtype : {THINK_F32, THINK_F16, THINK_BF16}) {
    Case c;
    c.queries = {2, 1};
    c.output_dtype = dtype;
    SegmentSpec one, two, three;
    one.lengths = {100, 0}, two.lengths = {33, 0}, three.lengths = {1, 0};
    c.segments = {one, two, three};
    const Problem problem(c);
    const Result exact = exact_result(problem);
    std::vector<Result> parts;
    for (int i = 0; i < 3; ++i) {
      parts.push_back(run_with(problem, [&](Arguments a) {
        a.segments += i;
        a.segment_count = 1;
        reference::attend(a);
      }));
    }
    for (const Isa &isa : host_isas()) {
      for (const bool in_place : {false, true}) {
        std::vector<Result> copies = parts;
        const auto merged = [&](auto &&function) {
          return run_with(problem, [&](const Arguments &a) {
            std::vector<think_tensor> tensors(3, a.output);
            std::vector<const float *> lses;
            for (int i = 0; i < 3; ++i) tensors[i].data = copies[i].output.data(), lses.push_back(copies[i].lse.data());
            Merge m{a.shape, tensors.data(), lses.data(), 3, a.output, a.lse};
            // The second sequence has one query; the merge works on whole rectangles, so its padding is merged as well.
            if (in_place) m.output = tensors[1], m.lse = copies[1].lse.data();
            function(m);
            if (in_place) {
              std::memcpy(a.output.data, copies[1].output.data(), copies[1].output.size());
              std::memcpy(a.lse, copies[1].lse.data(), copies[1].lse.size() * sizeof(float));
            }
          });
        };
        const Result kernel = merged([&](const Merge &m) { merge(isa.id, m); });
        copies = parts;
        const Result plain = merged([](const Merge &m) { reference::merge(m); });
        const double step = dtype == THINK_F32 ? 1e-6 : dtype == THINK_F16 ? 4e-3 : 3e-2;
        for (int32_t b = 0; b < 2; ++b) {
          for (int32_t h = 0; h < 4; ++h) {
            for (int32_t t = 0; t < c.queries[b]; ++t) {
              const think_tensor &o = problem.arguments.output;
              const int64_t place = b * o.stride[0] + h * o.stride[1] + t * o.stride[2], index = (b * 4 + h) * 2 + t;
              for (int32_t j = 0; j < 64; ++j) {
                EXPECT_NEAR(load_element(kernel.output.data(), dtype, place + j), load_element(exact.output.data(), THINK_F32, place + j), step);
                EXPECT_NEAR(load_element(plain.output.data(), dtype, place + j), load_element(exact.output.data(), THINK_F32, place + j), step);
              }
              if (b == 0) {
                EXPECT_NEAR(kernel.lse[index], exact.lse[index], 1e-5);
              } else {
                EXPECT_EQ(kernel.lse[index], -std::numeric_limits<float>::infinity());
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace think::attend
