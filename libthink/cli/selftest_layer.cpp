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
#include "room.h"

namespace think::cli {
namespace {

constexpr int32_t kSinks = 4, kRecent = 32, kWindow = 32, kQueries = 5;

// f32 sums over a few hundred rows agree with double to a few parts in a million; the limits leave room for other orders of summation.
constexpr double kSumLimit = 1e-5;
// Gains and weights come from an inverse, which enlarges errors of the f32 moments; W is rounded to f16 (5e-4 of an element).
constexpr double kGainLimit = 2e-5, kWeightLimit = 2e-3;
// Attention in f32, relative to the largest output.
constexpr double kAttendLimit = 2e-5;

// CUDA kernels multiply 16-bit numbers: queries and probabilities are rounded to the cache's type before they meet it. Sums are f32 there too.
double attend_limit(bool on_device, think_dtype dtype) { return !on_device ? kAttendLimit : dtype == THINK_BF16 ? 1e-2 : 2e-3; }
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

// An array in the dtype under test, the same numbers in double, and where the library sees them.
struct Array {
  Buffer memory;
  std::vector<double> numbers;
  think_dtype dtype;
  int64_t heads, tokens, channels;
  void *placed;

  think_tensor tensor() const { return packed_tensor(placed, dtype, heads, tokens, channels); }
  think_tensor host_tensor() const { return packed_tensor(memory.data(), dtype, heads, tokens, channels); }
};

// Channels that depend on each other and have different sizes, as real keys: without that a regression has nothing to find.
Array make_array(Room &room, Generator &generator, think_dtype dtype, int64_t heads, int64_t tokens, int64_t channels, double size) {
  Array array{Buffer(heads * tokens * channels * think_dtype_bytes(dtype), true), {}, dtype, heads, tokens, channels, nullptr};
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
  array.placed = room.copy(array.memory.data(), array.memory.size());
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
  LayerTest(const SelftestShape &shape, const SelftestTarget &target, const SelftestRecord &record, const SelftestSkip &skip)
      : shape_(shape),
        record_(record),
        skip_(skip),
        generator_(static_cast<uint64_t>(shape.tokens)),
        room_(target.driver),
        context_(make_context(target.threads, target.device)),
        plan_(make_plan(context_, problem())),
        query_(make_array(room_, generator_, shape.dtype, shape.query_heads, shape.tokens, shape.key_channels, 1.0)),
        key_(make_array(room_, generator_, shape.dtype, shape.kv_heads, shape.tokens, shape.key_channels, 1.0)),
        value_(make_array(room_, generator_, shape.dtype, shape.kv_heads, shape.tokens, shape.value_channels, 1.0)) {
    source_.placed = dense_segment(key_.placed, value_.placed, shape.dtype, shape.dtype, shape.kv_heads, shape.tokens, shape.key_channels,
                                   shape.value_channels, number(shape.tokens));
    source_.placed.flags = THINK_SEGMENT_CAUSAL;
    source_.host = source_.placed;
    source_.host.key = key_.memory.data();
    source_.host.value = value_.memory.data();
    source_.host.lengths = &shape_.tokens;
  }

  void run() {
    attempt("score", [&] { score(); });
    measure_references();
    attempt("moments", [&] { moments(); });
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      if (!attempt("select", [&] { select(side); })) continue;
      attempt("fit", [&] { fit(side); });
    }
    // Without a prune in one call: the paper's method, step by step.
    if (attempt("prune", [&] { prune(); }) || attempt("compact", [&] { prune_by_hand(); })) attempt("attend", [&] { attend(); });
    attempt("attend dense", [&] { check_attend({source_}, nullptr, "attend dense"); });
    attempt("merge", [&] { merge(); });
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
  // Runs a stage; on a device, one without kernels is left out with the library's reason.
  template <class Body>
  bool attempt(const char *stage, const Body &body) {
    try {
      body();
      return true;
    } catch (const Unsupported &unsupported) {
      if (!room_.on_device()) throw;
      skip_(stage, unsupported.reason());
      return false;
    }
  }
  const int32_t *number(int32_t value) { return room_.copy(std::vector<int32_t>{value}); }

  // What the library sees, and the same for the reference.
  struct Segment {
    think_segment placed = THINK_SEGMENT_INIT, host = THINK_SEGMENT_INIT;
  };

  void score() {
    int64_t bytes = 0;
    error_.check(think_score_state_size(plan_.get(), 1, &bytes, error_));
    state_ = room_.make(bytes);
    const Call workspace(room_, plan_, THINK_STAGE_SCORE, shape_.tokens, 1);
    error_.check(think_score_reset(plan_.get(), state_, nullptr, workspace.launch(), error_));
    // Two chunks of uneven length, as a prefill would bring them.
    const int64_t element = think_dtype_bytes(shape_.dtype), cut = shape_.tokens / 3;
    for (const bool second : {false, true}) {
      const int64_t begin = second ? cut : 0, count = second ? shape_.tokens - cut : cut;
      think_tensor query = query_.tensor(), key = key_.tensor();
      for (think_tensor *tensor : {&query, &key}) {
        tensor->data = static_cast<std::byte *>(tensor->data) + begin * tensor->stride[2] * element;
        tensor->extent[2] = count;
      }
      error_.check(think_score_update(plan_.get(), &query, &key, nullptr, state_, workspace.launch(), error_));
    }
    score_.resize(static_cast<size_t>(shape_.kv_heads * shape_.key_channels));
    placed_score_ = room_.copy(score_);
    error_.check(think_score_finish(plan_.get(), state_, nullptr, nullptr, placed_score_, workspace.launch(), error_));
    score_ = room_.fetch(placed_score_, score_.size());
    std::vector<double> expected(score_.size());
    score::reference::score(inner_shape(), query_.numbers.data(), key_.numbers.data(), shape_.tokens, false, expected.data());
    record_("score", distance(score_.data(), expected.data(), expected.size()), kSumLimit);
  }

  // In double, from all rows at once; its gains stand in where a device has no kernel for them.
  void measure_references() {
    const int32_t channels = shape_.key_channels, value_channels = shape_.value_channels;
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
      key_gains_.insert(key_gains_.end(), expected.begin(), expected.end());
      references_.push_back(std::move(one));
    }
  }

