// The score stage's CUDA kernels against the double-precision reference, with every access checked.
#include "kernels/score/cuda.h"

#include <algorithm>

#include "device.h"
#include "score_case.h"

namespace think {
namespace {

using namespace test;

// Rows on the device. What the host left as NaN stays uninitialised: padding and gaps must not be read.
struct DeviceRows {
  simt::Buffer<char> memory;
  think_tensor tensor;

  DeviceRows(const char *name, const Rows &rows, bool all = false) : memory(name, rows.memory.size()), tensor(rows.tensor) {
    if (all) {
      memory.upload(rows.memory);
    } else {
      upload_numbers(memory.device(), rows.memory.data(), rows.memory.size(), dtype_bytes(rows.tensor.dtype));
    }
    memory.freeze();
    tensor.data = memory.device();
  }
  think_tensor part(int64_t first, int64_t count) const {
    think_tensor view = tensor;
    view.data = memory_at(first);
    view.extent[2] = count;
    return view;
  }
  void *memory_at(int64_t token) const { return static_cast<char *>(tensor.data) + token * tensor.stride[2] * dtype_bytes(tensor.dtype); }
};

// State of some slots, and a workspace of exactly the size that is asked for.
struct DeviceState {
  Shape shape;
  int32_t slots;
  simt::Buffer<char> state;

  DeviceState(const Shape &s, int32_t slots_) : shape(s), slots(slots_), state("state", static_cast<size_t>(slots_ * score::state_bytes(s))) {}

