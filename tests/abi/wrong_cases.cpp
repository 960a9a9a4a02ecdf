#include "tests/abi/wrong_cases.h"

#include <cstdio>

namespace think_test {

std::vector<Case> tensor_cases(const TensorUse &use) {
  std::vector<Case> cases;
  const auto spoil = [&](const char *what, std::function<void(think_tensor &)> change, Texts texts) {
    texts[0] = use.fields + texts[0];
    cases.push_back(
        {use.function, use.parameter, use.fields + what, [=](World &w, Values &) { change((w.*use.tensor)[use.element]); }, texts});
  };
  const std::string heads = std::to_string(use.heads), channels = std::to_string(use.channels);
  spoil("data NULL", [](think_tensor &t) { t.data = nullptr; }, {"data", "NULL"});
  spoil("data misaligned", [](think_tensor &t) { t.data = static_cast<char *>(t.data) + 1; }, {"data", "multiple of"});
  for (think_dtype dtype : {0, -1, 0x00010802, 0x00022002, 0x00014002}) {
    spoil("dtype unknown", [=](think_tensor &t) { t.dtype = dtype; }, {"dtype", "f32", "unknown"});
  }
  if (!use.any_dtype) spoil("dtype of another call", [](think_tensor &t) { t.dtype = THINK_BF16; }, {"dtype", "f32", "bf16"});
  for (int axis = 0; axis < 4; ++axis) {
    const std::string extent = "extent[" + std::to_string(axis) + "]";
    for (int64_t value : {int64_t{-1}, INT64_MIN}) {
      spoil("negative extent", [=](think_tensor &t) { t.extent[axis] = value; }, {extent, std::to_string(value)});
    }
    // far beyond any memory: the offsets alone do not fit
    if (axis == 0 || axis == 2) {
      spoil("absurd extent", [=](think_tensor &t) { t.extent[axis] = INT64_MAX; }, {"", "9223372036854775807"});
      spoil("absurd stride", [=](think_tensor &t) { t.stride[axis] = INT64_MAX; },
            {"stride[" + std::to_string(axis) + "]", "9223372036854775807"});
      spoil("lowest stride", [=](think_tensor &t) { t.stride[axis] = INT64_MIN; },
            {"stride[" + std::to_string(axis) + "]", "-9223372036854775808"});
    }
  }
  for (int64_t value : {int64_t{0}, int64_t{use.heads} - 1, int64_t{use.heads} + 1, int64_t{kMost}}) {
    spoil("heads", [=](think_tensor &t) { t.extent[1] = value; }, {"extent[1]", heads, std::to_string(value)});
  }
  for (int64_t value : {int64_t{0}, int64_t{use.channels} - 8, int64_t{use.channels} + 8}) {
    spoil("channels", [=](think_tensor &t) { t.extent[3] = value; }, {"extent[3]", channels, std::to_string(value)});
  }
  for (int64_t value : {0, 2, -1})
    spoil("channel stride", [=](think_tensor &t) { t.stride[3] = value; }, {"stride[3]", "1", std::to_string(value)});
  return cases;
}

std::vector<Case> batch_cases(const BatchUse &use) {
  std::vector<Case> cases;
  const auto spoil = [&](const char *what, std::function<void(World &)> change, Texts texts) {
    texts[0] = "batch->" + texts[0];
    cases.push_back({use.function, "batch", what, [=](World &w, Values &) { change(w); }, texts});
  };
  for (int32_t count : {0, -1, World::kBatch + 1, kMost, kLeast}) {
    spoil("count", [=](World &w) { w.batch->count = count; }, {"count", "2", std::to_string(count)});
  }
  static int32_t numbers[8];
  const auto skewed = [] { return reinterpret_cast<const int32_t *>(reinterpret_cast<const char *>(numbers) + 2); };
  spoil("lengths misaligned", [=](World &w) { w.batch->lengths = skewed(); }, {"lengths", "multiple of 4"});
  spoil("row_start misaligned", [=](World &w) { w.batch->row_start = skewed(); }, {"row_start", "multiple of 4"});
  spoil("slot misaligned", [=](World &w) { w.batch->slot = skewed(); }, {"slot", "multiple of 4"});
  spoil("both kinds of rows", [=](World &w) { w.batch->lengths = w.batch->row_start = numbers; }, {"row_start", "lengths"});
  const auto with_lengths = [](int32_t first, int32_t second) {
    return [=](World &w) {
      static int32_t lengths[2];
      lengths[0] = first;
      lengths[1] = second;
      w.batch->lengths = lengths;
    };
  };
  const auto with_rows = [](int32_t start, int32_t middle, int32_t end) {
    return [=](World &w) {
      static int32_t rows[3];
      rows[0] = start;
      rows[1] = middle;
      rows[2] = end;
      w.batch->row_start = rows;
    };
  };
  if (use.rows) {
    const int32_t tokens = static_cast<int32_t>(use.tokens);
    spoil("length negative", with_lengths(1, -1), {"lengths[1]", "-1"});
    spoil("length too large", with_lengths(tokens + 1, 1), {"lengths[0]", std::to_string(tokens), std::to_string(tokens + 1)});
    spoil("length far too large", with_lengths(1, kMost), {"lengths[1]", std::to_string(tokens), "2147483647"});
    spoil("rows do not begin at 0", with_rows(1, 1, 1), {"row_start[0]", "0", "1"});
    spoil("rows descend", with_rows(0, 2, 1), {"row_start[2]", "2", "1"});
    spoil("rows negative", with_rows(0, -1, 1), {"row_start[1]", "-1"});
    spoil("rows behind the tensor", with_rows(0, 1, tokens + 1), {"row_start[2]", std::to_string(tokens), std::to_string(tokens + 1)});
  }
  if (use.slots) {
    spoil("slot negative", [](World &w) { w.slots[1] = -1; }, {"slot[1]", "-1"});
    spoil("slot far negative", [](World &w) { w.slots[0] = kLeast; }, {"slot[0]", "-2147483648"});
  }
  if (use.known_slots > 0) {
    const int32_t slot = static_cast<int32_t>(use.known_slots);
    spoil("slot too large", [=](World &w) { w.slots[0] = slot; }, {"slot[0]", std::to_string(slot - 1), std::to_string(slot)});
  }
  if (use.written) {
    spoil("one slot twice",
          [](World &w) {
            w.slots[0] = w.slots[1] = 1;
            w.launch->flags = THINK_LAUNCH_CHECK;
          },
          {"slot[1]", "1"});
  }
  return cases;
}

std::vector<Case> segment_cases(const SegmentUse &use) {
  std::vector<Case> cases;
  const auto spoil = [&](const char *what, std::function<void(think_segment &)> change, Texts texts, think_status code = THINK_E_ARGUMENT) {
    texts[0] = use.fields + texts[0];
    cases.push_back(
        {use.function, use.parameter, use.fields + what, [=](World &w, Values &) { change((w.*use.segment)[use.element]); }, texts, code});
  };
  const auto checked = [&](const char *what, std::function<void(think_segment &)> change, Texts texts) {
    texts[0] = use.fields + texts[0];
    cases.push_back({use.function, use.parameter, use.fields + what,
                     [=](World &w, Values &) {
                       change((w.*use.segment)[use.element]);
                       w.launch->flags = THINK_LAUNCH_CHECK;
                     },
                     texts});
  };
  static int32_t numbers[64];
  const auto skewed = [] { return reinterpret_cast<int32_t *>(reinterpret_cast<char *>(numbers) + 2); };
  for (int32_t layout : {2, -1, kMost}) {
    spoil("key_layout", [=](think_segment &s) { s.key_layout = layout; }, {"key_layout", std::to_string(layout)});
    spoil("value_layout", [=](think_segment &s) { s.value_layout = layout; }, {"value_layout", std::to_string(layout)});
  }
  spoil(
      "values in tiles", [](think_segment &s) { s.value_layout = THINK_TILES; }, {"value_layout", "1"}, THINK_E_UNSUPPORTED);
  for (think_dtype dtype : {0, -1, 0x00010800}) {
    char text[16];
    std::snprintf(text, sizeof text, "0x%x", static_cast<unsigned>(dtype));
    spoil("key_dtype", [=](think_segment &s) { s.key_dtype = dtype; }, {"key_dtype", "f16", text});
    spoil("value_dtype", [=](think_segment &s) { s.value_dtype = dtype; }, {"value_dtype", "f16", text});
  }
  spoil("key misaligned", [](think_segment &s) { s.key = static_cast<char *>(s.key) + 1; }, {"key", "multiple of"});
  spoil("value misaligned", [](think_segment &s) { s.value = static_cast<char *>(s.value) + 1; }, {"value", "multiple of"});
  spoil("key_stride[0]", [](think_segment &s) { s.key_stride[0] += 1; }, {"key_stride[0]", "multiple of"});
  spoil("value_stride[0]", [](think_segment &s) { s.value_stride[0] += 1; }, {"value_stride[0]", "multiple of"});
  spoil("value_stride[2]", [](think_segment &s) { s.value_stride[2] = 3; }, {"value_stride[2]", "multiple of", "3"});
  if (!use.tiles) {
    spoil("key_stride[1]", [](think_segment &s) { s.key_stride[1] += 1; }, {"key_stride[1]", "multiple of"});
    spoil("key_stride[2]", [](think_segment &s) { s.key_stride[2] = 5; }, {"key_stride[2]", "multiple of", "5"});
  } else {
    spoil("key off the tile", [](think_segment &s) { s.key = static_cast<char *>(s.key) + 8; }, {"key", "multiple of 16"});
    spoil("key_head_offset misaligned",
          [](think_segment &s) { s.key_head_offset = reinterpret_cast<int64_t *>(reinterpret_cast<char *>(s.key_head_offset) + 4); },
          {"key_head_offset", "multiple of 8"});
  }
  spoil("page_tokens", [](think_segment &s) { s.page_tokens = -32; }, {"page_tokens", "-32"});
  for (int32_t rows : {0, 31, 33, -32}) {
    spoil("page_tokens with pages",
          [=](think_segment &s) {
            s.pages = numbers;
            s.pages_stride = 4;
            s.page_tokens = rows;
          },
          {"page_tokens", std::to_string(rows)});
  }
  for (int64_t stride : {int64_t{0}, int64_t{-1}, INT64_MAX}) {
    spoil("pages_stride",
          [=](think_segment &s) {
            s.pages = numbers;
            s.page_tokens = 32;
            s.pages_stride = stride;
          },
          {"pages_stride", std::to_string(stride)});
  }
  spoil("pages misaligned",
        [=](think_segment &s) {
          s.pages = skewed();
          s.pages_stride = 4;
          s.page_tokens = 32;
        },
        {"pages", "multiple of 4"});
  spoil("first misaligned", [=](think_segment &s) { s.first = skewed(); }, {"first", "multiple of 4"});
  spoil("slot misaligned", [=](think_segment &s) { s.slot = skewed(); }, {"slot", "multiple of 4"});
  spoil("slot negative",
        [](think_segment &s) {
          static const int32_t negative[2] = {0, -3};
          s.slot = negative;
        },
        {"slot[1]", "-3"});
  for (int64_t stride : {int64_t{-1}, INT64_MAX}) {
    spoil("lengths_stride", [=](think_segment &s) { s.lengths_stride[0] = stride; }, {"lengths_stride[0]", std::to_string(stride)});
    spoil("lengths_stride", [=](think_segment &s) { s.lengths_stride[1] = stride; }, {"lengths_stride[1]", std::to_string(stride)});
  }
  if (use.lengths) {
    const auto with_lengths = [](int32_t first, int32_t second) {
      return [=](think_segment &s) {
        static int32_t lengths[2];
        lengths[0] = first;
        lengths[1] = second;
        s.lengths = lengths;
      };
    };
    spoil("lengths NULL", [](think_segment &s) { s.lengths = nullptr; }, {"lengths", "NULL"});
    spoil("lengths misaligned", [=](think_segment &s) { s.lengths = skewed(); }, {"lengths", "multiple of 4"});
    spoil("length negative", with_lengths(32, -1), {"lengths[1]", "-1"});
    spoil("length beyond max_tokens", with_lengths(World::kMaxTokens + 1, 32), {"lengths[0]", "256", "257"});
    spoil("length beyond the slot", with_lengths(32, World::kRoom + 1), {"lengths[1]", "129"});
    const auto with_first = [](int32_t first) {
      return [=](think_segment &s) {
        static int32_t numbers_of[2];
        numbers_of[0] = numbers_of[1] = first;
        s.first = numbers_of;
      };
    };
    spoil("first negative", with_first(-32), {"first[0]", "-32"});
    spoil("first + length overflow", with_first(kMost - 31), {"", "2147483616"});
    if (use.tiles) spoil("first inside a tile", with_first(8), {"first[0]", "32", "8"});
    checked("page negative",
            [](think_segment &s) {
              static const int32_t pages[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
              s.pages = pages;
              s.pages_stride = 4;
              s.page_tokens = 32;
            },
            {"pages[", "-1"});
  }
  if (use.required) {
    spoil("key NULL", [](think_segment &s) { s.key = nullptr; }, {"key", "NULL"});
    spoil("value NULL", [](think_segment &s) { s.value = nullptr; }, {"value", "NULL"});
  }
  if (use.dense) {
    spoil("keys in tiles", [](think_segment &s) { s.key_layout = THINK_TILES; }, {"key_layout", "1"});
    cases.push_back({use.function,
                     use.parameter,
                     use.fields + "key_basis",
                     [=](World &w, Values &) { (w.*use.segment)[use.element].key_basis = w.key_basis; },
                     {use.fields + "key_basis", "NULL"}});
    cases.push_back({use.function,
                     use.parameter,
                     use.fields + "value_basis",
                     [=](World &w, Values &) { (w.*use.segment)[use.element].value_basis = w.value_basis; },
                     {use.fields + "value_basis", "NULL"}});
  }
  return cases;
}

std::vector<Case> basis_cases(const char *function, const char *parameter, const std::string &fields, think_basis *World::*basis,
                              int32_t channels, bool contents, bool weights) {
  std::vector<Case> cases;
  const auto spoil = [&](const char *what, std::function<void(think_basis &)> change, Texts texts, bool check = false) {
    texts[0] = fields + texts[0];
    cases.push_back({function, parameter, fields + what,
                     [=](World &w, Values &) {
                       change(*(w.*basis));
                       if (check) w.launch->flags = THINK_LAUNCH_CHECK;
                     },
                     texts});
  };
  const auto misaligned = [](auto *pointer) { return reinterpret_cast<decltype(pointer)>(reinterpret_cast<char *>(pointer) + 2); };
  for (int32_t value : {0, -1, channels - 8, channels + 8, kMost}) {
    spoil("channels", [=](think_basis &b) { b.channels = value; }, {"channels", std::to_string(channels), std::to_string(value)});
  }
  for (int32_t value : {0, -1, kLeast}) spoil("slots", [=](think_basis &b) { b.slots = value; }, {"slots", std::to_string(value)});
  spoil("kept NULL", [](think_basis &b) { b.kept = nullptr; }, {"kept", "NULL"});
  spoil("kept misaligned", [=](think_basis &b) { b.kept = misaligned(b.kept); }, {"kept", "multiple of 4"});
  spoil("index NULL", [](think_basis &b) { b.index = nullptr; }, {"index", "NULL"});
  spoil("index misaligned", [=](think_basis &b) { b.index = misaligned(b.index); }, {"index", "multiple of 4"});
  if (contents) {
    for (int32_t value : {0, -1, channels + 1, kMost}) {
      spoil(
          "kept out of range", [=](think_basis &b) { b.kept[1] = value; }, {"kept[1]", std::to_string(channels), std::to_string(value)},
          true);
    }
    for (int32_t value : {-1, channels, kMost}) {
      spoil(
          "index out of range", [=](think_basis &b) { b.index[2] = value; }, {"index[2]", std::to_string(value)}, true);
    }
    spoil(
        "index twice", [](think_basis &b) { b.index[3] = b.index[2]; }, {"index[3]", "ascending"}, true);
    spoil(
        "index not ascending", [](think_basis &b) { std::swap(b.index[0], b.index[1]); }, {"index[1]", "ascending"}, true);
  }
  if (weights) {
    spoil("weight NULL", [](think_basis &b) { b.weight = nullptr; }, {"weight", "NULL"});
    spoil("weight misaligned", [](think_basis &b) { b.weight = static_cast<char *>(b.weight) + 8; }, {"weight", "multiple of 16"});
    spoil("weight_offset NULL", [](think_basis &b) { b.weight_offset = nullptr; }, {"weight_offset", "NULL"});
    spoil("weight_offset misaligned", [=](think_basis &b) { b.weight_offset = misaligned(b.weight_offset); },
          {"weight_offset", "multiple of 8"});
    spoil("offset NULL", [](think_basis &b) { b.offset = nullptr; }, {"offset", "NULL"});
    spoil("offset misaligned", [=](think_basis &b) { b.offset = misaligned(b.offset); }, {"offset", "multiple of 4"});
    spoil("weight_bytes", [](think_basis &b) { b.weight_bytes = -1; }, {"weight_bytes", "-1"});
  }
  return cases;
}

}  // namespace think_test
