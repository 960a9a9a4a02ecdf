// What stacks do to captured layers: rows of a prompt go through a managed cache, and the queries that follow attend to what is left.
#pragma once

#include <cstdint>
#include <vector>

#include "frontier.h"
#include "library.h"
#include "progress.h"
#include "rows.h"

namespace think::cli {

struct CapturedLayer {
  Rows query, key, value;
};

struct FrontierSettings {
  think_dtype dtype = THINK_F16;  // of the caches
  float scale = 0, softcap = 0;
  int32_t threads = -1;
  int64_t scored = 64;  // last queries, which attend
};

// The arrays of a layer must fit each other, and be long enough for `scored` queries behind a prompt. Throws Failure(kInput).
void check_layer(const CapturedLayer &layer, int64_t scored);

// One point per stack, mean over the layers. The error is that of attention's output, |difference| / |output|, against a dense f32 cache.
std::vector<FrontierPoint> measure_stacks(const std::vector<CapturedLayer> &layers, const std::vector<Stack> &stacks, const FrontierSettings &settings,
                                          Progress &progress);

}  // namespace think::cli
