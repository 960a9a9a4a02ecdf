#include "libthink/cache/cache.h"

#include <algorithm>
#include <iterator>

#include "libthink/cache/check.h"
#include "libthink/core/check.h"
#include "libthink/core/device.h"
#include "libthink/core/format.h"

using namespace think;
using cache::check_layer;
using cache::check_no_step;
using cache::check_sequence;
using cache::out_of_memory;
using Long = long long;  // what %lld takes

namespace {

constexpr int32_t kMostLayers = 65536, kMostDeviceLayers = 65535 /* of a grid */, kMostPlaces = 1 << 20;

think_status read_cache_options(const Argument &argument, const think_cache_options *in, const Shape &shape, cache::Options &options) {
  static const think_cache_options defaults = THINK_CACHE_OPTIONS_INIT;
  think_cache_options copy;
  if (const think_status status = read_options(argument, in, copy, defaults, THINK_CACHE_NO_SCORES | THINK_CACHE_KEEP_SCORES)) return status;
  const int32_t most_layers = shape.on_device ? kMostDeviceLayers : kMostLayers;
  if (copy.layers < 0 || copy.layers > most_layers) return wrong(argument, "layers", "expected 0 .. %d, got %d", most_layers, copy.layers);
  if (copy.sequences < 0) return wrong(argument, "sequences", "expected at least 0, got %d", copy.sequences);
  if (copy.fold != THINK_FOLD_NEVER && copy.fold != THINK_FOLD_BLOCK) return wrong(argument, "fold", "expected 0 (never) or 1 (block), got %d", copy.fold);
  if (copy.refit < 0) return wrong(argument, "refit", "expected at least 0, got %d", copy.refit);
  if (copy.refit > 0 && copy.fold == THINK_FOLD_NEVER) return wrong(argument, "refit", "expected 0 together with THINK_FOLD_NEVER, got %d", copy.refit);
  if (copy.rollback < -1 || copy.rollback > shape.max_tokens) {
    return wrong(argument, "rollback", "expected -1 .. %lld (max_tokens of the plan), got %d", static_cast<Long>(shape.max_tokens), copy.rollback);
  }
  if (copy.reserved != 0) return wrong(argument, "reserved", "expected 0, got %d", copy.reserved);
  const auto check_places = [&](const char *field, int32_t places) -> think_status {
    const int32_t most = shape.on_device ? kMostPlaces : 0;
    if (places >= 0 && places <= most) return THINK_OK;
    return wrong(argument, field, "expected 0 .. %d%s, got %d", most, shape.on_device ? "" : " (on the CPU they grow)", places);
  };
  if (const think_status status = check_places("bases", copy.bases)) return status;
  if ((copy.flags & THINK_CACHE_NO_SCORES) && ((copy.flags & THINK_CACHE_KEEP_SCORES) || copy.refit > 0)) {
    return wrong(argument, "flags", "THINK_CACHE_NO_SCORES together with THINK_CACHE_KEEP_SCORES or refit (%d)", copy.refit);
  }
  if (const think_status status = check_places("scored", copy.scored)) return status;
  const int64_t most_rows = shape.on_device ? 0 : int64_t{INT32_MAX} / 2;
  if (copy.reserve_tokens < 0 || copy.reserve_tokens > most_rows) {
    return wrong(argument, "reserve_tokens", "expected 0 .. %lld, got %lld", static_cast<Long>(most_rows), static_cast<Long>(copy.reserve_tokens));
  }
  if (copy.limit_bytes < 0) return wrong(argument, "limit_bytes", "expected at least 0, got %lld", static_cast<Long>(copy.limit_bytes));
  if (shape.on_device && copy.limit_bytes > 0) {
    return wrong(argument, "limit_bytes", "expected 0 with a CUDA plan (the slab is the limit), got %lld", static_cast<Long>(copy.limit_bytes));
  }
  if (copy.slab_bytes < 0) return wrong(argument, "slab_bytes", "expected at least 0, got %lld", static_cast<Long>(copy.slab_bytes));
  if (!shape.on_device && copy.slab) return wrong(argument, "slab", "expected NULL with a CPU plan, got %p", copy.slab);
  if (!shape.on_device && copy.slab_bytes > 0) {
    return wrong(argument, "slab_bytes", "expected 0 with a CPU plan, got %lld", static_cast<Long>(copy.slab_bytes));
  }
  const Text prune_name("%s->prune", argument.name), format_name("%s->format", argument.name);
  if (const think_status status = read_prune_options({argument.error, argument.position, prune_name.text}, copy.prune, shape, options.prune)) return status;
  if (const think_status status = read_format({argument.error, argument.position, format_name.text}, copy.format, shape, options.format)) return status;
  options.layers = copy.layers ? copy.layers : 1;
  options.layer_formats = copy.layer_formats;
  for (int32_t layer = 0; copy.layer_formats && layer < options.layers; ++layer) {
    const Text name("%s->layer_formats[%d]", argument.name, layer);
    if (layer == 0) {
      if (const think_status status = check_array({argument.error, argument.position, name.text}, copy.layer_formats)) return status;
    }
    think_format format;
    const Argument element{argument.error, argument.position, name.text, "."};
    if (const think_status status = read_layer_format(element, copy.layer_formats, layer, shape, format)) return status;
  }
  options.sequences = copy.sequences ? copy.sequences : shape.max_batch;
  options.fold = copy.fold;
  options.refit = copy.refit;
  options.rollback = copy.rollback == 0 ? shape.max_queries : std::max(copy.rollback, 0);
  options.flags = copy.flags;
  options.reserve_tokens = copy.reserve_tokens;
  options.limit_bytes = copy.limit_bytes;
  options.slab = copy.slab;
  options.slab_bytes = copy.slab_bytes;
  const bool again = cache::prunes_again(copy.flags, copy.refit);
  const int64_t runs = int64_t{options.sequences} * (again ? THINK_CACHE_MAX_RUNS : 1);
  options.bases = copy.bases ? copy.bases : static_cast<int32_t>(std::min<int64_t>(kMostPlaces, runs));
  const int32_t usually = again ? options.sequences : std::min(options.sequences, shape.max_batch);
  options.scored = copy.flags & THINK_CACHE_NO_SCORES ? 0 : copy.scored ? std::min(copy.scored, options.sequences) : usually;
  return THINK_OK;
}

// Attention reads dense rows and, layer by layer, compact ones together.
think_status check_device_formats(const Argument &argument, const think_cache &described) {
  for (int32_t layer = 0; layer < described.layers; ++layer) {
    const think_format &format = described.formats[layer];
    think_segment rows = THINK_SEGMENT_INIT;
    rows.key_dtype = rows.value_dtype = described.plan->shape.cache_dtype;
    think_dtype dtype = 0;
    if (const think_status status = check_device_attention(argument, rows, dtype)) return status;
    rows.key_dtype = format.key_dtype;
    rows.value_dtype = format.value_dtype;
    if (const think_status status = check_device_attention(argument, rows, dtype)) return status;
  }
  return THINK_OK;
}

// A cache of the host, for what can be said of one with these options.
cache::Holder describe(const think_plan &plan, cache::Options options) {
  options.slab = nullptr;
  return cache::Holder(cache::make(plan, options));
}

think_status no_memory_to_create(think_error *error) {
  return fail(error, THINK_E_MEMORY, 0, "the context's allocator gave no memory for a cache, or limit_bytes is too small for it");
}

think_status check_slab(const Argument &argument, const think_cache &described, const cache::Options &options) {
  if (!options.slab) return null_pointer(argument, "slab");
  if (reinterpret_cast<uintptr_t>(options.slab) % cache::kSlabAlignment) {
    return wrong(argument, "slab", "expected an address that is a multiple of %d, got %p", static_cast<int>(cache::kSlabAlignment), options.slab);
  }
  const int64_t least = cache::slab_bytes(described, {cache::kPageTokens, 0, options.bases, options.scored});
  if (options.slab_bytes >= least) return THINK_OK;
  return wrong(argument, "slab_bytes", "expected at least %lld (see think_cache_slab_size()), got %lld", static_cast<Long>(least),
               static_cast<Long>(options.slab_bytes));
}

think_status check_sequences(const Argument &argument, const think_cache &cache, const int32_t *sequences, int32_t count) {
  if (const think_status status = check_array(argument, sequences)) return status;
  for (int32_t index = 0; index < count; ++index) {
    const Text name("[%d]", index);
    if (const think_status status = check_sequence(argument, name.text, cache, sequences[index])) return status;
    for (int32_t other = 0; other < index; ++other) {
      if (sequences[other] == sequences[index]) return wrong(argument, name.text, "expected each sequence once, got %d again", sequences[index]);
    }
  }
  return THINK_OK;
}

void *stream_of(const think_cache &cache, const think_launch *launch, const Launch &call) { return launch ? call.stream : cache::last_stream(cache); }

think_status check_count(const Argument &argument, int32_t count, int32_t most, const char *most_name) {
  if (count >= 1 && count <= most) return THINK_OK;
  return wrong(argument, "", "expected 1 .. %d (%s), got %d", most, most_name, count);
}

// Arguments 2 and 3 of what is done to any number of sequences.
think_status check_some_sequences(think_error *error, const think_cache &cache, const int32_t *sequences, int32_t count) {
  const Argument argument{error, 2, "sequences", ""};
  if (const think_status status = check_array(argument, sequences)) return status;
  if (const think_status status = check_count({error, 3, "count"}, count, cache.sequences.size, "sequences of the cache")) return status;
  return check_sequences(argument, cache, sequences, count);
}

think_status check_step(think_error *error, const think_cache &cache) {
  if (cache.step.count > 0) return THINK_OK;
  return fail(error, THINK_E_STATE, 1, "cache: no step, or sequences were changed after it: call think_cache_step() first");
}

think_status check_appended(const Argument &argument, const think_cache &cache, int32_t layer) {
  if (const think_status status = check_layer(argument, cache, layer)) return status;
  if (const think_status status = check_step(argument.error, cache)) return status;
  if (cache.step.appended[layer]) return THINK_OK;
  return fail(argument.error, THINK_E_STATE, argument.position, "layer: layer %d has not been appended in this step", layer);
}

think_status check_graph(think_error *error, const think_cache *cache) {
  const Argument argument{error, 1, "cache"};
  if (!cache) return null_pointer(argument);
  if (!cache->device) return unsupported(argument, "", "expected a cache on a CUDA device, which can be captured, got one on the CPU");
  return check_step(error, *cache);
}

// The layer is argument 3.
think_status check_rows_are_there(think_error *error, const think_cache &cache, int32_t sequence, int32_t layer) {
  const cache::Step &step = cache.step;
  const int32_t *sequences = step.tables.data + step.sequence;
  if (step.missing == 0 || step.appended[layer] || std::find(sequences, sequences + step.count, sequence) == sequences + step.count) return THINK_OK;
  return fail(error, THINK_E_STATE, 3, "layer: layer %d has not been appended in this step, in which sequence %d takes part", layer, sequence);
}

// Where the caller wants segments.
struct SegmentArray {
  Argument segments_argument, capacity_argument, count_argument;
  think_segment *segments;
  int32_t capacity;
  int32_t *count;
};

think_status check_segment_array(const SegmentArray &array) {
  if (const think_status status = check_output(array.segments_argument, array.segments)) return status;
  if (array.segments->struct_size % alignof(think_segment)) {
    return wrong(array.segments_argument, "struct_size", "expected a multiple of %d, as it is the step of the array, got %u",
                 static_cast<int>(alignof(think_segment)), array.segments->struct_size);
  }
  if (array.capacity < 1) return wrong(array.capacity_argument, "", "expected at least 1, got %d", array.capacity);
  return check_array(array.count_argument, array.count);
}

think_status write_segments(const SegmentArray &array, const think_segment *found, int32_t count) {
  if (array.capacity < count) {
    return wrong(array.capacity_argument, "", "expected at least %d, as many as there are segments now, got %d", count, array.capacity);
  }
  const uint32_t step = array.segments->struct_size;
  for (int32_t index = 0; index < count; ++index) {
    think_segment *target = reinterpret_cast<think_segment *>(reinterpret_cast<char *>(array.segments) + size_t{step} * static_cast<size_t>(index));
    std::memset(reinterpret_cast<char *>(target), 0, step);
    target->struct_size = step;
    write_output(target, found[index]);
  }
  *array.count = count;
  return THINK_OK;
}

// Do the tensors have the rows of the step, and all of them in the same way?
think_status check_step_rows(const Argument &argument, const think_cache &cache, const think_tensor &tensor, const think_tensor &first,
                             const char *first_name) {
  const cache::Step &step = cache.step;
  if (cache::is_packed(cache, tensor) != cache::is_packed(cache, first)) {
    return wrong(argument, "extent[0]", "expected %s as %s, got %lld", cache::is_packed(cache, first) ? "1 (packed)" : "a row for each sequence", first_name,
                 static_cast<Long>(tensor.extent[0]));
  }
  const bool packed = cache::is_packed(cache, tensor);
  if (!packed && tensor.extent[0] < step.count) {
    return wrong(argument, "extent[0]", "expected at least %d (sequences of the step) or 1 (packed), got %lld", step.count,
                 static_cast<Long>(tensor.extent[0]));
  }
  const int64_t rows = packed ? step.total : step.longest;
  if (tensor.extent[2] < rows) {
    return wrong(argument, "extent[2]", "expected at least %lld (new tokens of the step%s), got %lld", static_cast<Long>(rows),
                 packed ? ", packed" : ", at most per sequence", static_cast<Long>(tensor.extent[2]));
  }
  return THINK_OK;
}

// A graph is good for every step of its id, so packed tensors that it holds must be.
think_status check_captured_rows(const Argument &argument, const think_cache &cache, const think_tensor &tensor, void *stream) {
  const int64_t most = int64_t{cache.step.count} * cache.step.longest;
  if (!cache.device || !cache::is_packed(cache, tensor) || tensor.extent[2] >= most) return THINK_OK;
  bool capturing = false;
  const think_status status = run_on_device(*cache.plan, argument.error, [&](const cuda::Backend &backend) { return backend.capturing(stream, &capturing); });
  if (status || !capturing) return status;
  return wrong(argument, "extent[2]", "expected at least %lld (%d sequences of up to %d new tokens) in a call that is captured, got %lld",
               static_cast<Long>(most), cache.step.count, cache.step.longest, static_cast<Long>(tensor.extent[2]));
}

// A segment takes a token stride of 0 for rows without gaps.
think_status check_token_stride(const Argument &argument, const think_tensor &tensor) {
  if (tensor.stride[2] != 0 || tensor.extent[2] <= 1) return THINK_OK;
  return wrong(argument, "stride[2]", "expected another than 0, got 0");
}

// The new rows of a layer.
think_status read_append(think_error *error, const think_cache &cache, const think_tensor *query, const think_tensor *key, const think_tensor *value,
                         cache::Append &rows) {
  const Shape &shape = cache.plan->shape;
  const Argument query_argument{error, 3, "query"}, key_argument{error, 4, "key"}, value_argument{error, 5, "value"};
  const bool scores = rows.scores = cache.step.scores;
  if (scores && !query) return wrong(query_argument, "", "expected a pointer, as sequences of the step keep scores, got NULL");
  if (query) {
    if (const think_status status = read_tensor(query_argument, query, {shape.query_heads, shape.key_channels, shape.query_dtype}, rows.query)) return status;
  }
  if (const think_status status = read_tensor(key_argument, key, {shape.kv_heads, shape.key_channels, 0}, rows.key)) return status;
  if (const think_status status = read_tensor(value_argument, value, {shape.kv_heads, shape.value_channels, 0}, rows.value)) return status;
  if (query) {
    if (const think_status status = check_step_rows(query_argument, cache, rows.query, rows.query, "query")) return status;
  }
  if (const think_status status = check_step_rows(key_argument, cache, rows.key, query ? rows.query : rows.key, "query")) return status;
  if (const think_status status = check_step_rows(value_argument, cache, rows.value, rows.key, "key")) return status;
  if (const think_status status = check_token_stride(key_argument, rows.key)) return status;
  if (const think_status status = check_token_stride(value_argument, rows.value)) return status;
  if (!cache.device) return THINK_OK;
  if (query) {
    if (const think_status status = check_device_rows(query_argument, rows.query)) return status;
  }
  if (const think_status status = check_device_rows(key_argument, rows.key)) return status;
  return check_device_rows(value_argument, rows.value);
}

think_status no_scores(think_error *error, const cache::Sequence &sequence, int32_t index, int32_t number) {
  return fail(error, THINK_E_STATE, 2, "sequences[%d]: sequence %d keeps no scores%s", index, number,
              sequence.run_count > 0 ? ": it was pruned before (see THINK_CACHE_KEEP_SCORES)" : " (THINK_CACHE_NO_SCORES, or loaded without them)");
}

think_status check_scores(think_error *error, const think_cache &cache, const int32_t *sequences, int32_t count) {
  for (int32_t index = 0; index < count; ++index) {
    const cache::Sequence &sequence = cache.sequences[sequences[index]];
    if (sequence.run_count == THINK_CACHE_MAX_RUNS) {
      return fail(error, THINK_E_STATE, 2, "sequences[%d]: sequence %d has been pruned %d times, the most that a cache can hold", index, sequences[index],
                  THINK_CACHE_MAX_RUNS);
    }
    if (sequence.score || cache::tokens_of(sequence) == 0) continue;
    return no_scores(error, sequence, index, sequences[index]);
  }
  return THINK_OK;
}

// Options, queries and scores of an eviction. Positions: those of think_cache_evict().
think_status read_eviction(think_error *error, const think_cache &cache, const int32_t *sequences, int32_t count, const think_evict_options *options,
                           const think_tensor *window_query, float *score, cache::Eviction &eviction) {
  const Shape &shape = cache.plan->shape;
  const Argument options_argument{error, 4, "options"}, query_argument{error, 5, "window_query"}, score_argument{error, 6, "score"};
  think_evict_options given;
  EvictCall &call = eviction.choice;
  call.shape = shape;
  call.isa = cache.plan->isa;
  call.parallel = cache.plan->parallel;
  if (const think_status status = read_evict_options(options_argument, options, shape, call, given)) return status;
  if (call.budget < 1) return wrong(options_argument, "budget", "expected at least 1, got %d", call.budget);
  if (given.kept_stride != 0) return wrong(options_argument, "kept_stride", "expected 0, got %lld", static_cast<Long>(given.kept_stride));
  const bool recent_only = given.method == THINK_EVICT_RECENT, takes_scores = call.accumulate && !cache::keeps_scores(cache);
  if (recent_only && window_query) return wrong(query_argument, "", "expected NULL (sinks and recent rows need no queries), got a pointer");
  if (!window_query && !recent_only && !takes_scores && !cache::keeps_scores(cache)) return null_pointer(query_argument);
  if (window_query) {
    think_tensor &query = call.window_query;
    if (const think_status status = read_tensor(query_argument, window_query, {shape.query_heads, shape.key_channels, 0}, query)) return status;
    const int64_t places = int64_t{count} * cache.layers;
    if (query.extent[0] < places) {
      return wrong(query_argument, "extent[0]", "expected at least %lld (count * layers), got %lld", static_cast<Long>(places),
                   static_cast<Long>(query.extent[0]));
    }
    if (query.extent[2] < 1 || query.extent[2] > shape.window) {
      return wrong(query_argument, "extent[2]", "expected 1 .. %d rows (window of the plan), got %lld", shape.window, static_cast<Long>(query.extent[2]));
    }
  }
  call.measure = !recent_only && (window_query || !takes_scores);
  eviction.last_query_only = given.method == THINK_EVICT_TOVA;
  if (const think_status status = check_evict_score(score_argument, given.method, score)) return status;
  call.score = score;
  for (int32_t index = 0; index < count; ++index) {
    const cache::Sequence &sequence = cache.sequences[sequences[index]];
    if (score && call.score_stride < sequence.dense_rows) {
      return wrong(options_argument, "score_stride", "expected at least %d (dense rows of sequence %d), got %lld", sequence.dense_rows, sequences[index],
                   static_cast<Long>(call.score_stride));
    }
    if (sequence.run_count > 0 && call.budget < cache.prune.sinks) {
      return wrong(options_argument, "budget", "expected at least %d (sinks of sequence %d, which has been pruned), got %d", cache.prune.sinks,
                   sequences[index], call.budget);
    }
  }
  return THINK_OK;
}

}  // namespace

