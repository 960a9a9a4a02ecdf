// The `think` program: parses the command line, runs one subcommand, prints its report or its error, and returns the exit code.
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <new>
#include <vector>

#include "command.h"
#include "failure.h"
#include "think/version.h"

namespace think::cli {

void Report::line(const char *format, ...) {
  va_list arguments, copy;
  va_start(arguments, format);
  va_copy(copy, arguments);
  std::vector<char> buffer(static_cast<size_t>(std::vsnprintf(nullptr, 0, format, copy)) + 1);
  va_end(copy);
  std::vsnprintf(buffer.data(), buffer.size(), format, arguments);
  va_end(arguments);
  text += buffer.data();
  text += '\n';
}

std::string bytes_text(int64_t bytes) {
  const char *units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  char text[48];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
  return text;
}

namespace {

constexpr char kFooter[] =
    "Every subcommand takes --help (with examples) and --json (exactly one JSON object on standard output, also for errors).\n"
    "\n"
    "Exit codes: 0 done; 1 wrong usage; 2 bad input file; 3 the library refused; 4 a file cannot be read or written;\n"
    "            5 selftest found a wrong result.";

const char *kind_of(int code) {
  switch (code) {
    case kUsage:
      return "usage";
    case kInput:
      return "input";
    case kLibrary:
      return "library";
    case kIo:
      return "io";
    default:
      return "internal";
  }
}

// A full disk behind standard output is an error like any other.
int print(const std::string &text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (written) return kOk;
  std::fprintf(stderr, "think: cannot write to standard output: %s\n", std::strerror(errno));
  return kIo;
}

int fail(bool json, const std::string &command, int code, const std::string &message) {
  if (json) {
    const nlohmann::ordered_json object = {{"error", {{"code", code}, {"kind", kind_of(code)}, {"message", message}}}};
    print(object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  } else {
    std::fprintf(stderr, "think%s: %s\n", command.empty() ? "" : (" " + command).c_str(), message.c_str());
  }
  return code;
}

int run(int argc, char **argv) {
  CLI::App program{"Makes key-value caches of language models smaller by dropping or folding channels."};
  program.name("think");
  program.footer(kFooter);
  program.set_version_flag("--version", std::string("think ") + think_version_string());
  program.require_subcommand(1);
  const std::vector<Command> commands = {add_info(program),     add_prune(program),    add_attend(program), add_inspect(program),
                                         add_frontier(program), add_selftest(program), add_bench(program)};
  bool json = false;
  for (const Command &command : commands) command.app->add_flag("--json", json, "Print one JSON object instead of text");

  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError &error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
      // --help and --version end the parsing by this exception as well.
      std::ostringstream text;
      program.exit(error, text, text);
      return print(text.str());
    }
    // The parser may have stopped before it came to --json.
    for (int i = 1; i < argc; ++i) json = json || std::strcmp(argv[i], "--json") == 0;
    std::string command;
    for (const Command &candidate : commands) {
      if (candidate.app->parsed()) command = candidate.app->get_name();
    }
    const std::string message = error.what();
    return fail(json, command, kUsage, json ? message : message + "\nTry: think " + (command.empty() ? "" : command + " ") + "--help");
  }
  for (const Command &command : commands) {
    if (!command.app->parsed()) continue;
    try {
      Report report;
      command.run(report);
      const int printed = print(json ? report.json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n" : report.text);
      return printed != kOk ? printed : report.exit_code;
    } catch (const Failure &failure) {
      return fail(json, command.app->get_name(), failure.code(), failure.what());
    } catch (const std::bad_alloc &) {
      return fail(json, command.app->get_name(), kIo, "not enough memory");
    }
  }
  return kUsage;
}

}  // namespace
}  // namespace think::cli

int main(int argc, char **argv) {
  try {
    return think::cli::run(argc, argv);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "think: internal error: %s\n", error.what());
    return think::cli::kLibrary;
  }
}
