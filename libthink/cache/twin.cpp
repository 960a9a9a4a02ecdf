#include "libthink/cache/twin.h"

#include "kernels/fit/fit.h"
#include "kernels/score/score.h"
#include "libthink/core/layout.h"

namespace think::cache {
namespace {

// Both ways: `to` and `from` are caches of the same kind, one of them on the device.
struct Transfer {
  Device &device;
  const think_cache &from, &to;
  const Sequence &source, &destination;
};

void move_pages(const Transfer &transfer, int32_t kind, const Array<int32_t> &from, const Array<int32_t> &to) {
  for (int32_t layer = 0; layer < transfer.from.layers; ++layer) {
    const Slab &source = transfer.from.pools[kind].slabs[layer], &destination = transfer.to.pools[kind].slabs[layer];
    for (int32_t page = 0; page < from.size; ++page) {
      copy(transfer.device, destination.pages + to[page] * destination.page_stride, source.pages + from[page] * source.page_stride, source.page_bytes);
    }
  }
}

void move_basis(const Transfer &transfer, int32_t side, const think_basis &from, int32_t from_slot, const think_basis &to, int32_t to_slot) {
  const BasisLayout layout = basis_layout(transfer.from.plan->shape, side, from.weight != nullptr);
  const auto array = [&](const void *source, void *destination, int64_t bytes) {
    if (bytes == 0) return;
    copy(transfer.device, static_cast<char *>(destination) + to_slot * bytes, static_cast<const char *>(source) + from_slot * bytes, bytes);
  };
  array(from.weight, to.weight, layout.weight);
  array(from.weight_offset, to.weight_offset, layout.weight_offset);
  array(from.index, to.index, layout.index);
  array(from.offset, to.offset, layout.offset);
  array(from.kept, to.kept, layout.kept);
}

void move_bases(const Transfer &transfer, const Run &from, const Run &to) {
  const int64_t heads = transfer.from.plan->shape.kv_heads;
  for (int32_t layer = 0; has_slots(transfer.from, from.kind) && layer < transfer.from.layers; ++layer) {
    const Slab &source = bases_of(transfer.from, from.kind).slabs[layer], &destination = bases_of(transfer.to, to.kind).slabs[layer];
    const auto of_heads = [&]<class T>(const T *numbers, T *place) {
      if (numbers && place) copy(transfer.device, place + to.slot * heads, numbers + from.slot * heads, heads * static_cast<int64_t>(sizeof(T)));
    };
    if (from.kind & kKeyBasis) {
      move_basis(transfer, THINK_KEYS, source.key_basis, from.slot, destination.key_basis, to.slot);
      of_heads(source.key_head_offset, destination.key_head_offset);
    }
    if (from.kind & kValueBasis) {
      move_basis(transfer, THINK_VALUES, source.value_basis, from.slot, destination.value_basis, to.slot);
      of_heads(source.value_head_offset, destination.value_head_offset);
    }
    of_heads(source.key_scale, destination.key_scale);
    of_heads(source.value_scale, destination.value_scale);
  }
}

void move_all(const Transfer &transfer) {
  move_pages(transfer, kDense, transfer.source.pages, transfer.destination.pages);
  for (int32_t run = 0; run < transfer.source.run_count; ++run) {
    const Run &from = transfer.source.runs[run], &to = transfer.destination.runs[run];
    move_pages(transfer, from.kind, from.pages, to.pages);
    move_bases(transfer, from, to);
  }
  if (transfer.source.score && transfer.destination.score) {
    copy(transfer.device, transfer.destination.score, transfer.source.score, score::state_bytes(transfer.from.plan->shape) * transfer.from.layers);
  }
  run(transfer.device, [&](const cuda::Backend &backend) { return backend.synchronize(transfer.device.stream); });
}

// Weights are found by their distance from the first slot's, so they move with the slot. In the twin, whose memory this is.
void shift_weights(const think_cache &twin, const Run &run, int64_t slots) {
  const Shape &shape = twin.plan->shape;
  const auto shift = [&](const think_basis &basis) {
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      int64_t &offset = basis.weight_offset[int64_t{run.slot} * shape.kv_heads + head];
      if (offset >= 0) offset += slots * shape.kv_heads * fit::weight_head_bytes(basis.channels);
    }
  };
  for (int32_t layer = 0; has_slots(twin, run.kind) && layer < twin.layers; ++layer) {
    const Slab &slab = bases_of(twin, run.kind).slabs[layer];
    if (run.kind & kKeyBasis) shift(slab.key_basis);
    if (run.kind & kValueBasis) shift(slab.value_basis);
  }
}

}  // namespace

Holder make_twin(const think_cache &cache) {
  Options options{};
  options.layers = cache.layers;
  options.sequences = 1;
  options.flags = cache.flags;
  options.prune = cache.prune;
  options.layer_formats = cache.formats.data;
  return Holder(make(*cache.plan, options));
}

bool download(const think_cache &cache, int32_t number, think_cache &twin) {
  const Sequence &source = cache.sequences[number];
  Sequence &destination = twin.sequences[0];
  if (!imitate(twin, 0, source, source.score != nullptr)) return false;
  move_all({*cache.device, cache, twin, source, destination});
  for (int32_t run = 0; run < source.run_count; ++run) shift_weights(twin, destination.runs[run], int64_t{destination.runs[run].slot} - source.runs[run].slot);
  return true;
}

bool upload(think_cache &cache, int32_t number, const think_cache &twin) {
  const Sequence &source = twin.sequences[0];
  Sequence &destination = cache.sequences[number];
  if (!imitate(cache, number, source, source.score != nullptr)) return false;
  for (int32_t run = 0; run < source.run_count; ++run) shift_weights(twin, source.runs[run], int64_t{destination.runs[run].slot} - source.runs[run].slot);
  move_all({*cache.device, twin, cache, source, destination});
  return true;
}

}  // namespace think::cache
