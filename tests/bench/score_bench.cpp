// think_score_update() on the keys of one layer after the other.
#include "kernels/score/score.h"

#include "measure.h"

namespace think::bench {

namespace {

void measure(const Bench &bench, Shape shape, think_dtype dtype, int64_t tokens, bool interleaved, const Threads &threads, Json &rows) {
  const Parallel &parallel = threads.parallel();
  shape.query_dtype = dtype;  // queries and keys come from the same matrix products
  const int64_t heads = shape.kv_heads, channels = shape.key_channels;
  const int64_t layer_bytes = heads * tokens * channels * dtype_bytes(dtype), layers = bench.arena.bytes() / layer_bytes;
  Memory query(dtype_bytes(dtype) * shape.query_heads * shape.window * channels), state(score::state_bytes(shape)), workspace(score::update_workspace(shape, 1, tokens));
  score::Update update{shape, make_tensor(query.data(), dtype, shape.query_heads, tokens, channels),
                       make_tensor(nullptr, dtype, heads, tokens, channels), {1, nullptr, nullptr, nullptr}, state.data()};
  // Only the last rows of the queries are read: all tokens share the memory of a window.
  update.query.stride[1] = shape.window * channels;
  update.query.stride[2] = 0;
  if (interleaved) {
    update.key.stride[1] = channels;
    update.key.stride[2] = heads * channels;
  }
  // The window's queries and the state stay in the caches here.
  const double bytes = static_cast<double>(layer_bytes);
  const auto layer = [&](char *key, const Parallel &with) {
    update.key.data = key;
    score::update(bench.isa, update, workspace.data(), with, {0, 1});
  };
  const auto pass = [&] {
    return seconds_of([&] {
      for (int64_t i = 0; i < layers; ++i) layer(bench.arena.data() + i * layer_bytes, parallel);
    }) / static_cast<double>(layers);
  };
  const Passes passes = measure_passes(bench.options.rounds, pass, [&] { return probe_seconds_per_byte(bench.arena, parallel); });
  rows.push_back({{"shape", shape_name(shape)},
                  {"dtype", dtype_name(dtype)},
                  {"threads", parallel.threads},
                  {"tokens", tokens},
                  {"strides", interleaved ? "token, head" : "head, token"}});
  add_figures(rows.back(), passes, bytes);
}

}  // namespace

Json score_bench(const Bench &bench) {
  Json rows = Json::array();
  for (int32_t count : bench.options.threads) {
    const Threads threads(count);
    for (int64_t tokens : bench.options.quick ? std::vector<int64_t>{4096} : std::vector<int64_t>{1024, 4096, 32768}) {
      for (think_dtype dtype : {THINK_F32, THINK_F16, THINK_BF16}) {
        for (bool interleaved : {false, true}) {
          bench.progress("score " + std::string(dtype_name(dtype)) + ", " + std::to_string(tokens) + " tokens, " + std::to_string(count) + " threads");
          measure(bench, make_shape(8, 4, 128, tokens, dtype), dtype, tokens, interleaved, threads, rows);
          if (dtype == THINK_F16) measure(bench, make_shape(3, 3, 64, tokens, dtype), dtype, tokens, interleaved, threads, rows);
        }
      }
    }
  }
  return rows;
}

}  // namespace think::bench
