// tests/vectors/bindings.json from C: what every binding has to repeat, errors with their texts included. The file says what each call is.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "file.h"

namespace cache_test {
namespace {

using Json = nlohmann::json;

Json vectors() {
  const char *path = THINK_TEST_VECTORS "/bindings.json";
  std::ifstream file(path);
  if (!file) throw std::runtime_error(std::string("cannot read ") + path);
  return Json::parse(file);
}

// Fields of a struct by name; an unknown one ends the test.
template <class T>
struct Field {
  const char *name;
  void (*set)(T &, const Json &);
};
#define FIELD(type, field) {#field, [](type &to, const Json &value) { to.field = value; }}
template <class T, size_t n>
void fill(T &to, const Json &from, const Field<T> (&fields)[n]) {
  for (const auto &[name, value] : from.items()) {
    bool known = false;
    for (const Field<T> &field : fields) {
      if (name == field.name) field.set(to, value), known = true;
    }
    if (!known && value.is_primitive()) throw std::runtime_error("no field " + name);
  }
}

think_problem problem_of(const Json &from) {
  static const Field<think_problem> fields[] = {
      FIELD(think_problem, flags),       FIELD(think_problem, query_dtype),    FIELD(think_problem, cache_dtype), FIELD(think_problem, query_heads),
      FIELD(think_problem, kv_heads),    FIELD(think_problem, key_channels),   FIELD(think_problem, value_channels), FIELD(think_problem, window),
      FIELD(think_problem, max_batch),   FIELD(think_problem, max_queries),    FIELD(think_problem, max_tokens)};
  think_problem problem = THINK_PROBLEM_INIT;
  fill(problem, from, fields);
  return problem;
}

think_prune_options prune_of(const Json &from) {
  using Options = think_prune_options;
  static const Field<Options> fields[] = {FIELD(Options, mode), FIELD(Options, budget), FIELD(Options, key_kept), FIELD(Options, value_kept),
                                          FIELD(Options, dense_limit)};
  think_prune_options options = THINK_PRUNE_OPTIONS_INIT;
  fill(options, from, fields);
  return options;
}

think_format format_of(const Json &from) {
  static const Field<think_format> fields[] = {FIELD(think_format, key_layout), FIELD(think_format, value_layout), FIELD(think_format, key_dtype),
                                               FIELD(think_format, value_dtype)};
  think_format format = THINK_FORMAT_INIT;
  fill(format, from, fields);
  return format;
}

std::vector<float> numbers(uint32_t seed, size_t count) {
  std::vector<float> made(count);
  for (size_t i = 0; i < count; ++i) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u + seed * 40503u + 12345u;
    x = (x ^ x >> 15) * 2246822519u;
    x = (x ^ x >> 13) * 3266489917u;
    x ^= x >> 16;
    made[i] = static_cast<float>(x / 2147483648.0 - 1.0);
  }
  return made;
}

// Rows [1][heads][tokens][channels] of f32 with their view.
struct Rows {
  std::vector<float> data;
  think_tensor view = THINK_TENSOR_INIT;

  Rows(const std::vector<int64_t> &extent, std::vector<float> values) : data(std::move(values)) {
    data.resize(static_cast<size_t>(extent[0] * extent[1] * extent[2] * extent[3]));
    view.data = data.data();
    view.dtype = THINK_F32;
    int64_t step = 1;
    for (int axis = 3; axis >= 0; --axis) {
      view.extent[axis] = extent[axis];
      view.stride[axis] = step;
      step *= extent[axis];
    }
  }
  explicit Rows(const Json &extent) : Rows(extent.get<std::vector<int64_t>>(), {}) {}
  Rows(uint32_t seed, int64_t heads, int64_t tokens, int64_t channels, float odd = 1)
      : Rows({1, heads, tokens, channels}, numbers(seed, static_cast<size_t>(heads * tokens * channels))) {
    for (size_t i = 1; i < data.size(); i += 2) data[i] *= odd;
  }
  Rows(const Rows &) = delete;
};

// Everything that a case needs, made by its fields; `error` is what the first failing call said.
class Case {
 public:
  think_error error = THINK_ERROR_INIT;

  ~Case() {
    think_cache_destroy(cache_);
    think_plan_destroy(plan_);
    think_context_destroy(context_);
  }

