// think selftest: the library's results on this host, for every instruction set that it can run, next to the double-precision reference.
#include "selftest.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <map>
#include <memory>
#include <optional>

#include "command.h"
#include "progress.h"

namespace think::cli {
namespace {

struct Options {
  std::string isa, device = "cpu";
  int32_t threads = 2;
};

constexpr const char *kIsaNames[] = {"portable", "avx2", "avx512", "avx512bf16", "neon"};

// Odd sizes on purpose: an uneven number of tokens, groups that are not a power of two, values narrower than keys.
constexpr SelftestShape kShapes[] = {{"f16, D=128, group 4", 8, 2, 128, 128, 517, THINK_F16, 0},
                                     {"bf16, D=64, group 3", 9, 3, 64, 64, 389, THINK_BF16, 0},
                                     {"f32, D=96/80, group 1", 3, 3, 96, 80, 301, THINK_F32, 0},
                                     {"f16, D=80/64, group 5, soft cap", 10, 2, 80, 64, 359, THINK_F16, 30}};

// Sets THINK_CPU_ISA for the contexts made while it lives. The program has one thread at that moment.
class ForcedIsa {
 public:
  explicit ForcedIsa(const char *name) {
    if (const char *old = std::getenv(kVariable)) old_ = old;
    setenv(kVariable, name, 1);
  }
  ~ForcedIsa() {
    if (old_) {
      setenv(kVariable, old_->c_str(), 1);
    } else {
      unsetenv(kVariable);
    }
  }
  ForcedIsa(const ForcedIsa &) = delete;
  ForcedIsa &operator=(const ForcedIsa &) = delete;

 private:
  static constexpr char kVariable[] = "THINK_CPU_ISA";
  std::optional<std::string> old_;
};

struct Worst {
  double error = 0, limit = 0;
  int checks = 0, failed = 0;
};

// One column of the report: an instruction set of the CPU, or a device.
class Section {
 public:
  Section(const char *key, const std::string &name, Report &report) : key_(key), name_(name), report_(report) {
    report.line("%s", "");
    report.line("%s", name.c_str());
  }

  void run(const SelftestShape &shape, const SelftestTarget &target) {
    std::vector<std::string> order;
    std::map<std::string, Worst> stages;
    std::string skipped;
    selftest_layer(
        shape, target,
        [&](const char *stage, double error, double limit) {
          if (!stages.count(stage)) order.push_back(stage);
          Worst &worst = stages[stage];
          ++worst.checks;
          if (!(error <= limit)) ++worst.failed;
          worst.error = std::max(worst.error, error);
          worst.limit = limit;
        },
        [&](const char *stage, const std::string &reason) {
          // Both sides of a layer give the same reason.
          for (const auto &earlier : report_.json["skipped"]) {
            if (earlier["shape"] == shape.name && earlier["stage"] == stage) return;
          }
          skipped += std::string(skipped.empty() ? "" : ", ") + stage;
          report_.json["skipped"].push_back({{"shape", shape.name}, {"stage", stage}, {"reason", reason}});
        });
    std::string line;
    for (const std::string &stage : order) {
      const Worst &worst = stages[stage];
      checks += worst.checks;
      failed += worst.failed;
      char text[32] = "0";
      if (worst.error != 0) std::snprintf(text, sizeof text, "%.0e", worst.error);
      line += "  " + stage + " " + text;
      if (worst.failed) line += "*";
      report_.json["results"].push_back(
          {{key_, name_},
           {"shape", shape.name},
           {"stage", stage},
           {"checks", worst.checks},
           {"failed", worst.failed},
           {"error", std::isinf(worst.error) ? nlohmann::ordered_json("different") : nlohmann::ordered_json(worst.error)},
           {"limit", worst.limit}});
    }
    report_.line("  %-32s%s", shape.name, line.c_str());
    if (!skipped.empty()) report_.line("  %-32s  skipped, no CUDA kernels: %s", "", skipped.c_str());
  }

  int checks = 0, failed = 0;

 private:
  const char *key_;
  std::string name_;
  Report &report_;
};

void run(const Options &options, Report &report) {
  const DeviceChoice choice = parse_device(options.device);
  if (choice.on_device() && !options.isa.empty()) throw Failure(kUsage, "--isa is for the CPU, not for --device " + choice.text());
  const int64_t available = query_number(nullptr, THINK_QUERY_ISA_AVAILABLE);
  std::vector<int32_t> isas;
  for (int32_t isa = 0; isa < static_cast<int32_t>(std::size(kIsaNames)) && !choice.on_device(); ++isa) {
    if ((available >> isa & 1) && (options.isa.empty() || options.isa == kIsaNames[isa])) isas.push_back(isa);
  }
  if (isas.empty() && !choice.on_device()) throw Failure(kLibrary, "this build or this host cannot run the instruction set " + options.isa);
  int checks = 0, failed = 0;
  report.json = {
      {"version", think_version_string()}, {"passed", false}, {"checks", 0}, {"failed", 0}, {"results", nlohmann::ordered_json::array()}};
  if (choice.on_device()) report.json["skipped"] = nlohmann::ordered_json::array();
  report.line("largest error relative to the largest number of each result; * = above its limit; 0 = equal bit for bit");
  Progress progress("comparing", static_cast<int64_t>(std::max<size_t>(isas.size(), 1) * std::size(kShapes)));
  const auto run_section = [&](Section section, const SelftestTarget &target) {
    for (const SelftestShape &shape : kShapes) {
      section.run(shape, target);
      progress.step();
    }
    checks += section.checks;
    failed += section.failed;
  };
  if (choice.on_device()) {
    make_context(1, choice);  // the library's reason comes first, it knows more of what can be missing than the driver
    const Driver driver(choice.index);
    run_section(Section("device", choice.text() + " " + driver.name(), report), {choice, &driver, 1});
  }
  for (const int32_t isa : isas) {
    const ForcedIsa forced(kIsaNames[isa]);
    run_section(Section("isa", kIsaNames[isa], report), {choice, nullptr, options.threads});
  }
  report.json["checks"] = checks;
  report.json["failed"] = failed;
  report.json["passed"] = failed == 0;
  report.line("%s", "");
  report.line("%s: %d of %d checks", failed == 0 ? "passed" : "FAILED", failed == 0 ? checks : failed, checks);
  if (failed) report.exit_code = kSelftest;
}

}  // namespace

Command add_selftest(CLI::App &program) {
  auto options = std::make_shared<Options>();
  CLI::App *app = program.add_subcommand("selftest", "Compare every stage with its double-precision reference on this host");
  app->footer("Examples:\n  think selftest\n  think selftest --isa avx2\n  think selftest --device cuda:0\n  think selftest --json");
  app->add_option("--isa", options->isa, "Only this instruction set (default: all that the host can run)")
      ->type_name("NAME")
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(kIsaNames), std::end(kIsaNames))));
  app->add_option("--threads", options->threads, "Threads of the library")
      ->type_name("N")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  add_device_option(*app, options->device);
  return {app, [options](Report &report) { run(*options, report); }};
}

}  // namespace think::cli
