#include "kernels/score/score.h"

#include "libthink/core/check.h"
#include "libthink/core/device.h"

using namespace think;

namespace {

constexpr int32_t kStateAlignment = 64;

}  // namespace

extern "C" {

void think_score_options_init(think_score_options *options, uint32_t struct_size) {
  const think_score_options initial = THINK_SCORE_OPTIONS_INIT;
  init_struct(options, struct_size, initial);
}

think_status think_score_state_size(const think_plan *plan, int32_t slots, int64_t *bytes, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    if (slots < 1) return wrong({error, 2, "slots"}, "", "expected at least 1, got %d", slots);
    if (const think_status status = check_array({error, 3, "bytes"}, bytes)) return status;
    int64_t size;
    if (__builtin_mul_overflow(score::state_bytes(plan->shape), int64_t{slots}, &size)) {
      return wrong({error, 2, "slots"}, "", "%d slots exceed 64-bit sizes", slots);
    }
    *bytes = size;
    return THINK_OK;
  });
}

think_status think_score_reset(const think_plan *plan, void *state, const think_batch *batch, const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    if (const think_status status = check_pointer({error, 2, "state"}, state, kStateAlignment)) return status;
    Batch sequences;
    const Argument batch_argument{error, 3, "batch"};
    if (const think_status status = read_batch(batch_argument, batch, plan->shape, 1, sequences)) return status;
    Launch call;
    if (const think_status status = read_launch({error, 4, "launch"}, launch, plan->shape, false, call)) return status;
    if (const think_status status = check_slots(batch_argument, sequences, plan->shape, INT32_MAX, "a slot", call.check)) return status;
    if (plan->context->cuda) {
      return run_on_device(*plan, error, [&](const cuda::Backend &backend) { return backend.score_reset(plan->shape, state, sequences, call.stream); });
    }
    score::reset(plan->shape, state, sequences);
    return THINK_OK;
  });
}

think_status think_score_update(const think_plan *plan, const think_tensor *query, const think_tensor *key, const think_batch *batch, void *state,
                                const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    const Argument query_argument{error, 2, "query"}, key_argument{error, 3, "key"}, batch_argument{error, 4, "batch"};
    score::Update update{};
    update.shape = shape;
    const TensorRule query_rule{shape.query_heads, shape.key_channels, shape.query_dtype}, key_rule{shape.kv_heads, shape.key_channels, 0};
    if (const think_status status = read_tensor(query_argument, query, query_rule, update.query)) return status;
    if (const think_status status = read_tensor(key_argument, key, key_rule, update.key)) return status;
    for (const int axis : {0, 2}) {
      if (update.key.extent[axis] != update.query.extent[axis]) {
        return wrong(key_argument, Text("extent[%d]", axis).text, "expected %lld as the query's, got %lld",
                     static_cast<long long>(update.query.extent[axis]), static_cast<long long>(update.key.extent[axis]));
      }
    }
    int64_t longest;
    if (const think_status status = read_batch(batch_argument, batch, shape, update.query.extent[0], update.batch)) return status;
    if (const think_status status =
            check_rows(batch_argument, update.batch, query_argument, update.query, shape, shape.max_tokens, "max_tokens", &longest)) {
      return status;
    }
    if (const think_status status = check_pointer({error, 5, "state"}, state, kStateAlignment)) return status;
    update.state = state;
    Launch call;
    if (const think_status status = read_launch({error, 6, "launch"}, launch, plan->shape, true, call)) return status;
    if (const think_status status = check_slots(batch_argument, update.batch, plan->shape, INT32_MAX, "a slot", call.check)) return status;
    const cuda::Backend *backend = plan->context->cuda;
    const int64_t needed = backend ? backend->score_workspace(shape, update.batch.count, longest) : score::update_workspace(shape, update.batch.count, longest);
    if (backend) {
      if (const think_status status = check_device_rows(key_argument, update.key)) return status;
      if (const think_status status = check_device_rows(query_argument, update.query)) return status;
    }
    if (const think_status status = check_workspace(call, needed)) return status;
    if (backend) {
      return run_on_device(*plan, error, [&](const cuda::Backend &) { return backend->score_update(update, longest, call.workspace, call.stream); });
    }
    score::update(plan->isa, update, call.workspace, plan->parallel, call.slice);
    return THINK_OK;
  });
}

think_status think_score_finish(const think_plan *plan, const void *state, const think_batch *batch, const think_score_options *options, float *score,
                                const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    if (const think_status status = check_pointer({error, 2, "state"}, state, kStateAlignment)) return status;
    Batch sequences;
    const Argument batch_argument{error, 3, "batch"};
    if (const think_status status = read_batch(batch_argument, batch, plan->shape, 1, sequences)) return status;
    if (const think_status status = check_slots(batch_argument, sequences, plan->shape, INT32_MAX, "a slot", false)) return status;
    const think_score_options defaults = THINK_SCORE_OPTIONS_INIT;
    think_score_options copy;
    if (const think_status status = read_options({error, 4, "options"}, options, copy, defaults, THINK_SCORE_QUERY_HEADS)) return status;
    if (const think_status status = check_array({error, 5, "score"}, score)) return status;
    Launch call;
    if (const think_status status = read_launch({error, 6, "launch"}, launch, plan->shape, false, call)) return status;
    const bool query_heads = (copy.flags & THINK_SCORE_QUERY_HEADS) != 0;
    if (plan->context->cuda) {
      return run_on_device(*plan, error, [&](const cuda::Backend &backend) {
        return backend.score_finish(plan->shape, state, sequences, query_heads, score, call.stream);
      });
    }
    score::finish(plan->shape, state, sequences, query_heads, score);
    return THINK_OK;
  });
}

think_status think_score_window(const think_plan *plan, const void *state, int32_t slots, think_tensor *query, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    if (const think_status status = check_pointer({error, 2, "state"}, state, kStateAlignment)) return status;
    if (slots < 1) return wrong({error, 3, "slots"}, "", "expected at least 1, got %d", slots);
    if (const think_status status = check_output({error, 4, "query"}, query)) return status;
    const think_tensor answer = score::window_tensor(plan->shape, state, slots);
    write_output(query, answer);
    return THINK_OK;
  });
}

think_status think_value_score(const think_plan *plan, const think_tensor *attention, const think_batch *batch, float *score, const think_launch *launch,
                               think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    const Argument attention_argument{error, 2, "attention"}, batch_argument{error, 3, "batch"};
    think_tensor tensor;
    Batch sequences;
    if (const think_status status = read_tensor(attention_argument, attention, {shape.query_heads, shape.value_channels, 0}, tensor)) return status;
    if (const think_status status = read_batch(batch_argument, batch, shape, tensor.extent[0], sequences)) return status;
    if (const think_status status = check_rows(batch_argument, sequences, attention_argument, tensor, shape, shape.max_tokens, "max_tokens", nullptr)) {
      return status;
    }
    if (const think_status status = check_array({error, 4, "score"}, score)) return status;
    Launch call;
    if (const think_status status = read_launch({error, 5, "launch"}, launch, plan->shape, false, call)) return status;
    if (plan->context->cuda) {
      if (const think_status status = check_device_rows(attention_argument, tensor)) return status;
      return run_on_device(*plan, error, [&](const cuda::Backend &backend) { return backend.score_values(shape, tensor, sequences, score, call.stream); });
    }
    score::value_score(shape, tensor, sequences, score);
    return THINK_OK;
  });
}

}  // extern "C"
