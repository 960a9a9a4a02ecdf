#include "selftest.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/attend/attend.h"
#include "kernels/common/element.h"
#include "kernels/compact/compact.h"
#include "kernels/fit/fit.h"
#include "kernels/moments/moments.h"
#include "kernels/score/score.h"
#include "kernels/select/select.h"

namespace think::cli {
namespace {

constexpr int32_t kSinks = 4, kRecent = 32, kWindow = 32, kQueries = 5;

// f32 sums over a few hundred rows agree with double to a few parts in a million; the limits leave room for other orders of summation.
constexpr double kSumLimit = 1e-5;
// Gains and weights come from an inverse, which enlarges errors of the f32 moments; W is rounded to f16 (5e-4 of an element).
constexpr double kGainLimit = 1e-4, kWeightLimit = 2e-3;
// Attention in f32, relative to the largest output.
constexpr double kAttendLimit = 2e-5;

// Deterministic numbers, the same on every host.
class Generator {
 public:
  explicit Generator(uint64_t seed) : state_(seed) {}
  double uniform() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t z = state_;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return static_cast<double>((z ^ z >> 31) >> 11) * 0x1p-53;
  }
  // Near enough to a normal distribution.
  double normal() { return (uniform() + uniform() + uniform() + uniform() - 2) * std::sqrt(3.0); }

 private:
  uint64_t state_;
};

// An array in the dtype under test, and the same numbers in double.
struct Array {
  Buffer memory;
  std::vector<double> numbers;
  think_dtype dtype;
  int64_t heads, tokens, channels;

  think_tensor tensor() const { return packed_tensor(memory.data(), dtype, heads, tokens, channels); }
};

// Channels that depend on each other and have different sizes, as real keys: without that a regression has nothing to find.
Array make_array(Generator &generator, think_dtype dtype, int64_t heads, int64_t tokens, int64_t channels, double size) {
  Array array{Buffer(heads * tokens * channels * think_dtype_bytes(dtype), true), {}, dtype, heads, tokens, channels};
  const int64_t factors = channels / 4;
  for (int64_t head = 0; head < heads; ++head) {
    std::vector<double> mixing(static_cast<size_t>(factors * channels)), scale(static_cast<size_t>(channels)),
        factor(static_cast<size_t>(factors));
    for (double &number : mixing) number = generator.normal() / std::sqrt(static_cast<double>(factors));
    for (double &number : scale) number = size * std::exp(0.7 * generator.normal());
    for (int64_t token = 0; token < tokens; ++token) {
      for (double &number : factor) number = generator.normal();
      for (int64_t channel = 0; channel < channels; ++channel) {
        double number = 0.3 * generator.normal() + 0.2;
        for (int64_t i = 0; i < factors; ++i)
          number += mixing[static_cast<size_t>(i * channels + channel)] * factor[static_cast<size_t>(i)];
        store_element(array.memory.data(), dtype, static_cast<int64_t>(array.numbers.size()),
                      static_cast<float>(number * scale[static_cast<size_t>(channel)]));
        array.numbers.push_back(load_element(array.memory.data(), dtype, static_cast<int64_t>(array.numbers.size())));
      }
    }
  }
  return array;
}

// Largest difference relative to the largest number of the reference.
template <class A, class B>
double distance(const A *result, const B *reference, size_t count) {
  double error = 0, size = 0;
  for (size_t i = 0; i < count; ++i) {
    // A NaN must not hide in a comparison that is false.
    const double difference = std::fabs(static_cast<double>(result[i]) - static_cast<double>(reference[i]));
    error = difference <= error ? error : std::isnan(difference) ? INFINITY : difference;
    size = std::max(size, std::fabs(static_cast<double>(reference[i])));
  }
  return error == 0 ? 0 : error / std::max(size, 1e-300);
}

double unequal(const void *a, const void *b, size_t bytes) { return std::memcmp(a, b, bytes) == 0 ? 0 : INFINITY; }

class LayerTest {
 public:
  LayerTest(const SelftestShape &shape, int32_t threads, const SelftestRecord &record)
      : shape_(shape),
        record_(record),
        generator_(static_cast<uint64_t>(shape.tokens)),
        context_(make_context(threads)),
        plan_(make_plan(context_, problem())),
        query_(make_array(generator_, shape.dtype, shape.query_heads, shape.tokens, shape.key_channels, 1.0)),
        key_(make_array(generator_, shape.dtype, shape.kv_heads, shape.tokens, shape.key_channels, 1.0)),
        value_(make_array(generator_, shape.dtype, shape.kv_heads, shape.tokens, shape.value_channels, 1.0)) {
    source_ = dense_segment(key_.memory.data(), value_.memory.data(), shape.dtype, shape.dtype, shape.kv_heads, shape.tokens,
                            shape.key_channels, shape.value_channels, &shape_.tokens);
    source_.flags = THINK_SEGMENT_CAUSAL;
  }

