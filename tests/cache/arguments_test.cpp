// Every function of the cache with arguments that are wrong in one place: the status, the position, what the message names, and that nothing has changed.
#include <functional>
#include <set>
#include <tuple>
#include <type_traits>

#include "engine.h"
#include "think/dlpack.h"

namespace cache_test {
namespace {

using Rows = Engine::Rows;

// A cache in the middle of a step: layer 1 is appended, layer 0 is not.
class Arguments : public testing::Test {
 protected:
  Arguments() : site_(settings_), engine_(settings_, site_) {
    engine_.step({0}, {200});
    engine_.prune({0});
    engine_.step({1}, {3});
  }
  void open_step() {
    ASSERT_EQ(THINK_OK, engine_.begin({0, 1}, {2, 3}));
    engine_.append(1);
  }
  void refused(const char *function, think_status code, int32_t position, const char *text, const std::function<think_status(think_error *)> &call) {
    SCOPED_TRACE(std::string(function) + ", argument " + std::to_string(position) + ", " + text);
    tested_.insert(function);
    const think_cache_info before = engine_.usage();
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(code, call(&error));
    EXPECT_EQ(code, error.code);
    EXPECT_EQ(position, error.argument) << error.message;
    EXPECT_NE(nullptr, std::strstr(error.message, text)) << error.message;
    EXPECT_EQ(code, call(nullptr)) << "without a record";
    const think_cache_info after = engine_.usage();
    EXPECT_EQ(0, std::memcmp(&before, &after, sizeof before));
  }

