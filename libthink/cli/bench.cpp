// think bench: what pruning saves on this host. Dense and pruned attention next to a read-bandwidth probe, interleaved in one run, reported
// as ratios.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <iterator>
#include <memory>
#include <thread>

#include "bench_device.h"
#include "command.h"
#include "library.h"
#include "progress.h"

namespace think::cli {
namespace {

struct Options {
  int32_t threads = -1, tokens = 8192;
  bool quick = false;
  std::string device = "cpu";
};

struct Shape {
  const char *name;
  int32_t query_heads, kv_heads, channels;
};

constexpr Shape kShapes[] = {{"D=128, group 4", 32, 8, 128}, {"D=64, group 3", 9, 3, 64}};

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

typedef uint64_t Lanes __attribute__((vector_size(32)));

// Reads every byte once and does next to nothing with it: the bandwidth that attention can hope for.
uint64_t read_all(const std::byte *data, int64_t bytes) {
  constexpr int64_t kStep = 256, kAhead = 2048;
  Lanes sum[4] = {};
  for (int64_t at = 0; at + kStep <= bytes; at += kStep) {
    for (int64_t line = 0; line < kStep; line += 64) __builtin_prefetch(data + at + kAhead + line);
    const Lanes *lanes = reinterpret_cast<const Lanes *>(data + at);
    for (int i = 0; i < 8; ++i) sum[i % 4] ^= lanes[i];
  }
  const Lanes all = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
  return all[0] ^ all[1] ^ all[2] ^ all[3];
}

double probe_seconds(const std::vector<Buffer> &memory, int32_t threads, uint64_t &checksum) {
  std::vector<std::thread> workers;
  std::vector<uint64_t> sums(static_cast<size_t>(threads), 0);
  const auto begin = std::chrono::steady_clock::now();
  const auto work = [&](int32_t worker) {
    for (const Buffer &buffer : memory) {
      const int64_t share = buffer.size() / threads / 256 * 256;
      sums[static_cast<size_t>(worker)] ^= read_all(buffer.data() + worker * share, share);
    }
  };
  for (int32_t worker = 1; worker < threads; ++worker) workers.emplace_back(work, worker);
  work(0);
  for (std::thread &worker : workers) worker.join();
  const double seconds = seconds_since(begin);
  for (const uint64_t sum : sums) checksum ^= sum;
  return seconds;
}

// Random f16 of either sign and a magnitude from 1/8 to 1/2: any bit pattern with such an exponent.
void fill(Buffer &buffer, uint64_t seed) {
  uint64_t *words = buffer.as<uint64_t>();
  for (int64_t i = 0; i < buffer.size() / 8; ++i) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    const uint64_t mixed = seed ^ seed >> 29;
    words[i] = (mixed & 0x87ff87ff87ff87ffu) | 0x3000300030003000u;
  }
}

// One width: segments over copies of the cache, so many that no processor cache holds them all.
struct Variant {
  int32_t kept = 0;   // key channels per head; all = dense
  int64_t bytes = 0;  // of one copy, basis included
  std::vector<Buffer> memory;
  std::vector<std::vector<int64_t>> head_offset = std::vector<std::vector<int64_t>>(2);
  OwnBasis basis;
  std::vector<think_segment> segments;
  std::vector<double> seconds;
};

class ShapeBench {
 public:
  ShapeBench(const Context &context, const Shape &shape, const Options &options, int32_t threads)
      : shape_(shape),
        tokens_(options.tokens / 32 * 32),
        threads_(threads),
        plan_(make_plan(context, problem())),
        query_(static_cast<int64_t>(shape.query_heads) * shape.channels * 2),
        output_(static_cast<int64_t>(shape.query_heads) * shape.channels * 4),
        attend_(plan_, THINK_STAGE_ATTEND, tokens_, 1) {
    attend_.trust();
    fill(query_, 7);
    const int64_t side = static_cast<int64_t>(shape.kv_heads) * tokens_ * shape.channels * 2;
    const int64_t total = (options.quick ? 192 : 640) << 20;
    copies_ = static_cast<int>(std::clamp<int64_t>(total / (2 * side), 1, 256));
    make_dense(side);
    for (const int32_t kept : {think_kept_channels(shape.channels, 0.4), shape.channels / 2}) make_pruned(kept);
  }

  void round(uint64_t &checksum) {
    probe_.push_back(probe_seconds(variants_[0].memory, threads_, checksum));
    for (Variant &variant : variants_) {
      const think_tensor query = packed_tensor(query_.data(), THINK_F16, shape_.query_heads, 1, shape_.channels);
      const think_tensor output = packed_tensor(output_.data(), THINK_F32, shape_.query_heads, 1, shape_.channels);
      const auto begin = std::chrono::steady_clock::now();
      for (const think_segment &segment : variant.segments) {
        ErrorRecord error;
        error.check(think_attend(plan_.get(), &query, nullptr, &segment, 1, nullptr, &output, nullptr, attend_.launch(), error));
      }
      variant.seconds.push_back(seconds_since(begin));
    }
  }

