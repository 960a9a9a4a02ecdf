// A cache on a CUDA device: the caller's slab, and how numbers of the host get to the stages.
//
//   slab:  [bases of all slots] [score states] [tables of the step] [tables of a call] [scratch] [arena: pages of every kind]
//
// Everything is launched into one stream, so what a call writes over is what launches before it have read. Only memory of the host is read later than the host
// goes on: the two page-locked blocks through which tables go, one after the other.
#pragma once

#include "libthink/cache/pool.h"
#include "libthink/core/device.h"

struct think_cache;

namespace think::cache {

constexpr int64_t kSlabAlignment = 256;

struct Staging {
  char *memory;
  int64_t bytes;
  void *event;  // after the copy out of it
  bool sent;
};

struct Device {
  const cuda::Backend *backend;
  void *stream;   // of the last call that had one
  int32_t error;  // the first of the call, 0 = none: nothing is launched after it
  char *slab;
  int64_t slab_bytes;
  Arena arena;
  Pool bases;               // of all kinds of runs
  int64_t stride;           // pages of a sequence, the most of a segment
  int32_t *step_tables;     // [head_numbers], then [segments][max_batch][stride]
  int64_t head_numbers;
  int32_t *call_tables;
  int64_t call_numbers;
  void *scratch;  // of calls without a workspace: squares that are summed again
  Staging staging[2];
  int32_t turn;
};

// launch(backend) unless something has failed in this call.
template <class Launch>
void run(Device &device, const Launch &launch) {
  if (!device.error) device.error = launch(*device.backend);
}

bool reserve_staging(Memory &memory, Device &device, int64_t bytes);  // false: no memory
char *next_staging(Device &device);                                  // a block that nothing reads any more, to be written ...
void sent_staging(Device &device);                                   // ... and copied by what is in the stream now
void close_staging(Memory &memory, Device &device);

// Device memory to device memory, or from or to the host's.
void copy(Device &device, void *to, const void *from, int64_t bytes);
void copy_rows(Device &device, const cuda::Copy &rows);

// Where the numbers of a call lie for the stages: on the CPU where they are, on a device in its table, once they are sent. A call makes one list after the
// other: those of the one before are gone.
class Lists {
 public:
  explicit Lists(const think_cache &cache);
  const int32_t *add(const int32_t *numbers, int64_t count);
  void send();

 private:
  Device *device_;
  int32_t *staging_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace think::cache
