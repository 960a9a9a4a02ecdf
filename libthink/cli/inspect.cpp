// think inspect: what a file holds. Layers and saved sequences in detail and as a picture; other safetensors and npy files as a list of arrays.
#include <algorithm>
#include <memory>

#include "command.h"
#include "failure.h"
#include "heatmap.h"
#include "inspect_sequence.h"
#include "layer.h"
#include "npy.h"
#include "safetensors.h"
#include "sequence_map.h"

namespace think::cli {
namespace {

struct Options {
  std::string file, svg;
};

nlohmann::ordered_json side_json(const LayerSide &side, int64_t dense_bytes) {
  std::vector<bool> predicted;
  for (const int64_t offset : side.weight_offset) predicted.push_back(offset >= 0);
  return {{"channels", side.channels},
          {"kept", side.kept},
          {"predicted", predicted},
          {"dense", side.is_dense()},
          {"bytes_dense", dense_bytes},
          {"bytes_compact", side.compact.size()},
          {"bytes_basis", side.basis_bytes()},
          {"bytes_dense_rows", side.dense.size()}};
}

void side_line(const char *name, const LayerSide &side, Report &report) {
  report.line("%-7s   %d channels, %.1f kept on average; %s compact, %s basis, %s dense rows", name, side.channels,
              static_cast<double>(side.kept_total()) / static_cast<double>(side.kept.size()), bytes_text(side.compact.size()).c_str(),
              bytes_text(side.basis_bytes()).c_str(), bytes_text(side.dense.size()).c_str());
}

void describe_layer(const Layer &layer, const std::string &name, Report &report) {
  const int64_t dense = layer.dense_bytes(), stored = layer.stored_bytes();
  const double saved = 100.0 * (1.0 - static_cast<double>(stored) / static_cast<double>(dense));
  const int64_t cells = layer.tokens * layer.kv_heads * element_bytes(layer.dtype);
  report.json = {{"file", name},
                 {"kind", "layer"},
                 {"library", layer.library},
                 {"query_heads", layer.query_heads},
                 {"kv_heads", layer.kv_heads},
                 {"tokens", layer.tokens},
                 {"rows_compact", layer.rows},
                 {"sinks", layer.first},
                 {"rows_dense", layer.dense_rows()},
                 {"dtype", think_dtype_name(layer.dtype)},
                 {"mode", layer.mode},
                 {"budget", layer.budget},
                 {"key_ratio", layer.key_ratio},
                 {"value_ratio", layer.value_ratio},
                 {"key", side_json(layer.key, cells * layer.key.channels)},
                 {"value", side_json(layer.value, cells * layer.value.channels)},
                 {"bytes_dense", dense},
                 {"bytes_stored", stored},
                 {"bytes_saved", dense - stored},
                 {"saved_percent", saved}};
  report.line("%s: a layer pruned by libthink %s", name.c_str(), printable(layer.library).c_str());
  report.line("heads     %d query, %d KV", layer.query_heads, layer.kv_heads);
  report.line("tokens    %lld: %lld compact, %lld sinks and %lld recent rows dense, %s", static_cast<long long>(layer.tokens),
              static_cast<long long>(layer.rows), static_cast<long long>(layer.first),
              static_cast<long long>(layer.dense_rows() - layer.first), think_dtype_name(layer.dtype));
  report.line("mode      %s, %s widths", layer.mode.c_str(), layer.budget.c_str());
  side_line("keys", layer.key, report);
  side_line("values", layer.value, report);
  report.line("bytes     %s dense, %s stored, %.1f %% saved", bytes_text(dense).c_str(), bytes_text(stored).c_str(), saved);
  report.line("%s", "");
  report.line("KV head   keys kept   values kept   predicted");
  for (int32_t head = 0; head < layer.kv_heads; ++head) {
    const bool keys = layer.key.weight_offset[head] >= 0, values = layer.value.weight_offset[head] >= 0;
    report.line("%7d   %4d of %-3d   %4d of %-3d     %s", head, layer.key.kept[head], layer.key.channels, layer.value.kept[head],
                layer.value.channels,
                keys && values ? "keys, values"
                : keys         ? "keys"
                : values       ? "values"
                               : "nothing");
  }
}

void describe_tensors(const SafetensorsView &file, const std::string &name, Report &report) {
  report.json = {{"file", name},
                 {"kind", "safetensors"},
                 {"note", "not a libthink layer"},
                 {"metadata", file.metadata},
                 {"tensors", nlohmann::ordered_json::array()}};
  report.line("%s: safetensors, not a libthink layer; %zu tensors", name.c_str(), file.tensors.size());
  for (const auto &[key, value] : file.metadata) report.line("  %s = %s", printable(key).c_str(), printable(value, 200).c_str());
  for (const auto &[key, tensor] : file.tensors) {
    report.json["tensors"].push_back({{"name", key}, {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"bytes", tensor.data.size()}});
    report.line("  %-40s %-5s %-24s %s", printable(key, 200).c_str(), tensor.dtype.c_str(), shape_text(tensor.shape).c_str(),
                bytes_text(static_cast<int64_t>(tensor.data.size())).c_str());
  }
}

void describe_array(const NpyView &array, const std::string &name, Report &report) {
  report.json = {{"file", name},
                 {"kind", "npy"},
                 {"note", "not a libthink layer"},
                 {"dtype", array.descr},
                 {"shape", array.shape},
                 {"fortran_order", array.fortran_order},
                 {"bytes", array.data.size()}};
  report.line("%s: an npy array, not a libthink layer", name.c_str());
  report.line("  dtype %s, shape %s, %s order, %s", array.descr.c_str(), shape_text(array.shape).c_str(),
              array.fortran_order ? "Fortran" : "C", bytes_text(static_cast<int64_t>(array.data.size())).c_str());
  const think_dtype dtype = array.descr == "<f4" ? THINK_F32 : array.descr == "<f2" ? THINK_F16 : 0;
  if (dtype == 0 || array.count == 0) return;
  const int64_t bad = first_not_finite(array.data.data(), dtype, array.count);
  if (bad >= 0) {
    report.json["first_not_finite"] = position_text(array.shape, bad);
    report.line("  not finite at %s", position_text(array.shape, bad).c_str());
    return;
  }
  float low = number_at(array.data.data(), dtype, 0), high = low;
  for (int64_t i = 1; i < array.count; ++i) {
    const float number = number_at(array.data.data(), dtype, i);
    low = std::min(low, number);
    high = std::max(high, number);
  }
  report.json["minimum"] = low;
  report.json["maximum"] = high;
  report.line("  numbers from %g to %g", low, high);
}

std::string file_name(const std::string &path) {
  const size_t slash = path.rfind('/');
  return printable(slash == std::string::npos ? path : path.substr(slash + 1));
}

void run(const Options &options, Report &report) {
  if (!options.svg.empty()) check_output(options.svg, {options.file});
  const Buffer file = read_file(options.file);
  std::string picture;
  if (is_npy(file.bytes())) {
    describe_array(parse_npy(file.bytes(), options.file), options.file, report);
  } else {
    const SafetensorsView view = parse_safetensors(file.bytes(), options.file);
    if (is_layer(view)) {
      const Layer layer = parse_layer(view, options.file);
      describe_layer(layer, options.file, report);
      if (!options.svg.empty()) picture = draw_heatmap(layer, file_name(options.file));
    } else if (is_sequence(view)) {
      const StoredSequence sequence = parse_sequence(view, file.size(), options.file);
      describe_sequence(sequence, file.bytes(), options.file, report);
      if (!options.svg.empty()) picture = draw_sequence_map(sequence, file_name(options.file));
    } else {
      describe_tensors(view, options.file, report);
    }
  }
  if (options.svg.empty()) return;
  if (picture.empty()) {
    throw Failure(kInput, options.file + ": neither a libthink layer nor a saved sequence: --svg needs a file of think prune or think_cache_save()");
  }
  OutputFile svg(options.svg);
  svg.write(picture);
  svg.commit();
  report.json["svg"] = options.svg;
  report.line("%s", "");
  report.line("picture   %s", options.svg.c_str());
}

}  // namespace

Command add_inspect(CLI::App &program) {
  auto options = std::make_shared<Options>();
  CLI::App *app = program.add_subcommand("inspect", "What a file holds, a pruned layer or a saved sequence: shapes, widths, bytes; --svg draws it");
  app->footer(
      "Other safetensors and npy files are listed as well.\n"
      "\n"
      "Examples:\n"
      "  think inspect layer.safetensors\n"
      "  think inspect layer.safetensors --svg layer.svg\n"
      "  think inspect sequence.safetensors --svg sequence.svg\n"
      "  think inspect k.npy --json");
  app->add_option("file", options->file, "A safetensors or npy file")->required();
  app->add_option("--svg", options->svg, "Draw which channels were kept, of a layer also their energy, as an SVG picture")->type_name("FILE");
  return {app, [options](Report &report) { run(*options, report); }};
}

}  // namespace think::cli
