#include "inspect_sequence.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "library.h"

namespace think::cli {
namespace {

using Json = nlohmann::ordered_json;
using Long = long long;

// By the library's own names.
think_dtype known_dtype(const std::string &name) {
  for (const think_dtype dtype : {THINK_F32, THINK_F16, THINK_BF16, THINK_U8, THINK_U4, THINK_U2, THINK_F8_E4M3}) {
    if (name == think_dtype_name(dtype)) return dtype;
  }
  throw Failure(kInput, "damaged sequence: this library has no dtype '" + name + "'");
}

int32_t layout_of(const std::string &name) { return name == "tiles" ? THINK_TILES : THINK_ROWS; }

think_format format_of(const StoredFormat &stored) {
  think_format format = THINK_FORMAT_INIT;
  format.key_dtype = known_dtype(stored.key_dtype);
  format.value_dtype = known_dtype(stored.value_dtype);
  format.key_layout = layout_of(stored.key_layout);
  format.value_layout = layout_of(stored.value_layout);
  return format;
}

struct Stream {
  std::span<const std::byte> rest;
  static int64_t read(void *user, void *data, int64_t bytes) {
    Stream &stream = *static_cast<Stream *>(user);
    const size_t part = std::min(static_cast<size_t>(bytes), stream.rest.size());
    std::memcpy(data, stream.rest.data(), part);
    stream.rest = stream.rest.subspan(part);
    return static_cast<int64_t>(part);
  }
};

using Cache = std::unique_ptr<think_cache, decltype(&think_cache_destroy)>;

// A cache of the kind that the file says it came from.
Cache make_cache(const Plan &plan, const StoredSequence &sequence) {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.mode = sequence.mode == "regressed" ? THINK_MODE_REGRESSED : THINK_MODE_CHANNELS;
  prune.budget = sequence.budget == "adaptive" ? THINK_BUDGET_ADAPTIVE : THINK_BUDGET_UNIFORM;
  prune.key_kept = sequence.key_kept;
  prune.value_kept = sequence.value_kept;
  prune.sinks = sequence.sinks == 0 ? -1 : sequence.sinks;
  std::vector<think_format> formats;
  for (const StoredFormat &stored : sequence.formats) formats.push_back(format_of(stored));
  think_cache_options options = THINK_CACHE_OPTIONS_INIT;
  options.layers = sequence.layers;
  options.sequences = 1;
  options.prune = &prune;
  options.layer_formats = formats.data();
  think_cache *cache = nullptr;
  ErrorRecord error;
  error.check(think_cache_create(plan.get(), &options, &cache, error));
  return Cache(cache, think_cache_destroy);
}

// What the sequence takes in memory.
think_cache_info load(const StoredSequence &sequence, std::span<const std::byte> file, const std::string &name) {
  try {
    think_problem problem = THINK_PROBLEM_INIT;
    problem.query_dtype = known_dtype(sequence.query_dtype);
    problem.cache_dtype = known_dtype(sequence.cache_dtype);
    problem.output_dtype = THINK_F32;
    problem.query_heads = sequence.query_heads;
    problem.kv_heads = sequence.kv_heads;
    problem.key_channels = sequence.key_channels;
    problem.value_channels = sequence.value_channels;
    problem.window = sequence.window;
    problem.max_tokens = sequence.tokens();
    const Context context = make_context(1);
    const Plan plan = make_plan(context, problem);
    const Cache cache = make_cache(plan, sequence);
    Stream stream{file};
    think_error record = THINK_ERROR_INIT;
    const think_status status = think_cache_load(cache.get(), 0, Stream::read, &stream, &record);
    if (status == THINK_E_MEMORY) throw std::bad_alloc();
    if (status != THINK_OK) throw Failure(kInput, record.message);
    think_cache_info info = THINK_CACHE_INFO_INIT;
    ErrorRecord error;
    error.check(think_cache_usage(cache.get(), 0, &info, error));
    return info;
  } catch (const Failure &failure) {
    throw Failure(kInput, name + ": " + failure.what());
  }
}

Json kept_json(const std::vector<StoredSide> &layers, int32_t kv_heads, int32_t channels) {
  Json widths = Json::array();
  for (const StoredSide &side : layers) widths.push_back(side.kept.empty() ? std::vector<int32_t>(kv_heads, channels) : side.kept);
  return widths;
}

struct Widths {
  double mean;
  int32_t low, high;
  bool basis, predicted;
};

Widths widths_of(const std::vector<StoredSide> &layers, int32_t kv_heads, int32_t channels) {
  int64_t total = 0;
  Widths widths{0, channels, 0, false, false};
  for (const StoredSide &side : layers) {
    for (int32_t head = 0; head < kv_heads; ++head) {
      const int32_t kept = side.kept.empty() ? channels : side.kept[head];
      total += kept;
      widths.low = std::min(widths.low, kept);
      widths.high = std::max(widths.high, kept);
      widths.basis |= !side.kept.empty();
      widths.predicted |= !side.kept.empty() && side.fitted[head] && kept < channels;
    }
  }
  widths.mean = static_cast<double>(total) / (static_cast<double>(layers.size()) * kv_heads);
  return widths;
}

void run_lines(const StoredSequence &sequence, size_t index, Report &report) {
  const StoredRun &run = sequence.runs[index];
  report.line("run %zu     %d tokens, %d of them folded later", index, run.rows, 32 * run.folds);
  for (const bool keys : {true, false}) {
    const int32_t channels = keys ? sequence.key_channels : sequence.value_channels;
    const Widths widths = widths_of(keys ? run.key : run.value, sequence.kv_heads, channels);
    const char *name = keys ? "  keys" : "  values";
    if (!widths.basis) {
      report.line("%-9s all %d channels", name, channels);
    } else {
      report.line("%-9s %.1f of %d channels on average (%d .. %d); the others %s", name, widths.mean, channels, widths.low, widths.high,
                  widths.predicted ? "are predicted" : "count as zero");
    }
  }
}

void layer_table(const StoredSequence &sequence, Report &report) {
  const StoredRun &run = sequence.runs.back();
  const auto cell = [&](const StoredSide &side, int32_t channels) {
    if (side.kept.empty()) return "all " + std::to_string(channels);
    const auto [low, high] = std::minmax_element(side.kept.begin(), side.kept.end());
    const double mean = static_cast<double>(std::accumulate(side.kept.begin(), side.kept.end(), int64_t{0})) / static_cast<double>(side.kept.size());
    char text[64];
    std::snprintf(text, sizeof text, *low == *high ? "%.0f" : "%.1f (%d .. %d)", mean, *low, *high);
    return std::string(text);
  };
  report.line("%s", "");
  report.line("layer   keys kept per head     values kept per head");
  for (int32_t layer = 0; layer < sequence.layers; ++layer) {
    report.line("%5d   %-22s %s", layer, cell(run.key[layer], sequence.key_channels).c_str(),
                cell(run.value[layer], sequence.value_channels).c_str());
  }
}

}  // namespace

void describe_sequence(const StoredSequence &sequence, std::span<const std::byte> file, const std::string &name, Report &report) {
  const think_cache_info info = load(sequence, file, name);
  const int64_t dense = sequence.dense_bytes(), held = info.page_bytes + info.basis_bytes;
  const double saved = 100.0 * (1.0 - static_cast<double>(held) / static_cast<double>(dense));
  const int32_t sinks = sequence.sink_rows(), recent = sequence.dense_rows - sinks;
  report.json = {{"file", name},
                 {"kind", "sequence"},
                 {"layers", sequence.layers},
                 {"query_heads", sequence.query_heads},
                 {"kv_heads", sequence.kv_heads},
                 {"key_channels", sequence.key_channels},
                 {"value_channels", sequence.value_channels},
                 {"tokens", sequence.tokens()},
                 {"tokens_compact", sequence.compact_tokens()},
                 {"tokens_evicted", sequence.evicted},
                 {"sinks", sinks},
                 {"recent", recent},
                 {"window", sequence.window},
                 {"query_dtype", sequence.query_dtype},
                 {"cache_dtype", sequence.cache_dtype},
                 {"key_format", sequence.formats[0].key_dtype},
                 {"value_format", sequence.formats[0].value_dtype},
                 {"mode", sequence.mode},
                 {"budget", sequence.budget},
                 {"key_kept", sequence.key_kept},
                 {"value_kept", sequence.value_kept},
                 {"scores", sequence.scores},
                 {"runs", Json::array()},
                 {"bytes_dense", dense},
                 {"bytes_held", held},
                 {"bytes_saved", dense - held},
                 {"saved_percent", saved},
                 {"bytes_in_memory", {{"pages", info.page_bytes}, {"basis", info.basis_bytes}, {"scores", info.score_bytes}}},
                 {"bytes_in_file",
                  {{"key_rows", sequence.bytes_key_rows},
                   {"value_rows", sequence.bytes_value_rows},
                   {"basis", sequence.bytes_basis},
                   {"dense_rows", sequence.bytes_dense_rows},
                   {"scores", sequence.bytes_scores},
                   {"header", sequence.bytes_header},
                   {"all", file.size()}}}};
  if (std::any_of(sequence.formats.begin(), sequence.formats.end(), [&](const StoredFormat &format) { return !(format == sequence.formats[0]); })) {
    Json layers = Json::array();
    for (const StoredFormat &format : sequence.formats) layers.push_back({{"key", format.key_dtype}, {"value", format.value_dtype}});
    report.json["formats"] = layers;
  }
  for (const StoredRun &run : sequence.runs) {
    const auto side = [&](const std::vector<StoredSide> &layers, int32_t channels) {
      const Widths widths = widths_of(layers, sequence.kv_heads, channels);
      return Json{{"basis", widths.basis},
                  {"predicted", widths.predicted},
                  {"kept_mean", widths.mean},
                  {"kept", kept_json(layers, sequence.kv_heads, channels)}};
    };
    report.json["runs"].push_back({{"tokens", run.rows},
                                   {"tokens_folded", 32 * run.folds},
                                   {"key", side(run.key, sequence.key_channels)},
                                   {"value", side(run.value, sequence.value_channels)}});
  }

  report.line("%s: a sequence saved by think_cache_save()", name.c_str());
  report.line("shape     %d layers, %d query and %d KV heads, %d key and %d value channels", sequence.layers, sequence.query_heads,
              sequence.kv_heads, sequence.key_channels, sequence.value_channels);
  report.line("tokens    %lld: %lld compact, %d sinks and %d recent rows dense%s", static_cast<Long>(sequence.tokens()),
              static_cast<Long>(sequence.compact_tokens()), sinks, recent,
              sequence.evicted > 0 ? (", " + std::to_string(sequence.evicted) + " more evicted").c_str() : "");
  report.line("formats   %s; dense rows %s, queries %s", sequence.formats_text().c_str(), sequence.cache_dtype.c_str(), sequence.query_dtype.c_str());
  report.line("mode      %s, %s widths; a window of %d queries; scores %s", sequence.mode.c_str(), sequence.budget.c_str(), sequence.window,
              sequence.scores ? "kept: it can be pruned again" : "not kept");
  for (size_t run = 0; run < sequence.runs.size(); ++run) run_lines(sequence, run, report);
  report.line("in file   %s compact keys, %s compact values, %s bases, %s dense rows, %s scores, %s header", bytes_text(sequence.bytes_key_rows).c_str(),
              bytes_text(sequence.bytes_value_rows).c_str(), bytes_text(sequence.bytes_basis).c_str(), bytes_text(sequence.bytes_dense_rows).c_str(),
              bytes_text(sequence.bytes_scores).c_str(), bytes_text(sequence.bytes_header).c_str());
  report.line("in cache  %s whole pages, %s bases, %s scores", bytes_text(info.page_bytes).c_str(), bytes_text(info.basis_bytes).c_str(),
              bytes_text(info.score_bytes).c_str());
  report.line("bytes     %s in dense 16-bit rows, %s in pages and bases, %.1f %% saved, %.2f times smaller", bytes_text(dense).c_str(),
              bytes_text(held).c_str(), saved, static_cast<double>(dense) / static_cast<double>(held));
  if (!sequence.runs.empty()) layer_table(sequence, report);
}

}  // namespace think::cli
