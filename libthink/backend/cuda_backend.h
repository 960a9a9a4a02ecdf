// What lies between libthink.so.1 and libthink_cuda.so.1: one table of functions, found through one symbol. Both libraries come from one build; the
// table says so itself, in fields that never move. Everything behind them may change with every version.
#pragma once

#include "kernels/attend/attend.h"
#include "kernels/compact/compact.h"
#include "kernels/evict/evict.h"
#include "kernels/fit/fit.h"
#include "kernels/moments/moments.h"
#include "kernels/prune/prune.h"
#include "kernels/rebuild/rebuild.h"
#include "kernels/score/score.h"
#include "kernels/select/select.h"

namespace think::cuda {

// Raised whenever the table, or a struct that it takes, changes in any way.
constexpr uint32_t kBackendAbi = 6;

// A device that a context uses. Filled by Backend::open(), handed back to the other functions.
struct Device {
  void *context;  // CUcontext: the device's primary context, which the CUDA runtime and most engines use as well
  int32_t index, major, minor;
  int32_t multiprocessors;
};

// Rows of bytes from anywhere to anywhere, in the order of the stream. Memory of the host is to be host_memory(), untouched until then, or the call may wait.
struct Copy {
  void *to;
  int64_t to_pitch;  // bytes from row to row
  const void *from;
  int64_t from_pitch;
  int64_t width;  // bytes
  int64_t rows;
};

// Functions return an error of the CUDA runtime, 0 = none. Run functions only launch: what kernels do wrong later is the stream's to tell. They are called
// between enter() and leave(), take the argument structs that the CPU's stages take, with device pointers inside, and stay away from memory behind them.
struct Backend {
  uint32_t abi;  // kBackendAbi: first for ever, then size
  uint32_t size;
  int32_t version;             // think_version() of the build
  int32_t minimum_driver;      // as cuDriverGetVersion() counts
  const char *architectures;   // "80 90": for messages
  const char *stages;          // "evict, score, moments, select, fit, compact, attend, prune and rebuild": what has kernels, for messages
  const char *(*error_text)(int32_t error);

  int32_t (*open)(int32_t index, Device &device);
  void (*close)(const Device &device);
  int32_t (*enter)(const Device &device);  // makes it current in this thread ...
  void (*leave)();                         // ... and what was current before
  int32_t (*load)();                       // loads every kernel, so that no run call has to

  // For the managed cache; none of it but the question can be captured.
  int32_t (*capturing)(void *stream, bool *capturing);
  int32_t (*copy)(const Copy &copy, void *stream);
  int32_t (*synchronize)(void *stream);
  int32_t (*host_memory)(int64_t bytes, void **memory);  // that copies read without the processor
  void (*free_host_memory)(void *memory);
  int32_t (*make_event)(void **event);
  void (*free_event)(void *event);
  int32_t (*record)(void *event, void *stream);
  int32_t (*wait)(void *event);  // until the stream has come to where it was recorded

  int64_t (*score_workspace)(const Shape &shape, int32_t batch, int64_t tokens);
  int32_t (*score_reset)(const Shape &shape, void *state, const Batch &batch, void *stream);
  int32_t (*score_update)(const score::Update &update, int64_t longest, void *workspace, void *stream);
  int32_t (*score_sum_again)(const Shape &shape, const think_segment &segment, const Batch &batch, void *state, int64_t longest, void *workspace, void *stream);
  int32_t (*score_finish)(const Shape &shape, const void *state, const Batch &batch, bool query_heads, float *score, void *stream);
  int32_t (*score_values)(const Shape &shape, const think_tensor &attention, const Batch &batch, float *score, void *stream);

  int64_t (*budgets_workspace)(const select::Budgets &budgets);
  int32_t (*budgets)(const select::Budgets &budgets, const float *gains, int32_t *kept, void *workspace, void *stream);
  int32_t (*select)(const select::Select &choice, const float *score, const Batch &batch, const think_basis &basis, uint8_t *mask, void *stream);

  int64_t (*moments_workspace)(const Shape &shape, int32_t batch, int64_t longest);
  int32_t (*moments)(const moments::Arguments &arguments, const int32_t *query_slot, int64_t longest, void *workspace, void *stream);
  int64_t (*gains_workspace)(const Shape &shape, int32_t batch);
  int32_t (*gains)(const Shape &shape, const void *moments, const Batch &batch, int32_t side, const float *score, float *gains, int32_t *order,
                   void *workspace, void *stream);

  int64_t (*mass_stride)(int64_t longest);
  int64_t (*mass_workspace)(const Shape &shape, int32_t batch, int64_t longest);
  int32_t (*mass)(const moments::MassArguments &arguments, int32_t first, int32_t count, float *mass, int64_t longest, void *workspace, void *stream);
  int32_t (*evict_choose)(const evict::Choices &choices, int64_t longest, void *stream);
  int32_t (*evict_move)(const evict::Move &move, int64_t longest, int64_t longest_source, void *stream);

  int64_t (*fit_workspace)(const Shape &shape, int32_t batch);
  int32_t (*fit)(const fit::Arguments &arguments, const int32_t *moments_slot, void *workspace, void *stream);

  int32_t (*prune_plan)(const pruning::Plan &plan, int64_t longest, void *stream);
  int32_t (*prune_rank)(int32_t heads, int32_t channels, const int32_t *order, float *score, void *stream);
  int32_t (*prune_keep_all)(int32_t kv_heads, int32_t channels, const think_basis &basis, const Batch &batch, const int32_t *dense, uint8_t *mask,
                            void *stream);

  int32_t (*place)(const Shape &shape, const think_segment &segment, const Batch &batch, void *stream);
  int32_t (*compact)(const compact::Arguments &arguments, int64_t longest, void *stream);

  int32_t (*rebuild)(const rebuild::Arguments &arguments, void *stream);

  int32_t (*attend_resident)(Shape &shape);  // Shape::attend_blocks and its like, of a new plan
  int64_t (*attend_workspace)(const Shape &shape, const attend::Extent &extent);
  int32_t (*attend)(const attend::Arguments &arguments, const attend::Extent &extent, const int32_t *query_slot, void *workspace, void *stream);
  int32_t (*merge)(const attend::Merge &arguments, void *stream);
};

// The symbol: const Backend *think_cuda_backend().
using GetBackend = const Backend *(*)();
inline constexpr char kEntry[] = "think_cuda_backend";
inline constexpr char kLibrary[] = "libthink_cuda.so.1";

}  // namespace think::cuda