extern "C" {

void think_cache_options_init(think_cache_options *options, uint32_t struct_size) {
  const think_cache_options initial = THINK_CACHE_OPTIONS_INIT;
  init_struct(options, struct_size, initial);
}

void think_cache_info_init(think_cache_info *info, uint32_t struct_size) {
  const think_cache_info initial = THINK_CACHE_INFO_INIT;
  init_struct(info, struct_size, initial);
}

think_status think_cache_create(const think_plan *plan, const think_cache_options *options, think_cache **cache, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    cache::Options settings{};
    if (const think_status status = read_cache_options({error, 2, "options"}, options, plan->shape, settings)) return status;
    if (const think_status status = check_array({error, 3, "cache"}, cache)) return status;
    if (plan->shape.on_device) {
      const Argument argument{error, 2, "options"};
      const cache::Holder described = describe(*plan, settings);
      if (!described) return no_memory_to_create(error);
      if (const think_status status = check_device_formats(argument, *described)) return status;
      if (const think_status status = check_slab(argument, *described, settings)) return status;
    }
    int32_t device_error = 0;
    settings.device_error = &device_error;
    think_cache *made = cache::make(*plan, settings);
    if (!made && device_error) return device_failed(*plan->context->cuda, device_error, "preparing the cache", error);
    if (!made) return no_memory_to_create(error);
    *cache = made;
    return THINK_OK;
  });
}

