#include "tensor_reader.h"

#include <charconv>
#include <numeric>

#include "failure.h"

namespace think::cli {

const char *dtype_tag(think_dtype dtype) { return dtype == THINK_F32 ? "F32" : dtype == THINK_F16 ? "F16" : "BF16"; }

std::string number_text(double value) {
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  return std::string(text, end);
}

void TensorReader::fail(const std::string &what) const { throw Failure(kInput, name_ + ": " + what); }

void TensorReader::damaged(const std::string &what) const { fail(std::string("damaged ") + kind_ + ": " + what); }

const std::string &TensorReader::text(const std::string &key) const {
  const auto found = file_.metadata.find(key);
  if (found == file_.metadata.end()) damaged("__metadata__ has no '" + key + "'");
  return found->second;
}

const std::string &TensorReader::one_of(const std::string &key, const char *a, const char *b) const {
  const std::string &value = text(key);
  if (value != a && value != b) damaged("'" + key + "' is '" + printable(value) + "', expected " + a + " or " + b);
  return value;
}

int64_t TensorReader::integer(const std::string &key, int64_t low, int64_t high) const {
  const std::string &value = text(key);
  int64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size())
    damaged("'" + key + "' is '" + printable(value) + "', expected a whole number");
  if (number < low || number > high) {
    damaged("'" + key + "' is " + value + ", expected " + std::to_string(low) + " .. " + std::to_string(high));
  }
  return number;
}

double TensorReader::real(const std::string &key, double low, double high) const {
  const std::string &value = text(key);
  double number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || !(number >= low && number <= high)) {
    damaged("'" + key + "' is '" + printable(value) + "', expected a number in " + number_text(low) + " .. " + number_text(high));
  }
  return number;
}

const SafeTensor &TensorReader::tensor(const std::string &key, const char *dtype, const std::vector<int64_t> &shape) const {
  const auto found = file_.tensors.find(key);
  if (found == file_.tensors.end()) damaged("tensor '" + key + "' is missing");
  const SafeTensor &result = found->second;
  if (result.dtype != dtype) damaged("'" + key + "' is " + result.dtype + ", expected " + dtype);
  if (result.shape != shape) damaged("'" + key + "' has shape " + shape_text(result.shape) + ", expected " + shape_text(shape));
  return result;
}

std::vector<float> TensorReader::floats(const std::string &key, const std::vector<int64_t> &shape) const {
  std::vector<float> result = numbers<float>(key, "F32", shape);
  check_finite(key, reinterpret_cast<const std::byte *>(result.data()), THINK_F32, shape);
  return result;
}

Buffer TensorReader::rows(const std::string &key, think_dtype dtype, const std::vector<int64_t> &shape) const {
  const SafeTensor &source = tensor(key, dtype_tag(dtype), shape);
  Buffer result(static_cast<int64_t>(source.data.size()));
  if (!source.data.empty()) std::memcpy(result.data(), source.data.data(), source.data.size());
  check_finite(key, result.data(), dtype, shape);
  return result;
}

void TensorReader::check_finite(const std::string &key, const std::byte *data, think_dtype dtype, const std::vector<int64_t> &shape) const {
  const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  const int64_t bad = first_not_finite(data, dtype, count);
  if (bad >= 0) damaged("'" + key + "' is not finite at " + position_text(shape, bad));
}

void TensorReader::check_index(const std::string &prefix, int32_t head, int32_t kept, const int32_t *index, int32_t channels,
                               int32_t unit) const {
  if (kept < 1 || kept > channels || kept % unit != 0) {
    damaged("'" + prefix + ".kept'[" + std::to_string(head) + "] is " + std::to_string(kept) + ", expected 1 .. " +
            std::to_string(channels) + (unit == 1 ? "" : ", a multiple of " + std::to_string(unit)));
  }
  std::vector<bool> seen(channels, false);
  for (int32_t i = 0; i < channels; ++i) {
    const std::string at = "'" + prefix + ".index'[" + std::to_string(head) + ", " + std::to_string(i) + "]";
    if (index[i] < 0 || index[i] >= channels) {
      damaged(at + " is " + std::to_string(index[i]) + ", expected 0 .. " + std::to_string(channels - 1));
    }
    if (seen[index[i]]) damaged(at + ": channel " + std::to_string(index[i]) + " is there twice");
    seen[index[i]] = true;
    if (i != 0 && i != kept && index[i] < index[i - 1]) damaged(at + ": channels must ascend");
  }
}

}  // namespace think::cli