  void moments() {
    int64_t bytes = 0;
    error_.check(think_moments_size(plan_.get(), 1, &bytes, error_));
    void *state = room_.make(bytes);
    think_tensor window = THINK_TENSOR_INIT;
    error_.check(think_score_window(plan_.get(), state_, 1, &window, error_));
    const Call workspace(room_, plan_, THINK_STAGE_MOMENTS, shape_.tokens, 1);
    error_.check(think_moments(plan_.get(), &window, &source_.placed, nullptr, nullptr, state, workspace.launch(), error_));
    float *placed = room_.copy(std::vector<float>(key_gains_.size()));
    error_.check(think_gains(plan_.get(), state, nullptr, THINK_KEYS, placed_score_, placed, nullptr, workspace.launch(), error_));
    const std::vector<float> gains = room_.fetch(placed, key_gains_.size());
    for (int32_t head = 0; head < shape_.kv_heads; ++head) {
      const size_t first = static_cast<size_t>(head) * shape_.key_channels;
      record_("gains", distance(gains.data() + first, key_gains_.data() + first, static_cast<size_t>(shape_.key_channels)),
              kGainLimit);
    }
    key_gains_ = gains;
    moments_ = state;
  }

  int32_t channels_of(int32_t side) const { return side == THINK_KEYS ? shape_.key_channels : shape_.value_channels; }

