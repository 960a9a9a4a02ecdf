// The step: which rows are new, where they go, and what attention sees.
#include <algorithm>

#include "kernels/compact/compact.h"
#include "kernels/score/score.h"
#include "libthink/cache/cache.h"

namespace think::cache {
namespace {

// Runs of one kind, of the sequence that has most of them: so many segments.
int32_t runs_of(const Sequence &sequence, int32_t kind) {
  int32_t count = 0;
  for (int32_t run = 0; run < sequence.run_count; ++run) count += sequence.runs[run].kind == kind;
  return count;
}

const Run *run_of(const Sequence &sequence, int32_t kind, int32_t index) {
  for (int32_t run = 0; run < sequence.run_count; ++run) {
    if (sequence.runs[run].kind == kind && index-- == 0) return &sequence.runs[run];
  }
  return nullptr;
}

int32_t after_fold(const Sequence &sequence, const Fold &fold) { return sequence.dense_rows - fold.tiles * kTileTokens - fold.refit.rows; }

// Numbers that the tables take at most, for what the sequences are going to hold.
int64_t table_room(const think_cache &cache, const int32_t *sequences, const int32_t *new_tokens, int32_t count) {
  int64_t dense = 1, compact = 1;
  int32_t most_runs[kDense] = {};
  for (int32_t index = 0; index < count; ++index) {
    const Sequence &sequence = cache.sequences[sequences[index]];
    dense = std::max<int64_t>(dense, page_count(int64_t{sequence.dense_rows} + new_tokens[index]));
    const Fold fold = plan_fold(cache, sequence);
    for (int32_t run = 0; run < sequence.run_count; ++run) compact = std::max<int64_t>(compact, sequence.runs[run].pages.size + fold.tiles);
    compact = std::max<int64_t>(compact, fold.refit.rows / kPageTokens);
    for (int32_t kind = 0; kind < kDense; ++kind) {
      most_runs[kind] = std::max(most_runs[kind], runs_of(sequence, kind) + (fold.refit.rows > 0 && fold.refit.kind == kind));
    }
  }
  int64_t segments = 0;
  for (const int32_t runs : most_runs) segments += runs;
  // The step itself (one number more: row starts), then of each segment two lists of numbers and the pages.
  return int64_t{count} * (3 + 2 + dense + segments * (2 + compact)) + 1;
}

class Tables {
 public:
  explicit Tables(Array<int32_t> &array) : array_(array) { array_.size = 0; }
  int64_t take(int64_t count) {
    const int64_t at = array_.size;
    std::fill_n(array_.data + at, count, 0);
    array_.size += static_cast<int32_t>(count);
    return at;
  }
  int32_t *at(int64_t place) { return array_.data + place; }

