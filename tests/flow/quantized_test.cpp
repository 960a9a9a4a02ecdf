// Quantized segments through the public ABI: attention over them is dense attention over the numbers that they stand for, and those come back from think_compact().
#include <pthread.h>

#include <fstream>
#include <sstream>

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
  const auto is_code = [](think_dtype dtype) { return think_dtype_bytes(dtype) == 0; };
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
  std::vector<float> key_scale(static_cast<size_t>(kSequences * problem.kv_heads), NAN), value_scale = key_scale;
  codes.segment.key_scale = key_scale.data();
  codes.segment.value_scale = value_scale.data();
  codes.segment.flags = THINK_SEGMENT_MEASURE;
  THINK_CALL(think_compact, plan, &dense, &codes.segment, &batch, &launch);
  codes.segment.flags = 0;
  for (const float scale : key_scale) EXPECT_EQ(key == THINK_F8_E4M3, scale < 1 && scale > 0x1p-10f) << scale;
  for (const float scale : value_scale) EXPECT_EQ(value == THINK_F8_E4M3, scale < 1 && scale > 0x1p-10f) << scale;
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
        EXPECT_LT(std::sqrt(distance / size), dtype == THINK_F8_E4M3 ? 0.04 : dtype == THINK_U2 ? 0.6 : dtype == THINK_U4 ? 0.12 : 0.008);
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
    run(problem, isa.name, {{77, 1}, {8, 72}}, THINK_F8_E4M3, THINK_F8_E4M3, 64);
    run(problem, isa.name, {{39, 52}, {40, 80}}, THINK_F8_E4M3, THINK_U4, 0);
  }
}

// The best `kept` of channels, the first ones where they are equal.
std::vector<int32_t> best(const std::vector<double> &score, int32_t kept) {
  std::vector<int32_t> order(score.size());
  for (size_t c = 0; c < order.size(); ++c) order[c] = static_cast<int32_t>(c);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)]; });
  order.resize(static_cast<size_t>(kept));
  std::sort(order.begin(), order.end());
  return order;
}

// Of each value channel: the squared norm over the last `window` queries of softmax(Q K^T / sqrt(D)) V[:, j], all query heads of a KV head.
std::vector<double> appendix_score(const Flow &flow, int32_t head) {
  const think_problem &problem = flow.problem();
  const Sequence &sequence = flow.sequences[0];
  const int64_t tokens = flow.options().tokens[0];
  const auto rows_of = [&](const std::vector<double> &all, int64_t of_head, int32_t channels) {
    const auto begin = all.begin() + of_head * sequence.tokens * channels;
    return std::vector<double>(begin, begin + tokens * channels);
  };
  const dense::Rows rows{problem.key_channels, problem.value_channels, rows_of(sequence.key, head, problem.key_channels),
                         rows_of(sequence.value, head, problem.value_channels)};
  std::vector<double> score(static_cast<size_t>(problem.value_channels));
  const int32_t group = problem.query_heads / problem.kv_heads;
  for (int32_t query_head = head * group; query_head < (head + 1) * group; ++query_head) {
    const std::vector<double> queries = rows_of(sequence.query, query_head, problem.key_channels);
    for (int64_t t = tokens - problem.window; t < tokens; ++t) {
      const dense::Attention attention = dense::attend(queries.data() + t * problem.key_channels, rows, t + 1, {problem.scale, 0, nullptr});
      for (size_t c = 0; c < score.size(); ++c) score[c] += attention.output[c] * attention.output[c];
    }
  }
  return score;
}

