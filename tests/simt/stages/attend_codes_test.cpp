// The attend stage's CUDA kernels over tiles of codes, beside segments of numbers.
#include <cctype>

#include "attend_on_device.h"

namespace think::attend {
namespace {

const char *name_of(think_dtype dtype) {
  return dtype == THINK_U8 ? "U8" : dtype == THINK_U4 ? "U4" : dtype == THINK_U2 ? "U2" : dtype == THINK_F8_E4M3 ? "F8" : "F16";
}

class AttendOfCodes : public testing::TestWithParam<Kind> {
 protected:
  static SegmentSpec segment(std::vector<int32_t> lengths) { return segment_of(GetParam(), std::move(lengths)); }
};

TEST_P(AttendOfCodes, EveryKeptWidth) {
  for (const int32_t kept : {1, 7, 8, 9, 40, 63, 77, 128}) {
    Case c;
    c.key_channels = c.value_channels = 128;
    c.group = 4;
    SegmentSpec s = segment({161});
    s.key_kept = {kept, std::min(128, kept + 5)};
    s.value_kept = {(kept + 7) / 8 * 8, 128 - kept / 8 * 8 ? 128 - kept / 8 * 8 : 8};
    c.segments = {s};
    c.seed = kept;
    check_on_device(c);
    if (HasFailure()) return;
  }
}

TEST_P(AttendOfCodes, GroupsHeadSizesAndLengths) {
  int32_t which = 0;
  for (const int32_t channels : {8, 40, 64, 72, 96, 256}) {
    ++which;
    Case c;
    c.key_channels = channels;
    c.value_channels = kChannels[(which * 3) % std::size(kChannels)];
    c.group = kGroups[which % std::size(kGroups)];
    c.seed = which;
    c.query_dtype = which % 3 == 0 ? THINK_F32 : which % 3 == 1 ? THINK_F16 : THINK_BF16;
    SegmentSpec s = segment({kLengths[(which * 2 + 1) % std::size(kLengths)]});
    if (which % 3) s.key_kept = widths(channels, which);
    if (which % 2) s.value_kept = value_widths(c.value_channels, which);
    c.segments = {s};
    check_on_device(c);
    if (HasFailure()) return;
  }
}

TEST_P(AttendOfCodes, CacheOfAChat) { check_on_device(cache_of_a_chat(GetParam()), 3); }

TEST_P(AttendOfCodes, LengthsPerHeadAndManyQueries) {
  check_on_device(lengths_per_head(GetParam()));
  check_on_device(many_queries(GetParam(), 9, true, {200, 64, 301}));
  check_on_device(softcap_and_sink(GetParam(), 30.0f));
}

// With batch_invariant a sequence has the same bits alone and among others, on small and large devices.
TEST_P(AttendOfCodes, BatchInvariance) {
  Case c;
  c.queries = {1, 1};
  SegmentSpec compact = segment({1501, 65}), recent = segment({40, 33});
  compact.key_kept = {40, 52};
  compact.value_kept = {40, 64};
  make_dense(recent);
  c.segments = {compact, recent};
  run_together_and_alone(Problem(c));
}

// Two types of codes and numbers in one call, each with a basis of its own; and stages so large that not every warp has a ring.
TEST_P(AttendOfCodes, BesideOtherCodesInWideHeads) {
  for (const int32_t channels : {128, 256}) {
    Case c;
    c.key_channels = c.value_channels = channels;
    c.group = channels == 128 ? 5 : 2;
    c.softcap = 30.0f;
    SegmentSpec one = segment({353}), other = segment_of({THINK_TILES, THINK_U8, THINK_F16}, {70}), recent = segment({45});
    one.key_kept = {77, channels};
    one.value_kept = {channels, 104};
    other.key_kept = {channels, 40};
    make_dense(recent);
    recent.causal = true;
    c.segments = {other, one, recent};
    check_on_device(c, 2);
  }
}

// Beside rows of bf16: their operands are bf16 and those of codes f16; with few columns both put what rounding takes from a query into idle ones.
TEST_P(AttendOfCodes, BesideRowsOfBf16) {
  for (const int32_t group : {2, 7}) {
    Case c;
    c.group = group;
    c.queries = {1, 1};
    SegmentSpec compact = segment({333, 64}), recent = segment_of({THINK_ROWS, THINK_BF16, THINK_BF16}, {40, 33});
    if (!is_quantized(compact.key_dtype)) compact.key_dtype = THINK_BF16;
    if (!is_quantized(compact.value_dtype)) compact.value_dtype = THINK_BF16;
    compact.key_kept = {40, 52};
    compact.value_kept = {40, 64};
    c.segments = {recent, compact};
    check_on_device(c);
  }
}

// Scales as large as they get, of keys in queries of hundreds: their product is beyond f16, the result is not infinite. And as small as they get.
TEST_P(AttendOfCodes, ScalesOfAnySize) {
  for (const float magnitude : {4000.0f, 1e-4f}) {
    Case c;
    c.group = 2;
    SegmentSpec s = segment({70});
    s.magnitude = magnitude;
    if (!is_quantized(s.key_dtype)) continue;
    c.segments = {s};
    const Problem problem(c);
    for (int64_t i = 0; i < static_cast<int64_t>(problem.query.size()) / 4; ++i) {
      float &x = reinterpret_cast<float *>(const_cast<char *>(problem.query.data()))[i];
      if (magnitude > 1 && !std::isnan(x)) x *= 300;
    }
    OnDevice device(problem, 3);
    const Result result = device.run(), exact = exact_result(problem);
    ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
    for (size_t i = 0; i < result.lse.size(); ++i) ASSERT_NEAR(result.lse[i], exact.lse[i], 2e-3 * std::fabs(exact.lse[i]) + 1e-3) << magnitude;
    if (magnitude < 1) expect_close(problem, result, "small");
  }
}

// Of values as well: thousands, and thousandths.
TEST_P(AttendOfCodes, ValuesOfAnySize) {
  if (!is_quantized(GetParam().value)) return;
  for (const int32_t power : {13, -9}) {
    Case c;
    c.segments = {segment({70})};
    const Problem problem(c);
    const think_segment &host = problem.owned[0]->segment;
    for (int32_t head = 0; head < c.kv_heads; ++head) {
      const SideView view = side_view(host, Side::values, problem.arguments.shape, problem.arguments.batch, 0, head);
      const TileLayout layout = value_tile(view.channels, view.dtype);
      for (int32_t row = 0; row < 70; row += kTileTokens) {
        uint16_t *halves = reinterpret_cast<uint16_t *>(row_address(view, row) + layout.scale);  // scales and zeros
        for (int64_t i = 0; i < (layout.bytes - layout.scale) / 2; ++i) halves[i] = f32_to_f16(std::ldexp(f16_to_f32(halves[i]), power));
      }
    }
    OnDevice device(problem, 5);
    expect_close(problem, device.run(), "values times 2^" + std::to_string(power));
    ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
  }
}

// The one code of F8 that is no number, of either sign: of keys it takes all of its head's outputs along, of values those of its channel.
TEST(AttendOfF8, CodesThatAreNoNumbers) {
  Case c;
  c.segments = {segment_of({THINK_TILES, THINK_F8_E4M3, THINK_F8_E4M3}, {70})};
  const Problem problem(c);
  const Arguments &a = problem.arguments;
  const auto set_code = [&](Side side, int32_t head, int32_t channel, int32_t token, uint32_t code) {
    const SideView view = side_view(problem.owned[0]->segment, side, a.shape, a.batch, 0, head);
    const int32_t in_tile = token % kTileTokens;
    const CodePlace place = side == Side::keys ? key_code(view.dtype, channel, in_tile) : value_code(view.dtype, view.channels, channel, in_tile);
    row_address(view, token)[place.byte] = static_cast<char>(code);
  };
  set_code(Side::keys, 0, 3, 5, 0xff);
  set_code(Side::values, 1, 35, 69, 0x7f);
  OnDevice device(problem, 1);
  const Result result = device.run();
  ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
  for (int32_t head = 0; head < a.shape.query_heads; ++head) {
    for (int32_t channel = 0; channel < c.value_channels; ++channel) {
      const float x = load_element(result.output.data(), THINK_F32, head * a.output.stride[1] + channel);
      EXPECT_EQ(head < c.group || channel == 35, std::isnan(x)) << "head " << head << ", channel " << channel;
    }
  }
}

TEST_P(AttendOfCodes, MovesWhatTheModelSays) {
  uint64_t conflicts = 0;
  for (const int32_t tokens : {512, 4096}) {
    Case c;
    c.kv_heads = 2;
    c.group = 4;
    c.key_channels = c.value_channels = 128;
    c.query_dtype = c.output_dtype = THINK_F16;
    SegmentSpec s = segment({tokens});
    s.aligned = true;
    s.key_kept = {77, 52};
    s.value_kept = {128, 88};
    c.segments = {s};
    const Problem problem(c);
    OnDevice device(problem, 7);
    expect_close(problem, device.run(), "model");
    ASSERT_FALSE(simt::machine().fault()) << simt::machine().fault().text();
    const Model model = model_of(problem, device);
    const simt::Counters counters = moved_counters();
    const double moved = static_cast<double>(counters.global_read_bytes + counters.global_write_bytes), whole = model.cache + model.reads + model.writes;
    std::string what = std::string("attend, keys ") + name_of(GetParam().key) + ", values " + name_of(GetParam().value);
    std::transform(what.begin(), what.end(), what.begin(), [](char letter) { return static_cast<char>(std::tolower(letter)); });
    report_traffic(what + ", " + std::to_string(tokens) + " tokens", counters, model.cache + model.reads, model.writes);
    if (std::getenv("THINK_TEST_REPORT")) std::printf("moved %.4f of the model, which is %.4f of the cache\n", moved / whole, whole / model.cache);
    EXPECT_LE(moved, whole * (tokens >= 4096 ? 1.02 : 1.10));
    // Its lookups are the most there can be, a part of a short call's bytes that is seen beside codes of two bits.
    EXPECT_GE(moved, whole * (tokens >= 4096 ? 0.98 : 0.94)) << "the model is wrong";
    if (tokens == 512) conflicts = counters.bank_conflicts;
    EXPECT_EQ(conflicts, counters.bank_conflicts) << "bank conflicts in the main loop";
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, AttendOfCodes,
                         testing::Values(Kind{THINK_TILES, THINK_U8, THINK_U8}, Kind{THINK_TILES, THINK_U4, THINK_U4}, Kind{THINK_TILES, THINK_U4, THINK_F16},
                                         Kind{THINK_TILES, THINK_F16, THINK_U8}, Kind{THINK_TILES, THINK_U8, THINK_U4}, Kind{THINK_ROWS, THINK_F16, THINK_U4},
                                         Kind{THINK_TILES, THINK_U2, THINK_U2}, Kind{THINK_TILES, THINK_U2, THINK_F16}, Kind{THINK_ROWS, THINK_F16, THINK_U2},
                                         Kind{THINK_TILES, THINK_U4, THINK_U2}, Kind{THINK_TILES, THINK_F8_E4M3, THINK_F8_E4M3},
                                         Kind{THINK_TILES, THINK_F8_E4M3, THINK_F16}, Kind{THINK_TILES, THINK_U2, THINK_F8_E4M3}),
                         [](const auto &info) {
                           const std::string rows = info.param.layout == THINK_ROWS ? "RowsOf" : "";
                           return rows + name_of(info.param.key) + name_of(info.param.value);
                         });

}  // namespace
}  // namespace think::attend
