#include "report.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <tuple>

namespace simt {

const char *fault_name(FaultKind kind) {
  switch (kind) {
    case FaultKind::none:
      return "none";
    case FaultKind::out_of_bounds:
      return "out of bounds";
    case FaultKind::misaligned:
      return "misaligned";
    case FaultKind::uninitialised:
      return "uninitialised";
    case FaultKind::in_flight:
      return "copy in flight";
    case FaultKind::race:
      return "race";
    case FaultKind::divergence:
      return "divergence";
  }
  return "?";
}

const char *access_name(Access access) {
  switch (access) {
    case Access::global_read:
      return "global read";
    case Access::global_write:
      return "global write";
    case Access::shared_read:
      return "shared read";
    case Access::shared_write:
      return "shared write";
    case Access::ldmatrix:
      return "ldmatrix";
    case Access::copy_read:
      return "cp.async from global";
    case Access::copy_write:
      return "cp.async to shared";
    case Access::atomic:
      return "atomic";
  }
  return "?";
}

static const char *file_name(const char *path) {
  const char *slash = std::strrchr(path, '/');
  return slash ? slash + 1 : path;
}

std::string Fault::text() const {
  if (!*this) return "";
  std::string story = std::string(fault_name(kind)) + ": kernel " + kernel;
  if (thread >= 0) {
    story += ", block (" + std::to_string(block[0]) + ", " + std::to_string(block[1]) + ", " + std::to_string(block[2]) + "), thread " +
             std::to_string(thread) + " (warp " + std::to_string(thread / 32) + ", lane " + std::to_string(thread % 32) + ")";
  }
  if (line) story += std::string(", ") + file_name(file.c_str()) + ":" + std::to_string(line);
  return story + ": " + what;
}

Counters &Counters::operator+=(const Counters &other) {
  global_read_bytes += other.global_read_bytes;
  global_write_bytes += other.global_write_bytes;
  global_read_sectors += other.global_read_sectors;
  global_write_sectors += other.global_write_sectors;
  atomics += other.atomics;
  shared_wavefronts += other.shared_wavefronts;
  bank_conflicts += other.bank_conflicts;
  collectives += other.collectives;
  block_barriers += other.block_barriers;
  copies += other.copies;
  return *this;
}

uint64_t LaunchRecord::conflicts_at(uint32_t line) const {
  uint64_t sum = 0;
  for (const SiteCounters &site : sites) {
    if (site.site.line() == line) sum += site.conflicts;
  }
  return sum;
}

static bool is_shared(Access access) {
  return access == Access::shared_read || access == Access::shared_write || access == Access::copy_write || access == Access::ldmatrix;
}

std::string LaunchRecord::text() const {
  const auto number = [](uint64_t value) { return static_cast<unsigned long long>(value); };
  char line[400];
  std::snprintf(
      line, sizeof line,
      "%s: grid %d x %d x %d, %d threads, %u bytes shared; read %llu B in %llu sectors, wrote %llu B in %llu sectors, %llu bank conflicts\n",
      kernel.c_str(), grid[0], grid[1], grid[2], threads, shared_bytes, number(counters.global_read_bytes), number(counters.global_read_sectors),
      number(counters.global_write_bytes), number(counters.global_write_sectors), number(counters.bank_conflicts));
  std::string table = line;
  std::vector<SiteCounters> sorted = sites;
  const auto place = [](const SiteCounters &a) { return std::make_tuple(std::string(a.site.file_name()), a.site.line(), a.site.column(), a.access); };
  std::stable_sort(sorted.begin(), sorted.end(), [&](const SiteCounters &a, const SiteCounters &b) { return place(a) < place(b); });
  for (size_t i = 0; i < sorted.size();) {
    SiteCounters sum = sorted[i];
    for (++i; i < sorted.size() && place(sorted[i]) == place(sum); ++i) {
      sum.instructions += sorted[i].instructions;
      sum.bytes += sorted[i].bytes;
      sum.transactions += sorted[i].transactions;
      sum.conflicts += sorted[i].conflicts;
    }
    int32_t used = std::snprintf(line, sizeof line, "  %s:%u:%u  %-20s %10llu instructions %12llu B %10llu %s", file_name(sum.site.file_name()),
                                 sum.site.line(), sum.site.column(), access_name(sum.access), number(sum.instructions), number(sum.bytes),
                                 number(sum.transactions), is_shared(sum.access) ? "wavefronts" : "sectors");
    if (is_shared(sum.access))
      std::snprintf(line + used, sizeof line - static_cast<size_t>(used), ", %llu of them by conflicts", number(sum.conflicts));
    table += line + std::string("\n");
  }
  return table;
}

}  // namespace simt