// Value channels by the paper's appendix (zeros for the others) and regressed, stored in every form: the choice depends on the method, not on the form, and
// attention is over what the codes stand for.
TEST(Quantized, ValueChannelsOfBothMethodsInEveryForm) {
  const think_problem problem = make_problem(64, 3, THINK_F16, 2);
  const int32_t tokens = 164, rows = 128, kept = 40;  // 4 sinks, 32 recent ones
  for (const Isa &isa : available_isas()) {
    const Plan plan(problem, isa.name);
    for (const int32_t mode : {THINK_MODE_CHANNELS, THINK_MODE_REGRESSED}) {
      std::vector<std::vector<int32_t>> chosen(2);
      for (const think_dtype dtype : {THINK_F16, THINK_U8, THINK_U4, THINK_U2, THINK_F8_E4M3}) {
        SCOPED_TRACE(std::string(isa.name) + ", mode " + std::to_string(mode) + ", " + think_dtype_name(dtype));
        Options options{problem, {tokens}};
        Flow flow(plan, options);
        flow.prefill();
        think_format format = THINK_FORMAT_INIT, plain = THINK_FORMAT_INIT;
        format.value_dtype = dtype;
        format.value_layout = dtype == THINK_F16 ? THINK_ROWS : THINK_TILES;
        plain.value_dtype = THINK_F32;
        think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
        prune.mode = mode;
        prune.budget = THINK_BUDGET_UNIFORM;
        prune.key_kept = -1;
        prune.value_kept = kept;
        prune.dense_limit = -1;
        const int64_t total = int64_t{kept} * problem.kv_heads, keys = int64_t{problem.key_channels} * problem.kv_heads;
        auto codes = std::make_unique<CompactCache>(plan, problem, flow.placement(0), keys, total, false, true, 7, &format);
        auto numbers = std::make_unique<CompactCache>(plan, problem, flow.placement(0), keys, total, false, true, 8, &plain);
        std::vector<float> scale(2, NAN);
        codes->segment.value_scale = scale.data();
        const std::vector<int32_t> lengths = flow.prefilled();
        const think_segment source = flow.dense_segment(lengths);
        const Launch launch = flow.launch_for(THINK_STAGE_PRUNE, extent_of(1, 1, flow.longest()));
        THINK_CALL(think_prune, plan, flow.state.data(), &source, &codes->segment, flow.batch(), &prune, nullptr, launch.get());
        for (const float one : scale) EXPECT_EQ(dtype == THINK_F8_E4M3, one > 0 && one < 1) << one;
        for (int32_t head = 0; head < problem.kv_heads; ++head) {
          const dense::Basis basis = dense::read_basis(codes->value_basis, problem.kv_heads, 0, head);
          ASSERT_EQ(kept, basis.kept);
          EXPECT_EQ(mode == THINK_MODE_REGRESSED, basis.predicts);
          const std::vector<int32_t> choice(basis.index.begin(), basis.index.begin() + kept);
          if (dtype == THINK_F16) chosen[static_cast<size_t>(head)] = choice;
          EXPECT_EQ(chosen[static_cast<size_t>(head)], choice);
          if (mode == THINK_MODE_CHANNELS) EXPECT_EQ(best(appendix_score(flow, head), kept), choice);
        }
        // The same rows as numbers, with the same basis.
        numbers->segment.value_basis = &codes->value_basis;
        flow.compacted = {rows};
        codes->segment.lengths = numbers->segment.lengths = flow.compacted.data();
        think_launch move = {sizeof(think_launch), THINK_LAUNCH_CHECK, nullptr, 0, nullptr, 0, 0};
        THINK_CALL(think_segment_place, plan, &numbers->segment, flow.batch(), &move);
        THINK_CALL(think_compact, plan, &codes->segment, &numbers->segment, flow.batch(), &move);
        flow.compact = std::move(codes);
        const Output found = flow.attend({tokens}, {3});
        codes = std::move(flow.compact);
        flow.compact = std::move(numbers);
        expect_close(flow.attend({tokens}, {3}), found, tolerance_for(problem), "over codes and over what they stand for");
        flow.compact.reset();
      }
    }
  }
}