  void run() {
    score();
    moments();
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) select_and_fit(side);
    prune();
    attend();
    merge();
  }

 private:
  think_problem problem() const {
    think_problem problem = THINK_PROBLEM_INIT;
    problem.query_dtype = problem.cache_dtype = shape_.dtype;
    problem.output_dtype = THINK_F32;
    problem.query_heads = shape_.query_heads;
    problem.kv_heads = shape_.kv_heads;
    problem.key_channels = shape_.key_channels;
    problem.value_channels = shape_.value_channels;
    problem.window = kWindow;
    problem.max_queries = kQueries;
    problem.max_tokens = 2 * shape_.tokens;
    problem.softcap = shape_.softcap;
    return problem;
  }

  // What the stages are handed behind the ABI, for the reference.
  Shape inner_shape() const {
    return {shape_.query_heads,
            shape_.kv_heads,
            shape_.query_heads / shape_.kv_heads,
            shape_.key_channels,
            shape_.value_channels,
            kWindow,
            1,
            kQueries,
            2 * shape_.tokens,
            shape_.dtype,
            shape_.dtype,
            THINK_F32,
            1.0f / std::sqrt(static_cast<float>(shape_.key_channels)),
            shape_.softcap};
  }
  static Batch one_sequence() { return {1, nullptr, nullptr, nullptr}; }

  void score() {
    int64_t bytes = 0;
    error_.check(think_score_state_size(plan_.get(), 1, &bytes, error_));
    state_ = Buffer(bytes, true);
    const Workspace workspace(plan_, THINK_STAGE_SCORE, shape_.tokens, 1);
    error_.check(think_score_reset(plan_.get(), state_.data(), nullptr, workspace.launch(), error_));
    // Two chunks of uneven length, as a prefill would bring them.
    const int64_t element = think_dtype_bytes(shape_.dtype), cut = shape_.tokens / 3;
    for (const bool second : {false, true}) {
      const int64_t begin = second ? cut : 0, count = second ? shape_.tokens - cut : cut;
      think_tensor query = query_.tensor(), key = key_.tensor();
      for (think_tensor *tensor : {&query, &key}) {
        tensor->data = static_cast<std::byte *>(tensor->data) + begin * tensor->stride[2] * element;
        tensor->extent[2] = count;
      }
      error_.check(think_score_update(plan_.get(), &query, &key, nullptr, state_.data(), workspace.launch(), error_));
    }
    score_.resize(static_cast<size_t>(shape_.kv_heads * shape_.key_channels));
    error_.check(think_score_finish(plan_.get(), state_.data(), nullptr, nullptr, score_.data(), workspace.launch(), error_));
    std::vector<double> expected(score_.size());
    score::reference::score(inner_shape(), query_.numbers.data(), key_.numbers.data(), shape_.tokens, false, expected.data());
    record_("score", distance(score_.data(), expected.data(), expected.size()), kSumLimit);
  }

