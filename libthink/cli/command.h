// What the subcommands of `think` have in common: a report that is printed once, as text or as one JSON object, after everything has
// succeeded.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace think::cli {

struct Report {
  nlohmann::ordered_json json;
  std::string text;
  int exit_code = 0;

#if defined(__GNUC__)
  __attribute__((format(printf, 2, 3)))
#endif
  void
  line(const char *format, ...);
};

struct Command {
  CLI::App *app;
  std::function<void(Report &)> run;
};

Command add_info(CLI::App &program);
Command add_prune(CLI::App &program);
Command add_attend(CLI::App &program);
Command add_inspect(CLI::App &program);
Command add_frontier(CLI::App &program);
Command add_selftest(CLI::App &program);
Command add_bench(CLI::App &program);

// "12.5 MiB"
std::string bytes_text(int64_t bytes);

}  // namespace think::cli