  void select(int32_t side) {
    const bool keys = side == THINK_KEYS;
    const int32_t channels = channels_of(side), step = 8;
    const Call workspace(room_, plan_, THINK_STAGE_SELECT, shape_.tokens, 1);
    // Values have no score of their own here: any numbers make a valid choice.
    std::vector<float> score = score_;
    if (!keys) {
      score.resize(static_cast<size_t>(shape_.kv_heads * channels));
      for (float &number : score) number = static_cast<float>(generator_.uniform());
    }
    std::vector<int32_t> kept(static_cast<size_t>(shape_.kv_heads), channels / 2);
    int32_t *placed_kept = room_.copy(kept);
    if (keys) {
      think_budget_options options = THINK_BUDGET_OPTIONS_INIT;
      options.total = static_cast<int64_t>(shape_.kv_heads) * channels / 2;
      error_.check(think_budgets(plan_.get(), room_.copy(key_gains_), nullptr, side, &options, placed_kept, workspace.launch(), error_));
      kept = room_.fetch(placed_kept, kept.size());
      std::vector<int32_t> expected(kept.size());
      const std::vector<double> gains(key_gains_.begin(), key_gains_.end());
      select::reference::budgets({1, 1, shape_.kv_heads, channels, step, step, options.total, false}, gains.data(), expected.data());
      record_("budgets", unequal(kept.data(), expected.data(), kept.size() * sizeof(int32_t)), 0);
    } else {
      for (int32_t &width : kept) width = width / step * step;
      placed_kept = room_.copy(kept);
    }
    PlacedBasis &basis = chosen_[side];
    basis.bind(room_, plan_, side);
    think_select_options options = THINK_SELECT_OPTIONS_INIT;
    options.side = side;
    error_.check(think_select(plan_.get(), room_.copy(score), nullptr, &options, placed_kept, &basis.basis, nullptr, workspace.launch(), error_));
    basis.fetch(room_, plan_);
    for (int32_t head = 0; head < shape_.kv_heads; ++head) {
      std::vector<int32_t> expected_index(static_cast<size_t>(channels));
      select::reference::select(channels, score.data() + static_cast<int64_t>(head) * channels, kept[head], select::Pairs::none,
                                expected_index.data());
      record_("select",
              basis.mirror.kept[head] == kept[head]
                  ? unequal(basis.mirror.index + static_cast<int64_t>(head) * channels, expected_index.data(), expected_index.size() * sizeof(int32_t))
                  : INFINITY,
              0);
    }
  }

  void fit(int32_t side) {
    const bool keys = side == THINK_KEYS;
    const int32_t channels = channels_of(side);
    PlacedBasis &chosen = chosen_[side];
    const Call workspace(room_, plan_, THINK_STAGE_FIT, shape_.tokens, 1);
    think_fit_options options = THINK_FIT_OPTIONS_INIT;
    options.side = side;
    error_.check(think_fit(plan_.get(), moments_, nullptr, &options, &chosen.basis, workspace.launch(), error_));
    chosen.fetch(room_, plan_);
    const think_basis &basis = chosen.mirror;
    for (int32_t head = 0; head < shape_.kv_heads; ++head) {
      const int32_t width = basis.kept[head], dropped = channels - width;
      if (dropped == 0) continue;
      const References &one = references_[head];
      std::vector<double> weight(static_cast<size_t>(dropped) * width), offset(static_cast<size_t>(dropped));
      fit::reference::fit(channels, keys ? one.key_mean.data() : one.value_mean.data(),
                          keys ? one.key_covariance.data() : one.value_covariance.data(),
                          basis.index + static_cast<int64_t>(head) * channels, width, 1e-3, weight.data(), offset.data());
      const int64_t row = (width + 7) / 8 * 8;
      const auto *block = reinterpret_cast<const uint16_t *>(static_cast<const std::byte *>(basis.weight) + basis.weight_offset[head]);
      std::vector<float> result(weight.size());
      for (int32_t p = 0; p < dropped; ++p) {
        for (int32_t i = 0; i < width; ++i) result[static_cast<size_t>(p) * width + i] = f16_to_f32(block[p * row + i]);
      }
      const double limit = kWeightLimit;
      record_("fit", distance(result.data(), weight.data(), weight.size()), limit);
      record_("fit", distance(basis.offset + static_cast<int64_t>(head) * channels + width, offset.data(), offset.size()), limit);
    }
  }

