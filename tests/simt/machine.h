// The emulated device: blocks of threads that are fibers, a seeded scheduler, and the checks on every access. A lane runs until it needs others (a
// collective, a barrier) and then hands the processor straight to the next lane of its warp; whoever arrives last does the work for all.
#pragma once

#include <boost/context/detail/fcontext.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <unordered_map>
#include <vector>

#include "memory.h"
#include "report.h"
#include "shared.h"

namespace simt {

using Context = boost::context::detail::fcontext_t;

struct Options {
  uint64_t seed = 1;                  // 0: blocks, warps and lanes in their natural order
  bool races = true;                  // in shared memory, and of blocks and warps in global memory
  bool traffic = true;                // sectors and bank conflicts per instruction (bytes are always counted)
  int32_t resident_blocks = 0;        // blocks that run interleaved; 0 = two to four, by seed
  int32_t multiprocessors = 4;        // what multiprocessors() says
  uint32_t clock_limit = kTimeLimit;  // barriers of a block after which the race check starts again; smaller for tests of that
};

struct Warp;
struct Block;

// A warp collective. `perform` runs once when all lanes of the mask wait with the same operation at the same place; `lanes` are those lanes.
struct Operation {
  const char *name;
  void (*perform)(Warp &warp, uint32_t lanes);
  bool aligned;  // needs all 32 lanes; a lane that has ended is a fault
};

struct LogEntry {
  uint64_t address;  // global offset or byte of shared memory
  Site site;
  uint32_t size;
  Access access;
  uint8_t lane;
};

struct Copy {
  uint64_t from;
  uint32_t to, bytes, valid, group;
  bool arrived;
  Site site;
};

struct Lane {
  Context context = nullptr;
  uint8_t *stack = nullptr;  // its top
  Warp *warp = nullptr;
  int32_t thread = 0;  // in the block
  uint32_t bit = 0;    // 1 << lane
  uint32_t place = 0;  // 1 << position in the order in which the warp's lanes run
  void *arguments = nullptr;
  const char *waits_for = nullptr;
  Site site;
  std::vector<LogEntry> log;
  std::vector<Copy> copies;  // not yet waited for, oldest first
  uint32_t groups = 0;       // committed so far
  bool waited = false;       // for the previous launch, itself or before a barrier through another
};

struct Group {
  const Operation *operation;
  Site site;
  uint32_t mask, arrived, arrived_places;
};

struct Warp {
  Block *block = nullptr;
  int32_t index = 0;
  Lane *lanes[32] = {};  // by lane
  Lane *order[32] = {};  // by place
  uint32_t ready = 0;    // places
  uint32_t logging = 0;  // places that wait for the others because their log is full
  uint32_t ended = 0;    // lanes
  uint32_t at_barrier[16] = {};
  uint32_t last_place = 0;
  int32_t quantum = 0;
  int32_t copies = 0;  // of all lanes, not arrived
  int32_t group_count = 0;
  Group groups[32];
  Clocks clocks;
};

// Where blocks meet: a word that they update with acq_rel atomics. Whoever comes later knows what the earlier ones had done.
struct Meeting;
struct Seen {
  const Meeting *meeting;
  size_t arrivals;  // of it, that are known
};
struct Arrival {
  uint32_t run, thread, time;
  Clocks clocks;           // what its warp knew of its own block
  std::vector<Seen> seen;  // what its block knew of others
};
struct Meeting {
  std::vector<Arrival> arrivals;
  std::unordered_map<uint32_t, std::vector<size_t>> of_run;
};

struct Barrier {
  uint32_t arrived = 0, expected = 0;
  bool any = false, result = false;  // of sync_block_or: being collected, and of the last completion
};

struct Block {
  int32_t x = 0, y = 0, z = 0;
  bool active = false;
  int32_t live_threads = 0;
  uint32_t now = 1;
  uint32_t run = 0;                    // a number of its own for every block that was ever started
  std::vector<uint32_t> earlier_runs;  // of this block, before its clock started again
  std::vector<Seen> seen;
  std::vector<Lane> lanes;
  std::vector<Warp> warps;
  Barrier barriers[16];
  SharedMemory shared;
};

struct LaunchSpec {
  const char *name;
  int32_t grid[3];
  int32_t threads;
  uint32_t shared_bytes;
  bool overlap;
  void (*invoke)(const void *call);
  const void *call;
};

// A view of shared memory as it was cut, for the bounds check.
struct Bounds {
  uint32_t begin, end;
};

class Machine {
 public:
  static constexpr int32_t kSuccess = 0, kInvalidValue = 1, kLaunchFailure = 719;  // as cudaError_t numbers them

