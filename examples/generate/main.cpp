// generate: a small inference engine whose attention and key-value cache are libthink's. Arguments, files and printing; the work is in the other files.
#include "conversation.h"
#include "evaluate.h"
#include "gguf.h"
#include "model.h"
#include "threads.h"
#include "tokenizer.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <thread>

#include <unistd.h>

namespace {

using namespace generate;
using nlohmann::json;

struct Arguments {
  std::string model, prompt_file, question, next_question, mode = "regressed", budget = "adaptive", cache = "f16";
  std::string evict = "none", evict_pooling = "max", key_format, value_format, fold = "never";
  std::string evaluate, rows, tokenize, raw_logits, check_vectors;
  double ratio = 0.5, value_ratio = 0;
  int64_t tokens = 64, keep_layers = 0;
  int threads = 0;
  bool as_json = false, describe = false, never_ends = false;
  EvaluationOptions evaluation;
};

std::string default_model() {
  const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
  const std::string folder = cache != nullptr && *cache != 0 ? cache : std::string(home != nullptr ? home : ".") + "/.cache";
  return folder + "/libthink/SmolLM2-135M-Instruct.Q4_1.gguf";
}

std::string read_text(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) throw std::runtime_error("cannot read " + path);
  return text;
}

// On stderr: on a terminal one line that replaces itself, else a line for each kind of work, by its text in front of the first figure.
void show(const std::string &text) {
  static std::string last;
  if (isatty(STDERR_FILENO)) {
    std::fprintf(stderr, "\r\033[K%s", text.c_str());
  } else if (const std::string kind = text.substr(0, text.find_first_of("0123456789")); !kind.empty() && kind != last) {
    std::fprintf(stderr, "%s\n", text.c_str());
    last = kind;
  }
}

think_dtype cache_type(const Arguments &arguments) { return arguments.cache == "f32" ? THINK_F32 : THINK_F16; }

Stack stack_of(const Arguments &arguments, int64_t channels) {
  Stack stack;
  stack.name = "as asked";
  think_prune_options &options = stack.cache.prune;
  options.mode = arguments.mode == "channels" ? THINK_MODE_CHANNELS : THINK_MODE_REGRESSED;
  options.budget = arguments.budget == "uniform" ? THINK_BUDGET_UNIFORM : THINK_BUDGET_ADAPTIVE;
  const auto kept = [&](double ratio) { return ratio > 0 ? think_kept_channels(static_cast<int32_t>(channels), ratio) : -1; };
  options.key_kept = kept(arguments.ratio);
  options.value_kept = kept(arguments.value_ratio);
  stack.cache.format.key_dtype = parse_format(arguments.key_format);
  stack.cache.format.value_dtype = parse_format(arguments.value_format);
  stack.cache.keep_layers = arguments.keep_layers;
  stack.cache.fold = arguments.fold == "block" ? THINK_FOLD_BLOCK : THINK_FOLD_NEVER;
  if (arguments.evict != "none") stack.eviction = parse_eviction(arguments.evict);
  if (arguments.evict_pooling == "mean") {
    if (!stack.eviction || stack.eviction->method != THINK_EVICT_SNAPKV) throw std::runtime_error("--evict-pooling mean: only snapkv pools");
    stack.eviction->pooling = THINK_POOL_MEAN;
  }
  complete(stack);
  return stack;
}

std::vector<Stack> stacks_of(const Arguments &arguments, int64_t channels) {
  std::vector<Stack> stacks;
  for (const std::string &name : CLI::detail::split(arguments.rows, ',')) stacks.push_back(parse_stack(name, channels));
  return stacks;
}

json usage_json(const Cache::Usage &usage) {
  return {{"tokens", usage.tokens},           {"tokens_compact", usage.compact_tokens}, {"tokens_dense", usage.dense_tokens},     {"tokens_evicted", usage.evicted_tokens},
          {"kv_bytes_dense", usage.dense_bytes}, {"kv_bytes_held", usage.bytes},        {"key_channels", usage.key_channels},     {"value_channels", usage.value_channels}};
}

