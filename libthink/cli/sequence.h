// A sequence that think_cache_save() wrote (think/store.h), as far as people want to see it: which tokens are where, which channels are kept, and what
// takes how many bytes. Whether the library would load it is the library's to say (inspect_sequence.h); here only what is shown is checked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "safetensors.h"

namespace think::cli {

// One side of one layer of a run.
struct StoredSide {
  std::vector<int32_t> kept;    // [kv_heads]; empty: every channel is kept
  std::vector<int32_t> index;   // [kv_heads][channels]: kept ascending, then dropped ascending
  std::vector<int32_t> fitted;  // [kv_heads]: 1 = dropped channels are predicted, 0 = they count as zero
};

struct StoredRun {
  int32_t rows = 0, folds = 0;  // tokens; of them blocks of 32 that came after the prune
  std::vector<StoredSide> key, value;  // [layers]
};

// What compact rows of a layer are stored in.
struct StoredFormat {
  std::string key_dtype, key_layout, value_dtype, value_layout;
  bool operator==(const StoredFormat &) const = default;
};

struct StoredSequence {
  int32_t layers = 0, query_heads = 0, kv_heads = 0, key_channels = 0, value_channels = 0, window = 0;
  std::string query_dtype, cache_dtype, mode, budget;
  std::vector<StoredFormat> formats;  // [layers]
  int32_t key_kept = 0, value_kept = 0, sinks = 0;  // as the cache was asked for, per head
  int32_t dense_rows = 0;                           // sinks, then recent rows
  int32_t evicted = 0;                              // tokens that the sequence has been given and no longer holds
  bool scores = false;
  std::vector<StoredRun> runs;

  // Bytes of the file by what they are for; together with `bytes_header` the whole file.
  int64_t bytes_key_rows = 0, bytes_value_rows = 0, bytes_basis = 0, bytes_dense_rows = 0, bytes_scores = 0, bytes_header = 0;

  int64_t compact_tokens() const;
  int64_t tokens() const { return compact_tokens() + dense_rows; }
  int32_t sink_rows() const;   // dense rows before the compact ones
  int64_t dense_bytes() const; // all tokens, also those that are gone, nothing dropped, 16 bits
  std::string formats_text() const;  // "keys u4, values f16", and how many layers have others
};

// Is this such a file, whatever its version and state?
bool is_sequence(const SafetensorsView &file);
// Throws Failure(kInput) whose message begins with `name`.
StoredSequence parse_sequence(const SafetensorsView &file, int64_t file_bytes, const std::string &name);

}  // namespace think::cli
