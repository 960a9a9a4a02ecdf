// The caller's stream of bytes, from this side: counted and digested as it passes, buffered when written. After the first trouble nothing more is read or written.
#pragma once

#include <cstdint>
#include <cstring>

#include "libthink/core/error.h"
#include "think/store.h"

namespace think::store {

// Of a stream of bytes. Each step is a bijection of the state, so one damaged word of 8 bytes always shows, and more than one all but always.
class Digest {
 public:
  void add(const void *data, int64_t bytes);
  uint64_t value() const;

 private:
  void word(uint64_t bits) {
    state_ = (state_ ^ bits) * 0x9E3779B97F4A7C15u;
    state_ ^= state_ >> 32;
  }
  uint64_t state_ = 0x5468696E4B763031u;
  unsigned char rest_[8] = {};
  int64_t bytes_ = 0;
};

constexpr int64_t kBufferBytes = 4096;

class Writer {
 public:
  Writer(think_writer write, void *user) : write_(write), user_(user) {}
  void put(const void *data, int64_t bytes);
  void put_zeros(int64_t bytes);
  void flush();
  bool failed() const { return code_ != 0; }
  int32_t code() const { return code_; }  // the caller's
  const Digest &digest() const { return digest_; }

 private:
  void pass(const void *data, int64_t bytes);
  think_writer write_;
  void *user_;
  Digest digest_;
  int64_t held_ = 0;
  int32_t code_ = 0;
  char buffer_[kBufferBytes];
};

// What is read is checked as it comes: the first thing that is wrong is kept, and its message goes to the caller's record.
class Reader {
 public:
  Reader(think_reader read, void *user, think_error *error) : read_(read), user_(user), error_(error) {}
  bool get(void *data, int64_t bytes);
  bool skip(int64_t bytes);
  bool zeros(int64_t bytes, const char *where);  // bytes that must be zero
  // "read: <text>", THINK_E_FORMAT. Always false.
  bool damaged(const char *format, ...) __attribute__((format(printf, 2, 3)));
  think_status status() const { return status_; }
  int64_t position() const { return position_; }
  const Digest &digest() const { return digest_; }

 private:
  think_reader read_;
  void *user_;
  think_error *error_;
  think_status status_ = THINK_OK;
  Digest digest_;
  int64_t position_ = 0;
};

}  // namespace think::store
