#include "device_bench.h"

#include <algorithm>

namespace think::cli {
namespace {

// Caches are used in turn, so many that three times the largest L2 (60 MB) lie between two uses of one.
constexpr int64_t kColdBytes = 180 << 20, kPattern = 16 << 20;
// Calls of one graph: enough that the launch of the graph does not count.
constexpr int kCalls = 12;
constexpr int32_t kPageTokens = 256;

bool is_code(think_dtype dtype) { return think_dtype_bytes(dtype) == 0; }
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

// Whose rows there are, and where: pages of all sequences in turn, as an engine hands them out while they grow together; the room behind the last row of each
// is not read.
struct DeviceBench::Rows {
  explicit Rows(const AttendCase &wanted) : lengths(wanted.lengths), paged(!wanted.lengths.empty()), page_tokens(paged ? kPageTokens : wanted.tokens) {
    if (!paged) lengths.assign(static_cast<size_t>(wanted.batch), wanted.tokens);
    pages_stride = (wanted.tokens + page_tokens - 1) / page_tokens;
    pages.assign(lengths.size() * static_cast<size_t>(pages_stride), -1);
    for (int32_t page = 0; page < pages_stride; ++page) {
      for (size_t sequence = 0; sequence < lengths.size(); ++sequence) {
        if (page * page_tokens < lengths[sequence]) pages[sequence * static_cast<size_t>(pages_stride) + static_cast<size_t>(page)] = page_count++;
      }
    }
  }

  std::vector<int32_t> lengths, pages;
  bool paged;
  int32_t page_tokens, pages_stride = 0, page_count = 0;
};

// Keys, and values behind them; the segment has its pointers to neither yet, nor bases.
struct DeviceBench::Cache {
  think_segment segment = THINK_SEGMENT_INIT;
  int64_t key_room = 0, room = 0;  // bytes of the keys, and of all, with the room that no row uses
  int64_t bytes = 0;               // that an attention must read

