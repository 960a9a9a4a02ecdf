// The scheduler: which lane of which warp of which block runs next.
#include "machine.h"

#include <signal.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <stdexcept>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace simt {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

// Stacks of the lanes, each with a page behind it that nobody may touch.
struct Machine::Stacks {
#if defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
  static constexpr uint64_t kStack = 1 << 18;
#else
  static constexpr uint64_t kStack = 1 << 16;
#endif
  static constexpr uint64_t kPage = 4096, kStride = kStack + kPage;
  uint8_t *memory = nullptr;
  uint64_t count = 0;

  ~Stacks() {
    if (memory) munmap(memory, count * kStride);
  }
  void provide(uint64_t wanted) {
    if (wanted <= count) return;
    if (memory) munmap(memory, count * kStride);
    void *mapped = mmap(nullptr, wanted * kStride, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    memory = static_cast<uint8_t *>(mapped);
    count = wanted;
    for (uint64_t i = 0; i < count; ++i) mprotect(memory + i * kStride, kPage, PROT_NONE);
  }
  bool behind_one(const void *address) const {
    const uint64_t at = static_cast<uint64_t>(static_cast<const uint8_t *>(address) - memory);
    return memory && at < count * kStride && at % kStride < kPage;
  }
  // The tops are staggered: without that, the hot ends of all stacks share the same few sets of the cache.
  uint8_t *top(uint64_t i) const {
    uint8_t *low = memory + i * kStride + kPage, *high = low + kStack;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(low, kStack);
#endif
    return high - i % 32 * 128;
  }
};

Machine the_machine;

static struct sigaction action_of_the_host;

// A direct dereference of a device pointer ends here; the lane never continues, so leaving the handler by a switch of stacks is fine. What is no business of
// ours, another thread's for example, happens again under the handler of the host.
static void on_segmentation_fault(int, siginfo_t *info, void *) {
  Machine &machine = the_machine;
  if (machine.memory.in_window(info->si_addr) && machine.running_a_lane()) {
    machine.fail(FaultKind::out_of_bounds, Site(),
                 "dereferences a device pointer itself, not through ptx.cuh: " + machine.memory.explain(info->si_addr, 1, false), nullptr,
                 info->si_addr);
  }
  if (machine.running_a_lane() && machine.is_behind_a_stack(info->si_addr))
    machine.fail(FaultKind::out_of_bounds, Site(), "the stack of the lane is full");
  sigaction(SIGSEGV, &action_of_the_host, nullptr);
}

// While a grid runs, the signal is ours; virtual machines have handlers of their own, which they need as soon as it has ended.
class FaultHandler {
 public:
  FaultHandler() {
    static uint8_t alternative_stack[1 << 16];
    stack_t stack = {};
    stack.ss_sp = alternative_stack;
    stack.ss_size = sizeof alternative_stack;
    sigaltstack(&stack, &stack_of_the_host_);
    struct sigaction action = {};
    action.sa_sigaction = on_segmentation_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &action_of_the_host);
  }
  ~FaultHandler() {
    sigaction(SIGSEGV, &action_of_the_host, nullptr);
    sigaltstack(&stack_of_the_host_, nullptr);
  }
  FaultHandler(const FaultHandler &) = delete;

 private:
  stack_t stack_of_the_host_;
};

Machine::Machine() : stacks_(new Stacks), prints_launches_(std::getenv("THINK_SIMT_REPORT") != nullptr) {}

Machine::~Machine() = default;

bool Machine::is_behind_a_stack(const void *address) const { return stacks_->behind_one(address); }

Counters Machine::total() const {
  Counters sum;
  for (const LaunchRecord &launch : launches_) sum += launch.counters;
  return sum;
}

void Machine::reset() {
  fault_ = Fault();
  refusal_.clear();
  launches_.clear();
  memory.reset_counters();
}

// ---- switching -----------------------------------------------------------------------------------------------------------------------------

// Whoever runs after a jump first stores where the one that jumped is to be continued.
static void arrive(transfer_t from) { *static_cast<Context *>(from.data) = from.fctx; }

void lane_entry(transfer_t from) {
  arrive(from);
  the_machine.spec_->invoke(the_machine.spec_->call);
  the_machine.end_lane();
}

void Machine::switch_to(Lane *lane) {
  Context *here = &current_->context;
  current_ = lane;
  arrive(jump_fcontext(lane->context, here));
}

