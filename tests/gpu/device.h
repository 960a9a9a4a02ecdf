// What the device tests share: the device (or the reason why there is none), a plan on it or on the CPU, and arrays in the memory of either.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/element.h"
#include "libthink/cli/room.h"
#include "think.h"

namespace think::gpu_test {

// Why no device test can run here; empty when they can. Asks the library, which knows of backend, driver and device.
inline std::string no_device() {
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  options.device_type = THINK_DEVICE_CUDA;
  think_context *context = nullptr;
  think_error error = THINK_ERROR_INIT;
  if (think_context_create(&options, &context, &error) != THINK_OK) return error.message;
  think_context_destroy(context);
  return cli::Driver::absent();
}

#define THINK_NEED_DEVICE()                                                       \
  do {                                                                            \
    const std::string reason = think::gpu_test::no_device();                      \
    if (!reason.empty()) GTEST_SKIP() << reason;                                  \
  } while (0)

// A stage without kernels ends a test by this.
struct NoKernels {
  std::string reason;
};

// Runs a test's body; a stage that this backend lacks makes it a skipped test, with the library's reason.
template <class Body>
void run_or_skip(const Body &body) {
  try {
    body();
  } catch (const NoKernels &missing) {
    GTEST_SKIP() << missing.reason;
  }
}

#define THINK_OK_OR_SKIP(function, ...)                                                                        \
  do {                                                                                                         \
    think_error call_error = THINK_ERROR_INIT;                                                                 \
    const think_status call_status = function(__VA_ARGS__, &call_error);                                       \
    if (call_status == THINK_E_UNSUPPORTED) throw think::gpu_test::NoKernels{call_error.message};              \
    if (call_status != THINK_OK) throw std::runtime_error(std::string(#function ": ") + call_error.message);   \
  } while (0)

// f16 in, f32 out.
inline think_problem problem_of(int32_t query_heads, int32_t kv_heads, int32_t channels, int32_t batch, int64_t tokens) {
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_dtype = problem.cache_dtype = THINK_F16;
  problem.output_dtype = THINK_F32;
  problem.query_heads = query_heads;
  problem.kv_heads = kv_heads;
  problem.key_channels = channels;
  problem.max_batch = batch;
  problem.max_tokens = tokens;
  return problem;
}

// A plan, and memory of its device. `driver` NULL: the CPU, whose results the device's are compared with.
class Bench {
 public:
  Bench(const cli::Driver *driver, const think_problem &problem) : driver_(driver), room_(driver) {
    think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
    options.device_type = driver ? THINK_DEVICE_CUDA : THINK_DEVICE_CPU;
    THINK_OK_OR_SKIP(think_context_create, &options, &context_);
    THINK_OK_OR_SKIP(think_plan_create, context_, &problem, &plan_);
  }
  Bench(const Bench &) = delete;
  ~Bench() {
    if (driver_) driver_->synchronize();
    think_plan_destroy(plan_);
    think_context_destroy(context_);
  }

  operator const think_plan *() const { return plan_; }
  bool on_device() const { return driver_ != nullptr; }
  const cli::Driver &driver() const { return *driver_; }

  // `fill`: what nobody has written is 0xff, NaN in every float type, unless told otherwise.
  void *make(int64_t bytes, unsigned char fill = 0xff) { return room_.make(bytes, fill); }
  template <class T>
  void put(T *to, const std::vector<T> &values) {
    room_.put(to, values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
  }
  template <class T>
  T *copy(const std::vector<T> &values) {
    return room_.copy(values);
  }
  template <class T>
  std::vector<T> fetch(const T *from, size_t count) const {
    return room_.fetch(from, count);
  }

  // A workspace of exactly the size that the stage asks for.
  think_launch launch(int32_t stage, const think_extent *extent = nullptr) {
    think_launch launch = THINK_LAUNCH_INIT;
    THINK_OK_OR_SKIP(think_workspace_size, plan_, stage, extent, &launch.workspace_bytes, nullptr);
    launch.workspace = make(launch.workspace_bytes, 0);
    launch.stream = room_.stream();
    return launch;
  }
  think_basis basis(int32_t side, int32_t slots) {
    think_basis basis = THINK_BASIS_INIT;
    int64_t bytes = 0;
    THINK_OK_OR_SKIP(think_basis_size, plan_, side, slots, &bytes, nullptr);
    THINK_OK_OR_SKIP(think_basis_bind, plan_, side, slots, make(bytes), bytes, &basis);
    return basis;
  }

 private:
  const cli::Driver *driver_;
  think_context *context_ = nullptr;
  think_plan *plan_ = nullptr;
  cli::Room room_;
};

// f16 rows of either sign, channels of different size.
inline std::vector<uint16_t> random_rows(size_t rows, int32_t channels, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> numbers(rows * static_cast<size_t>(channels));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = f32_to_f16(0.3f * static_cast<float>(1 + i % 5) * normal(random));
  return numbers;
}

inline think_tensor tensor_of(void *data, think_dtype dtype, int64_t batch, int64_t heads, int64_t tokens, int64_t channels) {
  return {sizeof(think_tensor), 0, data, dtype, 0, {batch, heads, tokens, channels}, {heads * tokens * channels, tokens * channels, channels, 1}};
}

}  // namespace think::gpu_test
