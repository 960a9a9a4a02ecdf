// Metadata and tensors of a parsed safetensors file, taken out one by one; every miss is a Failure that names the entry, what was expected and what was found.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "number.h"
#include "safetensors.h"

namespace think::cli {

// What a file may say at the most.
constexpr int32_t kMostHeads = 65536, kMostChannels = 256;

const char *dtype_tag(think_dtype dtype);  // "F16", as safetensors calls f32, f16 and bf16
std::string number_text(double value);     // the shortest that is read as the same number

class TensorReader {
 public:
  // `name` of the file, `kind` of what is in it ("layer"): both only for messages. All three must outlive the reader.
  TensorReader(const SafetensorsView &file, const std::string &name, const char *kind) : file_(file), name_(name), kind_(kind) {}

  [[noreturn]] void fail(const std::string &what) const;
  [[noreturn]] void damaged(const std::string &what) const;  // "damaged layer: ..."

  const std::string &text(const std::string &key) const;
  const std::string &one_of(const std::string &key, const char *a, const char *b) const;
  int64_t integer(const std::string &key, int64_t low, int64_t high) const;
  double real(const std::string &key, double low, double high) const;

  bool has(const std::string &key) const { return file_.tensors.count(key) != 0; }
  const SafeTensor &tensor(const std::string &key, const char *dtype, const std::vector<int64_t> &shape) const;
  template <class T>
  std::vector<T> numbers(const std::string &key, const char *dtype, const std::vector<int64_t> &shape) const {
    const SafeTensor &source = tensor(key, dtype, shape);
    std::vector<T> result(source.data.size() / sizeof(T));
    if (!result.empty()) std::memcpy(result.data(), source.data.data(), source.data.size());
    return result;
  }
  std::vector<float> floats(const std::string &key, const std::vector<int64_t> &shape) const;  // that must be finite
  Buffer rows(const std::string &key, think_dtype dtype, const std::vector<int64_t> &shape) const;
  void check_finite(const std::string &key, const std::byte *data, think_dtype dtype, const std::vector<int64_t> &shape) const;

  // The kept channels of a head ascending, then the dropped ones ascending; widths of at least 1, in steps of `unit`.
  void check_index(const std::string &prefix, int32_t head, int32_t kept, const int32_t *index, int32_t channels, int32_t unit) const;

 private:
  const SafetensorsView &file_;
  const std::string &name_;
  const char *kind_;
};

}  // namespace think::cli