  think_status plan(const Json &from) {
    problem_ = problem_of(from.at("problem"));
    if (const think_status status = think_context_create(nullptr, &context_, &error)) return status;
    return think_plan_create(context_, &problem_, &plan_, &error);
  }

  think_status cache(const Json &from) {
    const Json fields = from.value("cache", Json::object());
    think_cache_options options = THINK_CACHE_OPTIONS_INIT;
    options.flags = fields.value("flags", 0u);
    options.layers = layers_ = fields.value("layers", 0);
    prune_ = prune_of(fields.value("prune", Json::object()));
    format_ = format_of(fields.value("format", Json::object()));
    options.prune = &prune_;
    options.format = &format_;
    if (const think_status status = think_cache_create(plan_, &options, &cache_, &error)) return status;
    int64_t bytes = 0;
    if (const think_status status = think_cache_workspace_size(cache_, &bytes, nullptr, &error)) return status;
    workspace_ = flow::Memory(bytes);
    launch_.workspace = workspace_.data();
    launch_.workspace_bytes = bytes;
    return THINK_OK;
  }

  think_status step(const std::vector<int32_t> &sequences, const std::vector<int32_t> &tokens) {
    return think_cache_step(cache_, sequences.data(), tokens.data(), static_cast<int32_t>(sequences.size()), &launch_, &error);
  }
  think_status append(int32_t layer, const Rows &query, const Rows &key, const Rows &value) {
    return think_cache_append(cache_, layer, &query.view, &key.view, &value.view, &launch_, &error);
  }
  think_status attend(int32_t layer, const Rows &query, Rows &output, std::vector<float> &lse) {
    return think_cache_attend(cache_, layer, &query.view, nullptr, &output.view, lse.data(), &launch_, &error);
  }

