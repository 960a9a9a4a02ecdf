// The attend stage on a CUDA device: host side, and merge. Two launches per call, see cuda_plan.cuh, cuda_decode.cuh and cuda_reduce.cuh.
#include "cuda.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cuda_reduce.cuh"

namespace think::attend::cuda {
namespace {

constexpr int32_t kMergeThreads = 128;
constexpr int32_t kMostMerged = 64;

struct MergeCall {
  const void *output[kMostMerged];
  const float *lse_of[kMostMerged];
  int64_t stride[kMostMerged][3];
  uint8_t narrow[kMostMerged];  // of the plan's output type, not f32
  think_tensor to;
  float *to_lse;
  think_dtype narrow_type;
  int32_t count;
};

// A block per row: one maximum, then the sum with the weights exp(lse - maximum).
__global__ void __launch_bounds__(kMergeThreads) attend_merge(const __grid_constant__ MergeCall m) {
  const int32_t token = block_x(), head = block_y(), sequence = block_z(), channels = static_cast<int32_t>(m.to.extent[3]);
  const int64_t place = (sequence * m.to.extent[1] + head) * m.to.extent[2] + token;
  float maximum = -INFINITY, mass = 0.0f;
  for (int32_t i = 0; i < m.count; ++i) maximum = fmaxf(maximum, load_global(m.lse_of[i] + place));
  const auto weight_of = [&](int32_t i) {
    const float lse = load_global(m.lse_of[i] + place);
    return lse == -INFINITY ? 0.0f : exp2_fast((lse - maximum) * kLog2E);
  };
  for (int32_t i = 0; i < m.count; ++i) mass += weight_of(i);
  sync_block();  // lse may be overwritten from here on: by thread 0, which is done with it below
  char *row = const_cast<char *>(device::element(m.to, sequence, head, token, bytes_of(m.to.dtype)));
  for (int32_t j = thread_index(); j < channels; j += kMergeThreads) {
    float sum = 0.0f;
    for (int32_t i = 0; i < m.count; ++i) {
      const float weight = weight_of(i);
      if (weight == 0.0f) continue;
      const int64_t at = sequence * m.stride[i][0] + head * m.stride[i][1] + token * m.stride[i][2] + j;
      float value;
      if (!m.narrow[i]) {
        value = load_global(static_cast<const float *>(m.output[i]) + at);
      } else if (m.narrow_type == THINK_F16) {
        value = to_float(load_global(static_cast<const F16 *>(m.output[i]) + at));
      } else {
        value = to_float(load_global(static_cast<const BF16 *>(m.output[i]) + at));
      }
      sum = fmaf(weight, value, sum);
    }
    device::store_number(row, m.to.dtype, j, mass == 0.0f ? 0.0f : sum / mass);
  }
  sync_block();
  if (thread_index() == 0 && m.to_lse) store_global(m.to_lse + place, mass == 0.0f ? maximum : maximum + log2_fast(mass) * kLn2);
}

// ---- shapes of launches

uint32_t decode_shared_bytes(int32_t key_channels, int32_t value_channels, int32_t ring_of_codes) {
  SharedCarver carver;
  take_block(carver, key_channels, value_channels, ring_of_codes);
  return carver.bytes();
}

int32_t kernel_of(const Shape &shape) { return class_of(shape.key_channels, shape.value_channels); }

template <class Body>
int32_t with_kernel(think_dtype dtype, int32_t kernel, bool codes, const Body &body) {
  const auto of_type = [&](auto type) {
    using T = decltype(type);
    if (codes) return body(codes_kernel(dtype, kernel), attend_prepare<T>);
    if (kernel == 256) return body(attend_decode<T, 256, false>, attend_prepare<T>);
    if (kernel == 128) return body(attend_decode<T, 128, false>, attend_prepare<T>);
    return body(attend_decode<T, 64, false>, attend_prepare<T>);
  };
  return dtype == THINK_F16 ? of_type(F16{}) : of_type(BF16{});
}

int64_t groups_of(const Shape &shape, int64_t queries) { return (queries * shape.group + kColumns - 1) / kColumns; }

// See cuda_plan.cuh. Places of all sequences as long as the longest, and where fewer rows are packed what those need at most.
int64_t places_of_longest(const Shape &shape, const Extent &extent) { return int64_t{extent.batch} * groups_of(shape, extent.queries); }
int64_t places_of(const Shape &shape, const Extent &extent) {
  const int64_t most = places_of_longest(shape, extent), packed = extent.rows * shape.group / kColumns + extent.batch;
  return extent.rows > 0 && packed < most ? packed : most;
}

struct Space {
  uint32_t *counters, *folded;
  int64_t *start;
  float *constant, *partial;
};

int64_t carve(const Shape &shape, const Extent &extent, void *memory, Space &space) {
  const int64_t units = shape.kv_heads * places_of(shape, extent);
  const int64_t counters = shape.batch_invariant ? units : int64_t{shape.attend_blocks} * 3;
  const int64_t places = shape.batch_invariant ? units * (kMaxItems + extent.segments) : int64_t{shape.attend_blocks} * 3 * extent.segments;
  Carver carver = {static_cast<char *>(memory), 0};
  space.counters = take<uint32_t>(carver, counters);
  space.start = take<int64_t>(carver, units + 2);
  space.constant = take<float>(carver, units * extent.segments * kColumns);
  space.folded = take<uint32_t>(carver, units * extent.segments * steps_of(shape.key_channels) * 64);
  space.partial = take<float>(carver, places * partial_floats(shape.value_channels));
  return carver.offset;
}

// Segments in the order in which units have them: those with one value basis and slot table next to each other. Tiles of codes have runs of their own.
int32_t order_runs(const Arguments &a, int32_t (&order)[THINK_MAX_SEGMENTS], int8_t (&run)[THINK_MAX_SEGMENTS]) {
  const auto same = [&](const think_segment &x, const think_segment &y) {
    if ((has_codes(x.key_dtype, x.value_dtype) || has_codes(y.key_dtype, y.value_dtype)) && (x.key_dtype != y.key_dtype || x.value_dtype != y.value_dtype)) {
      return false;
    }
    // Sums of F8 have one scale.
    if (x.value_dtype == THINK_F8_E4M3 && (x.value_scale != y.value_scale || (x.value_scale && x.slot != y.slot))) return false;
    if (!x.value_basis || !y.value_basis) return !x.value_basis && !y.value_basis;
    return x.value_basis->kept == y.value_basis->kept && x.value_basis->index == y.value_basis->index && x.value_basis->weight == y.value_basis->weight &&
           x.value_basis->offset == y.value_basis->offset && x.value_basis->weight_offset == y.value_basis->weight_offset && x.slot == y.slot;
  };
  int32_t placed = 0, runs = 0;
  bool taken[THINK_MAX_SEGMENTS] = {};
  for (int32_t i = 0; i < a.segment_count; ++i) {
    if (taken[i]) continue;
    for (int32_t j = i; j < a.segment_count; ++j) {
      if (taken[j] || !same(a.segments[i], a.segments[j])) continue;
      taken[j] = true;
      order[placed] = j;
      run[placed++] = static_cast<int8_t>(runs);
    }
    ++runs;
  }
  return runs;
}

KeyBasis key_basis_of(const think_segment &segment, const Batch &batch) {
  const think_basis *basis = segment.key_basis;
  const int64_t codes = device::is_codes(segment.key_dtype);
  if (!basis) return {nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, codes};
  return {basis->kept, basis->index, segment.slot ? segment.slot : batch.slot, basis->weight, basis->weight_offset, basis->offset, codes};
}

}  // namespace

int32_t load() {
  for (const think_dtype dtype : {THINK_F16, THINK_BF16}) {
    for (const int32_t kernel : {64, 128, 256}) {
      for (const bool codes : {false, true}) {
        const int32_t error = with_kernel(dtype, kernel, codes, [&](auto decode, auto fold) {
          if (const int32_t failed = prepare(decode, codes ? kMostShared : decode_shared_bytes(kernel, kernel, 0))) return failed;
          return prepare(fold, prepare_shared_bytes(kMaxChannels));
        });
        if (error) return error;
      }
    }
  }
  return prepare(attend_merge, 0);
}

int32_t resident(Shape &shape) {
  int32_t processors = 0, each = 0;
  if (const int32_t error = multiprocessors(&processors)) return error;
  if (const int32_t error = multiprocessor_shared_bytes(&shape.attend_shared)) return error;
  const int32_t kernel = kernel_of(shape);
  const uint32_t shared_bytes = decode_shared_bytes(shape.key_channels, shape.value_channels, 0);
  const int32_t error = with_kernel(shape.cache_dtype == THINK_F16 ? THINK_F16 : THINK_BF16, kernel, false,
                                    [&](auto decode, auto) { return resident_blocks(&each, decode, warps_of(kernel) * 32, shared_bytes); });
  shape.attend_each = std::max(each, 1);
  shape.attend_blocks = std::min(processors * shape.attend_each, kMostBlocks);
  return error;
}

int64_t workspace(const Shape &shape, const Extent &extent) {
  Space space;
  return carve(shape, extent, nullptr, space);
}

int32_t attend(const Arguments &a, const Extent &extent, const int32_t *query_slot, void *workspace, void *stream) {
  const Shape &shape = a.shape;
  Space space;
  carve(shape, extent, workspace, space);
  Geometry g = {};
  g.kv_heads = shape.kv_heads, g.group = shape.group;
  g.key_channels = shape.key_channels, g.value_channels = shape.value_channels;
  g.column_groups = static_cast<int32_t>(groups_of(shape, extent.queries));
  g.segments = a.segment_count;
  g.places = static_cast<int32_t>(places_of(shape, extent));
  g.packed_rows = g.places < places_of_longest(shape, extent) ? static_cast<int32_t>(a.query.extent[2]) : 0;
  g.units = shape.kv_heads * g.places;
  g.most_queries = extent.queries;
  g.invariant = shape.batch_invariant;
  const int32_t threads = warps_of(kernel_of(shape)) * 32, units_of_thread = (g.units + threads - 1) / threads;
  // Places on the line of a plan of its own are 32 bits wide: a wide kernel's shared memory has no room for more.
  const int64_t most_tiles = int64_t{g.segments} * tiles_of(static_cast<int32_t>(extent.tokens));
  const int64_t unit_weight = kUnitWeight + most_tiles * tile_weight(shape.key_channels, 16, shape.value_channels, 16);
  g.own_plan = g.units <= kOwnPlanUnits && units_of_thread * g.segments <= kOwnPlanLookups && g.units * unit_weight <= INT32_MAX;
  // The type of what is no code, which is one; f16 where there is none.
  think_dtype dtype = THINK_F16;
  Decode d = {};
  for (int32_t i = 0; i < a.segment_count; ++i) {
    const think_dtype key = a.segments[i].key_dtype, value = a.segments[i].value_dtype;
    for (const think_dtype own : {key, value}) {
      if (!device::is_codes(own)) dtype = own;
    }
    if (has_codes(key, value)) {
      d.code_words = std::max(d.code_words, key_stage(shape.key_channels, key) + value_stage(shape.value_channels, value));
    }
  }
  const bool codes = d.code_words > 0;
  // How q_eff is rounded must not depend on the rest of the batch either.
  const int64_t most_queries = shape.batch_invariant ? shape.max_queries : extent.queries;
  g.sparse = most_queries * shape.group * 2 <= kColumns;
  g.residue = g.sparse && dtype == THINK_BF16;
  d.least = g.sparse ? kLeastSparse : kLeastTiles;

  int32_t order[THINK_MAX_SEGMENTS];
  int8_t run[THINK_MAX_SEGMENTS];
  g.runs = order_runs(a, order, run);
  Prepare p = {};
  Output o = {};
  for (int32_t i = 0; i < a.segment_count; ++i) {
    const think_segment &segment = a.segments[order[i]];
    const KeyBasis basis = key_basis_of(segment, a.batch);
    int32_t which = 0;
    while (which < g.bases && std::memcmp(&p.basis[which], &basis, sizeof basis) != 0) ++which;
    if (which == g.bases) p.basis[g.bases++] = basis;
    DecodeSegment &to = d.segment[i];
    to.key = device::side_of(segment, shape, think::Side::keys);
    to.value = device::side_of(segment, shape, think::Side::values);
    to.run = device::run_of(segment, a.batch, extent.tokens);
    to.value_run = run[i];
    to.basis = static_cast<int8_t>(which);
    to.causal = (segment.flags & THINK_SEGMENT_CAUSAL) != 0;
    p.segment[i] = weighed(to);
    if (segment.value_basis) o.basis[run[i]] = {segment.value_basis->weight, segment.value_basis->weight_offset, segment.value_basis->offset};
  }
  p.geometry = d.geometry = g;
  p.query = a.query;
  p.query_slot = query_slot;
  p.batch = o.batch = a.batch;
  p.folded = space.folded, p.constant = space.constant, p.start = space.start, p.counters = space.counters;
  p.counter_count = g.invariant ? g.units : shape.attend_blocks * 3;
  d.folded = space.folded, d.constant = space.constant, d.start = space.start, d.counters = space.counters, d.partial = space.partial;
  // As many warps take tiles of codes as a multiprocessor has room for, in as many blocks as that is best with.
  const auto shared_bytes = [&] { return decode_shared_bytes(shape.key_channels, shape.value_channels, code_ring(d)); };
  int32_t blocks = shape.attend_each;
  for (int32_t each = shape.attend_each, best = 0; codes && each > 0; --each) {
    const uint32_t room = std::min(kMostShared, static_cast<uint32_t>(shape.attend_shared / each) - kReservedShared);
    const int32_t before = d.code_warps;
    d.code_warps = warps_of(kernel_of(shape));
    while (d.code_warps > 1 && shared_bytes() > room) --d.code_warps;
    if ((shared_bytes() > room && each > 1) || d.code_warps * each <= best) {
      d.code_warps = before;
    } else {
      best = d.code_warps * each, blocks = each;
    }
  }
  d.shared_bytes = static_cast<int32_t>(shared_bytes());
  o.tensor = a.output;
  o.sink_logit = a.sink_logit;
  o.lse = a.lse;
  o.scale = shape.scale, o.softcap = shape.softcap;
  return with_kernel(dtype, kernel_of(shape), codes, [&](auto decode, auto fold) {
    const Launch first = {.name = "attend_prepare",
                          .grid = {g.bases * g.places + 1, shape.kv_heads},
                          .threads = kPrepareThreads,
                          .shared_bytes = prepare_shared_bytes(shape.key_channels),
                          .stream = stream};
    if (const int32_t error = launch(first, fold, p)) return error;
    const Launch second = {.name = "attend_decode",
                           .grid = {shape.attend_blocks / shape.attend_each * blocks},
                           .threads = warps_of(kernel_of(shape)) * 32,
                           .shared_bytes = static_cast<uint32_t>(d.shared_bytes),
                           .stream = stream,
                           .overlap = true};
    return launch(second, decode, d, o);
  });
}

int32_t merge(const Merge &m, void *stream) {
  MergeCall call = {};
  for (int32_t i = 0; i < m.count; ++i) {
    call.output[i] = m.outputs[i].data;
    call.lse_of[i] = m.lses[i];
    for (int32_t axis = 0; axis < 3; ++axis) call.stride[i][axis] = m.outputs[i].stride[axis];
    call.narrow[i] = m.outputs[i].dtype != THINK_F32;
    if (call.narrow[i]) call.narrow_type = m.outputs[i].dtype;
  }
  call.to = m.output;
  call.to_lse = m.lse;
  call.count = m.count;
  const Launch how = {.name = "attend_merge",
                      .grid = {static_cast<int32_t>(m.output.extent[2]), static_cast<int32_t>(m.output.extent[1]), static_cast<int32_t>(m.output.extent[0])},
                      .threads = kMergeThreads,
                      .stream = stream};
  return launch(how, attend_merge, call);
}

}  // namespace think::attend::cuda