double rate(const Answer &answer) { return answer.seconds > 0 ? static_cast<double>(answer.tokens.size()) / answer.seconds : 0; }

// ---- generate -----------------------------------------------------------------------------------------------------------------------------------

json conversation_json(const Arguments &arguments, const Conversation &c, const Tokenizer &tokenizer, int64_t threads) {
  const Comparison &pruned = c.comparison;
  json out = usage_json(pruned.usage);
  out.erase("tokens");
  out.update({{"tokens_prefill", c.prompt_tokens},
              {"tokens_generated", c.compact.tokens.size()},
              {"tokens_generated_dense", c.dense.tokens.size()},
              {"kv_bytes_saved", pruned.usage.dense_bytes - pruned.usage.bytes},
              {"pruned", c.pruned},
              {"attention_ms_dense", c.dense.attention_ms},
              {"attention_ms_pruned", pruned.attention_ms},
              {"tokens_per_second_dense", rate(c.dense)},
              {"tokens_per_second_pruned", rate(c.compact)},
              {"kl", pruned.difference.kl},
              {"delta_nll", pruned.difference.delta_nll},
              {"top1", pruned.difference.top1},
              {"tokens_compared", pruned.compared},
              {"prefill_seconds", c.prefill_seconds},
              {"prefill_attention_seconds", c.prefill_attention_seconds},
              {"prune_seconds", c.prune_seconds},
              {"answer_dense", tokenizer.decode(c.dense.tokens)},
              {"answer_pruned", tokenizer.decode(c.compact.tokens)},
              {"mode", arguments.mode},
              {"budget", arguments.budget},
              {"ratio", arguments.ratio},
              {"value_ratio", arguments.value_ratio},
              {"cache", arguments.cache},
              {"evict", arguments.evict},
              {"key_format", arguments.key_format},
              {"value_format", arguments.value_format},
              {"keep_layers", arguments.keep_layers},
              {"fold", arguments.fold},
              {"threads", threads}});
  if (!arguments.next_question.empty()) out["next"] = {{"answer", tokenizer.decode(c.next.tokens)}, {"tokens_generated", c.next.tokens.size()}, {"usage", usage_json(c.end_usage)}};
  return out;
}

std::string mebibytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f MiB", static_cast<double>(bytes) / 1048576.0);
  return text;
}

void print_conversation(const Arguments &arguments, const Conversation &c, const Tokenizer &tokenizer) {
  const auto line = [](const char *name, const std::string &text) { std::printf("%-34s %s\n", name, text.c_str()); };
  const auto fixed = [](double value, int digits) {
    char text[40];
    std::snprintf(text, sizeof text, "%.*f", digits, value);
    return std::string(text);
  };
  const auto answer = [&](const char *title, const Answer &a) {
    std::printf("\n--- %s%s\n%s\n", title, a.ended ? "" : " (cut)", tokenizer.decode(a.tokens).c_str());
  };
  const Comparison &pruned = c.comparison;
  const Cache::Usage &usage = pruned.usage;
  std::printf("question: %s\n", arguments.question.c_str());
  answer("answer over the dense cache", c.dense);
  answer("answer over the pruned cache", c.compact);
  if (!arguments.next_question.empty()) {
    std::printf("\nsecond question: %s\n", arguments.next_question.c_str());
    answer("answer over the pruned cache", c.next);
  }
  std::printf("\n");
  if (!c.pruned) line("pruned", "no: the prompt is too short");
  line("tokens in the cache after prefill", std::to_string(usage.compact_tokens + usage.dense_tokens) + " (" + std::to_string(usage.compact_tokens) + " compact, " + std::to_string(usage.dense_tokens) + " dense)" +
                                                (usage.evicted_tokens > 0 ? ", " + std::to_string(usage.evicted_tokens) + " evicted from every head" : ""));
  line("cache, dense", mebibytes(usage.dense_bytes) + " " + arguments.cache);
  line("cache, held", mebibytes(usage.bytes) + ", whole pages and bases");
  line("saved", mebibytes(usage.dense_bytes - usage.bytes) + " (" +
                    fixed(100.0 * static_cast<double>(usage.dense_bytes - usage.bytes) / static_cast<double>(usage.dense_bytes), 1) + " %)");
  line("attention per token, dense", fixed(c.dense.attention_ms, 3) + " ms");
  line("attention per token, pruned", fixed(pruned.attention_ms, 3) + " ms");
  line("tokens per second, dense", fixed(rate(c.dense), 1) + ", whole engine, its own answer (one after the other: the load of the machine shows here)");
  line("tokens per second, pruned", fixed(rate(c.compact), 1) + ", the same");
  line("KL(dense || pruned)", fixed(pruned.difference.kl, 4) + " nats per token, mean over the " + std::to_string(pruned.compared) + " tokens of the dense answer");
  line("change of -log p of these tokens", fixed(pruned.difference.delta_nll, 4) + " nats per token");
  line("same most likely token", fixed(100 * pruned.difference.top1, 1) + " % of the same tokens, before the repetition penalty that answers are chosen with");
  line("prefill", fixed(c.prefill_seconds, 2) + " s, prune " + fixed(c.prune_seconds, 2) + " s");
}

