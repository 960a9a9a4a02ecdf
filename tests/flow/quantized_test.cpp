// Quantized segments through the public ABI: attention over them is dense attention over the numbers that they stand for, and those come back from think_compact().
#include <pthread.h>

#include "compare.h"

namespace flow {
namespace {

constexpr int32_t kSequences = 2;

struct Widths {
  std::vector<int32_t> key, value;  // per head, the same for every slot
};

int32_t total(const std::vector<int32_t> &widths) {
  int32_t sum = 0;
  for (const int32_t width : widths) sum += width;
  return sum;
}

// A choice of channels without predictions; every slot has another one.
void choose(const think_basis &basis, const std::vector<int32_t> &widths, uint32_t seed) {
  std::mt19937 random(seed);
  for (int32_t slot = 0; slot < basis.slots; ++slot) {
    for (size_t head = 0; head < widths.size(); ++head) {
      const size_t row = slot * widths.size() + head;
      int32_t *index = basis.index + row * basis.channels;
      for (int32_t c = 0; c < basis.channels; ++c) index[c] = c;
      std::shuffle(index, index + basis.channels, random);
      std::sort(index, index + widths[head]);
      std::sort(index + widths[head], index + basis.channels);
      basis.kept[row] = widths[head];
      basis.weight_offset[row] = -1;
    }
  }
}

void run(const think_problem &problem, const char *isa, const Widths &widths, think_dtype key, think_dtype value, int32_t page_tokens) {
  const Plan plan(problem, isa);
  const int32_t lengths[kSequences] = {300, 64};
  const Placement placement{kSequences, kSequences, 320, page_tokens};
  const auto is_code = [](think_dtype dtype) { return dtype == THINK_U8 || dtype == THINK_U4 || dtype == THINK_U2; };
  think_format format = THINK_FORMAT_INIT, plain = THINK_FORMAT_INIT;
  format.key_dtype = key;
  format.value_dtype = value;
  format.value_layout = is_code(value) ? THINK_TILES : THINK_ROWS;
  plain.key_dtype = plain.value_dtype = THINK_F32;
  plain.key_layout = THINK_ROWS;

  DenseCache source(problem, {kSequences, kSequences, 320, 0}, 1);
  std::vector<Sequence> sequences;
  for (int32_t s = 0; s < kSequences; ++s) {
    sequences.push_back(make_sequence(problem, lengths[s], 11 + s));
    for (int32_t h = 0; h < problem.kv_heads; ++h) {
      for (int64_t t = 0; t < lengths[s]; ++t) {
        for (int32_t c = 0; c < problem.key_channels; ++c) {
          const size_t at = static_cast<size_t>((h * int64_t{lengths[s]} + t) * problem.key_channels + c);
          store(source.key_row(s, s, h, t), problem.cache_dtype, c, sequences[s].key[at]);
          store(source.value_row(s, s, h, t), problem.cache_dtype, c, sequences[s].value[at]);
        }
      }
    }
  }
  CompactCache codes(plan, problem, placement, total(widths.key), total(widths.value), true, true, 3, &format);
  CompactCache numbers(plan, problem, {kSequences, kSequences, 320, 0}, total(widths.key), total(widths.value), true, true, 4, &plain);
  think_batch batch = THINK_BATCH_INIT;
  batch.count = kSequences;
  think_launch launch = {sizeof(think_launch), THINK_LAUNCH_CHECK, nullptr, 0, nullptr, 0, 0};
  for (CompactCache *cache : {&codes, &numbers}) {
    choose(cache->key_basis, widths.key, 5);
    choose(cache->value_basis, widths.value, 6);
    cache->segment.lengths = lengths;
    THINK_CALL(think_segment_place, plan, &cache->segment, &batch, &launch);
  }
  think_segment dense = source.segment();
  dense.lengths = lengths;
  THINK_CALL(think_compact, plan, &dense, &codes.segment, &batch, &launch);
  THINK_CALL(think_compact, plan, &codes.segment, &numbers.segment, &batch, &launch);

  constexpr int32_t kQueries = 3;
  Tensor query(THINK_F32, kSequences, problem.query_heads, kQueries, problem.key_channels), output(THINK_F32, kSequences, problem.query_heads, kQueries, problem.value_channels);
  std::vector<float> lse(static_cast<size_t>(kSequences * problem.query_heads * kQueries));
  Output expected, actual;
  for (int32_t s = 0; s < kSequences; ++s) {
    for (int32_t h = 0; h < problem.query_heads; ++h) {
      const int32_t kv_head = h / (problem.query_heads / problem.kv_heads);
      const size_t place = static_cast<size_t>(s * problem.kv_heads + kv_head);
      dense::Rows rows{problem.key_channels, problem.value_channels, std::vector<double>(static_cast<size_t>(lengths[s]) * problem.key_channels), std::vector<double>(static_cast<size_t>(lengths[s]) * problem.value_channels)};
      const auto spread = [&](const CompactCache &cache, bool keys, std::vector<double> &out) {
        const think_basis &basis = keys ? cache.key_basis : cache.value_basis;
        const int32_t kept = basis.kept[place], channels = basis.channels;
        const char *base = static_cast<const char *>(keys ? cache.segment.key : cache.segment.value) + s * (keys ? cache.segment.key_stride : cache.segment.value_stride)[0] +
                           (keys ? cache.key_head_offset : cache.value_head_offset)[place];
        for (int64_t t = 0; t < lengths[s]; ++t) {
          for (int32_t i = 0; i < kept; ++i) {
            out[static_cast<size_t>(t * channels + basis.index[place * channels + i])] = reinterpret_cast<const float *>(base)[t * kept + i];
          }
        }
      };
      spread(numbers, true, rows.key);
      spread(numbers, false, rows.value);
      // The codes are a fair picture of what went in.
      const auto compare = [&](const std::vector<double> &stored, const std::vector<double> &full, const think_basis &basis, think_dtype dtype) {
        double distance = 0, size = 0;
        for (int64_t t = 0; t < lengths[s]; ++t) {
          for (int32_t i = 0; i < basis.kept[place]; ++i) {
            const int32_t c = basis.index[place * basis.channels + i];
            const double x = full[static_cast<size_t>((kv_head * int64_t{lengths[s]} + t) * basis.channels + c)];
            distance += std::pow(x - stored[static_cast<size_t>(t * basis.channels + c)], 2);
            size += x * x;
          }
        }
        EXPECT_LT(std::sqrt(distance / size), dtype == THINK_U2 ? 0.5 : dtype == THINK_U4 ? 0.12 : 0.008);
      };
      compare(rows.key, sequences[s].key, numbers.key_basis, key);
      compare(rows.value, sequences[s].value, numbers.value_basis, value);
      for (int32_t i = 0; i < kQueries; ++i) {
        const double *row = sequences[s].query.data() + (h * int64_t{lengths[s]} + i) * problem.key_channels;
        for (int32_t c = 0; c < problem.key_channels; ++c) query.set(s, h, i, c, row[c]);
        const dense::Attention attention = dense::attend(row, rows, lengths[s], {problem.scale, 0, nullptr});
        expected.rows.push_back(attention.output);
        expected.lse.push_back(attention.lse);
      }
    }
  }
  const Launch attend(plan, THINK_STAGE_ATTEND, extent_of(kSequences, kQueries, 300, 1), THINK_LAUNCH_CHECK);
  THINK_CALL(think_attend, plan, query.view(), &batch, &codes.segment, 1, nullptr, output.view(), lse.data(), attend.get());
  for (int32_t s = 0; s < kSequences; ++s) {
    for (int32_t h = 0; h < problem.query_heads; ++h) {
      for (int32_t i = 0; i < kQueries; ++i) {
        std::vector<double> row;
        for (int32_t c = 0; c < problem.value_channels; ++c) row.push_back(output.get(s, h, i, c));
        actual.rows.push_back(row);
        actual.lse.push_back(lse[static_cast<size_t>((s * problem.query_heads + h) * kQueries + i)]);
      }
    }
  }
  expect_close(expected, actual, tolerance_for(problem), std::string(isa) + " " + think_dtype_name(key) + "/" + think_dtype_name(value));
}

TEST(Quantized, EqualsDenseAttentionOnWhatTheCodesStandFor) {
  const think_problem problem = make_problem(80, 3, THINK_F16, 2);
  for (const Isa &isa : available_isas()) {
    for (const think_dtype key : {THINK_U8, THINK_U4, THINK_F16}) {
      for (const think_dtype value : {THINK_U8, THINK_U4, THINK_F16}) {
        run(problem, isa.name, {{39, 52}, {40, 80}}, key, value, 0);
        run(problem, isa.name, {{77, 1}, {8, 72}}, key, value, 64);
      }
    }
    run(problem, isa.name, {{77, 1}, {8, 72}}, THINK_U2, THINK_U2, 64);
    run(problem, isa.name, {{4, 52}, {24, 80}}, THINK_U2, THINK_U2, 0);
  }
}

// The stack that context.h asks of every thread, for the stages that need most of it.
TEST(Quantized, AStackOf256KibIsEnough) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers make the frames of functions larger";
#endif
  pthread_attr_t attributes;
  ASSERT_EQ(0, pthread_attr_init(&attributes));
  ASSERT_EQ(0, pthread_attr_setstacksize(&attributes, 256 << 10));
  const auto work = [](void *) -> void * {
    const think_problem problem = make_problem(256, 1, THINK_F16, 2);
    for (const Isa &isa : available_isas()) run(problem, isa.name, {{77, 256}, {128, 256}}, THINK_U4, THINK_U8, 0);
    return nullptr;
  };
  pthread_t thread;
  ASSERT_EQ(0, pthread_create(&thread, &attributes, work, nullptr));
  EXPECT_EQ(0, pthread_join(thread, nullptr));
  pthread_attr_destroy(&attributes);
}

// Bytes of a page are enough for every way of sharing the channels, and exact where heads are alike.
TEST(Quantized, PageBytesHoldEveryWidth) {
  const think_problem problem = make_problem(136, 1, THINK_F16, 3);
  const Plan plan(problem);
  const auto up = [](int64_t bytes) { return (bytes + 15) / 16 * 16; };
  for (const int bits : {8, 4, 2}) {
    think_format format = THINK_FORMAT_INIT;
    format.key_dtype = format.value_dtype = bits == 8 ? THINK_U8 : bits == 4 ? THINK_U4 : THINK_U2;
    format.value_layout = THINK_TILES;
    const auto key_bytes = [&](int64_t kept) { return up(up((bits == 2 ? kept + kept % 2 : kept) * 4 * bits) + 4 * kept); };
    const auto value_bytes = [&](int64_t kept) { return kept * 4 * bits + 128 * std::max<int64_t>(1, kept / 32); };
    std::mt19937 random(2);
    std::vector<int64_t> most_key(3 * 136 + 1), most_value(3 * 136 + 1);
    for (int64_t a = 1; a <= 136; ++a) {
      for (int64_t b = 1; b <= 136; ++b) {
        for (int64_t c = 1; c <= 136; ++c) {
          int64_t &key = most_key[static_cast<size_t>(a + b + c)], &value = most_value[static_cast<size_t>(a + b + c)];
          key = std::max(key, key_bytes(a) + key_bytes(b) + key_bytes(c));
          if (a % 8 == 0 && b % 8 == 0 && c % 8 == 0) value = std::max(value, value_bytes(a) + value_bytes(b) + value_bytes(c));
        }
      }
    }
    for (int64_t width = 24; width <= 3 * 136; width += 8) {
      think_layout_info info = THINK_LAYOUT_INFO_INIT;
      THINK_CALL(think_layout, plan, &format, 96, width, width, &info);
      EXPECT_GE(info.key_page_bytes, 3 * most_key[static_cast<size_t>(width)]) << width;
      EXPECT_LE(info.key_page_bytes, 3 * most_key[static_cast<size_t>(width)]) << width;
      EXPECT_GE(info.value_page_bytes, 3 * most_value[static_cast<size_t>(width)]) << width;
      EXPECT_LE(info.value_page_bytes, 3 * (most_value[static_cast<size_t>(width)] + 128)) << width;
    }
  }
}

// What is refused, and why.
TEST(Quantized, SaysWhatCannotBe) {
  const think_problem problem = make_problem(64, 1, THINK_F16);
  const Plan plan(problem);
  const auto expect = [&](think_status status, const char *text, int32_t key_layout, think_dtype key, int32_t value_layout, think_dtype value) {
    think_format format = THINK_FORMAT_INIT;
    format.key_layout = key_layout, format.key_dtype = key, format.value_layout = value_layout, format.value_dtype = value;
    think_layout_info info = THINK_LAYOUT_INFO_INIT;
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(status, think_layout(plan, &format, 32, 64, 64, &info, &error));
    EXPECT_NE(nullptr, std::strstr(error.message, text)) << error.message;
    EXPECT_EQ(0, info.key_page_bytes);
  };
  expect(THINK_E_ARGUMENT, "format->key_layout: expected 1 (tiles) of quantized keys (u8), got 0", THINK_ROWS, THINK_U8, THINK_ROWS, 0);
  expect(THINK_E_ARGUMENT, "format->value_layout: expected 1 (tiles) of quantized values (u4), got 0", THINK_TILES, 0, THINK_ROWS, THINK_U4);
  expect(THINK_E_UNSUPPORTED, "format->value_layout: expected 0 (rows): values in tiles must be quantized", THINK_TILES, 0, THINK_TILES, 0);
  expect(THINK_E_UNSUPPORTED, "format->value_dtype: this version stores u8, u4 and u2", THINK_TILES, 0, THINK_TILES, 0x0001080A);
  expect(THINK_E_ARGUMENT, "format->key_dtype: expected f32, f16, bf16, u8, u4 or u2", THINK_TILES, 0x00010301, THINK_ROWS, 0);
  // Codes are no tensors, and no source of statistics.
  think_problem other = problem;
  other.cache_dtype = THINK_U8;
  think_plan *none = nullptr;
  think_context *context = nullptr;
  THINK_CALL(think_context_create, nullptr, &context);
  EXPECT_EQ(THINK_E_ARGUMENT, think_plan_create(context, &other, &none, nullptr));
  EXPECT_EQ(nullptr, none);
  think_context_destroy(context);
}

}  // namespace
}  // namespace flow
