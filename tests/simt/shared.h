// The shared memory of one emulated block, with what is known of each of its bytes: never written, written, or being filled by a cp.async; and for
// the race check the last write and the last reads.
#pragma once

#include <cstdint>
#include <vector>

namespace simt {

constexpr uint8_t kNeverWritten = 0, kPresent = 1, kInFlight = 2;
constexpr uint32_t kSharedLimit = 232448;  // a block of sm_90 may have 227 KiB
constexpr uint32_t kMaxWarps = 32;

// Who touched a byte when: block time << 11 | several lanes of the warp << 10 | thread. 0 = nobody.
constexpr uint32_t kSeveral = 1u << 10, kThreadMask = kSeveral - 1, kTimeLimit = (1u << 21) - 2;
inline uint32_t stamp_time(uint32_t stamp) { return stamp >> 11; }
inline uint32_t stamp_thread(uint32_t stamp) { return stamp & kThreadMask; }
inline uint32_t stamp_warp(uint32_t stamp) { return stamp_thread(stamp) >> 5; }

// What one warp knows of the others: everything that warp v did before clock[v] happened before what this warp does now. Its own entry holds the last
// time at which its lanes were ordered among themselves.
struct Clocks {
  uint32_t clock[kMaxWarps];
};

struct Accessor {
  uint32_t thread;   // in the block
  uint32_t several;  // kSeveral when all lanes of the warp get the data (ldmatrix), else 0
  uint32_t now;
  const Clocks *clocks;

  uint32_t stamp() const { return now << 11 | several | thread; }
  // Whether an earlier access and this one are unordered.
  bool races_with(uint32_t earlier) const {
    const uint32_t warp = stamp_warp(earlier);
    if (stamp_time(earlier) < clocks->clock[warp]) return false;
    return warp != thread >> 5 || stamp_thread(earlier) != thread || ((earlier | several) & kSeveral);
  }
};

class SharedMemory {
 public:
  void begin(uint32_t bytes, bool races);

  uint32_t bytes() const { return bytes_; }
  uint8_t *data() { return data_.data(); }
  uint8_t state(uint32_t byte) const { return state_[byte]; }
  bool all_in_state(uint32_t at, uint32_t size, uint8_t wanted) const {
    uint8_t different = 0;
    for (uint32_t i = 0; i < size; ++i) different |= state_[at + i] ^ wanted;
    return !different;
  }
  bool none_in_flight(uint32_t at, uint32_t size) const {
    uint8_t bits = 0;
    for (uint32_t i = 0; i < size; ++i) bits |= state_[at + i];
    return !(bits & kInFlight);
  }
  void set_state(uint32_t at, uint32_t size, uint8_t state) {
    for (uint32_t i = 0; i < size; ++i) state_[at + i] = state;
  }

  // The race check: returns the stamp of an earlier access that is not ordered before this one, or 0; then records this one.
  uint32_t note_read(uint32_t at, uint32_t size, const Accessor &who);
  uint32_t note_write(uint32_t at, uint32_t size, const Accessor &who);
  // A write that was checked when it was asked for, and happens now (cp.async).
  void stamp_write(uint32_t at, uint32_t size, const Accessor &who);
  // All times are forgotten: the block's clock starts again.
  void forget_times();

 private:
  uint32_t bytes_ = 0;
  std::vector<uint8_t> data_, state_;
  // Per byte: the last write; the last read; the last read by another warp than that one.
  std::vector<uint32_t> write_, read_, other_read_;
};

}  // namespace simt
