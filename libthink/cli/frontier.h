// Points of the frontier between what a cache takes and what it costs to make it so small.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "stack.h"

namespace think::cli {

struct FrontierPoint {
  std::string stack;
  Family family = Family::dense;
  double error = 0;        // KL in nats, or relative error of attention's output
  double bytes = 0;        // held, pages and bases
  double dense_bytes = 0;  // of as many tokens in dense rows
  bool best = false;       // none is both smaller and closer
  double share() const { return bytes / dense_bytes; }
};

// What the example engine measured: the output of its --evaluate or --rows with --json.
struct EngineResults {
  struct Row {
    std::string stack;
    double kl, delta_nll, top1, bytes, dense_bytes;
  };
  std::vector<Row> rows;  // in the order of the file, means over its segments
  int64_t segments = 0, tokens = 0;  // tokens of a prompt
};

// Throws Failure(kInput) whose message begins with `name`.
EngineResults parse_engine_results(std::span<const std::byte> file, const std::string &name);

// Smallest first; sets `best`.
void sort_frontier(std::vector<FrontierPoint> &points);

// A picture: bytes against error, a colour for each family, the frontier as a line.
std::string draw_frontier(const std::vector<FrontierPoint> &points, const std::string &title, const std::string &facts, const std::string &error_name);

}  // namespace think::cli
