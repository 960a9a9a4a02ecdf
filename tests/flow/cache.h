// What an engine that owns its memory holds: a context and a plan, workspaces of exactly the size asked for, a dense cache and a compact
// one, contiguous in slots or in shuffled pages. All of it through the public C ABI.
#pragma once

#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>

#include "elements.h"

// Call a fallible function with an error record; a failure ends the test with the library's message.
#define THINK_CALL(function, ...)                                                                                         \
  do {                                                                                                                    \
    think_error call_error = THINK_ERROR_INIT;                                                                            \
    const think_status call_status = function(__VA_ARGS__, &call_error);                                                  \
    if (call_status != THINK_OK)                                                                                          \
      throw std::runtime_error(std::string(#function ": ") + think_status_name(call_status) + ": " + call_error.message); \
  } while (0)

namespace flow {

// Reduced sweeps, for slow hosts such as emulators.
inline bool quick() {
  const char *value = std::getenv("THINK_TEST_QUICK");
  return value && *value && std::string(value) != "0";
}

struct Isa {
  const char *name;
  int32_t id;
};

// The instruction sets of this build that this host can run.
inline std::vector<Isa> available_isas() {
  int64_t mask = 0;
  THINK_CALL(think_query, nullptr, THINK_QUERY_ISA_AVAILABLE, &mask);
  std::vector<Isa> found;
  for (const Isa &isa : {Isa{"portable", THINK_ISA_PORTABLE}, Isa{"avx2", THINK_ISA_AVX2}, Isa{"avx512", THINK_ISA_AVX512},
                         Isa{"avx512bf16", THINK_ISA_AVX512BF16}, Isa{"neon", THINK_ISA_NEON}}) {
    if (mask >> isa.id & 1) found.push_back(isa);
  }
  return found;
}

// A context and a plan on it. `isa` is forced through the environment for as long as the context is being made.
class Plan {
 public:
  explicit Plan(const think_problem &problem, const char *isa = nullptr, const think_context_options *options = nullptr) {
    const char *before = std::getenv("THINK_CPU_ISA");
    const std::string saved = before ? before : "";
    if (isa) setenv("THINK_CPU_ISA", isa, 1);
    think_error error = THINK_ERROR_INIT;
    const think_status status = think_context_create(options, &context_, &error);
    if (isa && before) setenv("THINK_CPU_ISA", saved.c_str(), 1);
    if (isa && !before) unsetenv("THINK_CPU_ISA");
    if (status != THINK_OK) throw std::runtime_error(std::string("think_context_create: ") + error.message);
    THINK_CALL(think_query, context_, THINK_QUERY_ISA, &isa_);
    if (think_plan_create(context_, &problem, &plan_, &error) != THINK_OK) {
      think_context_destroy(context_);
      throw std::runtime_error(std::string("think_plan_create: ") + error.message);
    }
  }
  Plan(const Plan &) = delete;
  ~Plan() {
    think_context_destroy(context_);  // before the plan, which keeps it alive
    think_plan_destroy(plan_);
  }
  operator const think_plan *() const { return plan_; }
  int64_t isa() const { return isa_; }

 private:
  think_context *context_ = nullptr;
  think_plan *plan_ = nullptr;
  int64_t isa_ = 0;
};

// A launch with a zeroed workspace of exactly the bytes that the stage asks for, or with one that is `shared` by all calls of all stages,
// as every call leaves its counters zero. No launch at all where nothing is needed.
class Launch {
 public:
  Launch(const think_plan *plan, int32_t stage, const think_extent &extent, uint32_t flags = 0, const Memory *shared = nullptr) {
    int64_t bytes = -1, alignment = 0;
    THINK_CALL(think_workspace_size, plan, stage, &extent, &bytes, &alignment);
    EXPECT_LE(alignment, 64);
    EXPECT_TRUE(!shared || bytes <= shared->bytes());
    workspace_ = Memory(shared ? 0 : bytes, 0);
    think_launch_init(&launch_, sizeof launch_);
    launch_.flags = flags;
    launch_.workspace = shared ? shared->data() : bytes ? workspace_.data() : nullptr;
    launch_.workspace_bytes = shared ? shared->bytes() : bytes;
  }
  const think_launch *get() const { return launch_.workspace || launch_.flags || launch_.slices ? &launch_ : nullptr; }
  think_launch slice(int32_t index, int32_t count) const {
    think_launch launch = launch_;
    launch.slice = index;
    launch.slices = count;
    return launch;
  }
  const Memory &workspace() const { return workspace_; }

 private:
  Memory workspace_;
  think_launch launch_;
};

inline think_extent extent_of(int32_t batch, int32_t queries, int64_t tokens, int32_t segments = 0) {
  think_extent extent = THINK_EXTENT_INIT;
  extent.batch = batch;
  extent.queries = queries;
  extent.tokens = tokens;
  extent.segments = segments;
  return extent;
}

// How a cache lies in memory: page_tokens 0 = contiguous in slots.
struct Placement {
  int32_t sequences, slots;
  int64_t capacity;  // tokens of one sequence
  int32_t page_tokens;
};

// A page table with more pages than needed, in random order: [sequences][pages per sequence].
class PageTable {
 public:
  PageTable(const Placement &placement, uint32_t seed) {
    if (placement.page_tokens == 0) return;
    stride_ = (placement.capacity + placement.page_tokens - 1) / placement.page_tokens;
    total_ = placement.sequences * stride_ + 3;
    std::vector<int32_t> pages(static_cast<size_t>(total_));
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
    std::shuffle(pages.begin(), pages.end(), std::mt19937(seed));
    pages_.assign(pages.begin(), pages.begin() + placement.sequences * stride_);
  }
  int64_t blocks(const Placement &placement) const { return pages_.empty() ? placement.slots : total_; }
  int64_t block(int32_t sequence, int32_t slot, int64_t row, int32_t page_tokens) const {
    return pages_.empty() ? slot : pages_[static_cast<size_t>(sequence * stride_ + row / page_tokens)];
  }
  void describe(think_segment &segment) const {
    segment.pages = pages_.empty() ? nullptr : pages_.data();
    segment.pages_stride = pages_.empty() ? 0 : stride_;
  }

 private:
  std::vector<int32_t> pages_;
  int64_t stride_ = 0, total_ = 0;
};

// Dense rows with a gap behind each: slots hold [head][token], pages [token][head]. What is not stored is NaN.
class DenseCache {
 public:
  DenseCache(const think_problem &problem, const Placement &placement, uint32_t seed)
      : placement_(placement), table_(placement, seed), heads_(problem.kv_heads), dtype_(problem.cache_dtype) {
    const bool paged = placement.page_tokens > 0;
    const int64_t rows = paged ? placement.page_tokens : placement.capacity, element = bytes_of(dtype_);
    think_segment_init(&segment_, sizeof segment_);
    segment_.page_tokens = static_cast<int32_t>(paged ? placement.page_tokens : (placement.capacity + 31) / 32 * 32);
    const int64_t key_row = (problem.key_channels + 8) * element, value_row = (problem.value_channels + 16) * element;
    lay_out(segment_.key_stride, key_row, rows, paged);
    lay_out(segment_.value_stride, value_row, rows, paged);
    key_ = Memory(table_.blocks(placement) * segment_.key_stride[0]);
    value_ = Memory(table_.blocks(placement) * segment_.value_stride[0]);
    segment_.key = key_.data();
    segment_.value = value_.data();
    segment_.key_dtype = segment_.value_dtype = dtype_;
    table_.describe(segment_);
  }

  void *key_row(int32_t sequence, int32_t slot, int32_t head, int64_t row) {
    return address(key_, segment_.key_stride, sequence, slot, head, row);
  }
  void *value_row(int32_t sequence, int32_t slot, int32_t head, int64_t row) {
    return address(value_, segment_.value_stride, sequence, slot, head, row);
  }
  const think_segment &segment() const { return segment_; }
  Memory &key() { return key_; }

 private:
  void lay_out(int64_t *stride, int64_t row, int64_t rows, bool paged) {
    stride[0] = heads_ * rows * row;
    stride[1] = paged ? row : rows * row;
    stride[2] = paged ? heads_ * row : row;
  }
  void *address(const Memory &memory, const int64_t *stride, int32_t sequence, int32_t slot, int32_t head, int64_t row) {
    const int64_t block = table_.block(sequence, slot, row, placement_.page_tokens);
    const int64_t inside = placement_.page_tokens ? row % placement_.page_tokens : row;
    return memory.data() + block * stride[0] + head * stride[1] + inside * stride[2];
  }
  Placement placement_;
  PageTable table_;
  int32_t heads_;
  think_dtype dtype_;
  Memory key_, value_;
  think_segment segment_;
};

// Compact keys and values with their bases, sized by think_layout() and think_basis_size(). A side without a basis holds all channels.
class CompactCache {
 public:
  CompactCache(const think_plan *plan, const think_problem &problem, const Placement &placement, int64_t total_key, int64_t total_value,
               bool with_key_basis, bool with_value_basis, uint32_t seed, const think_format *format = nullptr)
      : table_(placement, seed),
        key_head_offset(static_cast<size_t>(placement.slots) * problem.kv_heads, -1),
        value_head_offset(key_head_offset) {
    const int64_t rows = placement.page_tokens ? placement.page_tokens : (placement.capacity + 31) / 32 * 32;
    think_layout_info_init(&layout, sizeof layout);
    THINK_CALL(think_layout, plan, format, static_cast<int32_t>(rows), total_key, total_value, &layout);
    EXPECT_LE(layout.alignment, 64);
    key = Memory(table_.blocks(placement) * layout.key_page_bytes);
    value = Memory(table_.blocks(placement) * layout.value_page_bytes);
    think_segment_init(&segment, sizeof segment);
    segment.key_layout = format ? format->key_layout : THINK_TILES;
    segment.value_layout = format ? format->value_layout : THINK_ROWS;
    segment.page_tokens = static_cast<int32_t>(rows);
    segment.key = key.data();
    segment.value = value.data();
    segment.key_dtype = format && format->key_dtype ? format->key_dtype : problem.cache_dtype;
    segment.value_dtype = format && format->value_dtype ? format->value_dtype : problem.cache_dtype;
    segment.key_stride[0] = layout.key_page_bytes;
    segment.value_stride[0] = layout.value_page_bytes;
    segment.key_head_offset = key_head_offset.data();
    segment.value_head_offset = value_head_offset.data();
    table_.describe(segment);
    if (with_key_basis) segment.key_basis = bind(plan, THINK_KEYS, placement.slots, key_basis_memory_, key_basis);
    if (with_value_basis) segment.value_basis = bind(plan, THINK_VALUES, placement.slots, value_basis_memory_, value_basis);
  }
  CompactCache(const CompactCache &) = delete;

 private:
  const think_basis *bind(const think_plan *plan, int32_t side, int32_t slots, Memory &memory, think_basis &basis) {
    int64_t bytes = 0, alignment = 0;
    THINK_CALL(think_basis_size, plan, side, slots, &bytes, &alignment);
    EXPECT_LE(alignment, 64);
    memory = Memory(bytes);
    think_basis_init(&basis, sizeof basis);
    THINK_CALL(think_basis_bind, plan, side, slots, memory.data(), bytes, &basis);
    return &basis;
  }
  PageTable table_;
  Memory key_basis_memory_, value_basis_memory_;

 public:
  think_layout_info layout;
  Memory key, value;
  think_basis key_basis, value_basis;
  std::vector<int64_t> key_head_offset, value_head_offset;
  think_segment segment;
};

}  // namespace flow
