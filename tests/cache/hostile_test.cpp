// Files that somebody has made: the digest is right, one thing in them is not. What addresses are made of is refused; what is only a number may be anything,
// and whatever is done with the sequence then stays inside its memory (asan preset).
#include <numeric>

#include "changed_file.h"
#include "file.h"

namespace cache_test {
namespace {

class Hostile {
 public:
  explicit Hostile(const Settings &settings) : site_(settings), engine_(settings, site_) {
    fill(engine_);
    bytes_ = saved(engine_, 0);
    EXPECT_EQ(bytes_, ChangedFile(bytes_).repaired()) << "the digest as this test understands it";
  }
  ChangedFile file() const { return ChangedFile(bytes_); }

  void refused(const std::string &bytes) {
    const think_cache_info before = engine_.usage();
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(THINK_E_FORMAT, load(engine_.cache(), 2, bytes, &error));
    EXPECT_EQ(nullptr, std::strstr(error.message, "digest")) << "the digest was not repaired";
    const think_cache_info after = engine_.usage();
    EXPECT_EQ(before.tokens, after.tokens);
    EXPECT_EQ(before.page_bytes + before.basis_bytes + before.score_bytes, after.page_bytes + after.basis_bytes + after.score_bytes);
    engine_.expect_counted();
  }

  // Everything that a sequence can go through: steps that fold it and fit it again, attention, a prune, a copy, a file. The numbers mean nothing.
  void harmless(const std::string &bytes) {
    think_error error = THINK_ERROR_INIT;
    ASSERT_EQ(THINK_OK, load(engine_.cache(), 2, bytes, &error)) << error.message;
    const Settings &settings = engine_.settings();
    THINK_CALL(think_cache_fork, engine_.cache(), 2, 3);
    for (int step = 0; step < 16; ++step) {
      ASSERT_EQ(THINK_OK, engine_.begin({2, 3}, {5, 2}, &error)) << error.message;
      for (int32_t layer = 0; layer < settings.options.layers; ++layer) {
        engine_.append(layer);
        const flow::Tensor query = engine_.query_rows(layer, Engine::Rows::rectangular);
        flow::Tensor output(THINK_F32, 2, settings.problem.query_heads, 5, engine_.value_channels(), flow::Order::tokens_first, 3);
        THINK_CALL(think_cache_attend, engine_.cache(), layer, query.view(), nullptr, output.view(), nullptr, engine_.launch());
      }
    }
    const int32_t sequence = 2;
    const think_status status = think_cache_prune(engine_.cache(), &sequence, 1, engine_.launch(), &error);
    EXPECT_TRUE(status == THINK_OK || status == THINK_E_STATE) << error.message;
    const int64_t tokens = engine_.usage(2).tokens;
    flow::Tensor key(THINK_F32, 1, settings.problem.kv_heads, tokens, settings.problem.key_channels);
    flow::Tensor value(THINK_F32, 1, settings.problem.kv_heads, tokens, engine_.value_channels());
    for (int32_t layer = 0; layer < settings.options.layers; ++layer) {
      THINK_CALL(think_cache_export_dense, engine_.cache(), 2, layer, int64_t{0}, tokens, key.view(), value.view(), nullptr);
    }
    saved(engine_, 2);
    engine_.drop(2);
    engine_.drop(3);
    engine_.expect_counted();
  }

