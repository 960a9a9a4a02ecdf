// think frontier: what every way of shrinking a cache costs and saves, as a table and as a picture, so that a setting can be picked by looking.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "command.h"
#include "failure.h"
#include "file.h"
#include "frontier_layers.h"

namespace think::cli {
namespace {

struct Options {
  std::vector<std::string> query, key, value, results, usage, stacks;
  std::string svg, title, metric = "kl";
  int32_t channels = 0, threads = -1;
  int64_t scored = 64;
  float scale = 0, softcap = 0;
  bool bf16 = false;
};

struct Findings {
  std::vector<FrontierPoint> points;
  std::string title, facts, error_name;
  nlohmann::ordered_json about;
};

Stack dense_stack() {
  Stack stack;
  stack.name = "dense";
  return stack;
}

Findings from_layers(const Options &options) {
  if (options.key.size() != options.query.size() || options.value.size() != options.query.size())
    throw Failure(kUsage, "as many --query, --key and --value files are needed: one of each for every layer");
  std::vector<CapturedLayer> layers;
  for (size_t i = 0; i < options.query.size(); ++i) {
    CapturedLayer &layer = layers.emplace_back();
    layer.query = read_rows(options.query[i], "query", options.bf16);
    layer.key = read_rows(options.key[i], "key", options.bf16);
    layer.value = read_rows(options.value[i], "value", options.bf16);
    check_layer(layer, options.scored);
    const CapturedLayer &first = layers[0];
    if (layer.key.channels != first.key.channels || layer.value.channels != first.value.channels || layer.key.dtype != first.key.dtype)
      throw Failure(kInput, layer.key.path + ": all layers must have the same head sizes and element types");
  }
  FrontierSettings settings;
  settings.dtype = layers[0].key.dtype == THINK_BF16 ? THINK_BF16 : THINK_F16;
  settings.scale = options.scale;
  settings.softcap = options.softcap;
  settings.threads = options.threads;
  settings.scored = options.scored;
  for (const CapturedLayer &layer : layers) check_range(layer.key, settings.dtype, ""), check_range(layer.value, settings.dtype, "");

  const auto key_channels = static_cast<int32_t>(layers[0].key.channels), value_channels = static_cast<int32_t>(layers[0].value.channels);
  std::vector<Stack> stacks{dense_stack()};
  const std::vector<std::string> names = options.stacks.empty() ? default_stacks(key_channels, value_channels) : options.stacks;
  for (const std::string &name : names) stacks.push_back(parse_stack(name, key_channels, value_channels));
  Progress progress("stacks", static_cast<int64_t>(stacks.size() * layers.size()));
  Findings findings;
  findings.points = measure_stacks(layers, stacks, settings, progress);
  const int64_t prompt = layers[0].key.tokens - options.scored;
  findings.title = "What shrinking costs: error of attention against bytes";
  findings.facts = std::to_string(layers.size()) + (layers.size() == 1 ? " layer, " : " layers, ") + std::to_string(prompt) + " tokens pruned, the next " +
                   std::to_string(options.scored) + " queries scored";
  findings.error_name = "relative error of attention's output";
  findings.about = {{"source", "layers"}, {"layers", layers.size()}, {"tokens", prompt}, {"scored", options.scored}, {"dtype",
      think_dtype_name(settings.dtype)}};
  return findings;
}

// Files of the same rows as one.
EngineResults read_results(const std::vector<std::string> &paths) {
  EngineResults all;
  for (const std::string &path : paths) {
    const Buffer file = read_file(path);
    const EngineResults one = parse_engine_results(file.bytes(), path);
    if (all.segments > 0 && one.rows.size() != all.rows.size()) throw Failure(kInput, path + ": not the same rows as in " + paths[0]);
    if (all.segments == 0) {
      all = one;
      continue;
    }
    const auto weight = static_cast<double>(one.segments) / static_cast<double>(all.segments + one.segments);
    for (size_t i = 0; i < all.rows.size(); ++i) {
      const EngineResults::Row &more = one.rows[i];
      EngineResults::Row &row = all.rows[i];
      if (row.stack != more.stack) throw Failure(kInput, path + ": not the same rows as in " + paths[0]);
      const auto mix = [&](double &sum, double number) { sum += (number - sum) * weight; };
      mix(row.kl, more.kl), mix(row.delta_nll, more.delta_nll), mix(row.top1, more.top1), mix(row.bytes, more.bytes), mix(row.dense_bytes, more.dense_bytes);
    }
    all.segments += one.segments;
    if (one.tokens != all.tokens) all.tokens = 0;
  }
  return all;
}

// Head sizes are not in these files: the next usual one above what any stack keeps.
int32_t usual_channels(int32_t most) {
  for (const int32_t channels : {64, 80, 96, 128, 192, 256}) {
    if (most <= channels) return channels;
  }
  return 256;
}

Findings from_results(const Options &options) {
  const EngineResults results = read_results(options.results);
  std::map<std::string, const EngineResults::Row *> longer;
  EngineResults usage;
  if (!options.usage.empty()) {
    usage = read_results(options.usage);
    for (const EngineResults::Row &row : usage.rows) longer[row.stack] = &row;
  }
  std::vector<Stack> stacks;
  int32_t most = 0;
  for (const EngineResults::Row &row : results.rows) {
    try {
      stacks.push_back(row.stack == "dense" ? dense_stack() : parse_stack(row.stack));
    } catch (const Failure &failure) {
      throw Failure(kInput, options.results[0] + ": " + failure.what());
    }
    most = std::max({most, stacks.back().key.kept, stacks.back().value.kept});
  }
  const int32_t channels = options.channels > 0 ? options.channels : usual_channels(most);
  Findings findings;
  const bool nll = options.metric == "nll";
  for (size_t i = 0; i < results.rows.size(); ++i) {
    const EngineResults::Row &row = results.rows[i];
    const EngineResults::Row *bytes = &row;
    if (!longer.empty()) {
      const auto found = longer.find(row.stack);
      if (found == longer.end()) throw Failure(kInput, options.usage[0] + ": has no row '" + printable(row.stack) + "'");
      bytes = found->second;
    }
    if (!options.stacks.empty() && std::find(options.stacks.begin(), options.stacks.end(), row.stack) == options.stacks.end()) continue;
    findings.points.push_back({row.stack, family_of(stacks[i], channels, channels), nll ? std::max(row.delta_nll, 0.0) : row.kl,
        bytes->bytes, bytes->dense_bytes});
  }
  if (findings.points.empty()) throw Failure(kUsage, "none of the --stacks is in " + options.results[0]);
  const int64_t tokens = longer.empty() ? results.tokens : usage.tokens;
  findings.title = nll ? "What shrinking costs: log-likelihood against bytes" : "What shrinking costs: KL against bytes";
  findings.facts = "mean over " + std::to_string(results.segments) + (results.segments == 1 ? " segment" : " segments") +
                   (results.tokens > 0 ? " of " + std::to_string(results.tokens) + " tokens before the prune" : "") +
                   (tokens > 0 && tokens != results.tokens ? "; bytes of " + std::to_string(tokens) + " tokens" : "");
  findings.error_name = nll ? "change of -log p per token, nats" : "KL(dense || shrunk) per token, nats";
  findings.about = {{"source", "engine"}, {"segments", results.segments}, {"tokens", results.tokens}, {"tokens_of_bytes", tokens}, {"metric", options.metric}};
  return findings;
}

void run(const Options &options, Report &report) {
  for (const double number : {options.scale, options.softcap}) {
    if (!std::isfinite(number)) throw Failure(kUsage, "--scale and --softcap must be finite numbers");
  }
  const bool layers = !options.query.empty() || !options.key.empty() || !options.value.empty();
  if (layers == !options.results.empty()) throw Failure(kUsage, "either --query, --key and --value, or --results");
  std::vector<std::string> inputs;
  for (const auto *list : {&options.query, &options.key, &options.value, &options.results, &options.usage}) inputs.insert(inputs.end(),
      list->begin(), list->end());
  if (!options.svg.empty()) check_output(options.svg, inputs);
  Findings findings = layers ? from_layers(options) : from_results(options);
  if (!options.title.empty()) findings.title = printable(options.title, 120);
  sort_frontier(findings.points);

  report.json = findings.about;
  report.json["measure"] = findings.error_name;
  report.json["points"] = nlohmann::ordered_json::array();
  report.line("%s", findings.facts.c_str());
  report.line("%s", "");
  report.line("best   smaller   %-9s  stack", layers ? "error" : options.metric == "nll" ? "dNLL" : "KL");
  for (const FrontierPoint &point : findings.points) {
    report.json["points"].push_back({{"stack", point.stack},
                                     {"family", family_name(point.family)},
                                     {"error", point.error},
                                     {"bytes", std::llround(point.bytes)},
                                     {"bytes_dense", std::llround(point.dense_bytes)},
                                     {"times_smaller", 1 / point.share()},
                                     {"best", point.best}});
    report.line("%-4s   %6.2fx   %-9.5f  %s", point.best ? "*" : "", 1 / point.share(), point.error, printable(point.stack, 120).c_str());
  }
  report.line("%s", "");
  report.line("*: no other stack is both smaller and closer. Bytes: pages and bases as held by the managed cache, against dense rows of the same tokens.");
  if (options.svg.empty()) return;
  OutputFile svg(options.svg);
  svg.write(draw_frontier(findings.points, findings.title, findings.facts, findings.error_name));
  svg.commit();
  report.json["svg"] = options.svg;
  report.line("picture   %s", options.svg.c_str());
}

}  // namespace

Command add_frontier(CLI::App &program) {
  auto options = std::make_shared<Options>();
  CLI::App *app = program.add_subcommand("frontier",
      "What ways of shrinking a cache cost and save, on captured layers or from an engine's figures; --svg draws it");
  app->footer(
      "Layers are npy files as for think prune, one query, key and value file for each; the last queries are scored, what is before them is shrunk.\n"
      "An engine's figures are the output of examples/generate with --evaluate or --rows, and --json.\n"
      "A stack: parts joined by +, keys:METHOD:KEPT[:FORMAT], values:METHOD:KEPT[:FORMAT], evict:METHOD:BUDGET.\n"
      "\n"
      "Examples:\n"
      "  think frontier --query q.npy --key k.npy --value v.npy --svg frontier.svg\n"
      "  think frontier --query q0.npy q9.npy --key k0.npy k9.npy --value v0.npy v9.npy --json\n"
      "  think frontier --query q.npy --key k.npy --value v.npy --stacks keys:adaptive:32,keys:adaptive:32:int4+values:adaptive:64:int4\n"
      "  think frontier --results prose.json --usage long.json --svg frontier.svg");
  app->add_option("--query", options->query, "Queries of each layer, after RoPE; of all tokens, or of the last ones")->type_name("FILE");
  app->add_option("--key", options->key, "Keys of each layer")->type_name("FILE");
  app->add_option("--value", options->value, "Values of each layer")->type_name("FILE");
  app->add_option("--results", options->results, "Instead of layers: figures of an engine; files of the same rows are put together")->type_name("FILE");
  app->add_option("--usage", options->usage, "With --results: take the bytes from here, say of a longer prompt")->type_name("FILE");
  app->add_option("--stacks", options->stacks, "What to compare, separated by commas (default: a choice of all kinds, or all rows)")
      ->type_name("STACK")->delimiter(',');
  app->add_option("--scored", options->scored, "Last queries that attend to what is left")->type_name("N")->check(CLI::Range(1, 4096))->capture_default_str();
  app->add_option("--metric", options->metric, "With --results: kl, or nll for the change of the log-likelihood")->type_name("NAME")
      ->check(CLI::IsMember({"kl", "nll"}))->capture_default_str();
  app->add_option("--channels", options->channels, "With --results: the head size (default: the next usual one)")->type_name("N")->check(CLI::Range(8, 256));
  app->add_option("--svg", options->svg, "Draw bytes against error, as an SVG picture")->type_name("FILE");
  app->add_option("--title", options->title, "Title of the picture")->type_name("TEXT");
  app->add_option("--scale", options->scale, "Scale of the logits; 0 = 1 / sqrt(channels)")->type_name("X")->check(CLI::Range(0.0, 1e30))
      ->capture_default_str();
  app->add_option("--softcap", options->softcap, "Soft cap of the logits; 0 = none")->type_name("X")->check(CLI::Range(0.0, 1e30))->capture_default_str();
  app->add_flag("--bf16", options->bf16, "Arrays of dtype '<u2' hold bf16 bits");
  app->add_option("--threads", options->threads, "Threads; -1 = every core that the process may use")->type_name("N")->check(CLI::Range(-1,
      1024))->capture_default_str();
  return {app, [options](Report &report) { run(*options, report); }};
}

}  // namespace think::cli
