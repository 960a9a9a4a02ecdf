#include "sequence.h"

#include <algorithm>

#include "failure.h"
#include "tensor_reader.h"
#include "think/cache.h"

namespace think::cli {
namespace {

constexpr char kFormat[] = "libthink sequence";
constexpr char kVersion[] = "1";

StoredSide read_side(const TensorReader &reader, const std::string &prefix, int32_t kv_heads, int32_t channels, int32_t unit) {
  StoredSide side;
  if (!reader.has(prefix + ".kept")) return side;
  side.kept = reader.numbers<int32_t>(prefix + ".kept", "I32", {kv_heads});
  side.index = reader.numbers<int32_t>(prefix + ".index", "I32", {kv_heads, channels});
  side.fitted = reader.numbers<int32_t>(prefix + ".fitted", "I32", {kv_heads});
  for (int32_t head = 0; head < kv_heads; ++head) {
    reader.check_index(prefix, head, side.kept[head], side.index.data() + static_cast<int64_t>(head) * channels, channels, unit);
    if (side.fitted[head] != 0 && side.fitted[head] != 1) {
      reader.damaged("'" + prefix + ".fitted'[" + std::to_string(head) + "] is " + std::to_string(side.fitted[head]) + ", expected 0 or 1");
    }
  }
  return side;
}

// A layer without a format of its own has that of the layer before.
std::vector<StoredFormat> read_formats(const TensorReader &reader, const SafetensorsView &file, int32_t layers) {
  std::vector<StoredFormat> formats;
  for (int32_t layer = 0; layer < layers; ++layer) {
    const std::string prefix = layer == 0 ? "" : "layers." + std::to_string(layer) + ".";
    if (layer > 0 && file.metadata.count(prefix + "key_dtype") == 0) {
      formats.push_back(formats.back());
      continue;
    }
    const auto word = [&](const char *key) { return printable(reader.text(prefix + key), 16); };
    formats.push_back({word("key_dtype"), word("key_layout"), word("value_dtype"), word("value_layout")});
    for (const std::string &layout : {formats.back().key_layout, formats.back().value_layout}) {
      if (layout != "tiles" && layout != "rows") reader.damaged("a layout is '" + layout + "', expected tiles or rows");
    }
  }
  return formats;
}

void count_bytes(const SafetensorsView &file, int64_t file_bytes, StoredSequence &sequence) {
  int64_t counted = 0;
  for (const auto &[name, tensor] : file.tensors) {
    const auto bytes = static_cast<int64_t>(tensor.data.size());
    int64_t *place = nullptr;
    if (name.find(".dense.") != std::string::npos) {
      place = &sequence.bytes_dense_rows;
    } else if (name.find(".scores.") != std::string::npos) {
      place = &sequence.bytes_scores;
    } else if (name.find(".runs.") != std::string::npos) {
      place = name.ends_with(".key") ? &sequence.bytes_key_rows : name.ends_with(".value") ? &sequence.bytes_value_rows : &sequence.bytes_basis;
    } else {
      continue;  // the digest
    }
    *place += bytes;
    counted += bytes;
  }
  sequence.bytes_header = file_bytes - counted;
}

}  // namespace

int64_t StoredSequence::compact_tokens() const {
  int64_t rows = 0;
  for (const StoredRun &run : runs) rows += run.rows;
  return rows;
}

int32_t StoredSequence::sink_rows() const { return runs.empty() ? std::min(sinks, dense_rows) : sinks; }

int64_t StoredSequence::dense_bytes() const {
  return (tokens() + evicted) * layers * kv_heads * (int64_t{key_channels} + value_channels) * 2;
}

std::string StoredSequence::formats_text() const {
  const auto others = std::count_if(formats.begin(), formats.end(), [&](const StoredFormat &format) { return !(format == formats[0]); });
  return "keys " + formats[0].key_dtype + ", values " + formats[0].value_dtype + (others == 0 ? "" : " (" + std::to_string(others) + " layers have others)");
}

bool is_sequence(const SafetensorsView &file) {
  const auto format = file.metadata.find("format");
  return format != file.metadata.end() && format->second == kFormat;
}

StoredSequence parse_sequence(const SafetensorsView &file, int64_t file_bytes, const std::string &name) {
  const TensorReader reader(file, name, "sequence");
  if (!is_sequence(file)) reader.fail("not a file of think_cache_save() (__metadata__ has no format '" + std::string(kFormat) + "')");
  if (reader.text("version") != kVersion) {
    reader.fail("sequence format version '" + printable(reader.text("version")) + "', this program reads version " + kVersion);
  }
  const auto number = [&](const char *key, int64_t low, int64_t high) { return static_cast<int32_t>(reader.integer(key, low, high)); };
  StoredSequence sequence;
  // Every layer has tensors, so their number keeps a made-up one small.
  sequence.layers = number("layers", 1, static_cast<int64_t>(file.tensors.size()));
  sequence.kv_heads = number("kv_heads", 1, kMostHeads);
  sequence.query_heads = number("query_heads", sequence.kv_heads, kMostHeads);
  if (sequence.query_heads % sequence.kv_heads != 0) reader.damaged("'query_heads' must be a multiple of 'kv_heads'");
  sequence.key_channels = number("key_channels", 8, kMostChannels);
  sequence.value_channels = number("value_channels", 8, kMostChannels);
  if (sequence.key_channels % 8 != 0 || sequence.value_channels % 8 != 0) reader.damaged("head sizes must be multiples of 8");
  sequence.window = number("window", 1, 65536);
  const auto word = [&](const std::string &key) { return printable(reader.text(key), 16); };
  sequence.query_dtype = word("query_dtype");
  sequence.cache_dtype = word("cache_dtype");
  sequence.mode = reader.one_of("mode", "regressed", "channels");
  sequence.budget = reader.one_of("budget", "adaptive", "uniform");
  sequence.formats = read_formats(reader, file, sequence.layers);
  sequence.key_kept = number("key_kept", 1, sequence.key_channels);
  sequence.value_kept = number("value_kept", 1, sequence.value_channels);
  sequence.sinks = number("sinks", 0, INT32_MAX);
  sequence.dense_rows = number("dense_rows", 0, INT32_MAX);
  if (file.metadata.count("evicted") != 0) sequence.evicted = number("evicted", 0, INT32_MAX);
  sequence.scores = number("scores", 0, 1) == 1;
  const int32_t runs = number("runs", 0, THINK_CACHE_MAX_RUNS);
  if (runs > 0 && sequence.dense_rows < sequence.sinks) {
    reader.damaged("'dense_rows' is " + std::to_string(sequence.dense_rows) + ", expected at least the " + std::to_string(sequence.sinks) + " sinks");
  }
  for (int32_t index = 0; index < runs; ++index) {
    const std::string prefix = "runs." + std::to_string(index);
    StoredRun &run = sequence.runs.emplace_back();
    run.rows = number((prefix + ".rows").c_str(), 32, INT32_MAX - 31);
    if (run.rows % 32 != 0) reader.damaged("'" + prefix + ".rows' is " + std::to_string(run.rows) + ", expected a multiple of 32");
    run.folds = number((prefix + ".folds").c_str(), 0, run.rows / 32);
    for (int32_t layer = 0; layer < sequence.layers; ++layer) {
      const std::string place = "layers." + std::to_string(layer) + "." + prefix;
      run.key.push_back(read_side(reader, place + ".key", sequence.kv_heads, sequence.key_channels, 1));
      run.value.push_back(read_side(reader, place + ".value", sequence.kv_heads, sequence.value_channels, 8));
    }
  }
  if (sequence.tokens() < 1 || sequence.tokens() > INT32_MAX) {
    reader.damaged("it has " + std::to_string(sequence.tokens()) + " tokens, expected 1 .. " + std::to_string(INT32_MAX));
  }
  count_bytes(file, file_bytes, sequence);
  return sequence;
}

}  // namespace think::cli
