#include "kernels/evict/evict.h"

#include "libthink/core/check.h"
#include "libthink/core/device.h"
#include "libthink/core/evict.h"
#include "libthink/core/workspace.h"

using namespace think;

namespace {

using Long = long long;

// Budgets of the caller's, and room for the lists that follow from them. On a device lists end where the room ends.
think_status check_budgets(const Argument &argument, const Argument &options_argument, const EvictCall &call, int64_t longest) {
  if (call.shape.on_device) {
    const int64_t least = call.budgets ? 1 : longest < call.budget ? longest : call.budget;
    if (call.kept_stride >= least) return THINK_OK;
    return wrong(options_argument, "kept_stride", "expected at least %lld rows, got %lld", static_cast<Long>(least), static_cast<Long>(call.kept_stride));
  }
  for (int64_t at = 0; at < int64_t{call.batch.count} * call.shape.kv_heads; ++at) {
    const int32_t sequence = static_cast<int32_t>(at / call.shape.kv_heads), head = static_cast<int32_t>(at % call.shape.kv_heads);
    const int64_t budget = call.budgets ? call.budgets[at] : call.budget;
    if (budget < 0) {
      return wrong({argument.error, argument.position, Text("budget[%lld]", static_cast<Long>(at)).text}, "", "expected at least 0, got %lld", static_cast<Long>(budget));
    }
    const int64_t tokens = run_length(call.source, sequence, head), rows = tokens < budget ? tokens : budget;
    if (rows > call.kept_stride) {
      return wrong(options_argument, "kept_stride", "expected at least %lld rows (sequence %d, head %d), got %lld", static_cast<Long>(rows),
                   sequence, head, static_cast<Long>(call.kept_stride));
    }
  }
  return THINK_OK;
}

// A side is in both segments or in none of them; the same memory has the same layout.
think_status check_move_side(const Argument &source_argument, const Argument &destination_argument, const think_segment &from, const think_segment &to,
                             int32_t side, bool any_rows) {
  const bool keys = side == THINK_KEYS;
  const char *name = keys ? "key" : "value";
  const void *source = keys ? from.key : from.value, *destination = keys ? to.key : to.value;
  if (any_rows && source && !destination) return wrong(destination_argument, name, "expected a pointer, as the source has one, got NULL");
  if (any_rows && destination && !source) return wrong(source_argument, name, "expected a pointer, as the destination has one, got NULL");
  if (!source || source != destination) return THINK_OK;
  const think_dtype from_dtype = keys ? from.key_dtype : from.value_dtype, to_dtype = keys ? to.key_dtype : to.value_dtype;
  if (from_dtype != to_dtype) {
    return wrong(destination_argument, keys ? "key_dtype" : "value_dtype", "expected %s, as the source is the same memory, got %s", dtype_name(from_dtype),
                 dtype_name(to_dtype));
  }
  const int64_t *from_stride = keys ? from.key_stride : from.value_stride, *to_stride = keys ? to.key_stride : to.value_stride;
  for (int axis = 0; axis < 3; ++axis) {
    if (from_stride[axis] == to_stride[axis]) continue;
    return wrong(destination_argument, Text("%s_stride[%d]", name, axis).text, "expected %lld, as the source is the same memory, got %lld",
                 static_cast<Long>(from_stride[axis]), static_cast<Long>(to_stride[axis]));
  }
  const int64_t *from_offset = keys ? from.key_head_offset : from.value_head_offset, *to_offset = keys ? to.key_head_offset : to.value_head_offset;
  if (from_offset != to_offset) {
    return wrong(destination_argument, keys ? "key_head_offset" : "value_head_offset", "expected the source's, as it is the same memory, got another");
  }
  if (from.pages != to.pages || from.pages_stride != to.pages_stride || (from.pages && from.page_tokens != to.page_tokens)) {
    return wrong(destination_argument, "pages", "expected the source's pages, as it is the same memory, got others");
  }
  if (from.slot != to.slot) return wrong(destination_argument, "slot", "expected the source's slots, as it is the same memory, got others");
  return THINK_OK;
}

// The lists say what is read: each one, and whether the rows go forward when they move in place.
think_status check_lists(const Argument &argument, const Argument &destination_argument, const evict::Move &move) {
  if (move.shape.on_device) return THINK_OK;
  const bool in_place = evict::same_memory(move);
  for (int64_t at = 0; at < int64_t{move.batch.count} * move.shape.kv_heads; ++at) {
    const int32_t sequence = static_cast<int32_t>(at / move.shape.kv_heads), head = static_cast<int32_t>(at % move.shape.kv_heads);
    const int64_t length = run_length(move.destination, sequence, head), tokens = run_length(move.source, sequence, head);
    if (in_place && length > 0 && run_first(move.destination, sequence, head) > run_first(move.source, sequence, head)) {
      return wrong(destination_argument, "first", "expected at most %lld in sequence %d, as rows move in place, got %lld",
                   static_cast<Long>(run_first(move.source, sequence, head)), sequence, static_cast<Long>(run_first(move.destination, sequence, head)));
    }
    for (int64_t i = 0; i < length; ++i) {
      const int64_t place = at * move.kept_stride + i, least = i ? int64_t{move.kept[place - 1]} + 1 : 0;
      if (move.kept[place] < least || move.kept[place] >= tokens) {
        return wrong({argument.error, argument.position, Text("kept[%lld]", static_cast<Long>(place)).text}, "",
                     "expected ascending rows of the source, here %lld .. %lld, got %d", static_cast<Long>(least), static_cast<Long>(tokens - 1),
                     move.kept[place]);
      }
    }
  }
  return THINK_OK;
}

// On a device lists and scores end where their strides end.
think_status check_strides(const Argument &kept, const Argument &score, const evict::Move &move, int64_t &rows, int64_t &tokens) {
  if (move.shape.on_device) {
    if (move.kept_stride > 0 && move.kept_stride < rows) rows = move.kept_stride;
    if (move.score && move.score_stride > 0 && move.score_stride < tokens) tokens = move.score_stride;
  }
  if (move.kept_stride < rows || move.kept_stride > INT32_MAX) {
    return wrong(kept, "", "expected %lld .. %d (lengths of the destination), got %lld", static_cast<Long>(rows), INT32_MAX,
                 static_cast<Long>(move.kept_stride));
  }
  if (move.score && (move.score_stride < tokens || move.score_stride > INT32_MAX)) {
    return wrong(score, "", "expected %lld .. %d (lengths of the source), got %lld", static_cast<Long>(tokens), INT32_MAX,
                 static_cast<Long>(move.score_stride));
  }
  return THINK_OK;
}

}  // namespace

