// Contract of the moments stage: see include/think/moments.h. Arguments are checked by the caller.
#pragma once

#include "../common/parallel.h"
#include "../common/segment.h"
#include "../common/workspace.h"

namespace think::moments {

// Moments of one slot and KV head, all f32. Keys and values may have different head sizes (D, E).
struct View {
  float *key_mean;           // [D]
  float *key_covariance;     // [D][D], symmetric
  float *query_moment;       // [D][D] second moment of the group's window queries
  float *value_mean;         // [E]
  float *value_covariance;   // [E][E]
  float *rows;               // [1] number of rows measured
};
int64_t state_bytes(const Shape &shape);  // of one slot, a multiple of 64
View view(const Shape &shape, void *moments, int32_t slot, int32_t head);

struct Arguments {
  Shape shape;
  think_tensor window_query;  // [slots][query_heads][rows][key_channels], right-aligned
  think_segment source;       // dense rows; value NULL = keys only
  Batch batch;
  int32_t sinks, recent;
  float attention_share;
  void *moments;
};

int64_t workspace(const Shape &shape, int32_t batch, int64_t tokens);
void measure(int32_t isa, const Arguments &arguments, void *workspace, const Parallel &parallel);

// Attention mass alone, over all rows of each head, for whoever ranks rows by it.
struct MassArguments {
  Shape shape;
  think_tensor window_query;  // [slots][query_heads][rows][key_channels], right-aligned
  think_segment source;       // dense rows; values are not read
  Batch batch;
};
constexpr int32_t kMassWave = 8;  // heads of one call, at most: bounds the workspace, whatever the batch
int64_t mass_workspace(const Shape &shape, int32_t batch, int64_t tokens);
// Heads [from, from + count) of [batch][kv_heads]: mass[i * longest + row]. No run has more than `longest` rows.
void attention_mass(int32_t isa, const MassArguments &arguments, int64_t from, int32_t count, float *mass, int64_t longest, void *workspace,
                    const Parallel &parallel);

int64_t gains_workspace(const Shape &shape, int32_t batch);
// side: THINK_KEYS with score [batch][kv_heads][D], or THINK_VALUES with score NULL (greedy). order may be NULL.
void gains(int32_t isa, const Shape &shape, const void *moments, const Batch &batch, int32_t side, const float *score, float *gains, int32_t *order,
           void *workspace, const Parallel &parallel);

namespace reference {
// One KV head, double. query [group][rows][D] (the window, oldest first), key [tokens][D], value [tokens][E] or NULL. causal: query i of n sees
// tokens - n + i + 1 rows.
struct Head {
  int32_t group, query_rows, key_channels, value_channels;
  int64_t tokens;
  int32_t sinks, recent;
  double share, scale, softcap;
  bool causal;
  const double *query, *key, *value;
};
void attention_mass(const Head &head, double *mass /* [tokens] */);
void measure(const Head &head, double *key_mean, double *key_covariance, double *query_moment, double *value_mean, double *value_covariance);
// metric and covariance [channels][channels]; order_in NULL = greedy
void gains(int32_t channels, const double *metric, const double *covariance, const int32_t *order_in, double *gains, int32_t *order_out);
}  // namespace reference

}  // namespace think::moments
