// A host's allocator: counts, remembers, fails on demand, and hands out memory full of NaN.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "think.h"

namespace cache_test {

// Codes in tiles, not numbers.
inline bool is_code(think_dtype dtype) { return dtype != 0 && think_dtype_bytes(dtype) == 0; }

class Host {
 public:
  int calls = 0;
  int fail_at = -1;  // the call that gets NULL, counted from 0
  std::atomic<int64_t> bytes = 0;  // read while other threads allocate
  int64_t most = 0;
  bool empty() const { return live_.empty(); }

  think_context_options options(int32_t threads = 1) {
    think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
    options.allocate = [](void *user, size_t size, size_t alignment) { return static_cast<Host *>(user)->allocate(size, alignment); };
    options.deallocate = [](void *user, void *memory, size_t size, size_t alignment) { static_cast<Host *>(user)->deallocate(memory, size, alignment); };
    options.threads = threads;
    options.user = this;
    return options;
  }

 private:
  struct Block {
    size_t bytes, alignment;
  };
  std::map<void *, Block> live_;
  std::mutex mutex_;

  void *allocate(size_t size, size_t alignment) {
    const std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_GT(size, 0u);
    if (calls++ == fail_at) return nullptr;
    void *memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    std::memset(memory, 0xff, size);
    live_[memory] = {size, alignment};
    bytes += static_cast<int64_t>(size);
    most = std::max(most, bytes.load());
    return memory;
  }
  void deallocate(void *memory, size_t size, size_t alignment) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = live_.find(memory);
    if (found == live_.end()) {
      ADD_FAILURE() << "freed what was not allocated, or twice";
      return;
    }
    EXPECT_EQ(found->second.bytes, size);
    EXPECT_EQ(found->second.alignment, alignment);
    bytes -= static_cast<int64_t>(size);
    live_.erase(found);
    std::free(memory);
  }
};

}  // namespace cache_test
