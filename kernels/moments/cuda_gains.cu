// Gains on a CUDA device: one elimination per head, in f64, by one block. The matrix lies in registers, but for values of more than 128 channels: their
// kernel stands here. There a thread has one channel and a share of the rows that are left; rows that were taken leave the list, so the work is D^3 / 2.
// The matrix lies in global memory and stays in the caches; a step is a walk over it.
#define THINK_OPAQUE_LANES
#include "cuda_gains_registers.cuh"

namespace think::moments::cuda {
namespace {

constexpr int32_t kThreads = 1024;
constexpr int32_t kAhead = 4;   // rows whose numbers a thread asks for at once
constexpr int32_t kBlocks = 1;  // of a multiprocessor, at least
static_assert(kThreads >= kMaxChannels);

struct Elimination {
  Shared<double> column;   // of the channel that is taken
  Shared<double> part;     // [threads] sums of the shares
  Shared<double> first;    // variances at the start
  Shared<double> squares;  // of each column of what is left
  Shared<double> worth;    // what each channel would gain
  Shared<int32_t> rows;    // that are left, ascending
};

THINK_HOST_DEVICE Elimination take_elimination(SharedCarver &carver) {
  Elimination work;
  work.column = carver.take<double>(kMaxChannels);
  work.part = carver.take<double>(kThreads);
  work.first = carver.take<double>(kMaxChannels);
  work.squares = carver.take<double>(kMaxChannels);
  work.worth = carver.take<double>(kMaxChannels);
  work.rows = carver.take<int32_t>(kMaxChannels);
  return work;
}

uint32_t elimination_bytes() {
  SharedCarver carver;
  take_elimination(carver);
  return carver.bytes();
}

__global__ void __launch_bounds__(kThreads, kBlocks) moments_gains_wide(const __grid_constant__ GainsCall call) {
  const GainsHead head = gains_head(call);
  const int32_t channels = call.channels, thread = thread_index();
  SharedCarver carver = shared_memory();
  const Elimination work = take_elimination(carver);
  double *left = call.left + (static_cast<int64_t>(block_x()) * call.kv_heads + block_y()) * channels * channels;
  // The thread's channel, and its share of the rows.
  const int32_t shares = kThreads / channels, share = thread / channels, own = thread - share * channels;
  const bool works = share < shares;
  const auto join = [&] {  // the shares' sums, in their order; behind a barrier
    if (thread >= channels) return;
    double sum = 0;
    for (int32_t i = 0; i < shares; ++i) sum += load_shared(work.part + (i * channels + thread));
    store_shared(work.squares + thread, sum);
  };

  double squares = 0;
  for (int32_t row = share; works && row < channels; row += shares) {
    const double x = load_constant(head.covariance + row * channels + own);
    store_global(left + row * channels + own, x);
    squares += x * x;
    if (row == own) store_shared(work.first + own, x);
  }
  store_shared(work.part + thread, squares);
  if (thread < channels) store_shared(work.rows + thread, thread);
  sync_block();
  join();
  bool taken = thread >= channels;  // has its place in the order
  sync_block();

  int32_t count = channels;  // rows that are left
  for (int32_t step = 0; step < channels; ++step) {
    if (thread < channels) {
      const double variance = load_global(left + thread * (channels + 1)), sum = load_shared(work.squares + thread);
      const bool worthy = is_alive(variance, load_shared(work.first + thread)) && sum > 0;
      store_shared(work.worth + thread, taken ? -1 : worthy ? sum / variance : 0);
    }
    sync_block();
    const int32_t channel = choose(work.worth, channels).channel;
    if (thread < channels) store_shared(work.column + thread, load_global(left + channel * channels + thread));
    sync_block();
    const double pivot = load_shared(work.column + channel);
    if (thread == channel) taken = true;
    if (!is_alive(pivot, load_shared(work.first + channel))) {
      if (thread == 0) store_step(head, step, channel, 0);
      sync_block();  // the column has been read
      continue;
    }

    if (thread == 0) store_step(head, step, channel, load_shared(work.squares + channel) / pivot);

    // The row leaves the list, what it explains leaves the rest.
    const int32_t place = thread < count ? load_shared(work.rows + thread) : -1, next = thread + 1 < count ? load_shared(work.rows + thread + 1) : -1;
    sync_block();
    --count;
    if (place >= channel && thread < count) store_shared(work.rows + thread, next);
    sync_block();
    const double factor = works ? load_shared(work.column + own) / pivot : 0;
    squares = 0;
#pragma unroll 1
    for (int32_t begin = share; works && begin < count; begin += shares * kAhead) {
      const int32_t left_over = (count - begin + shares - 1) / shares, rows = left_over < kAhead ? left_over : kAhead;
      int32_t row[kAhead];
      double x[kAhead] = {};
#pragma unroll
      for (int32_t j = 0; j < kAhead; ++j) {
        row[j] = load_shared(work.rows + (j < rows ? begin + j * shares : begin));
        if (j < rows) x[j] = load_global(left + (row[j] * channels + own));
      }
#pragma unroll
      for (int32_t j = 0; j < kAhead; ++j) {
        if (j < rows) {
          const double rest = own == channel ? 0 : x[j] - load_shared(work.column + row[j]) * factor;
          store_global(left + (row[j] * channels + own), rest);
          squares += rest * rest;
        }
      }
    }
    store_shared(work.part + thread, squares);
    sync_block();
    join();
    sync_block();
  }
}

}  // namespace

int32_t load_gains() {
  if (const int32_t error = prepare(moments_gains<true, 8, 4>, registers_bytes())) return error;
  if (const int32_t error = prepare(moments_gains<true, 4, 8>, registers_bytes())) return error;
  if (const int32_t error = prepare(moments_gains<false, 8, 4>, registers_bytes())) return error;
  return prepare(moments_gains_wide, elimination_bytes());
}

int64_t gains_workspace(const Shape &shape, int32_t batch) {
  Carver carver{nullptr, 0};
  const int64_t channels = shape.key_channels > shape.value_channels ? shape.key_channels : shape.value_channels;
  if (channels > kRegisterChannels) take<double>(carver, int64_t{device_wave(shape, batch)} * shape.kv_heads * channels * channels);
  return carver.offset;
}

int32_t gains(const Shape &shape, const void *moments, const Batch &batch, int32_t side, const float *score, float *gains, int32_t *order, void *workspace,
              void *stream) {
  const bool keys = side == THINK_KEYS;
  const View view = moments::view(shape, const_cast<void *>(moments), 0, 0), next = moments::view(shape, const_cast<void *>(moments), 0, 1);
  GainsCall call;
  call.moments = static_cast<const char *>(moments);
  call.slot_bytes = state_bytes(shape);
  call.head_floats = next.key_mean - view.key_mean;
  call.covariance = static_cast<int32_t>((keys ? view.key_covariance : view.value_covariance) - view.key_mean);
  call.metric = keys ? static_cast<int32_t>(view.query_moment - view.key_mean) : -1;
  call.slot = batch.slot;
  call.score = score;
  call.gains = gains;
  call.order = order;
  call.left = static_cast<double *>(workspace);
  call.kv_heads = shape.kv_heads;
  call.channels = keys ? shape.key_channels : shape.value_channels;
  const bool fits = call.channels <= kRegisterChannels;
  const int32_t wave = fits ? batch.count : device_wave(shape, batch.count);
  struct {
    decltype(&moments_gains_wide) kernel;
    const char *name;
    int32_t threads;
    uint32_t shared_bytes;
  } chosen = {moments_gains_wide, "moments_gains_wide", kThreads, elimination_bytes()};
  if (fits) {  // eight rows of each warp
    chosen = {keys ? moments_gains<true, 8, 4> : moments_gains<false, 8, 4>, "moments_gains", call.channels / 8 * 32, registers_bytes()};
  } else if (keys) {
    chosen = {moments_gains<true, 4, 8>, "moments_gains", kRegisterThreads, registers_bytes()};
  }
  for (call.first_sequence = 0; call.first_sequence < batch.count; call.first_sequence += wave) {
    const int32_t left = batch.count - call.first_sequence;
    const Launch how{.name = chosen.name,
                     .grid = {left < wave ? left : wave, shape.kv_heads},
                     .threads = chosen.threads,
                     .shared_bytes = chosen.shared_bytes,
                     .stream = stream};
    if (const int32_t error = launch(how, chosen.kernel, call)) return error;
  }
  return 0;
}

}  // namespace think::moments::cuda
