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
  if (kind >= kDense) return;
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

int32_t sides_asked(const think_cache &cache) {
  const Shape &shape = cache.plan->shape;
  return (cache.prune.key_kept < shape.key_channels ? kKeyBasis : 0) | (cache.prune.value_kept < shape.value_channels ? kValueBasis : 0);
}

// Where the parts of a slab begin, in bytes.
struct SlabLayout {
  int64_t scores, step_tables, call_tables, scratch, arena;
  int64_t head_numbers, call_numbers, stride;
};

// `bases`: described.
SlabLayout slab_layout(const think_cache &cache, const Pool &bases, const SlabContents &contents) {
  const Shape &shape = cache.plan->shape;
  const int64_t number = static_cast<int64_t>(sizeof(int32_t)), batch = shape.max_batch;
  const auto aligned = [](int64_t bytes) { return (bytes + kSlabAlignment - 1) / kSlabAlignment * kSlabAlignment; };
  int64_t segments = 1;
  for (int32_t kind = 0; kind < kDense; ++kind) segments += can_hold(cache, kind) ? THINK_CACHE_MAX_RUNS : 0;
  SlabLayout layout{};
  layout.stride = page_count(shape.max_tokens);
  layout.head_numbers = step_head(shape.max_batch, static_cast<int32_t>(segments));
  // Of a call: the pages of a sequence before and after, with what belongs to them; or the rows that each head keeps.
  layout.call_numbers = std::max(4 * layout.stride, layout.stride + shape.kv_heads * shape.max_tokens) + 64;
  layout.scores = aligned(contents.bases * bases.slot_bytes * cache.layers);
  layout.step_tables = layout.scores + aligned(contents.scored * cache.pools[kScores].page_bytes);
  layout.call_tables = layout.step_tables + aligned((layout.head_numbers + segments * batch * layout.stride) * number);
  layout.scratch = layout.call_tables + aligned(layout.call_numbers * number);
  const cuda::Backend &backend = *cache.plan->context->cuda;
  layout.arena = layout.scratch + aligned(keeps_scores(cache) ? backend.score_workspace(shape, 1, shape.max_tokens) : 0);
  return layout;
}

bool describe_bases(think_cache &cache, Pool &bases) {
  describe_pool(cache, sides_asked(cache), bases);
  return open_pool(cache.memory, bases, cache.layers, [](int32_t, Slab &) {});
}

bool open_device(think_cache &cache, const Options &options) {
  cache.device = static_cast<Device *>(take(cache.memory, sizeof(Device)));
  if (!cache.device) return false;
  Device &device = *cache.device = {};
  device.backend = cache.plan->context->cuda;
  device.slab = static_cast<char *>(options.slab);
  device.slab_bytes = options.slab_bytes;
  cache.memory.bytes += options.slab_bytes;
  if (!describe_bases(cache, device.bases)) return false;
  const SlabLayout layout = slab_layout(cache, device.bases, {0, 0, options.bases, options.scored});
  if (!place_slots(cache.memory, cache.plan->shape, device.bases, device.slab, options.bases)) return false;
  if (!place_pages(cache.memory, cache.pools[kScores], device.slab + layout.scores, options.scored)) return false;
  device.step_tables = reinterpret_cast<int32_t *>(device.slab + layout.step_tables);
  device.call_tables = reinterpret_cast<int32_t *>(device.slab + layout.call_tables);
  device.scratch = device.slab + layout.scratch;
  device.head_numbers = layout.head_numbers;
  device.call_numbers = layout.call_numbers;
  device.stride = layout.stride;
  device.arena.pools = cache.pools;
  device.arena.pool_count = kKinds;
  if (!open_arena(cache.memory, device.arena, device.slab + layout.arena, options.slab_bytes - layout.arena)) return false;
  for (int32_t kind = 0; kind < kKinds; ++kind) {
    if (kind < kDense && !can_hold(cache, kind)) continue;
    // Dense pages come and go.
    if (!enter_arena(cache.memory, cache.pools[kind], device.arena, kind == kDense)) return false;
  }
  bool memory = false;
  if (const int32_t error = device.backend->enter(cache.plan->context->device)) {
    device.error = error;
  } else {
    memory = reserve_staging(cache.memory, device, layout.call_numbers * static_cast<int64_t>(sizeof(int32_t)));
    device.backend->leave();
  }
  *options.device_error = device.error;
  return memory && !device.error;
}

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
  const auto set_scores = [&](int32_t, Slab &slab) { slab.page_bytes = keeps_scores(cache) ? score_bytes(cache) : 0; };
  if (!open_pool(cache.memory, cache.pools[kScores], 1, set_scores)) return false;
  if (options.slab) return open_device(cache, options);
  cache.pools[kDense].floor = page_count(options.reserve_tokens);
  return reserve_pages(cache.memory, cache.pools[kDense], cache.pools[kDense].floor);
}

