// think info: what this library is and what it can do on this host.
#include <memory>
#include <vector>

#include "command.h"
#include "driver.h"
#include "library.h"

namespace think::cli {
namespace {

struct Options {
  int32_t threads = -1;
  std::string device = "cpu";
};

const char *isa_name(int64_t isa) {
  static const char *names[] = {"portable", "avx2", "avx512", "avx512bf16", "neon"};
  return isa >= 0 && isa < 5 ? names[isa] : "unknown";
}

void run(const Options &options, Report &report) {
  const DeviceChoice choice = parse_device(options.device);
  const Context context = make_context(options.threads, choice);
  const int64_t isa = query_number(context.get(), THINK_QUERY_ISA), mask = query_number(nullptr, THINK_QUERY_ISA_AVAILABLE);
  const int64_t threads = query_number(context.get(), THINK_QUERY_THREADS), backends = query_number(nullptr, THINK_QUERY_BACKENDS);
  std::vector<std::string> available;
  std::string available_text;
  for (int i = 0; i < 63; ++i) {
    if (!(mask >> i & 1)) continue;
    available.push_back(isa_name(i));
    available_text += (available_text.empty() ? "" : ", ") + available.back();
  }
  report.json = {{"version", think_version_string()},
                 {"headers", std::to_string(THINK_VERSION_MAJOR) + "." + std::to_string(THINK_VERSION_MINOR) + "." +
                                 std::to_string(THINK_VERSION_PATCH)},
                 {"abi", think_abi_version()},
                 {"isa", isa_name(isa)},
                 {"isa_available", available},
                 {"threads", threads}};
  report.line("version    %s (headers %s)", think_version_string(), report.json["headers"].get<std::string>().c_str());
  report.line("ABI        %d", think_abi_version());
  report.line("CPU        %s in use; %s available (THINK_CPU_ISA forces one)", isa_name(isa), available_text.c_str());
  report.line("threads    %lld", static_cast<long long>(threads));
  if (choice.on_device()) {
    const Driver driver(choice.index);
    report.json["device"] = {{"name", driver.name()},
                             {"index", choice.index},
                             {"capability", driver.capability()},
                             {"multiprocessors", driver.multiprocessors()},
                             {"cache_bytes", driver.cache_bytes()}};
    report.line("device     %s: %s, sm_%d, %d multiprocessors, %s of L2", choice.text().c_str(), driver.name().c_str(), driver.capability(),
                driver.multiprocessors(), bytes_text(driver.cache_bytes()).c_str());
  }
  const std::pair<const char *, think_device> devices[] = {{"cpu", THINK_DEVICE_CPU}, {"cuda", THINK_DEVICE_CUDA}};
  for (const auto &[name, device] : devices) {
    size_t needed = 0;
    ErrorRecord error;
    error.check(think_backend_reason(device, nullptr, 0, &needed, error));
    std::vector<char> reason(needed + 1, '\0');
    error.check(think_backend_reason(device, reason.data(), reason.size(), nullptr, error));
    report.json["backends"].push_back({{"device", name}, {"available", (backends >> device & 1) != 0}, {"reason", reason.data()}});
    report.line("backend    %-5s %s", name, reason.data());
  }
  const int64_t channels = query_number(nullptr, THINK_QUERY_MAX_CHANNELS), segments = query_number(nullptr, THINK_QUERY_MAX_SEGMENTS);
  report.json["limits"] = {{"channels", channels}, {"segments", segments}};
  report.line("limits     %lld channels per head, %lld segments per call", static_cast<long long>(channels),
              static_cast<long long>(segments));
}

}  // namespace

Command add_info(CLI::App &program) {
  auto options = std::make_shared<Options>();
  CLI::App *app = program.add_subcommand("info", "Version, instruction sets, threads, backends and limits");
  app->footer("Examples:\n  think info\n  think info --json\n  think info --device cuda:0\n  THINK_CPU_ISA=avx2 think info");
  app->add_option("--threads", options->threads, "Threads of the context; -1 = every core that the process may use")
      ->type_name("N")
      ->check(CLI::Range(-1, 1024))
      ->capture_default_str();
  add_device_option(*app, options->device);
  return {app, [options](Report &report) { run(*options, report); }};
}

}  // namespace think::cli
