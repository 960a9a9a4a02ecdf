#include "libthink/cache/cache.h"

#include <new>

#include "kernels/attend/attend.h"
#include "kernels/common/quantized.h"
#include "kernels/score/score.h"
#include "libthink/core/format.h"
#include "libthink/core/layout.h"

namespace think::cache {
namespace {

void describe_slab(const think_cache &cache, int32_t kind, int32_t layer, Slab &slab) {
  const Shape &shape = cache.plan->shape;
  const int64_t row = int64_t{shape.kv_heads} * dtype_bytes(shape.cache_dtype) * kPageTokens;
  const auto bytes = [&](int32_t side, int32_t basis) {
    return aligned_bytes(kind == kDense ? row * channels_of(shape, side) : compact_side_bytes(cache, layer, side, (kind & basis) != 0));
  };
  slab.value_begin = bytes(THINK_KEYS, kKeyBasis);
  slab.page_bytes = slab.value_begin + bytes(THINK_VALUES, kValueBasis);
}

void describe_pool(const think_cache &cache, int32_t kind, Pool &pool) {
  const Shape &shape = cache.plan->shape;
  pool = {};
  if (kind == kDense) return;
  pool.key_basis = (kind & kKeyBasis) != 0;
  pool.value_basis = (kind & kValueBasis) != 0;
  pool.predicts = cache.prune.regressed;
  const int64_t offsets = shape.kv_heads * static_cast<int64_t>(sizeof(int64_t));
  if (pool.key_basis) pool.slot_bytes += basis_bytes(shape, THINK_KEYS, pool.predicts) + offsets;
  if (pool.value_basis) pool.slot_bytes += basis_bytes(shape, THINK_VALUES, pool.predicts) + offsets;
  for (int32_t layer = 0; layer < cache.layers; ++layer) {
    pool.key_scale |= stored_dtype(cache, layer, THINK_KEYS) == THINK_F8_E4M3;
    pool.value_scale |= stored_dtype(cache, layer, THINK_VALUES) == THINK_F8_E4M3;
  }
  pool.slot_bytes += (pool.key_scale + pool.value_scale) * shape.kv_heads * static_cast<int64_t>(sizeof(float));
}

int64_t score_bytes(const think_cache &cache) { return score::state_bytes(cache.plan->shape) * cache.layers; }

bool open(think_cache &cache, const Options &options) {
  if (!reserve(cache.memory, cache.sequences, options.sequences) || !reserve(cache.memory, cache.step.appended, options.layers)) return false;
  for (int32_t sequence = 0; sequence < options.sequences; ++sequence) cache.sequences.push({});
  for (int32_t layer = 0; layer < options.layers; ++layer) cache.step.appended.push(0);
  if (!reserve(cache.memory, cache.formats, options.layers)) return false;
  for (int32_t layer = 0; layer < options.layers; ++layer) {
    think_format format = options.format;
    if (options.layer_formats) read_layer_format({}, options.layer_formats, layer, cache.plan->shape, format);  // checked before
    cache.formats.push(format);
  }
  for (int32_t kind = 0; kind < kKinds; ++kind) {
    describe_pool(cache, kind, cache.pools[kind]);
    const auto set = [&](int32_t layer, Slab &slab) { describe_slab(cache, kind, layer, slab); };
    if (!open_pool(cache.memory, cache.pools[kind], options.layers, set)) return false;
  }
  cache.pools[kDense].floor = page_count(options.reserve_tokens);
  return reserve_pages(cache.memory, cache.pools[kDense], cache.pools[kDense].floor);
}

void drop_run(think_cache &cache, Run &run) {
  Pool &pool = cache.pools[run.kind];
  for (int32_t page = 0; page < run.pages.size; ++page) drop_page(pool, run.pages[page]);
  drop_slot(pool, run.slot);
  release(cache.memory, run.pages);
}

}  // namespace

int32_t least_kind(const think_cache &cache) {
  const think_format *begin = cache.formats.data, *end = begin + cache.layers;
  return std::any_of(begin, end, [](const think_format &format) { return is_quantized(format.key_dtype) || is_quantized(format.value_dtype); }) ? 0 : kKeyBasis;
}

int64_t compact_side_bytes(const think_cache &cache, int32_t layer, int32_t side, bool pruned) {
  const Shape &shape = cache.plan->shape;
  const think_dtype dtype = stored_dtype(cache, layer, side);
  if (pruned) return prune_rule(shape, cache.prune, side, dtype).tile_bytes;
  return rows_bytes(shape, side, kPageTokens, int64_t{shape.kv_heads} * channels_of(shape, side), 1, dtype);
}

think_cache *make(const think_plan &plan, const Options &options) {
  Memory memory{plan.context, 0, options.limit_bytes};
  void *place = take(memory, sizeof(think_cache));
  if (!place) return nullptr;
  think_cache *cache = new (place) think_cache{};
  cache->plan = &plan;
  cache->memory = memory;
  cache->layers = options.layers;
  cache->fold = options.fold;
  cache->refit = options.refit;
  cache->rollback = options.rollback;
  cache->flags = options.flags;
  cache->prune = options.prune;
  retain(*plan.context);
  if (open(*cache, options)) return cache;
  destroy(*cache);
  return nullptr;
}

void destroy(think_cache &cache) {
  for (int32_t sequence = 0; sequence < cache.sequences.size; ++sequence) drop(cache, sequence);
  for (Pool &pool : cache.pools) close_pool(cache.memory, pool);
  release(cache.memory, cache.formats);
  release(cache.memory, cache.sequences);
  release(cache.memory, cache.step.tables);
  release(cache.memory, cache.step.appended);
  think_context &context = *cache.memory.context;
  cache.~think_cache();
  deallocate(context, &cache, sizeof(think_cache));
  think::release(context);
}

int64_t compact_rows(const Sequence &sequence) {
  int64_t rows = 0;
  for (int32_t run = 0; run < sequence.run_count; ++run) rows += sequence.runs[run].rows;
  return rows;
}

int64_t workspace(const think_cache &cache) {
  const Shape &shape = cache.plan->shape;
  int64_t bytes = attend::workspace(shape, {shape.max_batch, shape.max_queries, 1 + 4 * THINK_CACHE_MAX_RUNS, shape.max_tokens});
  bytes = std::max(bytes, evict_workspace(cache, shape.max_tokens));
  if (!keeps_scores(cache)) return bytes;
  bytes = std::max(bytes, score::update_workspace(shape, 1, std::min(kScorePiece, shape.max_tokens)));
  return std::max(bytes, prune_workspace(shape, 1, shape.max_tokens, cache.plan->parallel.threads));
}

think_cache_info usage(const think_cache &cache, int32_t only) {
  const Shape &shape = cache.plan->shape;
  think_cache_info info = THINK_CACHE_INFO_INIT;
  const int64_t row = int64_t{shape.kv_heads} * (int64_t{shape.key_channels} + shape.value_channels) * dtype_bytes(shape.cache_dtype) * cache.layers;
  for (int32_t number = only < 0 ? 0 : only; number < (only < 0 ? cache.sequences.size : only + 1); ++number) {
    const Sequence &sequence = cache.sequences[number];
    info.tokens += tokens_of(sequence);
    info.compact_tokens += compact_rows(sequence);
    info.evicted_tokens += sequence.evicted;
    info.score_bytes += sequence.score ? score_bytes(cache) : 0;
    info.sequences += tokens_of(sequence) > 0;
  }
  info.dense_bytes = (info.tokens + info.evicted_tokens) * row;
  if (only < 0) {
    for (const Pool &pool : cache.pools) {
      info.page_bytes += pool.used * pool.page_bytes;
      info.basis_bytes += pool.slots_used * pool.slot_bytes * cache.layers;
      info.spare_bytes += spare_bytes(pool);
    }
    info.allocated_bytes = cache.memory.bytes;
    info.table_bytes = info.allocated_bytes - info.page_bytes - info.basis_bytes - info.score_bytes - info.spare_bytes;
    return info;
  }
  const Sequence &sequence = cache.sequences[only];
  info.sequences = 0;
  info.runs = sequence.run_count;
  info.page_bytes = sequence.pages.size * cache.pools[kDense].page_bytes;
  int32_t kind = 0;
  for (int32_t run = 0; run < sequence.run_count; ++run) {
    kind = sequence.runs[run].kind;
    info.page_bytes += sequence.runs[run].pages.size * cache.pools[kind].page_bytes;
    info.basis_bytes += cache.pools[kind].slot_bytes * cache.layers;
  }
  const auto channels = [&](int32_t side, int32_t bit) {
    return static_cast<int32_t>(kind & bit ? prune_total(shape, cache.prune, side) : int64_t{shape.kv_heads} * channels_of(shape, side));
  };
  info.key_channels = channels(THINK_KEYS, kKeyBasis);
  info.value_channels = channels(THINK_VALUES, kValueBasis);
  info.allocated_bytes = info.page_bytes + info.basis_bytes + info.score_bytes;
  return info;
}

bool add_score(think_cache &cache, Sequence &sequence) {
  if (sequence.score || !keeps_scores(cache)) return true;
  sequence.score = static_cast<char *>(take(cache.memory, score_bytes(cache)));
  for (int32_t layer = 0; sequence.score && layer < cache.layers; ++layer) {
    score::reset(cache.plan->shape, sequence.score, {1, nullptr, nullptr, &layer});
  }
  return sequence.score != nullptr;
}

void drop_score(think_cache &cache, Sequence &sequence) {
  give(cache.memory, sequence.score, score_bytes(cache));
  sequence.score = nullptr;
}

bool fork(think_cache &cache, int32_t source, int32_t destination) {
  const Sequence &from = cache.sequences[source];
  Sequence copy = from;  // all but what it owns
  copy.pages = {};
  copy.score = nullptr;
  for (Run &run : copy.runs) run.pages = {};
  const auto list = [&](const Array<int32_t> &pages, Array<int32_t> &copied) {
    if (!reserve(cache.memory, copied, pages.size)) return false;
    if (pages.size > 0) std::memcpy(copied.data, pages.data, static_cast<size_t>(pages.size) * sizeof(int32_t));
    copied.size = pages.size;
    return true;
  };
  bool fits = list(from.pages, copy.pages);
  for (int32_t run = 0; run < from.run_count; ++run) {
    fits = fits && list(from.runs[run].pages, copy.runs[run].pages);
  }
  if (fits && from.score) {
    copy.score = static_cast<char *>(take(cache.memory, score_bytes(cache)));
    fits = copy.score != nullptr;
    if (fits) std::memcpy(copy.score, from.score, static_cast<size_t>(score_bytes(cache)));
  }
  if (!fits) {
    release(cache.memory, copy.pages);
    for (Run &run : copy.runs) release(cache.memory, run.pages);
    return false;
  }
  for (int32_t page = 0; page < copy.pages.size; ++page) ++cache.pools[kDense].page_users[copy.pages[page]];
  for (int32_t run = 0; run < copy.run_count; ++run) {
    Pool &pool = cache.pools[copy.runs[run].kind];
    for (int32_t page = 0; page < copy.runs[run].pages.size; ++page) ++pool.page_users[copy.runs[run].pages[page]];
    if (pool.slot_bytes > 0) ++pool.slot_users[copy.runs[run].slot];
  }
  drop(cache, destination);  // it may have lists without tokens
  cache.sequences[destination] = copy;
  return true;
}

void trim(think_cache &cache, int32_t number, int32_t dense_rows) {
  Sequence &sequence = cache.sequences[number];
  while (sequence.pages.size > page_count(dense_rows)) drop_page(cache.pools[kDense], sequence.pages[--sequence.pages.size]);
  sequence.dense_rows = dense_rows;
}

void drop(think_cache &cache, int32_t number) {
  Sequence &sequence = cache.sequences[number];
  trim(cache, number, 0);
  release(cache.memory, sequence.pages);
  for (int32_t run = 0; run < sequence.run_count; ++run) drop_run(cache, sequence.runs[run]);
  for (Run &run : sequence.runs) release(cache.memory, run.pages);
  drop_score(cache, sequence);
  sequence = {};
}

void settle(think_cache &cache) {
  for (int32_t kind = 0; kind < kKinds; ++kind) {
    Pool &pool = cache.pools[kind];
    if (!sparse(pool)) continue;
    gather(pool, [&](int32_t from, int32_t to) {
      const auto rename = [&](Array<int32_t> &pages) { std::replace(pages.data, pages.data + pages.size, from, to); };
      for (int32_t number = 0; number < cache.sequences.size; ++number) {
        Sequence &sequence = cache.sequences[number];
        if (kind == kDense) rename(sequence.pages);
        for (int32_t run = 0; run < sequence.run_count; ++run) {
          if (sequence.runs[run].kind == kind) rename(sequence.runs[run].pages);
        }
      }
    });
    shrink(cache.memory, pool);
  }
}

bool shared(const think_cache &cache, const Sequence &sequence, int64_t row) {
  return cache.pools[kDense].page_users[sequence.pages[row / kPageTokens]] > 1;
}

void own(think_cache &cache, Sequence &sequence, int64_t row) {
  if (!shared(cache, sequence, row)) return;
  Pool &pool = cache.pools[kDense];
  int32_t &page = sequence.pages[row / kPageTokens];
  const int32_t copy = take_page(pool);
  copy_page(pool, page, copy);
  drop_page(pool, page);
  page = copy;
}

think_segment dense_segment(const think_cache &cache, int32_t layer, const int32_t *pages, int64_t stride, const int32_t *first, const int32_t *lengths) {
  const Shape &shape = cache.plan->shape;
  const Slab &slab = cache.pools[kDense].slabs[layer];
  think_segment segment = THINK_SEGMENT_INIT;
  segment.key_dtype = segment.value_dtype = shape.cache_dtype;
  segment.page_tokens = kPageTokens;
  segment.key = slab.pages;
  segment.value = slab.pages + slab.value_begin;
  segment.key_stride[0] = segment.value_stride[0] = slab.page_bytes;
  segment.key_stride[2] = int64_t{shape.key_channels} * dtype_bytes(shape.cache_dtype);
  segment.value_stride[2] = int64_t{shape.value_channels} * dtype_bytes(shape.cache_dtype);
  segment.key_stride[1] = segment.key_stride[2] * kPageTokens;
  segment.value_stride[1] = segment.value_stride[2] * kPageTokens;
  segment.pages = pages;
  segment.pages_stride = stride;
  segment.first = first;
  segment.lengths = lengths;
  segment.lengths_stride[0] = 1;
  return segment;
}

think_segment dense_segment(const think_cache &cache, int32_t layer, const Sequence &sequence) {
  return dense_segment(cache, layer, sequence.pages.data, sequence.pages.size, nullptr, &sequence.dense_rows);
}

think_segment compact_segment(const think_cache &cache, int32_t layer, const Run &run) {
  return compact_segment(cache, layer, run.kind, run.pages.data, run.pages.size, nullptr, &run.rows, &run.slot);
}

think_segment compact_segment(const think_cache &cache, int32_t layer, int32_t kind, const int32_t *pages, int64_t stride, const int32_t *first,
                              const int32_t *lengths, const int32_t *slot) {
  const Shape &shape = cache.plan->shape;
  const Pool &pool = cache.pools[kind];
  const Slab &slab = pool.slabs[layer];
  think_segment segment = THINK_SEGMENT_INIT;
  const think_format &format = cache.formats[layer];
  segment.key_layout = format.key_layout;
  segment.value_layout = format.value_layout;
  segment.key_dtype = format.key_dtype;
  segment.value_dtype = format.value_dtype;
  segment.page_tokens = kPageTokens;
  segment.key = slab.pages;
  segment.value = slab.pages + slab.value_begin;
  segment.key_stride[0] = segment.value_stride[0] = slab.page_bytes;
  segment.key_stride[1] = head_bytes(kPageTokens, shape.key_channels, segment.key_dtype, true);
  segment.value_stride[1] = head_bytes(kPageTokens, shape.value_channels, segment.value_dtype, false);
  segment.key_head_offset = slab.key_head_offset;
  segment.value_head_offset = slab.value_head_offset;
  if (format.key_dtype == THINK_F8_E4M3) segment.key_scale = slab.key_scale;
  if (format.value_dtype == THINK_F8_E4M3) segment.value_scale = slab.value_scale;
  segment.key_basis = pool.key_basis ? &slab.key_basis : nullptr;
  segment.value_basis = pool.value_basis ? &slab.value_basis : nullptr;
  segment.pages = pages;
  segment.pages_stride = stride;
  segment.first = first;
  segment.lengths = lengths;
  segment.lengths_stride[0] = 1;
  segment.slot = slot;
  return segment;
}

}  // namespace think::cache
