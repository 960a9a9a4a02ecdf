// The emulated global memory. A device address is a number in a window that no process may touch: a kernel or host function that dereferences it
// itself crashes at once (Machine turns that into a fault); the bytes lie elsewhere. One shadow byte per byte says what may be done with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "report.h"

namespace simt {

// Of a byte inside of a buffer.
constexpr uint8_t kInitialised = 1, kFrozen = 2;

enum class Use { read, write, update, host };  // update: atomics; host: allocated is enough

struct BufferRecord {
  std::string name;
  uint64_t offset = 0, bytes = 0;
  bool live = false;
  uint64_t read_bytes = 0, write_bytes = 0;  // by kernels, since the counters were reset
  uint32_t written_in = 0;                   // the last launch that wrote it
};

class Memory {
 public:
  static constexpr uint64_t kBytes = uint64_t{1} << 34, kGranule = 4096;

  Memory();
  ~Memory();
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;

  // Uninitialised memory between guard zones; the address is `misalignment` bytes behind a multiple of 256.
  void *allocate(const std::string &name, uint64_t bytes, uint32_t misalignment = 0);
  void release(void *device);
  // Host access to device memory. write() and fill() initialise; uninitialise() makes reads of the range a fault again; freeze() makes writes by
  // kernels a fault.
  void write(void *device, const void *from, uint64_t bytes);
  void read(void *to, const void *device, uint64_t bytes) const;
  bool fill(void *device, int value, uint64_t bytes);
  void uninitialise(void *device, uint64_t bytes);
  void freeze(void *device, uint64_t bytes, bool frozen = true);

  uint64_t offset_of(const void *device) const { return reinterpret_cast<uint64_t>(device) - window_; }
  bool in_window(const void *device) const { return offset_of(device) < kBytes; }
  uint8_t *bytes_at(uint64_t offset) const { return storage_ + offset; }
  uint64_t *stamps_at(uint64_t offset) const { return stamps_ + offset; }  // who wrote each byte, for the race check
  BufferRecord &owner_of(uint64_t offset) { return buffers_[owner_[offset / kGranule]]; }
  std::vector<BufferRecord> &buffers() { return buffers_; }
  // Whether a range lies in one live buffer and may be used like that.
  bool allows(uint64_t offset, uint64_t size, Use use) const;
  void initialise(uint64_t offset, uint32_t size) {
    for (uint32_t i = 0; i < size; ++i) shadow_[offset + i] |= kInitialised;
  }
  // What is wrong with an access, in words: which buffer, how far outside, which byte; and what kind of fault that is.
  std::string explain(const void *device, uint32_t size, bool write, FaultKind *kind = nullptr) const;
  const BufferRecord *nearest(uint64_t offset) const;
  void reset_counters();

 private:
  uint64_t window_ = 0;
  uint8_t *storage_ = nullptr, *shadow_ = nullptr;
  uint32_t *owner_ = nullptr;
  uint64_t *stamps_ = nullptr;
  std::vector<BufferRecord> buffers_;  // 0 = nobody
  uint64_t next_ = kGranule;
  int64_t live_ = 0;
};

inline bool Memory::allows(uint64_t offset, uint64_t size, Use use) const {
  if (offset >= kBytes) return false;
  const BufferRecord &owner = buffers_[owner_[offset / kGranule]];
  if (offset < owner.offset || offset - owner.offset > owner.bytes || size > owner.bytes - (offset - owner.offset)) return false;
  if (use == Use::host) return true;
  const uint8_t *shadow = shadow_ + offset;
  uint8_t all = 0xff, any = 0;
  for (uint64_t i = 0; i < size; ++i) all &= shadow[i], any |= shadow[i];
  return (use == Use::write || (all & kInitialised)) && (use == Use::read || !(any & kFrozen));
}

}  // namespace simt
