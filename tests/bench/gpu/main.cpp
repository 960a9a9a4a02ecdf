// The device benchmark: decode attention of six models over batches, lengths, widths and stored types, and the prune of a layer, as JSON on standard output.
//   gpu_bench [--device N] [--seconds S] [--quick] [--only TEXT] [--check]
// Stops taking new cases after S seconds (default 240) and says which it left out. --only takes the cases whose name
// contains TEXT, "Llama-3-8B 32 x 8192 77/128 bf16/bf16" or "Llama-3-8B prune of 8192". --check only names the device, or says why there is none (exit code 3).
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "libthink/cli/device_bench.h"

namespace {

using namespace think::cli;

struct Model {
  const char *name;
  int32_t query_heads, kv_heads, channels;
  float softcap;
  bool codes = false;
};
constexpr Model kModels[] = {{"Llama-3-8B", 32, 8, 128, 0, true},
                             {"Llama-2-7B", 32, 32, 128, 0},
                             {"Qwen2.5-7B", 28, 4, 128, 0},
                             {"Qwen2.5-0.5B", 14, 2, 64, 0, true},
                             {"Gemma-2-9B", 16, 8, 256, 50, true},
                             {"Llama-3-70B TP8", 8, 1, 128, 0}};

struct Load {
  int32_t batch, tokens;
  bool codes = false;
  bool ragged = false;         // from kShortest to `tokens`, all lengths of one order of magnitude as likely as those of another
  const char *only = nullptr;  // the one model that it is for
};
constexpr int32_t kShortest = 256;
// In the order in which they are given up when time is short: the last ones first. peers.py has the same.
constexpr Load kLoads[] = {{32, 8192, true}, {8, 4096, true}, {64, 8192, false, false, "Llama-3-70B TP8"}, {64, 65536, false, true}, {1, 16384, true},
                           {1, 4096},        {8, 32768},      {32, 2048},                                    {128, 2048},              {1, 65536},
                           {1, 131072},      {128, 8192},     {32, 32768}};

// Of 128 channels; other head sizes keep the same shares.
struct Width {
  int32_t key, value;
  think_dtype key_dtype = THINK_BF16, value_dtype = THINK_BF16;
};
constexpr Width kWidths[] = {{128, 128}, {77, 128}, {64, 128}, {52, 128}, {39, 128}, {32, 128}, {77, 88}, {64, 64}};
// Of the models and loads that say so, as there is no time for all.
constexpr Width kCodeWidths[] = {{128, 128, THINK_U8, THINK_U8},
                                 {64, 64, THINK_U8, THINK_U8},
                                 {128, 128, THINK_U4, THINK_U4},
                                 {64, 64, THINK_U4, THINK_U4},
                                 {128, 128, THINK_U2, THINK_U2},
                                 {64, 64, THINK_U2, THINK_U2},
                                 {128, 128, THINK_F8_E4M3, THINK_F8_E4M3},
                                 {64, 64, THINK_F8_E4M3, THINK_F8_E4M3},
                                 {128, 128, THINK_U4, THINK_BF16},
                                 {64, 64, THINK_U4, THINK_BF16}};

// Log-uniform, without chance: the middles of equal parts, in an order in which long and short ones are mixed.
std::vector<int32_t> lengths_of(const Load &load) {
  std::vector<int32_t> lengths;
  for (int32_t i = 0; load.ragged && i < load.batch; ++i) {
    const double place = (i * 37 % load.batch + 0.5) / load.batch;
    lengths.push_back(static_cast<int32_t>(std::lround(kShortest * std::pow(load.tokens / static_cast<double>(kShortest), place))));
  }
  return lengths;
}

nlohmann::ordered_json tokens_of(const Load &load) {
  if (load.ragged) return std::to_string(kShortest) + "-" + std::to_string(load.tokens);
  return load.tokens;
}

nlohmann::ordered_json json_of(const Measured &measured) {
  if (!measured.skipped.empty()) return {{"skipped", measured.skipped}};
  return {{"seconds", measured.seconds}, {"bytes", measured.bytes}};
}

int run(int argc, char **argv) {
  int32_t index = 0;
  double limit = 240;
  const char *only = "";
  bool quick = false, check = false;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--quick")) {
      quick = true;
    } else if (!std::strcmp(argv[i], "--check")) {
      check = true;
    } else if (i + 1 < argc && !std::strcmp(argv[i], "--device")) {
      index = std::atoi(argv[++i]);
    } else if (i + 1 < argc && !std::strcmp(argv[i], "--seconds")) {
      limit = std::atof(argv[++i]);
    } else if (i + 1 < argc && !std::strcmp(argv[i], "--only")) {
      only = argv[++i];
    } else {
      std::fprintf(stderr, "usage: gpu_bench [--device N] [--seconds S] [--quick] [--only TEXT] [--check]\n");
      return kUsage;
    }
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  const Context context = make_context(1, {THINK_DEVICE_CUDA, index});
  Driver driver(index);
  if (check) return std::printf("%s, sm_%d\n", driver.name().c_str(), driver.capability()) < 0;
  const int64_t wanted = int64_t{quick ? 1 : 20} << 30;
  DeviceBench bench(driver, context, std::min(wanted, driver.free_bytes() / 10 * 8), quick ? 3 : 9);
  nlohmann::ordered_json report = {{"version", think_version_string()},
                                   {"device", driver.name()},
                                   {"capability", driver.capability()},
                                   {"multiprocessors", driver.multiprocessors()},
                                   {"probe", json_of(bench.probe())},
                                   {"attend", nlohmann::ordered_json::array()},
                                   {"prune", nlohmann::ordered_json::array()},
                                   {"left_out", nlohmann::ordered_json::array()}};
  const auto wants = [&](const std::string &name) { return name.find(only) != std::string::npos; };
  const auto text_of = [](const nlohmann::ordered_json &value) { return value.is_string() ? value.get<std::string>() : value.dump(); };
  for (const Model &model : kModels) {
    for (const int32_t tokens : {8192, 32768}) {
      if ((quick && tokens > 8192) || !wants(std::string(model.name) + " prune of " + std::to_string(tokens))) continue;
      for (const StageTime &time : bench.prune(model.query_heads, model.kv_heads, model.channels, tokens)) {
        nlohmann::ordered_json row = {{"model", model.name}, {"tokens", tokens}, {"stage", time.stage}};
        row.update(json_of(time.measured));
        report["prune"].push_back(row);
      }
    }
  }
  int loads = 0;
  for (const Load &load : kLoads) {
    if (quick && ++loads > 2) break;
    for (const Model &model : kModels) {
      if (load.only && std::strcmp(load.only, model.name)) continue;
      const std::string name = std::string(model.name) + " " + std::to_string(load.batch) + " x " + text_of(tokens_of(load));
      if (seconds() > limit) {
        report["left_out"].push_back(name);
        continue;
      }
      std::vector<Width> widths(std::begin(kWidths), std::end(kWidths));
      if (model.codes && load.codes) widths.insert(widths.end(), std::begin(kCodeWidths), std::end(kCodeWidths));
      for (const auto &[key, value, key_dtype, value_dtype] : widths) {
        const int32_t key_kept = key * model.channels / 128, value_kept = value * model.channels / 128 / 8 * 8;
        const std::string types = std::string(think_dtype_name(key_dtype)) + "/" + think_dtype_name(value_dtype);
        if (!wants(name + " " + std::to_string(key_kept) + "/" + std::to_string(value_kept) + " " + types)) continue;
        nlohmann::ordered_json row = {{"model", model.name},
                                      {"batch", load.batch},
                                      {"tokens", tokens_of(load)},
                                      {"key_kept", key_kept},
                                      {"value_kept", value_kept},
                                      {"channels", model.channels},
                                      {"key_dtype", think_dtype_name(key_dtype)},
                                      {"value_dtype", think_dtype_name(value_dtype)}};
        row.update(json_of(bench.attend({model.query_heads, model.kv_heads, model.channels, load.batch, load.tokens, key_kept, value_kept, model.softcap,
                                         lengths_of(load), key_dtype, value_dtype})));
        report["attend"].push_back(row);
      }
    }
  }
  report["wall_seconds"] = seconds();
  std::printf("%s\n", report.dump(1).c_str());
  return 0;
}

}  // namespace

int main(int argc, char **argv) {
  try {
    return run(argc, argv);
  } catch (const Failure &failure) {
    std::fprintf(stderr, "gpu_bench: %s\n", failure.what());
    return failure.code();
  }
}
