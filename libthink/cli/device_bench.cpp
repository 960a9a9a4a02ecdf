#include "device_bench.h"

#include <algorithm>

namespace think::cli {
namespace {

// Caches are used in turn, so many that three times the largest L2 (60 MB) lie between two uses of one.
constexpr int64_t kColdBytes = 180 << 20, kPattern = 16 << 20;
// Calls of one graph: enough that the launch of the graph does not count.
constexpr int kCalls = 12;
constexpr int32_t kPageTokens = 256;

int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// bf16 of either sign and a magnitude from 1/8 to 1/2.
std::vector<uint64_t> pattern_words(int64_t bytes) {
  std::vector<uint64_t> words(static_cast<size_t>(bytes / 8));
  uint64_t seed = 1;
  for (uint64_t &word : words) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    word = ((seed ^ seed >> 29) & 0x80ff80ff80ff80ffu) | 0x3e003e003e003e00u;
  }
  return words;
}

}  // namespace

DeviceBench::DeviceBench(Driver &driver, const Context &context, int64_t arena_bytes, int rounds)
    : driver_(driver), context_(context), rounds_(rounds), arena_(driver, arena_bytes) {
  const std::vector<uint64_t> words = pattern_words(std::min(kPattern, arena_bytes));
  const int64_t pattern = static_cast<int64_t>(words.size()) * 8;
  driver.upload(arena_.data(), words.data(), pattern);
  driver.repeat(arena_.data(), pattern, arena_bytes);
}

template <class Calls>
double DeviceBench::median_seconds(int calls, const Calls &launch_all) {
  driver_.begin_capture();
  try {
    launch_all();
  } catch (...) {
    const Driver::Graph unused(driver_);  // a stream that goes on capturing could not be used again
    throw;
  }
  const Driver::Graph graph(driver_);
  std::vector<double> seconds;
  Driver::Event begin(driver_), end(driver_);
  for (int round = -1; round < rounds_; ++round) {  // the first one warms up
    begin.record();
    graph.launch();
    end.record();
    const double time = end.milliseconds_since(begin) / 1e3 / calls;
    if (round >= 0) seconds.push_back(time);
  }
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<int64_t>(seconds.size() / 2), seconds.end());
  return seconds[seconds.size() / 2];
}

template <class Body>
Measured DeviceBench::measure(const Body &body) {
  Measured measured;
  try {
    body(measured);
  } catch (const Unsupported &unsupported) {
    measured.skipped = unsupported.reason();
  } catch (const Failure &failure) {
    if (failure.code() != kIo) throw;
    measured.skipped = failure.what();  // no memory for it on this device
  }
  return measured;
}

think_launch DeviceBench::workspace(const Plan &plan, int32_t stage, const think_extent *extent, Room &room) const {
  think_launch launch = THINK_LAUNCH_INIT;
  ErrorRecord error;
  error.check(think_workspace_size(plan.get(), stage, extent, &launch.workspace_bytes, nullptr, error));
  launch.workspace = room.make(launch.workspace_bytes);
  launch.stream = driver_.stream();
  return launch;
}

// The first `kept` channels of every head, small weights: what is in a basis does not change the time.
think_basis DeviceBench::make_basis(const Plan &plan, Room &room, int32_t side, int32_t slots, int32_t heads, int32_t channels,
                                    int32_t kept) const {
  ErrorRecord error;
  int64_t bytes = 0;
  error.check(think_basis_size(plan.get(), side, slots, &bytes, nullptr, error));
  think_basis basis = THINK_BASIS_INIT, host = THINK_BASIS_INIT;
  void *memory = room.reserve(bytes);
  error.check(think_basis_bind(plan.get(), side, slots, memory, bytes, &basis, error));
  Buffer mirror(bytes, true);
  error.check(think_basis_bind(plan.get(), side, slots, mirror.data(), bytes, &host, error));
  const int64_t places = static_cast<int64_t>(slots) * heads, block = host.weight_bytes / places / 16 * 16;
  for (int64_t place = 0; place < places; ++place) {
    host.kept[place] = kept;
    host.weight_offset[place] = kept < channels ? place * block : -1;
    for (int32_t channel = 0; channel < channels; ++channel) host.index[place * channels + channel] = channel;
  }
  // f16 of 1/64 to 1/32, but the padding of each row zero.
  const int32_t padded = (kept + 7) / 8 * 8;
  for (int64_t place = 0; place < places && kept < channels; ++place) {
    auto *weight = reinterpret_cast<uint16_t *>(static_cast<std::byte *>(host.weight) + host.weight_offset[place]);
    for (int32_t p = 0; p < channels - kept; ++p) {
      for (int32_t i = 0; i < kept; ++i) weight[p * padded + i] = static_cast<uint16_t>((p * 37 + i * 101) % 1024 | 0x2400 | (p ^ i) << 15);
    }
  }
  driver_.upload(memory, mirror.data(), bytes);
  return basis;
}