think_status think_cache_slab_size(const think_plan *plan, const think_cache_options *options, int64_t dense_tokens, int64_t compact_tokens, int64_t *bytes,
                                   think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    cache::Options settings{};
    if (const think_status status = read_cache_options({error, 2, "options"}, options, plan->shape, settings)) return status;
    const auto check_tokens = [&](int32_t position, const char *name, int64_t tokens) {
      constexpr int64_t most = int64_t{INT32_MAX} / 2;
      if (tokens >= 0 && tokens <= most) return THINK_OK;
      return wrong({error, position, name}, "", "expected 0 .. %lld, got %lld", static_cast<Long>(most), static_cast<Long>(tokens));
    };
    if (const think_status status = check_tokens(3, "dense_tokens", dense_tokens)) return status;
    if (const think_status status = check_tokens(4, "compact_tokens", compact_tokens)) return status;
    if (const think_status status = check_array({error, 5, "bytes"}, bytes)) return status;
    if (!plan->shape.on_device) return unsupported({error, 1, "plan"}, "", "expected a CUDA plan: on the CPU the cache asks the context's allocator");
    const cache::Holder described = describe(*plan, settings);
    if (!described) return no_memory_to_create(error);
    if (const think_status status = check_device_formats({error, 2, "options"}, *described)) return status;
    *bytes = cache::slab_bytes(*described, {dense_tokens, compact_tokens, settings.bases, settings.scored});
    return THINK_OK;
  });
}

