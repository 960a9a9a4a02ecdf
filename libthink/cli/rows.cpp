#include "rows.h"

#include <algorithm>
#include <cstring>

#include "failure.h"
#include "file.h"
#include "npy.h"

namespace think::cli {

Rows read_rows(const std::string &path, const std::string &role, bool bf16) {
  Rows rows;
  rows.path = path;
  rows.file = read_file(path);
  const std::string name = path + " (" + role + ")";
  const NpyView view = parse_npy(rows.file.bytes(), name);
  const bool raw16 = view.descr == "<u2" || view.descr == "<V2" || view.descr == "|V2";
  if (view.descr == "<f2") {
    rows.dtype = THINK_F16;
  } else if (view.descr == "<f4") {
    rows.dtype = THINK_F32;
  } else if (raw16 && bf16) {
    rows.dtype = THINK_BF16;
  } else {
    throw Failure(kInput, name + ": dtype '" + printable(view.descr) + "' is not supported; expected '<f2' or '<f4'" +
                              (raw16 ? ". If it holds bf16 bits, add --bf16" : ", or bf16 bits as '<u2' together with --bf16"));
  }
  if (view.fortran_order) throw Failure(kInput, name + ": Fortran order is not supported; save numpy.ascontiguousarray(array)");
  if (view.shape.size() != 3 && view.shape.size() != 4) {
    throw Failure(kInput,
                  name + ": shape " + shape_text(view.shape) + ", expected [heads, tokens, channels] or [1, heads, tokens, channels]");
  }
  const size_t skip = view.shape.size() - 3;
  if (skip && view.shape[0] != 1) throw Failure(kInput, name + ": shape " + shape_text(view.shape) + ": only a batch of 1 is supported");
  rows.shape = view.shape;
  rows.heads = view.shape[skip];
  rows.tokens = view.shape[skip + 1];
  rows.channels = view.shape[skip + 2];
  if (view.count == 0) throw Failure(kInput, name + ": shape " + shape_text(view.shape) + " has no elements");
  // The library's own limits are tighter; these keep every product below within 32 bits per axis.
  if (rows.heads > 65536 || rows.channels > 65536 || rows.tokens > INT32_MAX) {
    throw Failure(kInput, name + ": shape " + shape_text(view.shape) + " is beyond 65536 heads, 2^31 - 1 tokens or 65536 channels");
  }
  const int64_t bad = first_not_finite(view.data.data(), rows.dtype, view.count);
  if (bad >= 0) {
    const float value = number_at(view.data.data(), rows.dtype, bad);
    throw Failure(kInput, name + ": " + (value != value ? "NaN" : "infinity") + " at " + position_text(view.shape, bad));
  }
  // NumPy places data at a multiple of 64 in the file, and the buffer is aligned; other writers may not.
  rows.data = view.data.data();
  if (reinterpret_cast<uintptr_t>(rows.data) % 64 != 0) {
    rows.copy = Buffer(static_cast<int64_t>(view.data.size()));
    std::memcpy(rows.copy.data(), view.data.data(), view.data.size());
    rows.data = rows.copy.data();
    rows.file = Buffer();
  }
  return rows;
}

void check_shapes(const Rows &query, const Rows &key, const Rows &value) {
  const auto fail = [](const Rows &rows, const std::string &what) {
    throw Failure(kInput, rows.path + ": shape " + shape_text(rows.shape) + ": " + what);
  };
  if (value.heads != key.heads)
    fail(value, "the values have " + std::to_string(value.heads) + " heads, the keys " + std::to_string(key.heads));
  if (value.tokens != key.tokens)
    fail(value, "the values have " + std::to_string(value.tokens) + " tokens, the keys " + std::to_string(key.tokens));
  if (query.channels != key.channels)
    fail(query, "the queries have " + std::to_string(query.channels) + " channels, the keys " + std::to_string(key.channels));
  if (query.heads % key.heads != 0)
    fail(query, std::to_string(query.heads) + " query heads are not a multiple of the " + std::to_string(key.heads) + " KV heads");
  if (query.tokens > key.tokens) fail(query, "more query tokens than the " + std::to_string(key.tokens) + " key tokens");
  const int64_t needed = std::min<int64_t>(kScoreWindow, key.tokens);
  if (query.tokens < needed) fail(query, "expected all queries, or at least those of the last " + std::to_string(needed) + " tokens");
}

void check_range(const Rows &rows, think_dtype dtype, const char *advice) {
  const int64_t bad = dtype == THINK_F16 ? first_above_half(rows.data, rows.dtype, rows.count()) : -1;
  if (bad >= 0) {
    throw Failure(kInput, rows.path + ": " + std::to_string(number_at(rows.data, rows.dtype, bad)) + " at " +
                              position_text(rows.shape, bad) + " does not fit into f16" + advice);
  }
}

}  // namespace think::cli
