// Memory for tests that call the C ABI on the CPU and on an emulated device alike: plain on the CPU, the emulator's on the device.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/simt/buffer.h"

namespace think::test {

class MemoryOfEither {
 public:
  explicit MemoryOfEither(bool on_device) : on_device_(on_device) {}

  template <class T>
  T *make(const std::vector<T> &values) {
    T *array = take<T>(values.size());
    const size_t bytes = values.size() * sizeof(T);
    if (on_device_) {
      simt::machine().memory.write(array, values.data(), bytes);
    } else {
      std::memcpy(array, values.data(), bytes);
    }
    return array;
  }

  // Nobody has written it: on the device nobody may read it, on the CPU it is NaN in every type.
  template <class T>
  T *take(size_t count) {
    const size_t bytes = count * sizeof(T);
    blocks_.push_back({});
    Block &block = blocks_.back();
    if (on_device_) {
      block.device = std::make_unique<simt::Buffer<char>>("array", bytes);
      return reinterpret_cast<T *>(block.device->device());
    }
    block.host.reset(static_cast<char *>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
    std::memset(block.host.get(), 0xff, bytes);
    return reinterpret_cast<T *>(block.host.get());
  }

  // What nobody has written is 0xff.
  template <class T>
  std::vector<T> fetch(const T *array, size_t count) const {
    std::vector<T> values(count);
    if (on_device_) {
      simt::machine().memory.read(values.data(), array, count * sizeof(T));
    } else {
      std::memcpy(values.data(), array, count * sizeof(T));
    }
    return values;
  }

 private:
  struct Free {
    void operator()(char *memory) const { std::free(memory); }
  };
  struct Block {
    std::unique_ptr<simt::Buffer<char>> device;
    std::unique_ptr<char, Free> host;
  };
  bool on_device_;
  std::vector<Block> blocks_;
};

}  // namespace think::test
