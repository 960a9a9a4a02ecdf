// What the benchmarks share: options, threads, clocks, and the rows of their tables.
#pragma once

#include <time.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "kernels/common/shape.h"
#include "libthink/backend/pool.h"
#include "probe.h"

namespace think::bench {

using Json = nlohmann::ordered_json;

struct Options {
  bool quick = false;
  int32_t rounds = 7;
  int64_t footprint = int64_t{1} << 30;  // bytes that every timed pass goes through
  std::vector<int32_t> threads;          // numbers of threads to measure with
  std::string only;                      // run only the benchmark of this name
  std::string match;                     // of attend only the shapes whose progress line holds this text, of compact the cases ("keys 128, f16 to u4")
};

// Threads of the library's own pool, as a plan would have them.
class Threads {
 public:
  explicit Threads(int32_t count) : handles_(static_cast<size_t>(count)) {
    pool_.configure(handles_.data(), count - 1);
    parallel_ = {count, count > 1 ? run : nullptr, &pool_};
    if (count > 1 && !pool_.acquire()) throw std::runtime_error("a thread could not be started");
  }
  ~Threads() {
    if (parallel_.threads > 1) pool_.release();
  }
  Threads(const Threads &) = delete;
  Threads &operator=(const Threads &) = delete;
  const Parallel &parallel() const { return parallel_; }

