// think_bench: see README.md.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>

#include "libthink/backend/isa.h"
#include "measure.h"

namespace think::bench {

namespace {

constexpr const char *kUsage =
    "think_bench [--quick] [--json FILE] [--markdown FILE] [--only attend|score|compact|moments] [--match TEXT] [--threads N[,N...]] [--rounds N] [--footprint MIB] [--cpu-time]\n"
    "Speed of the stages as ratios inside one run, next to a read-bandwidth probe of the same memory. Prints tables.\n";

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0 || line.rfind("Model", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

Json probe_rates(const Bench &bench) {
  Json rows = Json::array();
  for (int32_t count : bench.options.threads) {
    const Threads threads(count);
    std::vector<double> times;
    for (int32_t round = 0; round < bench.options.rounds + 2; ++round) times.push_back(probe_seconds_per_byte(bench.arena, threads.parallel()));
    rows.push_back({{"threads", count},
                    {"footprint_mib", bench.arena.bytes() >> 20},
                    {"gb_per_s", 1e-9 / median(times)},
                    {"gb_per_s_max", 1e-9 / minimum(times)},
                    {"l2_gb_per_s", cached_probe_rate(bench.arena, second_cache_bytes() * 2 / 5, count) / 1e9}});
  }
  return rows;
}

struct Section {
  const char *name, *title;
  Json (*run)(const Bench &bench);
  std::vector<std::string> columns;
};

const std::vector<Section> &sections() {
  static const std::vector<Section> all = {
      {"attend", "attend: one decode step of one layer", attend_bench,
       {"shape", "dtype", "threads", "tokens", "layout", "formats", "widths", "kept", "ms", "gb_per_s", "probe_gb_per_s", "l2_gb_per_s", "fraction_of_probe",
        "fraction_of_l2_rate", "fraction_of_bound", "fraction_of_goal", "speedup_over_dense", "byte_ratio", "speedup_over_byte_ratio"}},
      {"score", "score: update with the keys of one layer", score_bench,
       {"shape", "dtype", "threads", "tokens", "strides", "ms", "gb_per_s", "probe_gb_per_s", "fraction_of_probe", "fraction_of_probe_best"}},
      {"compact", "compact: rows of one layer to a compact segment, bytes read + written", compact_bench,
       {"shape", "case", "dtypes", "threads", "tokens", "ms", "gb_per_s", "probe_gb_per_s", "fraction_of_probe", "fraction_of_probe_best"}},
      {"moments", "moments, gains, select and fit of one layer", moments_bench,
       {"shape", "dtype", "threads", "tokens", "sides", "moments_ms", "gains_fit_ms", "ms", "us_per_token"}},
  };
  return all;
}

// What README.md asks for, counted over the rows of this run.
Json goals(const Json &result) {
  Json rows = Json::array();
  const auto count = [&](const char *goal, const char *section, const char *figure, double wanted, const auto &applies) {
    int64_t all = 0, met = 0;
    double least = 1e9;
    for (const Json &row : result.contains(section) ? result[section] : Json::array()) {
      if (!applies(row)) continue;
      const double value = row[figure];
      ++all;
      met += value >= wanted;
      least = std::min(least, value);
    }
    if (all) rows.push_back({{"goal", goal}, {"wanted", wanted}, {"rows", all}, {"met", met}, {"least", least}});
  };
  // Quantized forms have goals of their own: so far only how they compare with 16 bits.
  const auto quantized = [](const Json &row) {
    const std::string stored = row.value("formats", row.value("dtypes", ""));
    return stored.find('u') != std::string::npos || stored.find("f8") != std::string::npos;
  };
  const auto one = [&](const Json &row) { return row["threads"] == 1 && !quantized(row); };
  const auto several = [&](const Json &row) { return row["threads"] > 1 && !quantized(row); };
  count("attend, one thread: fraction_of_bound", "attend", "fraction_of_bound", 0.9, one);
  count("attend, all threads: fraction_of_goal", "attend", "fraction_of_goal", 0.8, several);
  for (const char *shape : {"D128", "D64"}) {
    count((std::string("attend, ") + shape + ": speedup_over_byte_ratio").c_str(), "attend", "speedup_over_byte_ratio", 0.95,
          [&](const Json &row) { return !quantized(row) && row["shape"].get<std::string>().rfind(shape, 0) == 0; });
  }
  count("attend, quantized: speedup_over_dense rows of 16 bits", "attend", "speedup_over_dense", 1, quantized);
  count("compact, quantized: fraction_of_probe", "compact", "fraction_of_probe", 0.5, quantized);
  // As attend from 4k tokens on: shorter calls last some tens of microseconds, as long as it takes to wake a thread.
  const auto long_call = [](const Json &row) { return row["tokens"] >= 4096; };
  for (const char *section : {"score", "compact"}) {
    count((std::string(section) + ", one thread: fraction_of_probe").c_str(), section, "fraction_of_probe", 0.7,
          [&](const Json &row) { return one(row) && long_call(row); });
    count((std::string(section) + ", all threads: fraction_of_probe").c_str(), section, "fraction_of_probe", 0.7,
          [&](const Json &row) { return several(row) && long_call(row); });
  }
  return rows;
}

std::string report(const Json &result, bool markdown) {
  std::string text = markdown ? "# Results of tests/bench\n\nWritten by `tests/bench/run.sh --markdown`; how it is measured: [README.md](README.md).\n\n" : "";
  text += "CPU: " + result["cpu"].get<std::string>() + ", " + std::to_string(result["cores"].get<int64_t>()) + " cores, instruction set " +
          result["isa"].get<std::string>() + ", " + result["clock"].get<std::string>() + " clock\n";
  const auto add = [&](const std::string &title, const Json &rows, const std::vector<std::string> &columns) {
    text += (markdown ? "\n## " : "\n") + title + "\n" + (markdown ? "\n" : "") + table(rows, columns, markdown);
  };
  add("probe: reading memory", result["probe"], {"threads", "footprint_mib", "gb_per_s", "gb_per_s_max", "l2_gb_per_s"});
  add("goals", result["goals"], {"goal", "wanted", "rows", "met", "least"});
  for (const Section &section : sections()) {
    if (result.contains(section.name)) add(section.title, result[section.name], section.columns);
  }
  return text;
}

void write_file(const std::string &path, const std::string &text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) throw std::runtime_error("cannot write " + path);
}

int64_t number(const char *name, const char *text, int64_t low, int64_t high) {
  char *end;
  const long long value = std::strtoll(text, &end, 10);
  if ((*end && *end != ',') || end == text || value < low || value > high) {
    throw std::runtime_error(std::string(name) + ": expected a number from " + std::to_string(low) + " to " + std::to_string(high) + ", got '" + text + "'");
  }
  return value;
}

int run(int argc, char **argv) {
  Options options;
  std::string json_file, markdown_file;
  bool cpu_time = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto next = [&]() -> const char * {
      if (i + 1 >= argc) throw std::runtime_error(argument + " needs a value");
      return argv[++i];
    };
    if (argument == "--help" || argument == "-h") {
      std::fputs(kUsage, stdout);
      return 0;
    } else if (argument == "--quick") {
      options.quick = true;
      options.rounds = 3;
      options.footprint = int64_t{512} << 20;
    } else if (argument == "--json") {
      json_file = next();
    } else if (argument == "--markdown") {
      markdown_file = next();
    } else if (argument == "--only") {
      options.only = next();
    } else if (argument == "--match") {
      options.match = next();
    } else if (argument == "--rounds") {
      options.rounds = static_cast<int32_t>(number("--rounds", next(), 1, 1000));
    } else if (argument == "--footprint") {
      options.footprint = number("--footprint", next(), 512, 65536) << 20;
    } else if (argument == "--cpu-time") {
      cpu_time = true;
    } else if (argument == "--threads") {
      for (const char *text = next(); text; text = std::strchr(text, ',') ? std::strchr(text, ',') + 1 : nullptr) {
        options.threads.push_back(static_cast<int32_t>(number("--threads", text, 1, 1024)));
      }
    } else {
      throw std::runtime_error("unknown argument '" + argument + "'; see --help");
    }
  }
  const int32_t cores = usable_cores();
  if (options.threads.empty()) {
    options.threads.push_back(1);
    if (cores > 1) options.threads.push_back(cores);
  }
  if (cpu_time) {
    // More threads share one such clock, so only one thread can be measured.
    options.threads = {1};
    clock_in_use = CLOCK_THREAD_CPUTIME_ID;
  }
  const auto &all = sections();
  if (!options.only.empty() && std::none_of(all.begin(), all.end(), [&](const Section &section) { return section.name == options.only; })) {
    throw std::runtime_error("--only: expected attend, score, compact or moments, got '" + options.only + "'");
  }
  IsaChoice choice;
  think_error error = THINK_ERROR_INIT;
  if (choose_isa(&error, choice) != THINK_OK) throw std::runtime_error(error.message);