 private:
  Site site_;
  Engine engine_;
  std::string bytes_;
};

std::vector<Settings> kinds_of_files() {
  std::vector<Settings> all = {pruned_settings(0, 0), pruned_settings(THINK_U4, THINK_U8), pruned_settings(THINK_U8, 0)};
  all.push_back(pruned_settings(0, 0));
  all.back().prune.mode = THINK_MODE_CHANNELS;
  return all;
}

TEST(Hostile, WhatAddressesAreMadeOf) {
  constexpr int32_t kLeast = INT32_MIN, kMost = INT32_MAX;
  const struct {
    const char *tensor;
    int64_t index;  // from the end where negative
    std::vector<int32_t> values;
  } cases[] = {
      {"kept", 0, {0, -1, 1, 7, 33, 64, kLeast, kMost}},
      {"kept", -1, {0, -8, 1, 31, 40, kLeast, kMost}},
      {"index", 0, {-1, 32, 31, 1 << 16, kLeast, kMost}},
      {"index", 5, {-1, 32, 0, kLeast, kMost}},
      {"index", -1, {-1, 32, 0, kLeast, kMost}},
      {"fitted", 0, {-1, 2, 256, kLeast, kMost}},
      {"fitted", -1, {-1, 2, kLeast, kMost}},
  };
  for (const Settings &settings : kinds_of_files()) {
    Hostile hostile(settings);
    for (const auto &one : cases) {
      for (const char *place : {"layers.0.runs.0.key.", "layers.0.runs.0.value.", "layers.1.runs.1.key."}) {
        for (const int32_t value : one.values) {
          SCOPED_TRACE(testing::Message() << place << one.tensor << "[" << one.index << "] = " << value);
          ChangedFile file = hostile.file();
          int32_t *number = file.at<int32_t>(std::string(place) + one.tensor, one.index);
          ASSERT_NE(nullptr, number);
          if (*number == value) continue;
          *number = value;
          hostile.refused(file.repaired());
        }
      }
    }
    // Channels from one head to another: the total is right, the choice, or what lies behind it, is not.
    for (const char *side : {"key", "value"}) {
      ChangedFile file = hostile.file();
      const std::string basis = std::string("layers.0.runs.0.") + side;
      int32_t *kept = file.at<int32_t>(basis + ".kept", 0), *fitted = file.at<int32_t>(basis + ".fitted", 0);
      kept[0] -= 8, kept[1] += 8;
      hostile.refused(file.repaired());
      // The choice is right then. Predictions have other places, or there were none.
      for (int head = 0; head < 2; ++head) std::iota(file.at<int32_t>(basis + ".index", 32 * head), file.at<int32_t>(basis + ".index", 32 * head) + 32, 0);
      const bool predicts = fitted[0] || fitted[1];
      EXPECT_EQ(settings.prune.mode == THINK_MODE_REGRESSED, predicts);
      if (predicts) hostile.refused(file.repaired());
      if (!predicts) {  // a cache of this mode has no place for predictions
        ChangedFile predicting = hostile.file();
        *predicting.at<int32_t>(basis + ".fitted", 0) = 1;
        hostile.refused(predicting.repaired());
      }
      fitted[0] = fitted[1] = 0;
      if (predicts) hostile.refused(file.repaired());
    }
    for (const int64_t tokens : {int64_t{-1}, INT64_MIN, INT64_MAX, INT64_MAX - 3}) {
      SCOPED_TRACE(testing::Message() << tokens << " tokens");
      ChangedFile file = hostile.file();
      int64_t *seen = file.at<int64_t>("layers.1.scores.tokens", 0);
      ASSERT_NE(nullptr, seen);
      *seen = tokens;
      hostile.refused(file.repaired());
    }
  }
}

// A scale that is none would make every row of its head NaN, infinite or nothing.
TEST(Hostile, ScalesOfF8) {
  Hostile hostile(pruned_settings(THINK_F8_E4M3, THINK_F8_E4M3));
  for (const char *tensor : {"layers.0.runs.0.key.scale", "layers.1.runs.1.value.scale"}) {
    for (const float value : {0.0f, -1.0f, 1e-40f, 3e38f, INFINITY, -INFINITY, NAN}) {
      SCOPED_TRACE(testing::Message() << tensor << " = " << value);
      ChangedFile file = hostile.file();
      float *number = file.at<float>(tensor, -1);
      ASSERT_NE(nullptr, number);
      *number = value;
      hostile.refused(file.repaired());
    }
  }
}

TEST(Hostile, NumbersOfTheSequence) {
  const struct {
    const char *name;
    std::vector<const char *> texts;
  } cases[] = {
      {"dense_rows", {"0", "3", "32", "64", "999", "2147483647", "-1", "", "1e3", "0x10", "007"}},
      {"runs", {"0", "1", "3", "4", "2147483647", "-1"}},
      {"runs.0.kind", {"0", "1", "2", "4", "5", "8", "2147483647", "-1"}},
      {"runs.0.rows", {"0", "31", "33", "64", "2147483616", "2147483647", "4294967296", "-32"}},
      {"runs.1.folds", {"-1", "9", "2147483647", "99999999999999999999"}},
      {"scores", {"0", "2", "-1"}},
      {"layers", {"1", "3", "0", "-1"}},
      {"version", {"0", "2", "-1", ""}},
  };
  for (const Settings &settings : kinds_of_files()) {
    Hostile hostile(settings);
    for (const auto &one : cases) {
      for (const char *text : one.texts) {
        SCOPED_TRACE(testing::Message() << one.name << " = " << text);
        ChangedFile file = hostile.file();
        ASSERT_TRUE(file.describe(one.name, text));
        hostile.refused(file.repaired());
      }
    }
    ChangedFile file = hostile.file();
    ASSERT_TRUE(file.describe("runs.1.folds", "0"));
    hostile.harmless(file.repaired());
  }
}

TEST(Hostile, WhatIsOnlyANumberMayBeAnything) {
  for (const Settings &settings : kinds_of_files()) {
    Hostile hostile(settings);
    for (const uint16_t pattern : {0x0000, 0xFFFF, 0x7C00, 0x7BFF, 0x8001}) {  // NaN, infinity, the largest, a denormal; of 32 bits too
      for (const char *name : {"layers.0.dense.key", "layers.1.dense.value", "layers.0.runs.0.key", "layers.1.runs.1.value", "layers.0.scores.square_sum",
                               "layers.1.scores.window"}) {
        SCOPED_TRACE(testing::Message() << name << " " << pattern);
        ChangedFile file = hostile.file();
        ASSERT_NE(nullptr, file.at<uint16_t>(name, 0)) << name;
        for (int64_t index = 0; index < 60; ++index) *file.at<uint16_t>(name, index) = pattern;
        hostile.harmless(file.repaired());
      }
    }
    // Weights and offsets are read where a head predicts, and must be zero where it does not.
    for (const char *name : {"layers.0.runs.0.key.weight", "layers.0.runs.0.key.offset"}) {
      ChangedFile file = hostile.file();
      const bool predicts = *file.at<int32_t>("layers.0.runs.0.key.fitted", 0) != 0, offset = std::strstr(name, "offset") != nullptr;
      *file.at<uint16_t>(name, offset ? 63 : 0) = 0x7FFF;  // of the last channel, a dropped one
      predicts ? hostile.harmless(file.repaired()) : hostile.refused(file.repaired());
      ChangedFile other = hostile.file();
      *other.at<uint16_t>(name, offset ? 0 : -1) = 0x7FFF;
      hostile.refused(other.repaired());
    }
  }
}

}  // namespace
}  // namespace cache_test
