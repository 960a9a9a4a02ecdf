// Time of moments, gains, select and fit for one layer: what a prune costs besides moving bytes.
#include "kernels/moments/moments.h"

#include "kernels/fit/fit.h"
#include "kernels/select/select.h"
#include "libthink/core/layout.h"
#include "measure.h"

namespace think::bench {

namespace {

void measure(const Bench &bench, const Shape &shape, int32_t tokens, bool values, const Threads &threads, Json &rows) {
  const Parallel &parallel = threads.parallel();
  const int64_t heads = shape.kv_heads, channels = shape.key_channels, row_bytes = channels * dtype_bytes(shape.cache_dtype);
  const Batch batch{1, nullptr, nullptr, nullptr};
  Memory query(int64_t{4} * shape.query_heads * shape.window * channels), state(moments::state_bytes(shape));
  Memory workspace(std::max({moments::workspace(shape, 1, tokens), moments::gains_workspace(shape, 1), fit::workspace(shape, 1, parallel.threads)}));
  Memory key_basis(basis_bytes(shape, THINK_KEYS)), value_basis(basis_bytes(shape, THINK_VALUES));
  std::copy(bench.arena.data(), bench.arena.data() + query.bytes(), query.data());
  std::vector<float> score(heads * channels), gains(heads * channels);
  std::vector<int32_t> order(heads * channels);
  for (size_t i = 0; i < score.size(); ++i) score[i] = static_cast<float>(i * 37 % 101);

  moments::Arguments arguments{shape, make_tensor(query.data(), THINK_F32, shape.query_heads, shape.window, channels), THINK_SEGMENT_INIT, batch, 4, 32, 0.9f,
                               state.data()};
  think_segment &source = arguments.source;
  source.flags = THINK_SEGMENT_CAUSAL;
  source.key = bench.arena.data();
  source.value = values ? bench.arena.data() + heads * tokens * row_bytes : nullptr;
  source.key_dtype = source.value_dtype = shape.cache_dtype;
  source.key_stride[1] = source.value_stride[1] = tokens * row_bytes;
  source.page_tokens = tokens;
  source.lengths = &tokens;

  const auto fit_side = [&](int32_t side, Memory &memory) {
    think_basis basis;
    bind_basis(shape, side, 1, memory.data(), basis);
    moments::gains(bench.isa, shape, state.data(), batch, side, side == THINK_KEYS ? score.data() : nullptr, gains.data(), order.data(), workspace.data(), parallel);
    const select::Select choice{static_cast<int32_t>(heads), static_cast<int32_t>(channels), 8, static_cast<int32_t>(channels / 2), nullptr, select::Pairs::none};
    select::select(choice, side == THINK_KEYS ? score.data() : gains.data(), batch, basis, nullptr);
    fit::fit({shape, state.data(), batch, side, 1e-3f, basis}, workspace.data(), parallel);
  };
  std::vector<double> moment_times, fit_times;
  for (int32_t round = -1; round < bench.options.rounds; ++round) {
    const double moment = seconds_of([&] { moments::measure(bench.isa, arguments, workspace.data(), parallel); });
    const double fitted = seconds_of([&] {
      fit_side(THINK_KEYS, key_basis);
      if (values) fit_side(THINK_VALUES, value_basis);
    });
    if (round < 0) continue;
    moment_times.push_back(moment);
    fit_times.push_back(fitted);
  }
  const double both = median(moment_times) + median(fit_times);
  rows.push_back({{"shape", shape_name(shape)},
                  {"dtype", dtype_name(shape.cache_dtype)},
                  {"threads", parallel.threads},
                  {"tokens", tokens},
                  {"sides", values ? "keys and values" : "keys"},
                  {"moments_ms", median(moment_times) * 1e3},
                  {"gains_fit_ms", median(fit_times) * 1e3},
                  {"ms", both * 1e3},
                  {"us_per_token", both * 1e6 / tokens}});
}

}  // namespace

Json moments_bench(const Bench &bench) {
  Json rows = Json::array();
  for (int32_t count : bench.options.threads) {
    const Threads threads(count);
    for (int32_t tokens : bench.options.quick ? std::vector<int32_t>{2048} : std::vector<int32_t>{2048, 8192, 32768}) {
      bench.progress("moments and fit, " + std::to_string(tokens) + " tokens, " + std::to_string(count) + " threads");
      for (bool values : {false, true}) {
        measure(bench, make_shape(8, 4, 128, tokens, THINK_F16), tokens, values, threads, rows);
        measure(bench, make_shape(3, 3, 64, tokens, THINK_F16), tokens, values, threads, rows);
      }
    }
  }
  return rows;
}

}  // namespace think::bench
