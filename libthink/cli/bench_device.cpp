#include "bench_device.h"

#include "device_bench.h"

namespace think::cli {
namespace {

struct Shape {
  const char *name;
  int32_t query_heads, kv_heads, channels, batch;
};

// Channels kept of the keys, and how keys and values are stored.
struct Width {
  int32_t kept;
  think_dtype dtype = THINK_BF16;
};

constexpr Shape kShapes[] = {{"D=128, group 4", 32, 8, 128, 8}, {"D=64, group 7", 14, 2, 64, 8}};

nlohmann::ordered_json json_of(const Measured &measured) {
  if (!measured.skipped.empty()) return {{"skipped", measured.skipped}};
  return {{"seconds", measured.seconds}, {"bytes", measured.bytes}, {"gigabytes_per_second", static_cast<double>(measured.bytes) / measured.seconds / 1e9}};
}

void print(Report &report, const std::string &name, const Measured &measured, double probe) {
  if (!measured.skipped.empty()) return report.line("  %-28s skipped: %s", name.c_str(), measured.skipped.c_str());
  if (measured.bytes == 0) return report.line("  %-28s %9.1f us", name.c_str(), measured.seconds * 1e6);
  const double rate = static_cast<double>(measured.bytes) / measured.seconds / 1e9;
  report.line("  %-28s %9.1f us  %7.1f GB/s%s", name.c_str(), measured.seconds * 1e6, rate,
              probe > 0 ? ("  " + std::to_string(rate / probe).substr(0, 4) + " of the probe").c_str() : "");
}

}  // namespace

void bench_device(const DeviceChoice &device, int32_t tokens, bool quick, Report &report) {
  const Context context = make_context(1, device);
  Driver driver(device.index);
  const int64_t wanted = int64_t{quick ? 512 : 2048} << 20, most = driver.free_bytes() / 10 * 8;
  DeviceBench bench(driver, context, std::min(wanted, most), quick ? 5 : 15);
  const Measured probe = bench.probe();
  const double rate = probe.skipped.empty() ? static_cast<double>(probe.bytes) / probe.seconds / 1e9 : 0;
  report.json = {{"version", think_version_string()},
                 {"device", driver.name()},
                 {"probe", json_of(probe)},
                 {"attend", nlohmann::ordered_json::array()},
                 {"prune", nlohmann::ordered_json::array()}};
  report.line("libthink %s on %s %s; medians of graph replays, caches that the L2 does not hold", think_version_string(), device.text().c_str(),
              driver.name().c_str());
  print(report, "read probe", probe, 0);
  for (const Shape &shape : kShapes) {
    report.line("%s", "");
    report.line("%s, %d query and %d KV heads, %d tokens", shape.name, shape.query_heads, shape.kv_heads, tokens);
    double dense = 0;
    for (const auto &[kept, dtype] : {Width{shape.channels}, {think_kept_channels(shape.channels, 0.4)}, {shape.channels / 2}, {shape.channels, THINK_U8},
                                      {shape.channels, THINK_U4}}) {
      const Measured measured =
          bench.attend({shape.query_heads, shape.kv_heads, shape.channels, shape.batch, tokens, kept, shape.channels, 0, {}, dtype, dtype});
      if (kept == shape.channels && dtype == THINK_BF16) dense = measured.seconds;
      print(report, "attend x" + std::to_string(shape.batch) + ", " + std::to_string(kept) + " keys, " + think_dtype_name(dtype), measured, rate);
      nlohmann::ordered_json row = {{"shape", shape.name}, {"tokens", tokens}, {"batch", shape.batch}, {"kept", kept}, {"dtype", think_dtype_name(dtype)}};
      row.update(json_of(measured));
      if (measured.skipped.empty() && dense > 0) row["speedup_over_dense"] = dense / measured.seconds;
      report.json["attend"].push_back(row);
    }
    for (const StageTime &time : bench.prune(shape.query_heads, shape.kv_heads, shape.channels, tokens)) {
      print(report, time.stage, time.measured, rate);
      nlohmann::ordered_json row = {{"shape", shape.name}, {"tokens", tokens}, {"stage", time.stage}};
      row.update(json_of(time.measured));
      report.json["prune"].push_back(row);
    }
  }
}

}  // namespace think::cli