void print_table(const Arguments &arguments, const Table &table, int64_t threads) {
  if (arguments.as_json) {
    json rows = json::array();
    for (const Comparison &row : table.rows) {
      json out = usage_json(row.usage);
      out.update({{"name", row.name},
                  {"kl", row.difference.kl},
                  {"delta_nll", row.difference.delta_nll},
                  {"top1", row.difference.top1},
                  {"tokens_compared", row.compared},
                  {"attention_ms", row.attention_ms},
                  {"end", usage_json(row.end_usage)}});
      rows.push_back(out);
    }
    const json out = {{"tokens_prefill", table.prompt_tokens}, {"tokens_generated", table.dense.tokens.size()}, {"cache", arguments.cache}, {"threads", threads}, {"rows", rows}};
    std::printf("%s\n", out.dump(1).c_str());
    return;
  }
  size_t width = 0;
  for (const Comparison &row : table.rows) width = std::max(width, row.name.size());
  std::printf("%lld tokens in the prompt; the %zu tokens of the dense answer, fed to every cache in turn\n\n%-*s %10s %8s %8s %9s %7s %13s\n", static_cast<long long>(table.prompt_tokens),
              table.dense.tokens.size(), static_cast<int>(width), "cache", "held", "smaller", "KL", "dNLL", "top-1", "attention");
  for (const Comparison &row : table.rows)
    std::printf("%-*s %10s %7.2fx %8.4f %+9.4f %7.3f %10.3f ms\n", static_cast<int>(width), row.name.c_str(), mebibytes(row.usage.bytes).c_str(),
                static_cast<double>(row.usage.dense_bytes) / static_cast<double>(row.usage.bytes), row.difference.kl, row.difference.delta_nll, row.difference.top1, row.attention_ms);
}

void run_conversation(const Arguments &arguments, const GgufFile &file, ThreadPool &pool, const Tokenizer &tokenizer) {
  Model model(file, pool);
  Attention attention(model.cache_shape(), cache_type(arguments), pool);
  if (arguments.describe) {
    std::printf("%s\n", attention.describe().c_str());
    return;
  }
  ConversationOptions options;
  if (!arguments.prompt_file.empty()) options.document = read_text(arguments.prompt_file);
  options.question = arguments.question;
  options.next_question = arguments.next_question;
  options.tokens = arguments.tokens;
  options.never_ends = arguments.never_ends;
  if (!arguments.rows.empty()) {
    const std::vector<Stack> stacks = stacks_of(arguments, model.config().head_channels);
    print_table(arguments, compare_stacks(model, attention, tokenizer, pool, options, stacks, show), pool.threads());
    return;
  }
  options.stack = stack_of(arguments, model.config().head_channels);
  const Conversation result = converse(model, attention, tokenizer, pool, options, show);
  if (arguments.as_json) std::printf("%s\n", conversation_json(arguments, result, tokenizer, pool.threads()).dump(1, ' ', false, json::error_handler_t::replace).c_str());
  else print_conversation(arguments, result, tokenizer);
}

