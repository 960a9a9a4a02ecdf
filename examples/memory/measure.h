// What a cache of a model's shape takes from its allocator while sequences live in it: nothing is estimated here, all bytes were handed out.
#pragma once

#include <think.h>

#include <cstdint>
#include <string>

namespace memory {

struct Shape {
  const char *name;
  int32_t layers, query_heads, kv_heads, channels;
  int64_t parameters;
  int64_t weight_bytes() const { return 2 * parameters; }
  int64_t row_bytes() const { return int64_t{4} * kv_heads * channels; }  // keys and values of one token and layer in 16 bits
};

// How rows are stored. Kept channels of each KV head; a format of 16 is f16.
struct Stack {
  std::string name;
  int32_t mode, key_kept, value_kept;  // THINK_MODE_..., channels, -1 = all
  int32_t bits;                        // of compact rows
  int32_t sinks, recent;               // rows that stay dense, -1 = none
  int32_t fold;                        // THINK_FOLD_...
  bool prunes() const { return key_kept > 0 || value_kept > 0 || bits < 16; }
};

// Sequences that come one after the other: a prompt, a prune; then all of them grow by one token per step.
struct Load {
  int32_t layers, sequences, prompt, generated;
  int64_t tokens() const { return int64_t{prompt} + generated; }
};

struct Measured {
  int64_t dense;      // 16-bit rows of all tokens, without any slack
  int64_t held;       // pages and bases at the end
  int64_t basis;      // of them bases
  int64_t allocated;  // all that the cache has from the allocator at the end, spare pages and tables included
  int64_t peak;       // the most that it ever had
  int64_t dense_rows; // rows of each sequence that are dense at the end
};

// Throws std::runtime_error with the library's message, and where the allocator and think_cache_usage() disagree by a byte.
Measured measure(const Shape &shape, const Stack &stack, const Load &load);

// The format of so many bits, 0 where there is none.
think_dtype format_of(int32_t bits);

}  // namespace memory