  // Memory for `rows` compact rows whose heads keep so many channels together.
  void make_compact(int32_t rows, int64_t key_total, int64_t value_total, PlacedBasis &key_basis, PlacedBasis &value_basis) {
    think_layout_info info = THINK_LAYOUT_INFO_INIT;
    error_.check(think_layout(plan_.get(), nullptr, rows, key_total, value_total, &info, error_));
    key_bytes_ = info.key_page_bytes;
    value_bytes_ = info.value_page_bytes;
    think_segment &compact = compact_.placed;
    compact.key_layout = THINK_TILES;
    compact.page_tokens = rows;
    compact.key_dtype = compact.value_dtype = shape_.dtype;
    compact.key = room_.make(key_bytes_);
    compact.value = room_.make(value_bytes_);
    compact.key_stride[0] = key_bytes_;
    compact.value_stride[0] = value_bytes_;
    compact.key_head_offset = room_.copy(std::vector<int64_t>(static_cast<size_t>(shape_.kv_heads)));
    compact.value_head_offset = room_.copy(std::vector<int64_t>(static_cast<size_t>(shape_.kv_heads)));
    compact.key_basis = &key_basis.basis;
    compact.value_basis = &value_basis.basis;
    compact_rows_ = rows;
    compact.lengths = number(rows);
  }

  // What lies there afterwards must be what the reference stores with the same choice of channels.
  void check_compact(PlacedBasis &key_basis, PlacedBasis &value_basis) {
    key_basis.fetch(room_, plan_);
    value_basis.fetch(room_, plan_);
    keys_ = Buffer(key_bytes_);
    values_ = Buffer(value_bytes_);
    room_.get(keys_.data(), compact_.placed.key, key_bytes_);
    room_.get(values_.data(), compact_.placed.value, value_bytes_);
    key_offset_ = room_.fetch(compact_.placed.key_head_offset, static_cast<size_t>(shape_.kv_heads));
    value_offset_ = room_.fetch(compact_.placed.value_head_offset, static_cast<size_t>(shape_.kv_heads));
    compact_.host = compact_.placed;
    compact_.host.key = keys_.data();
    compact_.host.value = values_.data();
    compact_.host.key_head_offset = key_offset_.data();
    compact_.host.value_head_offset = value_offset_.data();
    compact_.host.key_basis = &key_basis.mirror;
    compact_.host.value_basis = &value_basis.mirror;
    compact_.host.lengths = &compact_rows_;

    Buffer expected_keys(key_bytes_, true), expected_values(value_bytes_, true);
    // The reference moves rows to rows of the same number: the source begins behind the sinks.
    compact::Arguments arguments = {inner_shape(), source_.host, compact_.host, kOneSequence};
    arguments.source.flags = 0;
    arguments.source.key = static_cast<std::byte *>(source_.host.key) + first_ * source_.host.key_stride[2];
    arguments.source.value = static_cast<std::byte *>(source_.host.value) + first_ * source_.host.value_stride[2];
    arguments.destination.key = expected_keys.data();
    arguments.destination.value = expected_values.data();
    compact::reference::compact(arguments);
    record_("compact", unequal(keys_.data(), expected_keys.data(), static_cast<size_t>(key_bytes_)), 0);
    record_("compact", unequal(values_.data(), expected_values.data(), static_cast<size_t>(value_bytes_)), 0);
  }

  void prune() {
    think_prune_options options = THINK_PRUNE_OPTIONS_INIT;
    options.value_kept = shape_.value_channels / 16 * 8;
    options.dense_limit = -1;
    think_prune_result preview = THINK_PRUNE_RESULT_INIT;
    error_.check(think_prune_preview(plan_.get(), nullptr, shape_.tokens, &options, &preview, error_));
    first_ = static_cast<int32_t>(preview.first);
    key_basis_.bind(room_, plan_, THINK_KEYS);
    value_basis_.bind(room_, plan_, THINK_VALUES);
    make_compact(static_cast<int32_t>(preview.rows), preview.key_total, preview.value_total, key_basis_, value_basis_);
    const Call workspace(room_, plan_, THINK_STAGE_PRUNE, shape_.tokens, 1);
    error_.check(
        think_prune(plan_.get(), state_, &source_.placed, &compact_.placed, nullptr, &options, nullptr, workspace.launch(), error_));
    check_compact(key_basis_, value_basis_);
    const int64_t widths = std::accumulate(key_basis_.mirror.kept, key_basis_.mirror.kept + shape_.kv_heads, int64_t{0});
    record_("prune", widths == preview.key_total ? 0 : INFINITY, 0);
  }