  void moments() {
    int64_t bytes = 0;
    error_.check(think_moments_size(plan_.get(), 1, &bytes, error_));
    moments_ = Buffer(bytes, true);
    think_tensor window = THINK_TENSOR_INIT;
    error_.check(think_score_window(plan_.get(), state_.data(), 1, &window, error_));
    const Workspace workspace(plan_, THINK_STAGE_MOMENTS, shape_.tokens, 1);
    error_.check(think_moments(plan_.get(), &window, &source_, nullptr, nullptr, moments_.data(), workspace.launch(), error_));
    const int32_t channels = shape_.key_channels, value_channels = shape_.value_channels;
    std::vector<float> gains(static_cast<size_t>(shape_.kv_heads * channels));
    error_.check(
        think_gains(plan_.get(), moments_.data(), nullptr, THINK_KEYS, score_.data(), gains.data(), nullptr, workspace.launch(), error_));
    key_gains_ = gains;

    const int32_t group = shape_.query_heads / shape_.kv_heads;
    for (int32_t head = 0; head < shape_.kv_heads; ++head) {
      References one;
      one.key_mean.resize(static_cast<size_t>(channels));
      one.key_covariance.resize(static_cast<size_t>(channels) * channels);
      one.query_moment.resize(static_cast<size_t>(channels) * channels);
      one.value_mean.resize(static_cast<size_t>(value_channels));
      one.value_covariance.resize(static_cast<size_t>(value_channels) * value_channels);
      std::vector<double> window_rows;
      for (int32_t query_head = head * group; query_head < (head + 1) * group; ++query_head) {
        const auto end = query_.numbers.begin() + static_cast<int64_t>(query_head + 1) * shape_.tokens * channels;
        window_rows.insert(window_rows.end(), end - static_cast<int64_t>(kWindow) * channels, end);
      }
      const moments::reference::Head rows = {group,
                                             kWindow,
                                             channels,
                                             value_channels,
                                             shape_.tokens,
                                             kSinks,
                                             kRecent,
                                             0.9f,
                                             inner_shape().scale,
                                             shape_.softcap,
                                             true,
                                             window_rows.data(),
                                             key_.numbers.data() + static_cast<int64_t>(head) * shape_.tokens * channels,
                                             value_.numbers.data() + static_cast<int64_t>(head) * shape_.tokens * value_channels};
      moments::reference::measure(rows, one.key_mean.data(), one.key_covariance.data(), one.query_moment.data(), one.value_mean.data(),
                                  one.value_covariance.data());
      // The order of the scores is the library's own: two nearly equal scores may change places in f32, which is no error of the gains.
      const float *scores = score_.data() + static_cast<int64_t>(head) * channels;
      std::vector<int32_t> order(static_cast<size_t>(channels));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
      std::vector<double> expected(static_cast<size_t>(channels));
      std::vector<int32_t> taken(static_cast<size_t>(channels));
      moments::reference::gains(channels, one.query_moment.data(), one.key_covariance.data(), order.data(), expected.data(), taken.data());
      record_("gains", distance(gains.data() + static_cast<int64_t>(head) * channels, expected.data(), expected.size()), kGainLimit);
      references_.push_back(std::move(one));
    }
  }

  void select_and_fit(int32_t side) {
    const bool keys = side == THINK_KEYS;
    const int32_t channels = keys ? shape_.key_channels : shape_.value_channels, step = 8;
    const Workspace select_workspace(plan_, THINK_STAGE_SELECT, shape_.tokens, 1), fit_workspace(plan_, THINK_STAGE_FIT, shape_.tokens, 1);
    // Values have no score of their own here: any numbers make a valid choice.
    std::vector<float> score = score_;
    if (!keys) {
      score.resize(static_cast<size_t>(shape_.kv_heads * channels));
      for (float &number : score) number = static_cast<float>(generator_.uniform());
    }
    std::vector<int32_t> kept(static_cast<size_t>(shape_.kv_heads), channels / 2);
    if (keys) {
      think_budget_options options = THINK_BUDGET_OPTIONS_INIT;
      options.total = static_cast<int64_t>(shape_.kv_heads) * channels / 2;
      error_.check(think_budgets(plan_.get(), key_gains_.data(), nullptr, side, &options, kept.data(), select_workspace.launch(), error_));
      std::vector<int32_t> expected(kept.size());
      const std::vector<double> gains(key_gains_.begin(), key_gains_.end());
      select::reference::budgets({1, 1, shape_.kv_heads, channels, step, step, options.total, false}, gains.data(), expected.data());
      record_("budgets", unequal(kept.data(), expected.data(), kept.size() * sizeof(int32_t)), 0);
    } else {
      for (int32_t &width : kept) width = width / step * step;
    }
    OwnBasis basis;
    basis.bind(plan_, side);
    think_select_options options = THINK_SELECT_OPTIONS_INIT;
    options.side = side;
    error_.check(
        think_select(plan_.get(), score.data(), nullptr, &options, kept.data(), &basis.basis, nullptr, select_workspace.launch(), error_));
    think_fit_options fit_options = THINK_FIT_OPTIONS_INIT;
    fit_options.side = side;
    error_.check(think_fit(plan_.get(), moments_.data(), nullptr, &fit_options, &basis.basis, fit_workspace.launch(), error_));
    for (int32_t head = 0; head < shape_.kv_heads; ++head) {
      const int32_t width = basis.basis.kept[head], dropped = channels - width;
      const int32_t *index = basis.basis.index + static_cast<int64_t>(head) * channels;
      std::vector<int32_t> expected_index(static_cast<size_t>(channels));
      select::reference::select(channels, score.data() + static_cast<int64_t>(head) * channels, kept[head], select::Pairs::none,
                                expected_index.data());
      record_("select", width == kept[head] ? unequal(index, expected_index.data(), expected_index.size() * sizeof(int32_t)) : INFINITY, 0);
      if (dropped == 0) continue;
      const References &one = references_[head];
      std::vector<double> weight(static_cast<size_t>(dropped) * width), offset(static_cast<size_t>(dropped));
      fit::reference::fit(channels, keys ? one.key_mean.data() : one.value_mean.data(),
                          keys ? one.key_covariance.data() : one.value_covariance.data(), index, width, 1e-3, weight.data(), offset.data());
      const int64_t row = (width + 7) / 8 * 8;
      const auto *block =
          reinterpret_cast<const uint16_t *>(static_cast<const std::byte *>(basis.basis.weight) + basis.basis.weight_offset[head]);
      std::vector<float> result(weight.size());
      for (int32_t p = 0; p < dropped; ++p) {
        for (int32_t i = 0; i < width; ++i) result[static_cast<size_t>(p) * width + i] = f16_to_f32(block[p * row + i]);
      }
      record_("fit", distance(result.data(), weight.data(), weight.size()), kWeightLimit);
      record_("fit", distance(basis.basis.offset + static_cast<int64_t>(head) * channels + width, offset.data(), offset.size()),
              kWeightLimit);
    }
  }