void Machine::switch_to_scheduler() {
  Context *here = &current_->context;
  current_ = nullptr;
  arrive(jump_fcontext(scheduler_, here));
}

// The lane that runs cannot go on: the next ready one of its warp does, or the scheduler.
void Machine::next_lane(Warp &warp) {
  if (!warp.ready && warp.logging) {
    flush(warp);
    warp.ready = warp.logging;
    warp.logging = 0;
  }
  if (!warp.ready) return switch_to_scheduler();
  const uint32_t later = warp.ready & ~((warp.last_place << 1) - 1);
  const uint32_t place = later ? later & -later : warp.ready & -warp.ready;
  warp.last_place = place;
  Lane *lane = warp.order[__builtin_ctz(place)];
  if (lane != current_) switch_to(lane);
}

void Machine::run_warp(Warp &warp) {
  warp.quantum = options.seed ? 1 + static_cast<int32_t>(random() % 64) : 1 << 30;
  if (warp.copies) deliver_some(warp);
  const uint32_t later = warp.ready & ~((warp.last_place << 1) - 1);
  const uint32_t place = later ? later & -later : warp.ready & -warp.ready;
  warp.last_place = place;
  current_ = warp.order[__builtin_ctz(place)];
  arrive(jump_fcontext(current_->context, &scheduler_));
}

// An atomic is where blocks meet, so others may run before and after it.
void Machine::maybe_yield() {
  if (options.seed && random() % 2) switch_to_scheduler();
}

void Machine::end_lane() {
  Lane &lane = *current_;
  Warp &warp = *lane.warp;
  Block &block = *warp.block;
  if (!lane.copies.empty()) {
    const Copy &oldest = lane.copies.front();
    fail(FaultKind::in_flight, oldest.site,
         "the thread ends while its cp.async to byte " + std::to_string(oldest.to) + " of shared memory is under way");
  }
  warp.ready &= ~lane.place;
  warp.ended |= lane.bit;
  lane.waits_for = "has ended";
  --block.live_threads;
  // Those who waited for this lane may go on without it.
  for (int32_t group = warp.group_count - 1; group >= 0; --group) try_group(warp, group);
  for (int32_t name = 0; name < 16; ++name) try_barrier(block, name);
  if (warp.ended == 0xffffffffu) flush(warp);
  next_lane(warp);
}

// ---- collectives and barriers --------------------------------------------------------------------------------------------------------------

void Machine::collective(const Operation &operation, uint32_t mask, void *arguments, Site site) {
  Lane &lane = *current_;
  Warp &warp = *lane.warp;
  if (!(mask & lane.bit)) fail(FaultKind::divergence, site, std::string(operation.name) + " by a lane that its own mask does not name");
  lane.arguments = arguments;
  lane.site = site;
  lane.waits_for = operation.name;
  int32_t g = 0;
  while (g < warp.group_count &&
         (warp.groups[g].operation != &operation || warp.groups[g].mask != mask || site_key(warp.groups[g].site) != site_key(site))) {
    ++g;
  }
  if (g == warp.group_count) warp.groups[warp.group_count++] = {&operation, site, mask, 0, 0};
  warp.groups[g].arrived |= lane.bit;
  warp.groups[g].arrived_places |= lane.place;
  warp.ready &= ~lane.place;
  try_group(warp, g);
  if (!(warp.ready & lane.place)) {
    next_lane(warp);
  } else if (--warp.quantum <= 0) {
    switch_to_scheduler();
  }
}

void Machine::try_group(Warp &warp, int32_t index) {
  const Group &waiting = warp.groups[index];
  if ((waiting.arrived | (warp.ended & waiting.mask)) != waiting.mask || !waiting.arrived) return;
  const Group group = waiting;
  if (group.operation->aligned && (warp.ended & group.mask)) {
    fail(FaultKind::divergence, group.site, std::string(group.operation->name) + " needs all lanes, but some have ended");
  }
  warp.groups[index] = warp.groups[--warp.group_count];
  warp.ready |= group.arrived_places;
  ++counters_.collectives;
  if ((group.arrived | warp.ended) == 0xffffffffu) flush(warp);
  if (warp.copies && random() % 4 == 0) deliver_some(warp);
  group.operation->perform(warp, group.arrived);
}

