// Sequences as files, and rows at full width: what comes back is what was held, and nothing but a whole file of the same kind of cache is taken.
#include <functional>

#include "file.h"

namespace cache_test {
namespace {

// A dense sequence and one with a basis on both sides, folds and a second fit, in 16 bits and quantized: loaded, they go on with the same bits.
TEST(Store, GoesOnAsIfNothingHadHappened) {
  const think_dtype formats[][2] = {{0, 0}, {THINK_U4, THINK_U8}, {THINK_U8, 0}, {THINK_U2, THINK_U2}, {THINK_F8_E4M3, THINK_F8_E4M3}, {0, THINK_F8_E4M3}};
  for (const auto &format : formats) {
    SCOPED_TRACE(testing::Message() << "formats " << format[0] << ", " << format[1]);
    const Settings settings = pruned_settings(format[0], format[1]);
    Site site(settings), other_site(settings);
    Engine engine(settings, site), other(settings, other_site);
    fill(engine);
    EXPECT_GT(engine.usage(0).runs, 0);
    other.step({2, 3}, {70, 9});  // other pages and slots than the first one's
    other.prune({2});
    for (const int32_t sequence : {0, 1}) {
      const std::string bytes = saved(engine, sequence);
      think_error error = THINK_ERROR_INIT;
      ASSERT_EQ(THINK_OK, load(other.cache(), sequence, bytes, &error)) << error.message;
      other.loaded(engine, sequence);
      const think_cache_info held = engine.usage(sequence), loaded = other.usage(sequence);
      EXPECT_EQ(0, std::memcmp(&held, &loaded, sizeof held));
      EXPECT_TRUE(bytes == saved(other, sequence)) << "another file of the same sequence";
    }
    other.expect_counted();
    for (int decode = 0; decode < 8; ++decode) {
      const std::vector<double> expected = engine.step({0, 1}, {5, 2});
      EXPECT_TRUE(expected == other.step({0, 1}, {5, 2})) << "step " << decode;
    }
  }
}

TEST(Store, WhatIsDamagedIsRefused) {
  const Settings settings = pruned_settings(THINK_U4, 0);
  Site site(settings);
  Engine engine(settings, site);
  fill(engine);
  const std::string bytes = saved(engine, 0);
  const auto refused = [&](const std::string &file, const char *text) {
    const think_cache_info before = engine.usage();
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(THINK_E_FORMAT, load(engine.cache(), 2, file, &error)) << text;
    EXPECT_EQ(3, error.argument);
    EXPECT_NE(nullptr, std::strstr(error.message, text)) << error.message;
    for (const char *c = error.message; *c; ++c) EXPECT_GE(*c, ' ');
    const think_cache_info after = engine.usage();
    EXPECT_EQ(before.tokens, after.tokens);
    EXPECT_EQ(before.page_bytes, after.page_bytes);
    EXPECT_EQ(before.basis_bytes, after.basis_bytes);
    EXPECT_EQ(before.score_bytes, after.score_bytes);
    engine.expect_counted();
  };
  for (size_t length = 0; length < bytes.size(); length += 1 + bytes.size() / 300) refused(bytes.substr(0, length), "");
  for (size_t at = 0; at < bytes.size(); at += 1 + bytes.size() / 1500) {
    std::string file = bytes;
    file[at] = static_cast<char>(file[at] ^ 1 << at % 8);
    refused(file, "");
  }
  const auto changed = [&](const char *from, const char *to) {
    std::string file = bytes;
    const size_t at = file.find(from);
    EXPECT_NE(std::string::npos, at) << from;
    return file.replace(at, std::strlen(from), to);
  };
  refused("", "cut off");
  refused(std::string(64, '\xff'), "not a file");
  refused(changed("\"version\":\"1\"", "\"version\":\"2\""), "version 2");
  refused(changed("\"kv_heads\":\"2\"", "\"kv_heads\":\"3\""), "kv_heads 2, got 3");
  refused(changed("\"key_dtype\":\"u4\"", "\"key_dtype\":\"u8\""), "key_dtype");
  refused(changed("\"dense_rows\":\"", "\"dense_rows\":\"99999999999999999999"), "dense_rows");
  refused(changed("\"dense_rows\":\"", "\"dense_rows\":\"9"), "max_tokens");
  refused(changed("\"runs\":\"", "\"runs\":\"9"), "runs");
  refused(changed("\"runs.0.rows\":\"", "\"runs.0.rows\":\"1"), "run 0");
  engine.step({0, 1}, {1, 1});
}

TEST(Store, AnotherKindOfCacheIsNamed) {
  const Settings settings = pruned_settings(0, 0);
  Site site(settings);
  Engine engine(settings, site);
  fill(engine);
  const std::string bytes = saved(engine, 0);
  const auto refused = [&](const char *text, const std::function<void(Settings &)> &change) {
    Settings others = settings;
    change(others);
    Site other_site(others);
    Engine other(others, other_site);
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(THINK_E_FORMAT, load(other.cache(), 0, bytes, &error));
    EXPECT_NE(nullptr, std::strstr(error.message, text)) << error.message;
  };
  refused("layers", [](Settings &others) { others.options.layers = 1; });
  refused("key_channels", [](Settings &others) { others.problem.key_channels = 40; });
  refused("sinks", [](Settings &others) { others.prune.sinks = 5; });
  refused("key_kept", [](Settings &others) { others.prune.key_kept = 24; });
  refused("max_tokens", [](Settings &others) { others.problem.max_tokens = 100; });
}

TEST(Store, TheCallersFunctionsMayFail) {
  const Settings settings = pruned_settings(0, 0);
  Site site(settings);
  Engine engine(settings, site);
  fill(engine);
  const std::string bytes = saved(engine, 0);
  int64_t failures = 0;
  for (int64_t at = 0;; at += 37) {
    Stream out, in{bytes};
    out.fail_at = in.fail_at = at;
    think_error error = THINK_ERROR_INIT;
    if (think_cache_save(engine.cache(), 0, Stream::write, &out, &error) != THINK_OK) {
      EXPECT_EQ(THINK_E_IO, error.code);
      EXPECT_EQ(71, error.native_code);
    }
    const think_status status = think_cache_load(engine.cache(), 3, Stream::read, &in, &error);
    if (status == THINK_OK) break;
    EXPECT_EQ(THINK_E_IO, status);
    EXPECT_EQ(-72, error.native_code);
    engine.expect_counted();
    ++failures;
  }
  EXPECT_GT(failures, 5);
}

TEST(Store, EveryAllocationMayFail) {
  const Settings settings = pruned_settings(0, 0);
  Site site(settings), other_site(settings);
  Engine engine(settings, site);
  fill(engine);
  const std::string bytes = saved(engine, 0);
  for (int at = 0;; ++at) {
    const int64_t before = other_site.host.bytes;
    Engine other(settings, other_site);
    const int64_t made = other_site.host.bytes;
    other_site.host.fail_at = other_site.host.calls + at;
    think_error error = THINK_ERROR_INIT;
    const think_status status = load(other.cache(), 0, bytes, &error);
    other_site.host.fail_at = -1;
    if (status == THINK_OK) {
      EXPECT_GT(at, 10);
      break;
    }
    ASSERT_EQ(THINK_E_MEMORY, status) << error.message;
    EXPECT_EQ(0, other.usage(0).tokens);
    EXPECT_EQ(other_site.host.bytes - made, other.usage().allocated_bytes - (made - before));
    other.expect_counted();
    ASSERT_EQ(THINK_OK, load(other.cache(), 0, bytes, &error)) << error.message;
    EXPECT_EQ(bytes, saved(other, 0));
    other.loaded(engine, 0);
  }
}

// Dense rows come back as they were given; compact ones as the basis makes of them (the oracle of attention), quantized ones within half a step, which the
// prediction of dropped channels sums up.
TEST(Export, RowsAtFullWidth) {
  const think_dtype formats[][2] = {{0, 0}, {THINK_U8, THINK_U8}};
  for (const auto &format : formats) {
    SCOPED_TRACE(testing::Message() << "formats " << format[0] << ", " << format[1]);
    const Settings settings = pruned_settings(format[0], format[1]);
    Site site(settings);
    Engine engine(settings, site);
    fill(engine);
    for (const int32_t sequence : {0, 1}) engine.expect_exported(sequence, format[0] ? 0.12 : 1e-5);
  }
}

}  // namespace
}  // namespace cache_test
