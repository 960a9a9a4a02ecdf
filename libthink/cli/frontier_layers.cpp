#include "frontier_layers.h"

#include <algorithm>
#include <cmath>

namespace think::cli {
namespace {

struct NamedFormat {
  const char *name;
  think_dtype dtype;
};
constexpr NamedFormat kFormats[] = {{"f32", THINK_F32}, {"f16", THINK_F16}, {"bf16", THINK_BF16}, {"int8", THINK_U8},
                                    {"int4", THINK_U4}, {"int2", THINK_U2}, {"fp8", THINK_F8_E4M3}};

// parse_stack() lets no other name through.
think_dtype format_of(const std::string &name, think_dtype otherwise) {
  for (const NamedFormat &format : kFormats) {
    if (name == format.name) return format.dtype;
  }
  return otherwise;
}

think_problem problem_of(const CapturedLayer &layer, const FrontierSettings &settings, think_dtype dtype) {
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_dtype = layer.query.dtype;
  problem.cache_dtype = dtype;
  problem.output_dtype = THINK_F32;
  problem.query_heads = static_cast<int32_t>(layer.query.heads);
  problem.kv_heads = static_cast<int32_t>(layer.key.heads);
  problem.key_channels = static_cast<int32_t>(layer.key.channels);
  problem.value_channels = static_cast<int32_t>(layer.value.channels);
  problem.window = kScoreWindow;
  problem.max_tokens = layer.key.tokens;
  problem.max_queries = static_cast<int32_t>(settings.scored);
  problem.scale = settings.scale;
  problem.softcap = settings.softcap;
  return problem;
}

// Tokens [first, first + count) of rows.
think_tensor tokens_of(const Rows &rows, int64_t first, int64_t count) {
  return view_tensor(rows.data + first * rows.channels * element_bytes(rows.dtype), rows.dtype, rows.heads, count, rows.channels,
                     rows.tokens * rows.channels, rows.channels);
}

class Cache {
 public:
  Cache(const Plan &plan, const think_prune_options &prune, const think_format &format, bool prunes) {
    think_cache_options options = THINK_CACHE_OPTIONS_INIT;
    options.flags = prunes ? 0 : THINK_CACHE_NO_SCORES;
    options.prune = &prune;
    options.format = &format;
    ErrorRecord error;
    think_cache *cache = nullptr;
    error.check(think_cache_create(plan.get(), &options, &cache, error));
    cache_.reset(cache);
    int64_t bytes = 0;
    error.check(think_cache_workspace_size(cache, &bytes, nullptr, error));
    workspace_ = Buffer(bytes, true);
    launch_.workspace = workspace_.data();
    launch_.workspace_bytes = bytes;
  }

  void append(const think_tensor *query, const think_tensor &key, const think_tensor &value) {
    const int32_t sequence = 0, count = static_cast<int32_t>(key.extent[2]);
    if (count == 0) return;
    ErrorRecord error;
    error.check(think_cache_step(cache_.get(), &sequence, &count, 1, &launch_, error));
    error.check(think_cache_append(cache_.get(), 0, query, &key, &value, &launch_, error));
  }
  void prune() {
    const int32_t sequence = 0;
    ErrorRecord error;
    error.check(think_cache_prune(cache_.get(), &sequence, 1, &launch_, error));
  }
  std::vector<float> attend(const think_tensor &query, int64_t value_channels) const {
    std::vector<float> output(static_cast<size_t>(query.extent[1] * query.extent[2] * value_channels));
    const think_tensor out = packed_tensor(output.data(), THINK_F32, query.extent[1], query.extent[2], value_channels);
    ErrorRecord error;
    error.check(think_cache_attend(cache_.get(), 0, &query, nullptr, &out, nullptr, &launch_, error));
    return output;
  }
  int64_t bytes() const {
    think_cache_info info = THINK_CACHE_INFO_INIT;
    ErrorRecord error;
    error.check(think_cache_usage(cache_.get(), 0, &info, error));
    return info.page_bytes + info.basis_bytes;
  }

