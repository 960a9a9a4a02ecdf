// Where the program keeps what the library works on: in host memory, or on a device that the host only copies to and from.
#pragma once

#include <cstring>
#include <deque>
#include <vector>

#include "driver.h"
#include "library.h"

namespace think::cli {

// Arrays in memory of one of the two kinds, freed together.
class Room {
 public:
  explicit Room(const Driver *driver) : driver_(driver) {}
  Room(const Room &) = delete;

  // Nothing is written: the emulator stops whoever reads it.
  void *reserve(int64_t bytes) {
    if (bytes < 1) bytes = 1;
    return driver_ ? device_.emplace_back(*driver_, bytes).data() : host_.emplace_back(bytes).data();
  }
  void *make(int64_t bytes, unsigned char fill = 0) {
    void *memory = reserve(bytes);
    if (bytes < 1) return memory;
    if (driver_) {
      driver_->fill(memory, fill, bytes);
    } else {
      std::memset(memory, fill, static_cast<size_t>(bytes));
    }
    return memory;
  }
  void put(void *to, const void *from, int64_t bytes) const {
    if (bytes == 0) return;
    if (driver_) {
      driver_->upload(to, from, bytes);
    } else {
      std::memcpy(to, from, static_cast<size_t>(bytes));
    }
  }
  void *copy(const void *from, int64_t bytes) {
    void *memory = reserve(bytes);
    put(memory, from, bytes);
    return memory;
  }
  template <class T>
  T *copy(const std::vector<T> &values) {
    return static_cast<T *>(copy(values.data(), static_cast<int64_t>(values.size() * sizeof(T))));
  }
  void get(void *to, const void *from, int64_t bytes) const {
    if (bytes == 0) return;
    if (driver_) {
      driver_->download(to, from, bytes);
    } else {
      std::memcpy(to, from, static_cast<size_t>(bytes));
    }
  }
  template <class T>
  std::vector<T> fetch(const T *from, size_t count) const {
    std::vector<T> values(count);
    get(values.data(), from, static_cast<int64_t>(count * sizeof(T)));
    return values;
  }
  bool on_device() const { return driver_ != nullptr; }
  void *stream() const { return driver_ ? driver_->stream() : nullptr; }

 private:
  const Driver *driver_;
  std::deque<Buffer> host_;
  std::deque<DeviceMemory> device_;
};

// Workspace of one stage in that memory, and the launch record.
class Call {
 public:
  Call(Room &room, const Plan &plan, int32_t stage, int64_t tokens, int32_t queries) {
    think_extent extent = THINK_EXTENT_INIT;
    extent.batch = 1;
    extent.queries = queries;
    extent.tokens = room.on_device() ? 0 : tokens;  // lengths on a device are not read by the host: the plan's most
    int64_t bytes = 0;
    ErrorRecord error;
    error.check(think_workspace_size(plan.get(), stage, &extent, &bytes, nullptr, error));
    launch_.workspace = room.make(bytes);
    launch_.workspace_bytes = bytes;
    launch_.stream = room.stream();
    launch_.flags = room.on_device() ? 0 : THINK_LAUNCH_CHECK;
  }
  const think_launch *launch() const { return &launch_; }

 private:
  think_launch launch_ = THINK_LAUNCH_INIT;
};

// A basis in that memory, and a copy for the reference.
struct PlacedBasis {
  void *memory = nullptr;
  int64_t bytes = 0;
  int32_t side = 0;
  think_basis basis = THINK_BASIS_INIT, mirror = THINK_BASIS_INIT;
  Buffer mirror_memory;

  void bind(Room &room, const Plan &plan, int32_t which) {
    ErrorRecord error;
    side = which;
    error.check(think_basis_size(plan.get(), side, 1, &bytes, nullptr, error));
    memory = room.make(bytes);
    error.check(think_basis_bind(plan.get(), side, 1, memory, bytes, &basis, error));
  }
  void fetch(const Room &room, const Plan &plan) {
    ErrorRecord error;
    mirror_memory = Buffer(bytes);
    room.get(mirror_memory.data(), memory, bytes);
    error.check(think_basis_bind(plan.get(), side, 1, mirror_memory.data(), bytes, &mirror, error));
  }
};

}  // namespace think::cli
