#include "libthink/core/plan.h"

#include <cmath>
#include <new>

#include "libthink/core/device.h"
#include "libthink/core/structs.h"

namespace think {
namespace {

constexpr int32_t kMostWindow = 1024;
constexpr double kMostOverSoftcap = 1e30;  // scale / softcap
constexpr int32_t kMostHeads = 65536;

think_status check_dtype(const Argument &argument, const char *field, think_dtype dtype) {
  if (is_float_dtype(dtype)) return THINK_OK;
  return wrong(argument, field, "expected f32, f16 or bf16, got 0x%x", static_cast<unsigned>(dtype));
}

think_status check_channels(const Argument &argument, const char *field, int32_t channels) {
  if (channels >= 8 && channels <= kMaxChannels && channels % 8 == 0) return THINK_OK;
  return wrong(argument, field, "expected a multiple of 8 from 8 to %d, got %d", kMaxChannels, channels);
}

// Products of the maxima bound every size and offset of the library: they must stay far inside 63 bits.
bool sizes_overflow(const Shape &shape) {
  int64_t queries = int64_t{shape.max_queries} + shape.window, rows = shape.max_tokens;
  constexpr int64_t bytes_per_query = int64_t{kMaxChannels} * 4 * THINK_MAX_SEGMENTS * 64, bytes_per_row = int64_t{kMaxChannels} * 8;
  bool overflow = __builtin_mul_overflow(queries, int64_t{shape.max_batch}, &queries) ||
                  __builtin_mul_overflow(queries, int64_t{shape.query_heads}, &queries) || __builtin_mul_overflow(queries, bytes_per_query, &queries);
  overflow |= __builtin_mul_overflow(rows, int64_t{shape.max_batch}, &rows) || __builtin_mul_overflow(rows, int64_t{shape.kv_heads}, &rows) ||
              __builtin_mul_overflow(rows, bytes_per_row, &rows);
  return overflow || queries > INT64_MAX / 4 || rows > INT64_MAX / 4;
}

}  // namespace

const char *dtype_name(think_dtype dtype) {
  switch (dtype) {
    case THINK_F32: return "f32";
    case THINK_F16: return "f16";
    case THINK_BF16: return "bf16";
    case THINK_U8: return "u8";
    case THINK_U4: return "u4";
    case THINK_U2: return "u2";
    case THINK_F8_E4M3: return "f8_e4m3";
    default: return "unknown";
  }
}

think_status read_problem(const Argument &argument, const think_problem *in, Shape &shape) {
  think_problem problem;
  if (const think_status status = read_struct(argument, in, problem, THINK_PROBLEM_BATCH_INVARIANT)) return status;
  if (problem.query_dtype == 0) problem.query_dtype = THINK_F32;
  if (problem.cache_dtype == 0) problem.cache_dtype = THINK_F16;
  if (problem.output_dtype == 0) problem.output_dtype = problem.query_dtype;
  if (const think_status status = check_dtype(argument, "query_dtype", problem.query_dtype)) return status;
  if (const think_status status = check_dtype(argument, "cache_dtype", problem.cache_dtype)) return status;
  if (const think_status status = check_dtype(argument, "output_dtype", problem.output_dtype)) return status;
  if (problem.query_heads < 1) return wrong(argument, "query_heads", "expected at least 1, got %d", problem.query_heads);
  if (problem.kv_heads < 1) return wrong(argument, "kv_heads", "expected at least 1, got %d", problem.kv_heads);
  if (problem.query_heads % problem.kv_heads != 0) {
    return wrong(argument, "query_heads", "expected a multiple of kv_heads (%d), got %d", problem.kv_heads, problem.query_heads);
  }
  // With so many no size of a basis, a page or a state can leave 64 bits, whatever the number of slots.
  if (problem.query_heads > kMostHeads) return wrong(argument, "query_heads", "expected 1 .. %d, got %d", kMostHeads, problem.query_heads);
  if (const think_status status = check_channels(argument, "key_channels", problem.key_channels)) return status;
  if (problem.value_channels == 0) problem.value_channels = problem.key_channels;
  if (const think_status status = check_channels(argument, "value_channels", problem.value_channels)) return status;
  if (problem.window == 0) problem.window = 32;
  if (problem.window < 1 || problem.window > kMostWindow) return wrong(argument, "window", "expected 0 .. %d, got %d", kMostWindow, problem.window);
  if (problem.max_batch == 0) problem.max_batch = 1;
  if (problem.max_batch < 1) return wrong(argument, "max_batch", "expected at least 0, got %d", problem.max_batch);
  if (problem.max_queries == 0) problem.max_queries = 1;
  if (problem.max_queries < 1) return wrong(argument, "max_queries", "expected at least 0, got %d", problem.max_queries);
  if (problem.max_tokens == 0) problem.max_tokens = 131072;
  if (problem.max_tokens < 1 || problem.max_tokens > INT32_MAX) {
    return wrong(argument, "max_tokens", "expected 0 .. %d, got %lld", INT32_MAX, static_cast<long long>(problem.max_tokens));
  }
  if (!std::isfinite(problem.scale)) return wrong(argument, "scale", "expected a finite number, got %s", NumberText(problem.scale).text);
  if (problem.scale == 0) problem.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(problem.key_channels)));
  if (problem.softcap == -1) problem.softcap = 0;
  if (!std::isfinite(problem.softcap) || problem.softcap < 0) {
    return wrong(argument, "softcap", "expected -1 or a finite number of at least 0, got %s", NumberText(problem.softcap).text);
  }
  // The kernels multiply with scale / softcap; what overflows there is NaN.
  if (problem.softcap > 0 && !(std::fabs(static_cast<double>(problem.scale)) / static_cast<double>(problem.softcap) < kMostOverSoftcap)) {
    return wrong(argument, "softcap", "expected more than scale / %g (scale is %s), got %s", kMostOverSoftcap, NumberText(problem.scale).text,
                 NumberText(problem.softcap).text);
  }
  shape = {problem.query_heads,    problem.kv_heads,  problem.query_heads / problem.kv_heads,
           problem.key_channels,   problem.value_channels, problem.window,
           problem.max_batch,      problem.max_queries,    problem.max_tokens,
           problem.query_dtype,    problem.cache_dtype,    problem.output_dtype,
           problem.scale,          problem.softcap,        0,
           (problem.flags & THINK_PROBLEM_BATCH_INVARIANT) != 0,   false};
  if (sizes_overflow(shape)) {
    return unsupported(argument, "", "query_heads %d, max_batch %d, max_queries %d and max_tokens %lld together exceed 64-bit sizes", shape.query_heads,
                       shape.max_batch, shape.max_queries, static_cast<long long>(shape.max_tokens));
  }
  return THINK_OK;
}

