#include "safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "failure.h"

namespace think::cli {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the format's own implementation
constexpr size_t kMaxAxes = 64;

struct Entry {
  std::string dtype;
  std::vector<uint64_t> shape, offsets;
  bool have_dtype = false, have_shape = false, have_offsets = false;
};

// Reads the header event by event, so that depth, types and duplicates are checked before anything is stored, and a header of a hundred
// megabytes of brackets or numbers builds no tree.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::map<std::string, Entry> entries;
  std::map<std::string, std::string> metadata;
  std::string problem;  // the first one

  bool null() override { return refuse("null"); }
  bool boolean(bool) override { return refuse("a boolean"); }
  bool number_integer(number_integer_t) override { return refuse("a negative number"); }
  bool number_float(number_float_t, const string_t &text) override { return refuse("the number " + printable(text)); }
  bool binary(binary_t &) override { return refuse("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ != State::shape && state_ != State::offsets) return refuse("a number");
    std::vector<uint64_t> &list = state_ == State::shape ? entry_.shape : entry_.offsets;
    if (list.size() == (state_ == State::shape ? kMaxAxes : 2)) return fail("too many numbers in '" + printable(name_) + "'");
    list.push_back(value);
    return true;
  }
  bool string(string_t &value) override {
    if (state_ == State::metadata) {
      if (!metadata.emplace(key_, value).second) return fail("__metadata__ has '" + printable(key_) + "' twice");
      return true;
    }
    if (state_ == State::entry && key_ == "dtype") {
      if (entry_.have_dtype) return fail("tensor '" + printable(name_) + "' has two dtypes");
      entry_.have_dtype = true;
      entry_.dtype = value;
      return true;
    }
    return refuse("a string");
  }
  bool start_object(std::size_t) override {
    if (state_ == State::start) {
      state_ = State::tensors;
    } else if (state_ == State::tensors && key_ == "__metadata__") {
      if (have_metadata_) return fail("two __metadata__");
      have_metadata_ = true;
      state_ = State::metadata;
    } else if (state_ == State::tensors) {
      name_ = key_;
      entry_ = Entry();
      state_ = State::entry;
    } else {
      return refuse("an object");
    }
    return true;
  }
  bool key(string_t &value) override {
    key_ = value;
    return true;
  }
  bool end_object() override {
    if (state_ == State::entry) {
      if (!entry_.have_dtype || !entry_.have_shape || !entry_.have_offsets)
        return fail("tensor '" + printable(name_) + "' needs dtype, shape and data_offsets");
      if (!entries.emplace(name_, std::move(entry_)).second) return fail("two tensors are named '" + printable(name_) + "'");
    }
    state_ = state_ == State::tensors ? State::end : State::tensors;
    return true;
  }
  bool start_array(std::size_t) override {
    if (state_ != State::entry) return refuse("an array");
    if (key_ != "shape" && key_ != "data_offsets")
      return fail("tensor '" + printable(name_) + "' has an unknown entry '" + printable(key_) + "'");
    bool &seen = key_ == "shape" ? entry_.have_shape : entry_.have_offsets;
    if (seen) return fail("tensor '" + printable(name_) + "' has '" + key_ + "' twice");
    seen = true;
    state_ = key_ == "shape" ? State::shape : State::offsets;
    return true;
  }
  bool end_array() override {
    if (state_ == State::offsets && entry_.offsets.size() != 2)
      return fail("data_offsets of '" + printable(name_) + "' must be two numbers");
    state_ = State::entry;
    return true;
  }
  bool parse_error(std::size_t position, const std::string &, const nlohmann::detail::exception &error) override {
    // The parser's text ends with what it expected; its first part repeats the position.
    const std::string text = error.what();
    const size_t cut = text.find(": ");
    return fail("not JSON at byte " + std::to_string(position) + ": " +
                printable(cut == std::string::npos ? text : text.substr(cut + 2), 160));
  }

 private:
  enum class State { start, tensors, metadata, entry, shape, offsets, end };

  bool fail(const std::string &what) {
    if (problem.empty()) problem = what;
    return false;
  }
  bool refuse(const std::string &what) {
    return fail(what + " where it does not belong" + (key_.empty() ? "" : ", behind the key '" + printable(key_) + "'"));
  }

  State state_ = State::start;
  std::string key_, name_;
  Entry entry_;
  bool have_metadata_ = false;
};

}  // namespace

int64_t safetensors_item_bytes(const std::string &dtype) {
  static const std::map<std::string, int64_t> bytes = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},   {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2},
                                                       {"U16", 2},  {"F16", 2}, {"BF16", 2}, {"I32", 4},     {"U32", 4},     {"F32", 4},
                                                       {"F64", 8},  {"I64", 8}, {"U64", 8},  {"C64", 8}};
  const auto found = bytes.find(dtype);
  return found == bytes.end() ? 0 : found->second;
}