void think_cache_destroy(think_cache *cache) {
  if (cache) cache::destroy(*cache);
}

think_status think_cache_workspace_size(const think_cache *cache, int64_t *bytes, int64_t *alignment, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    if (const think_status status = check_array({error, 2, "bytes"}, bytes)) return status;
    if (const think_status status = check_optional({error, 3, "alignment"}, alignment)) return status;
    *bytes = cache::workspace(*cache);
    if (alignment) *alignment = kWorkspaceAlignment;
    return THINK_OK;
  });
}

think_status think_cache_step(think_cache *cache, const int32_t *sequences, const int32_t *new_tokens, int32_t count, const think_launch *launch,
                              think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    const Shape &shape = cache->plan->shape;
    const Argument sequences_argument{error, 2, "sequences", ""}, tokens_argument{error, 3, "new_tokens", ""};
    if (const think_status status = check_array(sequences_argument, sequences)) return status;
    if (const think_status status = check_array(tokens_argument, new_tokens)) return status;
    const int32_t most = std::min(shape.max_batch, cache->sequences.size);
    if (const think_status status = check_count({error, 4, "count"}, count, most, "max_batch of the plan, sequences of the cache")) return status;
    if (const think_status status = check_sequences(sequences_argument, *cache, sequences, count)) return status;
    bool refits = false;
    int64_t longest = 0, total = 0;
    for (int32_t index = 0; index < count; ++index) {
      const cache::Sequence &sequence = cache->sequences[sequences[index]];
      const int64_t room = shape.max_tokens - cache::tokens_of(sequence);
      if (new_tokens[index] < 0 || new_tokens[index] > room) {
        return wrong(tokens_argument, Text("[%d]", index).text, "expected 0 .. %lld (max_tokens of the plan, less those of sequence %d), got %d",
                     static_cast<Long>(room), sequences[index], new_tokens[index]);
      }
      total += new_tokens[index];
      if (total > INT32_MAX) return wrong(tokens_argument, "", "expected at most %d tokens in all, got %lld", INT32_MAX, static_cast<Long>(total));
      refits |= plan_fold(*cache, sequence).refit.rows > 0;
      longest = std::max<int64_t>(longest, sequence.dense_rows);
    }
    Launch call;
    if (const think_status status = read_launch({error, 5, "launch"}, launch, shape, false, call)) return status;
    if (const think_status status = check_no_step(error, *cache, "think_cache_step")) return status;
    if (refits) {
      if (const think_status status = check_workspace(call, cache::prune_workspace(*cache, longest))) return status;
    }
    return cache::work(*cache, stream_of(*cache, launch, call), error, [&] { return cache::begin_step(*cache, sequences, new_tokens, count, call.workspace); });
  });
}

