#include "npy.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <limits>

#include "failure.h"

namespace think::cli {
namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr size_t kMagicBytes = 6;
// NumPy itself writes a few hundred bytes and refuses to read more than 10,000 without being told to.
constexpr uint64_t kMaxHeader = 1 << 16;
// NumPy's own limit on dimensions.
constexpr size_t kMaxAxes = 32;

// Reads the header: a Python dictionary literal of exactly three entries. Only what NumPy writes is understood, no other Python.
class HeaderReader {
 public:
  HeaderReader(std::string_view text, const std::string &name) : text_(text), name_(name) {}

  void read(NpyView &view) {
    expect('{');
    bool have_descr = false, have_order = false, have_shape = false;
    while (!accept('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr") {
        once(have_descr, key);
        if (peek() == '[') {
          const std::string_view from = text_.substr(position_);
          throw Failure(kInput, name_ + ": structured npy dtype " + printable(std::string(from.substr(0, from.find(']') + 1))) + " is not supported");
        }
        view.descr = string();
      } else if (key == "fortran_order") {
        once(have_order, key);
        view.fortran_order = boolean();
      } else if (key == "shape") {
        once(have_shape, key);
        view.shape = tuple();
      } else {
        fail("unknown entry '" + printable(key) + "'");
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (position_ != text_.size()) fail("text after the dictionary");
    if (!have_descr || !have_order || !have_shape) fail("the entries descr, fortran_order and shape must all be there");
  }

 private:
  [[noreturn]] void fail(const std::string &what) const {
    throw Failure(kInput, name_ + ": damaged npy header at byte " + std::to_string(position_) + ": " + what);
  }
  void once(bool &seen, const std::string &key) {
    if (seen) fail("'" + key + "' is there twice");
    seen = true;
  }
  void skip_space() {
    while (position_ < text_.size() && (text_[position_] == ' ' || text_[position_] == '\t' || text_[position_] == '\n')) ++position_;
  }
  char peek() {
    skip_space();
    return position_ < text_.size() ? text_[position_] : '\0';
  }
  bool accept(char wanted) {
    if (peek() != wanted) return false;
    ++position_;
    return true;
  }
  void expect(char wanted) {
    if (!accept(wanted)) fail(std::string("expected '") + wanted + "'");
  }
  std::string string() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') fail("expected a string");
    const size_t begin = ++position_;
    while (position_ < text_.size() && text_[position_] != quote) {
      if (text_[position_] == '\\') fail("escapes are not supported");
      ++position_;
    }
    if (position_ == text_.size()) fail("the string does not end");
    return std::string(text_.substr(begin, position_++ - begin));
  }
  bool boolean() {
    skip_space();
    for (const auto &[word, value] : {std::pair<std::string_view, bool>{"True", true}, {"False", false}}) {
      if (text_.substr(position_, word.size()) == word) {
        position_ += word.size();
        return value;
      }
    }
    fail("fortran_order must be True or False");
  }
  std::vector<int64_t> tuple() {
    std::vector<int64_t> extents;
    expect('(');
    while (!accept(')')) {
      if (extents.size() == kMaxAxes) fail("more than " + std::to_string(kMaxAxes) + " dimensions");
      extents.push_back(integer());
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return extents;
  }
  int64_t integer() {
    if (peek() == '-') fail("a negative extent in the shape");
    int64_t value = 0;
    const size_t begin = position_;
    while (position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '9') {
      if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, text_[position_] - '0', &value)) {
        fail("an extent of the shape does not fit into 64 bits");
      }
      ++position_;
    }
    if (position_ == begin) fail("expected an extent");
    return value;
  }

  std::string_view text_;
  const std::string &name_;
  size_t position_ = 0;
};

// "<f4": byte order, kind, bytes of an item. Only what NumPy can have written: a size that no number of that kind has would make the shape meaningless.
int64_t item_bytes(const std::string &descr, const std::string &name) {
  const auto refuse = [&](const char *why) { throw Failure(kInput, name + ": npy dtype '" + printable(descr) + "' is not supported" + why); };
  const size_t digits = descr.size() < 3 ? 0 : descr.size() - 2;
  const char kind = digits ? descr[1] : '\0';
  if (kind == 'O') refuse(": it holds Python objects");
  if (kind == 'm' || kind == 'M') refuse(": dates and durations are no numbers");
  constexpr char kExpected[] = "; expected a byte order (<, > or |) and one of b1, i1 to i8, u1 to u8, f2 to f16, c8 to c32, V, S, U";
  if (digits < 1 || digits > 4 || !std::strchr("<>|", descr[0]) || descr.find_first_not_of("0123456789", 2) != std::string::npos ||
      (descr[2] == '0' && digits > 1)) {
    refuse(kExpected);
  }
  const int64_t size = std::stoll(descr.substr(2));
  const auto one_of = [&](std::initializer_list<int64_t> sizes) { return std::find(sizes.begin(), sizes.end(), size) != sizes.end(); };
  const bool known = kind == 'b'                  ? size == 1
                     : kind == 'i' || kind == 'u' ? one_of({1, 2, 4, 8})
                     : kind == 'f'                ? one_of({2, 4, 8, 12, 16})
                     : kind == 'c'                ? one_of({8, 16, 24, 32})
                                                  : kind == 'V' || kind == 'S' || kind == 'U';
  // Without a byte order only bytes have a meaning.
  if (!known || (descr[0] == '|' && size > 1 && std::strchr("iufcU", kind))) refuse(kExpected);
  return size * (kind == 'U' ? 4 : 1);
}

}  // namespace

