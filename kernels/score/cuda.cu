// The score stage on a CUDA device. Keys are streamed once: a block squares the rows of a slab and leaves one sum per channel, a second launch adds
// the slabs in their order. No atomics, so the same call gives the same bits whatever runs beside it.
#include "cuda.h"

#include "../common/device.cuh"

namespace think::score::cuda {
namespace {

using namespace ptx;

constexpr int32_t kThreads = 256;
constexpr int32_t kBlocks = 4;  // of a multiprocessor, at least: as many registers as that allows, or ptxas spills for the sake of more
constexpr int32_t kChunkBytes = 16;
// Rows of a slab: a unit of work, and what fixes the order of all sums. Its sums are a hundredth of the bytes that it reads.
constexpr int32_t kSlabRows = 256;
constexpr int32_t kAhead = 4;  // chunks that a thread asks for before it uses the first

THINK_HOST_DEVICE int32_t slabs_of(int64_t rows) { return static_cast<int32_t>((rows + kSlabRows - 1) / kSlabRows); }

template <class T>
constexpr int32_t kChunk = kChunkBytes / static_cast<int32_t>(sizeof(T));  // elements

// How a block divides rows of `channels` elements: a thread has one chunk of every `rows`-th row.
template <class T>
struct Cut {
  int32_t chunks, rows, row, chunk;
  bool works;