think_status think_cache_append(think_cache *cache, int32_t layer, const think_tensor *query, const think_tensor *key, const think_tensor *value,
                                const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    const Shape &shape = cache->plan->shape;
    if (const think_status status = check_layer({error, 2, "layer"}, *cache, layer)) return status;
    if (const think_status status = check_step(error, *cache)) return status;
    if (cache->step.appended[layer]) return fail(error, THINK_E_STATE, 2, "layer: layer %d has been appended in this step", layer);
    cache::Append rows{};
    if (const think_status status = read_append(error, *cache, query, key, value, rows)) return status;
    Launch call;
    if (const think_status status = read_launch({error, 6, "launch"}, launch, shape, false, call)) return status;
    void *stream = stream_of(*cache, launch, call);
    if (const think_status status = check_captured_rows({error, 4, "key"}, *cache, rows.key, stream)) return status;
    if (rows.scores) {
      if (const think_status status = check_captured_rows({error, 3, "query"}, *cache, rows.query, stream)) return status;
      if (const think_status status = check_workspace(call, cache::append_workspace(*cache, cache->step.longest))) return status;
    }
    return cache::work(*cache, stream, error, [&] {
      cache::append(*cache, layer, rows, call.workspace);
      return true;
    });
  });
}

think_status think_cache_attend(const think_cache *cache, int32_t layer, const think_tensor *query, const float *sink_logit, const think_tensor *output,
                                float *lse, const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    const Shape &shape = cache->plan->shape;
    const Argument query_argument{error, 3, "query"};
    if (const think_status status = check_appended({error, 2, "layer"}, *cache, layer)) return status;
    think_tensor rows;
    if (const think_status status = read_tensor(query_argument, query, {shape.query_heads, shape.key_channels, shape.query_dtype}, rows)) return status;
    if (const think_status status = check_step_rows(query_argument, *cache, rows, rows, "query")) return status;
    if (cache->step.longest > shape.max_queries) {
      return wrong(query_argument, "", "expected at most %d new tokens of a sequence (max_queries of the plan), the step has %d", shape.max_queries,
                   cache->step.longest);
    }
    if (cache->device) {
      Launch call;
      if (const think_status status = read_launch({error, 7, "launch"}, launch, shape, true, call)) return status;
      if (const think_status status = check_captured_rows(query_argument, *cache, rows, stream_of(*cache, launch, call))) return status;
    }
    const Batch batch = cache::step_batch(*cache, rows);
    think_batch all = THINK_BATCH_INIT;
    all.count = batch.count;
    all.lengths = batch.lengths;
    all.row_start = batch.row_start;
    think_segment segments[THINK_MAX_SEGMENTS];
    const int32_t count = cache::step_segments(*cache, layer, segments);
    const think_status status = think_attend(cache->plan, query, &all, segments, count, sink_logit, output, lse, launch, error);
    if (status == THINK_OK || !error || error->struct_size < kFirstSize<think_error>) return status;
    // Arguments have other places here.
    constexpr int32_t places[] = {0, 1, 3, 1, 1, 1, 4, 5, 6, 7};
    if (error->argument > 0 && error->argument < static_cast<int32_t>(std::size(places))) error->argument = places[error->argument];
    return status;
  });
}

