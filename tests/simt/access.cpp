// What happens at an access besides the access: faults in words, cp.async, and the counting of sectors and bank conflicts.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace simt {

// ---- faults --------------------------------------------------------------------------------------------------------------------------------

void Machine::global_fault(const char *what, const void *device, uint32_t size, bool write, Site site) {
  FaultKind kind;
  const std::string story = memory.explain(device, size, write, &kind);
  fail(kind, site, what + story, nullptr, device);
}

void Machine::shared_fault(Bounds bounds, uint32_t at, uint32_t size, bool write, Site site, const Lane *lane) {
  const SharedMemory &memory_of_block = (lane ? *lane->warp->block : block()).shared;
  const std::string access = std::string(write ? "writes " : "reads ") + std::to_string(size) + " bytes at byte ";
  const std::string place = std::to_string(static_cast<int64_t>(static_cast<int32_t>(at - bounds.begin))) + " of a view of " +
                            std::to_string(bounds.end - bounds.begin) + " bytes of shared memory (view at byte " + std::to_string(bounds.begin) + ")";
  if (bounds.end > memory_of_block.bytes()) {
    return fail(FaultKind::out_of_bounds, site, access + place + ", but the launch gave only " + std::to_string(memory_of_block.bytes()) + " bytes",
                lane);
  }
  if (!inside(bounds, at, size)) return fail(FaultKind::out_of_bounds, site, access + place, lane);
  if (at % size) return fail(FaultKind::misaligned, site, access + place + ", not a multiple of " + std::to_string(size), lane);
  for (uint32_t i = 0; i < size; ++i) {
    const uint8_t state = memory_of_block.state(at + i);
    if (state == kInFlight) {
      return fail(FaultKind::in_flight, site, access + place + ": a cp.async is still filling it, the thread that asked for it has not waited", lane);
    }
    if (!write && state == kNeverWritten)
      return fail(FaultKind::uninitialised, site, access + place + ", of which byte " + std::to_string(i) + " was never written", lane);
  }
}

void Machine::race_fault(uint32_t at, uint32_t size, bool write, uint32_t earlier, Site site, const Lane &lane) {
  const uint32_t thread = stamp_thread(earlier);
  const std::string others = earlier & kSeveral
                                 ? "lanes of warp " + std::to_string(thread / 32) + ", thread " + std::to_string(thread) + " among them,"
                                 : "thread " + std::to_string(thread);
  fail(FaultKind::race, site,
       std::string(write ? "writes " : "reads ") + std::to_string(size) + " bytes at byte " + std::to_string(at) + " of shared memory, which " +
           others + " touched, with no " + (thread / 32 == static_cast<uint32_t>(lane.thread) / 32 ? "sync_warp()" : "barrier of both warps") +
           " in between",
       &lane);
}

uint8_t *Machine::global_atomic(void *device, uint32_t size, Site site) {
  const uint64_t offset = memory.offset_of(device);
  if (offset % size || !memory.allows(offset, size, Use::update)) {
    const bool readable = memory.allows(offset, size, Use::read);
    global_fault("atomic: ", device, size, readable, site);
  }
  BufferRecord &owner = memory.owner_of(offset);
  if (options.races) {
    meet(offset);
    if (may_race(owner)) check_writers(owner, offset, size, false, device, site);
  }
  ++counters_.atomics;
  if (options.traffic) note(*current_, Access::atomic, offset, size, site);
  return memory.bytes_at(offset);
}

// ---- cp.async ------------------------------------------------------------------------------------------------------------------------------

