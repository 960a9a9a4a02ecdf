#include "layer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "bytes.h"
#include "failure.h"
#include "tensor_reader.h"

namespace think::cli {
namespace {

constexpr char kFormat[] = "libthink-layer";
constexpr char kFormatVersion[] = "1";

// Widths, index and weights must be what attention relies on without looking again.
void check_basis(const TensorReader &reader, const LayerSide &side, int32_t kv_heads, bool keys, const std::string &prefix) {
  for (int32_t head = 0; head < kv_heads; ++head) {
    const std::string where = "[" + std::to_string(head) + "]";
    const int32_t kept = side.kept[head];
    reader.check_index(prefix, head, kept, side.index.data() + static_cast<int64_t>(head) * side.channels, side.channels, keys ? 1 : 8);
    const int64_t offset = side.weight_offset[head];
    const int64_t block = weight_block_bytes(side.channels, kept);
    if (offset != -1 && (offset < 0 || offset % 16 != 0 || offset > side.weight.size() || block > side.weight.size() - offset)) {
      reader.damaged("'" + prefix + ".weight_offset'" + where + " is " + std::to_string(offset) + ": a block of " +
                  std::to_string(block) + " bytes must lie at a multiple of 16 inside the " + std::to_string(side.weight.size()) +
                  " bytes of weights");
    }
  }
}

// The heads are tensors of their own in the file and one block in memory, as the library wants them.
void read_compact(const TensorReader &reader, const Layer &layer, LayerSide &side, bool keys, const std::string &prefix) {
  const int64_t bytes = element_bytes(layer.dtype);
  int64_t total = 0;
  for (int32_t head = 0; head < layer.kv_heads; ++head) {
    side.head_offset.push_back(total);
    total += layer.rows * side.kept[head] * bytes;
  }
  if (layer.rows == 0) return;
  const auto shape_of = [&](int32_t head) {
    return keys ? std::vector<int64_t>{layer.rows / 32, side.kept[head], 32} : std::vector<int64_t>{layer.rows, side.kept[head]};
  };
  // All shapes before the allocation: then `total` is known to be less than the file.
  std::vector<const SafeTensor *> parts;
  for (int32_t head = 0; head < layer.kv_heads; ++head) {
    parts.push_back(&reader.tensor(prefix + (keys ? ".tiles." : ".rows.") + std::to_string(head), dtype_tag(layer.dtype), shape_of(head)));
  }
  side.compact = Buffer(total);
  for (int32_t head = 0; head < layer.kv_heads; ++head) {
    std::byte *destination = side.compact.data() + side.head_offset[head];
    std::memcpy(destination, parts[head]->data.data(), parts[head]->data.size());
    reader.check_finite(prefix + (keys ? ".tiles." : ".rows.") + std::to_string(head), destination, layer.dtype, shape_of(head));
  }
}

void read_side(const TensorReader &reader, const SafetensorsView &file, const Layer &layer, LayerSide &side, bool keys) {
  const std::string prefix = keys ? "key" : "value";
  side.kept = reader.numbers<int32_t>(prefix + ".kept", "I32", {layer.kv_heads});
  side.index = reader.numbers<int32_t>(prefix + ".index", "I32", {layer.kv_heads, side.channels});
  side.weight_offset = reader.numbers<int64_t>(prefix + ".weight_offset", "I64", {layer.kv_heads});
  side.offset = reader.floats(prefix + ".offset", {layer.kv_heads, side.channels});
  side.energy = reader.floats(prefix + ".energy", {layer.kv_heads, side.channels});
  const auto weight = file.tensors.find(prefix + ".weight");
  const int64_t halves = weight == file.tensors.end() ? 0 : static_cast<int64_t>(weight->second.data.size() / 2);
  side.weight = reader.rows(prefix + ".weight", THINK_F16, {halves});
  check_basis(reader, side, layer.kv_heads, keys, prefix);
  read_compact(reader, layer, side, keys, prefix);
  side.dense = reader.rows(prefix + ".dense", layer.dtype, {layer.kv_heads, layer.dense_rows(), side.channels});
}

void list_side(const Layer &layer, const LayerSide &side, bool keys, std::vector<NamedTensor> &tensors) {
  const std::string prefix = keys ? "key" : "value";
  const int64_t bytes = element_bytes(layer.dtype), heads = layer.kv_heads;
  const auto add = [&](const std::string &key, const char *dtype, std::vector<int64_t> shape, std::span<const std::byte> data) {
    tensors.push_back({prefix + key, dtype, std::move(shape), data});
  };
  for (int32_t head = 0; head < layer.kv_heads && layer.rows > 0; ++head) {
    const int64_t kept = side.kept[head];
    const auto data =
        side.compact.bytes().subspan(static_cast<size_t>(side.head_offset[head]), static_cast<size_t>(layer.rows * kept * bytes));
    if (keys) {
      add(".tiles." + std::to_string(head), dtype_tag(layer.dtype), {layer.rows / 32, kept, 32}, data);
    } else {
      add(".rows." + std::to_string(head), dtype_tag(layer.dtype), {layer.rows, kept}, data);
    }
  }
  add(".dense", dtype_tag(layer.dtype), {heads, layer.dense_rows(), side.channels}, side.dense.bytes());
  add(".weight_offset", "I64", {heads}, bytes_of(side.weight_offset));
  add(".kept", "I32", {heads}, bytes_of(side.kept));
  add(".index", "I32", {heads, side.channels}, bytes_of(side.index));
  add(".offset", "F32", {heads, side.channels}, bytes_of(side.offset));
  add(".energy", "F32", {heads, side.channels}, bytes_of(side.energy));
  add(".weight", "F16", {side.weight.size() / 2}, side.weight.bytes());
}

}  // namespace

int64_t weight_block_bytes(int32_t channels, int32_t kept) { return static_cast<int64_t>(channels - kept) * ((kept + 7) / 8 * 8) * 2; }

int64_t LayerSide::kept_total() const { return std::accumulate(kept.begin(), kept.end(), int64_t{0}); }

bool LayerSide::is_dense() const { return kept_total() == static_cast<int64_t>(kept.size()) * channels; }

int64_t LayerSide::basis_bytes() const {
  if (is_dense()) return 0;
  return static_cast<int64_t>(kept.size() * sizeof(int32_t) + index.size() * sizeof(int32_t) + weight_offset.size() * sizeof(int64_t) +
                              offset.size() * sizeof(float)) +
         weight.size();
}

int64_t Layer::dense_bytes() const { return tokens * kv_heads * (key.channels + value.channels) * element_bytes(dtype); }

int64_t Layer::stored_bytes() const {
  return key.compact.size() + value.compact.size() + key.dense.size() + value.dense.size() + key.basis_bytes() + value.basis_bytes();
}

bool is_layer(const SafetensorsView &file) {
  const auto format = file.metadata.find("format");
  return format != file.metadata.end() && format->second == kFormat;
}

Layer parse_layer(const SafetensorsView &file, const std::string &name) {
  const TensorReader reader(file, name, "layer");
  if (!is_layer(file)) reader.fail("not a libthink layer (__metadata__ has no format '" + std::string(kFormat) + "')");
  if (reader.text("format_version") != kFormatVersion) {
    reader.fail("layer format version '" + printable(reader.text("format_version")) + "', this program reads version " + kFormatVersion);
  }
  Layer layer;
  layer.kv_heads = static_cast<int32_t>(reader.integer("kv_heads", 1, kMostHeads));
  layer.query_heads = static_cast<int32_t>(reader.integer("query_heads", layer.kv_heads, kMostHeads));
  if (layer.query_heads % layer.kv_heads != 0) reader.damaged("'query_heads' must be a multiple of 'kv_heads'");
  for (const bool keys : {true, false}) {
    LayerSide &side = keys ? layer.key : layer.value;
    side.channels = static_cast<int32_t>(reader.integer(keys ? "key_channels" : "value_channels", 8, kMostChannels));
    if (side.channels % 8 != 0) reader.damaged("head sizes must be multiples of 8");
  }
  layer.tokens = reader.integer("tokens", 1, INT32_MAX);
  layer.rows = reader.integer("rows", 0, layer.tokens);
  layer.first = reader.integer("first", 0, layer.tokens - layer.rows);
  if (layer.rows % 32 != 0) reader.damaged("'rows' is " + std::to_string(layer.rows) + ", expected a multiple of 32");
  const std::string &dtype = reader.text("dtype");
  layer.dtype = dtype == "f32" ? THINK_F32 : dtype == "f16" ? THINK_F16 : dtype == "bf16" ? THINK_BF16 : 0;
  if (layer.dtype == 0) reader.damaged("'dtype' is '" + printable(dtype) + "', expected f32, f16 or bf16");
  layer.scale = static_cast<float>(reader.real("scale", -1e30, 1e30));
  layer.softcap = static_cast<float>(reader.real("softcap", 0, 1e30));
  layer.key_ratio = reader.real("key_ratio", 0, 1);
  layer.value_ratio = reader.real("value_ratio", 0, 1);
  layer.mode = reader.one_of("mode", "regressed", "channels");
  layer.budget = reader.one_of("budget", "adaptive", "uniform");
  layer.library = reader.text("library");

  read_side(reader, file, layer, layer.key, true);
  read_side(reader, file, layer, layer.value, false);
  layer.score = reader.floats("score", {layer.kv_heads, layer.key.channels});
  layer.mask = reader.numbers<uint8_t>("mask", "U8", {layer.kv_heads, layer.key.channels});
  for (int32_t head = 0; head < layer.kv_heads; ++head) {
    for (int32_t i = 0; i < layer.key.channels; ++i) {
      const int64_t row = static_cast<int64_t>(head) * layer.key.channels;
      const int32_t channel = layer.key.index[row + i];
      if (layer.mask[row + channel] != (i < layer.key.kept[head])) {
        reader.damaged("'mask'[" + std::to_string(head) + ", " + std::to_string(channel) + "] disagrees with 'key.index'");
      }
    }
  }
  return layer;
}

void write_layer(const Layer &layer, OutputFile &file) {
  const std::map<std::string, std::string> metadata = {
      {"format", kFormat},
      {"format_version", kFormatVersion},
      {"library", layer.library},
      {"query_heads", std::to_string(layer.query_heads)},
      {"kv_heads", std::to_string(layer.kv_heads)},
      {"key_channels", std::to_string(layer.key.channels)},
      {"value_channels", std::to_string(layer.value.channels)},
      {"tokens", std::to_string(layer.tokens)},
      {"first", std::to_string(layer.first)},
      {"rows", std::to_string(layer.rows)},
      {"dtype", layer.dtype == THINK_F32   ? "f32"
                : layer.dtype == THINK_F16 ? "f16"
                                           : "bf16"},
      {"scale", number_text(layer.scale)},
      {"softcap", number_text(layer.softcap)},
      {"mode", layer.mode},
      {"budget", layer.budget},
      {"key_ratio", number_text(layer.key_ratio)},
      {"value_ratio", number_text(layer.value_ratio)},
  };
  std::vector<NamedTensor> tensors;
  list_side(layer, layer.key, true, tensors);
  list_side(layer, layer.value, false, tensors);
  tensors.push_back({"score", "F32", {layer.kv_heads, layer.key.channels}, bytes_of(layer.score)});
  tensors.push_back({"mask", "U8", {layer.kv_heads, layer.key.channels}, bytes_of(layer.mask)});
  file.write(safetensors_header(tensors, metadata));
  for (const NamedTensor &tensor : tensors) file.write(tensor.data);
}

}  // namespace think::cli
