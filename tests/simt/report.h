// What the emulator tells a test: the first fault, and the counters of every launch.
#pragma once

#include <cstdint>
#include <source_location>
#include <string>
#include <vector>

namespace simt {

// A place in the kernel's source. One pointer; two calls on one line differ.
using Site = std::source_location;

enum class FaultKind {
  none,
  out_of_bounds,  // global or shared memory outside of a buffer or view, read-only, released, or not through ptx.cuh
  misaligned,
  uninitialised,  // global or shared memory that nobody has written
  in_flight,      // shared memory that a cp.async is still filling: the wait is missing
  race,           // shared memory without a barrier in between
  divergence,     // a collective or barrier that the named lanes do not all reach, or not at one place
};

const char *fault_name(FaultKind kind);

struct Fault {
  FaultKind kind = FaultKind::none;
  std::string kernel, buffer;  // buffer: name of the global buffer, empty for shared memory
  int32_t block[3] = {-1, -1, -1};
  int32_t thread = -1;
  uint64_t address = 0;    // global address, or byte in shared memory
  std::string file, what;  // what: the whole story in one sentence
  uint32_t line = 0;

  explicit operator bool() const { return kind != FaultKind::none; }
  std::string text() const;
};

enum class Access : uint8_t { global_read, global_write, shared_read, shared_write, ldmatrix, copy_read, copy_write, atomic };

const char *access_name(Access access);

// One instruction of the source, all its executions by whole warps.
struct SiteCounters {
  Site site;
  Access access;
  uint64_t instructions = 0;  // warp instructions
  uint64_t bytes = 0;
  uint64_t transactions = 0;  // global: 32-byte sectors; shared: wavefronts
  uint64_t conflicts = 0;     // shared: wavefronts that bank conflicts add
};

struct Counters {
  uint64_t global_read_bytes = 0, global_write_bytes = 0;      // as asked for, cp.async included, atomics not
  uint64_t global_read_sectors = 0, global_write_sectors = 0;  // 32 bytes, per warp instruction
  uint64_t atomics = 0;
  uint64_t shared_wavefronts = 0, bank_conflicts = 0;
  uint64_t collectives = 0, block_barriers = 0, copies = 0;

  Counters &operator+=(const Counters &other);
};

struct LaunchRecord {
  std::string kernel;
  int32_t grid[3] = {0, 0, 0}, threads = 0;
  uint32_t shared_bytes = 0;
  Counters counters;
  std::vector<SiteCounters> sites;

  // Conflicts of a source line, all columns and kinds together.
  uint64_t conflicts_at(uint32_t line) const;
  // A table for people, a line for each place in the source (the instances of a template together).
  std::string text() const;
};

}  // namespace simt
