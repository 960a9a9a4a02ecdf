// Rows before channels: every method of think_evict(), and the move in place of what it chose, on the device and on the CPU.
#include "device.h"

namespace think::gpu_test {
namespace {

constexpr int32_t kQueryHeads = 6, kHeads = 3, kKeyChannels = 64, kValueChannels = 40, kBatch = 2, kTokens = 200, kWindow = 32;
constexpr int32_t kBudget = 140;  // more than the second sequence has
constexpr int64_t kScores = int64_t{kBatch} * kHeads * kTokens;

struct Outcome {
  std::vector<int32_t> kept, lengths;
  std::vector<uint16_t> keys, values;
  std::vector<float> score;
};

Outcome evict(const cli::Driver *driver, int32_t method) {
  think_problem problem = problem_of(kQueryHeads, kHeads, kKeyChannels, kBatch, kTokens);
  problem.value_channels = kValueChannels;
  problem.window = kWindow;
  Bench bench(driver, problem);
  think_launch launch = bench.launch(THINK_STAGE_EVICT);
  think_batch batch = THINK_BATCH_INIT;
  batch.count = kBatch;
  const size_t key_numbers = kScores * kKeyChannels, value_numbers = kScores * kValueChannels;
  uint16_t *query = bench.copy(random_rows(kBatch * kQueryHeads * kWindow, kKeyChannels, 1)), *key = bench.copy(random_rows(kScores, kKeyChannels, 2)),
           *value = bench.copy(random_rows(kScores, kValueChannels, 3));
  const think_tensor window = tensor_of(query, THINK_F16, kBatch, kQueryHeads, kWindow, kKeyChannels);
  think_segment rows = THINK_SEGMENT_INIT;
  rows.flags = THINK_SEGMENT_CAUSAL;
  rows.key = key, rows.value = value;
  rows.key_dtype = rows.value_dtype = THINK_F16;
  rows.key_stride[1] = kTokens * kKeyChannels * 2, rows.key_stride[0] = kHeads * rows.key_stride[1];
  rows.value_stride[1] = kTokens * kValueChannels * 2, rows.value_stride[0] = kHeads * rows.value_stride[1];
  rows.page_tokens = kTokens;
  rows.lengths = bench.copy(std::vector<int32_t>{200, 133});
  think_evict_options choice = THINK_EVICT_OPTIONS_INIT;
  choice.method = method;
  choice.budget = kBudget;
  choice.score_stride = kTokens;
  const bool recent = method == THINK_EVICT_RECENT;
  int32_t *kept = bench.copy(std::vector<int32_t>(kBatch * kHeads * kBudget, -1)), *lengths = bench.copy(std::vector<int32_t>(kBatch * kHeads));
  float *score = recent ? nullptr : bench.copy(std::vector<float>(kScores));
  THINK_OK_OR_SKIP(think_evict, bench, recent ? nullptr : &window, &rows, &batch, &choice, nullptr, score, kept, lengths, &launch);
  // H2O again, by the sums that are there.
  if (method == THINK_EVICT_H2O) THINK_OK_OR_SKIP(think_evict, bench, nullptr, &rows, &batch, &choice, nullptr, score, kept, lengths, &launch);
  think_segment left = rows;
  left.lengths = lengths;
  left.lengths_stride[0] = kHeads, left.lengths_stride[1] = 1;
  THINK_OK_OR_SKIP(think_evict_move, bench, &rows, &left, &batch, kept, kBudget, score, kTokens, &launch);
  return {bench.fetch(kept, kBatch * kHeads * kBudget), bench.fetch(lengths, kBatch * kHeads), bench.fetch(key, key_numbers),
          bench.fetch(value, value_numbers), score ? bench.fetch(score, kScores) : std::vector<float>()};
}

TEST(Evict, EveryMethodAsTheCpu) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    for (const int32_t method : {THINK_EVICT_SNAPKV, THINK_EVICT_H2O, THINK_EVICT_WINDOW, THINK_EVICT_TOVA, THINK_EVICT_RECENT}) {
      SCOPED_TRACE(method);
      const Outcome device = evict(&driver, method), cpu = evict(nullptr, method);
      EXPECT_EQ(cpu.lengths, device.lengths);
      EXPECT_EQ(cpu.lengths, (std::vector<int32_t>{kBudget, kBudget, kBudget, 133, 133, 133}));
      ASSERT_EQ(cpu.kept, device.kept);
      EXPECT_EQ(cpu.keys, device.keys);
      EXPECT_EQ(cpu.values, device.values);
      for (size_t i = 0; i < cpu.score.size(); ++i) ASSERT_NEAR(cpu.score[i], device.score[i], 1e-5f + 2e-5f * std::fabs(cpu.score[i])) << i;
    }
  });
}

}  // namespace
}  // namespace think::gpu_test
