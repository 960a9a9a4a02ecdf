// One decode step of one layer after the other: dense rows and compact tiles with a regressed basis, next to the probe and to the same kernel in L2.
#include <random>

#include "kernels/attend/attend.h"
#include "kernels/common/element.h"
#include "kernels/common/quantized.h"
#include "kernels/fit/fit.h"
#include "libthink/core/layout.h"
#include "measure.h"

namespace think::bench {

namespace {

struct Variant {
  std::string layout, widths;
  std::vector<int32_t> kept;  // per head; empty = dense rows
  int32_t mean = 0;
  think_dtype key = 0, value = 0;  // 0 = the dtype of the cache

  int64_t head_key_bytes(int64_t tokens, int32_t channels, think_dtype dtype) const { return head_bytes(tokens, channels, key ? key : dtype, true); }
  int64_t head_value_bytes(int64_t tokens, int32_t channels, think_dtype dtype) const { return head_bytes(tokens, channels, value ? value : dtype, false); }
};

// Widths around a mean, all different where there is room, a multiple of nothing.
std::vector<int32_t> mixed_widths(int32_t heads, int32_t channels, int32_t mean) {
  const int32_t reach = std::min(channels - mean, mean - 1);
  std::vector<int32_t> kept;
  for (int32_t h = 0; h < heads; ++h) {
    // -1 .. 1, symmetric around 0, so that the mean stays
    const double place = heads > 1 ? 2.0 * h / (heads - 1) - 1 : 0;
    kept.push_back(mean + static_cast<int32_t>(std::lround(place * 0.6 * reach)));
  }
  return kept;
}

// One variant: views of the arena, one per layer, each with a basis of its own.
class Layers {
 public:
  Layers(const Bench &bench, const Shape &shape, think_dtype dtype, int64_t tokens, const Variant &variant, int64_t most, int64_t arena_offset)
      : shape_(shape), tokens_(static_cast<int32_t>(tokens)) {
    const int64_t heads = shape.kv_heads, channels = shape.key_channels;
    const int64_t head_values = variant.head_value_bytes(tokens, shape.value_channels, dtype);
    int64_t key_bytes = 0;
    for (int64_t h = 0; h < heads; ++h) {
      key_bytes += variant.head_key_bytes(tokens, variant.kept.empty() ? static_cast<int32_t>(channels) : variant.kept[h], dtype);
    }
    const int64_t value_bytes = heads * head_values;
    const int64_t stride = (key_bytes + value_bytes + 4095) / 4096 * 4096;
    const int64_t count = std::clamp<int64_t>((bench.arena.bytes() - arena_offset) / stride, 1, most);
    stored_bytes_ = static_cast<double>(key_bytes + value_bytes);
    basis_bytes_ = 0;

    std::mt19937 random(7);
    const int64_t basis_stride = basis_bytes(shape, THINK_KEYS);
    if (!variant.kept.empty()) basis_memory_ = std::make_unique<Memory>(basis_stride * count);
    bases_.resize(count);
    segments_.resize(count);
    offsets_.resize(heads);
    for (int64_t layer = 0; layer < count; ++layer) {
      think_segment &segment = segments_[layer];
      segment = THINK_SEGMENT_INIT;
      segment.key = bench.arena.data() + arena_offset + layer * stride;
      segment.value = static_cast<char *>(segment.key) + key_bytes;
      segment.key_dtype = variant.key ? variant.key : dtype;
      segment.value_dtype = variant.value ? variant.value : dtype;
      segment.value_layout = variant.value ? THINK_TILES : THINK_ROWS;
      segment.page_tokens = static_cast<int32_t>(tokens);
      segment.value_stride[1] = head_values;
      segment.key_stride[1] = variant.head_key_bytes(tokens, static_cast<int32_t>(channels), dtype);
      segment.lengths = &tokens_;
      if (variant.kept.empty()) continue;
      segment.key_layout = THINK_TILES;
      segment.key_head_offset = offsets_.data();
      segment.key_basis = &bases_[layer];
      bind_basis(shape, THINK_KEYS, 1, basis_memory_->data() + layer * basis_stride, bases_[layer]);
      fill_basis(random, variant, bases_[layer]);
    }
    int64_t end = 0;
    for (int64_t h = 0; h < heads && !variant.kept.empty(); ++h) {
      offsets_[h] = end;
      end += variant.head_key_bytes(tokens, variant.kept[h], dtype);
    }

    query_ = std::make_unique<Memory>(shape.query_heads * channels * 4);
    output_ = std::make_unique<Memory>(shape.query_heads * channels * 4);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < shape.query_heads * channels; ++i) reinterpret_cast<float *>(query_->data())[i] = normal(random);
    const int64_t workspace_bytes = attend::workspace(shape, {1, 1, 1, tokens});
    workspace_ = std::make_unique<Memory>(workspace_bytes);
    arguments_.shape = shape;
    arguments_.query = make_tensor(query_->data(), THINK_F32, shape.query_heads, 1, channels);
    arguments_.output = make_tensor(output_->data(), THINK_F32, shape.query_heads, 1, channels);
    arguments_.batch = {1, nullptr, nullptr, nullptr};
    arguments_.segment_count = 1;
    arguments_.sink_logit = nullptr;
    arguments_.lse = nullptr;
  }