  THINK_DEVICE explicit Cut(int32_t channels) {
    chunks = channels / kChunk<T>;
    rows = kThreads / chunks;
    row = thread_index() / chunks;
    chunk = thread_index() - row * chunks;
    works = row < rows;
  }
};

template <class T>
THINK_DEVICE void add_squares(float (&sum)[kChunk<T>], const Words4 &chunk) {
  const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
  for (int32_t i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      const float x = as_float(words[i]);
      sum[i] = fmaf(x, x, sum[i]);
    } else {
      const Float2 x = unpack<T>(words[i]);
      sum[2 * i] = fmaf(x.x, x.x, sum[2 * i]);
      sum[2 * i + 1] = fmaf(x.y, x.y, sum[2 * i + 1]);
    }
  }
}

// Adds the squares of the chunks that this thread has of `count` rows, in their order. `row_at` says where a row lies: rows of a tensor are a stride
// apart, those of a segment wherever their page is, and the sums must not know the difference.
template <class T, class RowAt>
THINK_DEVICE void add_rows(float (&sum)[kChunk<T>], const Cut<T> &cut, int32_t count, const RowAt &row_at) {
  if (!cut.works) return;
  const int64_t offset = cut.chunk * kChunkBytes;
  int32_t row = cut.row;
  for (; row + (kAhead - 1) * cut.rows < count; row += kAhead * cut.rows) {
    Words4 chunk[kAhead];
#pragma unroll
    for (int32_t i = 0; i < kAhead; ++i) chunk[i] = load_stream(reinterpret_cast<const Words4 *>(row_at(row + i * cut.rows) + offset));
#pragma unroll
    for (int32_t i = 0; i < kAhead; ++i) add_squares<T>(sum, chunk[i]);
  }
  for (; row < count; row += cut.rows) add_squares<T>(sum, load_stream(reinterpret_cast<const Words4 *>(row_at(row) + offset)));
}

// ... `stride` bytes apart.
template <class T>
THINK_DEVICE void add_rows(float (&sum)[kChunk<T>], const Cut<T> &cut, const char *rows, int64_t stride, int32_t count) {
  add_rows<T>(sum, cut, count, [&](int32_t row) { return rows + row * stride; });
}

// The sums of a block's threads, in planes of four elements so that neither side meets a bank twice: thread by thread when they are written, place by
// place when they are added up. A place is a channel in the order (plane, chunk, element of the plane).
template <class T>
constexpr int32_t kPlanes = kChunk<T> / 4;

THINK_DEVICE int32_t plane_words(int32_t chunks) { return kThreads * 4 + chunks * 4 % 32; }

template <class T>
THINK_HOST_DEVICE Shared<float> take_planes(SharedCarver &carver) {
  return carver.take<float>(static_cast<uint32_t>(kPlanes<T>) * (kThreads * 4 + 32));
}

template <class T>
uint32_t shared_bytes() {
  SharedCarver carver;
  take_planes<T>(carver);
  return carver.bytes();
}

// Sum of a place over all threads that have it; for threads with place < channels.
template <class T>
THINK_DEVICE float add_up(Shared<float> planes, const Cut<T> &cut, const float (&sum)[kChunk<T>], int32_t channels) {
  const int32_t words = plane_words(cut.chunks);
  if (cut.works) {
#pragma unroll
    for (int32_t plane = 0; plane < kPlanes<T>; ++plane) {
      const Float4 four = {sum[4 * plane], sum[4 * plane + 1], sum[4 * plane + 2], sum[4 * plane + 3]};
      store_shared((planes + (plane * words + thread_index() * 4)).template as<Float4>(), four);
    }
  }
  sync_block();
  const int32_t place = thread_index(), width = cut.chunks * 4;
  if (place >= channels) return 0;
  const int32_t start = place < width ? place : words + place - width;
  float total = 0;
  for (int32_t row = 0; row < cut.rows; ++row) total += load_shared(planes + (start + row * width));
  return total;
}

template <class T>
THINK_DEVICE int32_t channel_of_place(int32_t place, int32_t channels) {
  if constexpr (kPlanes<T> == 1) return place;
  const int32_t width = channels / 2, plane = place < width ? 0 : 1, within = place - plane * width;
  return within / 4 * 8 + plane * 4 + within % 4;
}

// What kernels need of a state.
struct StateLayout {
  char *base;
  int64_t bytes, window, tokens;  // of a slot; where its parts lie
};

StateLayout layout_of(const Shape &shape, void *state) {
  const StateView view = state_view(shape, state, 0);
  char *base = static_cast<char *>(state);
  return {base, state_bytes(shape), static_cast<char *>(view.window) - base, reinterpret_cast<char *>(view.tokens) - base};
}

THINK_DEVICE char *state_of(const StateLayout &layout, const Batch &batch, int32_t sequence) {
  return layout.base + device::slot_of(batch.slot, sequence) * layout.bytes;
}

// ---- reset: grid (parts, sequences)

__global__ void __launch_bounds__(kThreads) score_reset(StateLayout layout, Batch batch) {
  Words4 *state = reinterpret_cast<Words4 *>(state_of(layout, batch, block_y()));
  const int32_t chunks = static_cast<int32_t>(layout.bytes / kChunkBytes);
  for (int32_t i = block_x() * kThreads + thread_index(); i < chunks; i += grid_x() * kThreads) store_global(state + i, Words4{0, 0, 0, 0});
}

// ---- update, first launch: grid (slabs, KV heads, sequences). Sums [sequence][head][slab][place]

// What the first launch of an update leaves to the second.
struct Slabs {
  float *partial;
  int32_t kv_heads, channels;
  int32_t count;   // of a head, at most
  int32_t planes;  // in which the first launch left its places
};

struct UpdateCall {
  think_tensor query, key;
  Batch batch;
  StateLayout state;
  Slabs slabs;
  int32_t window, longest;
  int32_t query_bytes;  // of an element
};

// A slab of `left` rows, or as many of them as a slab has.
template <class T, class RowAt>
THINK_DEVICE void sum_slab(const Slabs &slabs, int32_t left, const RowAt &row_at) {
  SharedCarver carver = shared_memory();
  const Shared<float> planes = take_planes<T>(carver);
  const Cut<T> cut(slabs.channels);
  float sum[kChunk<T>] = {};
  add_rows<T>(sum, cut, left < kSlabRows ? left : kSlabRows, row_at);
  const float total = add_up<T>(planes, cut, sum, slabs.channels);
  if (thread_index() >= slabs.channels) return;
  const int64_t slab = (static_cast<int64_t>(block_z()) * slabs.kv_heads + block_y()) * slabs.count + block_x();
  store_global(slabs.partial + slab * slabs.channels + thread_index(), total);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) score_slab(UpdateCall call) {
  if (device::slot_of(call.batch.slot, block_z()) < 0) return;
  const RowRange rows = device::rows_of(call.key, call.batch, block_z(), call.longest);
  const int32_t first = block_x() * kSlabRows, left = static_cast<int32_t>(rows.count) - first;
  if (left <= 0) return;
  const char *start = device::element(call.key, rows.row, block_y(), rows.first + first, sizeof(T));
  const int64_t stride = call.key.stride[2] * static_cast<int64_t>(sizeof(T));
  sum_slab<T>(call.slabs, left, [&](int32_t row) { return start + row * stride; });
}

// ---- update, second launch: grid (KV heads + query heads, sequences)

// Where the sum of this thread's place belongs, for threads below channels.
THINK_DEVICE float *square_sum_of_place(const Slabs &slabs, int32_t head, char *state) {
  const int32_t place = thread_index(), channels = slabs.channels;
  const int32_t channel = slabs.planes == 1 ? channel_of_place<float>(place, channels) : channel_of_place<F16>(place, channels);
  return reinterpret_cast<float *>(state) + static_cast<int64_t>(head) * channels + channel;
}

// Adds up the first `count` slabs of one KV head: every so many-th one by a part of the block, then the parts in their order. Threads below channels get
// the sum of their place.
THINK_DEVICE float add_slabs(const Slabs &slabs, int32_t head, int32_t sequence, int32_t count) {
  SharedCarver carver = shared_memory();
  const Shared<float> sums = carver.take<float>(kThreads);
  const int32_t channels = slabs.channels, parts = kThreads / channels, part = thread_index() / channels, place = thread_index() - part * channels;
  const float *partial = slabs.partial + (static_cast<int64_t>(sequence) * slabs.kv_heads + head) * slabs.count * channels + place;
  if (part < parts) {
    float sum = 0;
#pragma unroll 8
    for (int32_t slab = part; slab < count; slab += parts) sum += load_stream(partial + static_cast<int64_t>(slab) * channels);
    store_shared(sums + thread_index(), sum);
  }
  sync_block();
  if (thread_index() >= channels) return 0;
  float total = 0;
  for (int32_t i = 0; i < parts; ++i) total += load_shared(sums + (i * channels + place));
  return total;
}

// The last `window` rows of one query head: old rows move to the front, new ones come behind them. A block moves rows in ascending order and reads a
// batch of them before it writes any, so a row is read before its place is taken.
THINK_DEVICE void shift_window(const UpdateCall &call, int32_t head, const RowRange &rows, char *state) {
  const int32_t chunks = call.slabs.channels * call.query_bytes / kChunkBytes, batch = kThreads / chunks;
  const int32_t row_in_batch = thread_index() / chunks, chunk = thread_index() - row_in_batch * chunks;
  Words4 *window = reinterpret_cast<Words4 *>(state + call.state.window) + static_cast<int64_t>(head) * call.window * chunks;
  const int32_t fresh = rows.count < call.window ? static_cast<int32_t>(rows.count) : call.window, old = call.window - fresh;
  for (int32_t start = 0; start < call.window; start += batch) {
    const int32_t row = start + row_in_batch;
    const bool works = row_in_batch < batch && row < call.window;
    Words4 moved = {};
    if (works && row < old) moved = load_global(window + (row + fresh) * chunks + chunk);
    if (works && row >= old) {
      const int64_t token = rows.first + rows.count - call.window + row;
      moved = load_stream(reinterpret_cast<const Words4 *>(device::element(call.query, rows.row, head, token, call.query_bytes)) + chunk);
    }
    sync_block();
    if (works) store_global(window + row * chunks + chunk, moved);
  }
}

__global__ void __launch_bounds__(kThreads) score_complete(UpdateCall call) {
  const int32_t sequence = block_y();
  if (device::slot_of(call.batch.slot, sequence) < 0) return;
  const RowRange rows = device::rows_of(call.key, call.batch, sequence, call.longest);
  if (rows.count == 0) return;
  char *state = state_of(call.state, call.batch, sequence);
  if (block_x() >= call.slabs.kv_heads) {
    shift_window(call, block_x() - call.slabs.kv_heads, rows, state);
    return;
  }
  const float total = add_slabs(call.slabs, block_x(), sequence, slabs_of(static_cast<int32_t>(rows.count)));
  if (thread_index() < call.slabs.channels) {
    float *to = square_sum_of_place(call.slabs, block_x(), state);
    store_global(to, load_global(to) + total);
  }
  if (block_x() == 0 && thread_index() == 0) {
    int64_t *tokens = reinterpret_cast<int64_t *>(state + call.state.tokens);
    store_global(tokens, load_global(tokens) + rows.count);
  }
}

// ---- the squares of a segment once more, first launch: grid (slabs, KV heads, sequences)

struct AgainCall {
  device::Side side;
  device::Run run;
  Batch batch;
  StateLayout state;
  Slabs slabs;
};

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) score_slab_again(AgainCall call) {
  const int32_t sequence = block_z(), head = block_y();
  const int32_t offset = block_x() * kSlabRows, left = device::length_of(call.run, sequence, head) - offset;
  if (left <= 0) return;
  const device::View view = device::view_of(call.side, call.run, call.slabs.kv_heads, sequence, head);
  const int32_t first = device::first_of(call.run, sequence, head) + offset;
  sum_slab<T>(call.slabs, left, [&](int32_t row) { return device::row_address(view, first + row); });
}

