// A typed device buffer for tests. Between guard zones; what the test does not upload counts as uninitialised.
#pragma once

#include <vector>

#include "machine.h"

namespace simt {

template <class T>
class Buffer {
 public:
  Buffer(const std::string &name, size_t count, uint32_t misalignment = 0)
      : count_(count), device_(static_cast<T *>(machine().memory.allocate(name, count * sizeof(T), misalignment))) {}
  Buffer(const std::string &name, const std::vector<T> &values, uint32_t misalignment = 0) : Buffer(name, values.size(), misalignment) {
    upload(values);
  }
  ~Buffer() { machine().memory.release(device_); }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;

  T *device() { return device_; }  // for kernels; the host cannot dereference it
  const T *device() const { return device_; }
  size_t count() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }

  void upload(const std::vector<T> &values, size_t first = 0) { machine().memory.write(device_ + first, values.data(), values.size() * sizeof(T)); }
  void fill_bytes(int value) { machine().memory.fill(device_, value, bytes()); }
  // From here on kernels may not write it.
  void freeze(bool frozen = true) { machine().memory.freeze(device_, bytes(), frozen); }
  void uninitialise() { machine().memory.uninitialise(device_, bytes()); }
  // Bytes that nobody has written are 0xff.
  std::vector<T> download() const {
    std::vector<T> values(count_);
    machine().memory.read(values.data(), device_, bytes());
    return values;
  }
  uint64_t read_bytes() const { return machine().memory.owner_of(machine().memory.offset_of(device_)).read_bytes; }
  uint64_t write_bytes() const { return machine().memory.owner_of(machine().memory.offset_of(device_)).write_bytes; }

 private:
  size_t count_;
  T *device_;
};

}  // namespace simt
