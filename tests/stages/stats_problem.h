// Shared by the tests of moments, select and fit: threads, guarded memory, and the recorded problems of tests/vectors/stats.json.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "kernels/common/element.h"
#include "kernels/common/parallel.h"
#include "kernels/common/shape.h"

namespace think::test {

inline void run_on_threads(void *self, int64_t count, think_task task, void *arg) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t index; (index = next++) < count;) task(arg, index);
  };
  std::vector<std::thread> threads;
  for (int32_t i = 1; i < *static_cast<int32_t *>(self); ++i) threads.emplace_back(work);
  work();
  for (auto &thread : threads) thread.join();
}

// Threads started for every loop: slow, but different in order from run to run.
struct Threads {
  int32_t count;
  Parallel parallel() { return {count, run_on_threads, &count}; }
};

// Every way of lying in memory, one per bit of `mask` (0 .. 15), with a sequence of no tokens among others.
template <class Options>
Options layout_options(int mask) {
  Options options;
  options.lengths = {100, 0, 171, 68, 33};
  options.pages = mask & 1;
  options.slots = mask & 2;
  options.ragged_heads = mask & 4;
  options.token_major = mask & 8;
  options.first = mask % 3 ? 0 : 7;
  return options;
}

// Exactly `bytes` bytes, aligned to 64, filled with ones (NaN in every float type), between guards that must not change.
class Guarded {
 public:
  explicit Guarded(int64_t bytes) : bytes_(bytes), memory_(bytes + 3 * kGuard, static_cast<char>(0xff)) {
    void *start = memory_.data() + kGuard;
    size_t room = memory_.size() - kGuard;
    start_ = static_cast<char *>(std::align(kGuard, bytes, start, room));
    std::memset(start_ - kGuard, 0x5a, kGuard);
    std::memset(start_ + bytes, 0x5a, kGuard);
  }
  void *data() { return start_; }
  const char *bytes() const { return start_; }
  int64_t size() const { return bytes_; }
  bool intact() const {
    for (int64_t i = 0; i < kGuard; ++i) {
      if (start_[-1 - i] != 0x5a || start_[bytes_ + i] != 0x5a) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kGuard = 64;
  int64_t bytes_;
  std::vector<char> memory_;
  char *start_;
};

inline Shape make_shape(int32_t kv_heads, int32_t group, int32_t key_channels, int32_t value_channels, int32_t window = 32) {
  Shape shape{};
  shape.kv_heads = kv_heads;
  shape.group = group;
  shape.query_heads = kv_heads * group;
  shape.key_channels = key_channels;
  shape.value_channels = value_channels;
  shape.window = window;
  shape.max_batch = 16;
  shape.max_tokens = 1 << 20;
  shape.max_queries = 1;
  shape.query_dtype = shape.output_dtype = THINK_F32;
  shape.cache_dtype = THINK_F16;
  shape.scale = 1.0f / __builtin_sqrtf(static_cast<float>(key_channels));
  return shape;
}

// A problem of tests/vectors/stats.py with its solution.
struct Recorded {
  nlohmann::json json;
  int32_t heads, group, channels, tokens, window;
  std::vector<uint16_t> query, key, value;  // f16: [heads * group][window][channels], [heads][tokens][channels]

  template <class T>
  std::vector<T> solution(int32_t head, const char *name) const {
    return json["solution"][head][name].get<std::vector<T>>();
  }
};

inline std::vector<Recorded> recorded_problems() {
  std::ifstream file(THINK_TEST_VECTORS "/stats.json");
  const nlohmann::json all = nlohmann::json::parse(file);
  const auto halves = [](const std::string &text) {
    std::vector<uint16_t> numbers(text.size() / 4);
    for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<uint16_t>(std::stoul(text.substr(4 * i, 4), nullptr, 16));
    return numbers;
  };
  std::vector<Recorded> problems;
  for (const auto &json : all) {
    problems.push_back({json, json["heads"], json["group"], json["channels"], json["tokens"], json["window"], halves(json["query"]),
                        halves(json["key"]), halves(json["value"])});
  }
  return problems;
}

}  // namespace think::test