// ---- second launch: grid (KV heads, sequences). A run without rows has the sum 0, so no block may leave early.

__global__ void __launch_bounds__(kThreads) score_complete_again(AgainCall call) {
  const int32_t head = block_x(), sequence = block_y();
  const float total = add_slabs(call.slabs, head, sequence, slabs_of(device::length_of(call.run, sequence, head)));
  if (thread_index() < call.slabs.channels) store_global(square_sum_of_place(call.slabs, head, state_of(call.state, call.batch, sequence)), total);
}

// ---- finish: grid (KV heads or query heads, sequences)

struct FinishCall {
  StateLayout state;
  Batch batch;
  float *score;
  int32_t channels;
  int32_t rows;              // of the window that a score sums: of the whole group, or of one query head
  int32_t scores_per_head;   // scores that share the sums of one KV head
};

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) score_finish(FinishCall call) {
  SharedCarver carver = shared_memory();
  const Shared<float> planes = take_planes<T>(carver);
  const char *state = state_of(call.state, call.batch, block_y());
  const int64_t row_bytes = call.channels * static_cast<int64_t>(sizeof(T));
  const Cut<T> cut(call.channels);
  float sum[kChunk<T>] = {};
  add_rows<T>(sum, cut, state + call.state.window + block_x() * call.rows * row_bytes, row_bytes, call.rows);
  const float total = add_up<T>(planes, cut, sum, call.channels);
  if (thread_index() >= call.channels) return;
  const int32_t channel = channel_of_place<T>(thread_index(), call.channels);
  const float *key_sum = reinterpret_cast<const float *>(state) + static_cast<int64_t>(block_x() / call.scores_per_head) * call.channels;
  const int64_t at = (static_cast<int64_t>(block_y()) * grid_x() + block_x()) * call.channels + channel;
  store_global(call.score + at, device::nan_to_infinity(total * load_constant(key_sum + channel)));
}