  // Each thread reads a part of its own in the rates in L2, and one layer of every shape must fit.
  const int64_t least = std::max(int64_t{512} << 20, *std::max_element(options.threads.begin(), options.threads.end()) * kProbeBlock);
  if (options.footprint < least) throw std::runtime_error("--footprint: these threads and shapes need at least " + std::to_string(least >> 20) + " MiB");

  const bool terminal = isatty(2);
  const auto progress = [&](const std::string &what) {
    std::fprintf(stderr, terminal ? "\r\033[K%s" : "%s\n", what.c_str());
    std::fflush(stderr);
  };
  progress("filling memory");
  const Arena arena(options.footprint);
  const Bench bench{options, choice.isa, arena, progress};
  Json result = {{"cpu", cpu_name()}, {"cores", cores}, {"isa", isa_name(choice.isa)}, {"clock", cpu_time ? "cpu time" : "wall"}, {"probe", probe_rates(bench)}};
  for (const Section &section : all) {
    if (options.only.empty() || options.only == section.name) result[section.name] = section.run(bench);
  }
  result["goals"] = goals(result);
  if (terminal) std::fputs("\r\033[K", stderr);
  std::cout << report(result, false);
  if (!json_file.empty()) write_file(json_file, result.dump(1) + "\n");
  if (!markdown_file.empty()) write_file(markdown_file, report(result, true));
  return 0;
}

}  // namespace

}  // namespace think::bench

int main(int argc, char **argv) {
  try {
    return think::bench::run(argc, argv);
  } catch (const std::exception &problem) {
    std::fprintf(stderr, "think_bench: %s\n", problem.what());
    return 2;
  }
}
