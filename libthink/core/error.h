// The one way to report a failure: a status for the caller to return, and a message in the caller's record with the full path of the argument.
#pragma once

#include <cstdint>
#include <new>

#include "think/status.h"

namespace think {

// An argument of a public function, or a struct inside one: names what is checked and knows where to report it.
struct Argument {
  think_error *error;
  int32_t position;        // counted from 1; 0 = none
  const char *name;        // "segments[2].key_basis"
  const char *member = "->";  // how a field follows the name: "->" or "."
};

// Short formatted text on the stack, for field names with an index. Cut when too long.
struct Text {
  char text[80];
  explicit Text(const char *format, ...) __attribute__((format(printf, 2, 3)));
};

// A float as text, whatever the locale of the host says about decimal points.
struct NumberText {
  char text[32];
  explicit NumberText(double value);
};

// Fills the record, as far as its struct_size says that it is one, and returns `code`.
think_status fail(think_error *error, think_status code, int32_t argument, const char *format, ...) __attribute__((format(printf, 4, 5)));

void set_native_code(think_error *error, int32_t code);  // of a record that has been filled

// Message "<path>: <text>", where the path is the argument's name and, if not empty, a field of it.
think_status wrong(const Argument &argument, const char *field, const char *format, ...) __attribute__((format(printf, 3, 4)));
think_status unsupported(const Argument &argument, const char *field, const char *format, ...) __attribute__((format(printf, 3, 4)));

static inline think_status null_pointer(const Argument &argument, const char *field = "") {
  return wrong(argument, field, "expected a pointer, got NULL");
}

// No exception leaves the library: every public function runs inside a fence.
template <class Body>
static inline think_status fence(think_error *error, const Body &body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc &) {
    return fail(error, THINK_E_MEMORY, 0, "out of memory");
  } catch (...) {
    return fail(error, THINK_E_INTERNAL, 0, "an exception inside the library, or thrown by a hook of the host");
  }
}

}  // namespace think