// ---- scores of values: grid (KV heads, sequences)

struct ValueCall {
  think_tensor attention;
  Batch batch;
  float *score;
  int32_t group, channels, longest;
};

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) score_values(ValueCall call) {
  SharedCarver carver = shared_memory();
  const Shared<float> planes = take_planes<T>(carver);
  const RowRange rows = device::rows_of(call.attention, call.batch, block_y(), call.longest);
  const Cut<T> cut(call.channels);
  float sum[kChunk<T>] = {};
  for (int32_t member = 0; member < call.group; ++member) {
    add_rows<T>(sum, cut, device::element(call.attention, rows.row, block_x() * call.group + member, rows.first, sizeof(T)),
                call.attention.stride[2] * static_cast<int64_t>(sizeof(T)), static_cast<int32_t>(rows.count));
  }
  const float total = add_up<T>(planes, cut, sum, call.channels);
  if (thread_index() >= call.channels) return;
  const int64_t at = (static_cast<int64_t>(block_y()) * grid_x() + block_x()) * call.channels + channel_of_place<T>(thread_index(), call.channels);
  store_global(call.score + at, device::nan_to_infinity(total));
}

// Calls `body` with an element of the type that `dtype` names.
template <class Body>
int32_t with_type(think_dtype dtype, const Body &body) {
  return dtype == THINK_F32 ? body(float{}) : dtype == THINK_F16 ? body(F16{}) : body(BF16{});
}

template <class T>
int32_t load_typed() {
  if (const int32_t error = prepare(score_slab<T>, shared_bytes<T>())) return error;
  if (const int32_t error = prepare(score_slab_again<T>, shared_bytes<T>())) return error;
  if (const int32_t error = prepare(score_finish<T>, shared_bytes<T>())) return error;
  return prepare(score_values<T>, shared_bytes<T>());
}

Slabs carve(const Shape &shape, int32_t batch, int64_t longest, think_dtype dtype, Carver &carver) {
  Slabs slabs;
  slabs.kv_heads = shape.kv_heads;
  slabs.channels = shape.key_channels;
  slabs.count = slabs_of(longest);
  slabs.planes = dtype == THINK_F32 ? kPlanes<float> : kPlanes<F16>;
  slabs.partial = take<float>(carver, static_cast<int64_t>(batch) * shape.kv_heads * slabs.count * shape.key_channels);
  return slabs;
}

// The first launch of an update, by either of the two kernels that leave sums of slabs.
template <class T, class Kernel, class Call>
int32_t launch_slabs(const char *name, Kernel kernel, const Call &call, void *stream) {
  const Launch how{.name = name,
                   .grid = {call.slabs.count, call.slabs.kv_heads, call.batch.count},
                   .threads = kThreads,
                   .shared_bytes = shared_bytes<T>(),
                   .stream = stream};
  return launch(how, kernel, call);
}

}  // namespace