  void reset(const Batch &batch) { ASSERT_RUNS(score::cuda::reset(shape, state.device(), DeviceBatch(batch).batch, nullptr)); }
  void update(const think_tensor &query, const think_tensor &key, const Batch &batch) {
    const int64_t longest = std::min(key.extent[2], shape.max_tokens);
    simt::Buffer<char> workspace("workspace", static_cast<size_t>(score::cuda::workspace(shape, batch.count, longest)));
    const DeviceBatch device(batch);
    ASSERT_RUNS(score::cuda::update({shape, query, key, device.batch, state.device()}, longest, workspace.device(), nullptr));
  }
  std::vector<float> finish(const Batch &batch, bool query_heads = false) {
    simt::Buffer<float> score("score", static_cast<size_t>(batch.count) * (query_heads ? shape.query_heads : shape.kv_heads) * shape.key_channels);
    const DeviceBatch device(batch);
    EXPECT_EQ(0, score::cuda::finish(shape, state.device(), device.batch, query_heads, score.device(), nullptr)) << simt::machine().fault().text();
    return score.download();
  }
  // The state as the host sees it.
  std::vector<char> download() const { return state.download(); }
};


std::vector<double> expected_score(const Shape &shape, const Rows &query, const Rows &key, int64_t row, int64_t first, int64_t tokens, bool heads = false) {
  std::vector<double> expected((heads ? shape.query_heads : shape.kv_heads) * shape.key_channels);
  score::reference::score(shape, widened(query, row, first, tokens).data(), widened(key, row, first, tokens).data(), tokens, heads, expected.data());
  return expected;
}

TEST(ScoreOnDevice, EveryHeadSizeGroupAndDtype) {
  std::mt19937 random(1);
  for (int32_t channels : {8, 16, 24, 40, 64, 72, 80, 96, 128, 200, 256}) {
    for (int32_t group : {1, 3, 7}) {
      const think_dtype query_dtype = kDtypes[(channels / 8 + group) % 3], key_dtype = kDtypes[channels / 8 % 3];
      const int64_t tokens = 33 + channels;
      const Shape shape = make_shape(2, group, channels, 32, query_dtype);
      Rows query(query_dtype, 1, shape.query_heads, tokens, channels), key(key_dtype, 1, shape.kv_heads, tokens, channels);
      fill(query, 0, 0, tokens, random);
      fill(key, 0, 0, tokens, random);
      begin(channels + group);
      const DeviceRows queries("query", query), keys("key", key);
      DeviceState state(shape, 1);
      state.reset(kOneSequence);
      state.update(queries.tensor, keys.tensor, kOneSequence);
      const std::string what = "channels " + std::to_string(channels) + " group " + std::to_string(group);
      for (bool heads : {false, true}) expect_near(state.finish(kOneSequence, heads).data(), expected_score(shape, query, key, 0, 0, tokens, heads), what);
      EXPECT_EQ(0u, simt::machine().total().bank_conflicts) << what;
      if (HasFatalFailure()) return;
    }
  }
}

TEST(ScoreOnDevice, AnyChunksGiveOnePassAndTheLastQueries) {
  const int64_t tokens = 900, window = 40;
  const Shape shape = make_shape(2, 2, 64, window, THINK_F16);
  std::mt19937 random(2);
  Rows query(THINK_F16, 1, 4, tokens, 64), key(THINK_BF16, 1, 2, tokens, 64);
  fill(query, 0, 0, tokens, random);
  fill(key, 0, 0, tokens, random);
  const std::vector<std::vector<int64_t>> plans = {{900}, {1, 899}, {899, 1}, {860, 40}, {861, 39}, {256, 256, 388}, {0, 257, 0, 600, 3, 5, 1, 20, 14}};
  uint64_t seed = 0;
  for (const auto &plan : plans) {
    begin(++seed);
    const DeviceRows queries("query", query), keys("key", key);
    DeviceState state(shape, 1);
    state.reset(kOneSequence);
    int64_t done = 0;
    for (int64_t chunk : plan) {
      state.update(queries.part(done, chunk), keys.part(done, chunk), kOneSequence);
      done += chunk;
    }
    ASSERT_EQ(done, tokens);
    expect_near(state.finish(kOneSequence).data(), expected_score(shape, query, key, 0, 0, tokens), "plan " + std::to_string(seed));
    std::vector<char> memory = state.download();
    const score::StateView view = score::state_view(shape, memory.data(), 0);
    EXPECT_EQ(*view.tokens, tokens);
    for (int64_t h = 0; h < 4; ++h) {
      const void *rows = element(query.tensor, 0, h, tokens - window);
      ASSERT_EQ(0, std::memcmp(static_cast<char *>(view.window) + h * window * 64 * 2, rows, window * 64 * 2)) << "plan " << seed << " query head " << h;
    }
    if (HasFatalFailure()) return;
  }
}

TEST(ScoreOnDevice, FewerTokensThanTheWindowAreRightAligned) {
  for (int32_t window : {1, 32, 300}) {
    const Shape shape = make_shape(1, 2, 256, window, THINK_F32);
    std::mt19937 random(3);
    Rows query(THINK_F32, 1, 2, 10, 256), key(THINK_F32, 1, 1, 10, 256);
    fill(query, 0, 0, 10, random);
    fill(key, 0, 0, 10, random);
    begin(3);
    const DeviceRows queries("query", query), keys("key", key);
    DeviceState state(shape, 1);
    state.reset(kOneSequence);
    for (float x : state.finish(kOneSequence)) ASSERT_EQ(0, x);
    state.update(queries.part(0, 3), keys.part(0, 3), kOneSequence);
    state.update(queries.part(3, 7), keys.part(3, 7), kOneSequence);
    expect_near(state.finish(kOneSequence).data(), expected_score(shape, query, key, 0, 0, 10), "ten tokens");
    std::vector<char> memory = state.download();
    const float *rows = static_cast<float *>(score::state_view(shape, memory.data(), 0).window);
    for (int64_t r = 0; r < window; ++r) {
      const int64_t token = 10 - window + r;
      for (int64_t c = 0; c < 256; ++c) ASSERT_EQ(rows[(window + r) * 256 + c], token < 0 ? 0.0f : query.get(0, 1, token, c)) << window << " " << r;
    }
  }
}

// Four sequences, one without tokens, in slots of their own, padded and packed, every order of the axes. Padding and other slots are never touched: they
// are uninitialised.
TEST(ScoreOnDevice, RaggedBatchesStridesAndSlots) {
  const int32_t lengths[] = {600, 7, 0, 256}, slot[] = {4, 0, 3, 2};
  for (const char *order : {"bht", "bth", "thb", "htb"}) {
    for (bool packed : {false, true}) {
      const Shape shape = make_shape(2, 3, 40, 16, THINK_BF16);
      std::mt19937 random(4);
      const int64_t batch_rows = packed ? 1 : 4, tokens = packed ? 863 : 640;
      Rows query(THINK_BF16, batch_rows, 6, tokens, 40, order, 8), key(THINK_F16, batch_rows, 2, tokens, 40, order, 16);
      const int32_t row_start[] = {0, 600, 607, 607, 863};
      for (int b = 0; b < 4; ++b) {
        fill(query, packed ? 0 : b, packed ? row_start[b] : 0, lengths[b], random);
        fill(key, packed ? 0 : b, packed ? row_start[b] : 0, lengths[b], random);
      }
      const Batch batch{4, packed ? nullptr : lengths, packed ? row_start : nullptr, slot};
      begin(packed);
      const DeviceRows queries("query", query), keys("key", key);
      DeviceState state(shape, 5);
      state.reset(batch);
      state.update(queries.tensor, keys.tensor, batch);
      const std::vector<float> actual = state.finish(batch);
      std::vector<char> memory = state.download();
      for (int b = 0; b < 4; ++b) {
        const std::string what = std::string(order) + (packed ? " packed" : " padded") + " sequence " + std::to_string(b);
        expect_near(actual.data() + b * 80, expected_score(shape, query, key, packed ? 0 : b, packed ? row_start[b] : 0, lengths[b]), what);
        EXPECT_EQ(*score::state_view(shape, memory.data(), slot[b]).tokens, lengths[b]) << what;
        if (HasFatalFailure()) return;
      }
      const int64_t bytes = score::state_bytes(shape);
      for (int64_t i = bytes; i < 2 * bytes; ++i) ASSERT_EQ(memory[i], '\xff') << "slot 1 belongs to nobody";
    }
  }
}

TEST(ScoreOnDevice, LargeHalvesAndNotANumber) {
  const Shape shape = make_shape(1, 2, 24, 8, THINK_F16);
  std::mt19937 random(5);
  Rows query(THINK_F16, 1, 2, 40, 24), key(THINK_F16, 1, 1, 40, 24);
  fill(query, 0, 0, 40, random, 300);
  fill(key, 0, 0, 40, random, 3000);
  begin(5);
  {
    const DeviceRows queries("query", query), keys("key", key);
    DeviceState state(shape, 1);
    state.reset(kOneSequence);
    state.update(queries.tensor, keys.tensor, kOneSequence);
    expect_near(state.finish(kOneSequence).data(), expected_score(shape, query, key, 0, 0, 40), "large halves");
  }
  set_not_finite(query, key);
  const DeviceRows queries("query", query, true), keys("key", key, true);
  DeviceState state(shape, 1);
  state.reset(kOneSequence);
  state.update(queries.tensor, keys.tensor, kOneSequence);
  const std::vector<float> actual = state.finish(kOneSequence), heads = state.finish(kOneSequence, true);
  expect_infinities(actual, heads);
}

TEST(ScoreOnDevice, EverySeedGivesTheSameBits) {
  const int32_t lengths[] = {700, 300};
  const Shape shape = make_shape(2, 2, 80, 32, THINK_F16);
  std::mt19937 random(6);
  Rows query(THINK_F16, 2, 4, 700, 80), key(THINK_F16, 2, 2, 700, 80);
  for (int b = 0; b < 2; ++b) fill(query, b, 0, lengths[b], random), fill(key, b, 0, lengths[b], random);
  const Batch batch{2, lengths, nullptr, nullptr};
  std::vector<char> first;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    begin(seed);
    const DeviceRows queries("query", query), keys("key", key);
    DeviceState state(shape, 2);
    state.reset(batch);
    state.update(queries.tensor, keys.tensor, batch);
    if (first.empty()) first = state.download();
    ASSERT_TRUE(first == state.download()) << "seed " << seed;
  }
}

// A negative slot: the rows of that sequence are uninitialised, and whatever would be written to its state lies outside of the buffer.
TEST(ScoreOnDevice, SequencesWithoutAStateAreLeftOut) {
  const int32_t lengths[] = {300, 280, 40}, slot[] = {1, -1, 0}, other_lengths[] = {300, 0, 40}, other_slot[] = {1, 2, 0};
  const Shape shape = make_shape(2, 3, 40, 16, THINK_F16);
  std::mt19937 random(11);
  Rows query(THINK_F16, 3, 6, 300, 40), key(THINK_BF16, 3, 2, 300, 40);
  for (int b : {0, 2}) fill(query, b, 0, lengths[b], random), fill(key, b, 0, lengths[b], random);
  const int64_t bytes = score::state_bytes(shape);
  std::vector<char> expected;
  for (bool left_out : {false, true}) {
    begin(11);
    const DeviceRows queries("query", query), keys("key", key);
    DeviceState state(shape, left_out ? 2 : 3);
    state.reset({left_out ? 2 : 3, nullptr, nullptr, nullptr});
    state.update(queries.tensor, keys.tensor, left_out ? Batch{3, lengths, nullptr, slot} : Batch{3, other_lengths, nullptr, other_slot});
    std::vector<char> memory = state.download();
    memory.resize(static_cast<size_t>(2 * bytes));
    EXPECT_EQ(300, *score::state_view(shape, memory.data(), 1).tokens);
    EXPECT_EQ(40, *score::state_view(shape, memory.data(), 0).tokens);
    if (left_out) EXPECT_TRUE(memory == expected);
    expected = memory;
  }
}

// Dense rows of a segment in shuffled pages, each head with a length of its own, behind rows that are no longer in the run.
struct PagedKeys {
  static constexpr int32_t kPageTokens = 64, kFirst = 37;
  think_segment segment = THINK_SEGMENT_INIT;
  std::vector<char> memory;
  std::vector<int32_t> pages, first, lengths;

