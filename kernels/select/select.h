// Contract of the select stage: see include/think/select.h. Arguments are checked by the caller. Integer work: the reference is the implementation,
// written for clarity, and a second one in reference.cpp that sorts instead of counting ranks.
#pragma once

#include "../common/parallel.h"
#include "../common/shape.h"
#include "../common/workspace.h"

namespace think::select {

struct Budgets {
  int32_t layers, batch, kv_heads, channels;
  int32_t floor, step;
  int64_t total;
  bool normalise;
};
int64_t budgets_workspace(const Budgets &budgets);
void budgets(const Budgets &arguments, const float *gains, int32_t *kept, void *workspace);

enum class Pairs : int32_t { none, halves, interleaved };

struct Select {
  int32_t kv_heads, channels;
  int32_t round_to;
  int32_t uniform_kept;   // used where kept is NULL
  const int32_t *kept;    // [batch][kv_heads]
  Pairs pairs;
};
// Widths after rounding; never more than `channels`.
int32_t rounded_width(int32_t kept, int32_t round_to, int32_t channels, Pairs pairs);
void select(const Select &arguments, const float *score, const Batch &batch, const think_basis &basis, uint8_t *mask);

namespace reference {
void budgets(const Budgets &arguments, const double *gains, int32_t *kept);
void select(int32_t channels, const float *score, int32_t kept, Pairs pairs, int32_t *index /* [channels] kept, then dropped */);
}  // namespace reference

}  // namespace think::select