int32_t load() {
  if (const int32_t error = load_typed<float>()) return error;
  if (const int32_t error = load_typed<F16>()) return error;
  if (const int32_t error = load_typed<BF16>()) return error;
  if (const int32_t error = prepare(score_reset, 0)) return error;
  if (const int32_t error = prepare(score_complete_again, kThreads * sizeof(float))) return error;
  return prepare(score_complete, kThreads * sizeof(float));
}

int64_t workspace(const Shape &shape, int32_t batch, int64_t tokens) {
  Carver carver{nullptr, 0};
  carve(shape, batch, tokens, THINK_F32, carver);
  return carver.offset;
}

int32_t reset(const Shape &shape, void *state, const Batch &batch, void *stream) {
  const StateLayout layout = layout_of(shape, state);
  const int64_t parts = (layout.bytes / kChunkBytes + 4 * kThreads - 1) / (4 * kThreads);
  return launch({.name = "score_reset", .grid = {static_cast<int32_t>(parts), batch.count}, .threads = kThreads, .stream = stream}, score_reset, layout, batch);
}

int32_t update(const Update &update, int64_t longest, void *workspace, void *stream) {
  const Shape &shape = update.shape;
  UpdateCall call;
  call.query = update.query;
  call.key = update.key;
  call.batch = update.batch;
  call.state = layout_of(shape, update.state);
  Carver carver{static_cast<char *>(workspace), 0};
  call.slabs = carve(shape, update.batch.count, longest, update.key.dtype, carver);
  call.window = shape.window;
  call.longest = static_cast<int32_t>(longest);
  call.query_bytes = dtype_bytes(update.query.dtype);
  const int32_t error = with_type(update.key.dtype, [&](auto type) {
    using T = decltype(type);
    return launch_slabs<T>("score_slab", score_slab<T>, call, stream);
  });
  if (error) return error;
  const Launch how{.name = "score_complete",
                   .grid = {longest > 0 ? shape.kv_heads + shape.query_heads : 0, update.batch.count},
                   .threads = kThreads,
                   .shared_bytes = kThreads * sizeof(float),
                   .stream = stream};
  return launch(how, score_complete, call);
}

int32_t sum_again(const Shape &shape, const think_segment &segment, const Batch &batch, void *state, int64_t longest, void *workspace, void *stream) {
  AgainCall call;
  call.side = device::side_of(segment, shape, think::Side::keys);
  call.run = device::run_of(segment, batch, longest);
  call.batch = batch;
  call.state = layout_of(shape, state);
  Carver carver{static_cast<char *>(workspace), 0};
  call.slabs = carve(shape, batch.count, longest, segment.key_dtype, carver);
  const int32_t error = with_type(segment.key_dtype, [&](auto type) {
    using T = decltype(type);
    return launch_slabs<T>("score_slab_again", score_slab_again<T>, call, stream);
  });
  if (error) return error;
  const Launch how{.name = "score_complete_again",
                   .grid = {shape.kv_heads, batch.count},
                   .threads = kThreads,
                   .shared_bytes = kThreads * sizeof(float),
                   .stream = stream};
  return launch(how, score_complete_again, call);
}

int32_t finish(const Shape &shape, const void *state, const Batch &batch, bool query_heads, float *score, void *stream) {
  FinishCall call;
  call.state = layout_of(shape, const_cast<void *>(state));
  call.batch = batch;
  call.score = score;
  call.channels = shape.key_channels;
  call.rows = query_heads ? shape.window : shape.group * shape.window;
  call.scores_per_head = query_heads ? shape.group : 1;
  return with_type(shape.query_dtype, [&](auto type) {
    using T = decltype(type);
    const Launch how{.name = "score_finish",
                     .grid = {query_heads ? shape.query_heads : shape.kv_heads, batch.count},
                     .threads = kThreads,
                     .shared_bytes = shared_bytes<T>(),
                     .stream = stream};
    return launch(how, score_finish<T>, call);
  });
}

int32_t value_score(const Shape &shape, const think_tensor &attention, const Batch &batch, float *score, void *stream) {
  ValueCall call;
  call.attention = attention;
  call.batch = batch;
  call.score = score;
  call.group = shape.group;
  call.channels = shape.value_channels;
  call.longest = static_cast<int32_t>(attention.extent[2] < shape.max_tokens ? attention.extent[2] : shape.max_tokens);
  return with_type(attention.dtype, [&](auto type) {
    using T = decltype(type);
    const Launch how{.name = "score_values", .grid = {shape.kv_heads, batch.count}, .threads = kThreads, .shared_bytes = shared_bytes<T>(), .stream = stream};
    return launch(how, score_values<T>, call);
  });
}

}  // namespace think::score::cuda