bool Machine::barrier(int32_t name, int32_t threads, bool value, Site site) {
  Lane &lane = *current_;
  Warp &warp = *lane.warp;
  Block &block = *warp.block;
  Barrier &barrier = block.barriers[name];
  if (threads % 32 || threads < 0 || threads > spec_->threads || (name && !threads)) {
    fail(FaultKind::divergence, site,
         "sync_named(" + std::to_string(name) + ", " + std::to_string(threads) + "): not a number of whole warps of the block");
  }
  if (barrier.arrived && barrier.expected != static_cast<uint32_t>(threads)) {
    fail(FaultKind::divergence, site,
         "sync_named(" + std::to_string(name) + ") with another number of threads than the lanes that wait there already");
  }
  barrier.expected = static_cast<uint32_t>(threads);  // 0 = all live threads
  ++barrier.arrived;
  barrier.any |= value;
  lane.site = site;
  lane.waits_for = name ? "sync_named" : "sync_block";
  warp.ready &= ~lane.place;
  warp.at_barrier[name] |= lane.place;
  try_barrier(block, name);
  if (!(warp.ready & lane.place)) {
    next_lane(warp);
  } else {
    switch_to_scheduler();
  }
  return barrier.result;
}

void Machine::try_barrier(Block &block, int32_t name) {
  Barrier &barrier = block.barriers[name];
  const uint32_t expected = barrier.expected ? barrier.expected : static_cast<uint32_t>(block.live_threads);
  if (!barrier.arrived || barrier.arrived < expected) return;
  barrier.result = barrier.any;
  barrier.any = false;
  barrier.arrived = 0;
  ++counters_.block_barriers;
  tick(block);
  if (spec_->overlap) {
    bool waited = false;
    for (const Lane &lane : block.lanes) waited |= lane.waited;
    for (Lane &lane : block.lanes) lane.waited = waited;
  }
  // All that any participant knew, all of them know now; and what they did themselves is over.
  Clocks common = {};
  for (const Warp &warp : block.warps) {
    if (!warp.at_barrier[name]) continue;
    for (uint32_t v = 0; v < kMaxWarps; ++v) common.clock[v] = std::max(common.clock[v], warp.clocks.clock[v]);
  }
  for (const Warp &warp : block.warps) {
    if (warp.at_barrier[name]) common.clock[warp.index] = block.now;
  }
  for (Warp &warp : block.warps) {
    const uint32_t places = warp.at_barrier[name];
    if (!places) continue;
    check_barrier_sites(warp, places);
    warp.clocks = common;
    warp.at_barrier[name] = 0;
    warp.ready |= places;
    flush(warp);
  }
}

// bar.sync is an instruction of the whole warp.
void Machine::check_barrier_sites(Warp &warp, uint32_t places) {
  const Lane *first = nullptr;
  uint32_t lanes = 0;
  for (uint32_t rest = places; rest; rest &= rest - 1) {
    const Lane *lane = warp.order[__builtin_ctz(rest)];
    if (!first) first = lane;
    if (site_key(lane->site) != site_key(first->site)) {
      fail(FaultKind::divergence, lane->site,
           "a barrier that other lanes of the warp pass in another place, line " + std::to_string(first->site.line()), lane);
    }
    lanes |= lane->bit;
  }
  if ((lanes | warp.ended) != 0xffffffffu) fail(FaultKind::divergence, first->site, "a barrier that only a part of the warp passes", first);
}

void Machine::tick(Block &block) {
  if (++block.now < options.clock_limit) return;
  // The clock is at its end: every order is forgotten, and with it the races of accesses before this moment.
  block.now = 1;
  block.earlier_runs.push_back(block.run);
  block.run = new_run();
  block.shared.forget_times();
  for (Warp &warp : block.warps) std::fill_n(warp.clocks.clock, kMaxWarps, 1u);
}

void Machine::order_warp(Warp &warp) {
  tick(*warp.block);
  warp.clocks.clock[warp.index] = warp.block->now;
  if (!spec_->overlap) return;
  bool waited = false;
  for (const Lane *lane : warp.lanes) waited |= lane->waited;
  for (Lane *lane : warp.lanes) lane->waited = waited;
}

// ---- the grid ------------------------------------------------------------------------------------------------------------------------------