  // think_prune() chooses; what it stored must be what the reference stores with that choice.
  void prune() {
    think_prune_options options = THINK_PRUNE_OPTIONS_INIT;
    options.value_kept = shape_.value_channels / 16 * 8;
    options.dense_limit = -1;
    think_prune_result preview = THINK_PRUNE_RESULT_INIT;
    error_.check(think_prune_preview(plan_.get(), nullptr, shape_.tokens, &options, &preview, error_));
    key_basis_.bind(plan_, THINK_KEYS);
    value_basis_.bind(plan_, THINK_VALUES);
    think_layout_info info = THINK_LAYOUT_INFO_INIT;
    error_.check(
        think_layout(plan_.get(), nullptr, static_cast<int32_t>(preview.rows), preview.key_total, preview.value_total, &info, error_));
    keys_ = Buffer(info.key_page_bytes, true);
    values_ = Buffer(info.value_page_bytes, true);
    for (std::vector<int64_t> *offsets : {&key_offset_, &value_offset_}) offsets->resize(static_cast<size_t>(shape_.kv_heads));
    compact_.key_layout = THINK_TILES;
    compact_.page_tokens = static_cast<int32_t>(preview.rows);
    compact_.key_dtype = compact_.value_dtype = shape_.dtype;
    compact_.key = keys_.data();
    compact_.value = values_.data();
    compact_.key_stride[0] = info.key_page_bytes;
    compact_.value_stride[0] = info.value_page_bytes;
    compact_.key_head_offset = key_offset_.data();
    compact_.value_head_offset = value_offset_.data();
    compact_.key_basis = &key_basis_.basis;
    compact_.value_basis = &value_basis_.basis;
    const Workspace workspace(plan_, THINK_STAGE_PRUNE, shape_.tokens, 1);
    error_.check(think_prune(plan_.get(), state_.data(), &source_, &compact_, nullptr, &options, nullptr, workspace.launch(), error_));
    compact_rows_ = static_cast<int32_t>(preview.rows);
    compact_.lengths = &compact_rows_;

    const int64_t widths = std::accumulate(key_basis_.basis.kept, key_basis_.basis.kept + shape_.kv_heads, int64_t{0});
    record_("prune", widths == preview.key_total ? 0 : INFINITY, 0);
    Buffer expected_keys(keys_.size(), true), expected_values(values_.size(), true);
    // The reference moves rows to rows of the same number: the source begins behind the sinks.
    compact::Arguments arguments = {inner_shape(), source_, compact_, one_sequence()};
    arguments.source.flags = 0;
    arguments.source.key = static_cast<std::byte *>(source_.key) + preview.first * source_.key_stride[2];
    arguments.source.value = static_cast<std::byte *>(source_.value) + preview.first * source_.value_stride[2];
    arguments.destination.key = expected_keys.data();
    arguments.destination.value = expected_values.data();
    compact::reference::compact(arguments);
    record_("compact", unequal(keys_.data(), expected_keys.data(), static_cast<size_t>(keys_.size())), 0);
    record_("compact", unequal(values_.data(), expected_values.data(), static_cast<size_t>(values_.size())), 0);
    first_ = static_cast<int32_t>(preview.first);
  }

