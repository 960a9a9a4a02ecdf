#include "seeds.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "bytes.h"
#include "file.h"
#include "layer.h"
#include "npy.h"
#include "safetensors.h"

namespace think::fuzz {
namespace {

// One head keeps half of its channels with a prediction, the other all but one without.
void fill_side(cli::LayerSide &side, const cli::Layer &layer, bool keys) {
  const int64_t bytes = cli::element_bytes(layer.dtype);
  int64_t total = 0, weights = 0;
  for (int32_t head = 0; head < layer.kv_heads; ++head) {
    const int32_t kept = head == 0 ? side.channels / 2 / 8 * 8 : keys ? side.channels - 1 : side.channels;
    side.kept.push_back(kept);
    side.head_offset.push_back(total);
    total += layer.rows * kept * bytes;
    for (int32_t i = 0; i < side.channels; ++i) side.index.push_back((i + 3) % side.channels);
    auto *first = side.index.data() + side.index.size() - side.channels;
    std::sort(first, first + kept);
    std::sort(first + kept, first + side.channels);
    side.weight_offset.push_back(head == 0 ? weights : -1);
    if (head == 0) weights += cli::weight_block_bytes(side.channels, kept);
    side.offset.insert(side.offset.end(), static_cast<size_t>(side.channels), 0.25f);
    side.energy.insert(side.energy.end(), static_cast<size_t>(side.channels), 2.0f);
  }
  side.weight = cli::Buffer(weights, true);
  side.compact = cli::Buffer(total, true);
  side.dense = cli::Buffer(layer.dense_rows() * layer.kv_heads * side.channels * bytes, true);
}

}  // namespace

std::string npy_seed(int variant) {
  switch (variant) {
    case 0:
      return cli::npy_header("<f4", {2, 3, 4}) + std::string(96, '\1');
    case 1:
      return cli::npy_header("<f2", {1, 2, 3, 4}) + std::string(48, '\2');
    case 2:
      return cli::npy_header("<u2", {7}) + std::string(14, '\3');
    default:
      return cli::npy_header("|u1", {}) + std::string(1, '\4');
  }
}

std::string safetensors_seed(int variant) {
  const std::string numbers(static_cast<size_t>(64 * (variant + 1)), '\5');
  const auto bytes = cli::bytes_of(numbers);
  std::vector<cli::NamedTensor> tensors;
  for (int i = 0; i <= variant; ++i) {
    tensors.push_back({"layer." + std::to_string(i) + ".weight",
                       i % 2 ? "F16" : "F32",
                       {i % 2 ? 8 : 4, 4},
                       bytes.subspan(static_cast<size_t>(64 * i), 64)});
  }
  std::string file = cli::safetensors_header(tensors, {{"format", "test"}, {"note", "seed"}});
  for (const cli::NamedTensor &tensor : tensors) file.append(reinterpret_cast<const char *>(tensor.data.data()), tensor.data.size());
  return file;
}

std::string layer_seed(int variant) {
  cli::Layer layer;
  layer.query_heads = 4;
  layer.kv_heads = 2;
  layer.rows = variant == 3 ? 0 : 32;
  layer.tokens = layer.rows + 5;
  layer.first = variant == 3 ? 0 : 2;
  layer.dtype = variant == 1 ? THINK_F32 : variant == 2 ? THINK_BF16 : THINK_F16;
  layer.mode = "regressed";
  layer.budget = "adaptive";
  layer.library = "0";
  layer.key.channels = 16;
  layer.value.channels = 24;
  fill_side(layer.key, layer, true);
  fill_side(layer.value, layer, false);
  for (int32_t head = 0; head < layer.kv_heads; ++head) {
    for (int32_t channel = 0; channel < layer.key.channels; ++channel) {
      const auto *first = layer.key.index.data() + static_cast<size_t>(head) * layer.key.channels;
      layer.mask.push_back(std::find(first, first + layer.key.kept[head], channel) != first + layer.key.kept[head]);
      layer.score.push_back(1.0f);
    }
  }
  // Written the way the program writes it, to a file, and read back.
  const std::string path = (std::filesystem::temp_directory_path() / ("think_seed_" + std::to_string(getpid()))).string();
  cli::OutputFile file(path);
  cli::write_layer(layer, file);
  file.commit();
  const cli::Buffer read = cli::read_file(path);
  std::filesystem::remove(path);
  return std::string(reinterpret_cast<const char *>(read.data()), static_cast<size_t>(read.size()));
}

}  // namespace think::fuzz
