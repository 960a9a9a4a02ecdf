#include "targets.h"

#include <cstdio>
#include <cstdlib>
#include <set>

#include "bytes.h"
#include "failure.h"
#include "heatmap.h"
#include "layer.h"
#include "npy.h"
#include "safetensors.h"
#include "sequence_map.h"

namespace think::fuzz {

void require(bool good, const char *promise) {
  if (good) return;
  std::fprintf(stderr, "broken promise: %s\n", promise);
  std::abort();
}

namespace {

// Reads every byte, so that a sanitizer sees a range that lies outside.
unsigned touch(std::span<const std::byte> bytes) {
  unsigned sum = 0;
  for (const std::byte byte : bytes) sum += static_cast<unsigned>(byte);
  return sum;
}

bool inside(std::span<const std::byte> part, std::span<const std::byte> whole) {
  return part.empty() || (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size());
}

volatile unsigned consumed;

// A Failure is the right answer to a damaged file; anything else that is thrown is not, and ends the program.
template <class Parse>
bool accepts(Parse parse) {
  try {
    parse();
    return true;
  } catch (const cli::Failure &failure) {
    require(failure.code() == cli::kInput, "damaged files are reported as bad input");
    require(failure.what()[0] != '\0', "errors have a message");
    for (const char *character = failure.what(); *character; ++character) {
      require(static_cast<unsigned char>(*character) >= 0x20, "no control characters of a file in a message");
    }
    return false;
  }
}

void check_side(const cli::LayerSide &side, const cli::Layer &layer) {
  require(side.kept.size() == static_cast<size_t>(layer.kv_heads), "a width for every head");
  for (int32_t head = 0; head < layer.kv_heads; ++head) {
    const int32_t kept = side.kept[head];
    require(kept >= 1 && kept <= side.channels, "widths in range");
    std::set<int32_t> channels;
    for (int32_t i = 0; i < side.channels; ++i) channels.insert(side.index[static_cast<size_t>(head) * side.channels + i]);
    require(channels.size() == static_cast<size_t>(side.channels) && *channels.begin() == 0 && *channels.rbegin() == side.channels - 1,
            "index is a permutation");
    const int64_t offset = side.weight_offset[head];
    require(
        offset == -1 || (offset >= 0 && offset % 16 == 0 && offset + cli::weight_block_bytes(side.channels, kept) <= side.weight.size()),
        "weights lie inside");
  }
  const int64_t bytes = cli::element_bytes(layer.dtype);
  require(side.compact.size() == layer.rows * side.kept_total() * bytes, "compact rows are as large as their widths");
  require(side.dense.size() == layer.dense_rows() * layer.kv_heads * side.channels * bytes, "dense rows are complete");
  consumed = touch(side.compact.bytes()) + touch(side.dense.bytes()) + touch(side.weight.bytes());
}

}  // namespace

bool npy(std::span<const std::byte> file) {
  return accepts([&] {
    const cli::NpyView view = cli::parse_npy(file, "file");
    require(inside(view.data, file), "data lie in the file");
    require(view.data.size() == static_cast<size_t>(view.count * view.item_bytes), "data are as large as the shape");
    int64_t count = 1;
    for (const int64_t extent : view.shape) {
      require(extent >= 0, "no negative extents");
      count *= extent;
    }
    require(count == view.count, "the count is the product of the shape");
    consumed = touch(view.data);
  });
}

bool safetensors(std::span<const std::byte> file) {
  return accepts([&] {
    const cli::SafetensorsView view = cli::parse_safetensors(file, "file");
    size_t total = 0;
    for (const auto &[name, tensor] : view.tensors) {
      require(inside(tensor.data, file), "data lie in the file");
      size_t bytes = static_cast<size_t>(cli::safetensors_item_bytes(tensor.dtype));
      require(bytes > 0, "known dtypes only");
      for (const int64_t extent : tensor.shape) bytes *= static_cast<size_t>(extent);
      require(tensor.data.size() == bytes, "data are as large as the shape");
      total += bytes;
      consumed = touch(tensor.data);
    }
    require(total <= file.size(), "tensors do not overlap");
  });
}

bool layer(std::span<const std::byte> file) {
  return accepts([&] {
    const cli::Layer layer = cli::parse_layer(cli::parse_safetensors(file, "file"), "file");
    require(layer.query_heads % layer.kv_heads == 0, "whole groups");
    require(layer.first + layer.rows <= layer.tokens, "rows are tokens");
    check_side(layer.key, layer);
    check_side(layer.value, layer);
    require(layer.stored_bytes() > 0, "a layer has bytes");
    if (layer.kv_heads <= 4) consumed = touch(cli::bytes_of(cli::draw_heatmap(layer, "file")));
  });
}

bool inspected(std::span<const std::byte> file) {
  return accepts([&] {
    const cli::StoredSequence sequence = cli::parse_sequence(cli::parse_safetensors(file, "file"), static_cast<int64_t>(file.size()), "file");
    require(sequence.tokens() > 0 && sequence.sink_rows() <= sequence.dense_rows, "tokens are somewhere");
    require(sequence.formats.size() == static_cast<size_t>(sequence.layers), "a format for every layer");
    const int64_t counted = sequence.bytes_key_rows + sequence.bytes_value_rows + sequence.bytes_basis + sequence.bytes_dense_rows + sequence.bytes_scores;
    require(counted + sequence.bytes_header == static_cast<int64_t>(file.size()) && sequence.bytes_header > 0, "every byte is counted once");
    for (const cli::StoredRun &run : sequence.runs) {
      require(run.key.size() == sequence.formats.size() && run.value.size() == sequence.formats.size(), "both sides of every layer");
    }
    if (sequence.layers * int64_t{sequence.kv_heads} <= 8) consumed = touch(cli::bytes_of(cli::draw_sequence_map(sequence, "file")));
  });
}

}  // namespace think::fuzz
