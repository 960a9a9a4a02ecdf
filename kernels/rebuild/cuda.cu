// The rebuild stage on a CUDA device. A thread has a position of the index in some rows: the number that is stored there, or the sum that predicts it, in
// the CPU's order.
#include "cuda.h"

#include <cmath>

#include "../common/device.cuh"

namespace think::rebuild::cuda {
namespace {

using namespace ptx;

constexpr int32_t kRows = 8;             // of a block: a weight is read once for all of them
constexpr int32_t kPlanes = kRows / 4;   // rows lie in fours, so that neither stores nor loads of a position meet a bank twice

struct Call {
  device::Side side;
  device::Run run;
  const void *weight;
  const int64_t *weight_offset;
  const float *offset;
  think_tensor tensor;
  int32_t kv_heads, first, count;
};

THINK_HOST_DEVICE Shared<Float4> take_kept(SharedCarver &carver) { return carver.take<Float4>(kPlanes * kMaxChannels); }

uint32_t shared_bytes() {
  SharedCarver carver;
  take_kept(carver);
  return carver.bytes();
}

// As in quantized.h.
THINK_DEVICE CodePlace place_of(const device::Side &side, int32_t channels, int32_t position, int32_t token) {
  if (side.keys) return device::key_code(side.dtype, position, token);
  const int32_t bits = device::bits_of(side.dtype);
  const int32_t first = position / kBlockChannels * kBlockChannels, within = position - first;
  const int32_t bytes = (channels - first < kBlockChannels ? channels - first : kBlockChannels) * bits / 8;
  return {first * kTileTokens * bits / 8 + token * bytes + within % bytes, within / bytes * bits};
}

THINK_DEVICE float stored_number(const Call &call, const device::View &view, int64_t head_of_slot, int32_t row, int32_t position) {
  const think_dtype dtype = call.side.dtype;
  const char *address = device::row_address(view, row);
  const int32_t token = row % kTileTokens;
  if (dtype == THINK_F32 || dtype == THINK_F16 || dtype == THINK_BF16) {
    return device::load_number(address, dtype, view.layout == THINK_TILES ? position * kTileTokens + token : position);
  }
  const CodePlace place = place_of(call.side, view.channels, position, token);
  const uint32_t byte = load_constant(reinterpret_cast<const uint8_t *>(address) + place.byte);
  if (!device::has_groups(dtype)) return device::number_of_code(dtype, byte, device::scale_of(call.side, head_of_slot), 0.0f);
  const int32_t bits = device::bits_of(dtype);
  const uint32_t code = byte >> place.shift & ((1u << bits) - 1);
  const TileLayout tile = device::code_tile(call.side.keys, view.channels, dtype);
  const int32_t block = position / kBlockChannels, group = block < tile.groups ? block : tile.groups - 1;
  const int32_t at = call.side.keys ? position : group * kTileTokens + token;
  return device::number_of_code(dtype, code, device::load_half(address + tile.scale, at), device::load_half(address + tile.zero, at));
}

// What the basis predicts for a dropped channel in all rows of the block, from what they keep.
THINK_DEVICE void predict(float (&x)[kRows], const Call &call, Shared<Float4> kept, int64_t head_of_slot, int32_t width, int32_t position) {
  const int64_t block = load_constant(call.weight_offset + head_of_slot);
  if (block < 0) return;
  const int32_t chunks = (width + 7) / 8;
  const Words4 *weight = reinterpret_cast<const Words4 *>(static_cast<const char *>(call.weight) + block) + static_cast<int64_t>(position - width) * chunks;
  for (int32_t chunk = 0; chunk < chunks; ++chunk) {
    const Words4 four = load_constant(weight + chunk);
    const uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int32_t i = 0; i < 8; ++i) {
      const int32_t at = chunk * 8 + i;
      if (at >= width) break;
      const Float2 two = unpack<F16>(words[i / 2]);
      const float w = i % 2 ? two.y : two.x;
#pragma unroll
      for (int32_t plane = 0; plane < kPlanes; ++plane) {
        const Float4 y = load_shared(kept + (plane * kMaxChannels + at));
        x[4 * plane] += w * y.x, x[4 * plane + 1] += w * y.y, x[4 * plane + 2] += w * y.z, x[4 * plane + 3] += w * y.w;
      }
    }
  }
  const float offset = load_constant(call.offset + head_of_slot * call.side.channels + position);
#pragma unroll
  for (int32_t row = 0; row < kRows; ++row) x[row] += offset;
}

// grid (eights of rows, KV heads), a thread per channel
__global__ void __launch_bounds__(kMaxChannels) rebuild_rows(const __grid_constant__ Call call) {
  SharedCarver carver = shared_memory();
  const Shared<Float4> kept = take_kept(carver);
  const int32_t head = block_y(), position = thread_index(), begin = block_x() * kRows, channels = call.side.channels;
  const device::View view = device::view_of(call.side, call.run, call.kv_heads, 0, head);
  const int64_t head_of_slot = static_cast<int64_t>(view.slot) * call.kv_heads + head;
  const int32_t rows = call.count - begin < kRows ? call.count - begin : kRows;
  float x[kRows] = {};
  if (position < view.channels) {
#pragma unroll
    for (int32_t row = 0; row < kRows; ++row) {
      if (row < rows) x[row] = stored_number(call, view, head_of_slot, call.first + begin + row, position);
    }
#pragma unroll
    for (int32_t plane = 0; plane < kPlanes; ++plane) {
      store_shared(kept + (plane * kMaxChannels + position), Float4{x[4 * plane], x[4 * plane + 1], x[4 * plane + 2], x[4 * plane + 3]});
    }
  }
  sync_block();
  if (position >= channels) return;
  if (position >= view.channels) predict(x, call, kept, head_of_slot, view.channels, position);
  const int32_t channel = call.side.index ? load_constant(call.side.index + head_of_slot * channels + position) : position;
  const int32_t bytes = device::bits_of(call.tensor.dtype) / 8;
#pragma unroll
  for (int32_t row = 0; row < kRows; ++row) {
    if (row < rows) device::store_number(const_cast<char *>(device::element(call.tensor, 0, head, begin + row, bytes)), call.tensor.dtype, channel, x[row]);
  }
}

}  // namespace

int32_t load() { return prepare(rebuild_rows, shared_bytes()); }

int32_t rebuild(const Arguments &arguments, void *stream) {
  const bool keys = arguments.side == THINK_KEYS;
  const think_segment &segment = arguments.segment;
  const think_basis *basis = keys ? segment.key_basis : segment.value_basis;
  Call call;
  call.side = device::side_of(segment, arguments.shape, keys ? Side::keys : Side::values);
  call.run = device::run_of(segment, arguments.batch, 0);
  call.weight = basis ? basis->weight : nullptr;
  call.weight_offset = basis ? basis->weight_offset : nullptr;
  call.offset = basis ? basis->offset : nullptr;
  call.tensor = arguments.tensor;
  call.kv_heads = arguments.shape.kv_heads;
  call.first = static_cast<int32_t>(arguments.first);
  call.count = static_cast<int32_t>(arguments.count);
  const Launch how{.name = "rebuild_rows",
                   .grid = {(call.count + kRows - 1) / kRows, call.kv_heads, 1},
                   .threads = (call.side.channels + 31) / 32 * 32,
                   .shared_bytes = shared_bytes(),
                   .stream = stream};
  return launch(how, rebuild_rows, call);
}

}  // namespace think::rebuild::cuda
