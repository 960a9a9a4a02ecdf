// NumPy's .npy format, versions 1 to 3. Files are untrusted: every length and extent is checked before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace think::cli {

// A view of a parsed file; `data` points into the bytes that were parsed.
struct NpyView {
  std::string descr;  // "<f4"
  bool fortran_order = false;
  std::vector<int64_t> shape;
  int64_t item_bytes = 0;
  int64_t count = 0;  // product of the shape
  std::span<const std::byte> data;
};

bool is_npy(std::span<const std::byte> file);

// Throws Failure(kInput) whose message begins with `name`.
NpyView parse_npy(std::span<const std::byte> file, const std::string &name);

// The header of a version 1 file in C order, ready to be followed by the data; a multiple of 64 bytes.
std::string npy_header(const std::string &descr, const std::vector<int64_t> &shape);

}  // namespace think::cli
