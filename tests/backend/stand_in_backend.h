// What the stand-in for libthink_cuda.so.1 tells the tests that use it.
#pragma once

#include <cstdint>

struct StandInCalls {
  int32_t opened, closed, entered, left, loaded;
  int32_t runs;         // run functions that were called
  const char *last;     // name of the last of them
  void *stream;         // that it was given
  int64_t longest;      // ... and the bound of its lengths
  int32_t fail_with;    // what run functions, open() and load() return
  int32_t host_blocks, events;  // that are held
  int32_t no_host_memory;       // but an error: 2 = out of memory
  bool capturing;
  const char *memory, *memory_end;  // of the device, which cannot be written: what is copied elsewhere are zeros
};

using GetStandInCalls = StandInCalls *(*)();
