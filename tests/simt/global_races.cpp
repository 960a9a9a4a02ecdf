// Races in global memory within one launch, and between two that overlap: a byte that one thread wrote and another reads or writes, with nothing that
// orders the two. Within a block that is sync_warp() or a barrier, between blocks only an atomic at which both have been (last_block() is built on
// that). Reads are not remembered, so a write after an unordered read is not found; what a thread learns at an atomic counts as known to its whole
// block at once.
#include "machine.h"

namespace simt {
namespace {

// run << 31 | time << 10 | thread
uint64_t stamp_of(const Lane &lane) {
  const Block &block = *lane.warp->block;
  return static_cast<uint64_t>(block.run) << 31 | static_cast<uint64_t>(block.now) << 10 | static_cast<uint64_t>(lane.thread);
}
uint32_t run_of(uint64_t stamp) { return static_cast<uint32_t>(stamp >> 31); }
uint32_t time_of(uint64_t stamp) { return static_cast<uint32_t>(stamp >> 10) & 0x1fffff; }
uint32_t thread_of(uint64_t stamp) { return static_cast<uint32_t>(stamp) & 0x3ff; }

// `through`: the meeting at which this was learnt; what its arrivals knew of itself is less.
bool knows(const std::vector<Seen> &seen, uint64_t stamp, int32_t depth, const Meeting *through) {
  for (const Seen &known : seen) {
    if (known.meeting == through) continue;
    const auto found = known.meeting->of_run.find(run_of(stamp));
    if (found == known.meeting->of_run.end()) continue;
    for (size_t index : found->second) {
      if (index >= known.arrivals) break;
      const Arrival &arrival = known.meeting->arrivals[index];
      if (time_of(stamp) < arrival.clocks.clock[thread_of(stamp) / 32]) return true;
      if (arrival.thread == thread_of(stamp) && time_of(stamp) <= arrival.time) return true;
    }
  }
  // Rare: known through a third block.
  for (const Seen &known : seen) {
    if (known.meeting == through) continue;
    for (size_t index = 0; depth > 0 && index < known.arrivals; ++index) {
      if (knows(known.meeting->arrivals[index].seen, stamp, depth - 1, known.meeting)) return true;
    }
  }
  return false;
}

}  // namespace

bool Machine::ordered_before(uint64_t stamp, const Lane &lane) const {
  const Block &block = *lane.warp->block;
  if (run_of(stamp) < first_run_) return !spec_->overlap || lane.waited || run_of(stamp) < previous_first_run_;  // an earlier launch, or never
  if (run_of(stamp) == block.run) {
    return thread_of(stamp) == static_cast<uint32_t>(lane.thread) || time_of(stamp) < lane.warp->clocks.clock[thread_of(stamp) / 32];
  }
  for (uint32_t run : block.earlier_runs) {
    if (run_of(stamp) == run) return true;
  }
  return knows(block.seen, stamp, 2, nullptr);
}

void Machine::check_writers(BufferRecord &owner, uint64_t offset, uint32_t size, bool write, const void *device, Site site) {
  const Lane &lane = *current_;
  uint64_t *stamps = memory.stamps_at(offset);
  if (may_race(owner)) {
    uint64_t checked = 0;
    for (uint32_t i = 0; i < size; ++i) {
      if (stamps[i] == checked || ordered_before(stamps[i], lane)) {
        checked = stamps[i];
        continue;
      }
      if (run_of(stamps[i]) < first_run_) {
        return fail(FaultKind::race, site,
                    memory.explain(device, size, write) + ", which the previous launch wrote, before wait_for_previous_launch()", nullptr, device);
      }
      std::string writer = "thread " + std::to_string(thread_of(stamps[i]));
      for (const std::unique_ptr<Block> &other : blocks_) {
        if (other->run != run_of(stamps[i])) continue;
        writer += other->run == lane.warp->block->run
                      ? " of this block"
                      : " of block (" + std::to_string(other->x) + ", " + std::to_string(other->y) + ", " + std::to_string(other->z) + ")";
      }
      if (writer.find("block") == std::string::npos) writer += " of a block that has ended";
      return fail(FaultKind::race, site,
                  memory.explain(device, size, write) + ", which " + writer + " wrote in this launch, with nothing that orders the two", nullptr,
                  device);
    }
  }
  if (!write) return;
  owner.written_in = first_run_;
  const uint64_t own = stamp_of(lane);
  for (uint32_t i = 0; i < size; ++i) stamps[i] = own;
}

// Order does not help such a read: what it finds may have been cached before the write. That holds for a launch that may have started early, too.
void Machine::check_constant(uint64_t offset, uint32_t size, const void *device, Site site) {
  const uint64_t *stamps = memory.stamps_at(offset);
  const uint32_t oldest = spec_->overlap ? previous_first_run_ : first_run_;
  for (uint32_t i = 0; i < size; ++i) {
    if (run_of(stamps[i]) < oldest) continue;
    return fail(FaultKind::race, site,
                memory.explain(device, size, false) +
                    " with load_constant() or load_stream(), which are for data that nobody writes while the kernel runs, but " +
                    (run_of(stamps[i]) < first_run_ ? "the launch that this one overlaps" : "this launch") +
                    " wrote it: use load_global() or load_l2()",
                nullptr, device);
  }
}

// An acq_rel atomic of the running lane: it learns what those before it had done, and leaves what it knows.
void Machine::meet(uint64_t offset) {
  const Lane &lane = *current_;
  Block &block = *lane.warp->block;
  Meeting &meeting = meetings_[offset];
  Seen *own = nullptr;
  for (Seen &seen : block.seen) {
    if (seen.meeting == &meeting) own = &seen;
  }
  if (!own) own = &block.seen.emplace_back(Seen{&meeting, 0});
  own->arrivals = meeting.arrivals.size();
  meeting.of_run[block.run].push_back(meeting.arrivals.size());
  meeting.arrivals.push_back({block.run, static_cast<uint32_t>(lane.thread), block.now, lane.warp->clocks, block.seen});
}

}  // namespace simt