 private:
  std::unique_ptr<think_cache, decltype(&think_cache_destroy)> cache_{nullptr, think_cache_destroy};
  Buffer workspace_;
  think_launch launch_ = THINK_LAUNCH_INIT;
};

// Rows of every head that eviction leaves of a prompt, one behind the other.
struct Evicted {
  int64_t rows = 0;
  Buffer key, value;
};

Evicted evict(const Plan &plan, const CapturedLayer &layer, int64_t prompt, const Stack &stack) {
  const int64_t heads = layer.key.heads, wanted = stack.rows > 0 ? stack.rows : std::llround(stack.share * static_cast<double>(prompt));
  Evicted evicted;
  evicted.rows = std::clamp<int64_t>(wanted, 1, prompt);
  const int64_t key_row = layer.key.channels * element_bytes(layer.key.dtype), value_row = layer.value.channels * element_bytes(layer.value.dtype);
  evicted.key = Buffer(heads * evicted.rows * key_row);
  evicted.value = Buffer(heads * evicted.rows * value_row);
  const int32_t length = static_cast<int32_t>(prompt);
  think_segment source = dense_segment(layer.key.data, layer.value.data, layer.key.dtype, layer.value.dtype, heads, layer.key.tokens,
                                       static_cast<int32_t>(layer.key.channels), static_cast<int32_t>(layer.value.channels), &length);
  source.flags = THINK_SEGMENT_CAUSAL;
  std::vector<int32_t> lengths(static_cast<size_t>(heads)), kept(static_cast<size_t>(heads * evicted.rows));
  think_segment together = dense_segment(evicted.key.data(), evicted.value.data(), layer.key.dtype, layer.value.dtype, heads, evicted.rows,
                                         static_cast<int32_t>(layer.key.channels), static_cast<int32_t>(layer.value.channels), lengths.data());
  together.lengths_stride[0] = heads;
  together.lengths_stride[1] = 1;
  think_evict_options options = THINK_EVICT_OPTIONS_INIT;
  options.method = stack.eviction == "snapkv"   ? THINK_EVICT_SNAPKV
                   : stack.eviction == "h2o"    ? THINK_EVICT_H2O
                   : stack.eviction == "window" ? THINK_EVICT_WINDOW
                   : stack.eviction == "tova"   ? THINK_EVICT_TOVA
                                                : THINK_EVICT_RECENT;
  options.budget = static_cast<int32_t>(evicted.rows);
  options.score_stride = prompt;
  std::vector<float> score(options.method == THINK_EVICT_H2O ? static_cast<size_t>(heads * prompt) : 0);
  // The arrays may hold queries of the last tokens only.
  const int64_t begin = prompt - (layer.key.tokens - layer.query.tokens) - kScoreWindow;
  const think_tensor window = tokens_of(layer.query, begin, kScoreWindow);
  const Workspace workspace(plan, THINK_STAGE_EVICT, prompt, 1);
  ErrorRecord error;
  error.check(think_evict(plan.get(), options.method == THINK_EVICT_RECENT ? nullptr : &window, &source, nullptr, &options, nullptr,
                          score.empty() ? nullptr : score.data(), kept.data(), lengths.data(), workspace.launch(), error));
  error.check(think_evict_move(plan.get(), &source, &together, nullptr, kept.data(), evicted.rows, nullptr, 0, workspace.launch(), error));
  return evicted;
}

// One layer: plans, and what attention over dense f32 rows gives.
class Subject {
 public:
  Subject(const CapturedLayer &layer, const FrontierSettings &settings, const Context &context)
      : layer_(layer),
        settings_(settings),
        prompt_(layer.key.tokens - settings.scored),
        plan_(make_plan(context, problem_of(layer, settings, settings.dtype))),
        zeros_(layer.query.channels * element_bytes(layer.query.dtype), true) {
    const Plan exact = make_plan(context, problem_of(layer, settings, THINK_F32));
    const think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
    Cache cache(exact, prune, THINK_FORMAT_INIT, false);
    fill(cache, tokens_of(layer.key, 0, prompt_), tokens_of(layer.value, 0, prompt_));
    reference_ = score(cache);
    for (const float number : reference_) norm_ += double{number} * number;
  }

  struct Result {
    double error;
    int64_t bytes;
  };

