// Files of think_cache_load(). Their digest is made right first: it protects from accidents, so behind it every number has to be checked by itself.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "seeds.h"
#include "targets.h"
#include "tests/cache/changed_file.h"
#include "think.h"

namespace think::fuzz {
namespace {

constexpr int32_t kQueryHeads = 4, kKvHeads = 2, kChannels = 16, kMostTokens = 192, kMostQueries = 4;

// A cache of two sequences for the files of one variant: 16 bits, quantized, unfitted, and dense for ever.
class Cache {
 public:
  explicit Cache(int variant) {
    think_problem problem = THINK_PROBLEM_INIT;
    problem.query_heads = kQueryHeads;
    problem.kv_heads = kKvHeads;
    problem.key_channels = kChannels;
    problem.cache_dtype = THINK_F16;
    problem.window = 4;
    problem.max_batch = 2;
    problem.max_queries = kMostQueries;
    problem.max_tokens = kMostTokens;
    think_context_options context_options = THINK_CONTEXT_OPTIONS_INIT;
    context_options.threads = 1;
    think_context *context = nullptr;
    require(think_context_create(&context_options, &context, nullptr) == THINK_OK, "a context");
    require(think_plan_create(context, &problem, &plan_, nullptr) == THINK_OK, "a plan");
    think_context_destroy(context);
    think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
    prune.mode = variant == 2 ? THINK_MODE_CHANNELS : THINK_MODE_REGRESSED;
    prune.key_kept = prune.value_kept = 8;
    prune.recent = 8;
    prune.dense_limit = -1;
    think_format format = THINK_FORMAT_INIT;
    if (variant == 1) {
      format.key_dtype = THINK_U2, format.value_dtype = THINK_F8_E4M3;
      format.key_layout = format.value_layout = THINK_TILES;
    }
    think_cache_options options = THINK_CACHE_OPTIONS_INIT;
    options.fold = THINK_FOLD_BLOCK;
    options.flags = variant == 3 ? THINK_CACHE_NO_SCORES : 0;
    options.refit = variant == 3 ? 0 : 1;
    options.rollback = -1;
    options.prune = &prune;
    options.format = &format;
    think_error error = THINK_ERROR_INIT;
    require(think_cache_create(plan_, &options, &cache_, &error) == THINK_OK, error.message);
    int64_t bytes = 0;
    require(think_cache_workspace_size(cache_, &bytes, nullptr, nullptr) == THINK_OK, "a workspace");
    workspace_ = std::vector<Line>(static_cast<size_t>(bytes + 63) / 64);
    launch_.workspace = workspace_.data();
    launch_.workspace_bytes = bytes;
  }
  Cache(const Cache &) = delete;
  ~Cache() {
    think_cache_destroy(cache_);
    think_plan_destroy(plan_);
  }

  bool load(const std::string &file) {
    Stream stream{file, 0};
    think_error error = THINK_ERROR_INIT;
    const think_status status = think_cache_load(cache_, 0, read, &stream, &error);
    if (status == THINK_OK) return true;
    require(status == THINK_E_FORMAT || status == THINK_E_MEMORY, "damaged files are reported as such");
    require(error.message[0] != '\0', "errors have a message");
    for (const char *character = error.message; *character; ++character) {
      require(static_cast<unsigned char>(*character) >= 0x20, "no control characters of a file in a message");
    }
    require(usage().tokens == 0 && usage().score_bytes == 0, "what could not be loaded is not there");
    return false;
  }

  void step(int32_t tokens) {
    if (usage().tokens + tokens > kMostTokens) return;
    const int32_t sequence = 0;
    call(think_cache_step(cache_, &sequence, &tokens, 1, &launch_, &error_));
    std::vector<float> rows(static_cast<size_t>(kQueryHeads) * kChannels * tokens), output(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i * 37 % 101) / 50 - 1;
    const think_tensor query = tensor(rows, kQueryHeads, tokens), fresh = tensor(rows, kKvHeads, tokens), result = tensor(output, kQueryHeads, tokens);
    call(think_cache_append(cache_, 0, &query, &fresh, &fresh, &launch_, &error_));
    if (tokens <= kMostQueries) call(think_cache_attend(cache_, 0, &query, nullptr, &result, nullptr, &launch_, &error_));
  }

