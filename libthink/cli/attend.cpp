// think attend: attention of new queries on a stored layer, and how far it is from attention on the unpruned cache.
#include <cmath>
#include <memory>
#include <utility>

#include "bytes.h"
#include "command.h"
#include "layer.h"
#include "library.h"
#include "npy.h"
#include "progress.h"
#include "rows.h"

namespace think::cli {
namespace {

struct Options {
  std::string layer, query, out, lse;
  std::vector<std::string> compare;
  int32_t threads = -1;
  bool causal = false, bf16 = false;
};

// A basis of the library over the arrays of a stored side.
think_basis basis_of(const LayerSide &side) {
  think_basis basis = THINK_BASIS_INIT;
  basis.channels = side.channels;
  basis.slots = 1;
  // The library reads them only; the struct is the same for calls that write.
  basis.kept = const_cast<int32_t *>(side.kept.data());
  basis.index = const_cast<int32_t *>(side.index.data());
  basis.weight = const_cast<std::byte *>(side.weight.data());
  basis.weight_bytes = side.weight.size();
  basis.weight_offset = const_cast<int64_t *>(side.weight_offset.data());
  basis.offset = const_cast<float *>(side.offset.data());
  return basis;
}

// Three runs of rows: compact, sinks, recent. The last one is causal if asked, which is why the dense rows are two.
class LayerSegments {
 public:
  LayerSegments(const Layer &layer, bool causal)
      : key_basis_(basis_of(layer.key)),
        value_basis_(basis_of(layer.value)),
        compact_rows_(static_cast<int32_t>(layer.rows)),
        sinks_(static_cast<int32_t>(layer.first)),
        recent_(static_cast<int32_t>(layer.dense_rows() - layer.first)) {
    if (layer.rows > 0) {
      think_segment compact = THINK_SEGMENT_INIT;
      compact.key_layout = THINK_TILES;
      compact.page_tokens = compact_rows_;
      compact.key_dtype = compact.value_dtype = layer.dtype;
      compact.key = const_cast<std::byte *>(layer.key.compact.data());
      compact.value = const_cast<std::byte *>(layer.value.compact.data());
      compact.key_stride[0] = layer.key.compact.size();
      compact.value_stride[0] = layer.value.compact.size();
      compact.key_head_offset = const_cast<int64_t *>(layer.key.head_offset.data());
      compact.value_head_offset = const_cast<int64_t *>(layer.value.head_offset.data());
      compact.lengths = &compact_rows_;
      compact.key_basis = layer.key.is_dense() ? nullptr : &key_basis_;
      compact.value_basis = layer.value.is_dense() ? nullptr : &value_basis_;
      segments.push_back(compact);
    }
    const think_segment dense = dense_segment(layer.key.dense.data(), layer.value.dense.data(), layer.dtype, layer.dtype, layer.kv_heads,
                                              layer.dense_rows(), layer.key.channels, layer.value.channels, &sinks_);
    if (sinks_ > 0) segments.push_back(dense);
    if (recent_ > 0) {
      segments.push_back(dense);
      segments.back().first = &sinks_;
      segments.back().lengths = &recent_;
      if (causal) segments.back().flags = THINK_SEGMENT_CAUSAL;
    }
  }
  // The segments point into this object.
  LayerSegments(const LayerSegments &) = delete;
  LayerSegments &operator=(const LayerSegments &) = delete;

  std::vector<think_segment> segments;

