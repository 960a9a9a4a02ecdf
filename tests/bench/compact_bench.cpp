// think_compact() from dense rows of one layer after the other to a compact segment. Bytes = read + written.
#include "kernels/compact/compact.h"

#include <random>

#include "measure.h"

namespace think::bench {

namespace {

struct Case {
  const char *name;
  think_dtype from, to;
  int32_t key_kept, value_kept;  // 0 = the side is left out; all channels = copied
  bool interleaved;              // source rows of all heads side by side, token by token
};

std::string dtypes_of(const Case &which) { return std::string(dtype_name(which.from)) + " to " + dtype_name(which.to); }
std::string what_of(const Case &which) { return std::string(which.name) + ", " + dtypes_of(which); }

void measure(const Bench &bench, const Arena &target, const Shape &shape, const Case &which, int32_t tokens, const Threads &threads, Json &rows) {
  const Parallel &parallel = threads.parallel();
  const int64_t heads = shape.kv_heads, channels = shape.key_channels;
  const int64_t from = dtype_bytes(which.from);
  const auto stored = [&](int32_t kept, bool keys) { return kept ? head_bytes(tokens, kept, which.to, keys) : 0; };
  // An odd first row, as behind the sinks.
  const int32_t first = 4, zero = 0, room = tokens + kTileTokens;
  const int64_t side_bytes = heads * channels * room * from;
  const int32_t sides = (which.key_kept > 0) + (which.value_kept > 0);
  const int64_t source_bytes = side_bytes * sides;
  const int64_t key_bytes = heads * stored(which.key_kept, true), value_bytes = heads * stored(which.value_kept, false);
  const int64_t layers = std::min(bench.arena.bytes() / source_bytes, target.bytes() / (key_bytes + value_bytes));

  std::mt19937 random(3);
  std::vector<int32_t> index[2], kept[2];
  std::vector<int64_t> offset[2];
  think_basis basis[2];
  const int32_t widths[2] = {which.key_kept, which.value_kept};
  for (int side = 0; side < 2; ++side) {
    int64_t end = 0;
    for (int64_t h = 0; h < heads; ++h) {
      std::vector<int32_t> order(channels);
      for (int32_t c = 0; c < channels; ++c) order[c] = c;
      std::shuffle(order.begin(), order.end(), random);
      std::sort(order.begin(), order.begin() + widths[side]);
      index[side].insert(index[side].end(), order.begin(), order.end());
      kept[side].push_back(widths[side]);
      offset[side].push_back(end);
      end += stored(widths[side], side == 0);
    }
    basis[side] = THINK_BASIS_INIT;
    basis[side].channels = static_cast<int32_t>(channels);
    basis[side].kept = kept[side].data();
    basis[side].index = index[side].data();
  }

  think_segment source = THINK_SEGMENT_INIT, destination = THINK_SEGMENT_INIT;
  source.key_dtype = source.value_dtype = which.from;
  destination.key_dtype = destination.value_dtype = which.to;
  for (int64_t *stride : {source.key_stride, source.value_stride}) {
    stride[1] = which.interleaved ? channels * from : channels * room * from;
    stride[2] = which.interleaved ? heads * channels * from : 0;
  }
  source.first = &first;
  destination.first = &zero;
  destination.lengths = &tokens;
  destination.key_layout = THINK_TILES;
  destination.value_layout = is_quantized(which.to) ? THINK_TILES : THINK_ROWS;
  destination.page_tokens = tokens;
  destination.key_head_offset = offset[0].data();
  destination.value_head_offset = offset[1].data();
  destination.key_basis = which.key_kept < channels ? &basis[0] : nullptr;
  destination.value_basis = which.value_kept < channels ? &basis[1] : nullptr;

  const double bytes = static_cast<double>(heads * tokens * channels * from * sides + key_bytes + value_bytes);
  const auto pass = [&] {
    return seconds_of([&] {
      for (int64_t layer = 0; layer < layers; ++layer) {
        char *in = bench.arena.data() + layer * source_bytes, *out = target.data() + layer * (key_bytes + value_bytes);
        source.key = which.key_kept ? in : nullptr;
        destination.key = which.key_kept ? out : nullptr;
        source.value = which.value_kept ? in + (sides - 1) * side_bytes : nullptr;
        destination.value = which.value_kept ? out + key_bytes : nullptr;
        compact::compact(bench.isa, {shape, source, destination, {1, nullptr, nullptr, nullptr}}, parallel, {0, 1});
      }
    }) / static_cast<double>(layers);
  };
  const Passes passes = measure_passes(bench.options.rounds, pass, [&] { return probe_seconds_per_byte(bench.arena, parallel); });
  rows.push_back({{"shape", shape_name(shape)},
                  {"case", which.name},
                  {"dtypes", dtypes_of(which)},
                  {"threads", parallel.threads},
                  {"tokens", tokens},
                  {"key_kept", which.key_kept},
                  {"value_kept", which.value_kept}});
  add_figures(rows.back(), passes, bytes);
}

}  // namespace

Json compact_bench(const Bench &bench) {
  Json rows = Json::array();
  const Arena target(bench.options.footprint);
  const Shape large = make_shape(8, 4, 128, 32768, THINK_F16), small = make_shape(3, 3, 64, 32768, THINK_F16);
  const std::vector<Case> cases = {
      {"keys 64, values copied", THINK_F16, THINK_F16, 64, 128, false}, {"keys 64", THINK_F16, THINK_F16, 64, 0, false},
      {"keys 77", THINK_BF16, THINK_BF16, 77, 0, false},                {"keys 128", THINK_F16, THINK_F16, 128, 0, false},
      {"keys 32", THINK_F16, THINK_F16, 32, 0, false},                  {"values 88", THINK_F16, THINK_F16, 0, 88, false},
      {"values copied", THINK_F16, THINK_F16, 0, 128, false},           {"keys 64, values copied", THINK_F32, THINK_F16, 64, 128, false},
      {"keys 64, values copied", THINK_F32, THINK_BF16, 64, 128, false}, {"keys 64, values copied", THINK_F32, THINK_F32, 64, 128, false},
      {"the same, token by token", THINK_F16, THINK_F16, 64, 128, true}, {"keys 64, values all", THINK_F16, THINK_U8, 64, 128, false},
      {"keys 64, values all", THINK_F16, THINK_U4, 64, 128, false},     {"keys 128", THINK_F16, THINK_U8, 128, 0, false},
      {"keys 128", THINK_F16, THINK_U4, 128, 0, false},                 {"values all", THINK_F16, THINK_U8, 0, 128, false},
      {"values all", THINK_F16, THINK_U4, 0, 128, false},               {"keys 64, values all", THINK_F16, THINK_U2, 64, 128, false},
      {"keys 128", THINK_F16, THINK_U2, 128, 0, false},                 {"values all", THINK_F16, THINK_U2, 0, 128, false},
      {"keys 64, values all", THINK_F16, THINK_F8_E4M3, 64, 128, false}, {"keys 128", THINK_F16, THINK_F8_E4M3, 128, 0, false},
      {"values all", THINK_F16, THINK_F8_E4M3, 0, 128, false},
  };
  for (int32_t count : bench.options.threads) {
    const Threads threads(count);
    for (int32_t tokens : bench.options.quick ? std::vector<int32_t>{4096} : std::vector<int32_t>{1024, 8192, 32768}) {
      bench.progress("compact, " + std::to_string(tokens) + " tokens, " + std::to_string(count) + " threads");
      const auto measure_if_wanted = [&](const Shape &shape, const Case &which) {
        if (what_of(which).find(bench.options.match) != std::string::npos) measure(bench, target, shape, which, tokens, threads, rows);
      };
      for (const Case &which : cases) measure_if_wanted(large, which);
      measure_if_wanted(small, {"keys 32, values copied", THINK_F16, THINK_F16, 32, 64, false});
      measure_if_wanted(small, {"keys 32, values 48", THINK_F32, THINK_F16, 32, 48, false});
    }
  }
  return rows;
}

}  // namespace think::bench