  Result measure(const Stack &stack) const {
    think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
    think_format format = THINK_FORMAT_INIT;
    const auto kept = [](const StackSide &side, int64_t channels) { return side.given() && side.kept < channels ? side.kept : -1; };
    prune.key_kept = kept(stack.key, layer_.key.channels);
    prune.value_kept = kept(stack.value, layer_.value.channels);
    const std::string &method = stack.key.given() ? stack.key.method : stack.value.method;
    prune.mode = method == "think" ? THINK_MODE_CHANNELS : THINK_MODE_REGRESSED;
    prune.budget = method == "adaptive" ? THINK_BUDGET_ADAPTIVE : THINK_BUDGET_UNIFORM;
    prune.sinks = method == "think" ? -1 : 0;  // the paper keeps none
    prune.dense_limit = -1;                    // the question is what pruning costs, not whether it pays
    format.key_dtype = format_of(stack.key.format, settings_.dtype);
    format.value_dtype = format_of(stack.value.format, settings_.dtype);
    format.key_layout = THINK_TILES;
    format.value_layout = stack.value.quantized() ? THINK_TILES : THINK_ROWS;
    const bool prunes = prune.key_kept > 0 || prune.value_kept > 0 || stack.key.quantized() || stack.value.quantized();
    Cache cache(plan_, prune, format, prunes);
    if (stack.eviction.empty()) {
      fill(cache, tokens_of(layer_.key, 0, prompt_), tokens_of(layer_.value, 0, prompt_));
    } else {
      const Evicted evicted = evict(plan_, layer_, prompt_, stack);
      fill(cache, packed_tensor(evicted.key.data(), layer_.key.dtype, layer_.key.heads, evicted.rows, layer_.key.channels),
           packed_tensor(evicted.value.data(), layer_.value.dtype, layer_.value.heads, evicted.rows, layer_.value.channels));
    }
    if (prunes) cache.prune();
    const int64_t bytes = cache.bytes();
    const std::vector<float> output = score(cache);
    double difference = 0;
    for (size_t i = 0; i < output.size(); ++i) difference += (double{output[i]} - reference_[i]) * (double{output[i]} - reference_[i]);
    return {norm_ > 0 ? std::sqrt(difference / norm_) : 0.0, bytes};
  }

  int64_t dense_bytes() const {
    return prompt_ * layer_.key.heads * (layer_.key.channels + layer_.value.channels) * element_bytes(settings_.dtype);
  }

 private:
  // Rows as a prompt whose last ones are those of the last queries before the scored ones; only these queries count.
  void fill(Cache &cache, const think_tensor &key, const think_tensor &value) const {
    const int64_t rows = key.extent[2], real = std::min<int64_t>(rows, kScoreWindow);
    const auto part = [](const think_tensor &tensor, int64_t first, int64_t count) {
      think_tensor view = tensor;
      view.data = static_cast<std::byte *>(tensor.data) + first * tensor.stride[2] * element_bytes(tensor.dtype);
      view.extent[2] = count;
      return view;
    };
    const think_tensor none = view_tensor(zeros_.data(), layer_.query.dtype, layer_.query.heads, rows - real, layer_.query.channels, 0, 0);
    cache.append(&none, part(key, 0, rows - real), part(value, 0, rows - real));
    const int64_t before = layer_.key.tokens - layer_.query.tokens;
    const think_tensor last = tokens_of(layer_.query, prompt_ - before - real, real);
    cache.append(&last, part(key, rows - real, real), part(value, rows - real, real));
  }

  std::vector<float> score(Cache &cache) const {
    const think_tensor query = tokens_of(layer_.query, layer_.query.tokens - settings_.scored, settings_.scored);
    cache.append(&query, tokens_of(layer_.key, prompt_, settings_.scored), tokens_of(layer_.value, prompt_, settings_.scored));
    return cache.attend(query, layer_.value.channels);
  }

  const CapturedLayer &layer_;
  const FrontierSettings &settings_;
  int64_t prompt_;
  Plan plan_;
  Buffer zeros_;
  std::vector<float> reference_;
  double norm_ = 0;
};

}  // namespace

void check_layer(const CapturedLayer &layer, int64_t scored) {
  const auto fail = [](const Rows &rows, const std::string &what) {
    throw Failure(kInput, rows.path + ": shape " + shape_text(rows.shape) + ": " + what);
  };
  check_shapes(layer.query, layer.key, layer.value);
  const int64_t needed = scored + kScoreWindow;
  if (layer.query.tokens < needed)
    fail(layer.query, "expected queries of at least " + std::to_string(needed) + " tokens: " + std::to_string(scored) +
        " that are scored, and " + std::to_string(kScoreWindow) + " before them");
}

std::vector<FrontierPoint> measure_stacks(const std::vector<CapturedLayer> &layers, const std::vector<Stack> &stacks, const FrontierSettings &settings,
                                          Progress &progress) {
  std::vector<FrontierPoint> points;
  for (const Stack &stack : stacks) {
    FrontierPoint &point = points.emplace_back();
    point.stack = stack.name;
    point.family = family_of(stack, static_cast<int32_t>(layers[0].key.channels), static_cast<int32_t>(layers[0].value.channels));
  }
  const Context context = make_context(settings.threads);
  for (const CapturedLayer &layer : layers) {
    const Subject subject(layer, settings, context);
    for (size_t i = 0; i < stacks.size(); ++i) {
      const Subject::Result result = subject.measure(stacks[i]);
      points[i].error += result.error / static_cast<double>(layers.size());
      points[i].bytes += static_cast<double>(result.bytes);
      points[i].dense_bytes += static_cast<double>(subject.dense_bytes());
      progress.step();
    }
  }
  return points;
}

}  // namespace think::cli
