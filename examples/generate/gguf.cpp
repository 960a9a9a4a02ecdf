#include "gguf.h"

#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace generate {
namespace {

// Numbers of the format.
constexpr uint32_t kMagic = 0x46554747; // "GGUF"
enum ValueType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };
enum TensorType : uint32_t { kTensorF32 = 0, kTensorF16 = 1, kTensorQ4_1 = 3, kTensorQ8_0 = 8 };

constexpr int64_t kBlock = 32; // elements per block of Q4_1 and Q8_0

struct TypeTraits {
  int64_t block_elements;
  int64_t block_bytes;
};

TypeTraits traits(uint32_t type, const std::string &name) {
  switch (type) {
  case kTensorF32: return {1, 4};
  case kTensorF16: return {1, 2};
  case kTensorQ4_1: return {kBlock, 2 + 2 + kBlock / 2}; // f16 scale, f16 minimum, 32 nibbles
  case kTensorQ8_0: return {kBlock, 2 + kBlock};         // f16 scale, 32 signed bytes
  }
  throw std::runtime_error("tensor " + name + ": GGUF type " + std::to_string(type) + " is not read here (F32, F16, Q8_0 and Q4_1 are)");
}

float half_to_float(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31;
  const uint32_t fraction = half & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) { // zero and subnormals: fraction * 2^-24 is exact in f32
    const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

float load_half(const std::byte *at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return half_to_float(bits);
}

void dequantize(const GgufFile::Tensor &tensor, float *out) {
  const std::byte *at = tensor.data;
  switch (tensor.type) {
  case kTensorF32: std::memcpy(out, at, static_cast<size_t>(tensor.elements) * sizeof(float)); return;
  case kTensorF16:
    for (int64_t i = 0; i < tensor.elements; ++i) out[i] = load_half(at + 2 * i);
    return;
  case kTensorQ8_0:
    for (int64_t i = 0; i < tensor.elements; i += kBlock, at += 2 + kBlock) {
      const float scale = load_half(at);
      for (int64_t j = 0; j < kBlock; ++j) out[i + j] = scale * static_cast<float>(std::to_integer<int8_t>(at[2 + j]));
    }
    return;
  case kTensorQ4_1: // byte j holds element j (low nibble) and j + 16 (high nibble); value = scale * code + minimum
    for (int64_t i = 0; i < tensor.elements; i += kBlock, at += 4 + kBlock / 2) {
      const float scale = load_half(at), minimum = load_half(at + 2);
      for (int64_t j = 0; j < kBlock / 2; ++j) {
        const auto byte = std::to_integer<uint32_t>(at[4 + j]);
        out[i + j] = scale * static_cast<float>(byte & 15) + minimum;
        out[i + j + kBlock / 2] = scale * static_cast<float>(byte >> 4) + minimum;
      }
    }
    return;
  }
}

// A position in the mapped file that refuses to run past its end.
class Cursor {
public:
  Cursor(const std::byte *begin, size_t bytes) : begin_(begin), bytes_(bytes) {}

  template <typename T> T read() {
    need(sizeof(T));
    T value;
    std::memcpy(&value, begin_ + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  std::string read_string() {
    const auto length = read<uint64_t>();
    need(length);
    std::string value(reinterpret_cast<const char *>(begin_ + at_), length);
    at_ += length;
    return value;
  }

  size_t position() const { return at_; }
  size_t left() const { return bytes_ - at_; }

private:
  void need(uint64_t bytes) const {
    if (bytes > left()) throw std::runtime_error("truncated: " + std::to_string(bytes) + " bytes expected at offset " + std::to_string(at_) + ", " + std::to_string(left()) + " left");
  }

  const std::byte *begin_;
  size_t bytes_;
  size_t at_ = 0;
};

int64_t read_unsigned(uint64_t value) {
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) throw std::runtime_error("an integer of the metadata exceeds 63 bits");
  return static_cast<int64_t>(value);
}

GgufFile::Value read_scalar(Cursor &cursor, uint32_t type) {
  switch (type) {
  case kU8: return int64_t{cursor.read<uint8_t>()};
  case kI8: return int64_t{cursor.read<int8_t>()};
  case kU16: return int64_t{cursor.read<uint16_t>()};
  case kI16: return int64_t{cursor.read<int16_t>()};
  case kU32: return int64_t{cursor.read<uint32_t>()};
  case kI32: return int64_t{cursor.read<int32_t>()};
  case kF32: return double{cursor.read<float>()};
  case kBool: return cursor.read<uint8_t>() != 0;
  case kString: return cursor.read_string();
  case kU64: return read_unsigned(cursor.read<uint64_t>());
  case kI64: return cursor.read<int64_t>();
  case kF64: return cursor.read<double>();
  }
  throw std::runtime_error("metadata value of unknown type " + std::to_string(type));
}

GgufFile::Value read_value(Cursor &cursor, uint32_t type) {
  if (type != kArray) return read_scalar(cursor, type);
  const auto element = cursor.read<uint32_t>();
  const auto count = cursor.read<uint64_t>();
  if (count > cursor.left()) throw std::runtime_error("metadata array of " + std::to_string(count) + " elements does not fit into the file");
  if (element == kString) {
    std::vector<std::string> texts;
    texts.reserve(count);
    for (uint64_t i = 0; i < count; ++i) texts.push_back(cursor.read_string());
    return texts;
  }
  std::vector<double> numbers;
  for (uint64_t i = 0; i < count; ++i) {
    const GgufFile::Value value = read_scalar(cursor, element);
    if (const auto *integer = std::get_if<int64_t>(&value)) numbers.push_back(static_cast<double>(*integer));
    else if (const auto *flag = std::get_if<bool>(&value)) numbers.push_back(*flag ? 1.0 : 0.0);
    else numbers.push_back(std::get<double>(value));
  }
  return numbers;
}

} // namespace

GgufFile::GgufFile(const std::string &path) : path_(path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw std::runtime_error("cannot open the model " + path + ": " + std::strerror(errno));
  struct stat status = {};
  void *map = MAP_FAILED;
  if (fstat(file, &status) == 0 && status.st_size > 0) map = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (map == MAP_FAILED) throw std::runtime_error("cannot map the model " + path);
  map_ = static_cast<const std::byte *>(map);
  bytes_ = static_cast<size_t>(status.st_size);
  try {
    parse();
  } catch (const std::exception &error) {
    munmap(const_cast<std::byte *>(map_), bytes_);
    throw std::runtime_error(path + ": " + error.what());
  }
}

GgufFile::~GgufFile() { munmap(const_cast<std::byte *>(map_), bytes_); }

void GgufFile::parse() {
  Cursor cursor(map_, bytes_);
  if (cursor.read<uint32_t>() != kMagic) throw std::runtime_error("not a GGUF file");
  const auto version = cursor.read<uint32_t>();
  if (version < 2 || version > 3) throw std::runtime_error("GGUF version " + std::to_string(version) + " is not read here (2 and 3 are)");
  const auto tensor_count = cursor.read<uint64_t>();
  const auto value_count = cursor.read<uint64_t>();
  for (uint64_t i = 0; i < value_count; ++i) {
    std::string key = cursor.read_string();
    const auto type = cursor.read<uint32_t>();
    metadata_.insert_or_assign(std::move(key), read_value(cursor, type));
  }

  std::map<std::string, uint64_t> offsets;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    const std::string name = cursor.read_string();
    const auto dimensions = cursor.read<uint32_t>();
    if (dimensions < 1 || dimensions > 4) throw std::runtime_error("tensor " + name + " has " + std::to_string(dimensions) + " dimensions, 1 to 4 expected");
    Tensor tensor;
    tensor.elements = 1;
    for (uint32_t d = 0; d < dimensions; ++d) {
      const int64_t extent = read_unsigned(cursor.read<uint64_t>());
      // 2^40 elements are far beyond any file that could be mapped; the bound keeps every later product inside 63 bits.
      if (extent < 1 || extent > (int64_t{1} << 40) / tensor.elements) throw std::runtime_error("tensor " + name + " has an impossible extent " + std::to_string(extent));
      tensor.extent.push_back(extent);
      tensor.elements *= extent;
    }
    tensor.type = cursor.read<uint32_t>();
    offsets[name] = cursor.read<uint64_t>();
    tensors_[name] = tensor;
  }

  const int64_t alignment = integer_or("general.alignment", 32);
  if (alignment < 1 || alignment > 1 << 20) throw std::runtime_error("general.alignment is " + std::to_string(alignment));
  const auto step = static_cast<uint64_t>(alignment);
  const uint64_t base = (cursor.position() + step - 1) / step * step;
  for (auto &[name, tensor] : tensors_) {
    const uint64_t offset = offsets[name];
    if (base > bytes_ || offset > bytes_ - base) throw std::runtime_error("tensor " + name + " starts behind the end of the file");
    tensor.data = map_ + base + offset;
  }
}

