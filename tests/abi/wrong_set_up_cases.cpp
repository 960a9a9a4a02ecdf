#include <cstdio>

#include "tests/abi/wrong_cases.h"

namespace think_test {

std::vector<Case> set_up_cases() {
  std::vector<Case> cases = {
      number("think_query", "key", 0, {}, THINK_E_UNSUPPORTED),
      number("think_query", "key", 11, {}, THINK_E_UNSUPPORTED),
      number("think_query", "key", kLeast, {}, THINK_E_UNSUPPORTED),
      number("think_workspace_size", "stage", 0),
      number("think_workspace_size", "stage", 9),
      number("think_workspace_size", "stage", -1),
      field("think_workspace_size", "extent", &World::extent, &think_extent::batch, -1, "extent->batch", {"2"}),
      field("think_workspace_size", "extent", &World::extent, &think_extent::batch, 3, "extent->batch", {"2"}),
      field("think_workspace_size", "extent", &World::extent, &think_extent::queries, -1, "extent->queries", {"3"}),
      field("think_workspace_size", "extent", &World::extent, &think_extent::queries, 4, "extent->queries", {"3"}),
      field("think_workspace_size", "extent", &World::extent, &think_extent::segments, -1, "extent->segments", {"16"}),
      field("think_workspace_size", "extent", &World::extent, &think_extent::segments, 17, "extent->segments", {"16"}),
      field("think_workspace_size", "extent", &World::extent, &think_extent::tokens, -1, "extent->tokens", {"256"}),
      field("think_workspace_size", "extent", &World::extent, &think_extent::tokens, 257, "extent->tokens", {"256"}),
      field("think_workspace_size", "extent", &World::extent, &think_extent::tokens, INT64_MAX, "extent->tokens", {"256"}),
      field("think_workspace_size", "extent", &World::extent, &think_extent::rows, -1, "extent->rows", {"max_batch * max_queries"}),
      field("think_workspace_size", "extent", &World::extent, &think_extent::rows, 7, "extent->rows", {"6"}),
      number("think_basis_bind", "bytes", -1),
      number("think_basis_bind", "bytes", 0),
      {"think_basis_bind",
       "bytes",
       "one byte short",
       [](World &w, Values &values) { values[4].number = w.basis_bytes - 1; },
       {"bytes", "expected at least"}},
      number("think_layout", "page_tokens", 0, {"32"}),
      number("think_layout", "page_tokens", -32, {"32"}),
      number("think_layout", "page_tokens", 33, {"32"}),
      number("think_layout", "total_key", -1),
      number("think_layout", "total_key", 49, {"48"}),
      number("think_layout", "total_key", INT64_MAX, {"48"}),
      number("think_layout", "total_value", -1),
      number("think_layout", "total_value", 33, {"32"}),
      field("think_layout", "format", &World::format, &think_format::key_layout, 2, "format->key_layout"),
      field("think_layout", "format", &World::format, &think_format::key_layout, -1, "format->key_layout"),
      field("think_layout", "format", &World::format, &think_format::value_layout, 1, "format->value_layout", {}, THINK_E_UNSUPPORTED),
      field("think_layout", "format", &World::format, &think_format::value_layout, 2, "format->value_layout"),
      number("think_prune_preview", "tokens", -1, {"256"}),
      number("think_prune_preview", "tokens", 257, {"256"}),
      number("think_prune_preview", "tokens", INT64_MAX, {"256"}),
      {"think_backend_reason",
       "text",
       "NULL with capacity",
       [](World &, Values &values) { values[1].pointer = nullptr; },
       {"text", "NULL", "4096"}},
      {"think_plan_describe",
       "json",
       "NULL with capacity",
       [](World &, Values &values) { values[1].pointer = nullptr; },
       {"json", "NULL", "4096"}},
      field("think_context_create", "options", &World::context_options, &think_context_options::threads, -2, "options->threads", {"1024"}),
      field("think_context_create", "options", &World::context_options, &think_context_options::threads, 1025, "options->threads",
            {"1024"}),
      field("think_context_create", "options", &World::context_options, &think_context_options::threads, kMost, "options->threads",
            {"1024"}),
      field("think_context_create", "options", &World::context_options, &think_context_options::device_index, 1, "options->device_index",
            {"0"}),
      field("think_context_create", "options", &World::context_options, &think_context_options::device_index, -1, "options->device_index",
            {"0"}),
      field("think_context_create", "options", &World::context_options, &think_context_options::device_type, THINK_DEVICE_CUDA,
            "options->device_type", {}, THINK_E_UNSUPPORTED),
      field("think_context_create", "options", &World::context_options, &think_context_options::device_type, 77, "options->device_type", {},
            THINK_E_UNSUPPORTED),
  };
  for (think_dtype dtype : {-1, 0x00010802, THINK_F32 + 1}) {
    char text[16];
    std::snprintf(text, sizeof text, "0x%x", static_cast<unsigned>(dtype));
    add(cases, {{"think_layout",
                 "format",
                 "key_dtype",
                 [=](World &w, Values &) { w.format->key_dtype = dtype; },
                 {"format->key_dtype", "f16", text}},
                {"think_prune_preview",
                 "format",
                 "value_dtype",
                 [=](World &w, Values &) { w.format->value_dtype = dtype; },
                 {"format->value_dtype", "f16", text}}});
  }
  for (const char *function : {"think_basis_size", "think_basis_bind"}) {
    for (int32_t value : {2, -1}) cases.push_back(number(function, "side", value));
  }
  for (const char *function : {"think_basis_size", "think_basis_bind", "think_score_state_size", "think_moments_size"}) {
    for (int32_t value : {0, -1, kLeast}) cases.push_back(number(function, "slots", value));
  }
  return cases;
}

std::vector<Case> problem_cases() {
  std::vector<Case> cases;
  for (const char *function : {"think_supports", "think_plan_create"}) {
    const auto wrong = [&](auto member, auto value, const char *name, Texts texts = {}) {
      cases.push_back(field(function, "problem", &World::problem, member, value, std::string("problem->") + name, texts));
    };
    for (auto member : {&think_problem::query_dtype, &think_problem::cache_dtype, &think_problem::output_dtype}) {
      const char *name = member == &think_problem::query_dtype   ? "query_dtype"
                         : member == &think_problem::cache_dtype ? "cache_dtype"
                                                                 : "output_dtype";
      for (think_dtype dtype : {-1, 1, 0x00010802}) {
        char text[16];
        std::snprintf(text, sizeof text, "0x%x", static_cast<unsigned>(dtype));
        cases.push_back({function,
                         "problem",
                         name,
                         [=](World &w, Values &) { w.problem->*member = dtype; },
                         {std::string("problem->") + name, "f16", text}});
      }
    }
    for (int32_t value : {0, -1, kLeast}) {
      wrong(&think_problem::query_heads, value, "query_heads");
      wrong(&think_problem::kv_heads, value, "kv_heads");
    }
    cases.push_back({function,
                     "problem",
                     "heads do not divide",
                     [](World &w, Values &) { w.problem->query_heads = 5; },
                     {"problem->query_heads", "2", "5"}});
    cases.push_back(
        {function, "problem", "more KV heads", [](World &w, Values &) { w.problem->kv_heads = 8; }, {"problem->query_heads", "8", "4"}});
    for (int32_t value : {0, -8, 4, 7, 20, 257, 264, kMost}) wrong(&think_problem::key_channels, value, "key_channels", {"8", "256"});
    for (int32_t value : {-8, 4, 7, 20, 257, 264, kMost}) wrong(&think_problem::value_channels, value, "value_channels", {"8", "256"});
    cases.push_back({function, "problem", "too many heads", [](World &w, Values &) { w.problem->query_heads = w.problem->kv_heads = 65537; },
                     {"problem->query_heads", "65536", "65537"}});
    for (int32_t value : {-1, 1025, kMost}) wrong(&think_problem::window, value, "window", {"1024"});
    for (int32_t value : {-1, kLeast}) {
      wrong(&think_problem::max_batch, value, "max_batch");
      wrong(&think_problem::max_queries, value, "max_queries");
    }
    for (int64_t value : {int64_t{-1}, int64_t{1} << 31, INT64_MAX}) wrong(&think_problem::max_tokens, value, "max_tokens", {"2147483647"});
    for (float value : {kNan, kInfinity, -kInfinity}) {
      wrong(&think_problem::scale, value, "scale");
      wrong(&think_problem::softcap, value, "softcap");
    }
    cases.push_back(
        {function, "problem", "softcap negative", [](World &w, Values &) { w.problem->softcap = -2; }, {"problem->softcap", "-2"}});
    cases.push_back({function, "problem", "softcap that the scale is infinite beside", [](World &w, Values &) { w.problem->softcap = 1e-40f; },
                     {"problem->softcap", "scale"}});
    // every number by itself is fine, together no offset fits
    cases.push_back({function,
                     "problem",
                     "sizes overflow",
                     [](World &w, Values &) {
                       w.problem->query_heads = w.problem->kv_heads = 65536;
                       w.problem->max_batch = w.problem->max_queries = kMost;
                       w.problem->max_tokens = kMost;
                     },
                     {"problem", "2147483647"},
                     THINK_E_UNSUPPORTED});
  }
  return cases;
}

}  // namespace think_test
