// What is in the file of a sequence, and in which order: metadata, then tensors.
#pragma once

#include "kernels/common/quantized.h"
#include "kernels/fit/fit.h"
#include "libthink/cache/cache.h"

namespace think::store {

constexpr int32_t kVersion = 1;

// The numbers of a sequence. All else follows from them, from the plan and from the cache's options.
struct Contents {
  struct Run {
    int32_t kind, rows, folds;
  };
  int32_t dense_rows, settled_rows, evicted, scores, run_count;
  Run runs[THINK_CACHE_MAX_RUNS];
};

// visit(name, number), which may set it; returns whether to go on.
template <class Visit>
bool for_each_number(Contents &contents, const Visit &visit) {
  if (!visit("dense_rows", contents.dense_rows) || !visit("settled_rows", contents.settled_rows) || !visit("evicted", contents.evicted)) return false;
  if (!visit("scores", contents.scores) || !visit("runs", contents.run_count)) return false;
  for (int32_t run = 0; run < contents.run_count; ++run) {
    Contents::Run &one = contents.runs[run];
    if (!visit(Text("runs.%d.kind", run).text, one.kind) || !visit(Text("runs.%d.rows", run).text, one.rows)) return false;
    if (!visit(Text("runs.%d.folds", run).text, one.folds)) return false;
  }
  return true;
}

inline bool same_format(const think_format &a, const think_format &b) {
  return a.key_dtype == b.key_dtype && a.key_layout == b.key_layout && a.value_dtype == b.value_dtype && a.value_layout == b.value_layout;
}

// What a file and the cache that loads it must agree on. visit(name, text), returns whether to go on.
template <class Visit>
bool for_each_setting(const think_cache &cache, const Visit &visit) {
  const Shape &shape = cache.plan->shape;
  const auto number = [&](const char *name, int64_t value) { return visit(name, Text("%lld", static_cast<long long>(value)).text); };
  const auto layout = [](int32_t value) { return value == THINK_TILES ? "tiles" : "rows"; };
  const auto format = [&](const char *prefix, const think_format &one) {
    return visit(Text("%skey_dtype", prefix).text, dtype_name(one.key_dtype)) && visit(Text("%skey_layout", prefix).text, layout(one.key_layout)) &&
           visit(Text("%svalue_dtype", prefix).text, dtype_name(one.value_dtype)) && visit(Text("%svalue_layout", prefix).text, layout(one.value_layout));
  };
  // Once if all layers have the same; otherwise the first layer's, and then each layer whose format is not that of the layer before.
  const auto formats = [&] {
    if (!format("", cache.formats[0])) return false;
    for (int32_t layer = 1; layer < cache.layers; ++layer) {
      if (same_format(cache.formats[layer - 1], cache.formats[layer])) continue;
      if (!format(Text("layers.%d.", layer).text, cache.formats[layer])) return false;
    }
    return true;
  };
  return number("layers", cache.layers) && number("query_heads", shape.query_heads) && number("kv_heads", shape.kv_heads) &&
         number("key_channels", shape.key_channels) && number("value_channels", shape.value_channels) && number("window", shape.window) &&
         visit("query_dtype", dtype_name(shape.query_dtype)) && visit("cache_dtype", dtype_name(shape.cache_dtype)) &&
         formats() && visit("mode", cache.prune.regressed ? "regressed" : "channels") && visit("budget", cache.prune.adaptive ? "adaptive" : "uniform") &&
         number("key_kept", cache.prune.key_kept) && number("value_kept", cache.prune.value_kept) && number("sinks", cache.prune.sinks);
}

enum class What { kept, index, fitted, offset, weight, scale, dense, rows, square_sum, window, tokens, digest };

// A tensor of the file.
struct Part {
  What what;
  int32_t layer, run, side;
  const char *dtype;
  int32_t item;  // bytes of an element
  int64_t shape[3];
  int32_t axes;
  int64_t bytes() const {
    int64_t product = item;
    for (int32_t axis = 0; axis < axes; ++axis) product *= shape[axis];
    return product;
  }
};

struct PartName {
  char text[64];
  explicit PartName(const Part &part);
};

// All tensors in the order of the file: those with the widest elements first, so that each is aligned to its own. What says how a run is to be read (kept,
// index, fitted) comes before its rows. visit(part) returns whether to go on.
template <class Visit>
bool for_each_part(const think_cache &cache, const Contents &contents, const Visit &visit) {
  const Shape &shape = cache.plan->shape;
  const int64_t heads = shape.kv_heads;
  const auto name_of = [](think_dtype dtype) { return dtype == THINK_F32 ? "F32" : dtype == THINK_F16 ? "F16" : dtype == THINK_BF16 ? "BF16" : "U8"; };
  for (const int32_t item : {8, 4, 2, 1}) {
    const auto part = [&](const Part &one) { return one.item != item || visit(one); };
    for (int32_t layer = 0; layer < cache.layers; ++layer) {
      for (int32_t run = 0; run < contents.run_count; ++run) {
        const int32_t kind = contents.runs[run].kind, tiles = contents.runs[run].rows / kTileTokens;
        for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
          const bool keys = side == THINK_KEYS, basis = (kind & (keys ? cache::kKeyBasis : cache::kValueBasis)) != 0;
          const int64_t channels = channels_of(shape, side);
          if (basis) {
            const bool more = part({What::kept, layer, run, side, "I32", 4, {heads}, 1}) &&
                              part({What::index, layer, run, side, "I32", 4, {heads, channels}, 2}) &&
                              part({What::fitted, layer, run, side, "I32", 4, {heads}, 1}) &&
                              part({What::offset, layer, run, side, "F32", 4, {heads, channels}, 2}) &&
                              part({What::weight, layer, run, side, "F16", 2, {heads, fit::weight_head_bytes(static_cast<int32_t>(channels)) / 2}, 2});
            if (!more) return false;
          }
          const think_dtype dtype = cache::stored_dtype(cache, layer, side);
          if (dtype == THINK_F8_E4M3 && !part({What::scale, layer, run, side, "F32", 4, {heads}, 1})) return false;
          const int32_t bytes = is_quantized(dtype) ? 1 : dtype_bytes(dtype);
          const int64_t items = cache::compact_side_bytes(cache, layer, side, basis) / bytes;
          if (!part({What::rows, layer, run, side, name_of(dtype), bytes, {tiles, items}, 2})) return false;
        }
      }
      for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
        const think_dtype dtype = shape.cache_dtype;
        if (!part({What::dense, layer, 0, side, name_of(dtype), dtype_bytes(dtype), {heads, contents.dense_rows, channels_of(shape, side)}, 3})) return false;
      }
      if (!contents.scores) continue;
      const think_dtype dtype = shape.query_dtype;
      const bool more = part({What::square_sum, layer, 0, 0, "F32", 4, {heads, shape.key_channels}, 2}) &&
                        part({What::window, layer, 0, 0, name_of(dtype), dtype_bytes(dtype), {shape.query_heads, shape.window, shape.key_channels}, 3}) &&
                        part({What::tokens, layer, 0, 0, "I64", 8, {1}, 1});
      if (!more) return false;
    }
    if (!part({What::digest, 0, 0, 0, "U8", 1, {8}, 1})) return false;
  }
  return true;
}

}  // namespace think::store
