// The small kernels between the stages of a prune: the host knows no lengths, so what depends on them is decided here, and the stages run for all
// sequences alike. A side that stays dense is selected and fitted too, and then overwritten: that costs time for short sequences only.
#include "cuda.h"

#include "../common/device.cuh"

namespace think::pruning::cuda {
namespace {

using namespace ptx;

constexpr int32_t kThreads = 256;

// ---- plan, a thread per sequence

struct PlanCall {
  device::Run source;
  const int32_t *destination_first;
  int64_t destination_stride;
  Plan plan;
};

// prunes() of prune.h.
THINK_DEVICE bool is_pruned(const Rule &rule, int64_t rows) {
  if (!rule.asked || rows == 0) return false;
  const int64_t tiles = rows / kTileTokens;
  return rule.limit < 0 || static_cast<double>(rule.basis_bytes + tiles * rule.tile_bytes) < rule.limit * static_cast<double>(tiles * rule.dense_tile_bytes);
}

__global__ void __launch_bounds__(kThreads) prune_plan(const __grid_constant__ PlanCall call) {
  const int32_t sequence = block_x() * kThreads + thread_index();
  const Plan &plan = call.plan;
  if (sequence >= plan.batch.count) return;
  const PruneRange range = device::prune_range(device::length_of(call.source, sequence, 0), plan.sinks, plan.recent);
  const int32_t rows = static_cast<int32_t>(range.count);
  store_global(plan.source_first + sequence, rows > 0 ? device::first_of(call.source, sequence, 0) + static_cast<int32_t>(range.first) : 0);
  store_global(plan.destination_first + sequence,
               call.destination_first ? load_constant(call.destination_first + sequence * call.destination_stride) : 0);
  store_global(plan.rows + sequence, rows);
  const int32_t slot = device::slot_of(plan.batch.slot, sequence);
  store_global(plan.state_slot + sequence, slot);
  store_global(plan.source_slot + sequence, plan.source.slot ? load_constant(plan.source.slot + sequence) : slot);
  store_global(plan.destination_slot + sequence, plan.destination.slot ? load_constant(plan.destination.slot + sequence) : slot);
  store_global(plan.key_dense + sequence, is_pruned(plan.key, rows) ? 0 : 1);
  store_global(plan.value_dense + sequence, is_pruned(plan.value, rows) ? 0 : 1);
}

// ---- rank, grid (heads)

__global__ void __launch_bounds__(kThreads) prune_rank(int32_t channels, const int32_t *order, float *score) {
  const int64_t head = static_cast<int64_t>(block_x()) * channels;
  const int32_t step = thread_index();
  if (step < channels) store_global(score + head + load_constant(order + head + step), static_cast<float>(channels - step));
}

// ---- keep all, grid (KV heads, sequences)

struct KeepCall {
  int32_t *kept, *index;
  int64_t *weight_offset;
  const int32_t *slot, *dense;
  uint8_t *mask;
  int32_t kv_heads, channels;
};

__global__ void __launch_bounds__(kThreads) prune_keep_all(const __grid_constant__ KeepCall call) {
  if (call.dense && load_constant(call.dense + block_y()) == 0) return;
  const int32_t channel = thread_index();
  if (call.kept) {
    const int64_t head = static_cast<int64_t>(device::slot_of(call.slot, block_y())) * call.kv_heads + block_x();
    if (channel < call.channels) store_global(call.index + head * call.channels + channel, channel);
    if (channel == 0) {
      store_global(call.kept + head, call.channels);
      store_global(call.weight_offset + head, int64_t{-1});
    }
  }
  const int64_t row = (static_cast<int64_t>(block_y()) * call.kv_heads + block_x()) * call.channels;
  if (call.mask && channel < call.channels) store_global(call.mask + row + channel, uint8_t{1});
}

}  // namespace

int32_t load() {
  if (const int32_t error = prepare(prune_plan, 0)) return error;
  if (const int32_t error = prepare(prune_rank, 0)) return error;
  return prepare(prune_keep_all, 0);
}

int32_t plan(const Plan &plan, int64_t longest, void *stream) {
  PlanCall call;
  call.source = device::run_of(plan.source, plan.batch, longest);
  call.destination_first = plan.destination.first;
  call.destination_stride = plan.destination.lengths_stride[0];
  call.plan = plan;
  const int32_t blocks = (plan.batch.count + kThreads - 1) / kThreads;
  return launch({.name = "prune_plan", .grid = {blocks}, .threads = kThreads, .stream = stream}, prune_plan, call);
}

int32_t rank(int32_t heads, int32_t channels, const int32_t *order, float *score, void *stream) {
  return launch({.name = "prune_rank", .grid = {heads}, .threads = kThreads, .stream = stream}, prune_rank, channels, order, score);
}

int32_t keep_all(int32_t kv_heads, int32_t channels, const think_basis &basis, const Batch &batch, const int32_t *dense, uint8_t *mask, void *stream) {
  const KeepCall call{basis.kept, basis.index, basis.weight_offset, batch.slot, dense, mask, kv_heads, channels};
  return launch({.name = "prune_keep_all", .grid = {kv_heads, batch.count}, .threads = kThreads, .stream = stream}, prune_keep_all, call);
}

}  // namespace think::pruning::cuda