think_status think_cache_graph_id(const think_cache *cache, int64_t *id, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (const think_status status = check_graph(error, cache)) return status;
    if (const think_status status = check_array({error, 2, "id"}, id)) return status;
    *id = cache::graph_id(cache->step);
    return THINK_OK;
  });
}

think_status think_cache_replayed(think_cache *cache, int64_t id, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (const think_status status = check_graph(error, cache)) return status;
    if (cache->step.missing < cache->layers) {
      return fail(error, THINK_E_STATE, 1, "cache: expected a step in which no layer has been appended, %d of %d have been",
                  cache->layers - cache->step.missing, cache->layers);
    }
    const int64_t expected = cache::graph_id(cache->step);
    if (id != expected) return wrong({error, 2, "id"}, "", "expected %lld (that of this step), got %lld", static_cast<Long>(expected), static_cast<Long>(id));
    for (int32_t layer = 0; layer < cache->layers; ++layer) cache->step.appended[layer] = 1;
    cache->step.missing = 0;
    return THINK_OK;
  });
}

think_status think_cache_evict(think_cache *cache, const int32_t *sequences, int32_t count, const think_evict_options *options,
                               const think_tensor *window_query, float *score, const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    const Shape &shape = cache->plan->shape;
    if (const think_status status = check_some_sequences(error, *cache, sequences, count)) return status;
    cache::Eviction eviction{};
    if (const think_status status = read_eviction(error, *cache, sequences, count, options, window_query, score, eviction)) return status;
    Launch call;
    if (const think_status status = read_launch({error, 7, "launch"}, launch, shape, false, call)) return status;
    if (const think_status status = check_no_step(error, *cache, "think_cache_evict")) return status;
    int64_t longest = 0;
    for (int32_t index = 0; index < count; ++index) {
      const cache::Sequence &sequence = cache->sequences[sequences[index]];
      longest = std::max<int64_t>(longest, sequence.dense_rows);
      if (!eviction.choice.measure || window_query || sequence.score || sequence.dense_rows == 0) continue;
      return no_scores(error, sequence, index, sequences[index]);
    }
    if (const think_status status = check_workspace(call, cache::evict_workspace(*cache, longest))) return status;
    return cache::work(*cache, stream_of(*cache, launch, call), error, [&] { return cache::evict_all(*cache, sequences, count, eviction, call.workspace); });
  });
}