Measured DeviceBench::probe() {
  return measure([&](Measured &measured) {
    measured.bytes = arena_.size() / 16 * 16;
    if (!driver_.read_stream(arena_.data(), measured.bytes)) throw Unsupported("this driver loads no kernel from text");
    driver_.synchronize();
    measured.seconds = median_seconds(1, [&] { driver_.read_stream(arena_.data(), measured.bytes); });
  });
}

Measured DeviceBench::attend(const AttendCase &wanted) {
  return measure([&](Measured &measured) {
    const auto &[query_heads, kv_heads, channels, batch, tokens, key_kept, value_kept, softcap, lengths] = wanted;
    think_problem problem = THINK_PROBLEM_INIT;
    problem.query_dtype = problem.cache_dtype = problem.output_dtype = THINK_BF16;
    problem.query_heads = query_heads;
    problem.kv_heads = kv_heads;
    problem.key_channels = channels;
    problem.max_batch = batch;
    problem.max_tokens = tokens;
    problem.softcap = softcap;
    const Plan plan = make_plan(context_, problem);
    Room room(&driver_);
    const bool key_pruned = key_kept < channels, value_pruned = value_kept < channels;
    // Pages of all sequences in turn, as an engine hands them out while they grow together; the room behind the last row of each is not read.
    const std::vector<int32_t> rows_of = lengths.empty() ? std::vector<int32_t>(static_cast<size_t>(batch), tokens) : lengths;
    const int32_t page_tokens = lengths.empty() ? tokens : kPageTokens, pages_stride = (tokens + page_tokens - 1) / page_tokens;
    std::vector<int32_t> pages(static_cast<size_t>(batch) * static_cast<size_t>(pages_stride), -1);
    int32_t page_count = 0;
    int64_t rows = 0;
    for (int32_t page = 0; page < pages_stride; ++page) {
      for (size_t sequence = 0; sequence < rows_of.size(); ++sequence) {
        if (page * page_tokens < rows_of[sequence]) pages[sequence * static_cast<size_t>(pages_stride) + static_cast<size_t>(page)] = page_count++;
      }
    }
    for (const int32_t length : rows_of) rows += static_cast<int64_t>(length) * kv_heads;
    const int64_t room_rows = static_cast<int64_t>(page_count) * page_tokens * kv_heads, key_bytes = rows * key_kept * 2, value_bytes = rows * value_kept * 2;
    const int64_t key_room = aligned(room_rows * key_kept * 2), cache = key_room + aligned(room_rows * value_kept * 2);
    if (cache > arena_.size()) {
      measured.skipped = "the cache of " + std::to_string(cache >> 20) + " MiB is larger than the arena of " + std::to_string(arena_.size() >> 20);
      return;
    }
    const int64_t copies = std::clamp<int64_t>((kColdBytes + cache - 1) / cache, 1, std::min<int64_t>(256, arena_.size() / cache));
    think_basis key_basis = THINK_BASIS_INIT, value_basis = THINK_BASIS_INIT;
    measured.bytes = key_bytes + value_bytes;
    const auto count_basis = [&](int32_t kept) {
      measured.bytes += static_cast<int64_t>(batch) * kv_heads * (channels - kept) * ((kept + 7) / 8 * 8 * 2 + 4);
    };
    if (key_pruned) key_basis = make_basis(plan, room, THINK_KEYS, batch, kv_heads, channels, key_kept), count_basis(key_kept);
    if (value_pruned) value_basis = make_basis(plan, room, THINK_VALUES, batch, kv_heads, channels, value_kept), count_basis(value_kept);
    think_segment segment = THINK_SEGMENT_INIT;
    segment.key_layout = key_pruned ? THINK_TILES : THINK_ROWS;
    segment.key_dtype = segment.value_dtype = THINK_BF16;
    segment.page_tokens = page_tokens;
    if (!lengths.empty()) segment.pages = room.copy(pages), segment.pages_stride = pages_stride;
    segment.key_stride[1] = static_cast<int64_t>(page_tokens) * key_kept * 2;
    segment.key_stride[0] = kv_heads * segment.key_stride[1];
    segment.value_stride[1] = static_cast<int64_t>(page_tokens) * value_kept * 2;
    segment.value_stride[0] = kv_heads * segment.value_stride[1];
    segment.lengths = room.copy(rows_of);
    segment.key_basis = key_pruned ? &key_basis : nullptr;
    segment.value_basis = value_pruned ? &value_basis : nullptr;
    const int64_t query_bytes = static_cast<int64_t>(batch) * query_heads * channels * 2;
    const think_tensor query = {sizeof(think_tensor), 0, room.reserve(query_bytes), THINK_BF16, 0, {batch, query_heads, 1, channels},
                                {static_cast<int64_t>(query_heads) * channels, channels, channels, 1}};
    think_tensor output = query;
    output.data = room.reserve(query_bytes);
    const std::vector<uint64_t> words = pattern_words(aligned(query_bytes));
    driver_.upload(query.data, words.data(), query_bytes);
    const think_launch launch = workspace(plan, THINK_STAGE_ATTEND, nullptr, room);
    const int calls = static_cast<int>((kCalls + copies - 1) / copies * copies);
    measured.seconds = median_seconds(calls, [&] {
      for (int call = 0; call < calls; ++call) {
        segment.key = arena() + call % copies * cache;
        segment.value = arena() + call % copies * cache + key_room;
        ErrorRecord error;
        error.check(think_attend(plan.get(), &query, nullptr, &segment, 1, nullptr, &output, nullptr, &launch, error));
      }
    });
  });
}