void drop_run(think_cache &cache, Run &run) {
  Pool &pool = cache.pools[run.kind];
  for (int32_t page = 0; page < run.pages.size; ++page) drop_page(pool, run.pages[page]);
  if (has_slots(cache, run.kind)) drop_slot(bases_of(cache, run.kind), run.slot);
  release(cache.memory, run.pages);
}

}  // namespace

int32_t least_kind(const think_cache &cache) {
  const think_format *begin = cache.formats.data, *end = begin + cache.layers;
  return std::any_of(begin, end, [](const think_format &format) { return is_quantized(format.key_dtype) || is_quantized(format.value_dtype); }) ? 0 : kKeyBasis;
}

bool can_hold(const think_cache &cache, int32_t kind) { return kind >= least_kind(cache) && (kind & ~sides_asked(cache)) == 0; }

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

int64_t slab_bytes(const think_cache &cache, const SlabContents &contents) {
  Pool bases{};
  describe_pool(cache, sides_asked(cache), bases);
  int32_t kind = sides_asked(cache);
  if (!can_hold(cache, kind)) kind = kDense;
  // Where dense and compact pages meet, and at the end, up to a page is lost; and what granules take of both.
  const int64_t bytes =
      (page_count(contents.dense_tokens) + 2) * cache.pools[kDense].page_bytes + page_count(contents.compact_tokens) * cache.pools[kind].page_bytes;
  return slab_layout(cache, bases, contents).arena + bytes + bytes / 4096;
}

void destroy(think_cache &cache) {
  for (int32_t sequence = 0; sequence < cache.sequences.size; ++sequence) drop(cache, sequence);
  for (Pool &pool : cache.pools) close_pool(cache.memory, pool);
  if (Device *device = cache.device) {
    run_on_device(*cache.plan, nullptr, [&](const cuda::Backend &) { return close_staging(cache.memory, *device), 0; });
    close_pool(cache.memory, device->bases);
    release(cache.memory, device->arena.owner);
    release(cache.memory, device->arena.users);
    cache.memory.bytes -= device->slab_bytes;
    give(cache.memory, device, sizeof(Device));
  }
  release(cache.memory, cache.formats);
  release(cache.memory, cache.sequences);
  release(cache.memory, cache.gathered);
  release(cache.memory, cache.step.tables);
  release(cache.memory, cache.step.appended);
  think_context &context = *cache.memory.context;
  cache.~think_cache();
  deallocate(context, &cache, sizeof(think_cache));
  think::release(context);
}

int64_t compact_tokens(const Sequence &sequence) {
  int64_t rows = 0;
  for (int32_t run = 0; run < sequence.run_count; ++run) rows += sequence.runs[run].rows;
  return rows;
}

int64_t workspace(const think_cache &cache) {
  const Shape &shape = cache.plan->shape;
  const attend::Extent extent{shape.max_batch, shape.max_queries, 1 + kDense * THINK_CACHE_MAX_RUNS, shape.max_tokens};
  int64_t bytes = cache.device ? cache.device->backend->attend_workspace(shape, extent) : attend::workspace(shape, extent);
  bytes = std::max(bytes, evict_workspace(cache, shape.max_tokens));
  if (!keeps_scores(cache)) return bytes;
  return std::max({bytes, append_workspace(cache, shape.max_tokens), prune_workspace(cache, shape.max_tokens)});
}