// ---- evaluate -----------------------------------------------------------------------------------------------------------------------------------

void run_evaluation(const Arguments &arguments, const GgufFile &file, ThreadPool &pool, const Tokenizer &tokenizer) {
  Model model(file, pool);
  Attention attention(model.cache_shape(), cache_type(arguments), pool);
  const std::vector<Stack> rows = stacks_of(arguments, model.config().head_channels);
  const std::vector<int32_t> tokens = tokenizer.encode(read_text(arguments.evaluate));
  const auto results = evaluate(model, attention, tokens, arguments.evaluation, rows, pool, [](int64_t done, int64_t total) {
    show(done == total ? "" : "pass " + std::to_string(done) + " of " + std::to_string(total));
  });

  json segments = json::array();
  for (const SegmentResult &segment : results) {
    json measured = json::object();
    for (size_t i = 0; i < rows.size(); ++i)
      measured[rows[i].name] = {{"kl", segment.rows[i].kl}, {"delta_nll", segment.rows[i].delta_nll}, {"top1", segment.rows[i].top1}, {"usage", usage_json(segment.usage[i])}};
    segments.push_back({{"start", segment.start}, {"digest", segment.digest}, {"dense_nll", segment.dense_nll}, {"rows", measured}});
  }
  if (arguments.as_json) {
    std::printf("%s\n", json{{"tokens", tokens.size()}, {"prefill", arguments.evaluation.prefill}, {"scored", arguments.evaluation.scored}, {"cache", arguments.cache}, {"segments", segments}}.dump(1).c_str());
    return;
  }
  std::printf("%zu tokens, %zu segments: prefill %lld, then %lld tokens fed; mean over segments\n\n%-24s %8s %9s %7s %12s\n", tokens.size(), results.size(),
              static_cast<long long>(arguments.evaluation.prefill), static_cast<long long>(arguments.evaluation.scored), "row", "KL", "dNLL", "top-1", "held/dense");
  for (size_t i = 0; i < rows.size(); ++i) {
    Predictions::Difference mean;
    const auto count = static_cast<double>(results.size());
    for (const SegmentResult &segment : results) {
      mean.kl += segment.rows[i].kl / count;
      mean.delta_nll += segment.rows[i].delta_nll / count;
      mean.top1 += segment.rows[i].top1 / count;
    }
    const Cache::Usage &usage = results[0].usage[i];
    std::printf("%-24s %8.4f %+9.4f %7.3f %12.3f\n", rows[i].name.c_str(), mean.kl, mean.delta_nll, mean.top1, static_cast<double>(usage.bytes) / static_cast<double>(usage.dense_bytes));
  }
}

// ---- checks of the engine itself ------------------------------------------------------------------------------------------------------------------

std::vector<float> dense_logits(const GgufFile &file, ThreadPool &pool, const std::vector<int32_t> &tokens) {
  Model model(file, pool);
  Attention attention(model.cache_shape(), THINK_F32, pool);
  CacheSettings settings;
  settings.prunes = false;
  Cache cache(attention, settings);
  std::vector<float> logits;
  model.forward(tokens, cache, Logits::all, logits);
  return logits;
}

void write_raw_logits(const Arguments &arguments, const GgufFile &file, ThreadPool &pool, const Tokenizer &tokenizer) {
  const std::vector<float> logits = dense_logits(file, pool, tokenizer.encode(read_text(arguments.prompt_file)));
  std::ofstream out(arguments.raw_logits, std::ios::binary);
  out.write(reinterpret_cast<const char *>(logits.data()), static_cast<std::streamsize>(logits.size() * sizeof(float)));
  if (!out.flush()) throw std::runtime_error("cannot write " + arguments.raw_logits);
}