SafetensorsView parse_safetensors(std::span<const std::byte> file, const std::string &name) {
  const auto fail = [&](const std::string &what) { throw Failure(kInput, name + ": " + what); };
  if (file.empty()) fail("the file is empty");
  if (file.size() < 8) fail("truncated safetensors file: " + std::to_string(file.size()) + " bytes");
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= static_cast<uint64_t>(file[i]) << 8 * i;
  const uint64_t left = file.size() - 8;
  if (length > kMaxHeader)
    fail("not a safetensors file: a header of " + std::to_string(length) + " bytes, at most " + std::to_string(kMaxHeader) +
         " are allowed");
  if (length > left)
    fail("truncated safetensors file: the header should have " + std::to_string(length) + " bytes, " + std::to_string(left) + " are left");
  if (length < 2 || file[8] != std::byte{'{'}) fail("not a safetensors file: the header does not begin with '{'");

  HeaderHandler handler;
  const char *text = reinterpret_cast<const char *>(file.data()) + 8;
  const bool parsed = nlohmann::json::sax_parse(text, text + length, &handler);
  if (!parsed || !handler.problem.empty())
    fail("damaged safetensors header: " + (handler.problem.empty() ? std::string("not JSON") : handler.problem));

  const std::span<const std::byte> data = file.subspan(8 + static_cast<size_t>(length));
  SafetensorsView view;
  std::vector<std::pair<std::pair<uint64_t, uint64_t>, const std::string *>> ranges;
  for (const auto &[tensor_name, entry] : handler.entries) {
    const std::string label = "tensor '" + printable(tensor_name) + "'";
    const int64_t item = safetensors_item_bytes(entry.dtype);
    if (item == 0) fail(label + " has the unknown dtype '" + printable(entry.dtype) + "'");
    SafeTensor tensor{entry.dtype, {}, {}};
    // As in npy files: a zero among the extents must not hide an overflow of the others.
    int64_t bytes = item;
    bool zero = false;
    for (const uint64_t extent : entry.shape) {
      if (extent > static_cast<uint64_t>(INT64_MAX)) fail(label + ": the shape overflows 64 bits");
      tensor.shape.push_back(static_cast<int64_t>(extent));
      if (extent == 0) zero = true;
      if (extent != 0 && __builtin_mul_overflow(bytes, static_cast<int64_t>(extent), &bytes)) fail(label + ": the shape overflows 64 bits");
    }
    if (zero) bytes = 0;
    const uint64_t begin = entry.offsets[0], end = entry.offsets[1];
    if (begin > end || end > data.size()) {
      fail(label + ": data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) + "] are not inside the " +
           std::to_string(data.size()) + " bytes of data");
    }
    if (end - begin != static_cast<uint64_t>(bytes)) {
      fail(label + ": shape " + shape_text(tensor.shape) + " of " + entry.dtype + " needs " + std::to_string(bytes) +
           " bytes, data_offsets span " + std::to_string(end - begin));
    }
    tensor.data = data.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    const auto placed = view.tensors.emplace(tensor_name, std::move(tensor)).first;
    ranges.push_back({{begin, end}, &placed->first});
  }
  std::sort(ranges.begin(), ranges.end(), [](const auto &a, const auto &b) { return a.first < b.first; });
  uint64_t covered = 0;
  for (const auto &[range, tensor_name] : ranges) {
    if (range.first < covered) fail("tensor '" + printable(*tensor_name) + "' overlaps the one before it");
    if (range.first > covered)
      fail("a hole of " + std::to_string(range.first - covered) + " bytes before tensor '" + printable(*tensor_name) + "'");
    covered = range.second;
  }
  if (covered != data.size())
    fail("the tensors cover " + std::to_string(covered) + " of the " + std::to_string(data.size()) + " bytes of data");
  view.metadata = std::move(handler.metadata);
  return view;
}

std::string safetensors_header(std::vector<NamedTensor> &tensors, const std::map<std::string, std::string> &metadata) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const NamedTensor &a, const NamedTensor &b) {
    return safetensors_item_bytes(a.dtype) > safetensors_item_bytes(b.dtype);
  });
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const NamedTensor &tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + tensor.data.size()}}};
    offset += tensor.data.size();
  }
  std::string text = header.dump();
  text.append((64 - (8 + text.size()) % 64) % 64, ' ');
  std::string result(8, '\0');
  for (size_t i = 0; i < 8; ++i) result[i] = static_cast<char>(text.size() >> 8 * i);
  return result + text;
}

}  // namespace think::cli
