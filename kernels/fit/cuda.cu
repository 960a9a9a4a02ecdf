// The fit stage on a CUDA device: a block per head factors the covariance of the kept channels with the dropped ones as right-hand sides, in f64. It is
// the Cholesky factorisation without its square roots (L D L^T), row by row on [kept | dropped], so a thread has one column and a share of the rows:
// kept and dropped together are never more than the channels. The matrix lies in global memory and stays in the caches.
#include "cuda.h"

#include "../common/device.cuh"
#include "../moments/moments.h"

namespace think::fit::cuda {
namespace {

using namespace ptx;

constexpr int32_t kThreads = 512;
constexpr int32_t kBlocks = 1;  // of a multiprocessor, at least
constexpr double kNegligible = 1e-12;  // share of the mean variance below which a channel has none
constexpr double kSingular = 1e-9;     // share of its variance that a channel must add to the others: moments are f32
constexpr float kLargestHalf = 65504.0f;
static_assert(kThreads >= kMaxChannels);

struct FitCall {
  const char *moments;
  int64_t slot_bytes, head_floats;
  int32_t mean, covariance;  // floats from the head's first
  const int32_t *moments_slot, *slot;
  const int32_t *kept, *index;
  F16 *weight;
  int64_t *weight_offset;
  float *offset;
  int64_t head_bytes;  // of weights
  double *matrix;      // [sequence of the wave][head][channels][channels]
  double ridge;
  int32_t kv_heads, channels;
  int32_t first_sequence;  // of this wave
};

struct Work {
  Shared<double> row;      // of the matrix: the pivot's
  Shared<double> pivot;    // of each row; before that, variances by channel
  Shared<double> diagonal; // variances by place in the index
  Shared<double> total;    // their mean
  Shared<int32_t> index;   // kept channels, then dropped ones
  Shared<int32_t> live;    // places of the kept channels that have a variance
  Shared<int32_t> column;  // of a kept place among those, or -1
  Shared<int32_t> count;   // of live ones
};

THINK_HOST_DEVICE Work take_work(SharedCarver &carver) {
  Work work;
  work.row = carver.take<double>(kMaxChannels);
  work.pivot = carver.take<double>(kMaxChannels);
  work.diagonal = carver.take<double>(kMaxChannels);
  work.total = carver.take<double>(1);
  work.index = carver.take<int32_t>(kMaxChannels);
  work.live = carver.take<int32_t>(kMaxChannels);
  work.column = carver.take<int32_t>(kMaxChannels);
  work.count = carver.take<int32_t>(1);
  return work;
}

uint32_t work_bytes() {
  SharedCarver carver;
  take_work(carver);
  return carver.bytes();
}

THINK_DEVICE bool is_finite(float x) { return (as_bits(x) & 0x7f800000u) != 0x7f800000u; }
THINK_DEVICE bool is_finite(double x) {
  const double gone = x - x;  // NaN for what is not finite
  return gone == 0;
}

// column[i * width] -= factor[i] * number for i in {first, first + step, ... last}; numbers are under way together.
THINK_DEVICE void subtract(Shared<double> factor, double number, double *column, int32_t width, int32_t first, int32_t last, int32_t step) {
  constexpr int32_t kAhead = 4;
#pragma unroll 1
  for (int32_t begin = first; begin <= last; begin += step * kAhead) {
    double x[kAhead] = {};
#pragma unroll
    for (int32_t j = 0; j < kAhead; ++j) {
      if (begin + j * step <= last) x[j] = load_global(column + (begin + j * step) * width);
    }
#pragma unroll
    for (int32_t j = 0; j < kAhead; ++j) {
      const int32_t i = begin + j * step;
      if (i <= last) store_global(column + i * width, x[j] - load_shared(factor + i) * number);
    }
  }
}

// The live rows in place: [row][live | dropped], upper triangle. False where a channel adds nothing to those before it.
THINK_DEVICE bool factor(const Work &work, double *matrix, int32_t rows, int32_t width, double ridge) {
  const int32_t thread = thread_index();
  for (int32_t row = 0; row < rows; ++row) {
    if (thread >= row && thread < width) store_shared(work.row + thread, load_global(matrix + row * width + thread));
    sync_block();
    const double pivot = load_shared(work.row + row);
    const double variance = load_shared(work.diagonal + load_shared(work.live + row)) + ridge;
    if (!(pivot > kSingular * variance)) return false;  // the same in all threads
    if (thread == row) store_shared(work.pivot + row, pivot);
    const int32_t columns = width - row - 1;
    if (columns > 0) {
      const int32_t shares = kThreads / columns, share = thread / columns, column = row + 1 + thread - share * columns;
      const double own = share < shares ? load_shared(work.row + column) / pivot : 0;
      const int32_t last = column < rows ? column : rows - 1;  // the triangle below is not needed
      if (share < shares) subtract(work.row, own, matrix + column, width, row + 1 + share, last, shares);
    }
    sync_block();
  }
  return true;
}

// Back substitution: the dropped columns become W^T. False where a number is not finite.
THINK_DEVICE bool substitute(const Work &work, double *matrix, int32_t rows, int32_t width) {
  const int32_t dropped = width - rows, shares = kThreads / dropped, share = thread_index() / dropped;
  const int32_t column = rows + thread_index() - share * dropped;
  bool finite = true;
  for (int32_t row = rows - 1; row >= 0; --row) {
    const double pivot = load_shared(work.pivot + row);
    // What the row's solution takes from the rows above it: their entries in column `row`.
    if (thread_index() < row) store_shared(work.row + thread_index(), load_global(matrix + thread_index() * width + row));
    const double solution = share < shares ? load_global(matrix + row * width + column) / pivot : 0;
    finite = finite && is_finite(solution);
    sync_block();
    if (share == 0 && share < shares) store_global(matrix + row * width + column, solution);
    if (share < shares) subtract(work.row, solution, matrix + column, width, share, row - 1, shares);
    sync_block();
  }
  return !sync_block_or(!finite);
}

__global__ void __launch_bounds__(kThreads, kBlocks) fit_head(const __grid_constant__ FitCall call) {
  const int32_t channels = call.channels, thread = thread_index();
  const int64_t number = static_cast<int64_t>(block_y()) * call.kv_heads + block_x();  // in the wave
  const int32_t sequence = call.first_sequence + block_y();
  const int64_t at = static_cast<int64_t>(device::slot_of(call.slot, sequence)) * call.kv_heads + block_x();
  const float *state =
      reinterpret_cast<const float *>(call.moments + device::slot_of(call.moments_slot, sequence) * call.slot_bytes) + block_x() * call.head_floats;
  const float *mean = state + call.mean, *covariance = state + call.covariance;
  const int32_t kept = device::clamp(load_constant(call.kept + at), channels), dropped = channels - kept;
  // Damaged statistics (an infinite key, say) predict nothing: the paper's method is what is left.
  bool damaged = thread < channels && !is_finite(load_constant(mean + thread));
  for (int32_t i = thread; i < channels * channels; i += kThreads) damaged = damaged || !is_finite(load_constant(covariance + i));
  damaged = sync_block_or(damaged);
  if (thread == 0) store_global(call.weight_offset + at, damaged || dropped == 0 ? int64_t{-1} : at * call.head_bytes);
  if (damaged || dropped == 0) return;

  SharedCarver carver = shared_memory();
  const Work work = take_work(carver);
  if (thread < channels) {
    const int32_t channel = load_constant(call.index + at * channels + thread);
    store_shared(work.index + thread, channel);
    store_shared(work.diagonal + thread, static_cast<double>(load_constant(covariance + channel * (channels + 1))));
  }
  if (thread < channels) store_shared(work.pivot + thread, static_cast<double>(load_constant(covariance + thread * (channels + 1))));
  sync_block();
  if (thread == 0) {
    double total = 0;
    for (int32_t i = 0; i < channels; ++i) total += load_shared(work.pivot + i);
    total /= channels;
    int32_t count = 0;
    for (int32_t i = 0; i < kept; ++i) {
      const bool alive = load_shared(work.diagonal + i) > kNegligible * total;
      store_shared(work.column + i, alive ? count : -1);
      if (alive) store_shared(work.live + count++, i);
    }
    store_shared(work.count, count);
    store_shared(work.total, total);
  }
  sync_block();
  const int32_t rows = load_shared(work.count), width = rows + dropped;
  const double total = load_shared(work.total), ridge = call.ridge * total;
  double *matrix = call.matrix + number * channels * channels;
  for (int32_t i = thread; i < rows * width; i += kThreads) {
    const int32_t row = i / width, column = i - row * width;
    const int32_t place = column < rows ? load_shared(work.live + column) : kept + column - rows;
    const int32_t from = load_shared(work.index + load_shared(work.live + row)), to = load_shared(work.index + place);
    const double x = load_constant(covariance + from * channels + to);
    store_global(matrix + i, row == column ? x + ridge : x);
  }
  sync_block();
  const bool solved = rows > 0 && factor(work, matrix, rows, width, ridge) && substitute(work, matrix, rows, width);

  // W [dropped][kept rounded up to 8] as stored, and the offsets that go with the stored, rounded W: the prediction is exact at the mean.
  const int32_t stride = (kept + 7) / 8 * 8;
  F16 *weight = call.weight + at * (call.head_bytes / static_cast<int64_t>(sizeof(F16)));
  const auto alive = [&](int32_t p) { return load_shared(work.diagonal + kept + p) > kNegligible * total; };
  for (int32_t i = thread; i < dropped * stride; i += kThreads) {
    const int32_t p = i / stride, place = i - p * stride, row = place < kept ? load_shared(work.column + place) : -1;
    float w = 0;
    if (solved && row >= 0 && alive(p)) w = static_cast<float>(load_global(matrix + row * width + rows + p));
    store_global(weight + i, from_float<F16>(fminf(fmaxf(w, -kLargestHalf), kLargestHalf)));
  }
  sync_block();
  if (thread >= dropped) return;
  double constant = load_constant(mean + load_shared(work.index + kept + thread));
  if (solved && alive(thread)) {
    for (int32_t i = 0; i < rows; ++i) {
      const int32_t place = load_shared(work.live + i);
      const double w = to_float(load_global(weight + thread * stride + place));
      constant -= w * static_cast<double>(load_constant(mean + load_shared(work.index + place)));
    }
  }
  store_global(call.offset + at * channels + kept + thread, static_cast<float>(constant));
}

}  // namespace

int32_t load() { return prepare(fit_head, work_bytes()); }

int64_t workspace(const Shape &shape, int32_t batch) {
  Carver carver{nullptr, 0};
  const int64_t channels = shape.key_channels > shape.value_channels ? shape.key_channels : shape.value_channels;
  take<double>(carver, int64_t{device_wave(shape, batch)} * shape.kv_heads * channels * channels);
  return carver.offset;
}

int32_t fit(const Arguments &arguments, const int32_t *moments_slot, void *workspace, void *stream) {
  const Shape &shape = arguments.shape;
  const bool keys = arguments.side == THINK_KEYS;
  void *moments = const_cast<void *>(arguments.moments);
  const moments::View view = moments::view(shape, moments, 0, 0), next = moments::view(shape, moments, 0, 1);
  FitCall call;
  call.moments = static_cast<const char *>(arguments.moments);
  call.slot_bytes = moments::state_bytes(shape);
  call.head_floats = next.key_mean - view.key_mean;
  call.mean = static_cast<int32_t>((keys ? view.key_mean : view.value_mean) - view.key_mean);
  call.covariance = static_cast<int32_t>((keys ? view.key_covariance : view.value_covariance) - view.key_mean);
  call.moments_slot = moments_slot;
  call.slot = arguments.batch.slot;
  call.kept = arguments.basis.kept;
  call.index = arguments.basis.index;
  call.weight = static_cast<F16 *>(arguments.basis.weight);
  call.weight_offset = arguments.basis.weight_offset;
  call.offset = arguments.basis.offset;
  call.channels = keys ? shape.key_channels : shape.value_channels;
  call.head_bytes = weight_head_bytes(call.channels);
  call.matrix = static_cast<double *>(workspace);
  call.ridge = static_cast<double>(arguments.ridge);
  call.kv_heads = shape.kv_heads;
  const int32_t batch = arguments.batch.count, wave = device_wave(shape, batch);
  for (call.first_sequence = 0; call.first_sequence < batch; call.first_sequence += wave) {
    const int32_t left = batch - call.first_sequence;
    const Launch how{.name = "fit_head",
                     .grid = {shape.kv_heads, left < wave ? left : wave},
                     .threads = kThreads,
                     .shared_bytes = work_bytes(),
                     .stream = stream};
    if (const int32_t error = launch(how, fit_head, call)) return error;
  }
  return 0;
}

}  // namespace think::fit::cuda
