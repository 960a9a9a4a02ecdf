// What every stage adds to the backend's table: the same lines for libthink_cuda.so.1 and for the emulator's stand-in of it.
#pragma once

#include <initializer_list>

#include "kernels/attend/cuda.h"
#include "kernels/compact/cuda.h"
#include "kernels/evict/cuda.h"
#include "kernels/fit/cuda.h"
#include "kernels/moments/cuda.h"
#include "kernels/prune/cuda.h"
#include "kernels/rebuild/cuda.h"
#include "kernels/score/cuda.h"
#include "kernels/select/cuda.h"
#include "libthink/backend/cuda_backend.h"

namespace think::cuda {

inline int32_t load_kernels() {
  for (const auto load : {evict::cuda::load, score::cuda::load, moments::cuda::load, select::cuda::load, fit::cuda::load, compact::cuda::load,
                          attend::cuda::load, pruning::cuda::load, rebuild::cuda::load}) {
    if (const int32_t error = load()) return error;
  }
  return 0;
}

constexpr Backend with_stages(Backend table) {
  table.stages = "evict, score, moments, select, fit, compact, attend, prune and rebuild";
  table.load = load_kernels;

  table.score_workspace = score::cuda::workspace;
  table.score_reset = score::cuda::reset;
  table.score_update = score::cuda::update;
  table.score_sum_again = score::cuda::sum_again;
  table.score_finish = score::cuda::finish;
  table.score_values = score::cuda::value_score;

  table.budgets_workspace = select::cuda::budgets_workspace;
  table.budgets = select::cuda::budgets;
  table.select = select::cuda::select;

  table.moments_workspace = moments::cuda::workspace;
  table.moments = moments::cuda::measure;
  table.gains_workspace = moments::cuda::gains_workspace;
  table.gains = moments::cuda::gains;

  table.mass_stride = moments::cuda::mass_stride;
  table.mass_workspace = moments::cuda::mass_workspace;
  table.mass = moments::cuda::attention_mass;
  table.evict_choose = evict::cuda::choose;
  table.evict_move = evict::cuda::move_rows;

  table.fit_workspace = fit::cuda::workspace;
  table.fit = fit::cuda::fit;

  table.prune_plan = pruning::cuda::plan;
  table.prune_rank = pruning::cuda::rank;
  table.prune_keep_all = pruning::cuda::keep_all;

  table.place = compact::cuda::place;
  table.compact = compact::cuda::compact;

  table.rebuild = rebuild::cuda::rebuild;

  table.attend_resident = attend::cuda::resident;
  table.attend_workspace = attend::cuda::workspace;
  table.attend = attend::cuda::attend;
  table.merge = attend::cuda::merge;
  return table;
}

}  // namespace think::cuda