  int64_t count() const { return static_cast<int64_t>(segments_.size()); }
  // K and V as stored, the basis (indices, weights and offsets that are read), query and output
  double bytes() const { return stored_bytes_ + basis_bytes_ + 2.0 * shape_.query_heads * shape_.key_channels * 4; }

  void attend(int32_t isa, int64_t layer, const Parallel &parallel) {
    arguments_.segments = &segments_[layer];
    attend::attend(isa, arguments_, workspace_->data(), parallel, {0, 1});
  }
  double pass(int32_t isa, const Parallel &parallel) {
    return seconds_of([&] {
      for (int64_t layer = 0; layer < count(); ++layer) attend(isa, layer, parallel);
    }) / static_cast<double>(count());
  }

 private:
  void fill_basis(std::mt19937 &random, const Variant &variant, think_basis &basis) {
    const int32_t channels = shape_.key_channels;
    double bytes = 0;
    for (int32_t h = 0; h < shape_.kv_heads; ++h) {
      const int32_t kept = variant.kept[h], dropped = channels - kept, padded = (kept + 7) / 8 * 8;
      basis.kept[h] = kept;
      std::vector<int32_t> order(channels);
      for (int32_t c = 0; c < channels; ++c) order[c] = c;
      std::shuffle(order.begin(), order.end(), random);
      std::sort(order.begin(), order.begin() + kept);
      std::sort(order.begin() + kept, order.end());
      std::copy(order.begin(), order.end(), basis.index + h * channels);
      basis.weight_offset[h] = dropped ? h * fit::weight_head_bytes(channels) : -1;
      auto *weight = reinterpret_cast<uint16_t *>(static_cast<char *>(basis.weight) + (dropped ? basis.weight_offset[h] : 0));
      for (int32_t i = 0; i < dropped * padded; ++i) weight[i] = i % padded < kept ? f32_to_f16(static_cast<float>(i % 7 - 3) / 64) : 0;
      for (int32_t c = 0; c < channels; ++c) basis.offset[h * channels + c] = 0.25f;
      bytes += channels * 4.0 + dropped * padded * 2.0 + dropped * 4.0;
    }
    basis_bytes_ = bytes;
  }

  Shape shape_;
  int32_t tokens_;
  double stored_bytes_, basis_bytes_;
  std::unique_ptr<Memory> basis_memory_, query_, output_, workspace_;
  std::vector<think_basis> bases_;
  std::vector<int64_t> offsets_;
  std::vector<think_segment> segments_;
  attend::Arguments arguments_{};
};

// The same kernel with everything in the second cache of each core: one KV head per thread, as many tokens as fit.
class InCache {
 public:
  InCache(const Bench &bench, const Shape &shape, think_dtype dtype, const Variant &variant, int32_t threads) : isa_(bench.isa) {
    Shape one = make_shape(1, shape.group, shape.key_channels, shape.max_tokens, dtype);
    Variant head = variant;
    if (!head.kept.empty()) head.kept = {variant.mean};
    const int32_t width = head.kept.empty() ? shape.key_channels : variant.mean;
    const int64_t tile_bytes = variant.head_key_bytes(kTileTokens, width, dtype) + variant.head_value_bytes(kTileTokens, shape.value_channels, dtype);
    const int64_t tokens = second_cache_bytes() * 2 / 5 / tile_bytes * kTileTokens;
    one.max_tokens = tokens;
    for (int32_t t = 0; t < threads; ++t) copies_.push_back(std::make_unique<Layers>(bench, one, dtype, tokens, head, 1, t * kProbeBlock));
  }

  double rate() const {
    return cached_rate(static_cast<int32_t>(copies_.size()), copies_[0]->bytes(), 1,
                       [&](int32_t thread) { copies_[static_cast<size_t>(thread)]->attend(isa_, 0, {1, nullptr, nullptr}); });
  }

