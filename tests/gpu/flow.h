// One layer of a batch of two sequences on a device or on the CPU: every array is made once, so that its calls can be captured, and lengths are written anew.
#pragma once

#include "device.h"

namespace think::gpu_test {

class Flow {
 public:
  static constexpr int32_t kQueryHeads = 8, kHeads = 2, kChannels = 64, kBatch = 2, kSlots = 3, kTokens = 256, kPageTokens = 64, kPages = 10, kPageStride = 5;
  static constexpr int32_t kSinks = 4, kRecent = 32, kKept = 40, kQueries = 1;

  // key, value: how the pruned rows are stored.
  explicit Flow(const cli::Driver *driver, think_dtype key = THINK_F16, think_dtype value = THINK_F16) : bench_(driver, problem()) {
    tiles_.key_dtype = key;
    tiles_.value_dtype = value;
    if (value != THINK_F16) tiles_.value_layout = THINK_TILES;
    score_launch_ = bench_.launch(THINK_STAGE_SCORE);
    select_launch_ = bench_.launch(THINK_STAGE_SELECT);
    compact_launch_ = bench_.launch(THINK_STAGE_COMPACT);
    query_ = bench_.copy(random_rows(kBatch * kQueryHeads * kTokens, kChannels, 1));
    key_ = bench_.copy(random_rows(kBatch * kHeads * kTokens, kChannels, 2));
    value_ = bench_.copy(random_rows(kBatch * kHeads * kTokens, kChannels, 3));
    batch_.count = kBatch;
    batch_.slot = bench_.copy(std::vector<int32_t>{2, 0});
    lengths_ = bench_.copy(std::vector<int32_t>(kBatch));
    int64_t bytes = 0;
    THINK_OK_OR_SKIP(think_score_state_size, bench_, kSlots, &bytes);
    state_ = bench_.make(bytes, 0);
    score_ = bench_.copy(std::vector<float>(kBatch * kHeads * kChannels));
    basis_ = bench_.basis(THINK_KEYS, kSlots);
    make_segments();
    tiles_.key_scale = bench_.copy(std::vector<float>(kSlots * kHeads, 1.0f));
    tiles_.value_scale = bench_.copy(std::vector<float>(kSlots * kHeads, 1.0f));
  }

  static think_problem problem() { return problem_of(kQueryHeads, kHeads, kChannels, kBatch, 2 * kTokens); }

  Bench &bench() { return bench_; }
  void put_lengths(const std::vector<int32_t> &lengths) {
    std::vector<int32_t> compact, recent_first, recent;
    for (const int32_t length : lengths) {
      compact.push_back(std::max(0, length - kSinks - kRecent) / 32 * 32);
      recent_first.push_back(std::min(length, kSinks) + compact.back());
      recent.push_back(length - recent_first.back());
    }
    std::vector<int32_t> sinks;
    for (const int32_t length : lengths) sinks.push_back(std::min(length, kSinks));
    bench_.put(lengths_, lengths);
    bench_.put(compact_lengths_, compact);
    bench_.put(sink_lengths_, sinks);
    bench_.put(recent_first_, recent_first);
    bench_.put(recent_lengths_, recent);
  }

  // All tokens as one chunk of that many rows.
  void score_calls() {
    const think_tensor queries = tensor_of(query_, THINK_F16, kBatch, kQueryHeads, kTokens, kChannels),
                       keys = tensor_of(key_, THINK_F16, kBatch, kHeads, kTokens, kChannels);
    THINK_OK_OR_SKIP(think_score_reset, bench_, state_, &batch_, &score_launch_);
    think_batch batch = batch_;
    batch.lengths = lengths_;
    THINK_OK_OR_SKIP(think_score_update, bench_, &queries, &keys, &batch, state_, &score_launch_);
    THINK_OK_OR_SKIP(think_score_finish, bench_, state_, &batch_, nullptr, score_, &score_launch_);
  }
  void score(const std::vector<int32_t> &lengths) {
    put_lengths(lengths);
    score_calls();
  }
  void choose_calls() {
    think_select_options options = THINK_SELECT_OPTIONS_INIT;
    options.kept = kKept;
    THINK_OK_OR_SKIP(think_select, bench_, score_, &batch_, &options, nullptr, &basis_, nullptr, &select_launch_);
  }
  void choose(const std::vector<float> &score) {
    bench_.put(score_, score);
    choose_calls();
  }
  void compact_calls() {
    THINK_OK_OR_SKIP(think_segment_place, bench_, &tiles_, &batch_, &compact_launch_);
    think_segment measured = tiles_;
    measured.flags |= THINK_SEGMENT_MEASURE;
    THINK_OK_OR_SKIP(think_compact, bench_, &rows_, &measured, &batch_, &compact_launch_);
  }
  void compact(const std::vector<int32_t> &lengths) {
    put_lengths(lengths);
    compact_calls();
  }
  // The last row of the query tensor stands for the new query, whatever the lengths are.
  void attend_calls() {
    if (!attend_launch_.workspace) prepare_attend();
    think_tensor query = tensor_of(query_ + (kTokens - kQueries) * kChannels, THINK_F16, kBatch, kQueryHeads, kQueries, kChannels);
    query.stride[0] = int64_t{kQueryHeads} * kTokens * kChannels;
    query.stride[1] = int64_t{kTokens} * kChannels;
    const think_tensor output = tensor_of(output_, THINK_F32, kBatch, kQueryHeads, kQueries, kChannels);
    const think_segment segments[] = {tiles_, sinks_, recent_};
    THINK_OK_OR_SKIP(think_attend, bench_, &query, &batch_, segments, 3, nullptr, &output, lse_, &attend_launch_);
  }
  void attend() { attend_calls(); }
  // What a capture must not do itself.
  void prepare_attend() {
    attend_launch_ = bench_.launch(THINK_STAGE_ATTEND);
    output_ = bench_.copy(std::vector<float>(kBatch * kQueryHeads * kQueries * kChannels));
    lse_ = bench_.copy(std::vector<float>(kBatch * kQueryHeads * kQueries));
  }

