// Stands in for libthink_cuda.so.1: writes down what it is asked and computes nothing.
#include "stand_in_backend.h"

#include <cstdlib>
#include <cstring>

#include "libthink/backend/cuda_backend.h"

#ifndef STAND_IN_ABI
#define STAND_IN_ABI think::cuda::kBackendAbi
#endif
#ifndef STAND_IN_VERSION
#define STAND_IN_VERSION (THINK_VERSION_MAJOR * 10000 + THINK_VERSION_MINOR * 100 + THINK_VERSION_PATCH)
#endif
#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace think;

StandInCalls calls;

int32_t ran(const char *name, void *stream, int64_t longest = 0) {
  ++calls.runs;
  calls.last = name;
  calls.stream = stream;
  calls.longest = longest;
  return calls.fail_with;
}

constexpr cuda::Backend table = {
    STAND_IN_ABI,
    sizeof(cuda::Backend),
    STAND_IN_VERSION,
    13000,
    "80 90",
    "evict, score, moments, select, fit, compact, attend, prune and rebuild",
    [](int32_t) { return "what the stand-in was told to say"; },
    [](int32_t index, cuda::Device &device) {
      ++calls.opened;
      device = {&calls, index, 9, 0, 132};
      return calls.fail_with;
    },
    [](const cuda::Device &) { ++calls.closed; },
    [](const cuda::Device &) {
      ++calls.entered;
      return 0;
    },
    [] { ++calls.left; },
    [] {
      ++calls.loaded;
      return calls.fail_with;
    },
    [](void *, bool *capturing) {
      *capturing = calls.capturing;
      return 0;
    },
    [](const cuda::Copy &copy, void *stream) {
      char *to = static_cast<char *>(copy.to);
      const bool elsewhere = to < calls.memory || to >= calls.memory_end;
      for (int64_t row = 0; elsewhere && row < copy.rows; ++row) std::memset(to + row * copy.to_pitch, 0, static_cast<size_t>(copy.width));
      return ran("copy", stream, copy.width * copy.rows);
    },
    [](void *stream) { return ran("synchronize", stream); },
    [](int64_t bytes, void **memory) {
      if (calls.no_host_memory) return calls.no_host_memory;
      ++calls.host_blocks;
      *memory = std::malloc(static_cast<size_t>(bytes));
      return 0;
    },
    [](void *memory) {
      --calls.host_blocks;
      std::free(memory);
    },
    [](void **event) {
      ++calls.events;
      *event = &calls;
      return calls.fail_with;
    },
    [](void *) { --calls.events; },
    [](void *, void *stream) { return ran("record", stream); },
    [](void *) { return calls.fail_with; },
    [](const Shape &, int32_t batch, int64_t tokens) { return int64_t{64} * batch + tokens; },
    [](const Shape &, void *, const Batch &, void *stream) { return ran("score_reset", stream); },
    [](const score::Update &, int64_t longest, void *, void *stream) { return ran("score_update", stream, longest); },
    [](const Shape &, const think_segment &, const Batch &, void *, int64_t longest, void *, void *stream) { return ran("score_sum_again", stream, longest); },
    [](const Shape &, const void *, const Batch &, bool, float *, void *stream) { return ran("score_finish", stream); },
    [](const Shape &, const think_tensor &, const Batch &, float *, void *stream) { return ran("score_values", stream); },
    [](const select::Budgets &) { return int64_t{64}; },
    [](const select::Budgets &, const float *, int32_t *, void *, void *stream) { return ran("budgets", stream); },
    [](const select::Select &, const float *, const Batch &, const think_basis &, uint8_t *, void *stream) { return ran("select", stream); },
    [](const Shape &, int32_t batch, int64_t tokens) { return int64_t{64} * batch + tokens; },
    [](const moments::Arguments &, const int32_t *, int64_t longest, void *, void *stream) { return ran("moments", stream, longest); },
    [](const Shape &, int32_t) { return int64_t{64}; },
    [](const Shape &, const void *, const Batch &, int32_t, const float *, float *, int32_t *, void *, void *stream) { return ran("gains", stream); },
    [](int64_t longest) { return longest; },
    [](const Shape &, int32_t batch, int64_t) { return int64_t{64} * batch; },
    [](const moments::MassArguments &, int32_t, int32_t, float *, int64_t longest, void *, void *stream) { return ran("mass", stream, longest); },
    [](const evict::Choices &, int64_t longest, void *stream) { return ran("evict_choose", stream, longest); },
    [](const evict::Move &, int64_t longest, int64_t, void *stream) { return ran("evict_move", stream, longest); },
    [](const Shape &, int32_t) { return int64_t{64}; },
    [](const fit::Arguments &, const int32_t *, void *, void *stream) { return ran("fit", stream); },
    [](const pruning::Plan &, int64_t longest, void *stream) { return ran("prune_plan", stream, longest); },
    [](int32_t, int32_t, const int32_t *, float *, void *stream) { return ran("prune_rank", stream); },
    [](int32_t, int32_t, const think_basis &, const Batch &, const int32_t *, uint8_t *, void *stream) { return ran("prune_keep_all", stream); },
    [](const Shape &, const think_segment &, const Batch &, void *stream) { return ran("place", stream); },
    [](const compact::Arguments &, int64_t longest, void *stream) { return ran("compact", stream, longest); },
    [](const rebuild::Arguments &, void *stream) { return ran("rebuild", stream); },
    [](Shape &shape) {
      shape.attend_blocks = 264, shape.attend_each = 2, shape.attend_shared = 228 << 10;
      return 0;
    },
    [](const Shape &, const attend::Extent &extent) { return int64_t{64} * extent.batch + extent.tokens + 4096 * extent.rows; },
    [](const attend::Arguments &, const attend::Extent &extent, const int32_t *, void *, void *stream) { return ran("attend", stream, extent.tokens); },
    [](const attend::Merge &, void *stream) { return ran("merge", stream); },
};

}  // namespace

EXPORT const think::cuda::Backend *think_cuda_backend() { return &table; }
EXPORT StandInCalls *stand_in_calls() { return &calls; }
