#include "tests/abi/wrong_cases.h"

namespace think_test {

std::vector<Case> evict_cases() {
  std::vector<Case> cases;
  const auto option = [&](auto member, auto value, const char *name, Texts texts = {}) {
    cases.push_back(field("think_evict", "options", &World::evict_options, member, value, std::string("options->") + name, texts));
  };
  for (int32_t value : {-1, 5, kMost}) option(&think_evict_options::method, value, "method", {"4"});
  for (int32_t value : {-1, kLeast}) option(&think_evict_options::budget, value, "budget");
  for (int32_t value : {-2, kLeast}) {
    option(&think_evict_options::sinks, value, "sinks");
    option(&think_evict_options::recent, value, "recent");
  }
  for (int32_t value : {-1, 2, kMost}) option(&think_evict_options::pooling, value, "pooling");
  for (int32_t value : {-2, 2, 8, 257, kMost}) option(&think_evict_options::kernel, value, "kernel", {"odd"});
  for (int64_t value : {int64_t{-1}, int64_t{1} << 31, int64_t{39}}) option(&think_evict_options::kept_stride, value, "kept_stride");
  for (int64_t value : {int64_t{-1}, int64_t{1} << 31, int64_t{0}, int64_t{95}}) option(&think_evict_options::score_stride, value, "score_stride");

  const auto evict = [&](const char *parameter, const char *what, std::function<void(World &, Values &)> spoil, Texts texts) {
    cases.push_back({"think_evict", parameter, what, std::move(spoil), std::move(texts)});
  };
  const auto with_method = [](World &w, int32_t method) { w.evict_options->method = method; };
  evict("options", "pooling without SnapKV",
        [=](World &w, Values &) {
          with_method(w, THINK_EVICT_WINDOW);
          w.evict_options->pooling = THINK_POOL_MEAN;
        },
        {"options->pooling", "1"});
  evict("options", "kernel without SnapKV",
        [=](World &w, Values &) {
          with_method(w, THINK_EVICT_TOVA);
          w.evict_options->kernel = 7;
        },
        {"options->kernel", "7"});
  evict("options", "recent rows of sinks and recent rows",
        [=](World &w, Values &) {
          with_method(w, THINK_EVICT_RECENT);
          w.evict_options->recent = 8;
        },
        {"options->recent", "8"});
  evict("window_query", "queries for sinks and recent rows", [=](World &w, Values &) { with_method(w, THINK_EVICT_RECENT); }, {"window_query", "NULL"});
  evict("score", "scores of sinks and recent rows",
        [=](World &w, Values &values) {
          with_method(w, THINK_EVICT_RECENT);
          values[1].pointer = nullptr;
        },
        {"score", "NULL"});
  for (int32_t method : {THINK_EVICT_WINDOW, THINK_EVICT_TOVA}) {
    evict("window_query", "no queries",
          [=](World &w, Values &values) {
            with_method(w, method);
            values[1].pointer = nullptr;
          },
          {"window_query", "NULL"});
  }
  evict("score", "H2O without its sums",
        [=](World &w, Values &values) {
          with_method(w, THINK_EVICT_H2O);
          values[6].pointer = nullptr;
        },
        {"score", "NULL"});
  evict("window_query", "no rows", [](World &w, Values &) { w.window_query->extent[2] = 0; }, {"window_query->extent[2]", "8", "0"});
  evict("window_query", "more rows than the window", [](World &w, Values &) { w.window_query->extent[2] = 9; }, {"window_query->extent[2]", "8", "9"});
  evict("source", "key NULL", [](World &w, Values &) { w.source->key = nullptr; }, {"source->key", "NULL"});
  evict("budget", "negative", [](World &w, Values &) { w.evict_budget[3] = -1; }, {"budget[3]", "-1"});
  evict("options", "a head with more than the stride", [](World &w, Values &) { w.evict_budget[2] = 41; }, {"options->kept_stride", "41", "40", "head 0"});

  for (int64_t value : {int64_t{39}, int64_t{-1}, int64_t{1} << 31}) cases.push_back(number("think_evict_move", "kept_stride", value, {"40"}));
  for (int64_t value : {int64_t{95}, int64_t{-1}, int64_t{1} << 31}) cases.push_back(number("think_evict_move", "score_stride", value, {"96"}));
  const auto move = [&](const char *parameter, const char *what, std::function<void(World &, Values &)> spoil, Texts texts) {
    cases.push_back({"think_evict_move", parameter, what, std::move(spoil), std::move(texts)});
  };
  for (int32_t row : {-1, 96, kMost, kLeast}) {
    move("kept", "row that is not there", [=](World &w, Values &) { w.evict_kept[0] = row; }, {"kept[0]", std::to_string(row), "95"});
  }
  move("kept", "one row twice", [](World &w, Values &) { w.evict_kept[41] = w.evict_kept[40]; }, {"kept[41]", "ascending"});
  // Every list has its head's length: a row behind the source of that head alone.
  move("kept", "behind a shorter head",
       [](World &w, Values &) {
         static const int32_t lengths[4] = {96, 96, 96, 20};
         w.source->lengths = lengths;
         w.source->lengths_stride[0] = 2;
         w.source->lengths_stride[1] = 1;
       },
       {"kept[", "19"});
  const auto in_place = [&](const char *what, std::function<void(think_segment &)> change, Texts texts) {
    move("destination", what,
         [=](World &w, Values &) {
           w.evicted->key = w.source->key;
           w.evicted->value = w.source->value;
           change(*w.evicted);
         },
         std::move(texts));
  };
  in_place("other dtype of the same memory", [](think_segment &s) { s.key_dtype = THINK_BF16; }, {"destination->key_dtype", "f16", "bf16"});
  in_place("other stride of the same memory", [](think_segment &s) { s.value_stride[1] += 2; }, {"destination->value_stride[1]", "same memory"});
  in_place("other slots of the same memory",
           [](think_segment &s) {
             static const int32_t slots[2] = {0, 1};
             s.slot = slots;
           },
           {"destination->slot", "same memory"});
  in_place("pages of the same memory",
           [](think_segment &s) {
             static const int32_t pages[8] = {};
             s.pages = pages;
             s.pages_stride = 4;
             s.page_tokens = 32;
           },
           {"destination->pages", "same memory"});
  in_place("head offsets of the same memory",
           [](think_segment &s) {
             static int64_t offsets[4] = {};
             s.key_head_offset = offsets;
           },
           {"destination->key_head_offset", "same memory"});
  in_place("rows that go backwards",
           [](think_segment &s) {
             static const int32_t first[4] = {0, 0, 1, 0};
             s.first = first;
           },
           {"destination->first", "in place", "1"});
  return cases;
}

}  // namespace think_test