  PagedKeys(const Rows &key, const std::vector<int32_t> &lengths_of_heads, std::mt19937 &random) : lengths(lengths_of_heads) {
    const int64_t heads = key.tensor.extent[1], channels = key.tensor.extent[3], row_bytes = channels * dtype_bytes(key.tensor.dtype) + 16;
    const int64_t count = (key.tensor.extent[2] + kFirst + kPageTokens - 1) / kPageTokens;
    for (int32_t page = 0; page < count; ++page) pages.push_back(page);
    std::shuffle(pages.begin(), pages.end(), random);
    first.assign(static_cast<size_t>(heads), kFirst);
    memory.assign(static_cast<size_t>(count * heads * kPageTokens * row_bytes), '\xff');
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t token = 0; token < lengths[head]; ++token) {
        const int64_t row = kFirst + token, page = pages[row / kPageTokens];
        std::memcpy(memory.data() + ((page * heads + head) * kPageTokens + row % kPageTokens) * row_bytes, element(key.tensor, 0, head, token),
                    channels * dtype_bytes(key.tensor.dtype));
      }
    }
    segment.page_tokens = kPageTokens;
    segment.key_dtype = segment.value_dtype = key.tensor.dtype;
    segment.key_stride[0] = heads * kPageTokens * row_bytes;
    segment.key_stride[1] = kPageTokens * row_bytes;
    segment.key_stride[2] = row_bytes;
    segment.pages_stride = count;
    segment.lengths_stride[0] = heads;
    segment.lengths_stride[1] = 1;
  }
};

