#include "libthink/store/file.h"

#include <algorithm>
#include <cstdio>

#include "kernels/compact/compact.h"
#include "kernels/score/score.h"
#include "libthink/core/check.h"
#include "libthink/core/layout.h"
#include "libthink/store/parts.h"

namespace think::store {

PartName::PartName(const Part &part) {
  const char *side = part.side == THINK_KEYS ? "key" : "value";
  const auto write = [&](const char *format, auto... values) { std::snprintf(text, sizeof text, format, values...); };
  const auto of_run = [&](const char *end) { write("layers.%d.runs.%d.%s%s", part.layer, part.run, side, end); };
  switch (part.what) {
    case What::kept: of_run(".kept"); break;
    case What::index: of_run(".index"); break;
    case What::fitted: of_run(".fitted"); break;
    case What::offset: of_run(".offset"); break;
    case What::weight: of_run(".weight"); break;
    case What::scale: of_run(".scale"); break;
    case What::rows: of_run(""); break;
    case What::dense: write("layers.%d.dense.%s", part.layer, side); break;
    case What::square_sum: write("layers.%d.scores.square_sum", part.layer); break;
    case What::window: write("layers.%d.scores.window", part.layer); break;
    case What::tokens: write("layers.%d.scores.tokens", part.layer); break;
    case What::digest: write("digest"); break;
  }
}

namespace {

using Long = long long;  // what %lld takes

constexpr char kBegin[] = "{\"__metadata__\":{\"format\":\"libthink sequence\",\"version\":\"";
constexpr int64_t kDataAlignment = 64;
constexpr int32_t kMostWord = 24;  // characters of a setting, and more

Contents contents_of(const cache::Sequence &sequence) {
  Contents contents{sequence.dense_rows, sequence.settled_rows, sequence.evicted, sequence.score != nullptr, sequence.run_count, {}};
  for (int32_t run = 0; run < sequence.run_count; ++run) {
    contents.runs[run] = {sequence.runs[run].kind, sequence.runs[run].rows, sequence.runs[run].folds};
  }
  return contents;
}

// ---- the header -----------------------------------------------------------------------------------------------------------------------------------

// From the end of the metadata on. put(text, bytes) returns whether to go on.
template <class Put>
bool make_tensors(const think_cache &cache, const Contents &contents, int64_t before, const Put &put) {
  int64_t position = before, offset = 0;
  const auto text = [&](const char *data, int bytes) {
    position += bytes;
    return put(data, bytes);
  };
  if (!text("}", 1)) return false;
  const bool whole = for_each_part(cache, contents, [&](const Part &part) {
    char line[256];
    int length = std::snprintf(line, sizeof line, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", PartName(part).text, part.dtype);
    for (int32_t axis = 0; axis < part.axes; ++axis) {
      length += std::snprintf(line + length, sizeof line - static_cast<size_t>(length), axis ? ",%lld" : "%lld", static_cast<Long>(part.shape[axis]));
    }
    const int64_t end = offset + part.bytes();
    length += std::snprintf(line + length, sizeof line - static_cast<size_t>(length), "],\"data_offsets\":[%lld,%lld]}", static_cast<Long>(offset),
                            static_cast<Long>(end));
    offset = end;
    return text(line, length);
  });
  if (!whole || !text("}", 1)) return false;
  static constexpr char spaces[] = "                                                                ";
  const int padding = static_cast<int>((kDataAlignment - (8 + position) % kDataAlignment) % kDataAlignment);
  return text(spaces, padding);
}

template <class Put>
bool make_header(const think_cache &cache, Contents contents, const Put &put) {
  int64_t position = 0;
  const auto text = [&](const char *data) {
    const int64_t bytes = static_cast<int64_t>(std::strlen(data));
    position += bytes;
    return put(data, bytes);
  };
  const auto entry = [&](const char *name, const char *value) { return text(Text(",\"%s\":\"%s\"", name, value).text); };
  return text(kBegin) && text(Text("%d\"", kVersion).text) && for_each_setting(cache, entry) &&
         for_each_number(contents, [&](const char *name, int32_t number) { return entry(name, Text("%d", number).text); }) &&
         make_tensors(cache, contents, position, put);
}

int64_t header_bytes(const think_cache &cache, const Contents &contents) {
  int64_t bytes = 0;
  make_header(cache, contents, [&](const char *, int64_t more) { return bytes += more, true; });
  return bytes;
}

// ---- the data, in both directions -----------------------------------------------------------------------------------------------------------------

struct Saving {
  static constexpr bool loading = false;
  Writer &writer;
  bool move(void *data, int64_t bytes) { return writer.put(data, bytes), !writer.failed(); }
  bool zeros(int64_t bytes, const Part &) { return writer.put_zeros(bytes), !writer.failed(); }
};

struct Loading {
  static constexpr bool loading = true;
  Reader &reader;
  bool move(void *data, int64_t bytes) { return reader.get(data, bytes); }
  bool zeros(int64_t bytes, const Part &part) { return reader.zeros(bytes, PartName(part).text); }
};

// A basis in the slot of its run.
struct Slot {
  think_basis whole;
  int32_t number;
  int32_t heads;
  int64_t weight_bytes;  // of a head
  int64_t row(int32_t head) const { return int64_t{number} * heads + head; }
  char *weight(int32_t head) const { return static_cast<char *>(whole.weight) + row(head) * weight_bytes; }
};

Slot slot_of(const think_cache &cache, const cache::Run &run, const Part &part) {
  const cache::Slab &slab = cache::bases_of(cache, run.kind).slabs[part.layer];
  const think_basis &basis = part.side == THINK_KEYS ? slab.key_basis : slab.value_basis;
  return {basis, run.slot, cache.plan->shape.kv_heads, fit::weight_head_bytes(basis.channels)};
}

template <class Io>
bool move_fitted(const Slot &slot, Io &io) {
  for (int32_t head = 0; head < slot.heads; ++head) {
    int64_t &weight_offset = slot.whole.weight_offset[slot.row(head)];
    int32_t fitted = Io::loading ? 0 : weight_offset >= 0;
    if (!io.move(&fitted, sizeof fitted)) return false;
    if constexpr (Io::loading) {
      if (fitted != 0 && fitted != 1) return io.reader.damaged("damaged: fitted is %d, expected 0 or 1", fitted);
      if (fitted && !slot.whole.weight) return io.reader.damaged("damaged: fitted is 1, expected 0 in mode %d", THINK_MODE_CHANNELS);
      weight_offset = fitted ? slot.row(head) * slot.weight_bytes : -1;
    }
  }
  return true;
}

// What a head does not use is not in memory either, and nothing is in the paper's mode: zeros in the file, and in the memory that is loaded.
template <class Io>
bool move_prediction(const Slot &slot, const Part &part, Io &io) {
  const int64_t channels = slot.whole.channels;
  if (!slot.whole.weight) return io.zeros(part.bytes(), part);
  for (int32_t head = 0; head < slot.heads; ++head) {
    const int64_t row = slot.row(head), kept = slot.whole.kept[row], dropped = slot.whole.weight_offset[row] >= 0 ? channels - kept : 0;
    if (part.what == What::offset) {
      float *offset = slot.whole.offset + row * channels;
      if constexpr (Io::loading) std::fill_n(offset, channels, 0.0f);
      if (!io.zeros((channels - dropped) * 4, part) || !io.move(offset + channels - dropped, dropped * 4)) return false;
    } else {
      const int64_t used = dropped * ((kept + 7) / 8 * 8) * 2;
      if constexpr (Io::loading) std::memset(slot.weight(head), 0, static_cast<size_t>(slot.weight_bytes));
      if (!io.move(slot.weight(head), used) || !io.zeros(slot.weight_bytes - used, part)) return false;
    }
  }
  return true;
}

float *scales_of(const think_cache &cache, const cache::Run &run, const Part &part) {
  const cache::Slab &slab = cache.pools[run.kind].slabs[part.layer];
  return (part.side == THINK_KEYS ? slab.key_scale : slab.value_scale) + int64_t{run.slot} * cache.plan->shape.kv_heads;
}

template <class Io>
bool move_rows(const think_cache &cache, const cache::Run &run, const Part &part, Io &io) {
  const Shape &shape = cache.plan->shape;
  const think_segment segment = cache::compact_segment(cache, part.layer, run.kind, cache::compact_rows(run));
  const Side side = part.side == THINK_KEYS ? Side::keys : Side::values;
  for (int32_t page = 0; page < run.pages.size; ++page) {
    int64_t bytes = 0;
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      const SideView view = side_view(segment, side, shape, kOneSequence, 0, head);
      const int64_t more = head_bytes(cache::kPageTokens, view.channels, view.dtype, side == Side::keys);
      if (!io.move(row_address(view, int64_t{page} * cache::kPageTokens), more)) return false;
      bytes += more;
    }
    if (!io.zeros(part.shape[1] * part.item - bytes, part)) return false;
  }
  return true;
}

template <class Io>
bool move_dense(const think_cache &cache, const cache::Sequence &sequence, const Part &part, Io &io) {
  const think_segment segment = cache::dense_segment(cache, part.layer, cache::dense_rows(sequence));
  for (int32_t head = 0; head < cache.plan->shape.kv_heads; ++head) {
    const SideView view = side_view(segment, part.side == THINK_KEYS ? Side::keys : Side::values, cache.plan->shape, kOneSequence, 0, head);
    for (int64_t row = 0; row < sequence.dense_rows; row += cache::kPageTokens) {
      const int64_t rows = std::min<int64_t>(cache::kPageTokens, sequence.dense_rows - row);
      if (!io.move(row_address(view, row), rows * view.row_stride)) return false;
    }
  }
  return true;
}

// A sequence that has no score state, as its cache keeps none, leaves it out.
template <class Io>
bool move_score(const think_cache &cache, const cache::Sequence &sequence, const Part &part, Io &io) {
  const Shape &shape = cache.plan->shape;
  if constexpr (Io::loading) {
    if (!sequence.score) return io.reader.skip(part.bytes());
  }
  const score::StateView state = score::state_view(shape, sequence.score + part.layer * score::state_bytes(shape), 0);
  if (part.what == What::square_sum) return io.move(state.square_sum, part.bytes());
  if (part.what == What::window) return io.move(state.window, part.bytes());
  return io.move(state.tokens, part.bytes());
}

template <class Io>
bool move_part(const think_cache &cache, const cache::Sequence &sequence, const Part &part, Io &io) {
  const cache::Run &run = sequence.runs[part.run];
  switch (part.what) {
    case What::kept: {
      const Slot slot = slot_of(cache, run, part);
      return io.move(slot.whole.kept + slot.row(0), part.bytes());
    }
    case What::index: {
      const Slot slot = slot_of(cache, run, part);
      return io.move(slot.whole.index + slot.row(0) * slot.whole.channels, part.bytes());
    }
    case What::fitted: return move_fitted(slot_of(cache, run, part), io);
    case What::offset:
    case What::weight: return move_prediction(slot_of(cache, run, part), part, io);
    case What::scale: return io.move(scales_of(cache, run, part), part.bytes());
    case What::rows: return move_rows(cache, run, part, io);
    case What::dense: return move_dense(cache, sequence, part, io);
    case What::square_sum:
    case What::window:
    case What::tokens: return move_score(cache, sequence, part, io);
    case What::digest: return true;  // by its own
  }
  return false;
}

// ---- loading --------------------------------------------------------------------------------------------------------------------------------------

bool same_text(Reader &reader, const char *expected, int64_t bytes, bool &same) {
  char found[256];
  same = true;
  for (int64_t done = 0; done < bytes; done += static_cast<int64_t>(sizeof found)) {
    const int64_t part = std::min<int64_t>(bytes - done, sizeof found);
    if (!reader.get(found, part)) return false;
    same = same && std::memcmp(found, expected + done, static_cast<size_t>(part)) == 0;
  }
  return true;
}

// Text up to a quotation mark, which is taken too. What would not look good in a message ends it.
bool read_word(Reader &reader, char (&word)[kMostWord + 1]) {
  for (int32_t at = 0; at <= kMostWord; ++at) {
    char next;
    if (!reader.get(&next, 1)) return false;
    if (next == '"') {
      word[at] = 0;
      return true;
    }
    if (next < ' ' || next > '~') break;
    word[at] = next;
  }
  return reader.damaged("damaged: a value of the metadata before byte %lld is no short text", static_cast<Long>(reader.position()));
}

bool read_entry(Reader &reader, const char *name, char (&word)[kMostWord + 1]) {
  const Text expected(",\"%s\":\"", name);
  bool same;
  if (!same_text(reader, expected.text, static_cast<int64_t>(std::strlen(expected.text)), same)) return false;
  if (!same) return reader.damaged("damaged, or of another kind of cache: the metadata have no %s where it is expected", name);
  return read_word(reader, word);
}

// A number from 0 on, in its only form.
bool number_of(const char *word, int32_t &number) {
  int64_t value = 0;
  const char *at = word;
  for (; *at >= '0' && *at <= '9' && value <= INT32_MAX; ++at) value = 10 * value + (*at - '0');
  number = static_cast<int32_t>(value);
  return at != word && *at == 0 && value <= INT32_MAX && (word[0] != '0' || word[1] == 0);
}

bool read_metadata(const think_cache &cache, Reader &reader, int64_t header, Contents &contents) {
  bool same;
  if (header < static_cast<int64_t>(sizeof kBegin)) {
    return reader.damaged("not a file of think_cache_save(): a header of %lld bytes", static_cast<Long>(header));
  }
  if (!same_text(reader, kBegin, static_cast<int64_t>(std::strlen(kBegin)), same)) return false;
  if (!same) return reader.damaged("not a file of think_cache_save(): another header");
  char word[kMostWord + 1];
  if (!read_word(reader, word)) return false;
  int32_t version = 0;
  if (!number_of(word, version)) return reader.damaged("damaged: the version is '%s'", word);
  if (version != kVersion) return reader.damaged("expected version %d of the format, the only one that this library reads, got version %d", kVersion, version);
  const bool agreed = for_each_setting(cache, [&](const char *name, const char *expected) {
    if (!read_entry(reader, name, word)) return false;
    if (std::strcmp(word, expected) == 0) return true;
    return reader.damaged("of another kind of cache: expected %s %s, got %s", name, expected, word);
  });
  if (!agreed) return false;
  contents = {};
  return for_each_number(contents, [&](const char *name, int32_t &number) {
    if (!read_entry(reader, name, word)) return false;
    if (!number_of(word, number)) return reader.damaged("damaged: expected a number as %s, got '%s'", name, word);
    const bool runs = &number == &contents.run_count;  // the next numbers go into an array
    if (runs && number > THINK_CACHE_MAX_RUNS) return reader.damaged("damaged: expected at most %d runs, got %d", THINK_CACHE_MAX_RUNS, number);
    return true;
  });
}

// Is this what a sequence of this cache can hold?
bool check_contents(const think_cache &cache, Reader &reader, const Contents &contents) {
  const int64_t most = cache.plan->shape.max_tokens;
  int64_t tokens = contents.dense_rows;
  if (contents.settled_rows > contents.dense_rows) {
    return reader.damaged("damaged: expected at most %d settled rows, got %d", contents.dense_rows, contents.settled_rows);
  }
  if (contents.scores > 1) return reader.damaged("damaged: expected 0 or 1 as scores, got %d", contents.scores);
  for (int32_t run = 0; run < contents.run_count; ++run) {
    const Contents::Run &one = contents.runs[run];
    if (one.kind >= cache::kDense || !cache::can_hold(cache, one.kind)) return reader.damaged("damaged: run %d is of the unknown kind %d", run, one.kind);
    if (one.rows == 0 || one.rows % kTileTokens) return reader.damaged("damaged: expected whole tiles of 32 rows in run %d, got %d rows", run, one.rows);
    if (one.folds > one.rows / kTileTokens) return reader.damaged("damaged: run %d has %d tiles and %d folds", run, one.rows / kTileTokens, one.folds);
    tokens += one.rows;
  }
  if (contents.run_count > 0 && contents.dense_rows < cache.prune.sinks) {
    return reader.damaged("damaged: expected at least %d dense rows (sinks), got %d", cache.prune.sinks, contents.dense_rows);
  }
  if (tokens == 0) return reader.damaged("damaged: a sequence without tokens");
  if (tokens > most) {
    return reader.damaged("expected at most %lld tokens (max_tokens of the plan), got %lld", static_cast<Long>(most), static_cast<Long>(tokens));
  }
  return true;
}

bool read_header(const think_cache &cache, Reader &reader, Contents &contents) {
  uint64_t header = 0;
  if (!reader.get(&header, sizeof header)) return false;
  if (header > static_cast<uint64_t>(INT64_MAX)) {
    return reader.damaged("not a file of think_cache_save(): a header of %llu bytes", static_cast<unsigned long long>(header));
  }
  if (!read_metadata(cache, reader, static_cast<int64_t>(header), contents) || !check_contents(cache, reader, contents)) return false;
  const int64_t expected = header_bytes(cache, contents);
  if (static_cast<int64_t>(header) != expected) {
    return reader.damaged("damaged: expected a header of %lld bytes, got one of %lld", static_cast<Long>(expected), static_cast<Long>(header));
  }
  return make_tensors(cache, contents, reader.position() - 8, [&](const char *text, int64_t bytes) {
    bool same;
    if (!same_text(reader, text, bytes, same)) return false;
    return same || reader.damaged("damaged: the header is another one before byte %lld", static_cast<Long>(reader.position()));
  });
}

cache::Sequence sequence_like(const Contents &contents) {
  cache::Sequence like{};
  like.dense_rows = contents.dense_rows;
  like.settled_rows = contents.settled_rows;
  like.evicted = contents.evicted;
  like.run_count = contents.run_count;
  for (int32_t run = 0; run < contents.run_count; ++run) {
    like.runs[run].kind = contents.runs[run].kind;
    like.runs[run].rows = contents.runs[run].rows;
    like.runs[run].folds = contents.runs[run].folds;
  }
  return like;
}

// ---- what was read, or came from a device's slab: would the stages stay within it? ----------------------------------------------------------------

// Widths first, as all else is placed by them; then, with the last of the three arrays, the whole choice.
think_status check_basis(const think_cache &cache, const cache::Run &run, const Part &part, think_error *error) {
  const Shape &shape = cache.plan->shape;
  const Slot slot = slot_of(cache, run, part);
  const char *name = part.side == THINK_KEYS ? "key" : "value";
  if (part.what == What::kept) {
    int64_t total = 0;
    for (int32_t head = 0; head < slot.heads; ++head) {
      const int32_t kept = slot.whole.kept[slot.row(head)], unit = part.side == THINK_VALUES ? 8 : 1;
      if (kept < 1 || kept > slot.whole.channels || kept % unit) return fail(error, THINK_E_FORMAT, 0, "head %d keeps %d %s channels", head, kept, name);
      total += kept;
    }
    const int64_t expected = prune_total(shape, cache.prune, part.side);
    if (total != expected) {
      return fail(error, THINK_E_FORMAT, 0, "expected %lld %s channels in all heads together, got %lld", static_cast<Long>(expected), name,
                  static_cast<Long>(total));
    }
    think_segment placed = cache::compact_segment(cache, part.layer, run.kind, cache::compact_rows(run));
    (part.side == THINK_KEYS ? placed.value_head_offset : placed.key_head_offset) = nullptr;  // of the other side nothing has been read yet, or all is placed
    compact::place(shape, placed, kOneSequence);
    // The total bounds 16-bit rows; what quantized tiles are padded with depends on each width.
    const think_dtype dtype = cache::stored_dtype(cache, part.layer, part.side);
    int64_t bytes = 0;
    for (int32_t head = 0; head < slot.heads; ++head) bytes += head_bytes(cache::kPageTokens, slot.whole.kept[slot.row(head)], dtype, part.side == THINK_KEYS);
    if (bytes <= cache::compact_side_bytes(cache, part.layer, part.side, true)) return THINK_OK;
    return fail(error, THINK_E_FORMAT, 0, "the %s channels of a page do not fit into it", name);
  }
  return check_basis_contents({error, 0, Text("layers.%d.runs.%d.%s", part.layer, part.run, name).text, "."}, slot.whole, shape, part.side, slot.number);
}

think_status check_scale(const think_cache &cache, const cache::Run &run, const Part &part, think_error *error) {
  const float *scale = scales_of(cache, run, part), *end = scale + cache.plan->shape.kv_heads;
  const float *wrong = std::find_if_not(scale, end, is_scale);
  if (wrong == end) return THINK_OK;
  return fail(error, THINK_E_FORMAT, 0, "a scale of %g, expected 2^-100 .. 2^100", static_cast<double>(*wrong));
}

// Trims leave what a score state has seen, so that may be more than the sequence holds; but it must be possible to count on.
think_status check_seen(const think_cache &cache, const cache::Sequence &sequence, const Part &part, think_error *error) {
  if (!sequence.score) return THINK_OK;
  const Shape &shape = cache.plan->shape;
  const int64_t seen = *score::state_view(shape, sequence.score + part.layer * score::state_bytes(shape), 0).tokens;
  if (seen >= 0 && seen <= INT64_MAX / 2) return THINK_OK;
  return fail(error, THINK_E_FORMAT, 0, "the scores of layer %d are of %lld tokens", part.layer, static_cast<Long>(seen));
}

think_status check_part(const think_cache &cache, const cache::Sequence &sequence, const Part &part, think_error *error) {
  switch (part.what) {
    case What::kept:
    case What::fitted: return check_basis(cache, sequence.runs[part.run], part, error);
    case What::scale: return check_scale(cache, sequence.runs[part.run], part, error);
    case What::tokens: return check_seen(cache, sequence, part, error);
    default: return THINK_OK;
  }
}

bool read_data(const think_cache &cache, const cache::Sequence &sequence, const Contents &contents, Reader &reader) {
  Loading io{reader};
  return for_each_part(cache, contents, [&](const Part &part) {
    if (part.what == What::digest) {
      const uint64_t expected = reader.digest().value();
      uint64_t found = 0;
      if (!reader.get(&found, sizeof found)) return false;
      return found == expected || reader.damaged("damaged: the digest does not fit what was read");
    }
    think_error found = THINK_ERROR_INIT;
    if (!move_part(cache, sequence, part, io)) return false;
    return check_part(cache, sequence, part, &found) == THINK_OK || reader.damaged("damaged: %s", found.message);
  });
}

}  // namespace

int64_t saved_bytes(const think_cache &cache, const cache::Sequence &sequence) {
  const Contents contents = contents_of(sequence);
  int64_t bytes = 8 + header_bytes(cache, contents);
  for_each_part(cache, contents, [&](const Part &part) { return bytes += part.bytes(), true; });
  return bytes;
}

think_status check(const Argument &argument, const think_cache &cache, const cache::Sequence &sequence) {
  think_error found = THINK_ERROR_INIT;
  if (for_each_part(cache, contents_of(sequence), [&](const Part &part) { return check_part(cache, sequence, part, &found) == THINK_OK; })) return THINK_OK;
  return fail(argument.error, THINK_E_STATE, argument.position, "%s: damaged in the slab, which nobody else may write to: %s", argument.name, found.message);
}

void save(const think_cache &cache, const cache::Sequence &sequence, Writer &writer) {
  const Contents contents = contents_of(sequence);
  const uint64_t header = static_cast<uint64_t>(header_bytes(cache, contents));
  writer.put(&header, sizeof header);
  make_header(cache, contents, [&](const char *text, int64_t bytes) { return writer.put(text, bytes), !writer.failed(); });
  Saving io{writer};
  for_each_part(cache, contents, [&](const Part &part) { return move_part(cache, sequence, part, io); });
  const uint64_t digest = writer.digest().value();
  writer.put(&digest, sizeof digest);
  writer.flush();
}

bool load(think_cache &cache, int32_t number, Reader &reader) {
  Contents contents;
  if (!read_header(cache, reader, contents)) return false;
  cache::Sequence &sequence = cache.sequences[number];
  // Also where the caller's function throws.
  struct Guard {
    think_cache &cache;
    int32_t number;
    bool done;
    ~Guard() {
      if (!done) cache::drop(cache, number);
    }
  } guard{cache, number, false};
  if (!cache::imitate(cache, number, sequence_like(contents), contents.scores && cache::keeps_scores(cache))) return false;
  guard.done = read_data(cache, sequence, contents, reader);
  return guard.done;
}

}  // namespace think::store