const GgufFile::Value &GgufFile::value(const std::string &key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) throw std::runtime_error(path_ + ": metadata lacks " + key);
  return found->second;
}

int64_t GgufFile::integer(const std::string &key) const {
  if (const auto *found = std::get_if<int64_t>(&value(key))) return *found;
  throw std::runtime_error(path_ + ": " + key + " is not an integer");
}

double GgufFile::number(const std::string &key) const {
  const Value &found = value(key);
  if (const auto *real = std::get_if<double>(&found)) return *real;
  if (const auto *integer = std::get_if<int64_t>(&found)) return static_cast<double>(*integer);
  throw std::runtime_error(path_ + ": " + key + " is not a number");
}

const std::string &GgufFile::text(const std::string &key) const {
  if (const auto *found = std::get_if<std::string>(&value(key))) return *found;
  throw std::runtime_error(path_ + ": " + key + " is not a text");
}

const std::vector<std::string> &GgufFile::texts(const std::string &key) const {
  if (const auto *found = std::get_if<std::vector<std::string>>(&value(key))) return *found;
  throw std::runtime_error(path_ + ": " + key + " is not a list of texts");
}

const std::vector<double> &GgufFile::numbers(const std::string &key) const {
  if (const auto *found = std::get_if<std::vector<double>>(&value(key))) return *found;
  throw std::runtime_error(path_ + ": " + key + " is not a list of numbers");
}

void GgufFile::append_f32(const std::string &name, int64_t rows, int64_t columns, std::vector<float> &out) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw std::runtime_error(path_ + ": tensor " + name + " is missing");
  const Tensor &tensor = found->second;
  const int64_t file_columns = tensor.extent[0], file_rows = tensor.elements / file_columns;
  if (file_rows != rows || file_columns != columns)
    throw std::runtime_error(path_ + ": tensor " + name + " is [" + std::to_string(file_rows) + "][" + std::to_string(file_columns) + "], expected [" + std::to_string(rows) + "][" +
                             std::to_string(columns) + "]");
  const TypeTraits type = traits(tensor.type, name);
  if (columns % type.block_elements != 0) throw std::runtime_error(path_ + ": rows of tensor " + name + " are not whole blocks");
  const auto left = static_cast<int64_t>(map_ + bytes_ - tensor.data);
  if (tensor.elements / type.block_elements * type.block_bytes > left) throw std::runtime_error(path_ + ": tensor " + name + " runs past the end of the file");
  const size_t at = out.size();
  out.resize(at + static_cast<size_t>(tensor.elements));
  dequantize(tensor, out.data() + at);
}

} // namespace generate