think_cache_info usage(const think_cache &cache, int32_t only) {
  const Shape &shape = cache.plan->shape;
  think_cache_info info = THINK_CACHE_INFO_INIT;
  const int64_t row = int64_t{shape.kv_heads} * (int64_t{shape.key_channels} + shape.value_channels) * dtype_bytes(shape.cache_dtype) * cache.layers;
  for (int32_t number = only < 0 ? 0 : only; number < (only < 0 ? cache.sequences.size : only + 1); ++number) {
    const Sequence &sequence = cache.sequences[number];
    info.tokens += tokens_of(sequence);
    info.compact_tokens += compact_tokens(sequence);
    info.evicted_tokens += sequence.evicted;
    info.score_bytes += sequence.score ? score_bytes(cache) : 0;
    info.sequences += tokens_of(sequence) > 0;
  }
  info.dense_bytes = (info.tokens + info.evicted_tokens) * row;
  if (only < 0) {
    for (int32_t kind = 0; kind < kKinds; ++kind) {
      const Pool &pool = cache.pools[kind];
      info.page_bytes += pool.used * pool.page_bytes;
      info.basis_bytes += pool.slots_used * pool.slot_bytes * cache.layers;
      info.spare_bytes += cache.device ? 0 : spare_bytes(pool);
    }
    if (const Device *device = cache.device) {
      const Pool &bases = device->bases;
      info.basis_bytes = bases.slots_used * bases.slot_bytes * cache.layers;
      info.score_bytes = cache.pools[kScores].used * cache.pools[kScores].page_bytes;  // shared ones once
      const Pool &scores = cache.pools[kScores];
      info.spare_bytes = device->arena.bytes - info.page_bytes + (scores.capacity - scores.used) * scores.page_bytes +
                         (bases.slot_capacity - bases.slots_used) * bases.slot_bytes * cache.layers;
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
    if (has_slots(cache, kind)) info.basis_bytes += bases_of(cache, kind).slot_bytes * cache.layers;
  }
  const auto channels = [&](int32_t side, int32_t bit) {
    return static_cast<int32_t>(kind & bit ? prune_total(shape, cache.prune, side) : int64_t{shape.kv_heads} * channels_of(shape, side));
  };
  info.key_channels = channels(THINK_KEYS, kKeyBasis);
  info.value_channels = channels(THINK_VALUES, kValueBasis);
  info.allocated_bytes = info.page_bytes + info.basis_bytes + info.score_bytes;
  return info;
}

char *score_page(const think_cache &cache, int32_t page) { return cache.pools[kScores].slabs[0].pages + page * cache.pools[kScores].page_bytes; }

int32_t score_page_number(const think_cache &cache, const Sequence &sequence) {
  const Pool &pool = cache.pools[kScores];
  return static_cast<int32_t>((sequence.score - pool.slabs[0].pages) / pool.page_bytes);
}

bool add_score(think_cache &cache, Sequence &sequence) {
  if (sequence.score || !keeps_scores(cache)) return true;
  if (Device *device = cache.device) {
    sequence.score = score_page(cache, take_page(cache.pools[kScores]));
    run(*device, [&](const cuda::Backend &backend) {
      return backend.score_reset(cache.plan->shape, sequence.score, {cache.layers, nullptr, nullptr, nullptr}, device->stream);
    });
    return true;
  }
  sequence.score = static_cast<char *>(take(cache.memory, score_bytes(cache)));
  for (int32_t layer = 0; sequence.score && layer < cache.layers; ++layer) {
    score::reset(cache.plan->shape, sequence.score, {1, nullptr, nullptr, &layer});
  }
  return sequence.score != nullptr;
}

void drop_score(think_cache &cache, Sequence &sequence) {
  if (cache.device) {
    if (sequence.score) drop_page(cache.pools[kScores], score_page_number(cache, sequence));
  } else {
    give(cache.memory, sequence.score, score_bytes(cache));
  }
  sequence.score = nullptr;
}

int32_t score_users(const think_cache &cache, const Sequence &sequence) {
  return cache.pools[kScores].page_users[score_page_number(cache, sequence)];
}

void own_score(think_cache &cache, Sequence &sequence) {
  if (!cache.device || !sequence.score || score_users(cache, sequence) == 1) return;
  char *own = score_page(cache, take_page(cache.pools[kScores]));
  copy(*cache.device, own, sequence.score, score_bytes(cache));
  drop_page(cache.pools[kScores], score_page_number(cache, sequence));
  sequence.score = own;
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
  if (cache.device) {
    copy.score = from.score;
  } else if (fits && from.score) {
    copy.score = static_cast<char *>(take(cache.memory, score_bytes(cache)));
    fits = copy.score != nullptr;
    if (fits) std::memcpy(copy.score, from.score, static_cast<size_t>(score_bytes(cache)));
  }
  if (!fits) {
    release(cache.memory, copy.pages);
    for (Run &run : copy.runs) release(cache.memory, run.pages);
    return false;
  }
  if (cache.device && copy.score) ++cache.pools[kScores].page_users[score_page_number(cache, copy)];
  for (int32_t page = 0; page < copy.pages.size; ++page) ++cache.pools[kDense].page_users[copy.pages[page]];
  for (int32_t run = 0; run < copy.run_count; ++run) {
    Pool &pool = cache.pools[copy.runs[run].kind];
    for (int32_t page = 0; page < copy.runs[run].pages.size; ++page) ++pool.page_users[copy.runs[run].pages[page]];
    if (has_slots(cache, copy.runs[run].kind)) ++bases_of(cache, copy.runs[run].kind).slot_users[copy.runs[run].slot];
  }
  drop(cache, destination);  // it may have lists without tokens
  cache.sequences[destination] = copy;
  return true;
}

bool imitate(think_cache &cache, int32_t number, const Sequence &like, bool scores) {
  drop(cache, number);  // it may have lists without tokens
  Sequence &sequence = cache.sequences[number];
  Needs needs{};
  const int32_t pages = page_count(like.dense_rows);
  needs.pages[kDense] = pages;
  needs.pages[kScores] = cache.device && scores;
  bool fits = reserve(cache.memory, sequence.pages, pages);
  for (int32_t index = 0; index < like.run_count; ++index) {
    const Run &run = like.runs[index];
    needs.pages[run.kind] += run.rows / kPageTokens;
    needs.slots[run.kind] += has_slots(cache, run.kind);
    fits = fits && reserve(cache.memory, sequence.runs[index].pages, run.rows / kPageTokens);
  }
  if (!fits || !reserve(cache, needs) || (scores && !add_score(cache, sequence))) {
    drop(cache, number);
    return false;
  }
  while (sequence.pages.size < pages) sequence.pages.push(take_page(cache.pools[kDense]));
  sequence.dense_rows = like.dense_rows;
  sequence.settled_rows = like.settled_rows;
  sequence.evicted = like.evicted;
  for (int32_t index = 0; index < like.run_count; ++index) {
    Run &run = sequence.runs[index];
    run.kind = like.runs[index].kind;
    run.rows = like.runs[index].rows;
    run.folds = like.runs[index].folds;
    run.slot = take_slot(cache, run.kind);
    while (run.pages.size < run.rows / kPageTokens) run.pages.push(take_page(cache.pools[run.kind]));
  }
  sequence.run_count = like.run_count;
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
  for (int32_t kind = 0; kind < kPools; ++kind) {
    Pool &pool = cache.pools[kind];
    give_back_reserved(pool);
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
  if (Device *device = cache.device) {
    const char *memory = device->arena.memory;
    cache::copy(*device, device->arena.memory + copy * pool.page_bytes, memory + page * pool.page_bytes, pool.page_bytes);
  } else {
    copy_page(pool, page, copy);
  }
  drop_page(pool, page);
  page = copy;
}

Rows dense_rows(const Sequence &sequence) {
  return {sequence.pages.size > 0 ? sequence.pages.data : nullptr, sequence.pages.size, nullptr, &sequence.dense_rows, nullptr};
}

Rows compact_rows(const Run &run) { return {run.pages.data, run.pages.size, nullptr, &run.rows, &run.slot}; }

Rows dense_rows(Lists &lists, const Sequence &sequence) {
  const Rows rows = dense_rows(sequence);
  return {lists.add(rows.pages, rows.stride), rows.stride, nullptr, lists.add(rows.lengths, 1), nullptr};
}

Rows compact_rows(Lists &lists, const Run &run) {
  const Rows rows = compact_rows(run);
  return {lists.add(rows.pages, rows.stride), rows.stride, nullptr, lists.add(rows.lengths, 1), lists.add(rows.slot, 1)};
}

namespace {

void set_rows(think_segment &segment, const Rows &rows) {
  segment.page_tokens = kPageTokens;
  segment.pages = rows.pages;
  segment.pages_stride = rows.stride;
  segment.first = rows.first;
  segment.lengths = rows.lengths;
  segment.lengths_stride[0] = 1;
  segment.slot = rows.slot;
}

}  // namespace

think_segment dense_segment(const think_cache &cache, int32_t layer, const Rows &rows) {
  const Shape &shape = cache.plan->shape;
  const Slab &slab = cache.pools[kDense].slabs[layer];
  think_segment segment = THINK_SEGMENT_INIT;
  segment.key_dtype = segment.value_dtype = shape.cache_dtype;
  segment.key = slab.pages;
  segment.value = slab.pages ? slab.pages + slab.value_begin : nullptr;
  segment.key_stride[0] = segment.value_stride[0] = slab.page_stride;
  segment.key_stride[2] = int64_t{shape.key_channels} * dtype_bytes(shape.cache_dtype);
  segment.value_stride[2] = int64_t{shape.value_channels} * dtype_bytes(shape.cache_dtype);
  segment.key_stride[1] = segment.key_stride[2] * kPageTokens;
  segment.value_stride[1] = segment.value_stride[2] * kPageTokens;
  set_rows(segment, rows);
  return segment;
}

think_segment compact_segment(const think_cache &cache, int32_t layer, int32_t kind, const Rows &rows) {
  const Shape &shape = cache.plan->shape;
  const Slab &slab = cache.pools[kind].slabs[layer], &bases = bases_of(cache, kind).slabs[layer];
  const bool keys = (kind & kKeyBasis) != 0, values = (kind & kValueBasis) != 0;
  think_segment segment = THINK_SEGMENT_INIT;
  const think_format &format = cache.formats[layer];
  segment.key_layout = format.key_layout;
  segment.value_layout = format.value_layout;
  segment.key_dtype = format.key_dtype;
  segment.value_dtype = format.value_dtype;
  segment.key = slab.pages;
  segment.value = slab.pages + slab.value_begin;
  segment.key_stride[0] = segment.value_stride[0] = slab.page_stride;
  segment.key_stride[1] = head_bytes(kPageTokens, shape.key_channels, segment.key_dtype, true);
  segment.value_stride[1] = head_bytes(kPageTokens, shape.value_channels, segment.value_dtype, false);
  segment.key_head_offset = keys ? bases.key_head_offset : nullptr;
  segment.value_head_offset = values ? bases.value_head_offset : nullptr;
  if (format.key_dtype == THINK_F8_E4M3) segment.key_scale = bases.key_scale;
  if (format.value_dtype == THINK_F8_E4M3) segment.value_scale = bases.value_scale;
  segment.key_basis = keys ? &bases.key_basis : nullptr;
  segment.value_basis = values ? &bases.value_basis : nullptr;
  set_rows(segment, rows);
  return segment;
}

}  // namespace think::cache
