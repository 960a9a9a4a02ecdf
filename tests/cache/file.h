// Files of sequences in memory, and a sequence with everything that a file can hold.
#pragma once

#include "engine.h"

namespace cache_test {

struct Stream {
  std::string bytes;
  size_t at = 0;
  int64_t calls = 0, fail_at = -1;
  static int32_t write(void *user, const void *data, int64_t bytes) {
    Stream &stream = *static_cast<Stream *>(user);
    if (stream.calls++ == stream.fail_at) return 71;
    stream.bytes.append(static_cast<const char *>(data), static_cast<size_t>(bytes));
    return 0;
  }
  static int64_t read(void *user, void *data, int64_t bytes) {
    Stream &stream = *static_cast<Stream *>(user);
    if (stream.calls++ == stream.fail_at) return -72;
    const size_t part = std::min(static_cast<size_t>(bytes), stream.bytes.size() - stream.at);
    std::memcpy(data, stream.bytes.data() + stream.at, part);
    stream.at += part;
    return static_cast<int64_t>(part);
  }
};

inline std::string saved(const Engine &engine, int32_t sequence) {
  Stream stream;
  THINK_CALL(think_cache_save, engine.cache(), sequence, Stream::write, &stream);
  int64_t bytes = 0;
  THINK_CALL(think_cache_save_size, engine.cache(), sequence, &bytes);
  EXPECT_EQ(static_cast<int64_t>(stream.bytes.size()), bytes);
  return stream.bytes;
}

inline think_status load(think_cache *cache, int32_t sequence, const std::string &bytes, think_error *error) {
  Stream stream{bytes};
  return think_cache_load(cache, sequence, Stream::read, &stream, error);
}

inline Settings pruned_settings(think_dtype key, think_dtype value) {
  Settings settings;
  settings.options.fold = THINK_FOLD_BLOCK;
  settings.options.refit = 1;
  settings.prune.value_kept = 16;
  settings.prune.recent = 8;
  settings.format.key_dtype = key;
  settings.format.value_dtype = value;
  settings.format.key_layout = THINK_TILES;
  if (is_code(value)) settings.format.value_layout = THINK_TILES;
  return settings;
}

inline void fill(Engine &engine) {
  engine.step({0, 1}, {150, 40});
  engine.prune({0});
  for (int decode = 0; decode < 16; ++decode) engine.step({0, 1}, {5, 1});
}

}  // namespace cache_test
