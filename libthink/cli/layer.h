// A pruned layer as it is stored in a safetensors file: compact keys and values, the basis that says what they mean, and the rows that
// stayed dense. README.md lists the tensors. A file is checked completely when it is read: what passes can be handed to the library.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "file.h"
#include "number.h"
#include "safetensors.h"

namespace think::cli {

struct LayerSide {
  int32_t channels = 0;
  std::vector<int32_t> kept;           // [kv_heads]
  std::vector<int32_t> index;          // [kv_heads][channels]: kept ascending, then dropped ascending
  std::vector<int64_t> weight_offset;  // [kv_heads], bytes into weight; -1 = none
  std::vector<float> offset;           // [kv_heads][channels]
  std::vector<float> energy;           // [kv_heads][channels]: mean square over all tokens
  Buffer weight;                       // f16
  Buffer compact;                      // the heads one behind the other; keys [tile][kept][32], values [row][kept]
  std::vector<int64_t> head_offset;    // [kv_heads], bytes into compact
  Buffer dense;                        // [kv_heads][tokens - rows][channels]

  int64_t kept_total() const;
  bool is_dense() const;  // every head keeps every channel
  int64_t basis_bytes() const;
};

struct Layer {
  int32_t query_heads = 0, kv_heads = 0;
  int64_t tokens = 0, first = 0, rows = 0;  // rows [first, first + rows) of the tokens are compact
  think_dtype dtype = 0;                    // of every stored row
  float scale = 0, softcap = 0;             // as in think_problem: 0 = default, none
  std::string mode, budget, library;
  double key_ratio = 0, value_ratio = 0;  // as asked for
  LayerSide key, value;
  std::vector<float> score;   // [kv_heads][key channels]
  std::vector<uint8_t> mask;  // [kv_heads][key channels]: 1 = kept

  int64_t dense_rows() const { return tokens - rows; }
  int64_t dense_bytes() const;   // of all tokens, if nothing were pruned
  int64_t stored_bytes() const;  // compact rows, bases and dense rows: what attention needs
};

// Bytes of W of one head: [dropped][kept rounded up to 8] in f16.
int64_t weight_block_bytes(int32_t channels, int32_t kept);

// Is this a layer file, whatever its version and state?
bool is_layer(const SafetensorsView &file);
// Throws Failure(kInput) whose message begins with `name`.
Layer parse_layer(const SafetensorsView &file, const std::string &name);
void write_layer(const Layer &layer, OutputFile &file);

}  // namespace think::cli