 private:
  think_basis key_basis_, value_basis_;
  int32_t compact_rows_, sinks_, recent_;
};

struct Result {
  std::vector<float> output, lse;
};

Result attend(const Plan &plan, const Rows &query, int32_t value_channels, int64_t tokens, const std::vector<think_segment> &segments) {
  Result result;
  result.output.resize(static_cast<size_t>(query.heads * query.tokens * value_channels));
  result.lse.resize(static_cast<size_t>(query.heads * query.tokens));
  const Workspace workspace(plan, THINK_STAGE_ATTEND, tokens, static_cast<int32_t>(query.tokens));
  const think_tensor queries = packed_tensor(query.data, query.dtype, query.heads, query.tokens, query.channels);
  const think_tensor output = packed_tensor(result.output.data(), THINK_F32, query.heads, query.tokens, value_channels);
  ErrorRecord error;
  error.check(think_attend(plan.get(), &queries, nullptr, segments.data(), static_cast<int32_t>(segments.size()), nullptr, &output,
                           result.lse.data(), workspace.launch(), error));
  return result;
}

struct Difference {
  double relative = 0;  // |a - b| / |b| over everything
  double largest = 0;   // of one element
  double cosine = 1;    // the smallest of all queries
  double lse = 0;       // the largest difference
};

Difference compare(const Result &result, const Result &reference, int32_t channels) {
  Difference difference;
  double error = 0, norm = 0;
  for (size_t begin = 0; begin < result.output.size(); begin += static_cast<size_t>(channels)) {
    double product = 0, left = 0, right = 0;
    for (size_t i = begin; i < begin + static_cast<size_t>(channels); ++i) {
      const double a = result.output[i], b = reference.output[i];
      error += (a - b) * (a - b);
      difference.largest = std::max(difference.largest, std::fabs(a - b));
      product += a * b;
      left += a * a;
      right += b * b;
    }
    norm += right;
    if (left > 0 && right > 0) difference.cosine = std::min(difference.cosine, product / std::sqrt(left * right));
  }
  difference.relative = norm > 0 ? std::sqrt(error / norm) : 0;
  for (size_t i = 0; i < result.lse.size(); ++i)
    difference.lse = std::max(difference.lse, std::fabs(static_cast<double>(result.lse[i]) - reference.lse[i]));
  return difference;
}

void check_query(const Rows &query, const Layer &layer, bool causal) {
  const auto fail = [&](const std::string &what) {
    throw Failure(kInput, query.path + ": shape " + shape_text(query.shape) + ": " + what);
  };
  if (query.heads != layer.query_heads)
    fail(std::to_string(query.heads) + " query heads, the layer has " + std::to_string(layer.query_heads));
  if (query.channels != layer.key.channels)
    fail(std::to_string(query.channels) + " channels, the keys of the layer have " + std::to_string(layer.key.channels));
  const int64_t recent = layer.dense_rows() - layer.first;
  if (causal && query.tokens > recent) {
    fail("--causal: the queries must belong to the last rows of the layer that stayed dense, which are " + std::to_string(recent));
  }
}

void check_dense(const Rows &rows, const Layer &layer, int32_t channels) {
  if (rows.heads == layer.kv_heads && rows.tokens == layer.tokens && rows.channels == channels) return;
  throw Failure(kInput, rows.path + ": shape " + shape_text(rows.shape) + ", the layer was made of " +
                            shape_text(std::vector<int64_t>{layer.kv_heads, layer.tokens, channels}));
}

void write_npy(OutputFile &file, const std::vector<int64_t> &shape, const std::vector<float> &numbers) {
  file.write(npy_header("<f4", shape));
  file.write(bytes_of(numbers));
}

void run(const Options &options, Report &report) {
  std::vector<std::string> others = {options.layer, options.query};
  others.insert(others.end(), options.compare.begin(), options.compare.end());
  if (!options.lse.empty()) {
    check_output(options.lse, others);
    others.push_back(options.lse);
  }
  check_output(options.out, others);

  const Layer layer = [&] {
    const Buffer file = read_file(options.layer);
    return parse_layer(parse_safetensors(file.bytes(), options.layer), options.layer);
  }();
  const Rows query = read_rows(options.query, "query", options.bf16);
  check_query(query, layer, options.causal);

  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_dtype = query.dtype;
  problem.cache_dtype = layer.dtype;
  problem.output_dtype = THINK_F32;
  problem.query_heads = layer.query_heads;
  problem.kv_heads = layer.kv_heads;
  problem.key_channels = layer.key.channels;
  problem.value_channels = layer.value.channels;
  problem.max_queries = static_cast<int32_t>(query.tokens);
  problem.max_tokens = layer.tokens;
  problem.scale = layer.scale;
  problem.softcap = layer.softcap;
  const Context context = make_context(options.threads);
  const Plan plan = make_plan(context, problem);

  Progress progress("attending", options.compare.empty() ? 2 : 3);
  const LayerSegments stored(layer, options.causal);
  const Result result = attend(plan, query, layer.value.channels, layer.tokens, stored.segments);
  progress.step();
  Difference difference;
  if (!options.compare.empty()) {
    const Rows key = read_rows(options.compare[0], "key", options.bf16), value = read_rows(options.compare[1], "value", options.bf16);
    check_dense(key, layer, layer.key.channels);
    check_dense(value, layer, layer.value.channels);
    const int32_t tokens = static_cast<int32_t>(layer.tokens);
    think_segment dense = dense_segment(key.data, value.data, key.dtype, value.dtype, layer.kv_heads, layer.tokens, layer.key.channels,
                                        layer.value.channels, &tokens);
    if (options.causal) dense.flags = THINK_SEGMENT_CAUSAL;
    progress.label("attending, dense");
    difference = compare(result, attend(plan, query, layer.value.channels, layer.tokens, {dense}), layer.value.channels);
    progress.step();
  }

  std::vector<int64_t> output_shape = query.shape, lse_shape(query.shape.begin(), query.shape.end() - 1);
  output_shape.back() = layer.value.channels;
  OutputFile output(options.out);
  write_npy(output, output_shape, result.output);
  if (!options.lse.empty()) {
    OutputFile lse(options.lse);
    write_npy(lse, lse_shape, result.lse);
    output.commit();
    lse.commit();
  } else {
    output.commit();
  }
  progress.step();

  report.json = {
      {"out", options.out},       {"lse", options.lse.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(options.lse)},
      {"shape", output_shape},    {"tokens", layer.tokens},
      {"causal", options.causal}, {"compare", nullptr}};
  report.line("output     %s in %s", shape_text(output_shape).c_str(), options.out.c_str());
  if (!options.lse.empty()) report.line("LSE        %s in %s", shape_text(lse_shape).c_str(), options.lse.c_str());
  if (!options.compare.empty()) {
    report.json["compare"] = {{"relative_error", difference.relative},
                              {"max_abs_error", difference.largest},
                              {"min_cosine", difference.cosine},
                              {"max_lse_error", difference.lse}};
    report.line("to dense   relative error %.3g, largest %.3g, smallest cosine of a query %.6f, largest LSE difference %.3g",
                difference.relative, difference.largest, difference.cosine, difference.lse);
  }
}

}  // namespace

Command add_attend(CLI::App &program) {
  auto options = std::make_shared<Options>();
  CLI::App *app = program.add_subcommand("attend", "Attention on a stored layer");
  app->footer(
      "The output is an f32 npy file of the shape of the queries, with the value channels last. Queries see all tokens of the layer, or "
      "with --causal\n"
      "they belong to its last tokens.\n"
      "\n"
      "Examples:\n"
      "  think attend --layer layer.safetensors --query q.npy --out out.npy --lse lse.npy\n"
      "  think attend --layer layer.safetensors --query q.npy --out out.npy --compare k.npy v.npy\n"
      "  think attend --layer layer.safetensors --query last8.npy --causal --out out.npy --json");
  app->add_option("--layer", options->layer, "A file of think prune")->type_name("FILE")->required();
  app->add_option("--query", options->query, "Queries, npy [heads, queries, channels] or [1, heads, queries, channels]")
      ->type_name("FILE")
      ->required();
  app->add_option("--out", options->out, "The attention output, npy; replaced when it exists")->type_name("FILE")->required();
  app->add_option("--lse", options->lse, "The natural logarithm of each softmax sum, npy [heads, queries]")->type_name("FILE");
  app->add_option("--compare", options->compare, "KEY VALUE: the arrays that were pruned; prints the error against attention on them")
      ->expected(2)
      ->type_name("KEY VALUE");
  app->add_flag("--causal", options->causal, "The queries belong to the last tokens of the layer and see no later ones");
  app->add_flag("--bf16", options->bf16, "Arrays of dtype '<u2' hold bf16 bits");
  app->add_option("--threads", options->threads, "Threads; -1 = every core that the process may use")
      ->type_name("N")
      ->check(CLI::Range(-1, 1024))
      ->capture_default_str();
  return {app, [options](Report &report) { run(*options, report); }};
}

}  // namespace think::cli