// The bytes travel when the scheduler says so, between here and the wait. Until the wait nobody may touch the destination; the wait makes the write
// this thread's own, at that time, so that others need a barrier after it.
void Machine::start_copy(Bounds bounds, uint32_t to, const void *from, uint32_t bytes, uint32_t valid, Site site) {
  Lane &lane = *current_;
  SharedMemory &memory_of_block = block().shared;
  const uint64_t offset = memory.offset_of(from);
  if (valid > bytes) fail(FaultKind::out_of_bounds, site, "cp.async of " + std::to_string(valid) + " valid bytes of " + std::to_string(bytes));
  if (valid) {
    if (offset % bytes || !memory.allows(offset, valid, Use::read)) {
      global_fault("cp.async: ", from, offset % bytes ? bytes : valid, false, site);
    }
    BufferRecord &owner = memory.owner_of(offset);
    if (options.races && may_race(owner)) check_writers(owner, offset, valid, false, from, site);
    counters_.global_read_bytes += valid;
    owner.read_bytes += valid;
  }
  if (!inside(bounds, to, bytes) || to % bytes || !memory_of_block.none_in_flight(to, bytes)) shared_fault(bounds, to, bytes, true, site, nullptr);
  if (options.races) {
    if (const uint32_t earlier = memory_of_block.note_write(to, bytes, accessor(lane, false))) race_fault(to, bytes, true, earlier, site, lane);
  }
  memory_of_block.set_state(to, bytes, kInFlight);
  ++counters_.copies;
  if (options.traffic) {
    if (valid) note(lane, Access::copy_read, offset, valid, site);
    note(lane, Access::copy_write, to, bytes, site);
  }
  lane.copies.push_back({offset, to, bytes, valid, lane.groups, false, site});
  ++lane.warp->copies;
}

void Machine::deliver(Block &block, Copy &copy) {
  uint8_t *to = block.shared.data() + copy.to;
  if (copy.valid) std::memcpy(to, memory.bytes_at(copy.from), copy.valid);
  std::memset(to + copy.valid, 0, copy.bytes - copy.valid);
  copy.arrived = true;
}

// Some copies of some lanes, newest as likely as oldest.
void Machine::deliver_some(Warp &warp) {
  if (!options.seed) return;  // as late as possible
  for (int32_t tries = 0; tries < 4 && warp.copies; ++tries) {
    for (Copy &copy : warp.lanes[random() % 32]->copies) {
      if (!copy.arrived && random() % 2) {
        deliver(*warp.block, copy);
        --warp.copies;
      }
    }
  }
}

void Machine::wait_copies(uint32_t pending) {
  Lane &lane = *current_;
  SharedMemory &memory_of_block = block().shared;
  size_t done = 0;
  // Groups are numbered from 0; number `groups` is still open and no wait covers it.
  while (done < lane.copies.size() && lane.copies[done].group + pending < lane.groups) {
    Copy &copy = lane.copies[done++];
    if (!copy.arrived) {
      deliver(block(), copy);
      --lane.warp->copies;
    }
    memory_of_block.set_state(copy.to, copy.bytes, kPresent);
    if (options.races) memory_of_block.stamp_write(copy.to, copy.bytes, accessor(lane, false));
  }
  lane.copies.erase(lane.copies.begin(), lane.copies.begin() + static_cast<ptrdiff_t>(done));
}

// One row of an ldmatrix: all lanes of the warp get its bytes, so all must be allowed to see it.
const uint8_t *Machine::shared_row(Warp &warp, Lane &lane, Bounds bounds, uint32_t at) {
  SharedMemory &memory_of_block = warp.block->shared;
  if (!inside(bounds, at, 16) || at % 16 || !memory_of_block.all_in_state(at, 16, kPresent)) shared_fault(bounds, at, 16, false, lane.site, &lane);
  if (options.races) {
    if (const uint32_t earlier = memory_of_block.note_read(at, 16, accessor(lane, true))) race_fault(at, 16, false, earlier, lane.site, lane);
  }
  return memory_of_block.data() + at;
}

// ---- counting ------------------------------------------------------------------------------------------------------------------------------

constexpr size_t kLogLimit = 512;