// What an eviction leaves is summed as if it had just come: the same bits, and nothing else of the state changes.
TEST(ScoreOnDevice, SumsOfASegmentAreThoseOfAnUpdate) {
  const std::vector<int32_t> lengths = {0, 1, 31, 33, 257, 1000};
  const int32_t window = 8, slot = 1;
  uint64_t seed = 0;
  for (int32_t channels : {8, 40, 64, 128, 256}) {
    for (think_dtype dtype : kDtypes) {
      const std::string what = "channels " + std::to_string(channels) + " dtype " + std::to_string(dtype);
      const int32_t heads = static_cast<int32_t>(lengths.size());
      const Shape shape = make_shape(heads, 1, channels, window, THINK_F16);
      std::mt19937 random(static_cast<uint32_t>(++seed));
      Rows query(THINK_F16, 1, heads, 1000, channels), key(dtype, 1, heads, 1000, channels);
      fill(query, 0, 0, 1000, random);
      fill(key, 0, 0, 1000, random);
      const PagedKeys paged(key, lengths, random);
      begin(seed);
      const DeviceRows queries("query", query), keys("key", key);
      std::vector<float> expected;
      for (int32_t head = 0; head < heads; ++head) {
        DeviceState state(shape, 1);
        state.reset(kOneSequence);
        state.update(queries.part(0, lengths[head]), keys.part(0, lengths[head]), kOneSequence);
        std::vector<char> memory = state.download();
        const float *sums = score::state_view(shape, memory.data(), 0).square_sum + static_cast<int64_t>(head) * channels;
        expected.insert(expected.end(), sums, sums + channels);
        if (HasFatalFailure()) return;
      }
      const Batch batch{1, nullptr, nullptr, &slot};
      DeviceState state(shape, 2);
      state.reset(batch);
      state.update(queries.part(100, 300), keys.part(100, 300), batch);
      std::vector<char> before = state.download();
      simt::Buffer<char> pages_of_keys("pages of keys", paged.memory.size());
      upload_numbers(pages_of_keys.device(), paged.memory.data(), static_cast<int64_t>(paged.memory.size()), dtype_bytes(dtype));
      pages_of_keys.freeze();
      const Constant<int32_t> pages("pages", paged.pages.data(), paged.segment.pages_stride), first("first", paged.first.data(), heads),
          device_lengths("lengths", paged.lengths.data(), heads);
      think_segment segment = paged.segment;
      segment.key = pages_of_keys.device();
      segment.pages = pages.device();
      segment.first = first.device();
      segment.lengths = device_lengths.device();
      simt::Buffer<char> workspace("workspace", static_cast<size_t>(score::cuda::workspace(shape, 1, 1000)));
      ASSERT_RUNS(score::cuda::sum_again(shape, segment, DeviceBatch(batch).batch, state.state.device(), 1000, workspace.device(), nullptr));
      std::vector<char> after = state.download();
      float *sums = score::state_view(shape, after.data(), slot).square_sum;
      ASSERT_EQ(0, std::memcmp(sums, expected.data(), expected.size() * sizeof(float))) << what;
      std::memcpy(sums, score::state_view(shape, before.data(), slot).square_sum, expected.size() * sizeof(float));
      ASSERT_TRUE(after == before) << what << ": window, count and other slots stay";
      EXPECT_EQ(0u, simt::machine().total().bank_conflicts) << what;
    }
  }
}