  void prune_by_hand() {
    first_ = kSinks;
    const int32_t rows = (shape_.tokens - kSinks - kRecent) / 32 * 32;
    make_compact(rows, std::accumulate(chosen_[0].mirror.kept, chosen_[0].mirror.kept + shape_.kv_heads, int64_t{0}),
                 std::accumulate(chosen_[1].mirror.kept, chosen_[1].mirror.kept + shape_.kv_heads, int64_t{0}), chosen_[0], chosen_[1]);
    const Call workspace(room_, plan_, THINK_STAGE_COMPACT, shape_.tokens, 1);
    error_.check(think_segment_place(plan_.get(), &compact_.placed, nullptr, workspace.launch(), error_));
    think_segment rows_behind = source_.placed;
    rows_behind.flags = 0;
    rows_behind.key = static_cast<std::byte *>(rows_behind.key) + first_ * rows_behind.key_stride[2];
    rows_behind.value = static_cast<std::byte *>(rows_behind.value) + first_ * rows_behind.value_stride[2];
    error_.check(think_compact(plan_.get(), &rows_behind, &compact_.placed, nullptr, workspace.launch(), error_));
    check_compact(chosen_[0], chosen_[1]);
  }

  // The last queries on the compact prefix, the sinks and the causal recent rows, with a sink logit.
  void attend() {
    recent_begin_ = first_ + compact_rows_;
    recent_rows_ = shape_.tokens - recent_begin_;
    Segment sinks = source_, recent = source_;
    sinks.placed.flags = sinks.host.flags = 0;
    sinks.placed.lengths = number(first_);
    sinks.host.lengths = &first_;
    recent.placed.first = number(recent_begin_);
    recent.placed.lengths = number(recent_rows_);
    recent.host.first = &recent_begin_;
    recent.host.lengths = &recent_rows_;
    std::vector<float> sink_logit(static_cast<size_t>(shape_.query_heads));
    for (float &logit : sink_logit) logit = static_cast<float>(generator_.normal());
    check_attend({compact_, sinks, recent}, &sink_logit, "attend");
  }

  void check_attend(const std::vector<Segment> &segments, const std::vector<float> *sink_logit, const char *name) {
    std::vector<think_segment> placed, host;
    for (const Segment &segment : segments) {
      placed.push_back(segment.placed);
      host.push_back(segment.host);
    }
    think_tensor query = query_.tensor(), host_query = query_.host_tensor();
    for (think_tensor *tensor : {&query, &host_query}) {
      tensor->data = static_cast<std::byte *>(tensor->data) + (shape_.tokens - kQueries) * tensor->stride[2] * think_dtype_bytes(shape_.dtype);
      tensor->extent[2] = kQueries;
    }
    const size_t rows = static_cast<size_t>(shape_.query_heads) * kQueries;
    std::vector<float> result(rows * shape_.value_channels), expected(result.size()), lse(rows), expected_lse(rows);
    float *placed_result = room_.copy(result), *placed_lse = room_.copy(lse);
    const think_tensor output = packed_tensor(placed_result, THINK_F32, shape_.query_heads, kQueries, shape_.value_channels);
    const Call workspace(room_, plan_, THINK_STAGE_ATTEND, 2 * shape_.tokens, kQueries);
    error_.check(think_attend(plan_.get(), &query, nullptr, placed.data(), static_cast<int32_t>(placed.size()),
                              sink_logit ? room_.copy(*sink_logit) : nullptr, &output, placed_lse, workspace.launch(), error_));
    result = room_.fetch(placed_result, result.size());
    lse = room_.fetch(placed_lse, rows);
    attend::Arguments arguments = {inner_shape(), host_query, packed_tensor(expected.data(), THINK_F32, shape_.query_heads, kQueries, shape_.value_channels),
                                   kOneSequence, host.data(), static_cast<int32_t>(host.size()), sink_logit ? sink_logit->data() : nullptr,
                                   expected_lse.data()};
    attend::reference::attend(arguments);
    const double limit = attend_limit(room_.on_device(), shape_.dtype);
    record_(name, distance(result.data(), expected.data(), expected.size()), limit);
    record_(name, distance(lse.data(), expected_lse.data(), expected_lse.size()), limit);
  }