void Machine::start_block(Block &block, int64_t index) {
  block.x = static_cast<int32_t>(index % spec_->grid[0]);
  block.y = static_cast<int32_t>(index / spec_->grid[0] % spec_->grid[1]);
  block.z = static_cast<int32_t>(index / spec_->grid[0] / spec_->grid[1]);
  block.active = true;
  block.live_threads = spec_->threads;
  block.now = 1;
  block.run = new_run();
  block.earlier_runs.clear();
  block.seen.clear();
  block.shared.begin(spec_->shared_bytes, options.races);
  for (Barrier &barrier : block.barriers) barrier = {};
  for (size_t w = 0; w < block.warps.size(); ++w) {
    Warp &warp = block.warps[w];
    warp.block = &block;
    warp.index = static_cast<int32_t>(w);
    warp.ready = 0xffffffffu;
    warp.logging = warp.ended = warp.last_place = 0;
    warp.copies = warp.group_count = 0;
    std::fill_n(warp.at_barrier, 16, 0u);
    std::fill_n(warp.clocks.clock, kMaxWarps, 1u);
    for (int32_t i = 0; i < 32; ++i) warp.order[i] = warp.lanes[i];
    if (options.seed) std::shuffle(warp.order, warp.order + 32, generator_);
    for (int32_t i = 0; i < 32; ++i) {
      Lane &lane = *warp.order[i];
      lane.place = 1u << i;
      lane.groups = 0;
      lane.waited = false;
      lane.copies.clear();
      lane.log.clear();
      lane.waits_for = nullptr;
    }
  }
#if defined(__SANITIZE_ADDRESS__)
  // A lane ends in the middle of functions that never return, near the top of its stack, and what they poisoned stays so.
  for (Lane &lane : block.lanes) ASAN_UNPOISON_MEMORY_REGION(lane.stack - 16384, 16384);
#endif
  for (Lane &lane : block.lanes) lane.context = make_fcontext(lane.stack, Stacks::kStack - 4096, lane_entry);
}

int32_t Machine::refuse(const std::string &why) {
  refusal_ = why;
  return kInvalidValue;
}

int32_t Machine::prepare(const void *kernel, uint32_t shared_bytes) {
  if (const int32_t error = admitted()) return error;
  if (shared_bytes > kSharedLimit)
    return refuse("prepare: " + std::to_string(shared_bytes) + " bytes of shared memory; a block may have " + std::to_string(kSharedLimit));
  prepared_[kernel] = shared_bytes;
  return kSuccess;
}

int32_t Machine::launch(const LaunchSpec &spec, const void *kernel) {
  if (fault_) return kLaunchFailure;  // sticky, as on the device
  if (spec_) throw std::logic_error("simt: a launch inside of a kernel");
  const std::string name = std::string(spec.name) + ": ";
  if (spec.threads <= 0 || spec.threads > 1024 || spec.threads % 32) {
    return refuse(name + std::to_string(spec.threads) + " threads; a block has 32 to 1024, and whole warps");
  }
  if (spec.grid[1] > 65535 || spec.grid[2] > 65535) return refuse(name + "a grid has at most 65535 blocks in y and z");
  const auto prepared = prepared_.find(kernel);
  if (spec.shared_bytes > std::max<uint32_t>(48 * 1024, prepared == prepared_.end() ? 0 : prepared->second)) {
    return refuse(name + std::to_string(spec.shared_bytes) + " bytes of shared memory without a prepare() that allows them");
  }
  return run_grid(spec);
}