std::vector<StageTime> DeviceBench::prune(int32_t query_heads, int32_t kv_heads, int32_t channels, int32_t tokens) {
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_dtype = problem.cache_dtype = problem.output_dtype = THINK_BF16;
  problem.query_heads = query_heads;
  problem.kv_heads = kv_heads;
  problem.key_channels = channels;
  problem.max_tokens = tokens;
  const Plan plan = make_plan(context_, problem);
  Room room(&driver_);
  ErrorRecord error;
  const int64_t side = aligned(static_cast<int64_t>(kv_heads) * tokens * channels * 2), cache = 2 * side;
  const int64_t query_bytes = static_cast<int64_t>(query_heads) * tokens * channels * 2;
  if (cache > arena_.size() || query_bytes > arena_.size()) return {{"score", {0, 0, "the rows are larger than the arena"}}};
  const int64_t copies = std::clamp<int64_t>((kColdBytes + cache - 1) / cache, 1, std::min<int64_t>(64, arena_.size() / cache));
  const int calls = static_cast<int>((kCalls + copies - 1) / copies * copies);
  int64_t state_bytes = 0;
  error.check(think_score_state_size(plan.get(), 1, &state_bytes, error));
  void *state = room.make(state_bytes);
  const size_t numbers = static_cast<size_t>(kv_heads) * static_cast<size_t>(channels);
  float *score = room.copy(std::vector<float>(numbers));
  const think_tensor query = packed_tensor(arena(), THINK_BF16, query_heads, tokens, channels);
  const auto keys_of = [&](int call) { return arena() + call % copies * cache; };
  think_segment rows = dense_segment(nullptr, nullptr, THINK_BF16, THINK_BF16, kv_heads, tokens, channels, channels,
                                     room.copy(std::vector<int32_t>{tokens}));
  const auto rows_of = [&](int call) {
    think_segment segment = rows;
    segment.key = keys_of(call);
    segment.value = keys_of(call) + side;
    return segment;
  };
  std::vector<StageTime> times;
  const auto stage = [&](const char *name, int64_t bytes, const auto &prepare) {
    times.push_back({name, measure([&](Measured &measured) {
                       measured.bytes = bytes;
                       const auto one = prepare();
                       measured.seconds = median_seconds(calls, [&] {
                         for (int call = 0; call < calls; ++call) one(call);
                       });
                     })});
  };

  stage("score", side, [&] {
    think_extent extent = THINK_EXTENT_INIT;
    extent.tokens = tokens;
    const think_launch launch = workspace(plan, THINK_STAGE_SCORE, &extent, room);
    return [&, launch](int call) {
      const think_tensor key = packed_tensor(keys_of(call), THINK_BF16, kv_heads, tokens, channels);
      error.check(think_score_reset(plan.get(), state, nullptr, &launch, error));
      error.check(think_score_update(plan.get(), &query, &key, nullptr, state, &launch, error));
      error.check(think_score_finish(plan.get(), state, nullptr, nullptr, score, &launch, error));
    };
  });
  void *moments = nullptr;
  stage("moments", cache + side, [&] {  // keys twice: the mass of the rows comes before their covariance
    const think_launch launch = workspace(plan, THINK_STAGE_MOMENTS, nullptr, room);
    int64_t bytes = 0;
    error.check(think_moments_size(plan.get(), 1, &bytes, error));
    moments = room.make(bytes);
    think_tensor window = THINK_TENSOR_INIT;
    error.check(think_score_window(plan.get(), state, 1, &window, error));
    return [&, launch, window](int call) {
      think_segment source = rows_of(call);
      source.flags = THINK_SEGMENT_CAUSAL;
      error.check(think_moments(plan.get(), &window, &source, nullptr, nullptr, moments, &launch, error));
    };
  });
  think_basis basis = make_basis(plan, room, THINK_KEYS, 1, kv_heads, channels, channels / 2);
  stage("select", 0, [&] {
    const think_launch launch = workspace(plan, THINK_STAGE_SELECT, nullptr, room);
    return [&, launch](int) {
      think_select_options options = THINK_SELECT_OPTIONS_INIT;
      options.kept = channels / 2;
      error.check(think_select(plan.get(), score, nullptr, &options, nullptr, &basis, nullptr, &launch, error));
    };
  });
  stage("fit", 0, [&] {
    const think_launch launch = workspace(plan, THINK_STAGE_FIT, nullptr, room);
    if (!moments) throw Unsupported("no moments to fit");
    return [&, launch](int) { error.check(think_fit(plan.get(), moments, nullptr, nullptr, &basis, &launch, error)); };
  });
  const int32_t moved = tokens / 32 * 32;
  std::byte *key_tiles = static_cast<std::byte *>(room.reserve(side)), *value_rows = static_cast<std::byte *>(room.reserve(side));
  think_segment tiles = THINK_SEGMENT_INIT;
  tiles.key_layout = THINK_TILES;
  tiles.page_tokens = moved;
  tiles.key_dtype = tiles.value_dtype = THINK_BF16;
  tiles.key = key_tiles;
  tiles.value = value_rows;
  tiles.lengths = room.copy(std::vector<int32_t>{moved});
  tiles.key_basis = &basis;
  tiles.key_head_offset = room.copy(std::vector<int64_t>(static_cast<size_t>(kv_heads)));
  tiles.value_stride[1] = static_cast<int64_t>(moved) * channels * 2;
  tiles.key_stride[0] = tiles.value_stride[0] = kv_heads * tiles.value_stride[1];
  stage("compact", cache + side / 2 + side, [&] {
    const think_launch launch = workspace(plan, THINK_STAGE_COMPACT, nullptr, room);
    return [&, launch](int call) {
      const think_segment source = rows_of(call);
      error.check(think_segment_place(plan.get(), &tiles, nullptr, &launch, error));
      error.check(think_compact(plan.get(), &source, &tiles, nullptr, &launch, error));
    };
  });
  stage("prune", cache + side + cache + side / 2 + side, [&] {
    const think_launch launch = workspace(plan, THINK_STAGE_PRUNE, nullptr, room);
    return [&, launch](int call) {
      const think_segment source = rows_of(call);
      error.check(think_prune(plan.get(), state, &source, &tiles, nullptr, nullptr, nullptr, &launch, error));
    };
  });
  return times;
}

}  // namespace think::cli
