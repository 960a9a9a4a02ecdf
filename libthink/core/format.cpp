#include "libthink/core/format.h"

#include "kernels/common/quantized.h"
#include "libthink/core/structs.h"

namespace think {

think_status check_storage(const Argument &argument, int32_t side, int32_t layout, think_dtype dtype) {
  const bool keys = side == THINK_KEYS;
  const char *dtype_field = keys ? "key_dtype" : "value_dtype", *layout_field = keys ? "key_layout" : "value_layout";
  if (is_float_dtype(dtype)) {
    if (keys || layout == THINK_ROWS) return THINK_OK;
    return unsupported(argument, layout_field, "expected 0 (rows): values in tiles must be quantized (u8, u4, u2, f8_e4m3), got 1 with %s", dtype_name(dtype));
  }
  if (!is_quantized(dtype)) {
    return wrong(argument, dtype_field, "expected f32, f16, bf16, u8, u4, u2 or f8_e4m3, got 0x%x", static_cast<unsigned>(dtype));
  }
  if (layout != THINK_TILES) return wrong(argument, layout_field, "expected 1 (tiles) of quantized %s (%s), got %d", keys ? "keys" : "values",
                                          dtype_name(dtype), layout);
  return THINK_OK;
}

// What the caller wrote, defaults filled in.
static think_status complete_format(const Argument &argument, const Shape &shape, think_format &format) {
  if (format.key_layout != THINK_ROWS && format.key_layout != THINK_TILES) {
    return wrong(argument, "key_layout", "expected 0 (rows) or 1 (tiles), got %d", format.key_layout);
  }
  if (format.value_layout != THINK_ROWS && format.value_layout != THINK_TILES) {
    return wrong(argument, "value_layout", "expected 0 (rows) or 1 (tiles, quantized values), got %d", format.value_layout);
  }
  if (format.key_dtype == 0) format.key_dtype = shape.cache_dtype;
  if (format.value_dtype == 0) format.value_dtype = shape.cache_dtype;
  if (const think_status status = check_storage(argument, THINK_KEYS, format.key_layout, format.key_dtype)) return status;
  return check_storage(argument, THINK_VALUES, format.value_layout, format.value_dtype);
}

think_status read_format(const Argument &argument, const think_format *in, const Shape &shape, think_format &format) {
  static const think_format defaults = THINK_FORMAT_INIT;
  if (const think_status status = read_options(argument, in, format, defaults)) return status;
  return complete_format(argument, shape, format);
}

think_status read_layer_format(const Argument &element, const think_format *formats, int32_t layer, const Shape &shape, think_format &format) {
  if (const think_status status = read_element(element, formats, layer, format)) return status;
  return complete_format(element, shape, format);
}

}  // namespace think