 private:
  Array<int32_t> &array_;
};

void write_pages(Tables &tables, const StepSegment &segment, int32_t index, const Array<int32_t> &pages) {
  if (pages.size > 0) std::copy_n(pages.data, pages.size, tables.at(segment.pages) + index * segment.stride);
}

void write_compact(think_cache &cache, Tables &tables, int32_t kind, int32_t order) {
  Step &step = cache.step;
  StepSegment segment{kind, 0, tables.take(step.count), tables.take(step.count), 0, 1};
  const auto run_at = [&](int32_t index) { return run_of(cache.sequences[tables.at(step.sequence)[index]], kind, order); };
  for (int32_t index = 0; index < step.count; ++index) {
    if (const Run *run = run_at(index)) segment.stride = std::max<int64_t>(segment.stride, run->pages.size);
  }
  segment.pages = tables.take(step.count * segment.stride);
  for (int32_t index = 0; index < step.count; ++index) {
    const Run *run = run_at(index);
    if (!run) continue;
    tables.at(segment.lengths)[index] = run->rows;
    tables.at(segment.slots)[index] = run->slot;
    write_pages(tables, segment, index, run->pages);
  }
  step.segments[step.segment_count++] = segment;
}

void write_dense(think_cache &cache, Tables &tables) {
  Step &step = cache.step;
  StepSegment segment{kDense, tables.take(step.count), tables.take(step.count), 0, 0, 1};
  for (int32_t index = 0; index < step.count; ++index) {
    segment.stride = std::max<int64_t>(segment.stride, cache.sequences[tables.at(step.sequence)[index]].pages.size);
  }
  segment.pages = tables.take(step.count * segment.stride);
  for (int32_t index = 0; index < step.count; ++index) {
    const Sequence &sequence = cache.sequences[tables.at(step.sequence)[index]];
    tables.at(segment.first)[index] = sequence.dense_rows - tables.at(step.new_tokens)[index];
    tables.at(segment.lengths)[index] = sequence.dense_rows;
    write_pages(tables, segment, index, sequence.pages);
  }
  step.segments[step.segment_count++] = segment;
}

void write_tables(think_cache &cache, const int32_t *sequences, const int32_t *new_tokens, int32_t count) {
  Step &step = cache.step;
  Tables tables(step.tables);
  step.count = count;
  step.sequence = tables.take(count);
  step.new_tokens = tables.take(count);
  step.row_start = tables.take(int64_t{count} + 1);
  step.longest = 0;
  for (int32_t index = 0; index < count; ++index) {
    tables.at(step.sequence)[index] = sequences[index];
    tables.at(step.new_tokens)[index] = new_tokens[index];
    tables.at(step.row_start)[index + 1] = tables.at(step.row_start)[index] + new_tokens[index];
    step.longest = std::max(step.longest, new_tokens[index]);
  }
  step.total = tables.at(step.row_start)[count];
  step.scores = std::any_of(sequences, sequences + count, [&](int32_t sequence) { return cache.sequences[sequence].score != nullptr; });
  step.segment_count = 0;
  for (int32_t kind = 0; kind < kDense; ++kind) {
    int32_t runs = 0;
    for (int32_t index = 0; index < count; ++index) runs = std::max(runs, runs_of(cache.sequences[sequences[index]], kind));
    for (int32_t order = 0; order < runs; ++order) write_compact(cache, tables, kind, order);
  }
  write_dense(cache, tables);
}

// ---- on a device the tables lie where graphs expect them: rows of the same length whatever they hold, in the order of step_head()

enum List : int32_t { kFirst, kLengths, kSlots };

// `segment`: of the step, where the dense one is the last.
int32_t table_of(const Step &step, int32_t segment) { return segment == step.segment_count - 1 ? 0 : segment + 1; }
int64_t place_of_list(const think_cache &cache, int32_t segment, List list) {
  return step_head(cache.plan->shape.max_batch, 0) + (3 * table_of(cache.step, segment) + list) * int64_t{cache.plan->shape.max_batch};
}
int32_t *pages_of_segment(const think_cache &cache, int32_t segment) {
  const Device &device = *cache.device;
  return device.step_tables + device.head_numbers + table_of(cache.step, segment) * cache.plan->shape.max_batch * device.stride;
}

const int32_t *new_tokens_of(const think_cache &cache) { return cache.device ? cache.device->step_tables : cache.step.tables.data + cache.step.new_tokens; }

const int32_t *row_starts_of(const think_cache &cache) {
  return cache.device ? cache.device->step_tables + 2 * cache.plan->shape.max_batch : cache.step.tables.data + cache.step.row_start;
}

// Negative where a sequence keeps no scores: it is left out.
const int32_t *score_slots_of(const Device &device, const Shape &shape) { return device.step_tables + shape.max_batch; }

// The rows of a segment, the new ones included.
Rows rows_of(const think_cache &cache, int32_t index) {
  const StepSegment &segment = cache.step.segments[index];
  const bool dense = segment.kind == kDense;
  if (const Device *device = cache.device) {
    const auto list = [&](List which) { return device->step_tables + place_of_list(cache, index, which); };
    return {pages_of_segment(cache, index), device->stride, nullptr, list(kLengths), dense ? nullptr : list(kSlots)};
  }
  const int32_t *tables = cache.step.tables.data;
  return {tables + segment.pages, segment.stride, nullptr, tables + segment.lengths, dense ? nullptr : tables + segment.slots};
}

// Where the new rows begin, among the dense ones.
const int32_t *first_new_rows(const think_cache &cache) {
  const int32_t last = cache.step.segment_count - 1;
  if (cache.device) return cache.device->step_tables + place_of_list(cache, last, kFirst);
  return cache.step.tables.data + cache.step.segments[last].first;
}

int64_t staged_bytes(const think_cache &cache, int64_t numbers) { return (cache.device->head_numbers + numbers) * static_cast<int64_t>(sizeof(int32_t)); }

void send_tables(think_cache &cache) {
  Device &device = *cache.device;
  const Shape &shape = cache.plan->shape;
  const Step &step = cache.step;
  const int64_t number = static_cast<int64_t>(sizeof(int32_t));
  int32_t *staging = reinterpret_cast<int32_t *>(next_staging(device));
  const int32_t *tables = step.tables.data;
  std::fill_n(staging, device.head_numbers, 0);  // segments that this step does not have are empty
  const auto put = [&](int64_t place, int64_t from, int64_t count) { std::copy_n(tables + from, count, staging + place); };
  put(0, step.new_tokens, step.count);
  for (int32_t index = 0; index < step.count; ++index) {
    const Sequence &sequence = cache.sequences[tables[step.sequence + index]];
    staging[shape.max_batch + index] = sequence.score ? score_page_number(cache, sequence) * cache.layers : -1;
  }
  put(2 * int64_t{shape.max_batch}, step.row_start, int64_t{step.count} + 1);
  int64_t used = device.head_numbers;
  for (int32_t index = 0; index < step.segment_count; ++index) {
    const StepSegment &segment = step.segments[index];
    if (segment.kind == kDense) put(place_of_list(cache, index, kFirst), segment.first, step.count);
    put(place_of_list(cache, index, kLengths), segment.lengths, step.count);
    if (segment.kind != kDense) put(place_of_list(cache, index, kSlots), segment.slots, step.count);
    put(used, segment.pages, step.count * segment.stride);
    used += step.count * segment.stride;
  }
  copy(device, device.step_tables, staging, device.head_numbers * number);
  used = device.head_numbers;
  for (int32_t index = 0; index < step.segment_count; ++index) {
    const int64_t stride = step.segments[index].stride;
    copy_rows(device, {pages_of_segment(cache, index), device.stride * number, staging + used, stride * number, stride * number, step.count});
    used += step.count * stride;
  }
  sent_staging(device);
}

// A state is as many slots as there are layers, one behind the other. Short chunks of all sequences go together, long ones, whose sums take more room, one by
// one: which of the two depends on the longest alone, as graphs do.
void update_scores_on_device(const think_cache &cache, int32_t layer, const Append &rows, void *workspace) {
  Device &device = *cache.device;
  const Shape &shape = cache.plan->shape;
  score::Update update{shape, rows.query, rows.key, step_batch(cache, rows.query), score_page(cache, 0) + layer * score::state_bytes(shape)};
  update.batch.slot = score_slots_of(device, shape);
  const auto launch = [&] {
    run(device, [&](const cuda::Backend &backend) { return backend.score_update(update, cache.step.longest, workspace, device.stream); });
  };
  if (cache.step.longest <= kScorePiece) return launch();
  update.batch.count = 1;
  for (int32_t index = 0; index < cache.step.count; ++index, ++update.batch.slot) {
    launch();
    if (update.batch.row_start) {
      ++update.batch.row_start;
      continue;
    }
    ++update.batch.lengths;
    for (think_tensor *tensor : {&update.query, &update.key}) tensor->data = const_cast<char *>(element(*tensor, 1, 0, 0));
  }
}

void update_scores(think_cache &cache, int32_t layer, const Append &rows, void *workspace) {
  if (cache.device) return update_scores_on_device(cache, layer, rows, workspace);
  const Shape &shape = cache.plan->shape;
  const Batch batch = step_batch(cache, rows.query);
  for (int32_t index = 0; index < cache.step.count; ++index) {
    Sequence &sequence = cache.sequences[cache.step.tables[cache.step.sequence + index]];
    if (!sequence.score) continue;
    const RowRange range = rows_of(rows.query, batch, index);
    for (int64_t done = 0; done < range.count; done += kScorePiece) {
      const auto part = [&](const think_tensor &tensor) {
        think_tensor piece = tensor;
        piece.data = const_cast<char *>(element(tensor, range.row, 0, range.first + done));
        piece.extent[0] = 1;
        piece.extent[2] = std::min(kScorePiece, range.count - done);
        return piece;
      };
      score::Update update{shape, part(rows.query), part(rows.key), kOneSequence, sequence.score + layer * score::state_bytes(shape)};
      score::update(cache.plan->isa, update, workspace, cache.plan->parallel, {0, 1});
    }
  }
}

}  // namespace

void end_step(think_cache &cache) { cache.step.count = cache.step.missing = 0; }

void abort_step(think_cache &cache) {
  const Step &step = cache.step;
  for (int32_t index = 0; step.missing > 0 && index < step.count; ++index) {
    const int32_t number = step.tables[step.sequence + index];
    const Sequence &sequence = cache.sequences[number];
    trim(cache, number, sequence.dense_rows - step.tables[step.new_tokens + index]);
    if (tokens_of(sequence) == 0) drop(cache, number);
  }
  end_step(cache);
}

bool begin_step(think_cache &cache, const int32_t *sequences, const int32_t *new_tokens, int32_t count, void *workspace) {
  // Everything that can fail comes first.
  Needs needs{};
  if (!prepare_folds(cache, sequences, count)) return false;
  for (int32_t index = 0; index < count; ++index) {
    Sequence &sequence = cache.sequences[sequences[index]];
    const Fold fold = plan_fold(cache, sequence);
    if (!prepare_fold(cache, sequence, fold, needs)) return false;
    const auto goes_on = [&](int32_t other) { return new_tokens[other] > 0; };
    const bool begins = cache.device && tokens_of(sequence) == 0 && goes_on(index) && keeps_scores(cache) && !sequence.score;
    needs.pages[kScores] += begins || needs_score_copy(cache, sequences, index, goes_on);
    const int32_t rows = after_fold(sequence, fold), folded = (sequence.dense_rows - rows) / kPageTokens;
    const int32_t pages = page_count(int64_t{rows} + new_tokens[index]);
    needs.pages[kDense] += std::max(0, pages - (sequence.pages.size - folded));
    if (new_tokens[index] > 0 && rows % kPageTokens > 0 && shared(cache, sequence, sequence.dense_rows)) ++needs.pages[kDense];
    if (!reserve(cache.memory, sequence.pages, std::max(pages, sequence.pages.size))) return false;
  }
  const int64_t room = table_room(cache, sequences, new_tokens, count);
  if (!reserve(cache.memory, cache.step.tables, room)) return false;
  if (cache.device && !reserve_staging(cache.memory, *cache.device, staged_bytes(cache, room))) return false;
  if (cache.device && cache.device->error) return true;
  if (!reserve(cache, needs)) return false;
  for (int32_t index = 0; index < count; ++index) {
    Sequence &sequence = cache.sequences[sequences[index]];
    if (tokens_of(sequence) > 0 || new_tokens[index] == 0 || add_score(cache, sequence)) continue;
    for (int32_t before = 0; before < index; ++before) {
      if (tokens_of(cache.sequences[sequences[before]]) == 0) drop_score(cache, cache.sequences[sequences[before]]);
    }
    return false;
  }
  fold_all(cache, sequences, count, workspace);
  for (int32_t index = 0; index < count; ++index) {
    Sequence &sequence = cache.sequences[sequences[index]];
    if (new_tokens[index] > 0) own_score(cache, sequence);
    const int32_t rows = sequence.dense_rows + new_tokens[index];
    if (new_tokens[index] > 0 && sequence.dense_rows % kPageTokens > 0) own(cache, sequence, sequence.dense_rows);
    while (sequence.pages.size < page_count(rows)) sequence.pages.push(take_page(cache.pools[kDense]));
    sequence.dense_rows = rows;
  }
  write_tables(cache, sequences, new_tokens, count);
  if (cache.device) send_tables(cache);
  cache.step.missing = cache.layers;
  std::fill_n(cache.step.appended.data, cache.layers, uint8_t{0});
  // Nobody may go on with tables that have not arrived. And forks that step together may have reserved a copy too many.
  if (cache.device && cache.device->error) abort_step(cache);
  for (Pool &pool : cache.pools) give_back_reserved(pool);
  return true;
}

Batch step_batch(const think_cache &cache, const think_tensor &tensor) {
  if (is_packed(cache, tensor)) return {cache.step.count, nullptr, row_starts_of(cache), nullptr};
  return {cache.step.count, new_tokens_of(cache), nullptr, nullptr};
}

int64_t append_workspace(const think_cache &cache, int64_t longest) {
  const Shape &shape = cache.plan->shape;
  if (const Device *device = cache.device) {
    const int64_t together = device->backend->score_workspace(shape, shape.max_batch, std::min(kScorePiece, longest));
    return std::max(together, device->backend->score_workspace(shape, 1, longest));
  }
  return score::update_workspace(shape, 1, std::min(kScorePiece, longest));
}

// What launches of append and attend depend on, but for the caller's tensors: counts, and which segments there are. Two bits hold the runs of a kind.
int64_t graph_id(const Step &step) {
  int64_t id = step.scores;
  for (int32_t kind = 0; kind < kDense; ++kind) {
    int64_t runs = 0;
    for (int32_t index = 0; index < step.segment_count; ++index) runs += step.segments[index].kind == kind;
    id = id << 2 | runs;
  }
  return (id << 16 | step.count) << 31 | step.longest;
}

void append(think_cache &cache, int32_t layer, const Append &rows, void *workspace) {
  Step &step = cache.step;
  if (rows.scores) update_scores(cache, layer, rows, workspace);
  // New rows are a dense segment too: batch row i is slot i, packed rows begin where the sequence's do.
  think_segment fresh = THINK_SEGMENT_INIT;
  const auto describe = [&](const think_tensor &tensor, think_dtype &dtype, void *&data, int64_t *stride) {
    const int64_t bytes = dtype_bytes(tensor.dtype);
    dtype = tensor.dtype;
    data = tensor.data;
    for (int axis = 0; axis < 3; ++axis) stride[axis] = tensor.stride[axis] * bytes;
  };
  describe(rows.key, fresh.key_dtype, fresh.key, fresh.key_stride);
  describe(rows.value, fresh.value_dtype, fresh.value, fresh.value_stride);
  fresh.lengths_stride[0] = 1;
  fresh.lengths = new_tokens_of(cache);
  if (is_packed(cache, rows.key)) {
    fresh.first = row_starts_of(cache);
    fresh.key_stride[0] = fresh.value_stride[0] = 0;  // one row of the batch for all
  }
  Rows place = rows_of(cache, step.segment_count - 1);
  place.first = first_new_rows(cache);
  place.lengths = fresh.lengths;
  if (step.longest > 0) move_rows(cache, fresh, dense_segment(cache, layer, place), step.count, step.longest);
  if (cache.device && cache.device->error) return;
  step.appended[layer] = 1;
  --step.missing;
}

int32_t step_segments(const think_cache &cache, int32_t layer, think_segment *segments) {
  for (int32_t index = 0; index < cache.step.segment_count; ++index) {
    const int32_t kind = cache.step.segments[index].kind;
    const Rows rows = rows_of(cache, index);
    segments[index] = kind == kDense ? dense_segment(cache, layer, rows) : compact_segment(cache, layer, kind, rows);
    if (kind == kDense) segments[index].flags = THINK_SEGMENT_CAUSAL;
  }
  return cache.step.segment_count;
}

}  // namespace think::cache