  void forget() {  // the first round warms up
    probe_.clear();
    for (Variant &variant : variants_) variant.seconds.clear();
  }

  void report(Report &report, int64_t cache) const {
    int64_t probe_bytes = 0;
    for (const Buffer &buffer : variants_[0].memory) probe_bytes += buffer.size() / threads_ / 256 * 256 * threads_;
    const double probe = static_cast<double>(probe_bytes) / median(probe_) / 1e9;
    const Variant &dense = variants_[0];
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    report.line("%s", "");
    report.line("%s, %d query and %d KV heads, %lld tokens, f16, %d copies of the cache; probe reads %.1f GB/s", shape_.name,
                shape_.query_heads, shape_.kv_heads, static_cast<long long>(tokens_), copies_, probe);
    if (cache > 0 && probe_bytes < 2 * cache) {
      report.line("  note: the last-level cache can hold much of this; the rates are not all memory (leave out --quick, or more --tokens)");
    }
    report.line("  key channels kept    bytes      time     GB/s   of probe   faster than dense   fewer bytes");
    for (const Variant &variant : variants_) {
      const double seconds = median(variant.seconds) / copies_, rate = static_cast<double>(variant.bytes) / seconds / 1e9;
      const double speedup = median(dense.seconds) / median(variant.seconds),
                   ratio = static_cast<double>(dense.bytes) / static_cast<double>(variant.bytes);
      rows.push_back({{"kept", variant.kept},
                      {"bytes", variant.bytes},
                      {"seconds", seconds},
                      {"gigabytes_per_second", rate},
                      {"fraction_of_probe", rate / probe},
                      {"speedup_over_dense", speedup},
                      {"byte_ratio", ratio}});
      report.line("  %9d of %-3d   %10s  %7.1f us   %6.1f     %6.2f               %5.2f         %5.2f", variant.kept, shape_.channels,
                  bytes_text(variant.bytes).c_str(), seconds * 1e6, rate, rate / probe, speedup, ratio);
    }
    report.json["attend"].push_back({{"shape", shape_.name},
                                     {"query_heads", shape_.query_heads},
                                     {"kv_heads", shape_.kv_heads},
                                     {"channels", shape_.channels},
                                     {"tokens", tokens_},
                                     {"dtype", "f16"},
                                     {"copies", copies_},
                                     {"probe_gigabytes_per_second", probe},
                                     {"rows", rows}});
  }

 private:
  think_problem problem() const {
    think_problem problem = THINK_PROBLEM_INIT;
    problem.query_dtype = THINK_F16;
    problem.cache_dtype = THINK_F16;
    problem.output_dtype = THINK_F32;
    problem.query_heads = shape_.query_heads;
    problem.kv_heads = shape_.kv_heads;
    problem.key_channels = shape_.channels;
    problem.max_tokens = tokens_;
    return problem;
  }

  void make_dense(int64_t side) {
    Variant dense;
    dense.kept = shape_.channels;
    dense.bytes = 2 * side;
    for (int copy = 0; copy < copies_; ++copy) {
      Buffer buffer(2 * side);
      fill(buffer, static_cast<uint64_t>(copy) + 1);
      dense.segments.push_back(dense_segment(buffer.data(), buffer.data() + side, THINK_F16, THINK_F16, shape_.kv_heads, tokens_,
                                             shape_.channels, shape_.channels, &tokens_));
      dense.memory.push_back(std::move(buffer));
    }
    variants_.push_back(std::move(dense));
  }

