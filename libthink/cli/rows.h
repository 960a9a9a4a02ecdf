// Query, key and value arrays as the commands take them: npy files [heads, tokens, channels] or [1, heads, tokens, channels].
#pragma once

#include <string>
#include <vector>

#include "number.h"

namespace think::cli {

struct Rows {
  std::string path;
  Buffer file;
  const std::byte *data = nullptr;  // aligned to 64: inside `file`, or in `copy`
  Buffer copy;
  think_dtype dtype = 0;
  std::vector<int64_t> shape;  // as in the file
  int64_t heads = 0, tokens = 0, channels = 0;

  int64_t count() const { return heads * tokens * channels; }
};

// Reads and checks: format, dtype (f16, f32; with `bf16` also arrays of 2-byte integers that hold bf16 bits), C order, shape, and every
// number finite. `role` names the array in messages ("key").
Rows read_rows(const std::string &path, const std::string &role, bool bf16);

constexpr int32_t kScoreWindow = 32;  // last queries that choose channels and rows

// The three arrays must belong to one layer and one sequence; queries may be those of the last tokens only.
void check_shapes(const Rows &query, const Rows &key, const Rows &value);
// Every number must fit into `dtype`; `advice` ends the message.
void check_range(const Rows &rows, think_dtype dtype, const char *advice);

}  // namespace think::cli
