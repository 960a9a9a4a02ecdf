// memory: the memory claims of the ThinK paper (arXiv 2407.21018), measured by allocation on the shapes of real models. See README.md.
#include "measure.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <vector>

namespace {

using namespace memory;

constexpr Shape kShapes[] = {{"SmolLM2-135M", 30, 9, 3, 64, 134'515'008}, {"Llama-2-7B", 32, 32, 32, 128, 6'738'415'616}};

struct Arguments {
  std::vector<Shape> shapes{std::begin(kShapes), std::end(kShapes)};
  int32_t bits = 2;  // as the paper has
  int32_t prompt = 160, generated = 338, batch = 300;  // the script of the paper's authors
  int32_t tokens = 4096;                                // a long prompt
  int32_t layers = 0, sequences = 8;                    // that are really allocated; 0 = all of the model
};

// The ways in which channels go, in the columns of the table.
struct Way {
  const char *title;
  int32_t mode, key_kept, value_kept, sinks;
};

std::vector<Way> ways_of(const Shape &shape) {
  const int32_t channels = shape.channels;
  return {{"ThinK 0.4", THINK_MODE_CHANNELS, think_kept_channels(channels, 0.4), -1, -1},
          {"ThinK 0.5", THINK_MODE_CHANNELS, channels / 2, -1, -1},
          {"regressed + adaptive, keys 1/2", THINK_MODE_REGRESSED, channels / 2, -1, 0},
          {"regressed + adaptive, keys 3/8, values 11/16", THINK_MODE_REGRESSED, channels * 3 / 8, channels * 11 / 16, 0}};
}

Stack dense_stack() { return {"dense", THINK_MODE_CHANNELS, -1, -1, 16, -1, -1, THINK_FOLD_NEVER}; }

// As KIVI: blocks of 32 are coded as soon as they are full, keys per channel and values per token in groups of 32; what is left over stays in 16 bits.
Stack quantized_stack(int32_t bits, const Way *way = nullptr) {
  if (!way) return {"quantized", THINK_MODE_CHANNELS, -1, -1, bits, -1, -1, THINK_FOLD_BLOCK};
  return {way->title, way->mode, way->key_kept, way->value_kept, bits, way->sinks, way->sinks, THINK_FOLD_BLOCK};
}

// After eviction, in 16 bits: the last 32 rows stay dense, as in the paper.
Stack evicted_stack(const Way &way) { return {way.title, way.mode, way.key_kept, way.value_kept, 16, way.sinks, 0, THINK_FOLD_NEVER}; }

double less(const Measured &with, const Measured &without) { return 100 * (1 - static_cast<double>(with.held) / static_cast<double>(without.held)); }

std::string text(const char *format, double a, double b = 0, double c = 0) {
  char line[160];
  std::snprintf(line, sizeof line, format, a, b, c);
  return line;
}

class Table {
 public:
  explicit Table(const std::vector<Way> &ways) {
    std::printf("| claim | paper |");
    for (const Way &way : ways) std::printf(" %s |", way.title);
    std::printf("\n|---|---|");
    for (size_t i = 0; i < ways.size(); ++i) std::printf("---|");
    std::printf("\n");
  }
  void row(const std::string &claim, const char *paper, const std::vector<std::string> &cells) {
    std::printf("| %s | %s |", claim.c_str(), paper);
    for (const std::string &cell : cells) std::printf(" %s |", cell.c_str());
    std::printf("\n");
    std::fflush(stdout);
  }
};

// Twice the layers or sequences take twice the bytes, to the byte: so few of them stand for all.
void check_linear(const Shape &shape, const Stack &stack, int32_t prompt) {
  const auto held = [&](int32_t layers, int32_t sequences) { return measure(shape, stack, {layers, sequences, prompt, 40}).held; };
  const int64_t unit = held(1, 1);
  if (held(2, 1) != 2 * unit || held(1, 3) != 3 * unit) throw std::runtime_error("bytes are not proportional to layers and sequences");
}

void report(const Arguments &arguments, const Shape &shape) {
  const std::vector<Way> ways = ways_of(shape);
  const Load batch{arguments.layers > 0 ? arguments.layers : shape.layers, arguments.sequences, arguments.prompt, arguments.generated}, tall{1, 1, arguments.tokens, 0}, half{1, 1, arguments.tokens / 2, 0};
  check_linear(shape, quantized_stack(arguments.bits, &ways[0]), arguments.prompt);
  const double layers = shape.layers, units = static_cast<double>(batch.layers) * batch.sequences, weights = static_cast<double>(shape.weight_bytes());
  const auto total = [&](double bytes_per_unit) { return weights + bytes_per_unit * layers * arguments.batch; };

  const Measured quantized = measure(shape, quantized_stack(arguments.bits), batch), tall_quantized = measure(shape, quantized_stack(arguments.bits), tall),
                 evicted = measure(shape, dense_stack(), half);
  const double dense = static_cast<double>(quantized.dense) / units;  // the baseline has no slack at all
  const auto peak_ratio = [&](const Measured &measured) { return total(dense) / total(static_cast<double>(measured.peak) / units); };
  const auto batch_ratio = [&](const Measured &measured) { return static_cast<double>(measured.dense) / static_cast<double>(measured.held); };

  std::vector<Measured> on_batch, on_tall, on_half;
  for (const Way &way : ways) {
    on_batch.push_back(measure(shape, quantized_stack(arguments.bits, &way), batch));
    on_tall.push_back(measure(shape, quantized_stack(arguments.bits, &way), tall));
    on_half.push_back(measure(shape, evicted_stack(way), half));
  }
  std::printf("## %s\n\n%d layers, %d query and %d KV heads of %d channels; weights %.2f GB in 16 bits, %.1f KB of dense 16-bit keys and values per token.\n\n", shape.name,
              shape.layers, shape.query_heads, shape.kv_heads, shape.channels, weights * 1e-9, 1e-3 * static_cast<double>(shape.row_bytes()) * layers);
  Table table(ways);
  const auto cells = [](const std::vector<Measured> &all, const auto &cell) {
    std::vector<std::string> result;
    for (const Measured &one : all) result.push_back(cell(one));
    return result;
  };
  const std::string format = "int" + std::to_string(arguments.bits), with = format + " of ";
  table.row("less KV on top of " + with + std::to_string(arguments.tokens) + " tokens", "over 20 %", cells(on_tall, [&](const Measured &m) { return text("%.1f %%", less(m, tall_quantized)); }));
  table.row("less KV on top of " + with + std::to_string(batch.tokens()) + " tokens", "over 20 %", cells(on_batch, [&](const Measured &m) { return text("%.1f %%", less(m, quantized)); }));
  table.row("less KV on top of SnapKV, " + std::to_string(half.prompt) + " of " + std::to_string(arguments.tokens) + " tokens", "over 20 %",
            cells(on_half, [&](const Measured &m) { return text("%.1f %%", less(m, evicted)); }));
  std::vector<std::string> limits;
  for (const Way &way : ways) {
    limits.push_back(text("%.1f %%", 100 * (1 - static_cast<double>(way.key_kept + (way.value_kept < 0 ? shape.channels : way.value_kept)) / (2.0 * shape.channels))));
  }
  table.row("*arithmetic*: channels alone", "", limits);
  table.row("peak memory against 16 bits, weights included, batch " + std::to_string(arguments.batch) + "; " + format + " alone: " + text("%.2fx", peak_ratio(quantized)), "2.8x less",
            cells(on_batch, [&](const Measured &m) { return text("%.2fx less", peak_ratio(m)); }));
  table.row("batch in the memory of a 16-bit batch; " + format + " alone: " + text("%.2fx", batch_ratio(quantized)), "4x -> 5x",
            cells(on_batch, [&](const Measured &m) { return text("%.2fx", batch_ratio(m)); }));
  table.row("*arithmetic*: of a sequence of " + std::to_string(batch.tokens()) + ", rows in 16 bits; basis", "",
            cells(on_batch, [&](const Measured &m) { return std::to_string(m.dense_rows) + text("; %.1f %%", 100 * static_cast<double>(m.basis) / static_cast<double>(m.held)); }));
  table.row("*arithmetic*: peak in the allocator over what is held", "", cells(on_batch, [&](const Measured &m) { return text("%.3f", static_cast<double>(m.peak) / static_cast<double>(m.held)); }));
  std::printf("\nAt that batch: 16 bits %.1f GB; %s %.1f GB", 1e-9 * total(dense), format.c_str(), 1e-9 * total(static_cast<double>(quantized.peak) / units));
  for (size_t i = 0; i < ways.size(); ++i) std::printf("; %s %.1f GB", ways[i].title, 1e-9 * total(static_cast<double>(on_batch[i].peak) / units));
  std::printf(".\n\n");
}

int32_t number(const char *text, int32_t low, int32_t high) {
  char *end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (end == text || *end != 0 || value < low || value > high) throw std::runtime_error(std::string("'") + text + "': a number of " + std::to_string(low) + " .. " + std::to_string(high) + " expected");
  return static_cast<int32_t>(value);
}

Arguments parse(int argc, char **argv) {
  Arguments arguments;
  const auto is = [&](int i, const char *name) { return std::strcmp(argv[i], name) == 0; };
  for (int i = 1; i < argc; i += 2) {
    if (i + 1 == argc) throw std::runtime_error(std::string(argv[i]) + ": memory [--model NAME] [--bits N] [--tokens N] [--prompt N] [--generated N] [--batch N] [--layers N] [--sequences N]");
    const char *value = argv[i + 1];
    if (is(i, "--model")) {
      std::vector<Shape> found;
      for (const Shape &shape : kShapes) {
        if (std::strcmp(shape.name, value) == 0) found.push_back(shape);
      }
      if (found.empty()) throw std::runtime_error(std::string("no shape of a model '") + value + "'");
      arguments.shapes = found;
    } else if (is(i, "--bits")) {
      arguments.bits = number(value, 2, 8);
    } else if (is(i, "--tokens")) {
      arguments.tokens = number(value, 64, 1 << 20);
    } else if (is(i, "--prompt")) {
      arguments.prompt = number(value, 64, 1 << 20);
    } else if (is(i, "--generated")) {
      arguments.generated = number(value, 0, 1 << 20);
    } else if (is(i, "--batch")) {
      arguments.batch = number(value, 1, 1 << 20);
    } else if (is(i, "--layers")) {
      arguments.layers = number(value, 1, 1024);
    } else if (is(i, "--sequences")) {
      arguments.sequences = number(value, 1, 1024);
    } else {
      throw std::runtime_error(std::string("unknown argument '") + argv[i] + "'");
    }
  }
  return arguments;
}

}  // namespace

int main(int argc, char **argv) {
  try {
    const Arguments arguments = parse(argc, argv);
    if (format_of(arguments.bits) == 0) throw std::runtime_error("this library has no format of " + std::to_string(arguments.bits) + " bits");
    for (const Shape &shape : arguments.shapes) report(arguments, shape);
    return 0;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "memory: %s\n", error.what());
    return 1;
  }
}
