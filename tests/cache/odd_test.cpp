// Shapes and lives at the edges: few channels, sides of different widths, no groups, no sinks or more than a page of them, nothing recent, empty steps.
// Layers that differ.
#include "file.h"

namespace cache_test {
namespace {

struct Odd {
  int32_t query_heads, kv_heads, key_channels, value_channels;
  int32_t sinks, recent;
  think_dtype cache, key, value;
};

Settings settings_of(const Odd &odd) {
  Settings settings;
  settings.problem.query_heads = odd.query_heads;
  settings.problem.kv_heads = odd.kv_heads;
  settings.problem.key_channels = odd.key_channels;
  settings.problem.value_channels = odd.value_channels;
  settings.problem.cache_dtype = odd.cache;
  settings.options.fold = THINK_FOLD_BLOCK;
  settings.options.flags = THINK_CACHE_KEEP_SCORES;
  settings.prune.sinks = odd.sinks;
  settings.prune.recent = odd.recent;
  settings.prune.value_kept = odd.value_channels > 8 ? odd.value_channels - 8 : 0;
  settings.format.key_dtype = odd.key;
  settings.format.value_dtype = odd.value;
  settings.format.key_layout = THINK_TILES;
  if (is_code(odd.value)) settings.format.value_layout = THINK_TILES;
  return settings;
}

constexpr Odd kOdd[] = {
    {3, 3, 8, 8, -1, -1, THINK_F32, THINK_U8, THINK_U4},      // no groups; no side has a basis, but both are quantized
    {2, 1, 16, 8, 33, -1, THINK_BF16, 0, 0},                  // sinks end in the second page
    {8, 2, 40, 16, 64, 1, THINK_F32, THINK_U8, 0},            // sinks fill two pages
    {4, 4, 24, 72, 0, 40, THINK_BF16, THINK_U8, THINK_U8},    // values wider than keys
    {6, 2, 32, 128, 31, -1, THINK_F16, THINK_U4, THINK_U4},   // sinks all but fill a page
    {1, 1, 128, 8, -1, 3, THINK_F32, 0, THINK_U8},            // one head
    {5, 1, 56, 24, 4, 2, THINK_BF16, THINK_U2, THINK_U2},     // the coarsest codes
    {2, 2, 48, 32, 4, 2, THINK_F16, THINK_F8_E4M3, THINK_F8_E4M3},  // scales of slots
    {2, 2, 16, 8, 4, -1, THINK_F32, 0, THINK_F8_E4M3},        // ... and no basis beside them
};

class OddShapes : public testing::TestWithParam<Odd> {};

TEST_P(OddShapes, LiveLikeOthers) {
  const Settings settings = settings_of(GetParam());
  Site site(settings);
  const int64_t before = site.host.bytes;
  {
    Engine engine(settings, site);
    engine.step({0, 1, 2}, {170, 0, 69});
    engine.step({2, 0}, {0, 0});
    EXPECT_EQ(0, engine.usage(1).tokens);
    engine.prune({0, 1, 2});
    EXPECT_GT(engine.usage(0).compact_tokens, 0);
    engine.prune({2, 0});  // at once again: nothing is old enough, nothing happens
    EXPECT_EQ(1, engine.usage(0).runs);
    engine.step({0, 2}, {5, 0}, Engine::Rows::packed);
    engine.fork(0, 3);
    engine.fork(1, 4);  // of nothing
    engine.step({3, 0, 1}, {2, 5, 1});
    for (int step = 0; step < 9; ++step) engine.step({0, 3}, {5, 4}, step % 2 ? Engine::Rows::packed : Engine::Rows::rectangular);
    engine.prune({3});
    EXPECT_LE(engine.usage(3).runs, 2);
    engine.step({3, 0}, {1, 1});
    // Half a step of the codes, and what predictions sum up.
    const auto coarse = [](think_dtype dtype) {
      if (dtype == THINK_U2) return 6.0;
      return dtype == THINK_U4 ? 0.6 : dtype == THINK_F8_E4M3 ? 0.3 : dtype == THINK_U8 ? 0.12 : 1e-5;
    };
    engine.expect_exported(3, std::max(coarse(settings.format.key_dtype), coarse(settings.format.value_dtype)));

    // A sequence goes in the middle of a step; the others are as they were, one that was new is gone.
    const int64_t held = engine.usage(0).tokens;
    ASSERT_EQ(THINK_OK, engine.begin({0, 5, 3}, {3, 4, 2}));
    engine.append(1);
    engine.take_back();
    engine.drop(3);
    EXPECT_EQ(held, engine.usage(0).tokens);
    EXPECT_EQ(0, engine.usage(5).tokens);
    EXPECT_EQ(0, engine.usage(5).score_bytes);
    engine.expect_counted();
    engine.step({0, 5, 3}, {1, 40, 33});
    engine.step({0, 5, 3}, {1, 2, 3});
    engine.trim(0, held);
    engine.step({0}, {5});
    engine.expect_counted();
  }
  EXPECT_EQ(before, site.host.bytes);
}

INSTANTIATE_TEST_SUITE_P(Cache, OddShapes, testing::ValuesIn(kOdd));

// Numbers that are none may come from a model that has gone wrong: what is made of them means nothing, but it stays inside its memory.
TEST(Odd, NotANumberEverywhere) {
  for (const float number : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3e38f}) {
    Settings settings = settings_of(kOdd[2]);
    settings.options.refit = 1;
    Site site(settings);
    Engine engine(settings, site);
    const auto step = [&](int32_t tokens) {
      ASSERT_EQ(THINK_OK, engine.begin({0}, {tokens}));
      for (int32_t layer = 0; layer < settings.options.layers; ++layer) {
        const auto rows = [&](int which, int32_t heads, int32_t channels) {
          flow::Tensor tensor = engine.fresh(layer, Engine::Rows::rectangular, which, heads, channels, THINK_F32);
          for (int32_t t = 0; t < tokens; t += 3) tensor.set(0, t % heads, t, t % channels, number);
          return tensor;
        };
        const flow::Tensor query = rows(0, 8, 40), key = rows(1, 2, 40), value = rows(2, 2, 16);
        THINK_CALL(think_cache_append, engine.cache(), layer, query.view(), key.view(), value.view(), engine.launch());
        if (tokens > settings.problem.max_queries) continue;
        flow::Tensor output(THINK_F32, 1, 8, tokens, 16);
        THINK_CALL(think_cache_attend, engine.cache(), layer, query.view(), nullptr, output.view(), nullptr, engine.launch());
      }
    };
    step(200);
    engine.prune({0});
    for (int decode = 0; decode < 30; ++decode) step(5);
    EXPECT_GT(engine.usage(0).runs, 1) << "the second fit was wanted too";
    engine.expect_counted();
  }
}

// ---- layers with formats of their own: the first and the last one in more bits than those between -------------------------------------------------

think_format format_of(think_dtype key, think_dtype value) {
  think_format format = THINK_FORMAT_INIT;
  format.key_dtype = key;
  format.value_dtype = value;
  format.key_layout = THINK_TILES;
  format.value_layout = is_code(value) ? THINK_TILES : THINK_ROWS;
  return format;
}

Settings mixed_settings(int32_t key_kept = 16, int32_t value_kept = 16) {
  Settings settings = pruned_settings(0, 0);
  settings.options.layers = 4;
  settings.prune.key_kept = key_kept;
  settings.prune.value_kept = value_kept;
  settings.layer_formats = {format_of(0, 0), format_of(THINK_U4, THINK_U4), format_of(THINK_U4, THINK_U8), format_of(THINK_U8, 0)};
  return settings;
}

// Steps, prunes, folds, a second fit, forks and files, and every byte is the sum of what single layers take.
TEST(LayerFormats, LiveTogether) {
  const Settings settings = mixed_settings();
  Site site(settings), other_site(settings);
  Engine engine(settings, site), other(settings, other_site);
  fill(engine);
  engine.expect_counted();
  EXPECT_GT(engine.usage(0).runs, 0);
  int64_t sum = 0, compact_pages = 0;
  for (const think_format &format : settings.layer_formats) {
    Settings single = pruned_settings(0, 0);
    single.options.layers = 1;
    single.format = format;
    Site single_site(single);
    Engine alone(single, single_site);
    fill(alone);
    sum += alone.usage(0).page_bytes + alone.usage(0).basis_bytes;
    compact_pages += alone.usage(0).compact_tokens;
  }
  EXPECT_EQ(4 * engine.usage(0).compact_tokens, compact_pages);
  EXPECT_EQ(sum, engine.usage(0).page_bytes + engine.usage(0).basis_bytes);
  engine.fork(0, 2);
  engine.step({2, 0}, {3, 4});
  const std::string bytes = saved(engine, 0);
  think_error error = THINK_ERROR_INIT;
  ASSERT_EQ(THINK_OK, load(other.cache(), 0, bytes, &error)) << error.message;
  other.loaded(engine, 0);
  for (int step = 0; step < 8; ++step) ASSERT_TRUE(engine.step({0}, {5}) == other.step({0}, {5})) << "step " << step;
  engine.expect_counted();
  // A cache whose layers are in another order takes no such file.
  Settings swapped = settings;
  std::swap(swapped.layer_formats[1], swapped.layer_formats[2]);
  Site swapped_site(swapped);
  Engine refusing(swapped, swapped_site);
  EXPECT_EQ(THINK_E_FORMAT, load(refusing.cache(), 0, bytes, &error));
  EXPECT_NE(nullptr, std::strstr(error.message, "kind of cache")) << error.message;
  Settings plain = settings;
  plain.layer_formats.clear();
  Site plain_site(plain);
  Engine plain_engine(plain, plain_site);
  EXPECT_EQ(THINK_E_FORMAT, load(plain_engine.cache(), 0, bytes, &error));
  EXPECT_NE(nullptr, std::strstr(error.message, "kind of cache")) << error.message;
}

// The same format in every layer is the same cache as that format for all, files included.
TEST(LayerFormats, AllAlikeIsNothingNew) {
  Settings settings = pruned_settings(THINK_U4, THINK_U8), alike = settings;
  alike.layer_formats.assign(2, settings.format);
  Site site(settings), alike_site(alike);
  Engine engine(settings, site), other(alike, alike_site);
  fill(engine);
  fill(other);
  EXPECT_TRUE(saved(engine, 0) == saved(other, 0));
}

// All channels kept and some layers quantized: the others move into compact pages unchanged.
TEST(LayerFormats, NothingPruned) {
  Settings settings = mixed_settings(-1, -1);
  settings.options.fold = THINK_FOLD_NEVER;
  settings.options.refit = 0;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({0}, {150});
  EXPECT_EQ(5 * 4 * 8192, engine.usage(0).page_bytes);
  engine.prune({0});
  EXPECT_EQ(128, engine.usage(0).compact_tokens);
  EXPECT_EQ(4 * (8192 + 2560 + 3584 + 6400) + 4 * 8192, engine.usage(0).page_bytes) << "4 compact pages of each format, and a dense one in each layer";
  engine.step({0}, {5});
  engine.expect_counted();
}

// A prune is decided by the bytes of all layers: bases that would cost more than they save where rows are short do not stop it, nor does any layer stay behind.
TEST(LayerFormats, DecideTogether) {
  Settings settings = mixed_settings(8, -1);
  settings.prune.dense_limit = 0;
  settings.options.refit = 0;
  Site site(settings);
  Engine engine(settings, site);
  int64_t pruned_at = 0;
  for (int64_t tokens = 64; tokens <= 576 && pruned_at == 0; tokens += 32) {
    engine.step({0}, {static_cast<int32_t>(tokens)});
    engine.prune({0});
    if (engine.usage(0).key_channels < 64) pruned_at = tokens;
    engine.step({0}, {5});
    engine.drop(0);
  }
  EXPECT_GT(pruned_at, 64) << "a short sequence keeps its key channels";
  EXPECT_GT(576, pruned_at) << "a long one does not";
}

TEST(LayerFormats, AreChecked) {
  Settings settings = mixed_settings();
  Site site(settings);
  think_cache *cache = nullptr;
  think_error error = THINK_ERROR_INIT;
  settings.options.layer_formats = settings.layer_formats.data();
  settings.layer_formats[2].value_layout = THINK_ROWS;
  EXPECT_EQ(THINK_E_ARGUMENT, think_cache_create(site.plan, &settings.options, &cache, &error));
  EXPECT_EQ(2, error.argument);
  EXPECT_NE(nullptr, std::strstr(error.message, "options->layer_formats[2].value_layout")) << error.message;
  settings.layer_formats[2].value_layout = THINK_TILES;
  settings.layer_formats[3].struct_size += 8;
  EXPECT_EQ(THINK_E_ARGUMENT, think_cache_create(site.plan, &settings.options, &cache, &error));
  EXPECT_NE(nullptr, std::strstr(error.message, "options->layer_formats[3].struct_size")) << error.message;
  // The step of the array is its first element's size.
  struct Longer {
    think_format known;
    char future[16];
  };
  std::vector<Longer> longer(4);
  settings.layer_formats[3].struct_size = sizeof(think_format);
  for (size_t layer = 0; layer < 4; ++layer) {
    longer[layer] = {settings.layer_formats[layer], {}};
    longer[layer].known.struct_size = sizeof(Longer);
  }
  settings.options.layer_formats = &longer[0].known;
  THINK_CALL(think_cache_create, site.plan, &settings.options, &cache);
  think_cache_destroy(cache);
}

}  // namespace
}  // namespace cache_test