  Memory memory;

  // ---- for tests
  Options options;
  const Fault &fault() const { return fault_; }
  const std::string &refusal() const { return refusal_; }  // why the last launch or prepare() returned kInvalidValue
  const std::vector<LaunchRecord> &launches() const { return launches_; }
  Counters total() const;
  void reset();  // forgets the fault, launches and counters; buffers stay

  // ---- for launch.h
  std::vector<std::function<int32_t()>> *capture = nullptr;  // where launches are kept instead of made, while a graph is captured
  int32_t (*admit)() = nullptr;  // of the driver, where there is one: whether this thread may use the device now, which its contexts decide
  int32_t admitted() const { return admit ? admit() : kSuccess; }
  int32_t launch(const LaunchSpec &spec, const void *kernel);
  int32_t prepare(const void *kernel, uint32_t shared_bytes);
  void end_of_overlap() { previous_first_run_ = last_run_ + 1; }  // something else comes in the stream

  // ---- for device.h: what a lane does
  Lane &lane() { return *current_; }
  Block &block() { return *current_->warp->block; }
  const LaunchSpec &spec() const { return *spec_; }
  bool running_a_lane() const { return current_ != nullptr; }
  bool is_behind_a_stack(const void *address) const;
  uint8_t *global(const void *device, uint32_t size, bool write, Site site);
  uint8_t *global_constant(const void *device, uint32_t size, Site site);  // a read through the cache that nobody keeps up to date
  uint8_t *global_atomic(void *device, uint32_t size, Site site);
  uint8_t *shared(Bounds bounds, uint32_t at, uint32_t size, bool write, Site site);
  void start_copy(Bounds bounds, uint32_t to, const void *from, uint32_t bytes, uint32_t valid, Site site);
  void commit_copies() { ++current_->groups; }
  void wait_copies(uint32_t pending);
  void collective(const Operation &operation, uint32_t mask, void *arguments, Site site);
  bool barrier(int32_t name, int32_t threads, bool value, Site site);
  void maybe_yield();
  void meet(uint64_t offset);
  void wait_for_previous_launch() { current_->waited = waited_ = true; }
  void fail(FaultKind kind, Site site, const std::string &what, const Lane *lane = nullptr, const void *address = nullptr);

  // ---- for operations, which act for all lanes of a warp
  const uint8_t *shared_row(Warp &warp, Lane &lane, Bounds bounds, uint32_t at);
  void count_phases(const Site &site, const uint32_t *rows, int32_t phases);
  void order_warp(Warp &warp);

 private:
  friend void lane_entry(boost::context::detail::transfer_t from);
  struct Stacks;

  int32_t refuse(const std::string &why);
  int32_t run_grid(const LaunchSpec &spec);
  void start_block(Block &block, int64_t index);
  void run_warp(Warp &warp);
  void switch_to(Lane *lane);
  void switch_to_scheduler();
  void next_lane(Warp &warp);
  void end_lane();
  void try_group(Warp &warp, int32_t group);
  void try_barrier(Block &block, int32_t name);
  void tick(Block &block);
  void deliver_some(Warp &warp);
  void deliver(Block &block, Copy &copy);
  void explain_standstill();
  void check_barrier_sites(Warp &warp, uint32_t places);
  Accessor accessor(const Lane &lane, bool several) const;
  bool inside(Bounds bounds, uint32_t at, uint32_t size) {
    const uint32_t end = std::min(bounds.end, block().shared.bytes());
    return at >= bounds.begin && at <= end && size <= end - at;
  }
  void global_fault(const char *what, const void *device, uint32_t size, bool write, Site site);
  void shared_fault(Bounds bounds, uint32_t at, uint32_t size, bool write, Site site, const Lane *lane);
  void race_fault(uint32_t at, uint32_t size, bool write, uint32_t earlier, Site site, const Lane &lane);
  void check_writers(BufferRecord &owner, uint64_t offset, uint32_t size, bool write, const void *device, Site site);
  void check_constant(uint64_t offset, uint32_t size, const void *device, Site site);
  bool may_race(const BufferRecord &owner) const {
    return owner.written_in == first_run_ || (spec_->overlap && owner.written_in == previous_first_run_);
  }
  bool ordered_before(uint64_t stamp, const Lane &lane) const;
  void note(Lane &lane, Access access, uint64_t address, uint32_t size, Site site);
  void flush(Warp &warp);
  void count_group(const LogEntry *const *entries, int32_t count);
  SiteCounters &site_counters(const Site &site, Access access);
  uint32_t new_run() { return ++last_run_; }
  uint32_t random() { return static_cast<uint32_t>(generator_()); }

