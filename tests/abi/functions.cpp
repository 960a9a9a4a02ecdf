// The table of functions: parameters as the headers name them, right arguments, and what a successful call writes.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ostream>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tests/abi/world.h"

namespace think_test {
namespace {

template <class T>
T argument(const Value &value) {
  if constexpr (std::is_pointer_v<T>) {
    return static_cast<T>(const_cast<void *>(value.pointer));
  } else {
    return static_cast<T>(value.number);
  }
}

template <class... Parameters, size_t... at>
think_status apply(think_status (*function)(Parameters...), const std::vector<Value> &values, think_error *error,
                   std::index_sequence<at...>) {
  using Types = std::tuple<Parameters...>;
  return function(argument<std::tuple_element_t<at, Types>>(values[at])..., error);
}

// Calls any function that returns a status, with the arguments as values and the error record last.
template <auto function>
think_status invoke(const std::vector<Value> &values, think_error *error) {
  return []<class... Parameters>(think_status (*target)(Parameters...), const std::vector<Value> &all, think_error *record) {
    if (all.size() + 1 != sizeof...(Parameters)) std::abort();
    return apply(target, all, record, std::make_index_sequence<sizeof...(Parameters) - 1>());
  }(function, values, error);
}

Value at(const void *pointer) { return {pointer, 0}; }
Value of(int64_t number) { return {nullptr, number}; }

const Parameter plan = {"plan", Kind::handle};
const Parameter context = {"context", Kind::handle};
const Parameter batch = {"batch", Kind::structure, true, &batch_type};
const Parameter launch = {"launch", Kind::structure, true, &launch_type};
const Parameter side = {"side", Kind::number};
const Parameter slots = {"slots", Kind::number};
const Parameter state = {"state", Kind::array, false, nullptr, 64};
const Parameter moments = {"moments", Kind::array, false, nullptr, 64};

Parameter input(const char *name, const StructType &type, bool optional = false, int32_t elements = 1) {
  return {name, Kind::structure, optional, &type, 1, elements};
}
Parameter answer(const char *name, const StructType &type) { return {name, Kind::answer, false, &type}; }
Parameter array(const char *name, uint32_t alignment, bool optional = false) { return {name, Kind::array, optional, nullptr, alignment}; }

// The bases behind a segment, or behind element `element` of an array of segments.
std::vector<Nested> bases_of(const std::string &path, int32_t parameter, int32_t element = 0) {
  const auto locate = [parameter, element](auto member) {
    return [=](const std::vector<Value> &values) -> void * {
      return const_cast<think_basis *>((&as<think_segment>(values[parameter]))[element].*member);
    };
  };
  return {{path + "key_basis", parameter, &basis_type, locate(&think_segment::key_basis)},
          {path + "value_basis", parameter, &basis_type, locate(&think_segment::value_basis)}};
}

template <class T>
Range range(T *memory, size_t count) {
  return {memory, count * sizeof(T)};
}

// Of an answer only the part behind struct_size is written.
template <class T>
Range filled_part(T *answer) {
  return {reinterpret_cast<char *>(answer) + sizeof(uint32_t), sizeof(T) - sizeof(uint32_t)};
}

constexpr size_t kHeads = size_t{World::kBatch} * World::kKvHeads;
constexpr size_t kRows = size_t{World::kBatch} * World::kQueryHeads * World::kQueries;

std::vector<Range> basis_arrays(const think_basis &basis, bool choice, bool weights) {
  std::vector<Range> ranges;
  const size_t channels = kHeads * static_cast<size_t>(basis.channels);
  if (choice) ranges.insert(ranges.end(), {range(basis.kept, kHeads), range(basis.index, channels)});
  if (weights) ranges.insert(ranges.end(), {{basis.weight, static_cast<size_t>(basis.weight_bytes)}, range(basis.offset, channels)});
  ranges.push_back(range(basis.weight_offset, kHeads));
  return ranges;
}

std::vector<Range> pages(World &w) {
  return {{w.compact_key, static_cast<size_t>(w.page_key_bytes) * World::kBatch},
          {w.compact_value, static_cast<size_t>(w.page_value_bytes) * World::kBatch}};
}

using Ranges = std::vector<Range>;
using Values = std::vector<Value>;

std::vector<Function> make_set_up_functions() {
  return {
      {"think_context_create",
       {input("options", context_options_type, true), array("context", 8)},
       invoke<think_context_create>,
       [](World &w) {
         return Values{at(w.context_options), at(w.new_context)};
       },
       [](World &w) { return Ranges{range(w.new_context, 1)}; }},
      {"think_query",
       {context, {"key", Kind::number}, array("value", 8)},
       invoke<think_query>,
       [](World &w) {
         return Values{at(w.context), of(THINK_QUERY_THREADS), at(w.number)};
       },
       [](World &w) { return Ranges{range(w.number, 1)}; }},
      {"think_backend_reason",
       {{"device", Kind::number}, array("text", 1), {"capacity", Kind::number}, array("needed", 8, true)},
       invoke<think_backend_reason>,
       [](World &w) {
         return Values{of(THINK_DEVICE_CPU), at(w.text), of(4096), at(w.needed)};
       },
       [](World &w) {
         return Ranges{range(w.text, 4096), range(w.needed, 1)};
       }},
      {"think_supports",
       {{"context", Kind::handle, true}, input("problem", problem_type)},
       invoke<think_supports>,
       [](World &w) {
         return Values{at(w.context), at(w.problem)};
       },
       [](World &) { return Ranges{}; }},
      {"think_plan_create",
       {context, input("problem", problem_type), array("plan", 8)},
       invoke<think_plan_create>,
       [](World &w) {
         return Values{at(w.context), at(w.problem), at(w.new_plan)};
       },
       [](World &w) { return Ranges{range(w.new_plan, 1)}; }},
      {"think_plan_describe",
       {plan, array("json", 1), {"capacity", Kind::number}, array("needed", 8, true)},
       invoke<think_plan_describe>,
       [](World &w) {
         return Values{at(w.plan), at(w.text), of(4096), at(w.needed)};
       },
       [](World &w) {
         return Ranges{range(w.text, 4096), range(w.needed, 1)};
       }},
      {"think_workspace_size",
       {plan, {"stage", Kind::number}, input("extent", extent_type, true), array("bytes", 8), array("alignment", 8, true)},
       invoke<think_workspace_size>,
       [](World &w) {
         return Values{at(w.plan), of(THINK_STAGE_ATTEND), at(w.extent), at(w.number), at(w.second_number)};
       },
       [](World &w) {
         return Ranges{range(w.number, 1), range(w.second_number, 1)};
       }},
      {"think_basis_size",
       {plan, side, slots, array("bytes", 8), array("alignment", 8, true)},
       invoke<think_basis_size>,
       [](World &w) {
         return Values{at(w.plan), of(THINK_KEYS), of(World::kBatch), at(w.number), at(w.second_number)};
       },
       [](World &w) {
         return Ranges{range(w.number, 1), range(w.second_number, 1)};
       }},
      {"think_basis_bind",
       {plan, side, slots, array("memory", 64), {"bytes", Kind::number}, answer("basis", basis_type)},
       invoke<think_basis_bind>,
       [](World &w) {
         return Values{at(w.plan), of(THINK_KEYS), of(World::kBatch), at(w.spare_basis_memory), of(w.basis_bytes), at(w.spare_basis)};
       },
       [](World &w) { return Ranges{filled_part(w.spare_basis)}; }},
      {"think_layout",
       {plan,
        input("format", format_type, true),
        {"page_tokens", Kind::number},
        {"total_key", Kind::number},
        {"total_value", Kind::number},
        answer("info", layout_info_type)},
       invoke<think_layout>,
       [](World &w) { return Values{at(w.plan), at(w.format), of(64), of(32), of(16), at(w.info)}; },
       [](World &w) { return Ranges{filled_part(w.info)}; }},
      {"think_segment_place",
       {plan, input("segment", segment_type), batch, launch},
       invoke<think_segment_place>,
       [](World &w) {
         return Values{at(w.plan), at(w.destination), at(w.batch), at(w.launch)};
       },
       [](World &w) {
         return Ranges{range(w.key_head_offset, kHeads), range(w.value_head_offset, kHeads)};
       },
       bases_of("segment->", 1)},
      {"think_score_state_size",
       {plan, slots, array("bytes", 8)},
       invoke<think_score_state_size>,
       [](World &w) {
         return Values{at(w.plan), of(World::kBatch), at(w.number)};
       },
       [](World &w) { return Ranges{range(w.number, 1)}; }},
      {"think_moments_size",
       {plan, slots, array("bytes", 8)},
       invoke<think_moments_size>,
       [](World &w) {
         return Values{at(w.plan), of(World::kBatch), at(w.number)};
       },
       [](World &w) { return Ranges{range(w.number, 1)}; }},
      {"think_prune_preview",
       {plan,
        input("format", format_type, true),
        {"tokens", Kind::number},
        input("options", prune_options_type, true),
        answer("result", prune_result_type)},
       invoke<think_prune_preview>,
       [](World &w) {
         return Values{at(w.plan), at(w.format), of(World::kTokens), at(w.prune_options), at(w.prune_result)};
       },
       [](World &w) { return Ranges{filled_part(w.prune_result)}; }},
      {"think_tensor_from_dlpack",
       {array("source", 8), array("device", 4, true), answer("tensor", tensor_type)},
       invoke<think_tensor_from_dlpack>,
       [](World &w) {
         return Values{at(w.dlpack), at(w.device), at(w.window_query)};
       },
       [](World &w) {
         return Ranges{range(w.device, 1), filled_part(w.window_query)};
       }},
  };
}

std::vector<Function> make_run_functions() {
  std::vector<Nested> segment_bases = bases_of("segments[1].", 3, 1);
  return {
      {"think_score_reset",
       {plan, state, batch, launch},
       invoke<think_score_reset>,
       [](World &w) {
         return Values{at(w.plan), at(w.state), at(w.batch), at(w.launch)};
       },
       [](World &w) {
         return Ranges{{w.state, w.state_bytes()}};
       }},
      {"think_score_update",
       {plan, input("query", tensor_type), input("key", tensor_type), batch, state, launch},
       invoke<think_score_update>,
       [](World &w) { return Values{at(w.plan), at(w.query), at(w.key), at(w.batch), at(w.state), at(w.launch)}; },
       [](World &) { return Ranges{}; },
       {},
       true},
      {"think_score_finish",
       {plan, state, batch, input("options", score_options_type, true), array("score", 4), launch},
       invoke<think_score_finish>,
       [](World &w) { return Values{at(w.plan), at(w.state), at(w.batch), at(w.score_options), at(w.score), at(w.launch)}; },
       [](World &w) { return Ranges{range(w.score, kHeads * World::kKeyChannels)}; }},
      {"think_score_window",
       {plan, state, slots, answer("query", tensor_type)},
       invoke<think_score_window>,
       [](World &w) {
         return Values{at(w.plan), at(w.state), of(World::kBatch), at(w.window_query)};
       },
       [](World &w) { return Ranges{filled_part(w.window_query)}; }},
      {"think_value_score",
       {plan, input("attention", tensor_type), batch, array("score", 4), launch},
       invoke<think_value_score>,
       [](World &w) {
         return Values{at(w.plan), at(w.attention), at(w.batch), at(w.value_score), at(w.launch)};
       },
       [](World &w) { return Ranges{range(w.value_score, kHeads * World::kValueChannels)}; }},
      {"think_moments",
       {plan, input("window_query", tensor_type), input("source", segment_type), batch, input("options", moments_options_type, true),
        moments, launch},
       invoke<think_moments>,
       [](World &w) {
         return Values{at(w.plan), at(w.window_query), at(w.source), at(w.batch), at(w.moments_options), at(w.moments), at(w.launch)};
       },
       [](World &w) {
         return Ranges{{w.moments, w.moments_bytes()}};
       }},
      {"think_evict",
       {plan, input("window_query", tensor_type), input("source", segment_type), batch, input("options", evict_options_type),
        array("budget", 4, true), array("score", 4, true), array("kept", 4), array("lengths", 4), launch},
       invoke<think_evict>,
       [](World &w) {
         return Values{at(w.plan),         at(w.window_query), at(w.source),     at(w.batch),         at(w.evict_options),
                       at(w.evict_budget), at(w.evict_score),  at(w.evict_kept), at(w.evict_lengths), at(w.launch)};
       },
       [](World &w) {
         return Ranges{range(w.evict_score, kHeads * World::kTokens), range(w.evict_kept, kHeads * World::kEvictBudget),
                       range(w.evict_lengths, kHeads)};
       }},
      {"think_evict_move",
       {plan,
        input("source", segment_type),
        input("destination", segment_type),
        batch,
        array("kept", 4),
        {"kept_stride", Kind::number},
        array("score", 4, true),
        {"score_stride", Kind::number},
        launch},
       invoke<think_evict_move>,
       [](World &w) {
         return Values{at(w.plan),           at(w.source),      at(w.evicted),     at(w.batch), at(w.evict_kept),
                       of(w.kEvictBudget), at(w.evict_score), of(World::kTokens), at(w.launch)};
       },
       [](World &w) {
         return Ranges{range(static_cast<uint16_t *>(w.evicted->key), kHeads * World::kRoom * World::kKeyChannels),
                       range(static_cast<uint16_t *>(w.evicted->value), kHeads * World::kRoom * World::kValueChannels)};
       }},
      {"think_gains",
       {plan, moments, batch, side, array("score", 4), array("gains", 4), array("order", 4, true), launch},
       invoke<think_gains>,
       [](World &w) {
         return Values{at(w.plan), at(w.moments), at(w.batch), of(THINK_KEYS), at(w.score), at(w.gains), at(w.order), at(w.launch)};
       },
       [](World &w) {
         return Ranges{range(w.gains, kHeads * World::kKeyChannels), range(w.order, kHeads * World::kKeyChannels)};
       }},
      {"think_budgets",
       {plan, array("gains", 4), batch, side, input("options", budget_options_type), array("kept", 4), launch},
       invoke<think_budgets>,
       [](World &w) {
         return Values{at(w.plan), at(w.gains), at(w.batch), of(THINK_KEYS), at(w.budget_options), at(w.budgets), at(w.launch)};
       },
       [](World &w) { return Ranges{range(w.budgets, kHeads)}; }},
      {"think_select",
       {plan, array("score", 4), batch, input("options", select_options_type), array("kept", 4, true), input("basis", basis_type),
        array("mask", 1, true), launch},
       invoke<think_select>,
       [](World &w) {
         return Values{at(w.plan),    at(w.score),     at(w.batch), at(w.select_options),
                       at(w.budgets), at(w.key_basis), at(w.mask),  at(w.launch)};
       },
       [](World &w) {
         Ranges ranges = basis_arrays(*w.key_basis, true, false);
         ranges.push_back(range(w.mask, kHeads * World::kKeyChannels));
         return ranges;
       }},
      {"think_fit",
       {plan, moments, batch, input("options", fit_options_type, true), input("basis", basis_type), launch},
       invoke<think_fit>,
       [](World &w) { return Values{at(w.plan), at(w.moments), at(w.batch), at(w.fit_options), at(w.key_basis), at(w.launch)}; },
       [](World &w) { return basis_arrays(*w.key_basis, false, true); }},
      {"think_compact",
       {plan, input("source", segment_type), input("destination", segment_type), batch, launch},
       invoke<think_compact>,
       [](World &w) {
         return Values{at(w.plan), at(w.source), at(w.destination), at(w.batch), at(w.launch)};
       },
       pages,
       bases_of("destination->", 2),
       true},
      {"think_attend",
       {plan,
        input("query", tensor_type),
        batch,
        input("segments", segment_type, false, 3),
        {"segment_count", Kind::number},
        array("sink_logit", 4, true),
        input("output", tensor_type),
        array("lse", 4, true),
        launch},
       invoke<think_attend>,
       [](World &w) {
         return Values{at(w.plan),       at(w.new_query), at(w.batch), at(w.segments), of(3),
                       at(w.sink_logit), at(w.output),    at(w.lse),   at(w.launch)};
       },
       [](World &w) {
         return Ranges{range(static_cast<float *>(w.output->data), kRows * World::kValueChannels), range(w.lse, kRows)};
       },
       segment_bases,
       true},
      {"think_merge",
       {plan,
        input("outputs", tensor_type, false, 2),
        array("lses", 8),
        {"count", Kind::number},
        input("output", tensor_type),
        array("lse", 4, true),
        launch},
       invoke<think_merge>,
       [](World &w) { return Values{at(w.plan), at(w.partials), at(w.partial_lses), of(2), at(w.output), at(w.lse), at(w.launch)}; },
       [](World &w) {
         return Ranges{range(static_cast<float *>(w.output->data), kRows * World::kValueChannels), range(w.lse, kRows)};
       }},
      {"think_prune",
       {plan,
        {"score_state", Kind::array, false, nullptr, 64},
        input("source", segment_type),
        input("destination", segment_type),
        batch,
        input("options", prune_options_type, true),
        array("mask", 1, true),
        launch},
       invoke<think_prune>,
       [](World &w) {
         return Values{at(w.plan),  at(w.state),         at(w.source), at(w.destination),
                       at(w.batch), at(w.prune_options), at(w.mask),   at(w.launch)};
       },
       [](World &w) {
         Ranges ranges = pages(w);
         for (const think_basis *basis : {w.key_basis, w.value_basis}) {
           for (const Range &part : basis_arrays(*basis, true, true)) ranges.push_back(part);
         }
         ranges.push_back(range(w.mask, kHeads * World::kKeyChannels));
         ranges.push_back(range(w.key_head_offset, kHeads));
         ranges.push_back(range(w.value_head_offset, kHeads));
         return ranges;
       },
       bases_of("destination->", 3)},
  };
}

// Those that leave the cache as it is, but for think_cache_segments(), which fills an array, and think_cache_save(), which takes a function.
std::vector<Function> make_cache_functions() {
  const Parameter cache = {"cache", Kind::handle}, layer = {"layer", Kind::number};
  const auto option = [](auto member) {
    return [=](const std::vector<Value> &values) -> void * {
      return const_cast<void *>(static_cast<const void *>(as<think_cache_options>(values[1]).*member));
    };
  };
  return {
      {"think_cache_create",
       {plan, input("options", cache_options_type, true), array("cache", 8)},
       invoke<think_cache_create>,
       [](World &w) {
         return Values{at(w.plan), at(w.cache_options), at(w.new_cache)};
       },
       [](World &w) { return Ranges{range(w.new_cache, 1)}; },
       {{"options->prune", 1, &prune_options_type, option(&think_cache_options::prune)},
        {"options->format", 1, &format_type, option(&think_cache_options::format)}}},
      {"think_cache_workspace_size",
       {cache, array("bytes", 8), array("alignment", 8, true)},
       invoke<think_cache_workspace_size>,
       [](World &w) {
         return Values{at(w.cache), at(w.number), at(w.second_number)};
       },
       [](World &w) {
         return Ranges{range(w.number, 1), range(w.second_number, 1)};
       }},
      {"think_cache_usage",
       {cache, {"sequence", Kind::number}, answer("info", cache_info_type)},
       invoke<think_cache_usage>,
       [](World &w) {
         return Values{at(w.cache), of(-1), at(w.cache_info)};
       },
       [](World &w) { return Ranges{filled_part(w.cache_info)}; }},
      {"think_cache_save_size",
       {cache, {"sequence", Kind::number}, array("bytes", 8)},
       invoke<think_cache_save_size>,
       [](World &w) {
         return Values{at(w.cache), of(1), at(w.number)};
       },
       [](World &w) { return Ranges{range(w.number, 1)}; }},
      {"think_cache_export_dense",
       {cache,
        {"sequence", Kind::number},
        layer,
        {"first", Kind::number},
        {"count", Kind::number},
        input("key", tensor_type, true),
        input("value", tensor_type, true),
        launch},
       invoke<think_cache_export_dense>,
       [](World &w) {
         return Values{at(w.cache), of(1), of(0), of(1), of(2), at(w.exported_key), at(w.exported_value), at(w.launch)};
       },
       [](World &w) {
         return Ranges{range(static_cast<uint16_t *>(w.exported_key->data), size_t{World::kKvHeads} * World::kQueries * World::kKeyChannels),
                       range(static_cast<float *>(w.exported_value->data), size_t{World::kKvHeads} * World::kQueries * World::kValueChannels)};
       }},
      {"think_cache_attend",
       {cache, layer, input("query", tensor_type), array("sink_logit", 4, true), input("output", tensor_type), array("lse", 4, true), launch},
       invoke<think_cache_attend>,
       [](World &w) {
         return Values{at(w.cache), of(0), at(w.new_query), at(w.sink_logit), at(w.output), at(w.lse), at(w.launch)};
       },
       [](World &w) {
         return Ranges{range(static_cast<float *>(w.output->data), kRows * World::kValueChannels), range(w.lse, kRows)};
       },
       {},
       true},
  };
}

}  // namespace

void PrintTo(const Function &function, std::ostream *out) { *out << function.name; }

int32_t Function::position(const char *parameter) const {
  for (size_t index = 0; index < parameters.size(); ++index) {
    if (std::strcmp(parameters[index].name, parameter) == 0) return static_cast<int32_t>(index);
  }
  std::fprintf(stderr, "%s has no parameter %s\n", name, parameter);
  std::abort();
}

const std::vector<Function> &functions() {
  static const std::vector<Function> all = [] {
    std::vector<Function> list = make_set_up_functions();
    for (Function &function : make_run_functions()) list.push_back(std::move(function));
    for (Function &function : make_cache_functions()) list.push_back(std::move(function));
    return list;
  }();
  return all;
}

const Function &function(const std::string &name) {
  for (const Function &candidate : functions()) {
    if (name == candidate.name) return candidate;
  }
  std::fprintf(stderr, "no function %s in the table\n", name.c_str());
  std::abort();
}

std::vector<Place> places(const Function &function) {
  std::vector<Place> list;
  for (size_t index = 0; index < function.parameters.size(); ++index) {
    const Parameter &parameter = function.parameters[index];
    if (parameter.kind != Kind::structure && parameter.kind != Kind::answer) continue;
    for (int32_t element = 0; element < parameter.elements; ++element) {
      const std::string name =
          parameter.elements > 1 ? std::string(parameter.name) + "[" + std::to_string(element) + "]." : std::string(parameter.name) + "->";
      const size_t offset = static_cast<size_t>(element) * parameter.type->size;
      list.push_back({name, static_cast<int32_t>(index), parameter.type, parameter.kind == Kind::answer,
                      parameter.elements > 1 && element == 0,
                      [index, offset](const std::vector<Value> &values) -> void * { return &as<char>(values[index]) + offset; }});
    }
  }
  for (const Nested &nested : function.nested)
    list.push_back({nested.path + "->", nested.parameter, nested.type, false, false, nested.locate});
  return list;
}

think_status run(World &world, const Function &function, const std::vector<Value> &values, think_error *error) {
  const think_status status = function.invoke(values, error);
  if (status == THINK_OK && function.invoke == &invoke<think_context_create>) {
    think_context_destroy(*world.new_context);
    *world.new_context = nullptr;
  }
  if (status == THINK_OK && function.invoke == &invoke<think_plan_create>) {
    think_plan_destroy(*world.new_plan);
    *world.new_plan = nullptr;
  }
  if (status == THINK_OK && function.invoke == &invoke<think_cache_create>) {
    think_cache_destroy(*world.new_cache);
    *world.new_cache = nullptr;
  }
  return status;
}

std::string refused(World &world, const Function &function, const Spoil &spoil, think_status code, int32_t position,
                    const std::vector<std::string> &texts) {
  world.restore(function);
  std::vector<Value> values = function.values(world);
  spoil(values);
  const std::vector<char> before = world.memory();
  think_error error = THINK_ERROR_INIT;
  const think_status status = run(world, function, values, &error);
  std::string problem;
  const auto say = [&](const std::string &text) { problem += "\n  " + text; };
  if (status != code) say(std::string("expected ") + think_status_name(code) + ", got " + think_status_name(status));
  if (status != THINK_OK && error.code != status) say("error.code is " + std::to_string(error.code));
  if (code != THINK_OK && error.argument != position)
    say("expected argument " + std::to_string(position) + ", got " + std::to_string(error.argument));
  for (const std::string &text : texts) {
    if (std::string(error.message).find(text) == std::string::npos) say("the message does not contain '" + text + "'");
  }
  if (code != THINK_OK && std::strlen(error.message) < 10) say("the message is hardly one");
  const std::vector<char> after = world.memory();
  if (status != THINK_OK && before != after) {
    size_t at = 0;
    while (before[at] == after[at]) ++at;
    say("memory changed, first at offset " + std::to_string(at));
  }
  if (!problem.empty()) problem = std::string(function.name) + problem + "\n  message: " + error.message;
  // without a record, and with one that is too small to be one, the same happens, and that record stays as it is
  if (problem.empty() && status != THINK_OK) {
    if (run(world, function, values, nullptr) != status) problem = std::string(function.name) + ": another status without an error record";
    think_error small;
    std::memset(&small, 0x5A, sizeof small);
    small.struct_size = 8;
    think_error untouched;
    std::memcpy(&untouched, &small, sizeof small);
    if (run(world, function, values, &small) != status) problem = std::string(function.name) + ": another status with a small error record";
    if (std::memcmp(&small, &untouched, sizeof small) != 0)
      problem = std::string(function.name) + ": wrote into an error record of 8 bytes";
    if (world.memory() != before) problem = std::string(function.name) + ": memory changed without an error record";
  }
  return problem;
}

}  // namespace think_test
