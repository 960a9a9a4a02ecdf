// Arguments that are well-formed and still wrong: each case spoils one value of a right call and says which argument the library must name,
// and what the message must contain: the path of the field, what was expected and what was found.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "tests/abi/wrong_cases.h"

namespace think_test {
namespace {

World &world() {
  static World instance;
  return instance;
}

std::vector<Case> option_cases() {
  std::vector<Case> cases;
  const auto moments = [&](auto member, auto value, const char *name) {
    cases.push_back(field("think_moments", "options", &World::moments_options, member, value, std::string("options->") + name));
  };
  const auto fit = [&](auto member, auto value, const char *name) {
    cases.push_back(field("think_fit", "options", &World::fit_options, member, value, std::string("options->") + name));
  };
  for (int32_t value : {-2, kLeast}) {
    moments(&think_moments_options::sinks, value, "sinks");
    moments(&think_moments_options::recent, value, "recent");
  }
  for (float value : {kNan, kInfinity, -kInfinity, -0.5f, 1.5f}) moments(&think_moments_options::attention_share, value, "attention_share");
  for (float value : {kNan, kInfinity, -kInfinity, -0.5f}) fit(&think_fit_options::ridge, value, "ridge");
  for (int32_t value : {2, -1}) {
    fit(&think_fit_options::side, value, "side");
    cases.push_back(number("think_gains", "side", value));
    cases.push_back(number("think_budgets", "side", value));
    cases.push_back(field("think_select", "options", &World::select_options, &think_select_options::side, value, "options->side"));
  }
  cases.push_back(
      {"think_gains", "score", "score with values", [](World &, Values &values) { values[3].number = THINK_VALUES; }, {"score", "NULL"}});
  for (const auto &[member, name] : {std::pair{&think_budget_options::layers, "layers"}, std::pair{&think_budget_options::floor, "floor"},
                                     std::pair{&think_budget_options::step, "step"}}) {
    for (int32_t value : {-1, kMost, kLeast}) {
      cases.push_back(field("think_budgets", "options", &World::budget_options, member, value, std::string("options->") + name));
    }
  }
  cases.push_back(field("think_budgets", "options", &World::budget_options, &think_budget_options::floor, 12, "options->floor", {"8"}));
  for (int64_t value : {int64_t{0}, int64_t{-1}, int64_t{15}, int64_t{49}, INT64_MAX}) {
    cases.push_back(
        field("think_budgets", "options", &World::budget_options, &think_budget_options::total, value, "options->total", {"16", "48"}));
  }
  for (int32_t value : {0, -1, 25, kMost}) {
    cases.push_back({"think_select",
                     "options",
                     "kept = " + std::to_string(value),
                     [=](World &w, Values &values) {
                       w.select_options->kept = value;
                       values[4].pointer = nullptr;  // no table of widths
                     },
                     {"options->kept", "24", std::to_string(value)}});
    cases.push_back({"think_select",
                     "kept",
                     "a width of " + std::to_string(value),
                     [=](World &w, Values &) { w.budgets[3] = value; },
                     {"kept[3]", "24", std::to_string(value)}});
  }
  for (int32_t value : {-1, kMost}) {
    cases.push_back(field("think_select", "options", &World::select_options, &think_select_options::round_to, value, "options->round_to"));
  }
  cases.push_back({"think_select",
                   "options",
                   "both kinds of pairs",
                   [](World &w, Values &) { w.select_options->flags = 3; },
                   {"options->flags", "pairs"}});
  for (const char *function : {"think_prune_preview", "think_prune"}) {
    const auto prune = [&](auto member, auto value, const char *name, Texts texts = {}) {
      cases.push_back(field(function, "options", &World::prune_options, member, value, std::string("options->") + name, texts));
    };
    for (int32_t value : {2, -1}) {
      prune(&think_prune_options::mode, value, "mode");
      prune(&think_prune_options::budget, value, "budget");
    }
    for (int32_t value : {-2, 25, kMost}) prune(&think_prune_options::key_kept, value, "key_kept", {"24"});
    for (int32_t value : {-2, 17, kMost}) prune(&think_prune_options::value_kept, value, "value_kept", {"16"});
    for (int32_t value : {-2, kLeast}) {
      prune(&think_prune_options::sinks, value, "sinks");
      prune(&think_prune_options::recent, value, "recent");
    }
    for (float value : {kNan, kInfinity, -kInfinity, -0.5f, 1.5f}) prune(&think_prune_options::attention_share, value, "attention_share");
    for (float value : {kNan, kInfinity, -kInfinity, -0.5f}) {
      prune(&think_prune_options::ridge, value, "ridge");
      prune(&think_prune_options::dense_limit, value, "dense_limit");
    }
  }
  return cases;
}

void negative_pages(think_segment &segment) {
  static const int32_t pages[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
  segment.pages = pages;
  segment.pages_stride = 4;
  segment.page_tokens = 32;
}

std::vector<Case> relation_cases() {
  std::vector<Case> cases = {
      number("think_score_window", "slots", 0),
      number("think_score_window", "slots", -1),
      {"think_score_update",
       "key",
       "other tokens than the query",
       [](World &w, Values &) { w.key->extent[2] = 95; },
       {"key->extent[2]", "96", "95"}},
      {"think_score_update",
       "key",
       "other batch than the query",
       [](World &w, Values &) { w.key->extent[0] = 1; },
       {"key->extent[0]", "2", "1"}},
      {"think_score_update",
       "query",
       "fewer rows than sequences",
       [](World &w, Values &) { w.query->extent[0] = w.key->extent[0] = 1; },
       {"query->extent[0]", "2", "1"}},
      {"think_score_update",
       "query",
       "more tokens than the plan",
       [](World &w, Values &) { w.query->extent[2] = w.key->extent[2] = 257; },
       {"query->extent[2]", "256", "257"}},
      {"think_score_update",
       "batch",
       "NULL with more rows than max_batch",
       [](World &w, Values &values) {
         values[3].pointer = nullptr;
         w.query->extent[0] = w.key->extent[0] = 3;
       },
       {"batch", "2", "3"}},
      {"think_value_score",
       "attention",
       "fewer rows than sequences",
       [](World &w, Values &) { w.attention->extent[0] = 1; },
       {"attention->extent[0]", "2", "1"}},
      {"think_moments",
       "window_query",
       "no rows",
       [](World &w, Values &) { w.window_query->extent[2] = 0; },
       {"window_query->extent[2]", "8", "0"}},
      {"think_moments",
       "window_query",
       "more rows than the window",
       [](World &w, Values &) { w.window_query->extent[2] = 9; },
       {"window_query->extent[2]", "8", "9"}},
      {"think_moments", "source", "key NULL", [](World &w, Values &) { w.source->key = nullptr; }, {"source->key", "NULL"}},
      number("think_attend", "segment_count", 0, {"16"}),
      number("think_attend", "segment_count", -1, {"16"}),
      number("think_attend", "segment_count", 17, {"16"}),
      number("think_attend", "segment_count", kMost, {"16"}),
      {"think_attend",
       "query",
       "more queries than the plan",
       [](World &w, Values &) { w.new_query->extent[2] = w.output->extent[2] = 4; },
       {"query->extent[2]", "3", "4"}},
      {"think_attend",
       "output",
       "fewer queries than the query",
       [](World &w, Values &) { w.output->extent[2] = 2; },
       {"output->extent[2]", "3", "2"}},
      {"think_attend",
       "output",
       "fewer rows than the query",
       [](World &w, Values &) { w.output->extent[0] = 1; },
       {"output->extent[0]", "2", "1"}},
      {"think_attend",
       "segments",
       "two causal segments",
       [](World &w, Values &) { w.segments[0].flags = THINK_SEGMENT_CAUSAL; },
       {"segments[2].flags", "causal", "segments[0]"}},
      {"think_attend",
       "segments",
       "more tokens than the plan",
       [](World &w, Values &) {
         w.sink_lengths[1] = 128;
         w.pruned_lengths[1] = 128;
       },
       {"segments", "256", "284"}},
      {"think_attend",
       "segments",
       "basis with too few slots",
       [](World &w, Values &) { w.key_basis->slots = 1; },
       {"segments[1].key_basis->slots", "1"}},
      {"think_attend",
       "segments",
       "weights where there are none",
       [](World &w, Values &) { w.key_basis->weight = nullptr; },
       {"segments[1].key_basis->weight", "NULL"}},
      {"think_attend",
       "segments",
       "offsets where there are none",
       [](World &w, Values &) { w.key_basis->offset = nullptr; },
       {"segments[1].key_basis->offset", "NULL"}},
      {"think_attend",
       "segments",
       "weight block outside",
       [](World &w, Values &) {
         w.key_basis->weight_offset[0] = w.key_basis->weight_bytes;
         w.launch->flags = THINK_LAUNCH_CHECK;
       },
       {"segments[1].key_basis->weight_offset[0]", "weight_bytes"}},
      {"think_attend",
       "segments",
       "weight block misaligned",
       [](World &w, Values &) {
         w.key_basis->weight_offset[1] = 8;
         w.launch->flags = THINK_LAUNCH_CHECK;
       },
       {"segments[1].key_basis->weight_offset[1]", "16", "8"}},
      {"think_attend",
       "segments",
       "values in odd widths",
       [](World &w, Values &) {
         w.value_basis->kept[2] = 9;
         w.launch->flags = THINK_LAUNCH_CHECK;
       },
       {"segments[1].value_basis->kept[2]", "8", "9"}},
      number("think_merge", "count", 0, {"64"}),
      number("think_merge", "count", -1, {"64"}),
      number("think_merge", "count", 65, {"64"}),
      {"think_merge", "lses", "one NULL", [](World &w, Values &) { w.partial_lses[1] = nullptr; }, {"lses[1]", "NULL"}},
      {"think_merge",
       "lses",
       "one misaligned",
       [](World &w, Values &) {
         w.partial_lses[0] = reinterpret_cast<const float *>(reinterpret_cast<const char *>(w.partial_lses[0]) + 2);
       },
       {"lses[0]", "multiple of 4"}},
      {"think_merge",
       "outputs",
       "other extents",
       [](World &w, Values &) { w.partials[1].extent[2] = 2; },
       {"outputs[1].extent[2]", "3", "2"}},
      {"think_merge",
       "outputs",
       "another dtype",
       [](World &w, Values &) { w.partials[1].dtype = THINK_F16; },
       {"outputs[1].dtype", "f32", "f16"}},
      {"think_merge", "output", "other extents", [](World &w, Values &) { w.output->extent[0] = 1; }, {"output->extent[0]", "2", "1"}},
      {"think_merge",
       "output",
       "another dtype",
       [](World &w, Values &) { w.output->dtype = THINK_BF16; },
       {"output->dtype", "f32", "bf16"}},
      {"think_segment_place",
       "segment",
       "no page size",
       [](World &w, Values &) { w.destination->page_tokens = 0; },
       {"segment->page_tokens", "0"}},
      {"think_compact", "source", "no keys", [](World &w, Values &) { w.source->key = nullptr; }, {"source->key", "NULL"}},
      {"think_compact", "destination", "no keys", [](World &w, Values &) { w.destination->key = nullptr; }, {"destination->key", "NULL"}},
      {"think_compact", "source", "no values", [](World &w, Values &) { w.source->value = nullptr; }, {"source->value", "NULL"}},
      {"think_compact",
       "destination",
       "no values",
       [](World &w, Values &) { w.destination->value = nullptr; },
       {"destination->value", "NULL"}},
      {"think_compact",
       "destination",
       "dropped channels cannot come back",
       [](World &w, Values &) {
         w.source->key_basis = w.key_basis;
         w.destination->key_basis = nullptr;
       },
       {"destination->key_basis", "NULL"}},
      {"think_compact",
       "source",
       "fewer rows than asked for",
       [](World &w, Values &) { w.source->page_tokens = 32; },
       {"source->page_tokens", "64", "32"}},
      {"think_compact",
       "source",
       "page negative",
       [](World &w, Values &) {
         negative_pages(*w.source);
         w.launch->flags = THINK_LAUNCH_CHECK;
       },
       {"source->pages[", "-1"}},
      {"think_compact",
       "source",
       "head offset negative",
       [](World &w, Values &) {
         static int64_t offsets[16] = {-16, -16, -16, -16, -16, -16, -16, -16, -16, -16, -16, -16, -16, -16, -16, -16};
         w.source->key_head_offset = offsets;
         w.launch->flags = THINK_LAUNCH_CHECK;
       },
       {"source->key_head_offset[", "-16"}},
      {"think_prune",
       "destination",
       "page negative",
       [](World &w, Values &) {
         negative_pages(*w.destination);
         w.launch->flags = THINK_LAUNCH_CHECK;
       },
       {"destination->pages[", "-1"}},
      {"think_prune", "source", "no keys", [](World &w, Values &) { w.source->key = nullptr; }, {"source->key", "NULL"}},
      {"think_prune", "source", "no values", [](World &w, Values &) { w.source->value = nullptr; }, {"source->value", "NULL"}},
      {"think_prune", "destination", "no keys", [](World &w, Values &) { w.destination->key = nullptr; }, {"destination->key", "NULL"}},
      {"think_prune",
       "destination",
       "no values",
       [](World &w, Values &) { w.destination->value = nullptr; },
       {"destination->value", "NULL"}},
      {"think_prune",
       "destination",
       "no key basis",
       [](World &w, Values &) { w.destination->key_basis = nullptr; },
       {"destination->key_basis", "NULL"}},
      {"think_prune",
       "destination",
       "no value basis",
       [](World &w, Values &) { w.destination->value_basis = nullptr; },
       {"destination->value_basis", "NULL"}},
      {"think_prune",
       "destination",
       "too little room",
       [](World &w, Values &) { w.destination->page_tokens = 16; },
       {"destination->page_tokens", "32", "16"}},
      {"think_prune",
       "destination",
       "rows that differ by head",
       [](World &w, Values &) { w.source->lengths_stride[1] = 1; },
       {"source->lengths_stride[1]", "0", "1"},
       THINK_E_UNSUPPORTED},
  };
  cases.back().parameter = "source";
  return cases;
}

struct DLTensorFields {
  void *data;
  int32_t device_type, device_id, ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

std::vector<Case> dlpack_cases() {
  std::vector<Case> cases;
  const auto spoil = [&](const char *what, std::function<void(DLTensorFields &)> change, Texts texts, think_status code) {
    cases.push_back({"think_tensor_from_dlpack", "source", what,
                     [=](World &w, Values &) { change(*static_cast<DLTensorFields *>(w.dlpack)); }, texts, code});
  };
  for (int32_t dimensions : {0, 1, 2, 5, -1, kMost}) {
    spoil(
        "ndim", [=](DLTensorFields &t) { t.ndim = dimensions; }, {"source->ndim", "3 or 4", std::to_string(dimensions)},
        THINK_E_UNSUPPORTED);
  }
  spoil(
      "f64", [](DLTensorFields &t) { t.bits = 64; }, {"source->dtype", "f32", "64"}, THINK_E_UNSUPPORTED);
  spoil(
      "int32", [](DLTensorFields &t) { t.code = 0; }, {"source->dtype", "f32", "0"}, THINK_E_UNSUPPORTED);
  spoil(
      "vectors", [](DLTensorFields &t) { t.lanes = 4; }, {"source->dtype", "f32", "4"}, THINK_E_UNSUPPORTED);
  spoil(
      "shape NULL", [](DLTensorFields &t) { t.shape = nullptr; }, {"source->shape", "NULL"}, THINK_E_ARGUMENT);
  spoil(
      "data NULL", [](DLTensorFields &t) { t.data = nullptr; }, {"source->data", "NULL"}, THINK_E_ARGUMENT);
  spoil(
      "offset past the last address", [](DLTensorFields &t) { t.byte_offset = UINT64_MAX; }, {"source->byte_offset", "last address"}, THINK_E_ARGUMENT);
  spoil(
      "negative extent",
      [](DLTensorFields &t) {
        static int64_t shape[4] = {2, 4, -96, 24};
        t.shape = shape;
      },
      {"source->shape[2]", "-96"}, THINK_E_ARGUMENT);
  spoil(
      "extents overflow",
      [](DLTensorFields &t) {
        static int64_t shape[4] = {2, INT64_MAX / 2, INT64_MAX / 2, 24};
        t.shape = shape;
        t.strides = nullptr;
      },
      {"source->shape", "64-bit"}, THINK_E_ARGUMENT);
  spoil(
      "channel stride",
      [](DLTensorFields &t) {
        static int64_t strides[4] = {9216, 2304, 1, 96};
        t.strides = strides;
      },
      {"source->strides[3]", "1", "96"}, THINK_E_UNSUPPORTED);
  return cases;
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const TensorUse &use : {
           TensorUse{"think_score_update", "query", "query->", &World::query, 0, 4, 24, false},
           TensorUse{"think_score_update", "key", "key->", &World::key, 0, 2, 24, true},
           TensorUse{"think_value_score", "attention", "attention->", &World::attention, 0, 4, 16, true},
           TensorUse{"think_moments", "window_query", "window_query->", &World::window_query, 0, 4, 24, true},
           TensorUse{"think_evict", "window_query", "window_query->", &World::window_query, 0, 4, 24, true},
           TensorUse{"think_attend", "query", "query->", &World::new_query, 0, 4, 24, false},
           TensorUse{"think_attend", "output", "output->", &World::output, 0, 4, 16, false},
           TensorUse{"think_merge", "outputs", "outputs[0].", &World::partials, 0, 4, 16, false},
           TensorUse{"think_merge", "outputs", "outputs[1].", &World::partials, 1, 4, 16, false},
           TensorUse{"think_merge", "output", "output->", &World::output, 0, 4, 16, false},
       }) {
    add(cases, tensor_cases(use));
  }
  for (const BatchUse &use : {
           BatchUse{"think_score_reset", false, 0, true, 0, true},
           BatchUse{"think_score_update", true, World::kTokens, true, 0, true},
           BatchUse{"think_score_finish", false, 0, true, 0, false},
           BatchUse{"think_value_score", true, World::kWindow, false, 0, false},
           BatchUse{"think_moments", false, 0, true, World::kBatch, true},
           BatchUse{"think_evict", false, 0, true, World::kBatch, true},
           BatchUse{"think_evict_move", false, 0, true, 0, true},
           BatchUse{"think_gains", false, 0, true, 0, false},
           BatchUse{"think_budgets", false, 0, false, 0, false},
           BatchUse{"think_select", false, 0, true, World::kBatch, true},
           BatchUse{"think_fit", false, 0, true, World::kBatch, true},
           BatchUse{"think_segment_place", false, 0, true, 0, false},
           BatchUse{"think_compact", false, 0, true, 0, false},
           BatchUse{"think_attend", true, World::kQueries, true, 0, false},
           BatchUse{"think_prune", false, 0, true, 0, true},
       }) {
    add(cases, batch_cases(use));
  }
  for (const SegmentUse &use : {
           SegmentUse{"think_moments", "source", "source->", &World::source, 0, true, false, true, false},
           SegmentUse{"think_evict", "source", "source->", &World::source, 0, true, false, true, false},
           SegmentUse{"think_evict_move", "source", "source->", &World::source, 0, true, false, true, true},
           SegmentUse{"think_evict_move", "destination", "destination->", &World::evicted, 0, true, false, false, true},
           SegmentUse{"think_compact", "source", "source->", &World::source, 0, false, false, false, true},
           SegmentUse{"think_compact", "destination", "destination->", &World::destination, 0, false, true, true, true},
           SegmentUse{"think_attend", "segments", "segments[0].", &World::segments, 0, false, false, true, true},
           SegmentUse{"think_attend", "segments", "segments[1].", &World::segments, 1, false, true, true, true},
           SegmentUse{"think_attend", "segments", "segments[2].", &World::segments, 2, false, false, true, true},
           SegmentUse{"think_prune", "source", "source->", &World::source, 0, true, false, true, true},
           SegmentUse{"think_prune", "destination", "destination->", &World::destination, 0, false, true, false, true},
           SegmentUse{"think_segment_place", "segment", "segment->", &World::destination, 0, false, true, false, false},
       }) {
    add(cases, segment_cases(use));
  }
  add(cases, basis_cases("think_select", "basis", "basis->", &World::key_basis, 24, false, false));
  add(cases, basis_cases("think_fit", "basis", "basis->", &World::key_basis, 24, true, true));
  add(cases, basis_cases("think_compact", "destination", "destination->key_basis->", &World::key_basis, 24, true, false));
  add(cases, basis_cases("think_compact", "destination", "destination->value_basis->", &World::value_basis, 16, true, false));
  add(cases, basis_cases("think_attend", "segments", "segments[1].key_basis->", &World::key_basis, 24, true, true));
  add(cases, basis_cases("think_attend", "segments", "segments[1].value_basis->", &World::value_basis, 16, true, false));
  add(cases, basis_cases("think_prune", "destination", "destination->key_basis->", &World::key_basis, 24, false, true));
  add(cases, basis_cases("think_segment_place", "segment", "segment->key_basis->", &World::key_basis, 24, true, false));
  add(cases, set_up_cases());
  add(cases, problem_cases());
  add(cases, option_cases());
  add(cases, evict_cases());
  add(cases, cache_cases());
  add(cases, relation_cases());
  add(cases, dlpack_cases());
  return cases;
}

class WrongValues : public testing::TestWithParam<Function> {};

TEST_P(WrongValues, AreNamed) {
  static const std::vector<Case> cases = all_cases();
  const Function &target = GetParam();
  int count = 0;
  for (const Case &one : cases) {
    if (std::strcmp(one.function, target.name) != 0) continue;
    ++count;
    const std::string problem = refused(
        world(), target, [&](Values &values) { one.spoil(world(), values); }, one.code, target.position(one.parameter) + 1, one.texts);
    EXPECT_EQ("", problem) << one.what;
  }
  RecordProperty("cases", count);
  EXPECT_GT(count, 0) << "no case spoils this function";
}

std::string name_of(const testing::TestParamInfo<Function> &info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(EveryFunction, WrongValues, testing::ValuesIn(functions()), name_of);

// The environment is an argument too.
TEST(Environment, InstructionSetByName) {
  const Function &create = function("think_context_create");
  world().restore(create);  // the world must exist before the environment is spoiled
  for (const char *name : {"quantum", "AVX2", "avx2 ", "",
                           "avx10.2-with-a-name-that-is-longer-than-any-buffer-that-somebody-could-have-reserved-for-it-on-a-stack"}) {
    setenv("THINK_CPU_ISA", name, 1);
    if (*name) {
      EXPECT_EQ("", refused(world(), create, [](Values &) {}, THINK_E_UNSUPPORTED, 0, {"THINK_CPU_ISA"})) << name;
    } else {  // set and empty is not set
      EXPECT_EQ(THINK_OK, run(world(), create, create.values(world()), nullptr));
    }
  }
  int64_t available = 0;
  ASSERT_EQ(THINK_OK, think_query(nullptr, THINK_QUERY_ISA_AVAILABLE, &available, nullptr));
  const char *const names[] = {"portable", "avx2", "avx512", "avx512bf16", "neon"};
  for (int32_t isa = THINK_ISA_PORTABLE; isa <= THINK_ISA_NEON; ++isa) {
    setenv("THINK_CPU_ISA", names[isa], 1);
    if (available >> isa & 1) {
      think_context *forced = nullptr;
      int64_t used = -1;
      ASSERT_EQ(THINK_OK, think_context_create(nullptr, &forced, nullptr));
      EXPECT_EQ(THINK_OK, think_query(forced, THINK_QUERY_ISA, &used, nullptr));
      EXPECT_EQ(isa, used);
      think_context_destroy(forced);
    } else {
      EXPECT_EQ("", refused(world(), create, [](Values &) {}, THINK_E_UNSUPPORTED, 0, {"THINK_CPU_ISA", names[isa]}));
    }
  }
  unsetenv("THINK_CPU_ISA");
}

TEST(Query, NeedsAContextOnlyForItsOwnFacts) {
  for (int32_t key = THINK_QUERY_VERSION; key <= THINK_QUERY_MAX_SEGMENTS; ++key) {
    int64_t value = -77;
    EXPECT_EQ(THINK_OK, think_query(world().context, key, &value, nullptr)) << key;
    EXPECT_NE(-77, value);
    const bool own =
        key == THINK_QUERY_DEVICE_TYPE || key == THINK_QUERY_DEVICE_INDEX || key == THINK_QUERY_THREADS || key == THINK_QUERY_ISA;
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(own ? THINK_E_ARGUMENT : THINK_OK, think_query(nullptr, key, &value, &error)) << key;
    EXPECT_EQ(own ? 1 : 0, error.argument);
  }
}

// Functions that cannot fail take anything.
TEST(Infallible, TakeAnything) {
  think_context_destroy(nullptr);
  think_plan_destroy(nullptr);
  for (think_status status : {-1, 10, kMost, kLeast}) EXPECT_STREQ("unknown status", think_status_name(status));
  EXPECT_STREQ("THINK_OK", think_status_name(THINK_OK));
  EXPECT_STREQ("THINK_E_INTERNAL", think_status_name(THINK_E_INTERNAL));
  for (think_dtype dtype : {0, -1, kMost, 0x00010802}) {
    EXPECT_EQ(0, think_dtype_bytes(dtype));
    EXPECT_STREQ("unknown", think_dtype_name(dtype));
  }
  EXPECT_EQ(77, think_kept_channels(128, 0.4));
  EXPECT_EQ(64, think_kept_channels(128, 0.5));
  EXPECT_EQ(128, think_kept_channels(128, 0));
  for (double ratio : {-0.1, 1.0, 2.0, static_cast<double>(kNan), static_cast<double>(kInfinity)})
    EXPECT_EQ(-1, think_kept_channels(128, ratio)) << ratio;
  for (int32_t channels : {0, -1, kLeast}) EXPECT_EQ(-1, think_kept_channels(channels, 0.4));
}

// Texts are cut to the caller's room, and say how much they need.
TEST(Texts, AreCutToCapacity) {
  size_t needed = 0;
  ASSERT_EQ(THINK_OK, think_plan_describe(world().plan, nullptr, 0, &needed, nullptr));
  std::vector<char> whole(needed);
  ASSERT_EQ(THINK_OK, think_plan_describe(world().plan, whole.data(), whole.size(), nullptr, nullptr));
  EXPECT_EQ(needed, std::strlen(whole.data()) + 1);
  for (size_t capacity : {size_t{1}, size_t{2}, needed / 2, needed - 1}) {
    std::vector<char> part(needed, 0x5A);
    size_t again = 0;
    EXPECT_EQ(THINK_OK, think_plan_describe(world().plan, part.data(), capacity, &again, nullptr));
    EXPECT_EQ(needed, again);
    EXPECT_EQ(0, part[capacity - 1]);
    EXPECT_EQ(0, std::memcmp(part.data(), whole.data(), capacity - 1));
    for (size_t at = capacity; at < needed; ++at) ASSERT_EQ(0x5A, part[at]) << "wrote behind the capacity";
  }
  ASSERT_EQ(THINK_OK, think_backend_reason(THINK_DEVICE_CUDA, nullptr, 0, &needed, nullptr));
  std::vector<char> reason(needed);
  ASSERT_EQ(THINK_OK, think_backend_reason(THINK_DEVICE_CUDA, reason.data(), needed, nullptr, nullptr));
  EXPECT_EQ(needed, std::strlen(reason.data()) + 1);
  char one = 0x5A;
  EXPECT_EQ(THINK_OK, think_backend_reason(THINK_DEVICE_CUDA, &one, 1, nullptr, nullptr));
  EXPECT_EQ(0, one);
}

}  // namespace
}  // namespace think_test