 private:
  static void run(void *self, int64_t count, think_task task, void *arg) { static_cast<Pool *>(self)->run(count, task, arg); }
  std::vector<pthread_t> handles_;
  Pool pool_;
  Parallel parallel_;
};

// The clock on the wall, or with --cpu-time the time that this process spent on a processor: all that can be measured beside other busy programs.
inline clockid_t clock_in_use = CLOCK_MONOTONIC;

inline double now() {
  timespec time;
  clock_gettime(clock_in_use, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

template <class Body>
double seconds_of(const Body &body) {
  const double begin = now();
  body();
  return now() - begin;
}

inline double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x.size() % 2 ? x[x.size() / 2] : (x[x.size() / 2 - 1] + x[x.size() / 2]) / 2;
}
inline double minimum(const std::vector<double> &x) { return *std::min_element(x.begin(), x.end()); }

// The timed passes of one row. Each stands between two probes, in seconds per byte; where these differ by more than a tenth, the memory changed its speed
// during the pass, and the pass counts only if that was so in most of them.
class Passes {
 public:
  void add(double seconds, double probe_before, double probe_after) {
    times_.push_back(seconds);
    probes_.push_back((probe_before + probe_after) / 2);
    steady_.push_back(std::max(probe_before, probe_after) <= 1.1 * std::min(probe_before, probe_after));
  }

  const std::vector<double> &times() const { return times_; }
  const std::vector<double> &probes() const { return probes_; }
  bool counts(size_t pass) const { return steady_[pass] || 2 * std::count(steady_.begin(), steady_.end(), true) <= static_cast<int64_t>(steady_.size()); }
  // Not to be trusted after so few rounds: most passes saw a change, or the middle half of the times is wider than a tenth.
  bool restless() const {
    if (2 * std::count(steady_.begin(), steady_.end(), true) <= static_cast<int64_t>(steady_.size())) return true;
    std::vector<double> x = times_;
    std::sort(x.begin(), x.end());
    return x[x.size() * 3 / 4] > 1.1 * x[x.size() / 4];
  }

  // Medians over the passes that count. Of a quotient, both sides belong to the same pass: what drifts over time falls out.
  template <class Figure>
  double median_of(const Figure &figure) const {
    std::vector<double> figures;
    for (size_t pass = 0; pass < times_.size(); ++pass) {
      if (counts(pass)) figures.push_back(figure(pass));
    }
    return median(figures);
  }
  // How many times faster than `other`, whose passes took turns with these: rounds in which the memory had one speed for both count, if there are any.
  double speedup_over(const Passes &other) const {
    std::vector<double> all, even;
    for (size_t pass = 0; pass < times_.size(); ++pass) {
      if (!counts(pass)) continue;
      all.push_back(other.times_[pass] / times_[pass]);
      if (std::max(probes_[pass], other.probes_[pass]) <= 1.1 * std::min(probes_[pass], other.probes_[pass])) even.push_back(all.back());
    }
    return median(even.empty() ? all : even);
  }
  double seconds() const { return median_of([&](size_t pass) { return times_[pass]; }); }
  double probe() const { return median_of([&](size_t pass) { return probes_[pass]; }); }
  double probe_over_time() const { return median_of([&](size_t pass) { return probes_[pass] / times_[pass]; }); }
  double best_probe_over_time() const { return minimum(probes_) / minimum(times_); }

 private:
  std::vector<double> times_, probes_;  // probes in seconds per byte
  std::vector<char> steady_;
};

// The figures of a row: of a pass that moves so many bytes.
inline void add_figures(Json &row, const Passes &passes, double bytes) {
  row.update({{"ms", passes.seconds() * 1e3},
              {"ms_min", minimum(passes.times()) * 1e3},
              {"gb_per_s", bytes / passes.seconds() / 1e9},
              {"probe_gb_per_s", 1e-9 / passes.probe()},
              {"fraction_of_probe", bytes * passes.probe_over_time()},
              {"fraction_of_probe_best", bytes * passes.best_probe_over_time()}});
}

// Passes and probes in turns, the first round thrown away; up to three times as many where the machine is restless.
template <class Pass, class Probe>
Passes measure_passes(int32_t wanted, const Pass &pass, const Probe &probe) {
  Passes passes;
  pass();
  double before = probe();
  for (int32_t rounds = wanted, round = 0; round < rounds; ++round) {
    const double seconds = pass(), after = probe();
    passes.add(seconds, before, after);
    before = after;
    if (round + 1 == rounds && rounds < 3 * wanted && passes.restless()) rounds += wanted;
  }
  return passes;
}

// Sum over `threads` threads of the bytes per second at which each repeats body(thread) on its own data; the median of `attempts`.
template <class Body>
double cached_rate(int32_t threads, double bytes, int attempts, const Body &body) {
  std::vector<double> tries;
  for (int attempt = 0; attempt < attempts; ++attempt) {
    std::vector<double> rate(static_cast<size_t>(threads));
    std::atomic<int32_t> waiting{threads};
    std::vector<std::thread> team;
    for (int32_t t = 0; t < threads; ++t) {
      team.emplace_back([&, t] {
        for (int i = 0; i < 3; ++i) body(t);
        const double once = seconds_of([&] { body(t); });
        const int64_t repeats = std::max<int64_t>(3, static_cast<int64_t>(0.02 / std::max(once, 1e-7)));
        waiting.fetch_sub(1);
        while (waiting.load() > 0) {}
        const double seconds = seconds_of([&] {
          for (int64_t i = 0; i < repeats; ++i) body(t);
        });
        rate[static_cast<size_t>(t)] = bytes * static_cast<double>(repeats) / seconds;
      });
    }
    for (std::thread &thread : team) thread.join();
    double sum = 0;
    for (double r : rate) sum += r;
    tries.push_back(sum);
  }
  return median(tries);
}

int64_t second_cache_bytes();  // of one core

// Everything a benchmark needs; each returns one JSON object per row of its table.
struct Bench {
  const Options &options;
  int32_t isa;
  const Arena &arena;
  std::function<void(const std::string &)> progress;
};

Json attend_bench(const Bench &bench);
Json score_bench(const Bench &bench);
Json compact_bench(const Bench &bench);
Json moments_bench(const Bench &bench);

// A table of the given columns of the rows, as plain text or Markdown.
std::string table(const Json &rows, const std::vector<std::string> &columns, bool markdown);

// An aligned block of memory that belongs to one benchmark, zeroed.
class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(bytes), storage_(static_cast<size_t>(bytes + 64)) {}
  char *data() { return storage_.data() + (64 - reinterpret_cast<uintptr_t>(storage_.data()) % 64) % 64; }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  std::vector<char> storage_;
};

inline Shape make_shape(int32_t kv_heads, int32_t group, int32_t channels, int64_t tokens, think_dtype dtype) {
  Shape shape{};
  shape.query_heads = kv_heads * group;
  shape.kv_heads = kv_heads;
  shape.group = group;
  shape.key_channels = shape.value_channels = channels;
  shape.window = 32;
  shape.max_batch = shape.max_queries = 1;
  shape.max_tokens = tokens;
  shape.query_dtype = shape.output_dtype = THINK_F32;
  shape.cache_dtype = dtype;
  shape.scale = 1.0f / static_cast<float>(channels);
  return shape;
}

inline std::string shape_name(const Shape &shape) {
  return "D" + std::to_string(shape.key_channels) + " H" + std::to_string(shape.kv_heads) + " G" + std::to_string(shape.group);
}
inline const char *dtype_name(think_dtype dtype) {
  switch (dtype) {
    case THINK_F32: return "f32";
    case THINK_F16: return "f16";
    case THINK_BF16: return "bf16";
    case THINK_U8: return "u8";
    case THINK_U4: return "u4";
    case THINK_U2: return "u2";
    default: return "f8";
  }
}

inline think_tensor make_tensor(void *data, think_dtype dtype, int64_t heads, int64_t tokens, int64_t channels) {
  think_tensor tensor = THINK_TENSOR_INIT;
  tensor.data = data;
  tensor.dtype = dtype;
  const int64_t extent[4] = {1, heads, tokens, channels}, stride[4] = {heads * tokens * channels, tokens * channels, channels, 1};
  std::copy(extent, extent + 4, tensor.extent);
  std::copy(stride, stride + 4, tensor.stride);
  return tensor;
}

}  // namespace think::bench
