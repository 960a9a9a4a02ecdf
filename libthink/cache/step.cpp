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
  step.segment_count = 0;
  for (int32_t kind = 0; kind < kDense; ++kind) {
    int32_t runs = 0;
    for (int32_t index = 0; index < count; ++index) runs = std::max(runs, runs_of(cache.sequences[sequences[index]], kind));
    for (int32_t order = 0; order < runs; ++order) write_compact(cache, tables, kind, order);
  }
  write_dense(cache, tables);
}

void update_scores(think_cache &cache, int32_t layer, const Append &rows, void *workspace) {
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
  for (int32_t index = 0; index < count; ++index) {
    Sequence &sequence = cache.sequences[sequences[index]];
    const Fold fold = plan_fold(cache, sequence);
    if (!prepare_fold(cache, sequence, fold, needs)) return false;
    const int32_t rows = after_fold(sequence, fold), folded = (sequence.dense_rows - rows) / kPageTokens;
    const int32_t pages = page_count(int64_t{rows} + new_tokens[index]);
    needs.pages[kDense] += std::max(0, pages - (sequence.pages.size - folded));
    if (new_tokens[index] > 0 && rows % kPageTokens > 0 && shared(cache, sequence, sequence.dense_rows)) ++needs.pages[kDense];
    if (!reserve(cache.memory, sequence.pages, std::max(pages, sequence.pages.size))) return false;
  }
  if (!reserve(cache, needs)) return false;
  if (!reserve(cache.memory, cache.step.tables, table_room(cache, sequences, new_tokens, count))) return false;
  for (int32_t index = 0; index < count; ++index) {
    Sequence &sequence = cache.sequences[sequences[index]];
    if (tokens_of(sequence) > 0 || new_tokens[index] == 0 || add_score(cache, sequence)) continue;
    for (int32_t before = 0; before < index; ++before) {
      if (tokens_of(cache.sequences[sequences[before]]) == 0) drop_score(cache, cache.sequences[sequences[before]]);
    }
    return false;
  }
  for (int32_t index = 0; index < count; ++index) {
    Sequence &sequence = cache.sequences[sequences[index]];
    fold(cache, sequence, plan_fold(cache, sequence), workspace);
    const int32_t rows = sequence.dense_rows + new_tokens[index];
    if (new_tokens[index] > 0 && sequence.dense_rows % kPageTokens > 0) own(cache, sequence, sequence.dense_rows);
    while (sequence.pages.size < page_count(rows)) sequence.pages.push(take_page(cache.pools[kDense]));
    sequence.dense_rows = rows;
  }
  write_tables(cache, sequences, new_tokens, count);
  cache.step.missing = cache.layers;
  std::fill_n(cache.step.appended.data, cache.layers, uint8_t{0});
  return true;
}

Batch step_batch(const think_cache &cache, const think_tensor &tensor) {
  const Step &step = cache.step;
  if (is_packed(cache, tensor)) return {step.count, nullptr, step.tables.data + step.row_start, nullptr};
  return {step.count, step.tables.data + step.new_tokens, nullptr, nullptr};
}

void append(think_cache &cache, int32_t layer, const Append &rows, void *workspace) {
  Step &step = cache.step;
  if (rows.scores) update_scores(cache, layer, rows, workspace);
  // New rows are a dense segment too: batch row i is slot i, packed rows begin where the sequence's do.
  think_segment fresh = THINK_SEGMENT_INIT;
  const StepSegment &dense = step.segments[step.segment_count - 1];
  const auto describe = [&](const think_tensor &tensor, think_dtype &dtype, void *&data, int64_t *stride) {
    const int64_t bytes = dtype_bytes(tensor.dtype);
    dtype = tensor.dtype;
    data = tensor.data;
    for (int axis = 0; axis < 3; ++axis) stride[axis] = tensor.stride[axis] * bytes;
  };
  describe(rows.key, fresh.key_dtype, fresh.key, fresh.key_stride);
  describe(rows.value, fresh.value_dtype, fresh.value, fresh.value_stride);
  fresh.lengths_stride[0] = 1;
  fresh.lengths = step.tables.data + step.new_tokens;
  if (is_packed(cache, rows.key)) {
    fresh.first = step.tables.data + step.row_start;
    fresh.key_stride[0] = fresh.value_stride[0] = 0;  // one row of the batch for all
  }
  compact::Arguments move{};
  move.shape = cache.plan->shape;
  move.source = fresh;
  const int32_t *tables = step.tables.data;
  move.destination = dense_segment(cache, layer, tables + dense.pages, dense.stride, tables + dense.first, tables + step.new_tokens);
  move.batch = {step.count, nullptr, nullptr, nullptr};
  if (step.longest > 0) compact::compact(cache.plan->isa, move, cache.plan->parallel, {0, 1});
  step.appended[layer] = 1;
  --step.missing;
}

int32_t step_segments(const think_cache &cache, int32_t layer, think_segment *segments) {
  const Step &step = cache.step;
  const int32_t *tables = step.tables.data;
  for (int32_t index = 0; index < step.segment_count; ++index) {
    const StepSegment &segment = step.segments[index];
    if (segment.kind == kDense) {
      segments[index] = dense_segment(cache, layer, tables + segment.pages, segment.stride, nullptr, tables + segment.lengths);
      segments[index].flags = THINK_SEGMENT_CAUSAL;
    } else {
      segments[index] = compact_segment(cache, layer, segment.kind, tables + segment.pages, segment.stride, nullptr, tables + segment.lengths,
                                        tables + segment.slots);
    }
  }
  return step.segment_count;
}

}  // namespace think::cache
