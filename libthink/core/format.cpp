#include "libthink/core/format.h"

#include "libthink/core/structs.h"

namespace think {

think_status read_format(const Argument &argument, const think_format *in, const Shape &shape, think_format &format) {
  static const think_format defaults = THINK_FORMAT_INIT;
  if (const think_status status = read_options(argument, in, format, defaults)) return status;
  if (format.key_layout != THINK_ROWS && format.key_layout != THINK_TILES) {
    return wrong(argument, "key_layout", "expected 0 (rows) or 1 (tiles), got %d", format.key_layout);
  }
  if (format.value_layout == THINK_TILES) return unsupported(argument, "value_layout", "expected 0 (rows): values in tiles are not supported, got 1");
  if (format.value_layout != THINK_ROWS) return wrong(argument, "value_layout", "expected 0 (rows), got %d", format.value_layout);
  if (format.key_dtype == 0) format.key_dtype = shape.cache_dtype;
  if (format.value_dtype == 0) format.value_dtype = shape.cache_dtype;
  if (!is_float_dtype(format.key_dtype)) {
    return wrong(argument, "key_dtype", "expected f32, f16 or bf16, got 0x%x", static_cast<unsigned>(format.key_dtype));
  }
  if (!is_float_dtype(format.value_dtype)) {
    return wrong(argument, "value_dtype", "expected f32, f16 or bf16, got 0x%x", static_cast<unsigned>(format.value_dtype));
  }
  return THINK_OK;
}

}  // namespace think
