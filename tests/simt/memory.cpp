#include "memory.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <new>
#include <stdexcept>

namespace simt {
namespace {

void *reserve(uint64_t bytes, int protection) {
  void *memory = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("simt: cannot reserve address space for the emulated device memory");
  return memory;
}

}  // namespace

Memory::Memory() {
  window_ = reinterpret_cast<uint64_t>(reserve(kBytes, PROT_NONE));
  storage_ = static_cast<uint8_t *>(reserve(kBytes, PROT_READ | PROT_WRITE));
  shadow_ = static_cast<uint8_t *>(reserve(kBytes, PROT_READ | PROT_WRITE));
  owner_ = static_cast<uint32_t *>(reserve(kBytes / kGranule * sizeof *owner_, PROT_READ | PROT_WRITE));
  stamps_ = static_cast<uint64_t *>(reserve(kBytes * sizeof *stamps_, PROT_READ | PROT_WRITE));
  buffers_.emplace_back();
}

Memory::~Memory() {
  munmap(reinterpret_cast<void *>(window_), kBytes);
  munmap(storage_, kBytes);
  munmap(shadow_, kBytes);
  munmap(owner_, kBytes / kGranule * sizeof *owner_);
  munmap(stamps_, kBytes * sizeof *stamps_);
}

void *Memory::allocate(const std::string &name, uint64_t bytes, uint32_t misalignment) {
  if (live_ == 0) {  // start again at the bottom, with pages that have never been written
    madvise(storage_, next_, MADV_DONTNEED);
    madvise(shadow_, next_, MADV_DONTNEED);
    madvise(owner_, next_ / kGranule * sizeof *owner_, MADV_DONTNEED);
    madvise(stamps_, next_ * sizeof *stamps_, MADV_DONTNEED);
    next_ = kGranule;
    buffers_.resize(1);
  }
  const uint64_t offset = next_ + misalignment, end = (offset + bytes + kGranule - 1) / kGranule * kGranule;
  if (end + kGranule > kBytes) throw std::bad_alloc();
  for (uint64_t granule = next_ / kGranule; granule < end / kGranule; ++granule) owner_[granule] = static_cast<uint32_t>(buffers_.size());
  // NaN in every floating-point type, for the runs of a kernel after which nobody looks at the faults; too large a buffer is only virtual.
  if (bytes <= uint64_t{1} << 26) std::memset(storage_ + offset, 0xff, bytes);
  buffers_.push_back({name, offset, bytes, true});
  next_ = end + kGranule;
  ++live_;
  return reinterpret_cast<void *>(window_ + offset);
}

void Memory::release(void *device) {
  if (!device) return;
  const uint64_t offset = offset_of(device);
  for (BufferRecord &buffer : buffers_) {
    if (buffer.live && buffer.offset == offset) {
      for (uint64_t granule = offset / kGranule; granule < (offset + buffer.bytes + kGranule - 1) / kGranule; ++granule) owner_[granule] = 0;
      buffer.live = false;
      --live_;
      return;
    }
  }
  throw std::invalid_argument("simt: release of memory that is not allocated");
}

static void require(bool right, const char *what) {
  if (!right) throw std::out_of_range(std::string("simt: ") + what + " outside of any buffer");
}

void Memory::write(void *device, const void *from, uint64_t bytes) {
  const uint64_t offset = offset_of(device);
  require(allows(offset, bytes, Use::host), "a host write");
  if (bytes) std::memcpy(storage_ + offset, from, bytes);
  for (uint64_t i = 0; i < bytes; ++i) shadow_[offset + i] |= kInitialised;
}

void Memory::read(void *to, const void *device, uint64_t bytes) const {
  const uint64_t offset = offset_of(device);
  require(allows(offset, bytes, Use::host), "a host read");
  if (bytes) std::memcpy(to, storage_ + offset, bytes);
}

bool Memory::fill(void *device, int value, uint64_t bytes) {
  const uint64_t offset = offset_of(device);
  if (!allows(offset, bytes, Use::write)) return false;
  std::memset(storage_ + offset, value, bytes);
  for (uint64_t i = 0; i < bytes; ++i) shadow_[offset + i] |= kInitialised;
  return true;
}

void Memory::uninitialise(void *device, uint64_t bytes) {
  const uint64_t offset = offset_of(device);
  require(allows(offset, bytes, Use::host), "uninitialise()");
  for (uint64_t i = 0; i < bytes; ++i) {
    shadow_[offset + i] &= static_cast<uint8_t>(~kInitialised);
    storage_[offset + i] = 0xff;
  }
}

void Memory::freeze(void *device, uint64_t bytes, bool frozen) {
  const uint64_t offset = offset_of(device);
  require(allows(offset, bytes, Use::host), "freeze()");
  for (uint64_t i = 0; i < bytes; ++i) {
    shadow_[offset + i] = static_cast<uint8_t>(frozen ? shadow_[offset + i] | kFrozen : shadow_[offset + i] & ~kFrozen);
  }
}

const BufferRecord *Memory::nearest(uint64_t offset) const {
  if (offset >= kBytes) return nullptr;
  const BufferRecord *best = nullptr;
  uint64_t best_distance = ~uint64_t{0};
  for (const BufferRecord &buffer : buffers_) {
    if (buffer.name.empty() && !buffer.bytes) continue;
    const uint64_t end = buffer.offset + buffer.bytes;
    const uint64_t distance = offset < buffer.offset ? buffer.offset - offset : offset >= end ? offset - end + 1 : 0;
    if (distance < best_distance) best_distance = distance, best = &buffer;
  }
  return best;
}

std::string Memory::explain(const void *device, uint32_t size, bool write, FaultKind *kind) const {
  FaultKind unused;
  FaultKind &found = kind ? *kind : unused;
  found = FaultKind::out_of_bounds;
  const uint64_t offset = offset_of(device);
  const std::string access = std::string(write ? "writes " : "reads ") + std::to_string(size) + " bytes ";
  const BufferRecord *buffer = nearest(offset);
  char address[32];
  std::snprintf(address, sizeof address, "%p", device);
  if (!buffer) return access + "at " + address + ", which is no device memory";
  const std::string name = "buffer \"" + buffer->name + "\" (" + std::to_string(buffer->bytes) + " bytes" + (buffer->live ? ")" : ", released)");
  const int64_t at = static_cast<int64_t>(offset - buffer->offset);
  if (at < 0) return access + std::to_string(-at) + " bytes before " + name;
  if (at >= static_cast<int64_t>(buffer->bytes))
    return access + std::to_string(at - static_cast<int64_t>(buffer->bytes)) + " bytes behind the end of " + name;
  if (at + static_cast<int64_t>(size) > static_cast<int64_t>(buffer->bytes))
    return access + "at byte " + std::to_string(at) + ", beyond the end of " + name;
  if (!buffer->live) return access + "at byte " + std::to_string(at) + " of " + name;
  if (offset % size) {
    found = FaultKind::misaligned;
    return access + "at byte " + std::to_string(at) + " of " + name + ": the address is not a multiple of " + std::to_string(size);
  }
  for (uint32_t i = 0; i < size; ++i) {
    const uint8_t bits = shadow_[offset + i];
    const std::string byte = std::to_string(at + i) + " of " + name;
    if (write && (bits & kFrozen)) return access + "at byte " + byte + ", which is read only";
    if (!write && !(bits & kInitialised)) {
      found = FaultKind::uninitialised;
      return access + "of which byte " + byte + " was never written";
    }
  }
  return access + "at byte " + std::to_string(at) + " of " + name;
}

void Memory::reset_counters() {
  for (BufferRecord &buffer : buffers_) buffer.read_bytes = buffer.write_bytes = 0;
}

}  // namespace simt
