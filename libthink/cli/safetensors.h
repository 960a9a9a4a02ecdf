// The safetensors format: 8 bytes of header length, a JSON header, the data. Files are untrusted, and the rules of the format are enforced:
// tensors lie one behind the other without holes or overlaps, names are unique, every size is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace think::cli {

struct SafeTensor {
  std::string dtype;  // "F16"
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};

// A view of a parsed file; the data point into the bytes that were parsed.
struct SafetensorsView {
  std::map<std::string, SafeTensor> tensors;
  std::map<std::string, std::string> metadata;
};

// Bytes of an element of a safetensors dtype, 0 for an unknown name.
int64_t safetensors_item_bytes(const std::string &dtype);

// Throws Failure(kInput) whose message begins with `name`.
SafetensorsView parse_safetensors(std::span<const std::byte> file, const std::string &name);

// A tensor to be written: `data` must stay valid until the file is written.
struct NamedTensor {
  std::string name, dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};

// Orders the tensors by element size, so that each is aligned to its element, and makes length and header; their data follow in that order,
// which begins at a multiple of 64 bytes.
std::string safetensors_header(std::vector<NamedTensor> &tensors, const std::map<std::string, std::string> &metadata);

}  // namespace think::cli
