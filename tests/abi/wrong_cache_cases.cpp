#include "tests/abi/wrong_cases.h"

namespace think_test {

std::vector<Case> cache_cases() {
  std::vector<Case> cases;
  const auto option = [&](auto member, auto value, const char *name) {
    cases.push_back(field("think_cache_create", "options", &World::cache_options, member, value, std::string("options->") + name));
  };
  for (int32_t value : {-1, kLeast, kMost}) option(&think_cache_options::layers, value, "layers");
  for (int32_t value : {-1, kLeast}) option(&think_cache_options::sequences, value, "sequences");
  for (int32_t value : {-1, 2, kMost}) option(&think_cache_options::fold, value, "fold");
  for (int32_t value : {-1, kLeast, 1}) option(&think_cache_options::refit, value, "refit");  // 1: without folds
  for (int32_t value : {-2, kLeast, kMost}) option(&think_cache_options::rollback, value, "rollback");
  for (int64_t value : {int64_t{-1}, INT64_MIN, INT64_MAX}) option(&think_cache_options::reserve_tokens, value, "reserve_tokens");
  for (int64_t value : {int64_t{-1}, INT64_MIN}) option(&think_cache_options::limit_bytes, value, "limit_bytes");
  for (int32_t value : {-2, kMost}) {
    cases.push_back(
        field("think_cache_create", "options", &World::prune_options, &think_prune_options::key_kept, value, "options->prune->key_kept"));
  }
  cases.push_back(field("think_cache_create", "options", &World::format, &think_format::key_layout, 7, "options->format->key_layout"));
  for (int64_t value : {int64_t{-2}, int64_t{World::kBatch}, int64_t{kMost}}) cases.push_back(number("think_cache_usage", "sequence", value));
  for (int64_t value : {int64_t{-1}, int64_t{World::kBatch}, int64_t{kMost}}) {
    cases.push_back(number("think_cache_save_size", "sequence", value));
    cases.push_back(number("think_cache_export_dense", "sequence", value));
  }
  for (int64_t value : {int64_t{-1}, int64_t{1}, int64_t{kLeast}}) {
    cases.push_back(number("think_cache_attend", "layer", value));
    cases.push_back(number("think_cache_export_dense", "layer", value));
  }
  for (int64_t value : {int64_t{-1}, int64_t{4}, INT64_MAX}) {
    cases.push_back(number("think_cache_export_dense", "first", value));
    cases.push_back(number("think_cache_export_dense", "count", value));
  }
  add(cases, tensor_cases({"think_cache_export_dense", "key", "key->", &World::exported_key, 0, 2, 24, true}));
  add(cases, tensor_cases({"think_cache_export_dense", "value", "value->", &World::exported_value, 0, 2, 16, true}));
  add(cases, tensor_cases({"think_cache_attend", "query", "query->", &World::new_query, 0, 4, 24, false}));
  add(cases, tensor_cases({"think_cache_attend", "output", "output->", &World::output, 0, 4, 16, false}));
  cases.push_back({"think_cache_workspace_size",
                   "alignment",
                   "half a number too far",
                   [](World &, Values &values) { values[2].pointer = &as<char>(values[2]) + 4; },
                   {"alignment", "multiple of 8"}});
  return cases;
}

}  // namespace think_test