think_status make_plan(think_context &context, const Shape &shape, think_plan *&plan, think_error *error) {
  void *memory = allocate(context, sizeof(think_plan));
  if (!memory) return fail(error, THINK_E_MEMORY, 0, "the host's allocator gave no memory for a plan (%zu bytes)", sizeof(think_plan));
  if (!context.pool.acquire()) {
    deallocate(context, memory, sizeof(think_plan));
    return fail(error, THINK_E_MEMORY, 0, "%d threads could not be started", context.threads - 1);
  }
  think_plan *made = new (memory) think_plan{&context, shape, parallel_of(context), context.isa.isa};
  made->shape.on_device = context.cuda != nullptr;
  retain(context);
  if (context.cuda) {
    const think_status status = run_on_device(*made, error, [&](const cuda::Backend &backend) {
      const int32_t code = backend.load();
      return code ? code : backend.attend_resident(made->shape);
    });
    if (status) {
      destroy_plan(made);
      return status;
    }
  }
  plan = made;
  log(context, THINK_LOG_DEBUG, "libthink: plan for %d query heads, %d KV heads, %d key and %d value channels", shape.query_heads, shape.kv_heads,
      shape.key_channels, shape.value_channels);
  return THINK_OK;
}

void destroy_plan(think_plan *plan) {
  think_context &context = *plan->context;
  context.pool.release();
  plan->~think_plan();
  deallocate(context, plan, sizeof(think_plan));
  release(context);
}

}  // namespace think