  // The paper's widths with the regression: a real prune of the first copy; the others get the same rows, which costs the same to read.
  void make_pruned(int32_t kept) {
    ErrorRecord error;
    Variant pruned;
    pruned.kept = kept;
    pruned.basis.bind(plan_, THINK_KEYS);
    int64_t bytes = 0;
    error.check(think_score_state_size(plan_.get(), 1, &bytes, error));
    Buffer state(bytes, true);
    const think_segment &source = variants_[0].segments[0];
    const think_tensor keys = packed_tensor(source.key, THINK_F16, shape_.kv_heads, tokens_, shape_.channels);
    // The queries of the prefill are taken from the value rows, one head for all: only their number matters here.
    const think_tensor queries = view_tensor(source.value, THINK_F16, shape_.query_heads, tokens_, shape_.channels, 0, shape_.channels);
    const Workspace score(plan_, THINK_STAGE_SCORE, tokens_, 1), prune(plan_, THINK_STAGE_PRUNE, tokens_, 1);
    error.check(think_score_reset(plan_.get(), state.data(), nullptr, score.launch(), error));
    error.check(think_score_update(plan_.get(), &queries, &keys, nullptr, state.data(), score.launch(), error));

    think_prune_options options = THINK_PRUNE_OPTIONS_INIT;
    options.budget = THINK_BUDGET_UNIFORM;
    options.key_kept = kept;
    options.value_kept = -1;
    options.sinks = options.recent = -1;
    options.dense_limit = -1;
    think_prune_result preview = THINK_PRUNE_RESULT_INIT;
    error.check(think_prune_preview(plan_.get(), nullptr, tokens_, &options, &preview, error));
    think_segment segment = THINK_SEGMENT_INIT;
    segment.key_layout = THINK_TILES;
    segment.page_tokens = tokens_;
    segment.key_dtype = segment.value_dtype = THINK_F16;
    segment.lengths = &tokens_;
    for (std::vector<int64_t> &offsets : pruned.head_offset) offsets.resize(static_cast<size_t>(shape_.kv_heads));
    segment.key_head_offset = pruned.head_offset[0].data();
    segment.value_head_offset = pruned.head_offset[1].data();
    pruned.bytes = preview.key_bytes + preview.value_bytes +
                   static_cast<int64_t>(shape_.kv_heads) * (shape_.channels - kept) * ((kept + 7) / 8 * 8) * 2;
    for (int copy = 0; copy < copies_; ++copy) {
      Buffer buffer(preview.key_bytes + preview.value_bytes);
      segment.key = buffer.data();
      segment.value = buffer.data() + preview.key_bytes;
      pruned.memory.push_back(std::move(buffer));
      pruned.segments.push_back(segment);
    }
    variants_.push_back(std::move(pruned));
    // The segments point at the basis, which has found its place only now.
    Variant &placed = variants_.back();
    for (think_segment &copy : placed.segments) copy.key_basis = &placed.basis.basis;
    error.check(think_prune(plan_.get(), state.data(), &source, &placed.segments[0], nullptr, &options, nullptr, prune.launch(), error));
    for (size_t copy = 1; copy < placed.memory.size(); ++copy)
      std::copy_n(placed.memory[0].data(), placed.memory[0].size(), placed.memory[copy].data());
  }

  Shape shape_;
  int32_t tokens_;
  int32_t threads_;
  Plan plan_;
  Buffer query_, output_;
  Workspace attend_;
  int copies_ = 0;
  std::deque<Variant> variants_;  // keeps its elements in place
  std::vector<double> probe_;
};

void run(const Options &options, Report &report) {
  const DeviceChoice choice = parse_device(options.device);
  if (choice.on_device()) return bench_device(choice, options.tokens / 32 * 32, options.quick, report);
  const Context context = make_context(options.threads);
  const int32_t threads = static_cast<int32_t>(query_number(context.get(), THINK_QUERY_THREADS));
  const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  report.json = {{"version", think_version_string()},
                 {"threads", threads},
                 {"last_level_cache_bytes", cache > 0 ? cache : 0},
                 {"attend", nlohmann::ordered_json::array()}};
  report.line("libthink %s, %d threads, last-level cache %s; medians; dense and pruned runs and the probe take turns",
              think_version_string(), threads, cache > 0 ? bytes_text(cache).c_str() : "unknown");
  const int rounds = options.quick ? 3 : 7;
  Progress progress("measuring", static_cast<int64_t>(std::size(kShapes)) * (rounds + 1));
  uint64_t checksum = 0;
  for (const Shape &shape : kShapes) {
    ShapeBench bench(context, shape, options, threads);
    for (int round = 0; round <= rounds; ++round) {
      bench.round(checksum);
      if (round == 0) bench.forget();
      progress.step();
    }
    bench.report(report, cache);
  }
  // Uses the sums, so that the compiler cannot leave the reading out.
  report.json["probe_checksum"] = checksum;
}

}  // namespace

Command add_bench(CLI::App &program) {
  auto options = std::make_shared<Options>();
  CLI::App *app = program.add_subcommand("bench", "Time of dense and pruned attention on this host");
  app->footer(
      "Memory: about 1.7 GiB, with --quick 0.5 GiB. The project's full benchmark is tests/bench.\n"
      "\n"
      "Examples:\n"
      "  think bench --quick\n"
      "  think bench --threads 1 --tokens 32768\n"
      "  think bench --device cuda:0\n"
      "  think bench --json");
  app->add_flag("--quick", options->quick, "Less memory and fewer rounds");
  app->add_option("--tokens", options->tokens, "Cached tokens, rounded down to a multiple of 32")
      ->type_name("N")
      ->check(CLI::Range(256, 262144))
      ->capture_default_str();
  app->add_option("--threads", options->threads, "Threads; -1 = every core that the process may use")
      ->type_name("N")
      ->check(CLI::Range(-1, 1024))
      ->capture_default_str();
  add_device_option(*app, options->device);
  return {app, [options](Report &report) { run(*options, report); }};
}

}  // namespace think::cli