think_status think_cache_keep(think_cache *cache, int32_t sequence, const int32_t *kept, int32_t rows, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    if (const think_status status = check_sequence({error, 2, "sequence"}, "", *cache, sequence)) return status;
    const Argument argument{error, 3, "kept", ""};
    if (const think_status status = check_array(argument, kept)) return status;
    const cache::Sequence &held = cache->sequences[sequence];
    const int32_t sinks = held.run_count > 0 ? cache->prune.sinks : 0, least = std::max(sinks, 1);
    if (rows < least || rows > held.dense_rows) {
      return wrong({error, 4, "rows"}, "", "expected %d .. %d (dense rows of sequence %d), got %d", least, held.dense_rows, sequence, rows);
    }
    for (int64_t at = 0; at < int64_t{cache->layers} * cache->plan->shape.kv_heads * rows; ++at) {
      const int64_t row = at % rows, first = row == 0 ? 0 : int64_t{kept[at - 1]} + 1, last = row < sinks ? row : held.dense_rows - 1;
      if (kept[at] >= first && kept[at] <= last) continue;
      return wrong(argument, Text("[%lld]", static_cast<Long>(at)).text, "expected ascending rows, here %lld .. %lld, got %d", static_cast<Long>(first),
                   static_cast<Long>(last), kept[at]);
    }
    if (const think_status status = check_no_step(error, *cache, "think_cache_keep")) return status;
    return cache::work(*cache, cache::last_stream(*cache), error, [&] { return cache::keep(*cache, sequence, kept, rows); });
  });
}

think_status think_cache_prune(think_cache *cache, const int32_t *sequences, int32_t count, const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    const Shape &shape = cache->plan->shape;
    if (const think_status status = check_some_sequences(error, *cache, sequences, count)) return status;
    Launch call;
    if (const think_status status = read_launch({error, 4, "launch"}, launch, shape, false, call)) return status;
    if (const think_status status = check_no_step(error, *cache, "think_cache_prune")) return status;
    if (const think_status status = check_scores(error, *cache, sequences, count)) return status;
    int64_t longest = 0;
    for (int32_t index = 0; index < count; ++index) longest = std::max<int64_t>(longest, cache->sequences[sequences[index]].dense_rows);
    if (const think_status status = check_workspace(call, cache::prune_workspace(*cache, longest))) return status;
    return cache::work(*cache, stream_of(*cache, launch, call), error, [&] { return cache::prune_all(*cache, sequences, count, call.workspace); });
  });
}

think_status think_cache_usage(const think_cache *cache, int32_t sequence, think_cache_info *info, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    if (sequence < -1 || sequence >= cache->sequences.size) {
      return wrong({error, 2, "sequence"}, "", "expected -1 (the whole cache) .. %d, got %d", cache->sequences.size - 1, sequence);
    }
    if (const think_status status = check_output({error, 3, "info"}, info)) return status;
    write_output(info, cache::usage(*cache, sequence));
    return THINK_OK;
  });
}

think_status think_cache_segments(const think_cache *cache, int32_t layer, think_segment *segments, int32_t capacity, int32_t *count, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    const Argument layer_argument{error, 2, "layer"};
    if (const think_status status = check_layer(layer_argument, *cache, layer)) return status;
    const SegmentArray array{{error, 3, "segments"}, {error, 4, "capacity"}, {error, 5, "count"}, segments, capacity, count};
    if (const think_status status = check_segment_array(array)) return status;
    if (const think_status status = check_appended(layer_argument, *cache, layer)) return status;
    think_segment found[THINK_MAX_SEGMENTS];
    return write_segments(array, found, cache::step_segments(*cache, layer, found));
  });
}

think_status think_cache_sequence_segments(const think_cache *cache, int32_t sequence, int32_t layer, think_segment *segments, int32_t capacity,
                                           int32_t *count, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    if (const think_status status = check_sequence({error, 2, "sequence"}, "", *cache, sequence)) return status;
    if (const think_status status = check_layer({error, 3, "layer"}, *cache, layer)) return status;
    const SegmentArray array{{error, 4, "segments"}, {error, 5, "capacity"}, {error, 6, "count"}, segments, capacity, count};
    if (const think_status status = check_segment_array(array)) return status;
    if (const think_status status = check_rows_are_there(error, *cache, sequence, layer)) return status;
    if (cache->device) return unsupported({error, 1, "cache"}, "", "on a CUDA device only steps have tables: use think_cache_segments()");
    const cache::Sequence &held = cache->sequences[sequence];
    think_segment found[THINK_CACHE_MAX_RUNS + 1];
    for (int32_t run = 0; run < held.run_count; ++run) {
      found[run] = cache::compact_segment(*cache, layer, held.runs[run].kind, cache::compact_rows(held.runs[run]));
    }
    found[held.run_count] = cache::dense_segment(*cache, layer, cache::dense_rows(held));
    return write_segments(array, found, held.run_count + 1);
  });
}