  think_status fail(const Json &from) {
    const std::string call = from.at("call");
    int64_t number = 0;
    if (call == "query") return think_query(nullptr, from.at("key"), &number, &error);
    if (const think_status status = plan(from)) return status;
    if (call == "preview") {
      const think_prune_options options = prune_of(from.at("options"));
      think_prune_result result = THINK_PRUNE_RESULT_INIT;
      return think_prune_preview(plan_, nullptr, from.at("tokens"), &options, &result, &error);
    }
    if (call == "layout") {
      think_layout_info info = THINK_LAYOUT_INFO_INIT;
      return think_layout(plan_, nullptr, from.at("page_tokens"), from.at("total_key"), from.at("total_value"), &info, &error);
    }
    if (call == "workspace_size") return think_workspace_size(plan_, from.at("stage"), nullptr, &number, nullptr, &error);
    if (const think_status status = cache(from)) return status;
    if (from.contains("new_tokens")) {
      if (const think_status status = step(from.at("sequences"), from.at("new_tokens"))) return status;
    }
    if (call == "trim") return think_cache_trim(cache_, from.at("sequence"), from.at("tokens"), &error);
    if (call == "prune") {
      const std::vector<int32_t> sequences = from.at("sequences");
      return think_cache_prune(cache_, sequences.data(), static_cast<int32_t>(sequences.size()), &launch_, &error);
    }
    if (call == "append") return append(from.at("layer"), Rows(from.at("query")), Rows(from.at("key")), Rows(from.at("value")));
    if (call == "attend") {
      const Rows query(from.at("query"));
      Rows output({1, problem_.query_heads, 1, problem_.value_channels}, {});
      std::vector<float> lse(static_cast<size_t>(problem_.query_heads));
      return attend(from.at("layer"), query, output, lse);
    }
    if (call == "load") {
      const std::string text = from.at("bytes");
      std::string bytes;
      for (size_t i = 0; i < text.size(); i += 2) bytes.push_back(static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16)));
      return load(cache_, 0, bytes, &error);
    }
    throw std::runtime_error("no call " + call);
  }

  void must(think_status status) const {
    if (status != THINK_OK) throw std::runtime_error(error.message);
  }

  void flow(const Json &from) {
    must(plan(from));
    must(cache(from));
    const float tolerance = from.at("tolerance");
    const auto layer_rows = [&](uint32_t seed, int32_t layer, int64_t tokens, auto use) {
      seed += 10 * static_cast<uint32_t>(layer);
      use(Rows(seed, problem_.query_heads, tokens, problem_.key_channels), Rows(seed + 1, problem_.kv_heads, tokens, problem_.key_channels, 0.125f),
          Rows(seed + 2, problem_.kv_heads, tokens, problem_.value_channels));
    };
    const int32_t prompt = from.at("prompt"), tokens = from.at("tokens");
    must(step({0}, {prompt}));
    for (int32_t layer = 0; layer < layers_; ++layer) {
      layer_rows(0, layer, prompt, [&](const Rows &query, const Rows &key, const Rows &value) { must(append(layer, query, key, value)); });
    }
    const int32_t sequence = 0;
    must(think_cache_prune(cache_, &sequence, 1, &launch_, &error));
    size_t row = 0;
    for (int32_t token = 1; token <= tokens; ++token) {
      must(step({0}, {1}));
      for (int32_t layer = 0; layer < layers_; ++layer, ++row) {
        Rows output({1, problem_.query_heads, 1, problem_.value_channels}, {});
        std::vector<float> lse(static_cast<size_t>(problem_.query_heads));
        layer_rows(1000 * static_cast<uint32_t>(token), layer, 1, [&](const Rows &query, const Rows &key, const Rows &value) {
          must(append(layer, query, key, value));
          must(attend(layer, query, output, lse));
        });
        compare(from.at("output").at(row), output.data, tolerance);
        compare(from.at("lse").at(row), lse, tolerance);
      }
    }
    EXPECT_EQ(row, from.at("output").size());
    think_cache_info info = THINK_CACHE_INFO_INIT;
    must(think_cache_usage(cache_, 0, &info, &error));
    const Json usage = {{"tokens", info.tokens},           {"compact_tokens", info.compact_tokens}, {"dense_bytes", info.dense_bytes},
                        {"page_bytes", info.page_bytes},   {"basis_bytes", info.basis_bytes},       {"score_bytes", info.score_bytes},
                        {"table_bytes", info.table_bytes}, {"spare_bytes", info.spare_bytes},       {"allocated_bytes", info.allocated_bytes},
                        {"key_channels", info.key_channels}, {"value_channels", info.value_channels}, {"runs", info.runs},
                        {"sequences", info.sequences},     {"evicted_tokens", info.evicted_tokens}};
    EXPECT_EQ(from.at("usage"), usage);
  }

 private:
  think_problem problem_{};
  think_prune_options prune_{};
  think_format format_{};
  int32_t layers_ = 0;
  think_context *context_ = nullptr;
  think_plan *plan_ = nullptr;
  think_cache *cache_ = nullptr;
  flow::Memory workspace_;
  think_launch launch_ = THINK_LAUNCH_INIT;

  static void compare(const std::vector<float> &expected, const std::vector<float> &found, float tolerance) {
    ASSERT_EQ(expected.size(), found.size());
    for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(expected[i], found[i], tolerance) << i;
  }
};

TEST(Vectors, ErrorsAreTheSameInEveryLanguage) {
  const Json all = vectors();
  ASSERT_GT(all.at("errors").size(), 20u);
  for (const Json &from : all.at("errors")) {
    SCOPED_TRACE(from.dump());
    Case one;
    EXPECT_EQ(from.at("error").at("code"), one.fail(from));
    const Json found = {{"code", one.error.code}, {"argument", one.error.argument}, {"native_code", one.error.native_code}, {"message", one.error.message}};
    EXPECT_EQ(from.at("error"), found);
  }
}

TEST(Vectors, FlowsAreTheSameInEveryLanguage) {
  const Json all = vectors();
  for (const Json &from : all.at("flows")) {
    SCOPED_TRACE(from.at("name"));
    Case().flow(from);
  }
}

TEST(Vectors, NamesAndNumbersAreTheSameInEveryLanguage) {
  const Json all = vectors();
  for (const Json &one : all.at("kept_channels")) EXPECT_EQ(one.at(2), think_kept_channels(one.at(0), one.at(1)));
  for (const auto &[code, name] : all.at("names").at("status").items()) EXPECT_EQ(name, think_status_name(std::stoi(code)));
  for (const auto &[dtype, name] : all.at("names").at("dtype").items()) EXPECT_EQ(name, think_dtype_name(std::stoi(dtype)));
}

}  // namespace
}  // namespace cache_test