  void prune() {
    const int32_t sequence = 0;
    const think_status status = think_cache_prune(cache_, &sequence, 1, &launch_, &error_);
    require(status == THINK_OK || status == THINK_E_STATE, error_.message);
  }

  void rebuild() {
    const int32_t tokens = static_cast<int32_t>(usage().tokens);
    std::vector<float> key(static_cast<size_t>(kKvHeads) * kChannels * tokens), value(key.size());
    const think_tensor keys = tensor(key, kKvHeads, tokens), values = tensor(value, kKvHeads, tokens);
    call(think_cache_export_dense(cache_, 0, 0, 0, tokens, &keys, &values, nullptr, &error_));
  }

  std::string save() {
    std::string file;
    call(think_cache_save(cache_, 0, write, &file, &error_));
    return file;
  }
  void drop() { call(think_cache_drop(cache_, 0, &error_)); }
  think_cache_info usage() {
    think_cache_info info = THINK_CACHE_INFO_INIT;
    call(think_cache_usage(cache_, 0, &info, &error_));
    return info;
  }

 private:
  struct alignas(64) Line {
    char bytes[64];
  };
  struct Stream {
    const std::string &bytes;
    size_t at;
  };
  static int64_t read(void *user, void *data, int64_t bytes) {
    Stream &stream = *static_cast<Stream *>(user);
    const size_t part = std::min(static_cast<size_t>(bytes), stream.bytes.size() - stream.at);
    std::memcpy(data, stream.bytes.data() + stream.at, part);
    stream.at += part;
    return static_cast<int64_t>(part);
  }
  static int32_t write(void *user, const void *data, int64_t bytes) {
    static_cast<std::string *>(user)->append(static_cast<const char *>(data), static_cast<size_t>(bytes));
    return 0;
  }
  static think_tensor tensor(std::vector<float> &rows, int32_t heads, int32_t tokens) {
    think_tensor tensor = THINK_TENSOR_INIT;
    tensor.data = rows.data();
    tensor.dtype = THINK_F32;
    const int64_t extent[4] = {1, heads, tokens, kChannels}, stride[4] = {0, int64_t{tokens} * kChannels, kChannels, 1};
    std::copy_n(extent, 4, tensor.extent);
    std::copy_n(stride, 4, tensor.stride);
    return tensor;
  }
  void call(think_status status) { require(status == THINK_OK, error_.message); }

  think_plan *plan_ = nullptr;
  think_cache *cache_ = nullptr;
  std::vector<Line> workspace_;
  think_launch launch_ = THINK_LAUNCH_INIT;
  think_error error_ = THINK_ERROR_INIT;
};

Cache &cache_of(int variant) {
  static std::unique_ptr<Cache> caches[kVariants];
  if (!caches[variant]) caches[variant] = std::make_unique<Cache>(variant);
  return *caches[variant];
}

}  // namespace

std::string sequence_seed(int variant) {
  Cache &cache = cache_of(variant);
  cache.step(48);
  if (variant != 3) cache.prune();
  for (int step = 0; step < 9; ++step) cache.step(4);
  const std::string file = cache.save();
  cache.drop();
  return file;
}

bool sequence(std::span<const std::byte> file) {
  cache_test::ChangedFile changed(std::string(reinterpret_cast<const char *>(file.data()), file.size()));
  const std::string &bytes = changed.repaired();
  const bool shown = inspected({reinterpret_cast<const std::byte *>(bytes.data()), bytes.size()});
  for (int variant = 0; variant < kVariants; ++variant) {
    Cache &cache = cache_of(variant);
    if (!cache.load(bytes)) continue;
    const std::string saved = cache.save();
    // Behind one sequence there may be more in a stream, but not in a file.
    require(shown || saved.size() < bytes.size(), "what can be loaded can be inspected");
    require(bytes.compare(0, saved.size(), saved) == 0, "what was loaded is what is saved");
    cache.rebuild();
    for (int step = 0; step < 9; ++step) cache.step(4);
    if (variant != 3) cache.prune();
    cache.step(1);
    cache.rebuild();
    cache.drop();
    return true;
  }
  return false;
}

}  // namespace think::fuzz
