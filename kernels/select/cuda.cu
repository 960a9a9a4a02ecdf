// The select stage on a CUDA device, bit for bit what cpu.cpp gives. Both parts count ranks: a channel is kept when fewer than `kept` others come before
// it, and a block of a budget is granted when fewer than are left to share come before it. The CPU hands blocks out one at a time, the best on offer
// first; as worths never rise along a head, that is the same as taking the best of all.
#include "cuda.h"

#include "../common/device.cuh"

namespace think::select::cuda {
namespace {

using namespace ptx;

constexpr int32_t kThreads = 256;
constexpr int32_t kBlocks = 4;  // of a multiprocessor, at least: as many registers as that allows, or ptxas spills for the sake of more
static_assert(kThreads >= kMaxChannels);

// rounded_width() of cpu.cpp.
THINK_DEVICE int32_t width_of(int32_t kept, int32_t round_to, int32_t channels, bool pairs) {
  int32_t width = kept < 1 ? 1 : kept > channels ? channels : kept;
  width = (width + round_to - 1) / round_to * round_to;
  if (pairs) width = (width + 1) / 2 * 2;
  return width < channels ? width : channels;
}

// ---- which channels: grid (KV heads, sequences)

struct SelectCall {
  Select choice;
  const float *score;
  const int32_t *slot;
  int32_t *kept, *index;
  int64_t *weight_offset;
  uint8_t *mask;
};

__global__ void __launch_bounds__(kThreads, kBlocks) select_channels(SelectCall call) {
  const Select &choice = call.choice;
  const int32_t channels = choice.channels, i = thread_index();
  SharedCarver carver = shared_memory();
  const Shared<float> value = carver.take<float>(kMaxChannels);
  const Shared<int32_t> chosen_before = carver.take<int32_t>(kThreads / 32);
  const int64_t from = static_cast<int64_t>(block_y()) * choice.kv_heads + block_x();
  const int64_t to = static_cast<int64_t>(device::slot_of(call.slot, block_y())) * choice.kv_heads + block_x();
  const bool pairs = choice.pairs != Pairs::none;
  const int32_t kept = width_of(choice.kept ? load_constant(choice.kept + from) : choice.uniform_kept, choice.round_to, channels, pairs);

  // What competes: channels, or pairs of them.
  const int32_t units = pairs ? channels / 2 : channels, stride = choice.pairs == Pairs::interleaved ? 2 : 1;
  const int32_t partner = choice.pairs == Pairs::halves ? channels / 2 : 1;
  const float *score = call.score + from * channels;
  const auto value_of = [&](int32_t unit) {
    float sum = load_constant(score + unit * stride);
    if (pairs) sum += load_constant(score + unit * stride + partner);
    return device::nan_to_infinity(sum);
  };
  if (i < units) store_shared(value + i, value_of(i));
  sync_block();
  // The unit of channel i, and how many units come before it.
  const int32_t unit = !pairs ? i : choice.pairs == Pairs::halves ? (i < units ? i : i - units) : i / 2;
  bool chosen = false;
  if (i < channels) {
    const float own = value_of(unit);
    int32_t before = 0;
    for (int32_t other = 0; other < units; ++other) {
      const float rival = load_shared(value + other);
      before += rival > own || (rival == own && other < unit);
    }
    chosen = before < (pairs ? kept / 2 : kept);
  }
  // Kept channels ascending, then the dropped ones ascending.
  const uint32_t votes = ballot(chosen);
  if (lane_index() == 0) store_shared(chosen_before + warp_index(), count_bits(votes));
  sync_block();
  int32_t earlier = count_bits(votes & ((1u << lane_index()) - 1));
  for (int32_t warp = 0; warp < warp_index(); ++warp) earlier += load_shared(chosen_before + warp);
  if (i < channels) {
    store_global(call.index + to * channels + (chosen ? earlier : kept + i - earlier), i);
    if (call.mask) store_global(call.mask + from * channels + i, static_cast<uint8_t>(chosen));
  }
  if (i == 0) {
    store_global(call.kept + to, kept);
    if (call.weight_offset) store_global(call.weight_offset + to, int64_t{-1});
  }
}

uint32_t select_shared_bytes() {
  SharedCarver carver;
  carver.take<float>(kMaxChannels);
  carver.take<int32_t>(kThreads / 32);
  return carver.bytes();
}

// ---- how many: worths first, grid (layers, sequences), then ranks, grid (layers * KV heads, sequences)

struct BudgetCall {
  Budgets budgets;
  const float *gains;
  double *worth;  // [sequence][layer][head][block], non-increasing along a head
  int32_t *kept;
  int32_t blocks;
};

THINK_DEVICE double usable(float gain) { return gain > 0 ? static_cast<double>(gain) : 0; }

// A thread per head, in the order of additions of cpu.cpp: sums of f64 must have the same bits.
__global__ void __launch_bounds__(kThreads, kBlocks) select_worth(BudgetCall call) {
  const Budgets &budgets = call.budgets;
  const int32_t layer = block_x(), sequence = block_y(), channels = budgets.channels;
  const float *gains = call.gains + (static_cast<int64_t>(layer) * budgets.batch + sequence) * budgets.kv_heads * channels;
  double total = 0;
  for (int32_t i = 0; budgets.normalise && i < budgets.kv_heads * channels; ++i) total += usable(load_constant(gains + i));
  const bool has_total = total > 0 && total < bit_copy<double>(uint64_t{0x7ff0000000000000u});
  for (int32_t head = thread_index(); head < budgets.kv_heads; head += kThreads) {
    double *worth = call.worth + ((static_cast<int64_t>(sequence) * budgets.layers + layer) * budgets.kv_heads + head) * call.blocks;
    double least = bit_copy<double>(uint64_t{0x7ff0000000000000u});
    for (int32_t block = 0; block < call.blocks; ++block) {
      double sum = 0;
      for (int32_t j = 0; j < budgets.step; ++j) sum += usable(load_constant(gains + static_cast<int64_t>(head) * channels + block * budgets.step + j));
      if (budgets.normalise) sum = has_total ? sum / total : 0;
      if (sum < least) least = sum;
      store_global(worth + block, least);
    }
  }
}

// A warp per block of the head: how many blocks above the floors, of all heads, come before it?
__global__ void __launch_bounds__(kThreads, kBlocks) select_grant(BudgetCall call) {
  const Budgets &budgets = call.budgets;
  const int32_t head = block_x(), sequence = block_y(), heads = budgets.layers * budgets.kv_heads;
  const int32_t floor_blocks = budgets.floor / budgets.step, above = call.blocks - floor_blocks;
  const int64_t left = budgets.total / budgets.step - static_cast<int64_t>(heads) * floor_blocks;
  SharedCarver carver = shared_memory();
  const Shared<int32_t> granted_by_warp = carver.take<int32_t>(kThreads / 32);
  const double *worth = call.worth + static_cast<int64_t>(sequence) * heads * call.blocks;
  int32_t granted = 0;
  for (int32_t block = warp_index(); block < above; block += kThreads / 32) {
    const double own = load_constant(worth + static_cast<int64_t>(head) * call.blocks + floor_blocks + block);
    int32_t before = 0;
    for (int64_t rival = lane_index(); rival < static_cast<int64_t>(heads) * above; rival += 32) {
      const int32_t rival_head = static_cast<int32_t>(rival / above), rival_block = static_cast<int32_t>(rival % above);
      const double other = load_constant(worth + static_cast<int64_t>(rival_head) * call.blocks + floor_blocks + rival_block);
      const bool lower = rival_head < head || (rival_head == head && rival_block < block);
      before += other > own || (other == own && lower);
    }
    granted += warp_sum(before) < left;
  }
  if (lane_index() == 0) store_shared(granted_by_warp + warp_index(), granted);
  sync_block();
  if (thread_index() > 0) return;
  int32_t width = budgets.floor;
  for (int32_t warp = 0; warp < kThreads / 32; ++warp) width += budgets.step * load_shared(granted_by_warp + warp);
  const int32_t layer = head / budgets.kv_heads, head_in_layer = head - layer * budgets.kv_heads;
  store_global(call.kept + (static_cast<int64_t>(layer) * budgets.batch + sequence) * budgets.kv_heads + head_in_layer, width);
}

uint32_t grant_shared_bytes() {
  SharedCarver carver;
  carver.take<int32_t>(kThreads / 32);
  return carver.bytes();
}

}  // namespace

int32_t load() {
  if (const int32_t error = prepare(select_channels, select_shared_bytes())) return error;
  if (const int32_t error = prepare(select_worth, 0)) return error;
  return prepare(select_grant, grant_shared_bytes());
}

int64_t budgets_workspace(const Budgets &budgets) {
  Carver carver{nullptr, 0};
  take<double>(carver, static_cast<int64_t>(budgets.batch) * budgets.layers * budgets.kv_heads * (budgets.channels / budgets.step));
  return carver.offset;
}

int32_t budgets(const Budgets &arguments, const float *gains, int32_t *kept, void *workspace, void *stream) {
  BudgetCall call;
  call.budgets = arguments;
  call.gains = gains;
  call.worth = static_cast<double *>(workspace);
  call.kept = kept;
  call.blocks = arguments.channels / arguments.step;
  const Launch worth{.name = "select_worth", .grid = {arguments.layers, arguments.batch}, .threads = kThreads, .stream = stream};
  if (const int32_t error = launch(worth, select_worth, call)) return error;
  const Launch grant{.name = "select_grant",
                     .grid = {arguments.layers * arguments.kv_heads, arguments.batch},
                     .threads = kThreads,
                     .shared_bytes = grant_shared_bytes(),
                     .stream = stream};
  return launch(grant, select_grant, call);
}

int32_t select(const Select &arguments, const float *score, const Batch &batch, const think_basis &basis, uint8_t *mask, void *stream) {
  const SelectCall call{arguments, score, batch.slot, basis.kept, basis.index, basis.weight_offset, mask};
  const Launch how{.name = "select_channels",
                   .grid = {arguments.kv_heads, batch.count},
                   .threads = kThreads,
                   .shared_bytes = select_shared_bytes(),
                   .stream = stream};
  return launch(how, select_channels, call);
}

}  // namespace think::select::cuda