 private:
  int32_t isa_;
  std::vector<std::unique_ptr<Layers>> copies_;
};

void measure(const Bench &bench, const Shape &shape, think_dtype dtype, int64_t tokens, const std::vector<Variant> &variants, const Threads &threads, Json &rows) {
  const Parallel &parallel = threads.parallel();
  std::vector<std::unique_ptr<Layers>> layers;
  std::vector<InCache> in_cache;
  for (const Variant &variant : variants) {
    layers.push_back(std::make_unique<Layers>(bench, shape, dtype, tokens, variant, 1 << 20, 0));
    in_cache.emplace_back(bench, shape, dtype, variant, parallel.threads);
  }
  std::vector<Passes> passes(variants.size());
  std::vector<std::vector<double>> cached(variants.size());  // seconds per byte of the kernel in cache
  double before = 0;
  for (int32_t rounds = bench.options.rounds, round = -1; round < rounds; ++round) {
    for (size_t v = 0; v < variants.size(); ++v) {
      const double time = layers[v]->pass(bench.isa, parallel), after = probe_seconds_per_byte(bench.arena, parallel), in_cache_rate = in_cache[v].rate();
      if (round >= 0) {  // the first round only warms up
        passes[v].add(time, before, after);
        cached[v].push_back(1 / in_cache_rate);
      }
      before = after;
    }
    const bool restless = std::any_of(passes.begin(), passes.end(), [&](const Passes &of) { return round + 1 == rounds && of.restless(); });
    if (restless && rounds < 3 * bench.options.rounds) rounds += bench.options.rounds;
  }
  for (size_t v = 0; v < variants.size(); ++v) {
    const double bytes = layers[v]->bytes();
    const Passes &own = passes[v], &dense = passes[0];
    const auto cached_seconds = [&](size_t pass) { return cached[v][pass]; };
    const auto fraction_of_bound = [&](size_t pass) { return bytes * std::max(own.probes()[pass], cached[v][pass]) / own.times()[pass]; };
    // Of the probe where the rate in L2 all but allows its speed, else of that rate; pass by pass, for a machine whose memory has phases.
    const auto fraction_of_goal = [&](size_t pass) {
      const double probe = own.probes()[pass];
      return bytes * (0.9 * cached[v][pass] <= probe ? probe : cached[v][pass]) / own.times()[pass];
    };
    const double byte_ratio = layers[0]->bytes() / bytes, speedup = own.speedup_over(dense);
    rows.push_back({{"shape", shape_name(shape)},
                    {"dtype", dtype_name(dtype)},
                    {"threads", parallel.threads},
                    {"tokens", tokens},
                    {"layout", variants[v].layout},
                    {"kept", variants[v].mean},
                    {"widths", variants[v].widths},
                    {"layers", layers[v]->count()},
                    {"bytes", static_cast<int64_t>(bytes)},
                    {"l2_gb_per_s", 1e-9 / own.median_of(cached_seconds)},
                    {"fraction_of_l2_rate", own.median_of([&](size_t pass) { return bytes * cached[v][pass] / own.times()[pass]; })},
                    {"fraction_of_bound", own.median_of(fraction_of_bound)},
                    {"fraction_of_goal", own.median_of(fraction_of_goal)},
                    {"speedup_over_dense", speedup},
                    {"byte_ratio", byte_ratio},
                    {"formats", std::string(dtype_name(variants[v].key ? variants[v].key : dtype)) + "/" + dtype_name(variants[v].value ? variants[v].value : dtype)},
                    {"speedup_over_byte_ratio", speedup / byte_ratio}});
    add_figures(rows.back(), own, bytes);
  }
}

}  // namespace

Json attend_bench(const Bench &bench) {
  Json rows = Json::array();
  struct Model {
    int32_t channels, kv_heads, group;
    std::vector<int32_t> kept;
  };
  for (const Model &model : {Model{128, 8, 4, {128, 77, 64, 32}}, Model{64, 3, 3, {64, 39, 32, 16}}}) {
    std::vector<Variant> variants = {{"rows", "dense", {}, model.channels}};
    for (int32_t kept : model.kept) {
      variants.push_back({"tiles", "uniform", std::vector<int32_t>(model.kv_heads, kept), kept});
      if (kept < model.channels) variants.push_back({"tiles", "mixed", mixed_widths(model.kv_heads, model.channels, kept), kept});
    }
    // Codes beside the numbers of the same widths: all channels, and half of them.
    for (int32_t kept : {model.channels, model.channels / 2}) {
      for (think_dtype code : {THINK_U8, THINK_U4, THINK_U2, THINK_F8_E4M3}) {
        variants.push_back({"tiles", "uniform", std::vector<int32_t>(model.kv_heads, kept), kept, code, code});
      }
      variants.push_back({"tiles", "uniform", std::vector<int32_t>(model.kv_heads, kept), kept, THINK_U4, THINK_U8});
    }
    for (int64_t tokens : bench.options.quick ? std::vector<int64_t>{4096} : std::vector<int64_t>{4096, 8192, 32768}) {
      for (think_dtype dtype : bench.options.quick ? std::vector<think_dtype>{THINK_F16} : std::vector<think_dtype>{THINK_F16, THINK_BF16}) {
        for (int32_t count : bench.options.threads) {
          const Shape shape = make_shape(model.kv_heads, model.group, model.channels, tokens, dtype);
          const std::string what = shape_name(shape) + " " + dtype_name(dtype) + ", " + std::to_string(tokens) + " tokens, " + std::to_string(count) + " threads";
          if (what.find(bench.options.match) == std::string::npos) continue;
          bench.progress("attend " + what);
          const Threads threads(count);
          measure(bench, shape, dtype, tokens, variants, threads, rows);
        }
      }
    }
  }
  return rows;
}

}  // namespace think::bench
