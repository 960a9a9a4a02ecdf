#include "cpu.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "../common/dispatch.h"
#include "../common/element.h"
#include "score.h"

namespace think::score {

namespace {

// Tokens whose squares are summed in one go: a unit of work, and what fixes the order of all sums.
constexpr int64_t kRunTokens = 512;

int64_t runs_of(int64_t tokens) { return (tokens + kRunTokens - 1) / kRunTokens; }

THINK_KERNELS_OF

AddSquares add_squares(const Kernels &kernels, think_dtype dtype) {
  return dtype == THINK_F32 ? kernels.f32 : dtype == THINK_F16 ? kernels.f16 : kernels.bf16;
}

struct Workspace {
  uint32_t *arrived;  // [max_batch][kv_heads] runs that are done. First and of one size for every call of a plan, so that no other data land on them
  float *partial;     // [batch][kv_heads][runs][key_channels], zero again when the call is over
};

Workspace carve(const Shape &shape, int32_t batch, int64_t tokens, Carver &carver) {
  Workspace workspace;
  workspace.arrived = take<uint32_t>(carver, static_cast<int64_t>(shape.max_batch) * shape.kv_heads);
  workspace.partial = take<float>(carver, static_cast<int64_t>(batch) * shape.kv_heads * runs_of(tokens) * shape.key_channels);
  return workspace;
}

// One call of update(), shared by its tasks.
struct Call {
  const Update &arguments;
  AddSquares add;
  Workspace workspace;
  int64_t max_runs;  // of one sequence
  int32_t heads;     // KV heads that one task sums
};

// The last `window` query rows of one query head: old rows move to the front, new ones come behind them.
void shift_window(const Update &update, int32_t sequence, int32_t head, const RowRange &rows) {
  const Shape &shape = update.shape;
  const int64_t row_bytes = static_cast<int64_t>(shape.key_channels) * dtype_bytes(shape.query_dtype);
  const StateView state = state_view(shape, update.state, slot_of(update.batch, sequence));
  char *window = static_cast<char *>(state.window) + head * shape.window * row_bytes;
  const int64_t fresh = rows.count < shape.window ? rows.count : shape.window;
  const int64_t old = shape.window - fresh;
  std::memmove(window, window + fresh * row_bytes, old * row_bytes);
  for (int64_t r = 0; r < fresh; ++r) {
    std::memcpy(window + (old + r) * row_bytes, element(update.query, rows.row, head, rows.first + rows.count - fresh + r), row_bytes);
  }
}

void add_to(float *sum, const float *addend, int32_t channels) {
  for (int32_t c = 0; c < channels; ++c) sum[c] += addend[c];
}

// The last run of a head to be done adds all of them to the state, always in the same order.
void complete_run(const Call &call, int32_t sequence, int32_t head, int64_t run, int64_t runs, const float *partial, float *sum) {
  const int32_t channels = call.arguments.shape.key_channels;
  if (runs == 1) {
    add_to(sum, partial, channels);
    return;
  }
  const int64_t pair = static_cast<int64_t>(sequence) * call.arguments.shape.kv_heads + head;
  float *partials = call.workspace.partial + pair * call.max_runs * channels;
  std::memcpy(partials + run * channels, partial, channels * sizeof(float));
  std::atomic_ref<uint32_t> arrived(call.workspace.arrived[pair]);
  if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 < runs) return;
  for (int64_t r = 0; r < runs; ++r) add_to(sum, partials + r * channels, channels);
  // Leave the workspace as it was found: the next call may lay it out differently.
  std::memset(partials, 0, runs * channels * sizeof(float));
  arrived.store(0, std::memory_order_relaxed);
}

// One run of heads first_head .. first_head + call.heads.
void run_task(const Call &call, int32_t sequence, int32_t first_head, int64_t run, const RowRange &rows) {
  const Update &update = call.arguments;
  const Shape &shape = update.shape;
  const StateView state = state_view(shape, update.state, slot_of(update.batch, sequence));
  const int32_t channels = shape.key_channels;
  const int32_t heads = shape.kv_heads - first_head < call.heads ? shape.kv_heads - first_head : call.heads;

  const int64_t first = run * kRunTokens;
  const int64_t count = rows.count - first < kRunTokens ? rows.count - first : kRunTokens;
  float partial[kMaxRowChannels] = {};
  const char *row = element(update.key, rows.row, first_head, rows.first + first);
  call.add(row, update.key.stride[2] * dtype_bytes(update.key.dtype), count, heads * channels, partial);

  for (int32_t head = first_head; head < first_head + heads; ++head) {
    // Window and count depend on nothing that other tasks write, so the first run of a head takes care of them.
    for (int32_t member = 0; run == 0 && member < shape.group; ++member) shift_window(update, sequence, head * shape.group + member, rows);
    if (run == 0 && head == 0) *state.tokens += rows.count;
    float *sum = state.square_sum + static_cast<int64_t>(head) * channels;
    complete_run(call, sequence, head, run, runs_of(rows.count), partial + (head - first_head) * channels, sum);
  }
}

// Tasks begin .. end of the list that goes through sequences, heads and runs.
void run_tasks(const Call &call, int64_t begin, int64_t end) {
  const Update &update = call.arguments;
  const int64_t bundles = (update.shape.kv_heads + call.heads - 1) / call.heads;
  int64_t task = 0;
  for (int32_t sequence = 0; sequence < update.batch.count && task < end; ++sequence) {
    const RowRange rows = rows_of(update.key, update.batch, sequence);
    const int64_t runs = runs_of(rows.count), tasks = runs * bundles;
    for (int64_t i = begin > task ? begin - task : 0; i < tasks && task + i < end; ++i) {
      run_task(call, sequence, static_cast<int32_t>(i / runs) * call.heads, i % runs, rows);
    }
    task += tasks;
  }
}

// Heads that lie side by side in memory are best read together: whole tokens one after the other. As many as leave a task for each of those who work;
// the sums of a head do not depend on it.
int32_t heads_per_task(const Update &update, int64_t runs, int64_t workers) {
  const Shape &shape = update.shape;
  if (update.key.stride[1] != shape.key_channels) return 1;
  const int64_t most = kMaxRowChannels / shape.key_channels < shape.kv_heads ? kMaxRowChannels / shape.key_channels : shape.kv_heads;
  const int64_t wanted = workers > 1 ? runs * shape.kv_heads / workers : most;
  return static_cast<int32_t>(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

float nan_to_infinity(float x) { return x == x ? x : std::numeric_limits<float>::infinity(); }

}  // namespace

int64_t update_workspace(const Shape &shape, int32_t batch, int64_t tokens) {
  Carver carver{nullptr, 0};
  carve(shape, batch, tokens, carver);
  return carver.offset;
}

void reset(const Shape &shape, void *state, const Batch &batch) {
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    std::memset(static_cast<char *>(state) + slot_of(batch, sequence) * state_bytes(shape), 0, state_bytes(shape));
  }
}

void update(int32_t isa, const Update &arguments, void *workspace, const Parallel &parallel, Slice slice) {
  const Shape &shape = arguments.shape;
  int64_t runs = 0, longest = 0;
  for (int32_t sequence = 0; sequence < arguments.batch.count; ++sequence) {
    const int64_t count = rows_of(arguments.key, arguments.batch, sequence).count;
    runs += runs_of(count);
    longest = count > longest ? count : longest;
  }
  Carver carver{static_cast<char *>(workspace), 0};
  const Call call{arguments, add_squares(kernels_of(isa), arguments.key.dtype), carve(shape, arguments.batch.count, longest, carver), runs_of(longest),
                  heads_per_task(arguments, runs, slice.count > 1 ? slice.count : parallel.threads)};
  const int64_t tasks = runs * ((shape.kv_heads + call.heads - 1) / call.heads);
  if (slice.count > 1) {
    run_tasks(call, tasks * slice.index / slice.count, tasks * (slice.index + 1) / slice.count);
    return;
  }
  // Counters are trusted only where slices need them: a whole call may find a workspace that another stage has written to.
  std::memset(call.workspace.arrived, 0, static_cast<int64_t>(arguments.batch.count) * shape.kv_heads * sizeof(uint32_t));
  // A few parts per thread even out what the machine does beside us.
  const int64_t wanted = parallel.threads > 1 ? int64_t{4} * parallel.threads : 1;
  const int64_t parts = tasks < wanted ? tasks : wanted;
  parallel_for(parallel, parts, [&](int64_t part) { run_tasks(call, tasks * part / parts, tasks * (part + 1) / parts); });
}

void sum_again(int32_t isa, const Shape &shape, const think_segment &source, void *state, const Parallel &parallel) {
  const AddSquares add = add_squares(kernels_of(isa), source.key_dtype);
  const int32_t channels = shape.key_channels;
  parallel_for(parallel, shape.kv_heads, [&](int64_t head) {
    const SideView view = side_view(source, Side::keys, shape, kOneSequence, 0, static_cast<int32_t>(head));
    const int64_t first = run_first(source, 0, static_cast<int32_t>(head)), rows = run_length(source, 0, static_cast<int32_t>(head));
    float *sum = state_view(shape, state, 0).square_sum + head * channels;
    std::memset(sum, 0, static_cast<size_t>(channels) * sizeof(float));
    for (int64_t run = 0; run < rows; run += kRunTokens) {
      float partial[kMaxChannels] = {};
      for (int64_t row = run, end = std::min(rows, run + kRunTokens); row < end;) {
        const int64_t count = std::min(end - row, rows_in_block(view, first + row));
        add(row_address(view, first + row), view.row_stride, count, channels, partial);
        row += count;
      }
      add_to(sum, partial, channels);
    }
  });
}

void finish(const Shape &shape, const void *state, const Batch &batch, bool query_heads, float *score) {
  const int64_t channels = shape.key_channels, rows = shape.window;
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    const StateView view = state_view(shape, const_cast<void *>(state), slot_of(batch, sequence));
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      const float *key_sum = view.square_sum + head * channels;
      float query_sum[kMaxChannels] = {};
      for (int32_t member = 0; member < shape.group; ++member) {
        const int64_t query_head = static_cast<int64_t>(head) * shape.group + member;
        if (query_heads) std::memset(query_sum, 0, sizeof query_sum);
        for (int64_t i = query_head * rows; i < (query_head + 1) * rows; ++i) {
          for (int64_t c = 0; c < channels; ++c) {
            const float q = load_element(view.window, shape.query_dtype, i * channels + c);
            query_sum[c] += q * q;
          }
        }
        if (!query_heads && member + 1 < shape.group) continue;
        const int64_t heads = query_heads ? shape.query_heads : shape.kv_heads;
        float *out = score + (sequence * heads + (query_heads ? query_head : head)) * channels;
        for (int64_t c = 0; c < channels; ++c) out[c] = nan_to_infinity(query_sum[c] * key_sum[c]);
      }
    }
  }
}

void value_score(const Shape &shape, const think_tensor &attention, const Batch &batch, float *score) {
  const int64_t channels = shape.value_channels;
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    const RowRange rows = rows_of(attention, batch, sequence);
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      float sum[kMaxChannels] = {};
      for (int32_t query_head = head * shape.group; query_head < (head + 1) * shape.group; ++query_head) {
        for (int64_t t = 0; t < rows.count; ++t) {
          const char *row = element(attention, rows.row, query_head, rows.first + t);
          for (int64_t c = 0; c < channels; ++c) {
            const float x = load_element(row, attention.dtype, c);
            sum[c] += x * x;
          }
        }
      }
      float *out = score + (static_cast<int64_t>(sequence) * shape.kv_heads + head) * channels;
      for (int64_t c = 0; c < channels; ++c) out[c] = nan_to_infinity(sum[c]);
    }
  }
}

}  // namespace think::score