SiteCounters &Machine::site_counters(const Site &site, Access access) {
  const uint64_t key = site_key(site) * 16 + static_cast<uint64_t>(access);
  size_t slot = key * 0x9e3779b97f4a7c15u >> 32 & (site_slots_.size() - 1);
  for (;; slot = (slot + 1) & (site_slots_.size() - 1)) {
    const int32_t index = site_slots_[slot];
    if (index < 0) break;
    if (site_key(sites_[index].site) == site_key(site) && sites_[index].access == access) return sites_[index];
  }
  site_slots_[slot] = static_cast<int32_t>(sites_.size());
  sites_.push_back({site, access});
  if (sites_.size() * 2 > site_slots_.size()) {
    site_slots_.assign(site_slots_.size() * 2, -1);
    for (size_t i = 0; i < sites_.size(); ++i) {
      size_t place = (site_key(sites_[i].site) * 16 + static_cast<uint64_t>(sites_[i].access)) * 0x9e3779b97f4a7c15u >> 32 & (site_slots_.size() - 1);
      while (site_slots_[place] >= 0) place = (place + 1) & (site_slots_.size() - 1);
      site_slots_[place] = static_cast<int32_t>(i);
    }
  }
  return sites_.back();
}

void Machine::note(Lane &lane, Access access, uint64_t address, uint32_t size, Site site) {
  lane.log.push_back({address, site, size, access, static_cast<uint8_t>(lane.thread % 32)});
  if (lane.log.size() < kLogLimit) return;
  // The other lanes come to the same point, or to a collective; then all logs are counted together.
  Warp &warp = *lane.warp;
  warp.ready &= ~lane.place;
  warp.logging |= lane.place;
  next_lane(warp);
}

static int32_t distinct(uint64_t *values, int32_t count) {
  bool ascending = true;
  for (int32_t i = 1; i < count; ++i) ascending &= values[i - 1] <= values[i];
  if (!ascending) std::sort(values, values + count);
  int32_t different = count > 0;
  for (int32_t i = 1; i < count; ++i) different += values[i] != values[i - 1];
  return different;
}

// Passes that one phase of a shared access takes: the largest number of different 4-byte words in one of the 32 banks.
static int32_t wavefronts(uint64_t *words, int32_t count) {
  bool ascending = true;
  for (int32_t i = 1; i < count; ++i) ascending &= words[i - 1] <= words[i];
  if (!ascending) std::sort(words, words + count);
  uint8_t in_bank[32] = {};
  int32_t most = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (i && words[i] == words[i - 1]) continue;
    most = std::max<int32_t>(most, ++in_bank[words[i] % 32]);
  }
  return most;
}

// The entries of one execution of one instruction by the lanes of a warp.
void Machine::count_group(const LogEntry *const *entries, int32_t count) {
  const LogEntry &first = *entries[0];
  SiteCounters &counters = site_counters(first.site, first.access);
  ++counters.instructions;
  uint64_t values[128];
  int32_t n = 0;
  if (first.access == Access::shared_read || first.access == Access::shared_write || first.access == Access::copy_write) {
    // 16-byte accesses go in four phases of 8 lanes, 8-byte ones in two of 16, narrower ones in one.
    const int32_t words = std::max<int32_t>(1, static_cast<int32_t>(first.size) / 4);
    int32_t phase_of_last = -1, phases = 0, passes = 0;
    for (int32_t i = 0; i <= count; ++i) {
      const int32_t phase = i < count ? entries[i]->lane * words / 32 : -2;
      if (phase != phase_of_last && n) {
        passes += wavefronts(values, n);
        ++phases;
        n = 0;
      }
      phase_of_last = phase;
      if (i == count) break;
      for (int32_t w = 0; w < words; ++w) values[n++] = entries[i]->address / 4 + static_cast<uint64_t>(w);
      counters.bytes += entries[i]->size;
    }
    counters.transactions += static_cast<uint64_t>(passes);
    counters.conflicts += static_cast<uint64_t>(passes - phases);
    counters_.shared_wavefronts += static_cast<uint64_t>(passes);
    counters_.bank_conflicts += static_cast<uint64_t>(passes - phases);
  } else {
    for (int32_t i = 0; i < count; ++i) {
      values[n++] = entries[i]->address / 32;
      counters.bytes += entries[i]->size;
    }
    const uint64_t sectors = static_cast<uint64_t>(distinct(values, n));
    counters.transactions += sectors;
    if (first.access == Access::global_write) {
      counters_.global_write_sectors += sectors;
    } else if (first.access != Access::atomic) {
      counters_.global_read_sectors += sectors;
    }
  }
}

