// The merge of partial attention: the CUDA kernel against the double-precision reference.
#include <cmath>
#include <limits>
#include <random>

#include "device.h"
#include "kernels/attend/cuda.h"
#include "kernels/common/element.h"

namespace think::attend {
namespace {

using namespace test;

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr char kUntouched = 0x5b;

// Results of `count` parts of the same queries: every other one in f32, the rest in the plan's output type, with gaps between rows and heads.
struct Parts {
  Shape shape{};
  std::vector<think_tensor> outputs;
  std::vector<std::vector<char>> memory;
  std::vector<std::vector<float>> lses;
  int64_t batch, heads, tokens, channels;

  Parts(int32_t count, think_dtype output_dtype, int64_t batch, int64_t heads, int64_t tokens, int64_t channels, uint64_t seed)
      : batch(batch), heads(heads), tokens(tokens), channels(channels) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    std::normal_distribution<float> normal;
    shape.output_dtype = output_dtype;
    for (int32_t i = 0; i < count; ++i) {
      outputs.push_back(tensor(i % 2 ? THINK_F32 : output_dtype));
      const int32_t bytes = dtype_bytes(outputs[i].dtype);
      memory.emplace_back(static_cast<size_t>(outputs[i].stride[0] * batch * bytes), '\xff');
      outputs[i].data = memory[i].data();
      lses.emplace_back(static_cast<size_t>(rows()));
      for (int64_t row = 0; row < rows(); ++row) {
        // The first query saw nothing anywhere, others nothing in some of the parts. Such a part may hold anything that is finite.
        lses[i][row] = row == 0 || (row * 7 + i) % 5 == 0 ? kNothing : 4 * normal(random);
        char *to = const_cast<char *>(element(outputs[i], row / (heads * tokens), row / tokens % heads, row % tokens));
        for (int64_t j = 0; j < channels; ++j) store_element(to, outputs[i].dtype, j, normal(random));
      }
    }
  }