// Arrays of the device cannot be checked, so what they say must not lead out of memory.
TEST(ScoreOnDevice, WrongLengthsStayInside) {
  const Shape shape = make_shape(1, 1, 64, 8, THINK_F16);
  std::mt19937 random(7);
  Rows query(THINK_F16, 2, 1, 300, 64), key(THINK_F16, 2, 1, 300, 64);
  for (int b = 0; b < 2; ++b) fill(query, b, 0, 300, random), fill(key, b, 0, 300, random);
  const int32_t lengths[] = {1 << 30, -5}, row_start[] = {-7, 1 << 30, 12};
  for (const Batch &batch : {Batch{2, lengths, nullptr, nullptr}, Batch{2, nullptr, row_start, nullptr}}) {
    begin(7);
    const DeviceRows queries("query", query), keys("key", key);
    DeviceState state(shape, 2);
    state.reset(batch);
    state.update(queries.tensor, keys.tensor, batch);
    expect_near(state.finish(batch).data(), expected_score(shape, query, key, 0, 0, 300), "as many rows as there are");
    std::vector<char> memory = state.download();
    EXPECT_EQ(300, *score::state_view(shape, memory.data(), 0).tokens);
    EXPECT_EQ(0, *score::state_view(shape, memory.data(), 1).tokens);
  }
}

