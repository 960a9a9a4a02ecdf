#include "libthink/core/evict.h"

#include <algorithm>

#include "kernels/common/workspace.h"
#include "kernels/evict/evict.h"
#include "kernels/moments/moments.h"
#include "libthink/core/shared_options.h"
#include "libthink/core/structs.h"

namespace think {
namespace {

constexpr int32_t kMostPooled = 255, kUsualPooled = 7;

struct Scratch {
  float *mass, *pooled;  // [wave][tokens]
  char *stage;
};

int64_t carve(Carver &carver, const Shape &shape, int32_t batch, int64_t tokens, Scratch &scratch) {
  const int64_t heads = std::min<int64_t>(moments::kMassWave, int64_t{batch} * shape.kv_heads);
  scratch.mass = take<float>(carver, heads * tokens);
  scratch.pooled = take<float>(carver, heads * tokens);
  scratch.stage = take<char>(carver, moments::mass_workspace(shape, batch, tokens));
  return carver.offset;
}

// On a device: [wave][kv_heads][mass_stride] and [longest].
int64_t carve(Carver &carver, const cuda::Backend &backend, const Shape &shape, int32_t batch, int64_t tokens, Scratch &scratch) {
  const int64_t heads = int64_t{device_wave(shape, batch)} * shape.kv_heads;
  scratch.mass = take<float>(carver, heads * backend.mass_stride(tokens));
  scratch.pooled = take<float>(carver, heads * tokens);
  scratch.stage = take<char>(carver, backend.mass_workspace(shape, batch, tokens));
  return carver.offset;
}

}  // namespace

think_status read_evict_options(const Argument &argument, const think_evict_options *in, const Shape &shape, EvictCall &call, think_evict_options &copy) {
  if (const think_status status = read_struct(argument, in, copy)) return status;
  if (copy.method < THINK_EVICT_SNAPKV || copy.method > THINK_EVICT_RECENT) {
    return wrong(argument, "method", "expected %d .. %d (THINK_EVICT_...), got %d", THINK_EVICT_SNAPKV, THINK_EVICT_RECENT, copy.method);
  }
  const bool pools = copy.method == THINK_EVICT_SNAPKV, recent_only = copy.method == THINK_EVICT_RECENT;
  if (copy.budget < 0) return wrong(argument, "budget", "expected at least 0, got %d", copy.budget);
  const int32_t usual_recent = copy.method == THINK_EVICT_TOVA ? 0 : shape.window;
  int32_t sinks, recent;
  if (const think_status status = read_count(argument, "sinks", copy.sinks, recent_only ? kDefaultSinks : 0, sinks)) return status;
  if (const think_status status = read_count(argument, "recent", copy.recent, usual_recent, recent)) return status;
  if (recent_only && copy.recent != 0) return wrong(argument, "recent", "expected 0 (what the sinks leave), got %d", copy.recent);
  const int32_t most_pooling = pools ? THINK_POOL_MEAN : 0;
  if (copy.pooling < 0 || copy.pooling > most_pooling) return wrong(argument, "pooling", "expected 0 .. %d, got %d", most_pooling, copy.pooling);
  if (!pools && copy.kernel != 0) return wrong(argument, "kernel", "expected 0 (only SnapKV pools), got %d", copy.kernel);
  if (copy.kernel < -1 || copy.kernel > kMostPooled || (copy.kernel > 0 && copy.kernel % 2 == 0)) {
    return wrong(argument, "kernel", "expected -1, 0 or an odd number up to %d, got %d", kMostPooled, copy.kernel);
  }
  if (copy.kept_stride < 0 || copy.kept_stride > INT32_MAX) {
    return wrong(argument, "kept_stride", "expected 0 .. %d, got %lld", INT32_MAX, static_cast<long long>(copy.kept_stride));
  }
  if (copy.score_stride < 0 || copy.score_stride > INT32_MAX) {
    return wrong(argument, "score_stride", "expected 0 .. %d, got %lld", INT32_MAX, static_cast<long long>(copy.score_stride));
  }
  call.sinks = sinks;
  call.recent = recent_only ? INT32_MAX : recent;
  call.pooling = copy.pooling;
  call.kernel = !pools || copy.kernel == -1 ? 1 : copy.kernel == 0 ? kUsualPooled : copy.kernel;
  call.budget = copy.budget;
  call.kept_stride = copy.kept_stride ? copy.kept_stride : copy.budget;
  call.score_stride = copy.score_stride;
  call.accumulate = copy.method == THINK_EVICT_H2O;
  return THINK_OK;
}

think_status check_evict_score(const Argument &argument, int32_t method, const float *score) {
  if (method == THINK_EVICT_H2O && !score) return null_pointer(argument);
  if (method == THINK_EVICT_RECENT && score) return wrong(argument, "", "expected NULL (sinks and recent rows have no scores), got a pointer");
  return check_optional(argument, score);
}

int64_t evict_workspace(const Shape &shape, int32_t batch, int64_t tokens) {
  Carver carver{nullptr, 0};
  Scratch scratch;
  return carve(carver, shape, batch, tokens, scratch);
}

void evict_rows(const EvictCall &call, int64_t longest, void *workspace) {
  const Shape &shape = call.shape;
  Carver carver{static_cast<char *>(workspace), 0};
  Scratch scratch{};
  if (workspace) carve(carver, shape, call.batch.count, longest, scratch);
  const moments::MassArguments mass{shape, call.window_query, call.source, call.batch};
  const int64_t heads = int64_t{call.batch.count} * shape.kv_heads;
  for (int64_t from = 0; from < heads; from += moments::kMassWave) {
    const int32_t count = static_cast<int32_t>(std::min<int64_t>(moments::kMassWave, heads - from));
    if (call.measure) moments::attention_mass(call.isa, mass, from, count, scratch.mass, longest, scratch.stage, call.parallel);
    parallel_for(call.parallel, count, [&](int64_t i) {
      const int64_t at = from + i;
      const int32_t sequence = static_cast<int32_t>(at / shape.kv_heads), head = static_cast<int32_t>(at % shape.kv_heads);
      const int64_t tokens = run_length(call.source, sequence, head);
      float *score = call.score ? call.score + (int64_t{slot_of(call.batch, sequence)} * shape.kv_heads + head) * call.score_stride : nullptr;
      float *fresh = call.measure ? scratch.mass + i * longest : nullptr;
      for (int64_t t = 0; call.measure && score && t < tokens; ++t) score[t] = call.accumulate ? score[t] + fresh[t] : fresh[t];
      const evict::Choice choice{tokens,       call.budgets ? call.budgets[at] : call.budget, call.sinks,
                                 call.recent,  call.pooling,                                  call.kernel,
                                 score ? score : fresh, call.measure ? scratch.pooled + i * longest : nullptr};
      call.lengths[at] = evict::choose(choice, call.kept + at * call.kept_stride);
    });
  }
}

int64_t evict_workspace(const cuda::Backend &backend, const Shape &shape, int32_t batch, int64_t tokens) {
  Carver carver{nullptr, 0};
  Scratch scratch;
  return carve(carver, backend, shape, batch, tokens, scratch);
}

int32_t evict_rows(const cuda::Backend &backend, const EvictCall &call, int64_t longest, void *workspace, void *stream) {
  const Shape &shape = call.shape;
  Carver carver{static_cast<char *>(workspace), 0};
  Scratch scratch{};
  if (workspace) carve(carver, backend, shape, call.batch.count, longest, scratch);
  const moments::MassArguments mass{shape, call.window_query, call.source, call.batch};
  evict::Choices choices{};
  choices.shape = shape;
  choices.source = call.source;
  choices.batch = call.batch;
  choices.budget = call.budget;
  choices.budgets = call.budgets;
  choices.sinks = call.sinks;
  choices.recent = call.recent;
  choices.pooling = call.pooling;
  choices.kernel = call.kernel;
  choices.accumulate = call.accumulate;
  choices.mass = call.measure ? scratch.mass : nullptr;
  choices.mass_stride = backend.mass_stride(longest);
  choices.score = call.score;
  choices.score_stride = call.score_stride;
  choices.pooled = scratch.pooled;
  choices.kept = call.kept;
  choices.kept_stride = call.kept_stride;
  choices.lengths = call.lengths;
  // Without a mass there is no scratch, and nothing to share it between.
  const int32_t count = call.batch.count, wave = call.measure ? device_wave(shape, count) : count;
  for (int32_t &first = choices.first_sequence; first < count; first += wave) {
    choices.sequences = std::min(wave, count - first);
    if (call.measure) {
      if (const int32_t error = backend.mass(mass, first, choices.sequences, scratch.mass, longest, scratch.stage, stream)) return error;
    }
    if (const int32_t error = backend.evict_choose(choices, longest, stream)) return error;
  }
  return 0;
}

}  // namespace think
