// A segment of tests/stages/compact_case.h as device memory of the emulator.
#pragma once

#include "compact_case.h"
#include "device.h"

namespace think::test {

// A segment of the host with everything behind it on the device. `source`: what was never written may not be read, and nothing may be written.
class DeviceSegment {
 public:
  think_segment segment;
  simt::Buffer<char> key, value;
  simt::Buffer<float> key_scale, value_scale;  // of F8 sides that have scales

  // Buffers are not empty.
  static std::vector<float> some(const std::vector<float> &scale) { return scale.empty() ? std::vector<float>{1.0f} : scale; }

  DeviceSegment(const Store &host, const Shape &shape, const Batch &batch, int32_t slots, bool source)
      : segment(host.segment),
        key(source ? "source keys" : "keys", host.key.size()),
        value(source ? "source values" : "values", host.value.size()),
        key_scale("key_scale", some(host.key_scale)),
        value_scale("value_scale", some(host.value_scale)),
        key_basis_(host.segment.key_basis, shape.kv_heads),
        value_basis_(host.segment.value_basis, shape.kv_heads),
        key_offset_("key_head_offset", host.segment.key_head_offset, int64_t{slots} * shape.kv_heads),
        value_offset_("value_head_offset", host.segment.value_head_offset, int64_t{slots} * shape.kv_heads),
        pages_("pages", host.segment.pages, batch.count * host.segment.pages_stride),
        first_("first", host.segment.first, static_cast<int64_t>(host.first.size())),
        lengths_("lengths", source ? nullptr : host.segment.lengths, static_cast<int64_t>(host.lengths.size())) {
    const auto fill = [&](simt::Buffer<char> &buffer, const std::vector<char> &memory, think_dtype dtype) {
      if (source && !is_quantized(dtype)) {
        upload_numbers(buffer.device(), memory.data(), memory.size(), dtype_bytes(dtype));
      } else {
        buffer.upload(memory);  // of codes every byte may be one
      }
    };
    fill(key, host.key, segment.key_dtype);
    fill(value, host.value, segment.value_dtype);
    key.freeze(source);
    value.freeze(source);
    if (segment.key) segment.key = key.device() + (static_cast<char *>(host.segment.key) - host.key.data());
    if (segment.value) segment.value = value.device() + (static_cast<char *>(host.segment.value) - host.value.data());
    segment.key_basis = key_basis_.get();
    segment.value_basis = value_basis_.get();
    segment.key_head_offset = const_cast<int64_t *>(key_offset_.device());
    segment.value_head_offset = const_cast<int64_t *>(value_offset_.device());
    for (const bool keys : {true, false}) {
      simt::Buffer<float> &scale = keys ? key_scale : value_scale;
      const bool measured = (segment.flags & THINK_SEGMENT_MEASURE) && (keys ? segment.key : segment.value);
      if (f8_scales(host.segment, keys)) (keys ? segment.key_scale : segment.value_scale) = scale.device();
      scale.freeze(!measured);
    }
    segment.pages = pages_.device();
    segment.first = first_.device();
    segment.lengths = lengths_.device();
  }

 private:
  DeviceBasis key_basis_, value_basis_;
  Constant<int64_t> key_offset_, value_offset_;
  Constant<int32_t> pages_, first_, lengths_;
};

}  // namespace think::test