extern "C" {

void think_evict_options_init(think_evict_options *options, uint32_t struct_size) {
  const think_evict_options initial = THINK_EVICT_OPTIONS_INIT;
  init_struct(options, struct_size, initial);
}

think_status think_evict(const think_plan *plan, const think_tensor *window_query, const think_segment *source, const think_batch *batch,
                         const think_evict_options *options, const int32_t *budget, float *score, int32_t *kept, int32_t *lengths,
                         const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    const Argument query_argument{error, 2, "window_query"}, source_argument{error, 3, "source"}, batch_argument{error, 4, "batch"},
        options_argument{error, 5, "options"}, score_argument{error, 7, "score"};
    EvictCall call{};
    call.shape = shape;
    call.isa = plan->isa;
    call.parallel = plan->parallel;
    // The method says whether there are queries, the launch how closely to look, the batch how many sequences there are: all three come before.
    think_evict_options given;
    if (const think_status status = read_evict_options(options_argument, options, shape, call, given)) return status;
    Launch run;
    if (const think_status status = read_launch({error, 10, "launch"}, launch, shape, false, run)) return status;
    if (const think_status status = read_batch(batch_argument, batch, shape, 1, call.batch)) return status;
    const bool recent_only = given.method == THINK_EVICT_RECENT;
    if (recent_only && window_query) return wrong(query_argument, "", "expected NULL (sinks and recent rows need no queries), got a pointer");
    if (!window_query && !recent_only && given.method != THINK_EVICT_H2O) return null_pointer(query_argument);
    call.measure = window_query != nullptr;
    int64_t slots = INT32_MAX;
    if (call.measure) {
      think_tensor &query = call.window_query;
      if (const think_status status = read_tensor(query_argument, window_query, {shape.query_heads, shape.key_channels, 0}, query)) return status;
      if (query.extent[2] < 1 || query.extent[2] > shape.window) {
        return wrong(query_argument, "extent[2]", "expected 1 .. %d rows (window of the plan), got %lld", shape.window, static_cast<Long>(query.extent[2]));
      }
      slots = query.extent[0];
      if (given.method == THINK_EVICT_TOVA) {
        query.data = const_cast<char *>(element(query, 0, 0, query.extent[2] - 1));
        query.extent[2] = 1;
      }
    }
    const char *slots_name = call.measure ? "slots of window_query" : "a slot";
    if (const think_status status = check_slots(batch_argument, call.batch, shape, slots, slots_name, run.check && score)) return status;
    const SegmentRule rule{true, true, false, false, true, false};
    SegmentCopy copy;
    if (const think_status status = read_segment(source_argument, source, 0, shape, call.batch, rule, run.check, copy)) return status;
    if (call.measure && !copy.segment.key && copy.longest > 0) return null_pointer(source_argument, "key");
    call.source = copy.segment;
    if (const think_status status = check_optional({error, 6, "budget"}, budget)) return status;
    call.budgets = budget;
    if (!budget && call.budget == 0) return wrong(options_argument, "budget", "expected at least 1 where the argument budget is NULL, got 0");
    if (const think_status status = check_budgets({error, 6, "budget"}, options_argument, call, copy.longest)) return status;
    if (const think_status status = check_evict_score(score_argument, given.method, score)) return status;
    // Lengths on a device are unknown: they are at most what there is room for.
    if (shape.on_device && score && call.score_stride > 0 && call.score_stride < copy.longest) copy.longest = call.score_stride;
    if (score && call.score_stride < copy.longest) {
      return wrong(options_argument, "score_stride", "expected at least %lld (lengths of the source), got %lld", static_cast<Long>(copy.longest),
                   static_cast<Long>(call.score_stride));
    }
    call.score = score;
    if (const think_status status = check_array({error, 8, "kept"}, kept)) return status;
    if (const think_status status = check_array({error, 9, "lengths"}, lengths)) return status;
    call.kept = kept;
    call.lengths = lengths;
    const int64_t needed = call.measure ? workspace_bytes(*plan, THINK_STAGE_EVICT, {call.batch.count, 0, 0, copy.longest, 0}) : 0;
    if (const think_status status = check_workspace(run, needed)) return status;
    void *workspace = needed ? run.workspace : nullptr;
    if (plan->context->cuda) {
      return run_on_device(*plan, error, [&](const cuda::Backend &backend) { return evict_rows(backend, call, copy.longest, workspace, run.stream); });
    }
    evict_rows(call, copy.longest, workspace);
    leave_counters_zero(shape, run.workspace, needed);
    return THINK_OK;
  });
}

