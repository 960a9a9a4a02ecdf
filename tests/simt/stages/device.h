// Host data as device memory of the emulator, and what every run must satisfy.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/common/shape.h"
#include "tests/simt/buffer.h"

namespace think::test {

// A fresh machine; the seed decides in which order blocks, warps and lanes run, and when copies arrive.
inline void begin(uint64_t seed) {
  simt::machine().reset();
  simt::machine().options = {.seed = seed};
}

// THINK_TEST_QUICK=1, for sanitizers and builds that are not optimised: fewer random cases.
inline int32_t cases(int32_t all) {
  const char *quick = std::getenv("THINK_TEST_QUICK");
  return quick && *quick && *quick != '0' ? (all + 7) / 8 : all;
}

#define ASSERT_RUNS(call) ASSERT_EQ(0, call) << simt::machine().fault().text()

// What a call moved, as a part of what its model says, and its launches since the machine was reset: printed with THINK_TEST_REPORT=1 in the format that
// tests/simt/report.py reads. Every stage calls it once per shape, right after the call.
inline void report_traffic(const std::string &what, const simt::Counters &counters, double reads, double writes) {
  if (!std::getenv("THINK_TEST_REPORT")) return;
  std::map<std::string, int> launches;
  for (const simt::LaunchRecord &launch : simt::machine().launches()) ++launches[launch.kernel];
  std::string list;
  for (const auto &[kernel, count] : launches) list += (list.empty() ? "" : ", ") + kernel + " " + std::to_string(count);
  std::printf("%s: read %.4f of the model, written %.4f (in sectors of 32 bytes: %.4f and %.4f), "
              "%llu bank conflicts in %llu wavefronts; launches: %s\n",
              what.c_str(), static_cast<double>(counters.global_read_bytes) / reads, static_cast<double>(counters.global_write_bytes) / writes,
              32 * static_cast<double>(counters.global_read_sectors) / reads, 32 * static_cast<double>(counters.global_write_sectors) / writes,
              static_cast<unsigned long long>(counters.bank_conflicts), static_cast<unsigned long long>(counters.shared_wavefronts), list.c_str());
}

// An array of the host on the device, NULL stays NULL. Kernels may only read it.
template <class T>
class Constant {
 public:
  Constant(const char *name, const T *values, int64_t count) {
    if (!values) return;
    buffer_ = std::make_unique<simt::Buffer<T>>(name, std::vector<T>(values, values + count));
    buffer_->freeze();
  }
  const T *device() const { return buffer_ ? buffer_->device() : nullptr; }
  // The host writes other contents between two calls.
  void replace(const std::vector<T> &values) {
    buffer_->freeze(false);
    buffer_->upload(values);
    buffer_->freeze();
  }

 private:
  std::unique_ptr<simt::Buffer<T>> buffer_;
};

// Numbers of which those with all bits set were never written: a kernel that reads one of them stops.
inline void upload_numbers(void *device, const char *host, int64_t bytes, int32_t number_bytes) {
  const char unset[4] = {'\xff', '\xff', '\xff', '\xff'};
  const auto is_set = [&](int64_t at) { return std::memcmp(host + at, unset, number_bytes) != 0; };
  for (int64_t at = 0; at + number_bytes <= bytes;) {
    if (!is_set(at)) {
      at += number_bytes;
      continue;
    }
    int64_t end = at;
    while (end + number_bytes <= bytes && is_set(end)) end += number_bytes;
    simt::machine().memory.write(static_cast<char *>(device) + at, host + at, end - at);
    at = end;
  }
}

// A batch with its arrays on the device.
class DeviceBatch {
 public:
  explicit DeviceBatch(const Batch &host)
      : lengths_("lengths", host.lengths, host.count), row_start_("row_start", host.row_start, host.count + 1), slot_("slot", host.slot, host.count) {
    batch = {host.count, lengths_.device(), row_start_.device(), slot_.device()};
  }
  Batch batch;
  void replace_row_start(const std::vector<int32_t> &values) { row_start_.replace(values); }

 private:
  Constant<int32_t> lengths_, row_start_, slot_;
};

// A basis with its arrays on the device; NULL stays NULL.
class DeviceBasis {
 public:
  DeviceBasis(const think_basis *host, int32_t kv_heads)
      : kept_("kept", host ? host->kept : nullptr, places(host, kv_heads)),
        weight_offset_("weight_offset", host ? host->weight_offset : nullptr, places(host, kv_heads)),
        index_("index", host ? host->index : nullptr, places(host, kv_heads) * channels(host)),
        offset_("offset", host ? host->offset : nullptr, places(host, kv_heads) * channels(host)),
        weight_("weight", host ? static_cast<const char *>(host->weight) : nullptr, host ? std::max<int64_t>(1, host->weight_bytes) : 0) {
    if (!host) return;
    basis_ = *host;
    basis_.kept = const_cast<int32_t *>(kept_.device());
    basis_.index = const_cast<int32_t *>(index_.device());
    basis_.weight_offset = const_cast<int64_t *>(weight_offset_.device());
    basis_.offset = const_cast<float *>(offset_.device());
    basis_.weight = const_cast<char *>(weight_.device());
    pointer_ = &basis_;
  }
  DeviceBasis(const DeviceBasis &) = delete;
  const think_basis *get() const { return pointer_; }

 private:
  static int64_t places(const think_basis *host, int32_t kv_heads) { return host ? int64_t{host->slots} * kv_heads : 0; }
  static int64_t channels(const think_basis *host) { return host ? host->channels : 0; }
  Constant<int32_t> kept_;
  Constant<int64_t> weight_offset_;
  Constant<int32_t> index_;
  Constant<float> offset_;
  Constant<char> weight_;
  think_basis basis_ = THINK_BASIS_INIT;
  const think_basis *pointer_ = nullptr;
};

}  // namespace think::test