// What another program makes of the same numbers, from the definitions of the forms alone: tests/vectors/quantized_attention.py.
TEST(Quantized, EqualsAnotherProgram) {
  std::ifstream file(std::string(THINK_TEST_VECTORS) + "/quantized_attention.txt");
  ASSERT_TRUE(file);
  int32_t cases = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::string key_name, value_name;
    int32_t tokens = 0, key_channels = 0, value_channels = 0, queries = 0;
    words >> key_name >> value_name >> tokens >> key_channels >> value_channels >> queries;
    std::vector<double> expected, expected_lse;
    for (int32_t i = 0; i < queries; ++i) {
      double x = 0;
      words >> x;
      expected_lse.push_back(x);
      for (int32_t c = 0; c < value_channels; ++c) words >> x, expected.push_back(x);
    }
    ASSERT_TRUE(words) << key_name << ", " << value_name;
    ++cases;
    const auto dtype_of = [](const std::string &name) {
      for (const think_dtype dtype : {THINK_F16, THINK_U8, THINK_U4, THINK_U2, THINK_F8_E4M3}) {
        if (name == think_dtype_name(dtype)) return dtype;
      }
      throw std::runtime_error(name);
    };
    think_problem problem = make_problem(key_channels, 1, THINK_F16, 1);
    problem.value_channels = value_channels;
    // Numbers that the script makes in the same way.
    const auto number = [](uint32_t i, uint32_t seed) {
      const uint32_t mixed = (i * 2654435761u + seed * 40503u) ^ ((i * 2654435761u + seed * 40503u) >> 15);
      return static_cast<float>(static_cast<int32_t>(mixed * 2246822519u >> 21) - 1024) / 512;
    };
    const int32_t room = (tokens + 31) / 32 * 32;
    Tensor query(THINK_F32, 1, 1, queries, key_channels), output(THINK_F32, 1, 1, queries, value_channels);
    std::vector<float> key(static_cast<size_t>(tokens) * key_channels), value(static_cast<size_t>(tokens) * value_channels), lse(static_cast<size_t>(queries));
    for (int32_t i = 0; i < queries * key_channels; ++i) query.set(0, 0, i / key_channels, i % key_channels, number(static_cast<uint32_t>(i), 1));
    for (size_t i = 0; i < key.size(); ++i) key[i] = number(static_cast<uint32_t>(i), 2) * (i % 5 == 0 ? 4.0f : 1.0f);
    for (size_t i = 0; i < value.size(); ++i) value[i] = number(static_cast<uint32_t>(i), 3);
    think_format format = THINK_FORMAT_INIT;
    format.key_dtype = dtype_of(key_name);
    format.value_dtype = dtype_of(value_name);
    format.value_layout = format.value_dtype == THINK_F16 ? THINK_ROWS : THINK_TILES;
    for (const Isa &isa : available_isas()) {
      const Plan plan(problem, isa.name);
      CompactCache cache(plan, problem, {1, 1, room, 0}, key_channels, value_channels, false, false, 1, &format);
      float scales[2] = {NAN, NAN};
      think_segment source = THINK_SEGMENT_INIT;
      source.key = key.data(), source.value = value.data();
      source.key_dtype = source.value_dtype = THINK_F32;
      source.lengths = cache.segment.lengths = &tokens;
      cache.segment.key_scale = &scales[0], cache.segment.value_scale = &scales[1];
      think_launch move = {sizeof(think_launch), 0, nullptr, 0, nullptr, 0, 0};
      THINK_CALL(think_segment_place, plan, &cache.segment, nullptr, &move);
      cache.segment.flags = THINK_SEGMENT_MEASURE;
      THINK_CALL(think_compact, plan, &source, &cache.segment, nullptr, &move);
      cache.segment.flags = 0;
      const Launch launch(plan, THINK_STAGE_ATTEND, extent_of(1, queries, tokens, 1), THINK_LAUNCH_CHECK);
      THINK_CALL(think_attend, plan, query.view(), nullptr, &cache.segment, 1, nullptr, output.view(), lse.data(), launch.get());
      double largest = 0;
      for (const double x : expected) largest = std::max(largest, std::fabs(x));
      for (int32_t i = 0; i < queries; ++i) {
        EXPECT_NEAR(expected_lse[static_cast<size_t>(i)], lse[static_cast<size_t>(i)], 4e-6 * std::fabs(expected_lse[static_cast<size_t>(i)]) + 1e-6);
        for (int32_t c = 0; c < value_channels; ++c) {
          EXPECT_NEAR(expected[static_cast<size_t>(i * value_channels + c)], output.get(0, 0, i, c), 1e-5 * largest) << isa.name << ", " << line.substr(0, 24);
        }
      }
    }
  }
  EXPECT_EQ(9, cases);
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
  for (const int bits : {8, 4, 2, 0}) {  // 0: F8
    think_format format = THINK_FORMAT_INIT;
    format.key_dtype = format.value_dtype = bits == 8 ? THINK_U8 : bits == 4 ? THINK_U4 : bits == 2 ? THINK_U2 : THINK_F8_E4M3;
    format.value_layout = THINK_TILES;
    const auto key_bytes = [&](int64_t kept) { return bits == 0 ? 32 * kept : up(up((bits == 2 ? kept + kept % 2 : kept) * 4 * bits) + 4 * kept); };
    const auto value_bytes = [&](int64_t kept) { return bits == 0 ? 32 * kept : kept * 4 * bits + 128 * std::max<int64_t>(1, kept / 32); };
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

// Scales that are not there, that are none, and where they may be asked for.
TEST(Quantized, ScalesOfF8) {
  const think_problem problem = make_problem(64, 1, THINK_F16);
  const Plan plan(problem);
  const int32_t length = 32;
  std::vector<float> rows(static_cast<size_t>(problem.kv_heads) * 32 * 64, 3.0f), back(rows.size());
  std::vector<uint8_t> memory(static_cast<size_t>(problem.kv_heads) * 32 * 64 + 64);
  think_segment dense = THINK_SEGMENT_INIT, codes = THINK_SEGMENT_INIT;
  dense.key = rows.data(), dense.key_dtype = THINK_F32, dense.key_stride[1] = 32 * 64 * 4;
  codes.key = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  codes.key_dtype = THINK_F8_E4M3, codes.key_layout = THINK_TILES, codes.key_stride[1] = 32 * 64, codes.page_tokens = 32;
  dense.lengths = codes.lengths = &length;
  think_launch launch = {sizeof(think_launch), THINK_LAUNCH_CHECK, nullptr, 0, nullptr, 0, 0};
  think_segment out = dense;
  out.key = back.data();
  rows[5] = 1000;
  THINK_CALL(think_compact, plan, &dense, &codes, nullptr, &launch);
  THINK_CALL(think_compact, plan, &codes, &out, nullptr, &launch);
  EXPECT_EQ(448, back[5]);  // NULL: 1
  std::vector<float> scale(static_cast<size_t>(problem.kv_heads), -1.0f);
  codes.key_scale = scale.data();
  think_error error = THINK_ERROR_INIT;
  EXPECT_EQ(THINK_E_ARGUMENT, think_compact(plan, &dense, &codes, nullptr, &launch, &error));
  EXPECT_NE(nullptr, std::strstr(error.message, "destination->key_scale[0]: expected 2^-100 .. 2^100, got -1")) << error.message;
  codes.flags = THINK_SEGMENT_MEASURE;
  think_launch slices = launch;
  slices.slices = 2;
  EXPECT_EQ(THINK_E_ARGUMENT, think_compact(plan, &dense, &codes, nullptr, &slices, &error));
  EXPECT_NE(nullptr, std::strstr(error.message, "THINK_SEGMENT_MEASURE")) << error.message;
  THINK_CALL(think_compact, plan, &dense, &codes, nullptr, &launch);
  EXPECT_EQ(8, scale[0]);  // 1000 / 224, to a power of two
  EXPECT_EQ(0x1p-6f, scale[1]);
  EXPECT_EQ(THINK_E_ARGUMENT, think_compact(plan, &codes, &out, nullptr, &launch, &error));
  EXPECT_NE(nullptr, std::strstr(error.message, "source->flags")) << error.message;
  codes.flags = 0;
  THINK_CALL(think_compact, plan, &codes, &out, nullptr, &launch);
  EXPECT_EQ(1024, back[5]);
  EXPECT_EQ(3, back[4]);
  codes.key_scale = reinterpret_cast<float *>(reinterpret_cast<char *>(scale.data()) + 1);
  EXPECT_EQ(THINK_E_ARGUMENT, think_compact(plan, &dense, &codes, nullptr, &launch, &error));
  EXPECT_NE(nullptr, std::strstr(error.message, "destination->key_scale")) << error.message;
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
  expect(THINK_E_ARGUMENT, "format->value_layout: expected 1 (tiles) of quantized values (f8_e4m3), got 0", THINK_TILES, 0, THINK_ROWS, THINK_F8_E4M3);
  expect(THINK_E_ARGUMENT, "format->key_dtype: expected f32, f16, bf16, u8, u4, u2 or f8_e4m3", THINK_TILES, 0x00010301, THINK_ROWS, 0);
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