  Settings settings_;
  Site site_;
  Engine engine_;
  std::set<std::string> tested_;
};

template <class Result, class... Parameters>
constexpr bool fallible(Result (*)(Parameters...)) {
  if constexpr (sizeof...(Parameters) > 0) {
    return std::is_same_v<std::tuple_element_t<sizeof...(Parameters) - 1, std::tuple<Parameters...>>, think_error *>;
  }
  return false;
}

TEST_F(Arguments, EveryFunctionNamesWhatIsWrong) {
  think_cache *cache = engine_.cache(), *made = nullptr;
  const think_launch *launch = engine_.launch();
  const think_status wrong = THINK_E_ARGUMENT;
  const auto create = [&](const char *text, think_status code, const std::function<void(think_cache_options &)> &spoil) {
    refused("think_cache_create", code, 2, text, [&](think_error *error) {
      think_cache_options options = THINK_CACHE_OPTIONS_INIT;
      spoil(options);
      return think_cache_create(site_.plan, &options, &made, error);
    });
  };
  refused("think_cache_create", wrong, 1, "plan", [&](think_error *error) { return think_cache_create(nullptr, nullptr, &made, error); });
  refused("think_cache_create", wrong, 3, "cache", [&](think_error *error) { return think_cache_create(site_.plan, nullptr, nullptr, error); });
  create("options->struct_size", wrong, [](think_cache_options &options) { options.struct_size = 63; });
  create("options->flags", wrong, [](think_cache_options &options) { options.flags = 4; });
  create("options->flags", wrong, [](think_cache_options &options) { options.flags = THINK_CACHE_NO_SCORES | THINK_CACHE_KEEP_SCORES; });
  create("options->layers", wrong, [](think_cache_options &options) { options.layers = -1; });
  create("options->sequences", wrong, [](think_cache_options &options) { options.sequences = -2; });
  create("options->fold", wrong, [](think_cache_options &options) { options.fold = 2; });
  create("options->refit", wrong, [](think_cache_options &options) { options.refit = 3; });
  create("options->rollback", wrong, [](think_cache_options &options) { options.rollback = -2; });
  create("options->rollback", wrong, [](think_cache_options &options) { options.rollback = 641; });
  create("options->reserved", wrong, [](think_cache_options &options) { options.reserved = 1; });
  create("options->scored", wrong, [](think_cache_options &options) { options.scored = 1; });
  create("options->bases", wrong, [](think_cache_options &options) { options.bases = 1; });
  create("options->slab", wrong, [&](think_cache_options &options) { options.slab = &made; });
  create("options->slab_bytes", wrong, [](think_cache_options &options) { options.slab_bytes = 1; });
  create("options->reserve_tokens", wrong, [](think_cache_options &options) { options.reserve_tokens = -1; });
  create("options->limit_bytes", wrong, [](think_cache_options &options) { options.limit_bytes = -1; });
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.key_kept = 33;
  create("options->prune->key_kept", wrong, [&](think_cache_options &options) { options.prune = &prune; });
  think_format format = THINK_FORMAT_INIT;
  format.key_dtype = THINK_U4, format.key_layout = THINK_ROWS;
  create("options->format->key_layout", wrong, [&](think_cache_options &options) { options.format = &format; });
  EXPECT_EQ(nullptr, made);

  int64_t bytes = 5;
  const auto slab_size = [&](int32_t position, const char *text, const think_plan *plan, int64_t dense, int64_t compact, int64_t *to, think_status code) {
    refused("think_cache_slab_size", code, position, text,
            [=](think_error *error) { return think_cache_slab_size(plan, nullptr, dense, compact, to, error); });
  };
  slab_size(1, "plan", nullptr, 1, 1, &bytes, wrong);
  slab_size(3, "dense_tokens", site_.plan, -1, 1, &bytes, wrong);
  slab_size(4, "compact_tokens", site_.plan, 1, int64_t{1} << 31, &bytes, wrong);
  slab_size(5, "bytes", site_.plan, 1, 1, nullptr, wrong);
  slab_size(1, "CUDA", site_.plan, 1, 1, &bytes, THINK_E_UNSUPPORTED);
  int64_t id = 7;
  refused("think_cache_graph_id", wrong, 1, "cache", [&](think_error *error) { return think_cache_graph_id(nullptr, &id, error); });
  refused("think_cache_graph_id", THINK_E_UNSUPPORTED, 1, "CUDA", [&](think_error *error) { return think_cache_graph_id(cache, &id, error); });
  refused("think_cache_replayed", wrong, 1, "cache", [&](think_error *error) { return think_cache_replayed(nullptr, 1, error); });
  refused("think_cache_replayed", THINK_E_UNSUPPORTED, 1, "CUDA", [&](think_error *error) { return think_cache_replayed(cache, 1, error); });
  EXPECT_EQ(7, id);

  refused("think_cache_workspace_size", wrong, 1, "cache", [&](think_error *error) { return think_cache_workspace_size(nullptr, &bytes, nullptr, error); });
  refused("think_cache_workspace_size", wrong, 2, "bytes", [&](think_error *error) { return think_cache_workspace_size(cache, nullptr, nullptr, error); });

  const auto step = [&](int32_t position, const char *text, think_cache *of, const int32_t *sequences, const int32_t *tokens, int32_t count) {
    refused("think_cache_step", wrong, position, text, [=](think_error *error) { return think_cache_step(of, sequences, tokens, count, launch, error); });
  };
  const int32_t two[] = {0, 1}, same[] = {1, 1}, far[] = {0, 6}, ones[] = {1, 1}, negative[] = {1, -1}, many[] = {441, 1};
  step(1, "cache", nullptr, two, ones, 2);
  step(2, "sequences", cache, nullptr, ones, 2);
  step(3, "new_tokens", cache, two, nullptr, 2);
  step(4, "count", cache, two, ones, 0);
  step(4, "count", cache, two, ones, 5);
  step(2, "sequences[1]", cache, same, ones, 2);
  step(2, "sequences[1]", cache, far, ones, 2);
  step(3, "new_tokens[1]", cache, two, negative, 2);
  step(3, "new_tokens[0]", cache, two, many, 2);

  const auto pruned = [&](int32_t position, const char *text, think_cache *of, const int32_t *sequences, int32_t count, const think_launch *with,
                          think_status code) {
    refused("think_cache_prune", code, position, text, [=](think_error *error) { return think_cache_prune(of, sequences, count, with, error); });
  };
  pruned(1, "cache", nullptr, two, 1, launch, wrong);
  pruned(2, "sequences", cache, nullptr, 1, launch, wrong);
  pruned(2, "sequences[1]", cache, same, 2, launch, wrong);
  pruned(3, "count", cache, two, 7, launch, wrong);
  pruned(2, "sequence 0", cache, two, 2, launch, THINK_E_STATE);
  pruned(4, "workspace", cache, two + 1, 1, nullptr, THINK_E_WORKSPACE);

  const flow::Tensor probe(THINK_F32, 4, 4, 8, 32), few(THINK_F32, 3, 4, 8, 32), long_probe(THINK_F32, 4, 4, 9, 32);
  std::vector<float> score(4 * 2 * 200);
  const auto evict = [&](int32_t position, const char *text, const int32_t *sequences, int32_t of, const think_evict_options *options,
                         const think_tensor *queries, float *sums, const think_launch *with, think_status code) {
    refused("think_cache_evict", code, position, text,
            [=](think_error *error) { return think_cache_evict(cache, sequences, of, options, queries, sums, with, error); });
  };
  const auto options_of = [](int32_t method, int32_t budget) {
    think_evict_options options = THINK_EVICT_OPTIONS_INIT;
    options.method = method, options.budget = budget, options.score_stride = 200;
    return options;
  };
  const think_evict_options window = options_of(THINK_EVICT_WINDOW, 8), nothing = options_of(THINK_EVICT_WINDOW, 0), sums = options_of(THINK_EVICT_H2O, 8);
  const think_evict_options tiny = options_of(THINK_EVICT_RECENT, 3), recent = options_of(THINK_EVICT_RECENT, 9);
  think_evict_options odd = window, narrow_sums = sums, spread = window;
  odd.kernel = 3, narrow_sums.score_stride = 2, spread.kept_stride = 8;
  refused("think_cache_evict", wrong, 1, "cache",
          [&](think_error *error) { return think_cache_evict(nullptr, two, 2, &window, probe.view(), nullptr, launch, error); });
  evict(2, "sequences", nullptr, 2, &window, probe.view(), nullptr, launch, wrong);
  evict(2, "sequences[1]", same, 2, &window, probe.view(), nullptr, launch, wrong);
  evict(3, "count", two, 0, &window, probe.view(), nullptr, launch, wrong);
  evict(4, "options", two, 2, nullptr, probe.view(), nullptr, launch, wrong);
  evict(4, "options->budget", two, 2, &nothing, probe.view(), nullptr, launch, wrong);
  evict(4, "options->budget", two, 2, &tiny, nullptr, nullptr, launch, wrong);  // fewer than the sinks of a sequence with compact rows
  evict(4, "options->kernel", two, 2, &odd, probe.view(), nullptr, launch, wrong);
  evict(4, "options->kept_stride", two, 2, &spread, probe.view(), nullptr, launch, wrong);
  evict(4, "options->score_stride", two, 2, &narrow_sums, probe.view(), score.data(), launch, wrong);
  evict(5, "window_query", two, 2, &recent, probe.view(), nullptr, launch, wrong);
  evict(5, "window_query->extent[0]", two, 2, &window, few.view(), nullptr, launch, wrong);
  evict(5, "window_query->extent[2]", two, 2, &window, long_probe.view(), nullptr, launch, wrong);
  evict(6, "score", two, 2, &sums, probe.view(), nullptr, launch, wrong);
  evict(6, "score", two, 2, &recent, nullptr, score.data(), launch, wrong);
  evict(2, "sequence 0 keeps no scores", two, 2, &window, nullptr, nullptr, launch, THINK_E_STATE);
  evict(7, "workspace", two, 2, &window, probe.view(), nullptr, nullptr, THINK_E_WORKSPACE);
  {
    Settings bare = settings_;
    bare.options.flags = THINK_CACHE_NO_SCORES;
    Engine without(bare, site_);
    refused("think_cache_evict", wrong, 5, "window_query",
            [&](think_error *error) { return think_cache_evict(without.cache(), two, 2, &window, nullptr, nullptr, launch, error); });
  }

  const auto keep = [&](int32_t position, const char *text, think_cache *of, int32_t sequence, const int32_t *kept, int32_t rows) {
    refused("think_cache_keep", wrong, position, text, [=](think_error *error) { return think_cache_keep(of, sequence, kept, rows, error); });
  };
  const int32_t pairs[] = {0, 2, 0, 1, 1, 2, 0, 0}, beyond[] = {0, 2, 0, 3, 1, 2, 0, 1};
  const std::vector<int32_t> no_sinks(4 * 5, 9);
  keep(1, "cache", nullptr, 1, pairs, 2);
  keep(2, "sequence", cache, 6, pairs, 2);
  keep(3, "kept", cache, 1, nullptr, 2);
  keep(3, "kept[7]", cache, 1, pairs, 2);
  keep(3, "kept[3]", cache, 1, beyond, 2);
  keep(3, "kept[0]", cache, 0, no_sinks.data(), 5);  // its sinks stay
  keep(4, "rows", cache, 1, pairs, 0);
  keep(4, "rows", cache, 1, pairs, 4);
  keep(4, "rows", cache, 0, pairs, 3);

  think_cache_info info = THINK_CACHE_INFO_INIT;
  refused("think_cache_usage", wrong, 1, "cache", [&](think_error *error) { return think_cache_usage(nullptr, 0, &info, error); });
  refused("think_cache_usage", wrong, 2, "sequence", [&](think_error *error) { return think_cache_usage(cache, 6, &info, error); });
  refused("think_cache_usage", wrong, 3, "info", [&](think_error *error) { return think_cache_usage(cache, 0, nullptr, error); });
  info.struct_size = 95;
  refused("think_cache_usage", wrong, 3, "info->struct_size", [&](think_error *error) { return think_cache_usage(cache, 0, &info, error); });

  refused("think_cache_trim", wrong, 1, "cache", [&](think_error *error) { return think_cache_trim(nullptr, 0, 1, error); });
  refused("think_cache_trim", wrong, 2, "sequence", [&](think_error *error) { return think_cache_trim(cache, -1, 1, error); });
  refused("think_cache_trim", wrong, 3, "tokens", [&](think_error *error) { return think_cache_trim(cache, 1, 4, error); });
  refused("think_cache_fork", wrong, 1, "cache", [&](think_error *error) { return think_cache_fork(nullptr, 0, 1, error); });
  refused("think_cache_fork", wrong, 2, "source", [&](think_error *error) { return think_cache_fork(cache, 6, 1, error); });
  refused("think_cache_fork", wrong, 3, "destination", [&](think_error *error) { return think_cache_fork(cache, 0, 6, error); });
  refused("think_cache_fork", wrong, 3, "destination", [&](think_error *error) { return think_cache_fork(cache, 0, 0, error); });
  refused("think_cache_drop", wrong, 1, "cache", [&](think_error *error) { return think_cache_drop(nullptr, 0, error); });
  refused("think_cache_drop", wrong, 2, "sequence", [&](think_error *error) { return think_cache_drop(cache, 6, error); });
  const think_writer write = [](void *, const void *, int64_t) { return 0; };
  const think_reader read = [](void *, void *, int64_t) { return int64_t{0}; };
  refused("think_cache_save_size", THINK_E_STATE, 2, "sequence", [&](think_error *error) { return think_cache_save_size(cache, 2, &bytes, error); });
  refused("think_cache_export_dense", wrong, 5, "count",
          [&](think_error *error) { return think_cache_export_dense(cache, 1, 0, 1, 3, nullptr, nullptr, nullptr, error); });
  refused("think_cache_save", wrong, 1, "cache", [&](think_error *error) { return think_cache_save(nullptr, 0, write, nullptr, error); });
  refused("think_cache_save", wrong, 2, "sequence", [&](think_error *error) { return think_cache_save(cache, 6, write, nullptr, error); });
  refused("think_cache_save", wrong, 3, "write", [&](think_error *error) { return think_cache_save(cache, 0, nullptr, nullptr, error); });
  refused("think_cache_save", THINK_E_STATE, 2, "sequence 2", [&](think_error *error) { return think_cache_save(cache, 2, write, nullptr, error); });
  refused("think_cache_load", wrong, 1, "cache", [&](think_error *error) { return think_cache_load(nullptr, 2, read, nullptr, error); });
  refused("think_cache_load", wrong, 2, "sequence", [&](think_error *error) { return think_cache_load(cache, -1, read, nullptr, error); });
  refused("think_cache_load", wrong, 3, "read", [&](think_error *error) { return think_cache_load(cache, 2, nullptr, nullptr, error); });
  refused("think_cache_load", THINK_E_STATE, 2, "sequence 1", [&](think_error *error) { return think_cache_load(cache, 1, read, nullptr, error); });
  refused("think_cache_load", THINK_E_FORMAT, 3, "cut off", [&](think_error *error) { return think_cache_load(cache, 2, read, nullptr, error); });
  refused("think_cache_reset", wrong, 1, "cache", [&](think_error *error) { return think_cache_reset(nullptr, error); });

  open_step();
  evict(1, "think_cache_evict", two, 2, &window, probe.view(), nullptr, launch, THINK_E_STATE);
  const int32_t rows[] = {0, 1, 0, 1, 0, 1, 0, 1};
  refused("think_cache_keep", THINK_E_STATE, 1, "think_cache_keep", [&](think_error *error) { return think_cache_keep(cache, 1, rows, 2, error); });
  refused("think_cache_save", THINK_E_STATE, 1, "think_cache_save", [&](think_error *error) { return think_cache_save(cache, 0, write, nullptr, error); });
  refused("think_cache_load", THINK_E_STATE, 1, "think_cache_load", [&](think_error *error) { return think_cache_load(cache, 2, read, nullptr, error); });
  refused("think_cache_export_dense", THINK_E_STATE, 3, "layer 0",
          [&](think_error *error) { return think_cache_export_dense(cache, 0, 0, 0, 1, nullptr, nullptr, nullptr, error); });
  think_segment segments[THINK_MAX_SEGMENTS];
  think_segment_init(segments, sizeof segments[0]);
  int32_t count = 0;
  refused("think_cache_segments", wrong, 1, "cache", [&](think_error *error) { return think_cache_segments(nullptr, 1, segments, 4, &count, error); });
  refused("think_cache_segments", wrong, 2, "layer", [&](think_error *error) { return think_cache_segments(cache, 2, segments, 4, &count, error); });
  refused("think_cache_segments", wrong, 3, "segments", [&](think_error *error) { return think_cache_segments(cache, 1, nullptr, 4, &count, error); });
  segments[0].struct_size = sizeof segments[0] + 1;
  refused("think_cache_segments", wrong, 3, "struct_size", [&](think_error *error) { return think_cache_segments(cache, 1, segments, 4, &count, error); });
  segments[0].struct_size = sizeof segments[0];
  refused("think_cache_segments", wrong, 4, "capacity", [&](think_error *error) { return think_cache_segments(cache, 1, segments, 0, &count, error); });
  refused("think_cache_segments", wrong, 5, "count", [&](think_error *error) { return think_cache_segments(cache, 1, segments, 4, nullptr, error); });

  const auto borrow = [&](int32_t position, const char *text, const think_cache *of, int32_t sequence, int32_t layer, think_segment *array, int32_t capacity,
                          int32_t *number, think_status code) {
    refused("think_cache_sequence_segments", code, position, text,
            [=](think_error *error) { return think_cache_sequence_segments(of, sequence, layer, array, capacity, number, error); });
  };
  borrow(1, "cache", nullptr, 0, 1, segments, 4, &count, wrong);
  borrow(2, "sequence", cache, 6, 1, segments, 4, &count, wrong);
  borrow(3, "layer", cache, 0, -1, segments, 4, &count, wrong);
  borrow(3, "layer 0", cache, 0, 0, segments, 4, &count, THINK_E_STATE);
  borrow(4, "segments", cache, 0, 1, nullptr, 4, &count, wrong);
  borrow(5, "capacity", cache, 0, 1, segments, 0, &count, wrong);
  borrow(5, "capacity", cache, 0, 1, segments, 1, &count, wrong);
  borrow(6, "count", cache, 0, 1, segments, 4, nullptr, wrong);
  EXPECT_EQ(0, count);

  const flow::Tensor query = engine_.query_rows(0, Rows::rectangular), packed_query = engine_.query_rows(0, Rows::packed);
  const flow::Tensor key = engine_.fresh(0, Rows::rectangular, 1, 2, 32, THINK_F32), packed_key = engine_.fresh(0, Rows::packed, 1, 2, 32, THINK_F32);
  flow::Tensor output(THINK_F32, 2, 4, 3, 32);
  think_tensor narrow = *key.view(), flat = *key.view();
  narrow.extent[2] = 2;
  flat.stride[2] = 0;
  const auto append = [&](int32_t position, const char *text, think_cache *of, int32_t layer, const think_tensor *q, const think_tensor *k,
                          const think_tensor *v, const think_launch *with, think_status code) {
    refused("think_cache_append", code, position, text, [=](think_error *error) { return think_cache_append(of, layer, q, k, v, with, error); });
  };
  append(1, "cache", nullptr, 0, query.view(), key.view(), key.view(), launch, wrong);
  append(2, "layer", cache, 2, query.view(), key.view(), key.view(), launch, wrong);
  append(3, "query", cache, 0, nullptr, key.view(), key.view(), launch, wrong);
  append(4, "key", cache, 0, query.view(), nullptr, key.view(), launch, wrong);
  append(5, "value", cache, 0, query.view(), key.view(), nullptr, launch, wrong);
  append(4, "key->extent[1]", cache, 0, query.view(), query.view(), key.view(), launch, wrong);
  append(4, "key->extent[2]", cache, 0, query.view(), &narrow, key.view(), launch, wrong);
  append(4, "key->extent[0]", cache, 0, query.view(), packed_key.view(), key.view(), launch, wrong);
  append(5, "value->stride[2]", cache, 0, query.view(), key.view(), &flat, launch, wrong);
  append(6, "workspace", cache, 0, query.view(), key.view(), key.view(), nullptr, THINK_E_WORKSPACE);
  append(2, "layer 1", cache, 1, query.view(), key.view(), key.view(), launch, THINK_E_STATE);

  const auto attend = [&](int32_t position, const char *text, const think_cache *of, int32_t layer, const think_tensor *q, const float *sink,
                          const think_tensor *out,
                          float *lse, const think_launch *with, think_status code) {
    refused("think_cache_attend", code, position, text, [=](think_error *error) { return think_cache_attend(of, layer, q, sink, out, lse, with, error); });
  };
  float *const askew = reinterpret_cast<float *>(output.memory().data() + 1);
  attend(1, "cache", nullptr, 1, query.view(), nullptr, output.view(), nullptr, launch, wrong);
  attend(2, "layer", cache, -1, query.view(), nullptr, output.view(), nullptr, launch, wrong);
  attend(2, "layer 0", cache, 0, query.view(), nullptr, output.view(), nullptr, launch, THINK_E_STATE);
  attend(3, "query", cache, 1, nullptr, nullptr, output.view(), nullptr, launch, wrong);
  attend(4, "sink_logit", cache, 1, query.view(), askew, output.view(), nullptr, launch, wrong);
  attend(5, "output", cache, 1, query.view(), nullptr, nullptr, nullptr, launch, wrong);
  attend(5, "output->extent[0]", cache, 1, packed_query.view(), nullptr, output.view(), nullptr, launch, wrong);
  attend(6, "lse", cache, 1, query.view(), nullptr, output.view(), askew, launch, wrong);
  attend(7, "workspace", cache, 1, query.view(), nullptr, output.view(), nullptr, nullptr, THINK_E_WORKSPACE);
  for (size_t i = 0; i < static_cast<size_t>(output.memory().bytes()); ++i) ASSERT_EQ(flow::kPoison, output.memory().data()[i]) << "the output was written";

#define THINK_FUNCTION(name, since) \
  if (std::string(#name).rfind("think_cache_", 0) == 0 && fallible(&name)) EXPECT_EQ(1u, tested_.count(#name)) << #name << " is not tested here";
#include "libthink/abi/functions.def"
#undef THINK_FUNCTION
}

TEST_F(Arguments, StructsOfOtherVersions) {
  think_cache_options options;
  std::memset(&options, 0xff, sizeof options);
  think_cache_options_init(&options, sizeof options);
  const think_cache_options initial = THINK_CACHE_OPTIONS_INIT;
  EXPECT_EQ(0, std::memcmp(&options, &initial, sizeof options));
  struct {
    think_cache_options known;
    char future[24];
  } longer = {};
  longer.known = initial;
  longer.known.struct_size = sizeof longer;
  think_cache *cache = nullptr;
  THINK_CALL(think_cache_create, site_.plan, &longer.known, &cache);
  think_cache_destroy(cache);
  longer.future[23] = 1;
  think_error error = THINK_ERROR_INIT;
  EXPECT_EQ(THINK_E_UNSUPPORTED, think_cache_create(site_.plan, &longer.known, &cache, &error));
  struct {
    think_cache_info known;
    unsigned char future[24];
  } answer;
  std::memset(&answer, 0x5a, sizeof answer);
  think_cache_info_init(&answer.known, sizeof answer.known);
  answer.known.struct_size = sizeof answer;
  THINK_CALL(think_cache_usage, engine_.cache(), 0, &answer.known);
  EXPECT_EQ(sizeof answer, answer.known.struct_size);
  EXPECT_EQ(200, answer.known.tokens);
  for (const unsigned char byte : answer.future) EXPECT_EQ(0x5a, byte);
  think_cache_destroy(nullptr);
}

}  // namespace
}  // namespace cache_test
