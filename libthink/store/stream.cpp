#include "libthink/store/stream.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

namespace think::store {

void Digest::add(const void *data, int64_t bytes) {
  const unsigned char *at = static_cast<const unsigned char *>(data);
  int64_t held = bytes_ % 8;
  bytes_ += bytes;
  if (held > 0) {
    const int64_t more = std::min(8 - held, bytes);
    std::memcpy(rest_ + held, at, static_cast<size_t>(more));
    at += more;
    bytes -= more;
    held += more;
    if (held < 8) return;
    uint64_t bits;
    std::memcpy(&bits, rest_, sizeof bits);
    word(bits);
  }
  for (; bytes >= 8; bytes -= 8, at += 8) {
    uint64_t bits;
    std::memcpy(&bits, at, sizeof bits);
    word(bits);
  }
  if (bytes > 0) std::memcpy(rest_, at, static_cast<size_t>(bytes));
}

uint64_t Digest::value() const {
  Digest end = *this;
  uint64_t bits = 0;
  std::memcpy(&bits, rest_, static_cast<size_t>(bytes_ % 8));
  end.word(bits);
  end.word(static_cast<uint64_t>(bytes_));
  return end.state_;
}

void Writer::pass(const void *data, int64_t bytes) {
  if (code_ == 0 && bytes > 0) code_ = write_(user_, data, bytes);
}

void Writer::flush() {
  pass(buffer_, held_);
  held_ = 0;
}

void Writer::put(const void *data, int64_t bytes) {
  if (failed() || bytes == 0) return;
  digest_.add(data, bytes);
  if (held_ + bytes > kBufferBytes) flush();
  if (bytes > kBufferBytes) return pass(data, bytes);
  std::memcpy(buffer_ + held_, data, static_cast<size_t>(bytes));
  held_ += bytes;
}

void Writer::put_zeros(int64_t bytes) {
  static constexpr char zeros[512] = {};
  for (; bytes > 0; bytes -= static_cast<int64_t>(sizeof zeros)) put(zeros, std::min<int64_t>(bytes, sizeof zeros));
}

bool Reader::damaged(const char *format, ...) {
  if (status_ != THINK_OK) return false;
  char text[200];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  status_ = fail(error_, THINK_E_FORMAT, 3, "read: %s", text);
  return false;
}

bool Reader::get(void *data, int64_t bytes) {
  if (status_ != THINK_OK) return false;
  if (bytes == 0) return true;
  const int64_t got = read_(user_, data, bytes);
  if (got == bytes) {
    digest_.add(data, bytes);
    position_ += bytes;
    return true;
  }
  if (got >= 0 && got < bytes) {
    return damaged("the file is cut off: it ends after %lld bytes, at least %lld are expected", static_cast<long long>(position_ + got),
                   static_cast<long long>(position_ + bytes));
  }
  status_ = fail(error_, THINK_E_IO, 3, "read: expected %lld bytes or fewer, got %lld from the caller's function", static_cast<long long>(bytes),
                 static_cast<long long>(got));
  set_native_code(error_, static_cast<int32_t>(std::clamp<int64_t>(got, INT32_MIN, INT32_MAX)));
  return false;
}

bool Reader::skip(int64_t bytes) {
  char buffer[kBufferBytes];
  for (; bytes > 0; bytes -= kBufferBytes) {
    if (!get(buffer, std::min(bytes, kBufferBytes))) return false;
  }
  return status_ == THINK_OK;
}

bool Reader::zeros(int64_t bytes, const char *where) {
  char buffer[512];
  for (; bytes > 0; bytes -= static_cast<int64_t>(sizeof buffer)) {
    const int64_t part = std::min<int64_t>(bytes, sizeof buffer);
    if (!get(buffer, part)) return false;
    if (std::any_of(buffer, buffer + part, [](char byte) { return byte != 0; })) return damaged("damaged: %s is not zero where nothing is stored", where);
  }
  return status_ == THINK_OK;
}

}  // namespace think::store