  // The last queries on the compact prefix, the sinks and the causal recent rows, with a sink logit.
  void attend() {
    const int32_t recent_begin = first_ + compact_rows_, recent_rows = shape_.tokens - recent_begin;
    think_segment sinks = source_, recent = source_;
    sinks.flags = 0;
    sinks.lengths = &first_;
    recent.first = &recent_begin;
    recent.lengths = &recent_rows;
    const std::vector<think_segment> segments = {compact_, sinks, recent};
    std::vector<float> sink_logit(static_cast<size_t>(shape_.query_heads));
    for (float &logit : sink_logit) logit = static_cast<float>(generator_.normal());
    check_attend(segments, sink_logit.data(), "attend");
    check_attend({source_}, nullptr, "attend dense");
  }

  void check_attend(const std::vector<think_segment> &segments, const float *sink_logit, const char *name) {
    think_tensor query = query_.tensor();
    query.data = static_cast<std::byte *>(query.data) + (shape_.tokens - kQueries) * query.stride[2] * think_dtype_bytes(shape_.dtype);
    query.extent[2] = kQueries;
    const size_t rows = static_cast<size_t>(shape_.query_heads) * kQueries;
    std::vector<float> result(rows * shape_.value_channels), expected(result.size()), lse(rows), expected_lse(rows);
    const think_tensor output = packed_tensor(result.data(), THINK_F32, shape_.query_heads, kQueries, shape_.value_channels);
    const Workspace workspace(plan_, THINK_STAGE_ATTEND, 2 * shape_.tokens, kQueries);
    error_.check(think_attend(plan_.get(), &query, nullptr, segments.data(), static_cast<int32_t>(segments.size()), sink_logit, &output,
                              lse.data(), workspace.launch(), error_));
    attend::Arguments arguments = {
        inner_shape(),      query, output, one_sequence(), segments.data(), static_cast<int32_t>(segments.size()), sink_logit,
        expected_lse.data()};
    arguments.output.data = expected.data();
    attend::reference::attend(arguments);
    record_(name, distance(result.data(), expected.data(), expected.size()), kAttendLimit);
    record_(name, distance(lse.data(), expected_lse.data(), expected_lse.size()), kAttendLimit);
  }

  // Two halves of a random result, merged.
  void merge() {
    const size_t rows = static_cast<size_t>(shape_.query_heads) * kQueries;
    std::vector<std::vector<float>> outputs(2, std::vector<float>(rows * shape_.value_channels)), lses(2, std::vector<float>(rows));
    for (int half = 0; half < 2; ++half) {
      for (float &number : outputs[half]) number = static_cast<float>(generator_.normal());
      for (float &number : lses[half]) number = static_cast<float>(3 * generator_.normal());
    }
    const auto tensor = [&](std::vector<float> &numbers) {
      return packed_tensor(numbers.data(), THINK_F32, shape_.query_heads, kQueries, shape_.value_channels);
    };
    const std::vector<think_tensor> parts = {tensor(outputs[0]), tensor(outputs[1])};
    const float *const part_lses[] = {lses[0].data(), lses[1].data()};
    std::vector<float> result(outputs[0].size()), expected(result.size()), lse(rows), expected_lse(rows);
    const think_tensor output = tensor(result);
    const Workspace workspace(plan_, THINK_STAGE_ATTEND, shape_.tokens, kQueries);
    error_.check(think_merge(plan_.get(), parts.data(), part_lses, 2, &output, lse.data(), workspace.launch(), error_));
    attend::reference::merge({inner_shape(), parts.data(), part_lses, 2, tensor(expected), expected_lse.data()});
    record_("merge", distance(result.data(), expected.data(), expected.size()), kSumLimit);
    record_("merge", distance(lse.data(), expected_lse.data(), expected_lse.size()), kSumLimit);
  }

  struct References {
    std::vector<double> key_mean, key_covariance, query_moment, value_mean, value_covariance;
  };

  SelftestShape shape_;
  const SelftestRecord &record_;
  Generator generator_;
  Context context_;
  Plan plan_;
  Array query_, key_, value_;
  think_segment source_ = THINK_SEGMENT_INIT, compact_ = THINK_SEGMENT_INIT;
  ErrorRecord error_;
  Buffer state_, moments_, keys_, values_;
  OwnBasis key_basis_, value_basis_;
  std::vector<int64_t> key_offset_, value_offset_;
  std::vector<float> score_, key_gains_;
  std::vector<References> references_;
  int32_t first_ = 0, compact_rows_ = 0;
};

}  // namespace

void selftest_layer(const SelftestShape &shape, int32_t threads, const SelftestRecord &record) { LayerTest(shape, threads, record).run(); }

}  // namespace think::cli