// Token ids and sampled logits recorded from another implementation (tests/engine/parity.py).
int check_vectors(const Arguments &arguments, const GgufFile &file, ThreadPool &pool, const Tokenizer &tokenizer) {
  const json vectors = json::parse(read_text(arguments.check_vectors));
  int failures = 0;
  for (const json &item : vectors.at("strings")) {
    const auto text = item.at("text").get<std::string>();
    const auto expected = item.at("ids").get<std::vector<int32_t>>(), found = tokenizer.encode(text);
    if (found == expected) continue;
    ++failures;
    std::fprintf(stderr, "token ids of %s differ: expected %s, found %s\n", json(text).dump().c_str(), json(expected).dump().c_str(), json(found).dump().c_str());
  }
  const auto prompt = vectors.at("prompt").at("ids").get<std::vector<int32_t>>();
  const std::vector<float> logits = dense_logits(file, pool, prompt);
  const auto tolerance = vectors.at("tolerance").get<double>();
  double largest = 0;
  for (const json &sample : vectors.at("prompt").at("logits")) {
    const auto position = sample.at(0).get<size_t>(), token = sample.at(1).get<size_t>();
    largest = std::max(largest, std::fabs(static_cast<double>(logits.at(position * static_cast<size_t>(tokenizer.size()) + token)) - sample.at(2).get<double>()));
  }
  if (!(largest < tolerance)) {
    ++failures;
    std::fprintf(stderr, "logits differ by %g, less than %g expected\n", largest, tolerance);
  }
  std::printf("%zu strings, %zu logits: %d failures, largest difference of a logit %.2e\n", vectors.at("strings").size(), vectors.at("prompt").at("logits").size(), failures, largest);
  return failures == 0 ? 0 : 1;
}

int run(const Arguments &arguments) {
  const GgufFile file(arguments.model.empty() ? default_model() : arguments.model);
  const Tokenizer tokenizer(file);
  if (!arguments.tokenize.empty()) {
    std::printf("%s\n", json(tokenizer.encode(read_text(arguments.tokenize))).dump().c_str());
    return 0;
  }
  ThreadPool pool(arguments.threads > 0 ? arguments.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  if (!arguments.check_vectors.empty()) return check_vectors(arguments, file, pool, tokenizer);
  if (!arguments.raw_logits.empty()) write_raw_logits(arguments, file, pool, tokenizer);
  else if (!arguments.evaluate.empty()) run_evaluation(arguments, file, pool, tokenizer);
  else run_conversation(arguments, file, pool, tokenizer);
  return 0;
}

} // namespace

