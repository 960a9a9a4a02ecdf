// The masks of kvpress' ThinKPress, recorded by tests/vectors/kvpress_record.py on random Llama layers: an oracle that shares nothing with
// us.
#include <fstream>
#include <nlohmann/json.hpp>

#include "cache.h"

namespace flow {
namespace {

nlohmann::json recorded() {
  const char *path = THINK_TEST_VECTORS "/kvpress.json";
  std::ifstream file(path);
  if (!file) throw std::runtime_error(std::string("cannot read ") + path);
  return nlohmann::json::parse(file);
}

TEST(Kvpress, SameChannelsAreDropped) {
  const nlohmann::json vectors = recorded();
  ASSERT_GE(vectors.at("cases").size(), 4u);
  for (const Isa &isa : available_isas()) {
    for (const nlohmann::json &record : vectors.at("cases")) {
      think_problem problem = THINK_PROBLEM_INIT;
      problem.query_heads = record.at("query_heads");
      problem.kv_heads = record.at("kv_heads");
      problem.key_channels = record.at("channels");
      problem.window = record.at("window");
      problem.cache_dtype = THINK_F32;
      const int64_t tokens = record.at("tokens");
      const Plan plan(problem, isa.name);
      std::vector<float> query = record.at("query"), key = record.at("key");
      ASSERT_EQ(static_cast<size_t>(problem.query_heads * tokens * problem.key_channels), query.size());
      ASSERT_EQ(static_cast<size_t>(problem.kv_heads * tokens * problem.key_channels), key.size());

      // All at once, and in chunks of 13 tokens.
      for (const int64_t chunk : {tokens, int64_t{13}}) {
        int64_t bytes = 0;
        THINK_CALL(think_score_state_size, plan, 1, &bytes);
        const Memory state(bytes);
        const Launch launch(plan, THINK_STAGE_SCORE, extent_of(1, 1, tokens), THINK_LAUNCH_CHECK);
        THINK_CALL(think_score_reset, plan, state.data(), nullptr, launch.get());
        const auto view = [&](std::vector<float> &rows, int64_t heads, int64_t first) {
          think_tensor tensor = THINK_TENSOR_INIT;
          tensor.data = rows.data() + first * problem.key_channels;
          tensor.dtype = THINK_F32;
          const int64_t extent[4] = {1, heads, std::min(chunk, tokens - first), problem.key_channels};
          const int64_t stride[4] = {0, tokens * problem.key_channels, problem.key_channels, 1};
          std::copy_n(extent, 4, tensor.extent);
          std::copy_n(stride, 4, tensor.stride);
          return tensor;
        };
        for (int64_t first = 0; first < tokens; first += chunk) {
          const think_tensor q = view(query, problem.query_heads, first), k = view(key, problem.kv_heads, first);
          THINK_CALL(think_score_update, plan, &q, &k, nullptr, state.data(), launch.get());
        }
        std::vector<float> score(static_cast<size_t>(problem.kv_heads) * problem.key_channels);
        THINK_CALL(think_score_finish, plan, state.data(), nullptr, nullptr, score.data(), launch.get());

        THINK_CALL(think_basis_size, plan, THINK_KEYS, 1, &bytes, nullptr);
        const Memory memory(bytes);
        think_basis basis = THINK_BASIS_INIT;
        THINK_CALL(think_basis_bind, plan, THINK_KEYS, 1, memory.data(), bytes, &basis);
        for (const auto &[ratio, dropped] : record.at("dropped").items()) {
          think_select_options options = THINK_SELECT_OPTIONS_INIT;
          options.side = THINK_KEYS;
          options.kept = think_kept_channels(problem.key_channels, std::stod(ratio));
          const Launch select(plan, THINK_STAGE_SELECT, extent_of(1, 1, 1));
          THINK_CALL(think_select, plan, score.data(), nullptr, &options, nullptr, &basis, nullptr, select.get());
          for (int32_t head = 0; head < problem.kv_heads; ++head) {
            const std::vector<int32_t> expected = dropped.at(head);
            const int32_t *index = basis.index + head * problem.key_channels;
            EXPECT_EQ(expected, std::vector<int32_t>(index + options.kept, index + problem.key_channels))
                << record.at("name") << ", ratio " << ratio << ", head " << head << ", " << isa.name << ", chunks of " << chunk;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace flow
