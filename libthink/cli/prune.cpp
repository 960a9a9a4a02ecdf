// think prune: queries, keys and values of one layer in, the pruned layer out.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>

#include "command.h"
#include "layer.h"
#include "library.h"
#include "progress.h"
#include "rows.h"

namespace think::cli {
namespace {

struct Options {
  std::string query, key, value, out;
  std::optional<double> ratio, value_ratio;
  std::optional<int32_t> kept;
  std::string mode = "regressed", budget = "adaptive", dtype;
  int32_t sinks = 4, recent = 32, threads = -1;
  float dense_limit = 0.9f, scale = 0, softcap = 0;
  bool bf16 = false;
};

constexpr int64_t kChunk = 4096;

think_dtype dtype_of(const std::string &name) { return name == "f32" ? THINK_F32 : name == "bf16" ? THINK_BF16 : THINK_F16; }

// Keys of all tokens and the queries there are, in chunks as a prefill would bring them.
Buffer measure_scores(const Plan &plan, const Rows &query, const Rows &key, Progress &progress, std::vector<float> &score) {
  ErrorRecord error;
  int64_t bytes = 0;
  error.check(think_score_state_size(plan.get(), 1, &bytes, error));
  Buffer state(bytes, true);
  const Workspace workspace(plan, THINK_STAGE_SCORE, std::min(kChunk, key.tokens), 1);
  error.check(think_score_reset(plan.get(), state.data(), nullptr, workspace.launch(), error));
  const int64_t query_bytes = think_dtype_bytes(query.dtype), key_bytes = think_dtype_bytes(key.dtype);
  const Buffer zeros(key.channels * query_bytes, true);
  // Queries may be given for the last tokens only: only the last `window` of them count.
  const int64_t without = key.tokens - query.tokens;
  for (int64_t begin = 0; begin < key.tokens;) {
    const int64_t end = std::min({begin + kChunk, key.tokens, begin < without ? without : key.tokens});
    const int64_t count = end - begin;
    const think_tensor keys = view_tensor(key.data + begin * key.channels * key_bytes, key.dtype, key.heads, count, key.channels,
                                          key.tokens * key.channels, key.channels);
    const think_tensor queries = begin < without
                                     ? view_tensor(zeros.data(), query.dtype, query.heads, count, query.channels, 0, 0)
                                     : view_tensor(query.data + (begin - without) * query.channels * query_bytes, query.dtype, query.heads,
                                                   count, query.channels, query.tokens * query.channels, query.channels);
    error.check(think_score_update(plan.get(), &queries, &keys, nullptr, state.data(), workspace.launch(), error));
    progress.step(count);
    begin = end;
  }
  score.resize(static_cast<size_t>(key.heads * key.channels));
  error.check(think_score_finish(plan.get(), state.data(), nullptr, nullptr, score.data(), workspace.launch(), error));
  return state;
}

// Copies what the library chose; weight blocks, which the library spaces for the widest case, are put one behind the other.
void take_basis(const think_basis &basis, int32_t kv_heads, LayerSide &side) {
  const int64_t cells = static_cast<int64_t>(kv_heads) * side.channels;
  side.kept.assign(basis.kept, basis.kept + kv_heads);
  side.index.assign(basis.index, basis.index + cells);
  side.offset.assign(static_cast<size_t>(cells), 0.0f);
  side.weight_offset.assign(static_cast<size_t>(kv_heads), -1);
  int64_t total = 0;
  for (int32_t head = 0; head < kv_heads; ++head) {
    if (basis.weight_offset[head] < 0 || side.kept[head] == side.channels) continue;
    side.weight_offset[head] = total;
    total += weight_block_bytes(side.channels, side.kept[head]);
    const int64_t row = static_cast<int64_t>(head) * side.channels;
    std::copy(basis.offset + row + side.kept[head], basis.offset + row + side.channels, side.offset.begin() + row + side.kept[head]);
  }
  side.weight = Buffer(total, true);
  for (int32_t head = 0; head < kv_heads; ++head) {
    if (side.weight_offset[head] < 0) continue;
    std::memcpy(side.weight.data() + side.weight_offset[head], static_cast<const std::byte *>(basis.weight) + basis.weight_offset[head],
                static_cast<size_t>(weight_block_bytes(side.channels, side.kept[head])));
  }
}

void keep_everything(int32_t kv_heads, LayerSide &side) {
  side.kept.assign(static_cast<size_t>(kv_heads), side.channels);
  side.weight_offset.assign(static_cast<size_t>(kv_heads), -1);
  side.offset.assign(static_cast<size_t>(kv_heads) * side.channels, 0.0f);
  for (int32_t head = 0; head < kv_heads; ++head) {
    for (int32_t channel = 0; channel < side.channels; ++channel) side.index.push_back(channel);
  }
}

void measure_energy(const Rows &rows, std::vector<float> &energy) {
  std::vector<double> sum(static_cast<size_t>(rows.heads * rows.channels), 0.0);
  for (int64_t head = 0, at = 0; head < rows.heads; ++head) {
    double *row = sum.data() + head * rows.channels;
    for (int64_t token = 0; token < rows.tokens; ++token) {
      for (int64_t channel = 0; channel < rows.channels; ++channel, ++at) {
        const double number = number_at(rows.data, rows.dtype, at);
        row[channel] += number * number;
      }
    }
  }
  for (const double total : sum) {
    energy.push_back(static_cast<float>(std::min(total / static_cast<double>(rows.tokens), 3e38)));
  }
}

// The rows that stay dense: sinks and recent tokens, one behind the other, in the layer's dtype.
void copy_dense(const Plan &plan, const Rows &key, const Rows &value, Layer &layer) {
  const int64_t dense = layer.dense_rows(), bytes = think_dtype_bytes(layer.dtype);
  layer.key.dense = Buffer(key.heads * dense * key.channels * bytes, true);
  layer.value.dense = Buffer(value.heads * dense * value.channels * bytes, true);
  const Workspace workspace(plan, THINK_STAGE_COMPACT, key.tokens, 1);
  ErrorRecord error;
  for (const bool recent : {false, true}) {
    const int32_t first = static_cast<int32_t>(recent ? layer.first : 0),
                  length = static_cast<int32_t>(recent ? dense - layer.first : layer.first);
    if (length == 0) continue;
    // think_compact() moves rows to rows of the same number, so the source of the recent rows begins `rows` rows later.
    const int64_t skip = recent ? layer.rows : 0;
    think_segment source = dense_segment(key.data + skip * key.channels * think_dtype_bytes(key.dtype),
                                         value.data + skip * value.channels * think_dtype_bytes(value.dtype), key.dtype, value.dtype,
                                         key.heads, key.tokens, layer.key.channels, layer.value.channels, &length);
    think_segment destination = dense_segment(layer.key.dense.data(), layer.value.dense.data(), layer.dtype, layer.dtype, key.heads, dense,
                                              layer.key.channels, layer.value.channels, &length);
    source.first = destination.first = &first;
    error.check(think_compact(plan.get(), &source, &destination, nullptr, workspace.launch(), error));
  }
}

// The pruning itself; sets everything of `layer` but the dense rows, the scores and the energies.
void prune_rows(const Plan &plan, const Buffer &state, const Rows &key, const Rows &value, const think_prune_options &options,
                const think_prune_result &preview, Layer &layer) {
  layer.first = preview.first;
  layer.rows = preview.rows;
  if (preview.rows == 0) {
    layer.first = 0;
    keep_everything(layer.kv_heads, layer.key);
    keep_everything(layer.kv_heads, layer.value);
    return;
  }
  ErrorRecord error;
  think_layout_info info = THINK_LAYOUT_INFO_INIT;
  error.check(think_layout(plan.get(), nullptr, static_cast<int32_t>(preview.rows), preview.key_total, preview.value_total, &info, error));
  layer.key.compact = Buffer(info.key_page_bytes, true);
  layer.value.compact = Buffer(info.value_page_bytes, true);
  layer.key.head_offset.resize(static_cast<size_t>(layer.kv_heads));
  layer.value.head_offset.resize(static_cast<size_t>(layer.kv_heads));
  OwnBasis key_basis, value_basis;
  key_basis.bind(plan, THINK_KEYS);
  value_basis.bind(plan, THINK_VALUES);

  const int32_t tokens = static_cast<int32_t>(key.tokens);
  const think_segment source =
      dense_segment(key.data, value.data, key.dtype, value.dtype, key.heads, key.tokens, layer.key.channels, layer.value.channels, &tokens);
  think_segment destination = THINK_SEGMENT_INIT;
  destination.key_layout = THINK_TILES;
  destination.value_layout = THINK_ROWS;
  destination.page_tokens = static_cast<int32_t>(preview.rows);
  destination.key_dtype = destination.value_dtype = layer.dtype;
  destination.key = layer.key.compact.data();
  destination.value = layer.value.compact.data();
  destination.key_stride[0] = info.key_page_bytes;
  destination.value_stride[0] = info.value_page_bytes;
  destination.key_head_offset = layer.key.head_offset.data();
  destination.value_head_offset = layer.value.head_offset.data();
  destination.key_basis = options.key_kept == -1 ? nullptr : &key_basis.basis;
  destination.value_basis = options.value_kept == -1 ? nullptr : &value_basis.basis;
  const Workspace workspace(plan, THINK_STAGE_PRUNE, key.tokens, 1);
  error.check(think_prune(plan.get(), state.data(), &source, &destination, nullptr, &options, nullptr, workspace.launch(), error));
  for (const bool keys : {true, false}) {
    LayerSide &side = keys ? layer.key : layer.value;
    if (keys ? destination.key_basis : destination.value_basis) {
      take_basis(keys ? key_basis.basis : value_basis.basis, layer.kv_heads, side);
    } else {
      keep_everything(layer.kv_heads, side);
    }
  }
}

void check_finite(const Layer &layer) {
  const auto finite = [](const void *data, think_dtype dtype, size_t count) {
    return first_not_finite(static_cast<const std::byte *>(data), dtype, static_cast<int64_t>(count)) < 0;
  };
  if (!finite(layer.score.data(), THINK_F32, layer.score.size()))
    throw Failure(kInput, "the scores overflow f32: the keys or queries are too large");
  for (const LayerSide *side : {&layer.key, &layer.value}) {
    const bool good = finite(side->offset.data(), THINK_F32, side->offset.size()) &&
                      finite(side->weight.data(), THINK_F16, static_cast<size_t>(side->weight.size() / 2));
    if (!good) throw Failure(kInput, "the regression does not fit into f16 and f32: the numbers are too large; use --mode channels");
  }
}

nlohmann::ordered_json side_json(const LayerSide &side, int64_t tokens, int64_t bytes_each, int64_t page_bytes) {
  return {{"channels", side.channels},
          {"kept", side.kept},
          {"kept_mean", static_cast<double>(side.kept_total()) / static_cast<double>(side.kept.size())},
          {"dense", side.is_dense()},
          {"bytes_before", tokens * static_cast<int64_t>(side.kept.size()) * side.channels * bytes_each},
          {"bytes_compact", side.compact.size()},
          {"bytes_basis", side.basis_bytes()},
          {"bytes_basis_in_memory", side.is_dense() ? 0 : page_bytes},
          {"bytes_dense_rows", side.dense.size()}};
}

void side_line(const char *name, const LayerSide &side, Report &report) {
  const auto [low, high] = std::minmax_element(side.kept.begin(), side.kept.end());
  if (side.is_dense()) {
    report.line("%-7s  all %d channels kept; %s compact, %s dense rows", name, side.channels, bytes_text(side.compact.size()).c_str(),
                bytes_text(side.dense.size()).c_str());
    return;
  }
  report.line("%-7s  %.1f of %d channels kept on average (%d .. %d); %s compact, %s basis, %s dense rows", name,
              static_cast<double>(side.kept_total()) / static_cast<double>(side.kept.size()), side.channels, *low, *high,
              bytes_text(side.compact.size()).c_str(), bytes_text(side.basis_bytes()).c_str(), bytes_text(side.dense.size()).c_str());
}

void run(const Options &options, Report &report) {
  // The range checks of the command line let NaN through.
  for (const double number :
       {options.ratio.value_or(0.0), options.value_ratio.value_or(0.0), double{options.scale}, double{options.softcap}}) {
    if (!std::isfinite(number)) throw Failure(kUsage, "--ratio, --value-ratio, --scale and --softcap must be finite numbers");
  }
  check_output(options.out, {options.query, options.key, options.value});
  const Rows query = read_rows(options.query, "query", options.bf16);
  const Rows key = read_rows(options.key, "key", options.bf16);
  const Rows value = read_rows(options.value, "value", options.bf16);
  check_shapes(query, key, value);
  const think_dtype dtype = options.dtype.empty() ? (key.dtype == THINK_F32 ? THINK_F16 : key.dtype) : dtype_of(options.dtype);
  check_range(key, dtype, "; use --dtype bf16 or f32");
  check_range(value, dtype, "; use --dtype bf16 or f32");

  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_dtype = query.dtype;
  problem.cache_dtype = dtype;
  problem.output_dtype = THINK_F32;
  problem.query_heads = static_cast<int32_t>(query.heads);
  problem.kv_heads = static_cast<int32_t>(key.heads);
  problem.key_channels = static_cast<int32_t>(key.channels);
  problem.value_channels = static_cast<int32_t>(value.channels);
  problem.window = kScoreWindow;
  problem.max_tokens = key.tokens;
  problem.scale = options.scale;
  problem.softcap = options.softcap;
  const Context context = make_context(options.threads);
  const Plan plan = make_plan(context, problem);

  const double value_ratio = options.value_ratio.value_or(0.0);
  think_prune_options pruning = THINK_PRUNE_OPTIONS_INIT;
  pruning.mode = options.mode == "channels" ? THINK_MODE_CHANNELS : THINK_MODE_REGRESSED;
  pruning.budget = options.budget == "uniform" ? THINK_BUDGET_UNIFORM : THINK_BUDGET_ADAPTIVE;
  pruning.key_kept = options.kept ? *options.kept : think_kept_channels(problem.key_channels, options.ratio.value_or(0.5));
  if (pruning.key_kept == problem.key_channels) pruning.key_kept = -1;
  pruning.value_kept = think_kept_channels(problem.value_channels, value_ratio);
  if (pruning.value_kept == problem.value_channels) pruning.value_kept = -1;
  pruning.sinks = options.sinks == 0 ? -1 : options.sinks;
  pruning.recent = options.recent == 0 ? -1 : options.recent;
  pruning.dense_limit = options.dense_limit;
  ErrorRecord error;
  think_prune_result preview = THINK_PRUNE_RESULT_INIT;
  error.check(think_prune_preview(plan.get(), nullptr, key.tokens, &pruning, &preview, error));

  Layer layer;
  layer.query_heads = problem.query_heads;
  layer.kv_heads = problem.kv_heads;
  layer.key.channels = problem.key_channels;
  layer.value.channels = problem.value_channels;
  layer.tokens = key.tokens;
  layer.dtype = dtype;
  layer.scale = options.scale;
  layer.softcap = options.softcap;
  layer.mode = options.mode;
  layer.budget = options.budget;
  layer.library = think_version_string();
  layer.key_ratio = options.kept ? 1.0 - static_cast<double>(*options.kept) / problem.key_channels : options.ratio.value_or(0.5);
  layer.value_ratio = value_ratio;
  {
    Progress progress("scoring", key.tokens * 3);
    const Buffer state = measure_scores(plan, query, key, progress, layer.score);
    progress.label("pruning");
    prune_rows(plan, state, key, value, pruning, preview, layer);
    progress.step(key.tokens);
    copy_dense(plan, key, value, layer);
    progress.label("writing");
    measure_energy(key, layer.key.energy);
    measure_energy(value, layer.value.energy);
    layer.mask.assign(layer.score.size(), 0);
    for (int32_t head = 0; head < layer.kv_heads; ++head) {
      const int64_t row = static_cast<int64_t>(head) * layer.key.channels;
      for (int32_t i = 0; i < layer.key.kept[head]; ++i) layer.mask[row + layer.key.index[row + i]] = 1;
    }
    check_finite(layer);
    OutputFile file(options.out);
    write_layer(layer, file);
    file.commit();
    progress.step(key.tokens);
  }

  const int64_t before = layer.dense_bytes(), after = layer.stored_bytes();
  const double saved = 100.0 * (1.0 - static_cast<double>(after) / static_cast<double>(before));
  report.json = {{"out", options.out},
                 {"tokens", layer.tokens},
                 {"rows_moved", layer.rows},
                 {"rows_dense", layer.dense_rows()},
                 {"sinks", layer.first},
                 {"mode", layer.mode},
                 {"budget", layer.budget},
                 {"dtype", think_dtype_name(dtype)},
                 {"key", side_json(layer.key, layer.tokens, think_dtype_bytes(dtype), preview.key_basis_bytes)},
                 {"value", side_json(layer.value, layer.tokens, think_dtype_bytes(dtype), preview.value_basis_bytes)},
                 {"bytes_before", before},
                 {"bytes_after", after},
                 {"bytes_saved", before - after},
                 {"saved_percent", saved}};
  report.line("layer    %d query heads, %d KV heads, %lld tokens, stored as %s in %s", layer.query_heads, layer.kv_heads,
              static_cast<long long>(layer.tokens), think_dtype_name(dtype), options.out.c_str());
  if (layer.rows == 0) {
    report.line("rows     none moved: %lld tokens are too few for a tile of 32 between %d sinks and %d recent rows",
                static_cast<long long>(layer.tokens), options.sinks, options.recent);
  } else {
    report.line("rows     %lld moved; %lld sinks and %lld recent rows stay dense", static_cast<long long>(layer.rows),
                static_cast<long long>(layer.first), static_cast<long long>(layer.dense_rows() - layer.first));
  }
  side_line("keys", layer.key, report);
  side_line("values", layer.value, report);
  if (layer.rows > 0 && pruning.key_kept != -1 && layer.key.is_dense()) {
    report.line(
        "note     the keys stay dense: basis and compact rows would not be below %.2f of the dense rows (--dense-limit -1 prunes anyway)",
        options.dense_limit);
  }
  if (layer.rows > 0 && pruning.value_kept != -1 && layer.value.is_dense()) {
    report.line(
        "note     the values stay dense: basis and compact rows would not be below %.2f of the dense rows (--dense-limit -1 prunes anyway)",
        options.dense_limit);
  }
  report.line("bytes    %s before, %s after, %.1f %% saved", bytes_text(before).c_str(), bytes_text(after).c_str(), saved);
}

}  // namespace

Command add_prune(CLI::App &program) {
  auto options = std::make_shared<Options>();
  CLI::App *app = program.add_subcommand("prune", "Prune the keys (and values) of one layer and store what is left");
  app->footer(
      "Arrays are npy files [heads, tokens, channels] or [1, heads, tokens, channels], f16 or f32, C order; keys and queries after RoPE.\n"
      "Queries may be those of the last tokens only, at least 32 of them.\n"
      "\n"
      "Examples:\n"
      "  think prune --query q.npy --key k.npy --value v.npy --ratio 0.4 --out layer.safetensors\n"
      "  think prune --query q.npy --key k.npy --value v.npy --ratio 0.5 --value-ratio 0.3 --out layer.safetensors\n"
      "  think prune --query q.npy --key k.npy --value v.npy --kept 77 --mode channels --budget uniform --out layer.safetensors --json");
  app->add_option("--query", options->query, "Queries of the layer")->type_name("FILE")->required();
  app->add_option("--key", options->key, "Keys")->type_name("FILE")->required();
  app->add_option("--value", options->value, "Values")->type_name("FILE")->required();
  app->add_option("--out", options->out, "The pruned layer, a safetensors file; replaced when it exists")->type_name("FILE")->required();
  auto *ratio = app->add_option("--ratio", options->ratio, "Share of the key channels to drop, 0 <= R < 1 (default 0.5)")
                    ->type_name("X")
                    ->check(CLI::Range(0.0, 0.999999));
  app->add_option("--kept", options->kept, "Key channels to keep per head, instead of --ratio")
      ->type_name("N")
      ->check(CLI::Range(1, 256))
      ->excludes(ratio);
  app->add_option("--value-ratio", options->value_ratio, "Share of the value channels to drop (default 0: all are kept)")
      ->type_name("X")
      ->check(CLI::Range(0.0, 0.999999));
  app->add_option("--mode", options->mode, "regressed: dropped channels are predicted; channels: they count as zero (the paper)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"regressed", "channels"}))
      ->capture_default_str();
  app->add_option("--budget", options->budget, "adaptive: widths per head by gain; uniform: the same for all")
      ->type_name("NAME")
      ->check(CLI::IsMember({"adaptive", "uniform"}))
      ->capture_default_str();
  app->add_option("--sinks", options->sinks, "First tokens that stay dense")
      ->type_name("N")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app->add_option("--recent", options->recent, "Last tokens that stay dense, at least")
      ->type_name("N")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app->add_option("--dense-limit", options->dense_limit,
                  "A side is pruned only if basis and rows are below this share of its dense rows; -1 = always")
      ->type_name("X")
      ->check([](const std::string &text) {
        float number = 0;
        const bool good = CLI::detail::lexical_cast(text, number) && (number == -1.0f || (number > 0.0f && number <= 1.0f));
        return good ? std::string() : "expected a number above 0 and up to 1, or -1, not " + text;
      })
      ->capture_default_str();
  app->add_option("--dtype", options->dtype, "Stored rows: f16, bf16 or f32 (default: as the keys; f16 if those are f32)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"f16", "bf16", "f32"}));
  app->add_option("--scale", options->scale, "Scale of the logits; 0 = 1 / sqrt(channels)")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1e30))
      ->capture_default_str();
  app->add_option("--softcap", options->softcap, "Soft cap of the logits; 0 = none")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1e30))
      ->capture_default_str();
  app->add_flag("--bf16", options->bf16, "Arrays of dtype '<u2' hold bf16 bits");
  app->add_option("--threads", options->threads, "Threads; -1 = every core that the process may use")
      ->type_name("N")
      ->check(CLI::Range(-1, 1024))
      ->capture_default_str();
  return {app, [options](Report &report) { run(*options, report); }};
}

}  // namespace think::cli