int main(int argc, char **argv) {
  Arguments arguments;
  CLI::App app{"Ask a question about a text, once over a dense key-value cache and once over a pruned one (libthink), and compare."};
  app.set_version_flag("--version", think_version_string());
  const std::vector<std::string> formats = {"f16", "f32", "int8", "int4", "int2", "fp8"};
  app.add_option("--model", arguments.model, "GGUF file; default: " + default_model())->type_name("FILE");
  app.add_option("--prompt-file", arguments.prompt_file, "text that the question is about")->check(CLI::ExistingFile)->type_name("FILE");
  app.add_option("--question", arguments.question, "what to ask")->type_name("TEXT");
  app.add_option("--next-question", arguments.next_question, "a second question, over the pruned cache")->type_name("TEXT");
  app.add_option("--tokens", arguments.tokens, "length of an answer, at most")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--mode", arguments.mode, "regressed: dropped channels are predicted; channels: they count as zero (the paper)")->check(CLI::IsMember({"regressed", "channels"}))->capture_default_str();
  app.add_option("--budget", arguments.budget, "widths of heads: adaptive or uniform")->check(CLI::IsMember({"adaptive", "uniform"}))->capture_default_str();
  app.add_option("--ratio", arguments.ratio, "share of the key channels to drop; 0 = none")->check(CLI::Range(0.0, 0.99))->capture_default_str();
  app.add_option("--value-ratio", arguments.value_ratio, "share of the value channels to drop; 0 = none")->check(CLI::Range(0.0, 0.99))->capture_default_str();
  app.add_option("--evict", arguments.evict, "METHOD:BUDGET, rows that go first: snapkv, h2o, window, tova, recent; budget in rows of each head, or a share as 50%")->capture_default_str();
  app.add_option("--evict-pooling", arguments.evict_pooling, "of snapkv: max or mean")->check(CLI::IsMember({"max", "mean"}))->capture_default_str();
  app.add_option("--key-format", arguments.key_format, "of compact keys: f16, f32, int8, int4, int2, fp8; default: that of the cache")->check(CLI::IsMember(formats));
  app.add_option("--value-format", arguments.value_format, "the same for values")->check(CLI::IsMember(formats));
  app.add_option("--keep-layers", arguments.keep_layers, "so many first and so many last layers keep the type of the cache")->check(CLI::Range(0, 1000))->capture_default_str();
  app.add_option("--fold", arguments.fold, "rows that come after the prune stay dense (never) or are folded, 32 at a time (block)")->check(CLI::IsMember({"never", "block"}))->capture_default_str();
  app.add_flag("--never-ends", arguments.never_ends, "answers go on to --tokens");
  app.add_option("--cache", arguments.cache, "type of the cache: f16 or f32")->check(CLI::IsMember({"f16", "f32"}))->capture_default_str();
  app.add_option("--threads", arguments.threads, "threads; 0 = one per core")->check(CLI::Range(0, 256))->capture_default_str();
  app.add_flag("--json", arguments.as_json, "figures as one JSON object on stdout (keys: README.md)");
  app.add_option("--evaluate", arguments.evaluate, "measure KL, change of log-likelihood and top-1 on this text instead")->check(CLI::ExistingFile)->type_name("TEXT")->group("Evaluation");
  app.add_option("--rows", arguments.rows, "what to compare, separated by commas; with --question a table instead of answers. SIDE:METHOD:KEPT[:FORMAT], evict:METHOD:BUDGET, fold:block and layers:N, joined by +; SIDE keys, values; METHOD think, regressed, adaptive")
      ->group("Evaluation");
  app.add_option("--segments", arguments.evaluation.segments, "windows of the text")->check(CLI::Range(1, 1000))->capture_default_str()->group("Evaluation");
  app.add_option("--prefill", arguments.evaluation.prefill, "tokens before the prune")->check(CLI::Range(64, 1 << 20))->capture_default_str()->group("Evaluation");
  app.add_option("--scored", arguments.evaluation.scored, "tokens fed after it")->check(CLI::Range(2, 1 << 16))->capture_default_str()->group("Evaluation");
  app.add_option("--tokenize", arguments.tokenize, "print the token ids of a file as JSON")->check(CLI::ExistingFile)->type_name("FILE")->group("Checks");
  app.add_option("--check-vectors", arguments.check_vectors, "compare token ids and logits with recorded ones")->check(CLI::ExistingFile)->type_name("FILE")->group("Checks");
  app.add_option("--raw-logits", arguments.raw_logits, "write the logits of every token of --prompt-file, f32, without chat format")->type_name("FILE")->group("Checks");
  app.add_flag("--describe", arguments.describe, "print libthink's plan for this model as JSON")->group("Checks");
  app.footer("Example:\n  generate --prompt-file README.md --question \"What is this about?\" --next-question \"Who would use it?\"");
  CLI11_PARSE(app, argc, argv);
  if (!arguments.evaluate.empty() && arguments.rows.empty()) arguments.rows = "keys:think:32,keys:regressed:32,keys:adaptive:32";
  for (std::string *format : {&arguments.key_format, &arguments.value_format})
    if (format->empty()) *format = arguments.cache;
  const bool asks = arguments.evaluate.empty() && arguments.tokenize.empty() && arguments.check_vectors.empty() && arguments.raw_logits.empty() && !arguments.describe;
  if (asks && arguments.question.empty()) {
    std::cerr << "generate: --question is required (see --help)\n";
    return 2;
  }
  if (!arguments.raw_logits.empty() && arguments.prompt_file.empty()) {
    std::cerr << "generate: --raw-logits needs --prompt-file\n";
    return 2;
  }
  try {
    return run(arguments);
  } catch (const std::exception &error) {
    std::cerr << "generate: " << error.what() << "\n";
    return 1;
  }
}