  int64_t rows() const { return batch * heads * tokens; }
  think_tensor tensor(think_dtype dtype) const {
    think_tensor made = THINK_TENSOR_INIT;
    made.dtype = dtype;
    made.extent[0] = batch, made.extent[1] = heads, made.extent[2] = tokens, made.extent[3] = channels;
    made.stride[3] = 1, made.stride[2] = channels + 5, made.stride[1] = made.stride[2] * tokens + 3, made.stride[0] = made.stride[1] * heads + 7;
    return made;
  }
};

double allowed(think_dtype dtype, double value) {
  return std::fabs(value) * (dtype == THINK_F16 ? 0x1p-11 : dtype == THINK_BF16 ? 0x1p-8 : 0) + 1e-5 * (1 + std::fabs(value));
}

// `in_place`: the result replaces the second part.
void check(const Parts &parts, think_dtype dtype, bool in_place, uint64_t seed) {
  const int32_t count = static_cast<int32_t>(parts.outputs.size());
  std::vector<const float *> pointers;
  for (const auto &lse : parts.lses) pointers.push_back(lse.data());
  think_tensor output = parts.tensor(dtype), exact = parts.tensor(THINK_F32);
  const int64_t bytes = output.stride[0] * parts.batch * dtype_bytes(dtype);
  std::vector<char> exact_memory(static_cast<size_t>(exact.stride[0] * parts.batch * 4));
  std::vector<float> exact_lse(static_cast<size_t>(parts.rows()));
  exact.data = exact_memory.data();
  reference::merge({parts.shape, parts.outputs.data(), pointers.data(), count, exact, exact_lse.data()});

  begin(seed);
  std::vector<std::unique_ptr<simt::Buffer<char>>> memory;
  std::vector<std::unique_ptr<simt::Buffer<float>>> lses;
  std::vector<think_tensor> outputs = parts.outputs;
  for (int32_t i = 0; i < count; ++i) {
    memory.push_back(std::make_unique<simt::Buffer<char>>("part", parts.memory[i].size()));
    upload_numbers(memory[i]->device(), parts.memory[i].data(), static_cast<int64_t>(parts.memory[i].size()), dtype_bytes(outputs[i].dtype));
    lses.push_back(std::make_unique<simt::Buffer<float>>("lse", parts.lses[i]));
    if (!in_place || i != 1) memory[i]->freeze(), lses[i]->freeze();
    outputs[i].data = memory[i]->device();
    pointers[i] = lses[i]->device();
  }
  simt::Buffer<char> own("output", static_cast<size_t>(bytes));
  own.fill_bytes(kUntouched);
  simt::Buffer<float> own_lse("merged lse", static_cast<size_t>(parts.rows()));
  output.data = in_place ? memory[1]->device() : own.device();
  float *lse = in_place ? lses[1]->device() : own_lse.device();
  ASSERT_RUNS(cuda::load());
  ASSERT_RUNS(cuda::merge({parts.shape, outputs.data(), pointers.data(), count, output, lse}, nullptr));
  const std::vector<char> got = in_place ? memory[1]->download() : own.download();
  const std::vector<float> got_lse = in_place ? lses[1]->download() : own_lse.download();

  output.data = const_cast<char *>(got.data());
  std::vector<char> real(got.size());
  double read = 0;
  for (int64_t row = 0; row < parts.rows(); ++row) {
    const int64_t b = row / (parts.heads * parts.tokens), h = row / parts.tokens % parts.heads, t = row % parts.tokens;
    const char *one = element(output, b, h, t), *other = element(exact, b, h, t);
    for (int64_t j = 0; j < parts.channels; ++j) {
      const double want = load_element(other, THINK_F32, j);
      ASSERT_NEAR(want, load_element(one, dtype, j), allowed(dtype, want)) << "row " << row << " channel " << j;
    }
    std::fill_n(real.begin() + (one - got.data()), parts.channels * dtype_bytes(dtype), char{1});
    if (exact_lse[row] == kNothing) {
      ASSERT_EQ(kNothing, got_lse[row]) << row;
    } else {
      ASSERT_NEAR(exact_lse[row], got_lse[row], 1e-5 * (1 + std::fabs(exact_lse[row]))) << row;
    }
    for (int32_t i = 0; i < count; ++i) {
      if (parts.lses[i][row] != kNothing) read += static_cast<double>(parts.channels) * dtype_bytes(outputs[i].dtype);
    }
  }
  const char gap = in_place ? '\xff' : kUntouched;
  for (size_t i = 0; i < got.size(); ++i) ASSERT_TRUE(real[i] || got[i] == gap) << "padding written at byte " << i;
  // Each part's row once; its LSE by the 128 threads for the maximum and the mass, and with every channel.
  const double model = read + 4.0 * static_cast<double>(parts.rows()) * count * static_cast<double>(2 * 128 + parts.channels);
  const double written = static_cast<double>(parts.rows()) * (static_cast<double>(parts.channels) * dtype_bytes(dtype) + 4);
  const simt::Counters &total = simt::machine().total();
  if (count > 1 && dtype == THINK_F16 && parts.channels == 128) {
    report_traffic("merge, " + std::to_string(count) + " parts of 128 channels, f16", total, model, written);
  }
  EXPECT_LE(static_cast<double>(total.global_read_bytes), 1.02 * model);
  EXPECT_EQ(static_cast<double>(total.global_write_bytes), written);
  EXPECT_EQ(0u, total.bank_conflicts);
}

TEST(MergeOnDevice, MatchesTheReference) {
  uint64_t seed = 0;
  for (const think_dtype narrow : {THINK_F16, THINK_BF16}) {
    for (const int32_t count : {1, 2, 3, 64}) {
      for (const int64_t channels : {40, 128, 256}) {
        const Parts parts(count, narrow, 2, 3, count == 64 ? 1 : 5, channels, ++seed);
        check(parts, narrow, false, seed);
        if (HasFatalFailure()) return;
      }
    }
    const Parts parts(4, narrow, 1, 2, 3, 72, 9);
    check(parts, THINK_F32, false, 9);
  }
}

TEST(MergeOnDevice, ReplacesOneOfItsParts) {
  for (uint64_t seed = 0; seed < 4; ++seed) check(Parts(3, THINK_F16, 2, 2, 4, 200, seed), THINK_F32, true, seed);
}

TEST(MergeOnDevice, ANaNStaysInItsRow) {
  Parts parts(3, THINK_BF16, 1, 2, 3, 64, 1);
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  std::vector<const float *> pointers;
  begin(1);
  std::vector<std::unique_ptr<simt::Buffer<char>>> memory;
  std::vector<std::unique_ptr<simt::Buffer<float>>> lses;
  parts.lses[1][2] = kNaN;
  for (int32_t i = 0; i < 3; ++i) {
    memory.push_back(std::make_unique<simt::Buffer<char>>("part", parts.memory[i]));
    lses.push_back(std::make_unique<simt::Buffer<float>>("lse", parts.lses[i]));
    parts.outputs[i].data = memory[i]->device();
    pointers.push_back(lses[i]->device());
  }
  think_tensor output = parts.tensor(THINK_F32);
  simt::Buffer<float> own("output", static_cast<size_t>(output.stride[0])), lse("merged lse", static_cast<size_t>(parts.rows()));
  output.data = own.device();
  ASSERT_RUNS(cuda::load());
  ASSERT_RUNS(cuda::merge({parts.shape, parts.outputs.data(), pointers.data(), 3, output, lse.device()}, nullptr));
  const std::vector<float> got = own.download(), got_lse = lse.download();
  for (int64_t row = 1; row < parts.rows(); ++row) {
    const int64_t at = row / 3 * output.stride[1] + row % 3 * output.stride[2];
    EXPECT_EQ(row == 2, std::isnan(got_lse[row])) << row;
    for (int64_t j = 0; j < 64; ++j) EXPECT_EQ(row == 2, std::isnan(got[at + j])) << row;
  }
}

}  // namespace
}  // namespace think::attend
