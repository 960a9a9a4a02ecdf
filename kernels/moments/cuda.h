// The moments stage on a CUDA device: launches only, errors as the CUDA runtime numbers them. Pointers inside the arguments are device memory.
#pragma once

#include "moments.h"

namespace think::moments::cuda {

int32_t load();  // every kernel, when a plan is made
int32_t load_gains();

// No run has more than `longest` rows.
int64_t workspace(const Shape &shape, int32_t batch, int64_t longest);
// query_slot: where the queries of a sequence lie, NULL = its number. Its moments go to the slot that arguments.batch says, so the two may differ.
int32_t measure(const Arguments &arguments, const int32_t *query_slot, int64_t longest, void *workspace, void *stream);

// Attention mass alone: of sequences [first, first + count), into mass [count][kv_heads][mass_stride(longest)], one number per row. At most device_wave()
// sequences at a time.
int64_t mass_stride(int64_t longest);
int64_t mass_workspace(const Shape &shape, int32_t batch, int64_t longest);
int32_t attention_mass(const MassArguments &arguments, int32_t first, int32_t count, float *mass, int64_t longest, void *workspace, void *stream);

int64_t gains_workspace(const Shape &shape, int32_t batch);
int32_t gains(const Shape &shape, const void *moments, const Batch &batch, int32_t side, const float *score, float *gains, int32_t *order, void *workspace,
              void *stream);

}  // namespace think::moments::cuda