  void put_at(std::byte *memory) {
    segment.key = memory;
    segment.value = memory + key_room;
  }
};

DeviceBench::Cache DeviceBench::lay_out(const Plan &plan, Room &room, const AttendCase &wanted, const Rows &rows) const {
  Cache cache;
  think_segment &segment = cache.segment;
  segment.key_layout = wanted.key_kept < wanted.channels || is_code(wanted.key_dtype) ? THINK_TILES : THINK_ROWS;
  segment.value_layout = is_code(wanted.value_dtype) ? THINK_TILES : THINK_ROWS;
  segment.key_dtype = wanted.key_dtype;
  segment.value_dtype = wanted.value_dtype;
  segment.page_tokens = rows.page_tokens;
  if (rows.paged) segment.pages = room.copy(rows.pages), segment.pages_stride = rows.pages_stride;
  segment.lengths = room.copy(rows.lengths);
  // A page whose heads have the same width each: think_layout() would count the widest that heads of other widths could be.
  think_format format = THINK_FORMAT_INIT;
  format.key_layout = segment.key_layout;
  format.value_layout = segment.value_layout;
  format.key_dtype = segment.key_dtype;
  format.value_dtype = segment.value_dtype;
  think_prune_options options = THINK_PRUNE_OPTIONS_INIT;
  options.budget = THINK_BUDGET_UNIFORM;
  options.key_kept = wanted.key_kept;
  options.value_kept = wanted.value_kept;
  options.sinks = options.recent = -1;
  options.dense_limit = -1;
  think_prune_result page = THINK_PRUNE_RESULT_INIT;
  ErrorRecord error;
  error.check(think_prune_preview(plan.get(), &format, rows.page_tokens, &options, &page, error));
  const int64_t places = static_cast<int64_t>(wanted.batch) * wanted.kv_heads;
  const auto side = [&](int64_t page_bytes, think_dtype dtype, int64_t *stride, float *&scale) {
    stride[0] = page_bytes;
    stride[1] = page_bytes / wanted.kv_heads;
    const int32_t unit = is_code(dtype) ? 32 : 1;  // rows that are read together
    for (const int32_t length : rows.lengths) cache.bytes += (length + unit - 1) / unit * (page_bytes / (rows.page_tokens / unit));
    if (dtype == THINK_F8_E4M3) {
      const int64_t scale_bytes = places * static_cast<int64_t>(sizeof(float));
      scale = static_cast<float *>(room.reserve(scale_bytes));
      cache.bytes += scale_bytes;
    }
    return aligned(rows.page_count * page_bytes);
  };
  cache.key_room = side(page.key_bytes, wanted.key_dtype, segment.key_stride, segment.key_scale);
  cache.room = cache.key_room + side(page.value_bytes, wanted.value_dtype, segment.value_stride, segment.value_scale);
  return cache;
}

// By the library itself: any bytes would take the same time as codes, but as scales they could be NaN, infinite or zero.
void DeviceBench::store_codes(const Plan &plan, Room &room, int32_t sequences, const Cache &dense, Cache &codes) const {
  think_batch batch = THINK_BATCH_INIT;
  batch.count = sequences;
  const think_launch launch = workspace(plan, THINK_STAGE_COMPACT, nullptr, room);
  ErrorRecord error;
  codes.segment.flags = THINK_SEGMENT_MEASURE;
  error.check(think_compact(plan.get(), &dense.segment, &codes.segment, &batch, &launch, error));
  codes.segment.flags = 0;
}

Measured DeviceBench::attend(const AttendCase &wanted) {
  return measure([&](Measured &measured) {
    const int32_t batch = wanted.batch, query_heads = wanted.query_heads, kv_heads = wanted.kv_heads, channels = wanted.channels;
    think_problem problem = THINK_PROBLEM_INIT;
    problem.query_dtype = problem.cache_dtype = problem.output_dtype = THINK_BF16;
    problem.query_heads = query_heads;
    problem.kv_heads = kv_heads;
    problem.key_channels = channels;
    problem.max_batch = batch;
    problem.max_tokens = wanted.tokens;
    problem.softcap = wanted.softcap;
    const Plan plan = make_plan(context_, problem);
    Room room(&driver_);
    const Rows rows(wanted);
    Cache cache = lay_out(plan, room, wanted, rows), in_arena = cache;
    const bool codes = is_code(wanted.key_dtype) || is_code(wanted.value_dtype);
    if (codes) {
      AttendCase dense = wanted;
      dense.key_kept = dense.value_kept = channels;
      dense.key_dtype = dense.value_dtype = THINK_BF16;
      in_arena = lay_out(plan, room, dense, rows);
    }
    if (in_arena.room > arena_.size()) {
      measured.skipped = "the cache of " + std::to_string(in_arena.room >> 20) + " MiB is larger than the arena of " + std::to_string(arena_.size() >> 20);
      return;
    }
    const int64_t copies = std::clamp<int64_t>((kColdBytes + cache.room - 1) / cache.room, 1, std::min<int64_t>(256, arena_.size() / cache.room));
    think_basis key_basis = THINK_BASIS_INIT, value_basis = THINK_BASIS_INIT;
    measured.bytes = cache.bytes;
    const auto add_basis = [&](int32_t side, int32_t kept, think_basis &basis, const think_basis *&in_segment) {
      if (kept == channels) return;
      basis = make_basis(plan, room, side, batch, kv_heads, channels, kept);
      in_segment = &basis;
      measured.bytes += static_cast<int64_t>(batch) * kv_heads * (channels - kept) * ((kept + 7) / 8 * 8 * 2 + 4);
    };
    add_basis(THINK_KEYS, wanted.key_kept, key_basis, cache.segment.key_basis);
    add_basis(THINK_VALUES, wanted.value_kept, value_basis, cache.segment.value_basis);
    std::byte *memory = arena();
    if (codes) {
      memory = static_cast<std::byte *>(room.reserve(copies * cache.room));
      in_arena.put_at(arena());
      cache.put_at(memory);
      store_codes(plan, room, batch, in_arena, cache);
      driver_.repeat(memory, cache.room, copies * cache.room);
    }
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
      for (int call = calls; call-- > 0;) {  // the last one reads the rows that codes are made of, and leaves its output
        cache.put_at(memory + call % copies * cache.room);
        ErrorRecord error;
        error.check(think_attend(plan.get(), &query, nullptr, &cache.segment, 1, nullptr, &output, nullptr, &launch, error));
      }
    });
    measured.output = room.fetch(static_cast<const uint16_t *>(output.data), static_cast<size_t>(query_bytes / 2));
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