TEST(ScoreOnDevice, Values) {
  for (think_dtype dtype : kDtypes) {
    const int32_t lengths[] = {16, 5, 0};
    Shape shape = make_shape(2, 3, 64, 16, THINK_F32);
    shape.value_channels = 40;
    std::mt19937 random(8);
    Rows attention(dtype, 3, 6, 16, 40, "bth", 8);
    for (int b = 0; b < 3; ++b) fill(attention, b, 0, lengths[b], random);
    begin(8);
    const DeviceRows rows("attention", attention);
    const DeviceBatch batch({3, lengths, nullptr, nullptr});
    simt::Buffer<float> score("score", 3 * 2 * 40);
    ASSERT_RUNS(score::cuda::value_score(shape, rows.tensor, batch.batch, score.device(), nullptr));
    for (int b = 0; b < 3; ++b) {
      std::vector<double> expected(2 * 40);
      score::reference::value_score(shape, widened(attention, b, 0, lengths[b]).data(), lengths[b], expected.data());
      expect_near(score.download().data() + b * 80, expected, "sequence " + std::to_string(b));
    }
  }
}

// Keys once, the last queries once, and what has to pass from one launch to the next: nothing more.
TEST(ScoreOnDevice, MovesTheBytesOfItsModel) {
  const int64_t tokens = 4096, channels = 128, heads = 2, group = 4, window = 32;
  const Shape shape = make_shape(heads, group, channels, window, THINK_F16);
  std::mt19937 random(9);
  Rows query(THINK_F16, 1, heads * group, tokens, channels), key(THINK_F16, 1, heads, tokens, channels);
  fill(query, 0, 0, tokens, random);
  fill(key, 0, 0, tokens, random);
  begin(9);
  const DeviceRows queries("query", query), keys("key", key);
  DeviceState state(shape, 1);
  state.reset(kOneSequence);
  simt::machine().reset();
  state.update(queries.tensor, keys.tensor, kOneSequence);
  const simt::Counters counters = simt::machine().total();
  const uint64_t slabs = tokens / 256, sums = heads * channels * 4, rows = heads * group * window * channels * 2;
  const uint64_t reads = heads * tokens * channels * 2 + slabs * sums + sums + rows, writes = slabs * sums + sums + rows;
  report_traffic("score update, 4096 tokens, 2 KV heads of 128 channels, groups of 4, f16", counters, static_cast<double>(reads),
                 static_cast<double>(writes));
  EXPECT_EQ(keys.memory.read_bytes(), static_cast<uint64_t>(heads * tokens * channels * 2));
  EXPECT_LE(counters.global_read_bytes, static_cast<uint64_t>(1.02 * static_cast<double>(reads)));
  EXPECT_LE(counters.global_write_bytes, static_cast<uint64_t>(1.02 * static_cast<double>(writes)));
  EXPECT_LE(counters.global_read_sectors * 32, static_cast<uint64_t>(1.02 * static_cast<double>(reads)));
  EXPECT_EQ(0u, counters.bank_conflicts);
  EXPECT_EQ(0u, counters.atomics);
}

}  // namespace
}  // namespace think