// Counts what the lanes of a warp have done since the last time. Entries belong to one execution of an instruction when they are the n-th of it in
// each lane's log; where all lanes took the same way, that is simply the same position.
void Machine::flush(Warp &warp) {
  const LogEntry *group[32];
  size_t longest = 0;
  const Lane *model = nullptr;
  for (const Lane *lane : warp.lanes) {
    if (lane->log.size() > longest) longest = lane->log.size(), model = lane;
  }
  if (!model) return;
  bool together = true;
  for (const Lane *lane : warp.lanes) {
    if (lane == model || lane->log.empty()) continue;
    together &= lane->log.size() == longest;
    for (size_t i = 0; together && i < longest; ++i) {
      together &= site_key(lane->log[i].site) == site_key(model->log[i].site) && lane->log[i].access == model->log[i].access;
    }
  }
  if (together) {
    for (size_t i = 0; i < longest; ++i) {
      int32_t count = 0;
      for (const Lane *lane : warp.lanes) {
        if (!lane->log.empty()) group[count++] = &lane->log[i];
      }
      count_group(group, count);
    }
  } else {
    scattered_.clear();
    for (int32_t l = 0; l < 32; ++l) {
      const Lane &lane = *warp.lanes[l];
      seen_.clear();
      for (const LogEntry &entry : lane.log) {
        uint64_t key = site_key(entry.site) * 16 + static_cast<uint64_t>(entry.access);
        auto found = std::find_if(seen_.begin(), seen_.end(), [&](const auto &pair) { return pair.first == key; });
        if (found == seen_.end()) found = seen_.insert(seen_.end(), {key, 0});
        scattered_.push_back({key, found->second++, l, &entry});
      }
    }
    std::sort(scattered_.begin(), scattered_.end(), [](const Scattered &a, const Scattered &b) {
      return a.key != b.key ? a.key < b.key : a.occurrence != b.occurrence ? a.occurrence < b.occurrence : a.lane < b.lane;
    });
    for (size_t i = 0; i < scattered_.size();) {
      int32_t count = 0;
      const size_t begin = i;
      for (; i < scattered_.size() && scattered_[i].key == scattered_[begin].key && scattered_[i].occurrence == scattered_[begin].occurrence; ++i) {
        group[count++] = scattered_[i].entry;
      }
      count_group(group, count);
    }
  }
  for (Lane *lane : warp.lanes) lane->log.clear();
}

// ldmatrix: each matrix is a phase of eight rows of 16 bytes.
void Machine::count_phases(const Site &site, const uint32_t *rows, int32_t phases) {
  if (!options.traffic) return;
  SiteCounters &counters = site_counters(site, Access::ldmatrix);
  ++counters.instructions;
  counters.bytes += static_cast<uint64_t>(phases) * 128;
  int32_t passes = 0;
  for (int32_t phase = 0; phase < phases; ++phase) {
    uint64_t words[32];
    for (int32_t i = 0; i < 32; ++i) words[i] = rows[phase * 8 + i / 4] / 4 + static_cast<uint64_t>(i % 4);
    passes += wavefronts(words, 32);
  }
  counters.transactions += static_cast<uint64_t>(passes);
  counters.conflicts += static_cast<uint64_t>(passes - phases);
  counters_.shared_wavefronts += static_cast<uint64_t>(passes);
  counters_.bank_conflicts += static_cast<uint64_t>(passes - phases);
}

}  // namespace simt