  const LaunchSpec *spec_ = nullptr;
  Lane *current_ = nullptr;
  Context scheduler_ = nullptr;
  std::minstd_rand generator_;
  Counters counters_;                                               // of the running launch
  uint32_t last_run_ = 0, first_run_ = 0, previous_first_run_ = 1;  // of blocks; the first of this launch and of the one before
  std::unordered_map<uint64_t, Meeting> meetings_;
  bool waited_ = false;  // some thread of this launch for the previous one
  Fault fault_;
  std::string refusal_;
  std::vector<LaunchRecord> launches_;
  std::unordered_map<const void *, uint32_t> prepared_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unique_ptr<Stacks> stacks_;
  const bool prints_launches_;
  std::vector<SiteCounters> sites_;
  std::vector<int32_t> site_slots_;  // open addressing into sites_
  struct Scattered {
    uint64_t key;
    int32_t occurrence, lane;
    const LogEntry *entry;
  };
  std::vector<Scattered> scattered_;                // of flush()
  std::vector<std::pair<uint64_t, int32_t>> seen_;  // of flush()

 public:
  Machine();
  ~Machine();
};

extern Machine the_machine;
inline Machine &machine() { return the_machine; }

// ---- what runs for every access ------------------------------------------------------------------------------------------------------------

inline uint64_t site_key(const Site &site) {
  static_assert(sizeof(Site) == sizeof(uint64_t));
  return __builtin_bit_cast(uint64_t, site);
}

inline Accessor Machine::accessor(const Lane &lane, bool several) const {
  return {static_cast<uint32_t>(lane.thread), several ? kSeveral : 0, lane.warp->block->now, &lane.warp->clocks};
}

inline uint8_t *Machine::global(const void *device, uint32_t size, bool write, Site site) {
  const uint64_t offset = memory.offset_of(device);
  if (offset % size || !memory.allows(offset, size, write ? Use::write : Use::read)) {
    global_fault("", device, size, write, site);
  }
  BufferRecord &owner = memory.owner_of(offset);
  if (options.races && (write || may_race(owner))) check_writers(owner, offset, size, write, device, site);
  if (write) {
    memory.initialise(offset, size);
    counters_.global_write_bytes += size;
    owner.write_bytes += size;
  } else {
    counters_.global_read_bytes += size;
    owner.read_bytes += size;
  }
  if (options.traffic) note(*current_, write ? Access::global_write : Access::global_read, offset, size, site);
  return memory.bytes_at(offset);
}

inline uint8_t *Machine::global_constant(const void *device, uint32_t size, Site site) {
  uint8_t *bytes = global(device, size, false, site);
  const uint64_t offset = memory.offset_of(device);
  if (options.races && may_race(memory.owner_of(offset))) check_constant(offset, size, device, site);
  return bytes;
}

inline uint8_t *Machine::shared(Bounds bounds, uint32_t at, uint32_t size, bool write, Site site) {
  SharedMemory &memory_of_block = block().shared;
  if (!inside(bounds, at, size) || at % size ||
      !(write ? memory_of_block.none_in_flight(at, size) : memory_of_block.all_in_state(at, size, kPresent))) {
    shared_fault(bounds, at, size, write, site, nullptr);
  }
  if (options.races) {
    const Accessor who = accessor(*current_, false);
    if (const uint32_t earlier = write ? memory_of_block.note_write(at, size, who) : memory_of_block.note_read(at, size, who)) {
      race_fault(at, size, write, earlier, site, *current_);
    }
  }
  if (write) memory_of_block.set_state(at, size, kPresent);
  if (options.traffic) note(*current_, write ? Access::shared_write : Access::shared_read, at, size, site);
  return memory_of_block.data() + at;
}

}  // namespace simt
