#include "libthink/core/error.h"

#include <charconv>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "libthink/core/structs.h"

namespace think {
namespace {

void fill(think_error *error, think_status code, int32_t argument, const char *path, const char *field, const char *member, const char *format,
          va_list values) {
  // A record that is too small to be one is left alone: there is nowhere to report it.
  if (!error || error->struct_size < kFirstSize<think_error>) return;
  error->flags = 0;
  error->code = code;
  error->argument = argument;
  error->native_code = 0;
  error->reserved = 0;
  const size_t capacity = sizeof error->message;
  std::memset(error->message, 0, capacity);
  size_t used = 0;
  if (path) {
    const bool has_field = field && *field;
    const int written = std::snprintf(error->message, capacity, "%s%s%s: ", path, has_field ? member : "", has_field ? field : "");
    used = written < 0 ? 0 : static_cast<size_t>(written);
    if (used >= capacity) return;
  }
  std::vsnprintf(error->message + used, capacity - used, format, values);
}

}  // namespace

Text::Text(const char *format, ...) {
  va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof text, format, values);
  va_end(values);
}

NumberText::NumberText(double value) {
  const std::to_chars_result result = std::to_chars(text, text + sizeof text - 1, value, std::chars_format::general, 9);
  *result.ptr = 0;
}

think_status fail(think_error *error, think_status code, int32_t argument, const char *format, ...) {
  va_list values;
  va_start(values, format);
  fill(error, code, argument, nullptr, nullptr, nullptr, format, values);
  va_end(values);
  return code;
}

void set_native_code(think_error *error, int32_t code) {
  if (error && error->struct_size >= kFirstSize<think_error>) error->native_code = code;
}

think_status wrong(const Argument &argument, const char *field, const char *format, ...) {
  va_list values;
  va_start(values, format);
  fill(argument.error, THINK_E_ARGUMENT, argument.position, argument.name, field, argument.member, format, values);
  va_end(values);
  return THINK_E_ARGUMENT;
}

think_status unsupported(const Argument &argument, const char *field, const char *format, ...) {
  va_list values;
  va_start(values, format);
  fill(argument.error, THINK_E_UNSUPPORTED, argument.position, argument.name, field, argument.member, format, values);
  va_end(values);
  return THINK_E_UNSUPPORTED;
}

}  // namespace think