think_status think_cache_export_dense(const think_cache *cache, int32_t sequence, int32_t layer, int64_t first, int64_t count, const think_tensor *key,
                                      const think_tensor *value, const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    const Shape &shape = cache->plan->shape;
    if (const think_status status = check_sequence({error, 2, "sequence"}, "", *cache, sequence)) return status;
    if (const think_status status = check_layer({error, 3, "layer"}, *cache, layer)) return status;
    const int64_t tokens = cache::tokens_of(cache->sequences[sequence]);
    if (first < 0 || first > tokens) {
      return wrong({error, 4, "first"}, "", "expected 0 .. %lld (tokens of sequence %d), got %lld", static_cast<Long>(tokens), sequence,
                   static_cast<Long>(first));
    }
    if (count < 0 || count > tokens - first) {
      return wrong({error, 5, "count"}, "", "expected 0 .. %lld (tokens of sequence %d from first on), got %lld", static_cast<Long>(tokens - first), sequence,
                   static_cast<Long>(count));
    }
    think_tensor tensors[2];
    const auto read = [&](const Argument &argument, const think_tensor *in, int32_t channels, think_tensor &tensor) {
      if (!in) return THINK_OK;
      if (const think_status status = read_tensor(argument, in, {shape.kv_heads, channels, 0}, tensor)) return status;
      if (tensor.extent[0] < 1) return wrong(argument, "extent[0]", "expected at least 1, got %lld", static_cast<Long>(tensor.extent[0]));
      if (tensor.extent[2] >= count) return THINK_OK;
      return wrong(argument, "extent[2]", "expected at least %lld (count), got %lld", static_cast<Long>(count), static_cast<Long>(tensor.extent[2]));
    };
    if (const think_status status = read({error, 6, "key"}, key, shape.key_channels, tensors[THINK_KEYS])) return status;
    if (const think_status status = read({error, 7, "value"}, value, shape.value_channels, tensors[THINK_VALUES])) return status;
    Launch call;
    if (const think_status status = read_launch({error, 8, "launch"}, launch, shape, false, call)) return status;
    if (const think_status status = check_rows_are_there(error, *cache, sequence, layer)) return status;
    return cache::work(*cache, stream_of(*cache, launch, call), error, [&] {
      cache::export_rows(*cache, sequence, layer, first, count, key ? &tensors[THINK_KEYS] : nullptr, value ? &tensors[THINK_VALUES] : nullptr);
      return true;
    });
  });
}

think_status think_cache_trim(think_cache *cache, int32_t sequence, int64_t tokens, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    if (const think_status status = check_sequence({error, 2, "sequence"}, "", *cache, sequence)) return status;
    const cache::Sequence &held = cache->sequences[sequence];
    const Argument argument{error, 3, "tokens"};
    if (tokens < 0 || tokens > cache::tokens_of(held)) {
      return wrong(argument, "", "expected 0 .. %lld (those that the sequence holds), got %lld", static_cast<Long>(cache::tokens_of(held)),
                   static_cast<Long>(tokens));
    }
    if (const think_status status = check_no_step(error, *cache, "think_cache_trim")) return status;
    const int64_t compact = cache::compact_tokens(held), fewest = compact + std::max(compact > 0 ? cache->prune.sinks : 0, held.settled_rows);
    if (tokens > 0 && tokens < fewest) {
      return fail(error, THINK_E_STATE, 3,
                  "tokens: the first %lld rows of sequence %d (compact ones, sinks, and what an eviction mixed) cannot be rolled back, got %lld",
                  static_cast<Long>(fewest), sequence, static_cast<Long>(tokens));
    }
    cache::end_step(*cache);
    if (tokens == 0) {
      cache::drop(*cache, sequence);
    } else {
      cache::trim(*cache, sequence, static_cast<int32_t>(tokens - compact));
    }
    cache::settle(*cache);
    return THINK_OK;
  });
}

think_status think_cache_fork(think_cache *cache, int32_t source, int32_t destination, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    if (const think_status status = check_sequence({error, 2, "source"}, "", *cache, source)) return status;
    if (const think_status status = check_sequence({error, 3, "destination"}, "", *cache, destination)) return status;
    if (source == destination) return wrong({error, 3, "destination"}, "", "expected another sequence than source, got %d", destination);
    if (const think_status status = check_no_step(error, *cache, "think_cache_fork")) return status;
    if (const int64_t tokens = cache::tokens_of(cache->sequences[destination])) {
      return fail(error, THINK_E_STATE, 3, "destination: expected a sequence without tokens, sequence %d holds %lld", destination, static_cast<Long>(tokens));
    }
    if (!cache::fork(*cache, source, destination)) return out_of_memory(error, *cache);
    cache::end_step(*cache);
    return THINK_OK;
  });
}

think_status think_cache_drop(think_cache *cache, int32_t sequence, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    if (const think_status status = check_sequence({error, 2, "sequence"}, "", *cache, sequence)) return status;
    cache::abort_step(*cache);
    cache::drop(*cache, sequence);
    cache::settle(*cache);
    return THINK_OK;
  });
}

think_status think_cache_reset(think_cache *cache, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    cache::abort_step(*cache);
    for (int32_t sequence = 0; sequence < cache->sequences.size; ++sequence) cache::drop(*cache, sequence);
    cache::settle(*cache);
    return THINK_OK;
  });
}

}  // extern "C"