think_status think_evict_move(const think_plan *plan, const think_segment *source, const think_segment *destination, const think_batch *batch,
                              const int32_t *kept, int64_t kept_stride, float *score, int64_t score_stride, const think_launch *launch,
                              think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    const Argument source_argument{error, 2, "source"}, destination_argument{error, 3, "destination"}, batch_argument{error, 4, "batch"},
        kept_argument{error, 5, "kept"};
    if (!source) return null_pointer(source_argument);
    if (!destination) return null_pointer(destination_argument);
    Launch run;
    if (const think_status status = read_launch({error, 9, "launch"}, launch, shape, false, run)) return status;
    evict::Move move{};
    move.shape = shape;
    if (const think_status status = read_batch(batch_argument, batch, shape, 1, move.batch)) return status;
    if (const think_status status = check_slots(batch_argument, move.batch, shape, INT32_MAX, "a slot", run.check && score)) return status;
    SegmentCopy from, to;
    const SegmentRule source_rule{true, true, false, false, true, false}, destination_rule{true, true, false, false, true, true};
    if (const think_status status = read_segment(source_argument, source, 0, shape, move.batch, source_rule, run.check, from)) return status;
    if (const think_status status = read_segment(destination_argument, destination, 0, shape, move.batch, destination_rule, run.check, to)) return status;
    if (run.check && !to.segment.pages && !to.segment.slot) {
      if (const think_status status = check_slots(batch_argument, move.batch, shape, INT32_MAX, "a slot", true)) return status;
    }
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      if (const think_status status = check_move_side(source_argument, destination_argument, from.segment, to.segment, side, to.longest > 0)) return status;
    }
    move.source = from.segment;
    move.destination = to.segment;
    if (const think_status status = check_array(kept_argument, kept)) return status;
    if (const think_status status = check_optional({error, 7, "score"}, score)) return status;
    move.kept = kept;
    move.kept_stride = kept_stride;
    move.score = score;
    move.score_stride = score_stride;
    if (const think_status status = check_strides({error, 6, "kept_stride"}, {error, 8, "score_stride"}, move, to.longest, from.longest)) return status;
    if (const think_status status = check_lists(kept_argument, destination_argument, move)) return status;
    if (plan->context->cuda) {
      return run_on_device(*plan, error, [&](const cuda::Backend &backend) { return backend.evict_move(move, to.longest, from.longest, run.stream); });
    }
    evict::move_rows(move, to.longest, plan->parallel);
    return THINK_OK;
  });
}

}  // extern "C"