bool is_npy(std::span<const std::byte> file) { return file.size() >= kMagicBytes && std::memcmp(file.data(), kMagic, kMagicBytes) == 0; }

NpyView parse_npy(std::span<const std::byte> file, const std::string &name) {
  if (file.empty()) throw Failure(kInput, name + ": the file is empty");
  if (!is_npy(file)) throw Failure(kInput, name + ": not an npy file (it does not begin with \\x93NUMPY)");
  const auto byte = [&](size_t at) { return static_cast<uint64_t>(file[at]); };
  if (file.size() < 10) throw Failure(kInput, name + ": truncated npy file: " + std::to_string(file.size()) + " bytes");
  const uint64_t major = byte(6), minor = byte(7);
  if (major < 1 || major > 3 || minor != 0) {
    throw Failure(kInput, name + ": npy version " + std::to_string(major) + "." + std::to_string(minor) + ", expected 1.0, 2.0 or 3.0");
  }
  const size_t length_bytes = major == 1 ? 2 : 4, begin = 8 + length_bytes;
  if (file.size() < begin) throw Failure(kInput, name + ": truncated npy file: " + std::to_string(file.size()) + " bytes");
  uint64_t length = 0;
  for (size_t i = 0; i < length_bytes; ++i) length |= byte(8 + i) << 8 * i;
  if (length > kMaxHeader)
    throw Failure(kInput,
                  name + ": npy header of " + std::to_string(length) + " bytes, at most " + std::to_string(kMaxHeader) + " are read");
  if (length > file.size() - begin) {
    throw Failure(kInput, name + ": truncated npy file: the header should have " + std::to_string(length) + " bytes, " +
                              std::to_string(file.size() - begin) + " are left");
  }
  NpyView view;
  HeaderReader({reinterpret_cast<const char *>(file.data()) + begin, static_cast<size_t>(length)}, name).read(view);
  view.item_bytes = item_bytes(view.descr, name);

  // Extents of zero make the product zero, so the others are multiplied first: (2^40, 2^40, 0) must not slip through.
  int64_t count = 1, bytes = 0;
  bool zero = false;
  for (const int64_t extent : view.shape) {
    if (extent == 0) zero = true;
    if (extent != 0 && __builtin_mul_overflow(count, extent, &count))
      throw Failure(kInput, name + ": the shape " + shape_text(view.shape) + " overflows 64 bits");
  }
  if (__builtin_mul_overflow(count, view.item_bytes, &bytes))
    throw Failure(kInput, name + ": the shape " + shape_text(view.shape) + " overflows 64 bits");
  if (zero) count = bytes = 0;
  const uint64_t left = file.size() - begin - length;
  if (static_cast<uint64_t>(bytes) != left) {
    throw Failure(kInput, name + ": " + (static_cast<uint64_t>(bytes) > left ? "truncated npy file: " : "bytes behind the npy data: ") +
                              "shape " + shape_text(view.shape) + " of '" + printable(view.descr) + "' needs " + std::to_string(bytes) +
                              " bytes, the file has " + std::to_string(left));
  }
  view.count = count;
  view.data = file.subspan(begin + static_cast<size_t>(length));
  return view;
}

std::string npy_header(const std::string &descr, const std::vector<int64_t> &shape) {
  std::string text = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (";
  for (const int64_t extent : shape) text += std::to_string(extent) + ", ";
  if (shape.size() > 1) text.resize(text.size() - 2);  // a tuple of one keeps its comma
  text += "), }";
  // The data begin at a multiple of 64, and the header ends with a newline.
  const size_t total = (10 + text.size() + 1 + 63) / 64 * 64;
  text.append(total - 10 - text.size() - 1, ' ');
  text += '\n';
  std::string header(kMagic, kMagicBytes);
  header += {'\x01', '\x00', static_cast<char>(text.size() & 0xff), static_cast<char>(text.size() >> 8)};
  return header + text;
}

}  // namespace think::cli