  std::vector<float> scores() const { return bench_.fetch(score_, kBatch * kHeads * kChannels); }
  std::vector<int32_t> kept() const { return bench_.fetch(basis_.kept, kSlots * kHeads); }
  // Of the slots of the batch; what no call has written stays out.
  std::vector<int32_t> index() const {
    std::vector<int32_t> all = bench_.fetch(basis_.index, kSlots * kHeads * kChannels);
    all.erase(all.begin() + kHeads * kChannels, all.begin() + 2 * kHeads * kChannels);
    return all;
  }
  // All bytes of the pages: tiles of codes leave some of them as they were.
  std::vector<uint16_t> keys() const { return bench_.fetch(static_cast<const uint16_t *>(tiles_.key), kPages * kHeads * kKept * kPageTokens); }
  std::vector<uint16_t> values() const { return bench_.fetch(static_cast<const uint16_t *>(tiles_.value), kPages * kHeads * kChannels * kPageTokens); }
  // What 1 of a code counts where the rows are stored as F8: keys, then values.
  std::vector<float> scales() const {
    std::vector<float> both = bench_.fetch(tiles_.key_scale, kSlots * kHeads), values = bench_.fetch(tiles_.value_scale, kSlots * kHeads);
    both.insert(both.end(), values.begin(), values.end());
    return both;
  }
  std::vector<float> output() const { return bench_.fetch(output_, kBatch * kQueryHeads * kQueries * kChannels); }
  std::vector<float> lse() const { return bench_.fetch(lse_, kBatch * kQueryHeads * kQueries); }

 private:
  void make_segments() {
    compact_lengths_ = bench_.copy(std::vector<int32_t>(kBatch));
    sink_lengths_ = bench_.copy(std::vector<int32_t>(kBatch));
    recent_first_ = bench_.copy(std::vector<int32_t>(kBatch));
    recent_lengths_ = bench_.copy(std::vector<int32_t>(kBatch));
    rows_.key = key_;
    rows_.value = value_;
    rows_.key_dtype = rows_.value_dtype = THINK_F16;
    for (int64_t *stride : {rows_.key_stride, rows_.value_stride}) {
      stride[1] = int64_t{kTokens} * kChannels * 2;
      stride[0] = kHeads * stride[1];
    }
    rows_.page_tokens = kTokens;
    rows_.slot = bench_.copy(std::vector<int32_t>{0, 1});
    sinks_ = recent_ = rows_;
    rows_.first = bench_.copy(std::vector<int32_t>{kSinks, kSinks});
    sinks_.lengths = sink_lengths_;
    recent_.first = recent_first_;
    recent_.lengths = recent_lengths_;
    recent_.flags = THINK_SEGMENT_CAUSAL;
    tiles_.key_layout = THINK_TILES;
    tiles_.key = bench_.make(int64_t{kPages} * kHeads * kKept * kPageTokens * 2);
    tiles_.value = bench_.make(int64_t{kPages} * kHeads * kChannels * kPageTokens * 2);
    tiles_.key_stride[0] = int64_t{kHeads} * kKept * kPageTokens * 2;
    tiles_.value_stride[1] = int64_t{kChannels} * kPageTokens * 2;
    tiles_.value_stride[0] = kHeads * tiles_.value_stride[1];
    tiles_.page_tokens = kPageTokens;
    tiles_.pages = bench_.copy(std::vector<int32_t>{5, 2, 7, 9, -1, 0, 3, 8, 1, -1});
    tiles_.pages_stride = kPageStride;
    tiles_.lengths = compact_lengths_;
    tiles_.key_basis = &basis_;
    tiles_.key_head_offset = bench_.copy(std::vector<int64_t>(kSlots * kHeads, -1));
  }

  Bench bench_;
  think_launch score_launch_ = THINK_LAUNCH_INIT, select_launch_ = THINK_LAUNCH_INIT, compact_launch_ = THINK_LAUNCH_INIT, attend_launch_ = THINK_LAUNCH_INIT;
  think_batch batch_ = THINK_BATCH_INIT;
  uint16_t *query_ = nullptr, *key_ = nullptr, *value_ = nullptr;
  int32_t *lengths_ = nullptr, *compact_lengths_ = nullptr, *sink_lengths_ = nullptr, *recent_first_ = nullptr, *recent_lengths_ = nullptr;
  void *state_ = nullptr;
  float *score_ = nullptr, *output_ = nullptr, *lse_ = nullptr;
  think_basis basis_ = THINK_BASIS_INIT;
  think_segment rows_ = THINK_SEGMENT_INIT, tiles_ = THINK_SEGMENT_INIT, sinks_ = THINK_SEGMENT_INIT, recent_ = THINK_SEGMENT_INIT;
};

}  // namespace think::gpu_test