int32_t Machine::run_grid(const LaunchSpec &spec) {
  const FaultHandler ours;
  const int64_t total = static_cast<int64_t>(spec.grid[0]) * spec.grid[1] * spec.grid[2];
  spec_ = &spec;
  counters_ = {};
  waited_ = false;
  meetings_.clear();
  if (first_run_ && last_run_ >= previous_first_run_) previous_first_run_ = std::max(previous_first_run_, first_run_);
  first_run_ = last_run_ + 1;
  sites_.clear();
  site_slots_.assign(256, -1);
  // Launches of one test differ, and are the same in every run of it.
  const uint64_t seed = options.seed + launches_.size() * 7919;
  generator_.seed(static_cast<uint32_t>(seed * 2654435761u % 2147483646u + 1));
  std::vector<int64_t> order(static_cast<size_t>(total));
  std::iota(order.begin(), order.end(), 0);
  if (options.seed) std::shuffle(order.begin(), order.end(), generator_);

  int64_t resident = options.resident_blocks ? options.resident_blocks : options.seed ? 2 + random() % 3 : 2;
  resident = std::min(resident, total);
  stacks_->provide(static_cast<uint64_t>(resident) * spec.threads);
  while (static_cast<int64_t>(blocks_.size()) < resident) blocks_.push_back(std::make_unique<Block>());
  const size_t warps = static_cast<size_t>(spec.threads / 32);
  for (int64_t b = 0; b < resident; ++b) {
    Block &block = *blocks_[b];
    block.lanes.resize(static_cast<size_t>(spec.threads));
    block.warps.resize(warps);
    for (int32_t t = 0; t < spec.threads; ++t) {
      Lane &lane = block.lanes[t];
      lane.thread = t;
      lane.warp = &block.warps[t / 32];
      lane.bit = 1u << t % 32;
      lane.stack = stacks_->top(static_cast<uint64_t>(b) * spec.threads + t);
      lane.warp->lanes[t % 32] = &lane;
    }
    start_block(block, order[static_cast<size_t>(b)]);
  }
  int64_t next = resident, live = resident;
  uint32_t turn = 0;
  const uint32_t slots = static_cast<uint32_t>(resident * warps);
  while (live && !fault_) {
    // The first warp that can run, from a random one on.
    turn = options.seed ? random() % slots : turn + 1;
    Warp *found = nullptr;
    for (uint32_t i = 0; i < slots && !found; ++i) {
      const uint32_t slot = (turn + i) % slots;
      Block &block = *blocks_[slot / warps];
      if (block.active && block.warps[slot % warps].ready) found = &block.warps[slot % warps];
    }
    if (!found) {
      explain_standstill();
      break;
    }
    run_warp(*found);
    Block &block = *found->block;
    if (!fault_ && block.live_threads == 0) {
      if (next < total) {
        start_block(block, order[static_cast<size_t>(next++)]);
      } else {
        block.active = false;
        --live;
      }
    }
  }
  for (std::unique_ptr<Block> &block : blocks_) block->active = false;
  current_ = nullptr;
  if (spec.overlap && !waited_) {
    fail(FaultKind::race, Site(),
         "was launched with overlap, but no thread calls wait_for_previous_launch(): the launch after it may overtake the one before it");
  }
  launches_.push_back({spec.name, {spec.grid[0], spec.grid[1], spec.grid[2]}, spec.threads, spec.shared_bytes, counters_, sites_});
  spec_ = nullptr;
  if (prints_launches_) std::fputs(launches_.back().text().c_str(), stdout);
  return fault_ ? kLaunchFailure : kSuccess;
}

// Nobody can run and not all have ended: name those who wait in the first warp that is stuck.
void Machine::explain_standstill() {
  for (std::unique_ptr<Block> &block : blocks_) {
    if (!block->active) continue;
    for (Warp &warp : block->warps) {
      if (warp.ended == 0xffffffffu) continue;
      std::string story = "no lane can go on. Warp " + std::to_string(warp.index) + ": ";
      const Lane *culprit = nullptr;
      for (int32_t first = 0; first < 32;) {
        const Lane &lane = *warp.lanes[first];
        int32_t last = first;
        while (last < 31 && warp.lanes[last + 1]->waits_for == lane.waits_for &&
               (warp.ended & lane.bit || site_key(warp.lanes[last + 1]->site) == site_key(lane.site))) {
          ++last;
        }
        if (first) story += "; ";
        story += "lanes " + std::to_string(first) + "-" + std::to_string(last);
        if (warp.ended & lane.bit) {
          story += " have ended";
        } else {
          story += std::string(" wait in ") + lane.waits_for + " at line " + std::to_string(lane.site.line());
          if (!culprit) culprit = &lane;
        }
        first = last + 1;
      }
      return fail(FaultKind::divergence, culprit->site, story, culprit);
    }
  }
}

void Machine::fail(FaultKind kind, Site site, const std::string &what, const Lane *lane, const void *address) {
  if (!lane) lane = current_;
  if (!fault_) {
    fault_.kind = kind;
    fault_.kernel = spec_->name;
    if (lane) {
      const Block &block = *lane->warp->block;
      fault_.block[0] = block.x, fault_.block[1] = block.y, fault_.block[2] = block.z;
      fault_.thread = lane->thread;
    }
    fault_.file = site.file_name();
    fault_.line = site.line();
    fault_.what = what;
    fault_.address = reinterpret_cast<uint64_t>(address);
    if (address) {
      if (const BufferRecord *buffer = memory.nearest(memory.offset_of(address))) fault_.buffer = buffer->name;
    }
  }
  // The lanes of this launch are never continued; they own nothing but their stacks.
  if (current_) switch_to_scheduler();
}

}  // namespace simt
