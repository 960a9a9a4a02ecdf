// A CUDA device through the driver's own C interface, found at run time: device memory, one stream, events, graphs. Needs neither the toolkit nor a driver
// to be compiled; the device tests (tests/gpu) and the device benchmark (tests/bench/gpu) use it as well.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "failure.h"

namespace think::cli {

struct DriverFunctions;

// The primary context of one device, current in the thread that made it for as long as it lives. Calls throw Failure(kLibrary) with the driver's text.
class Driver {
 public:
  // Why there can be none here: empty when libcuda.so.1 is there, starts and has a device of that number.
  static std::string absent(int32_t index = 0);

  explicit Driver(int32_t index);
  ~Driver();
  Driver(const Driver &) = delete;
  Driver &operator=(const Driver &) = delete;

  const std::string &name() const { return name_; }
  int32_t multiprocessors() const { return multiprocessors_; }
  int32_t capability() const { return capability_; }  // 90 for 9.0
  int64_t cache_bytes() const { return cache_bytes_; }

  void *stream() const { return stream_; }
  void synchronize() const;

  void *allocate(int64_t bytes) const;
  void release(void *memory) const noexcept;
  void upload(void *device, const void *host, int64_t bytes) const;    // after everything in the stream
  void download(void *host, const void *device, int64_t bytes) const;  // the same
  void fill(void *device, unsigned char value, int64_t bytes) const;
  // Repeats the first `pattern` bytes up to `bytes`.
  void repeat(void *device, int64_t pattern, int64_t bytes) const;
  int64_t free_bytes() const;

  // Reads memory once, 16 bytes at a time, on all multiprocessors, and does nothing with it: launched into the stream. False where the driver cannot load a
  // kernel from text.
  bool read_stream(const void *device, int64_t bytes);

  // Milliseconds of the stream between two marks.
  class Event {
   public:
    explicit Event(const Driver &driver);
    ~Event();
    Event(const Event &) = delete;
    Event &operator=(const Event &) = delete;
    void record();
    double milliseconds_since(const Event &earlier) const;  // waits for this one

   private:
    const Driver &driver_;
    void *event_ = nullptr;
  };

  // What was launched into the stream between begin_capture() and the making of the graph.
  class Graph {
   public:
    explicit Graph(const Driver &driver);  // ends the capture
    ~Graph();
    Graph(const Graph &) = delete;
    Graph &operator=(const Graph &) = delete;
    void launch() const;

   private:
    const Driver &driver_;
    void *graph_ = nullptr, *executable_ = nullptr;
  };
  void begin_capture() const;

 private:
  void check(int error, const char *what) const;

  std::unique_ptr<DriverFunctions> call_;
  int32_t device_ = 0;
  void *module_ = nullptr, *read_kernel_ = nullptr;
  void *context_ = nullptr, *stream_ = nullptr;
  std::string name_;
  int32_t multiprocessors_ = 0, capability_ = 0;
  int64_t cache_bytes_ = 0;
};

// Device memory that frees itself.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(const Driver &driver, int64_t bytes) : driver_(&driver), memory_(driver.allocate(bytes)), bytes_(bytes) {}
  DeviceMemory(DeviceMemory &&other) noexcept { swap(other); }
  DeviceMemory &operator=(DeviceMemory &&other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceMemory() {
    if (memory_) driver_->release(memory_);
  }
  void *data() const { return memory_; }
  int64_t size() const { return bytes_; }

 private:
  void swap(DeviceMemory &other) noexcept {
    std::swap(driver_, other.driver_);
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
  }
  const Driver *driver_ = nullptr;
  void *memory_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace think::cli
