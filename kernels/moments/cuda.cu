// The moments stage on a CUDA device. Everything is a product of two tiles in shared memory, summed in f32 (no TF32): rows times queries for the logits, on
// tensor cores where both are of one 16-bit type, which makes products exact; channels times channels for the second moments, by FMA. Rows of keys are read
// three times (largest logits, masses, covariance), rows of values twice; each time once for all columns. What passes between launches is added in the order
// of tiles and splits, so the bits depend neither on the order in which blocks run nor on the rest of the batch.
#define THINK_OPAQUE_LANES
#include "cuda.h"

#include <algorithm>

#include "cuda_covariance.cuh"
#include "cuda_mass.cuh"

namespace think::moments::cuda {
namespace {

StateLayout layout_of(const Shape &shape, void *moments) {
  const View view = moments::view(shape, moments, 0, 0), next = moments::view(shape, moments, 0, 1);
  const auto at = [&](const float *part) { return static_cast<int32_t>(part - view.key_mean); };
  return {static_cast<char *>(moments), state_bytes(shape),          next.key_mean - view.key_mean, at(view.key_covariance),
          at(view.query_moment),        at(view.value_mean), at(view.value_covariance),     at(view.rows)};
}

// What the mass needs of a wave, and the most that the lengths can be.
void carve_columns(Carver &carver, const Shape &shape, int64_t heads, int64_t longest, MomentsCall &call) {
  const int64_t rows = shape.window < longest ? shape.window : longest;
  call.tiles = call.moved_tiles = static_cast<int32_t>((longest + kTile - 1) / kTile);
  call.columns = static_cast<int32_t>(rows * shape.group);
  call.partial_columns = take<Float2>(carver, heads * call.tiles * call.columns);
  call.all_columns = take<Float2>(carver, heads * call.columns);
}

int64_t heads_of_wave(const Shape &shape, int32_t batch) { return static_cast<int64_t>(device_wave(shape, batch)) * shape.kv_heads; }

int64_t carve(Carver &carver, const Shape &shape, int32_t batch, int64_t longest, MomentsCall &call) {
  const int64_t heads = heads_of_wave(shape, batch), both = shape.key_channels + shape.value_channels;
  carve_columns(carver, shape, heads, longest, call);
  call.splits = static_cast<int32_t>((longest + kSplitRows - 1) / kSplitRows);
  call.splits = call.splits < kSplits ? call.splits : kSplits;
  call.mass = take<float>(carver, heads * call.moved_tiles * kTile);
  call.tile_mass = take<double>(carver, heads * call.moved_tiles);
  call.sums = take<float>(carver, heads * call.moved_tiles * 2 * both);
  call.weights = take<double>(carver, heads * 2);
  call.partial = take<float>(
      carver, heads * call.splits * (int64_t{shape.key_channels} * shape.key_channels + int64_t{shape.value_channels} * shape.value_channels));
  return carver.offset;
}

// Rows and queries; what is wanted of them is the caller's to say.
MomentsCall call_of(const Shape &shape, const think_tensor &query, const think_segment &source, const Batch &batch, int64_t longest) {
  MomentsCall call{};
  call.key = device::side_of(source, shape, think::Side::keys);
  call.run = device::run_of(source, batch, longest);
  call.query = query;
  call.query_bytes = dtype_bytes(query.dtype);
  call.kv_heads = shape.kv_heads;
  call.group = shape.group;
  call.key_channels = shape.key_channels;
  call.scale = shape.scale;
  call.softcap = shape.softcap;
  call.causal = (source.flags & THINK_SEGMENT_CAUSAL) != 0;
  return call;
}

using Kernel = void (*)(MomentsCall);

struct Step {
  const char *name;
  Kernel kernel;
  int32_t blocks = 0;
  uint32_t shared_bytes = 0;
  int32_t threads = kThreads;
};

template <size_t Steps>
int32_t launch_all(const Step (&steps)[Steps], const MomentsCall &call, int32_t sequences, void *stream) {
  for (const Step &step : steps) {
    const Launch how{.name = step.name,
                     .grid = {step.blocks, call.kv_heads, sequences},
                     .threads = step.threads,
                     .shared_bytes = step.shared_bytes,
                     .stream = stream};
    if (const int32_t error = launch(how, step.kernel, call)) return error;
  }
  return 0;
}

// A step of logits with so many tiles of rows. Products on tensor cores take both sides as one type; values lie in shared memory as the keys do.
Step logit_step(const MomentsCall &call, int32_t tiles, const Step &by_fma, const Step &f16, const Step &bf16) {
  const think_dtype dtype = call.key.dtype;
  const int32_t widest = widest_of(call);
  const bool matrices = dtype != THINK_F32 && call.query.dtype == dtype && (!call.values || call.value.dtype == dtype);
  Step step = !matrices ? by_fma : dtype == THINK_F16 ? f16 : bf16;
  const int32_t each = matrices ? block_tiles(widest) : 1;
  step.blocks = (tiles + each - 1) / each;
  step.shared_bytes = matrices ? matrices_bytes(call.key_channels, widest) : tiles_bytes(widest);
  if (matrices) step.threads = each * kTileThreads;
  return step;
}

Step scan_step(const MomentsCall &call, int32_t tiles) {
  return logit_step(call, tiles, {"moments_scan", moments_scan}, {"moments_scan_mma", moments_scan_mma<F16>},
                    {"moments_scan_mma", moments_scan_mma<BF16>});
}

Step mass_step(const MomentsCall &call, int32_t tiles) {
  return logit_step(call, tiles, {"moments_mass", moments_mass}, {"moments_mass_mma", moments_mass_mma<F16>},
                    {"moments_mass_mma", moments_mass_mma<BF16>});
}

}  // namespace

int32_t load() {
  for (const Kernel kernel : {moments_scan, moments_mass}) {
    if (const int32_t error = prepare(kernel, tiles_bytes(kMaxChannels))) return error;
  }
  const uint32_t matrices = std::max(matrices_bytes(kMaxChannels, kMaxChannels), matrices_bytes(kMaxChannels / 2, kMaxChannels / 2));
  for (const Kernel kernel : {moments_scan_mma<F16>, moments_scan_mma<BF16>, moments_mass_mma<F16>, moments_mass_mma<BF16>}) {
    if (const int32_t error = prepare(kernel, matrices)) return error;
  }
  if (const int32_t error = prepare(moments_join, kJoinBytes)) return error;
  if (const int32_t error = prepare(moments_mean, kMeanBytes)) return error;
  if (const int32_t error = prepare(moments_queries, product_bytes())) return error;
  if (const int32_t error = prepare(moments_covariance, product_bytes())) return error;
  if (const int32_t error = prepare(moments_finish, kMaxChannels * sizeof(int32_t))) return error;
  return load_gains();
}

int64_t workspace(const Shape &shape, int32_t batch, int64_t longest) {
  Carver carver{nullptr, 0};
  MomentsCall call;
  return carve(carver, shape, batch, longest, call);
}

int32_t measure(const Arguments &arguments, const int32_t *query_slot, int64_t longest, void *workspace, void *stream) {
  const Shape &shape = arguments.shape;
  MomentsCall call = call_of(shape, arguments.window_query, arguments.source, arguments.batch, longest);
  call.value = device::side_of(arguments.source, shape, think::Side::values);
  call.query_slot = query_slot;
  call.slot = arguments.batch.slot;
  call.state = layout_of(shape, arguments.moments);
  call.value_channels = shape.value_channels;
  call.share = arguments.attention_share;
  call.sinks = arguments.sinks;
  call.recent = arguments.recent;
  call.values = arguments.source.value != nullptr;
  Carver carver{static_cast<char *>(workspace), 0};
  carve(carver, shape, arguments.batch.count, longest, call);

  const int32_t wave = device_wave(shape, arguments.batch.count);
  const int32_t pairs = pairs_of(shape.key_channels) + (call.values ? pairs_of(shape.value_channels) : 0);
  const int32_t rows = (shape.key_channels + shape.value_channels) / kFinishRows;
  const bool attends = call.share > 0;
  const Step steps[] = {{"moments_queries", moments_queries, pairs_of(shape.key_channels), product_bytes()},
                        scan_step(call, attends ? call.tiles : 0),
                        {"moments_join", moments_join, attends ? (call.columns + 31) / 32 : 0, kJoinBytes, kJoinThreads},
                        mass_step(call, call.moved_tiles),
                        {"moments_mean", moments_mean, 2, kMeanBytes, kMeanThreads},
                        {"moments_covariance", moments_covariance, pairs * call.splits, product_bytes()},
                        {"moments_finish", moments_finish, rows, kMaxChannels * sizeof(int32_t)}};
  for (call.first_sequence = 0; call.first_sequence < arguments.batch.count; call.first_sequence += wave) {
    const int32_t left = arguments.batch.count - call.first_sequence;
    if (const int32_t error = launch_all(steps, call, left < wave ? left : wave, stream)) return error;
  }
  return 0;
}

int64_t mass_stride(int64_t longest) { return (longest + kTile - 1) / kTile * kTile; }

int64_t mass_workspace(const Shape &shape, int32_t batch, int64_t longest) {
  Carver carver{nullptr, 0};
  MomentsCall call;
  carve_columns(carver, shape, heads_of_wave(shape, batch), longest, call);
  return carver.offset;
}

int32_t attention_mass(const MassArguments &arguments, int32_t first, int32_t count, float *mass, int64_t longest, void *workspace, void *stream) {
  MomentsCall call = call_of(arguments.shape, arguments.window_query, arguments.source, arguments.batch, longest);
  call.query_slot = arguments.batch.slot;
  call.share = 1;
  call.mass_only = true;
  call.mass = mass;
  call.first_sequence = first;
  Carver carver{static_cast<char *>(workspace), 0};
  carve_columns(carver, arguments.shape, int64_t{count} * arguments.shape.kv_heads, longest, call);
  const Step steps[] = {scan_step(call, call.tiles),
                        {"moments_join", moments_join, (call.columns + 31) / 32, kJoinBytes, kJoinThreads},
                        mass_step(call, call.moved_tiles)};
  return launch_all(steps, call, count, stream);
}

}  // namespace think::moments::cuda
