#include "shared.h"

#include <algorithm>
#include <cstring>

namespace simt {

void SharedMemory::begin(uint32_t bytes, bool races) {
  bytes_ = bytes;
  if (data_.size() < bytes) data_.resize(bytes), state_.resize(bytes);
  std::fill_n(data_.begin(), bytes, uint8_t{0xff});
  std::fill_n(state_.begin(), bytes, kNeverWritten);
  if (races) {
    if (write_.size() < bytes) write_.resize(bytes), read_.resize(bytes), other_read_.resize(bytes);
    forget_times();
  }
}

void SharedMemory::forget_times() {
  for (std::vector<uint32_t> *stamps : {&write_, &read_, &other_read_}) {
    if (!stamps->empty()) std::memset(stamps->data(), 0, std::min<size_t>(bytes_, stamps->size()) * sizeof(uint32_t));
  }
}

// Whether a run of stamps is one value, the usual case: all bytes of a vector were touched together.
static bool uniform(const uint32_t *stamps, uint32_t size) {
  uint32_t different = 0;
  for (uint32_t i = 1; i < size; ++i) different |= stamps[i] ^ stamps[0];
  return !different;
}

static void record_read(uint32_t &read, uint32_t &other, const Accessor &who) {
  const uint32_t warp = who.thread >> 5;
  if (!read) {
    read = who.stamp();
  } else if (stamp_warp(read) != warp) {
    other = read;
    read = who.stamp();
  } else {
    // The same warp again: "several lanes" stays true for as long as those reads are not ordered before this one.
    const bool unordered = stamp_time(read) >= who.clocks->clock[warp];
    const bool several = unordered && ((read & kSeveral) || stamp_thread(read) != who.thread);
    read = who.stamp() | (several ? kSeveral : 0);
  }
}

uint32_t SharedMemory::note_read(uint32_t at, uint32_t size, const Accessor &who) {
  const uint32_t *write = write_.data() + at;
  uint32_t *read = read_.data() + at, *other = other_read_.data() + at;
  if (uniform(write, size) && uniform(read, size) && uniform(other, size)) {
    if (write[0] && who.races_with(write[0])) return write[0];
    uint32_t new_read = read[0], new_other = other[0];
    record_read(new_read, new_other, who);
    for (uint32_t i = 0; i < size; ++i) read[i] = new_read, other[i] = new_other;
    return 0;
  }
  for (uint32_t i = 0; i < size; ++i) {
    if (write[i] && who.races_with(write[i])) return write[i];
    record_read(read[i], other[i], who);
  }
  return 0;
}

uint32_t SharedMemory::note_write(uint32_t at, uint32_t size, const Accessor &who) {
  const uint32_t *stamps[] = {write_.data() + at, read_.data() + at, other_read_.data() + at};
  for (const uint32_t *earlier : stamps) {
    const uint32_t different = uniform(earlier, size) ? 1 : size;
    for (uint32_t i = 0; i < different; ++i) {
      if (earlier[i] && who.races_with(earlier[i])) return earlier[i];
    }
  }
  stamp_write(at, size, who);
  return 0;
}

void SharedMemory::stamp_write(uint32_t at, uint32_t size, const Accessor &who) {
  std::fill_n(write_.data() + at, size, who.stamp());
  std::fill_n(read_.data() + at, size, 0u);
  std::fill_n(other_read_.data() + at, size, 0u);
}

}  // namespace simt
