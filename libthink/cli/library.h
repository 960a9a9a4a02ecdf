// libthink's C API with owners for its handles and memory, and its errors as Failure(kLibrary).
#pragma once

#include <memory>
#include <string>

#include "device_choice.h"
#include "failure.h"
#include "number.h"
#include "think.h"

namespace think::cli {

// The library has no code for this on this device: an error like any other, but one that a report may skip.
class Unsupported : public Failure {
 public:
  explicit Unsupported(const char *message)
      : Failure(kLibrary, std::string("libthink: ") + message + " (" + think_status_name(THINK_E_UNSUPPORTED) + ")"), reason_(message) {}
  const std::string &reason() const { return reason_; }

 private:
  std::string reason_;
};

// A record to pass to a call, and the check of what it returned:  ErrorRecord error; error.check(think_...(..., error));
class ErrorRecord {
 public:
  operator think_error *() { return &record_; }
  void check(think_status status) const {
    if (status == THINK_E_UNSUPPORTED) throw Unsupported(record_.message);
    if (status != THINK_OK) throw Failure(kLibrary, std::string("libthink: ") + record_.message + " (" + think_status_name(status) + ")");
  }

 private:
  think_error record_ = THINK_ERROR_INIT;
};

using Context = std::unique_ptr<think_context, decltype(&think_context_destroy)>;
using Plan = std::unique_ptr<think_plan, decltype(&think_plan_destroy)>;

inline Context make_context(int32_t threads, const DeviceChoice &device = {}) {
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  options.device_type = device.type;
  options.device_index = device.index;
  options.threads = threads;
  think_context *context = nullptr;
  ErrorRecord error;
  error.check(think_context_create(&options, &context, error));
  return Context(context, think_context_destroy);
}

inline Plan make_plan(const Context &context, const think_problem &problem) {
  think_plan *plan = nullptr;
  ErrorRecord error;
  error.check(think_plan_create(context.get(), &problem, &plan, error));
  return Plan(plan, think_plan_destroy);
}

inline int64_t query_number(const think_context *context, int32_t key) {
  int64_t value = 0;
  ErrorRecord error;
  error.check(think_query(context, key, &value, error));
  return value;
}

// Workspace of one stage and the launch record that hands it over.
class Workspace {
 public:
  Workspace(const Plan &plan, int32_t stage, int64_t tokens, int32_t queries, int32_t batch = 1) {
    think_extent extent = THINK_EXTENT_INIT;
    extent.batch = batch;
    extent.queries = queries;
    extent.tokens = tokens;
    int64_t bytes = 0;
    ErrorRecord error;
    error.check(think_workspace_size(plan.get(), stage, &extent, &bytes, nullptr, error));
    memory_ = Buffer(bytes, true);
    launch_.workspace = memory_.data();
    launch_.workspace_bytes = bytes;
    // Files are untrusted. They have been checked before, and a second look by the library costs little.
    launch_.flags = THINK_LAUNCH_CHECK;
  }
  const think_launch *launch() const { return &launch_; }
  void trust() { launch_.flags = 0; }  // for time measurements on arrays that this program made

 private:
  Buffer memory_;
  think_launch launch_ = THINK_LAUNCH_INIT;
};

// A basis in memory of its own, laid out by the library; zeroed, so that parts that no call writes are defined.
struct OwnBasis {
  Buffer memory;
  think_basis basis = THINK_BASIS_INIT;

  void bind(const Plan &plan, int32_t side) {
    int64_t bytes = 0;
    ErrorRecord error;
    error.check(think_basis_size(plan.get(), side, 1, &bytes, nullptr, error));
    memory = Buffer(bytes, true);
    error.check(think_basis_bind(plan.get(), side, 1, memory.data(), bytes, &basis, error));
  }
};

inline think_tensor view_tensor(const void *data, think_dtype dtype, int64_t heads, int64_t tokens, int64_t channels, int64_t head_stride,
                                int64_t token_stride) {
  think_tensor tensor = THINK_TENSOR_INIT;
  tensor.data = const_cast<void *>(data);
  tensor.dtype = dtype;
  const int64_t extent[4] = {1, heads, tokens, channels}, stride[4] = {heads * head_stride, head_stride, token_stride, 1};
  for (int axis = 0; axis < 4; ++axis) {
    tensor.extent[axis] = extent[axis];
    tensor.stride[axis] = stride[axis];
  }
  return tensor;
}

inline think_tensor packed_tensor(const void *data, think_dtype dtype, int64_t heads, int64_t tokens, int64_t channels) {
  return view_tensor(data, dtype, heads, tokens, channels, tokens * channels, channels);
}

// Dense rows [head][token][channel] of one sequence, `rows` of them per head.
inline think_segment dense_segment(const void *key, const void *value, think_dtype key_dtype, think_dtype value_dtype, int64_t heads,
                                   int64_t rows, int32_t key_channels, int32_t value_channels, const int32_t *lengths) {
  think_segment segment = THINK_SEGMENT_INIT;
  segment.key_layout = segment.value_layout = THINK_ROWS;
  segment.key_dtype = key_dtype;
  segment.value_dtype = value_dtype;
  segment.key = const_cast<void *>(key);
  segment.value = const_cast<void *>(value);
  segment.key_stride[2] = static_cast<int64_t>(key_channels) * think_dtype_bytes(key_dtype);
  segment.value_stride[2] = static_cast<int64_t>(value_channels) * think_dtype_bytes(value_dtype);
  for (int64_t *stride : {segment.key_stride, segment.value_stride}) {
    stride[1] = rows * stride[2];
    stride[0] = heads * stride[1];
  }
  segment.lengths = lengths;
  return segment;
}

}  // namespace think::cli