  // Two halves of a random result, merged.
  void merge() {
    const size_t rows = static_cast<size_t>(shape_.query_heads) * kQueries;
    std::vector<std::vector<float>> outputs(2, std::vector<float>(rows * shape_.value_channels)), lses(2, std::vector<float>(rows));
    for (int half = 0; half < 2; ++half) {
      for (float &number : outputs[half]) number = static_cast<float>(generator_.normal());
      for (float &number : lses[half]) number = static_cast<float>(3 * generator_.normal());
    }
    const auto tensor = [&](float *numbers) { return packed_tensor(numbers, THINK_F32, shape_.query_heads, kQueries, shape_.value_channels); };
    const std::vector<think_tensor> host_parts = {tensor(outputs[0].data()), tensor(outputs[1].data())},
                                    parts = {tensor(room_.copy(outputs[0])), tensor(room_.copy(outputs[1]))};
    const float *const host_lses[] = {lses[0].data(), lses[1].data()}, *const part_lses[] = {room_.copy(lses[0]), room_.copy(lses[1])};
    std::vector<float> result(outputs[0].size()), expected(result.size()), lse(rows), expected_lse(rows);
    float *placed_result = room_.copy(result), *placed_lse = room_.copy(lse);
    const think_tensor output = tensor(placed_result);
    const Call workspace(room_, plan_, THINK_STAGE_ATTEND, shape_.tokens, kQueries);
    error_.check(think_merge(plan_.get(), parts.data(), part_lses, 2, &output, placed_lse, workspace.launch(), error_));
    result = room_.fetch(placed_result, result.size());
    lse = room_.fetch(placed_lse, rows);
    attend::reference::merge({inner_shape(), host_parts.data(), host_lses, 2, tensor(expected.data()), expected_lse.data()});
    record_("merge", distance(result.data(), expected.data(), expected.size()), kSumLimit);
    record_("merge", distance(lse.data(), expected_lse.data(), expected_lse.size()), kSumLimit);
  }

  struct References {
    std::vector<double> key_mean, key_covariance, query_moment, value_mean, value_covariance;
  };

  SelftestShape shape_;
  const SelftestRecord &record_;
  const SelftestSkip &skip_;
  Generator generator_;
  Room room_;  // before what lies in it
  Context context_;
  Plan plan_;
  Array query_, key_, value_;
  Segment source_, compact_;
  ErrorRecord error_;
  void *state_ = nullptr, *moments_ = nullptr;
  float *placed_score_ = nullptr;
  PlacedBasis chosen_[2], key_basis_, value_basis_;  // chosen_: by side
  Buffer keys_, values_;                             // copies for the reference
  int64_t key_bytes_ = 0, value_bytes_ = 0;
  std::vector<int64_t> key_offset_, value_offset_;
  std::vector<float> score_, key_gains_;
  std::vector<References> references_;
  int32_t first_ = 0, compact_rows_ = 0, recent_begin_ = 0, recent_rows_ = 0;
};

}  // namespace

void selftest_layer(const SelftestShape &shape, const SelftestTarget &target, const SelftestRecord &record, const SelftestSkip &skip) {
  LayerTest(shape, target, record, skip).run();
}

}  // namespace think::cli
