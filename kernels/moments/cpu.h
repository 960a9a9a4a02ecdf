// The moments stage on the CPU: what one head's work is, and the functions that each instruction set provides.
//
// A head's rows are cut into at most kRuns runs, by their number alone, so that the sums have the same order whatever the threads. Phases:
//   prepare (head)                  queries transposed into panels, query moment
//   scan (head, run of all rows)    largest logit and sum of exponentials per query
//   mass (head, run of moved rows)  attention mass per row, sums for the mean
//   covariance (head, side, run)    centred second moments of the run
//   finish (head, side)             the runs together
//   rows_mass (head, run)           attention mass alone, instead of the last three; scan is the same
// Scan and mass each compute the logits: keeping them would cost tokens x queries floats of workspace per head.
#pragma once

#include "moments.h"

namespace think::moments {

constexpr int32_t kRuns = 8;        // per head
constexpr int32_t kRunRows = 128;   // of a run, at least
constexpr int32_t kBlockRows = 32;  // rows that are converted at a time
constexpr int32_t kPad = 16;        // widest vector: scratch rows are multiples of it
constexpr int32_t kPanel = 48;      // columns of a query panel, at most: three of the widest vectors

// One side of the rows of one head, and the scratch for it.
struct SideWork {
  SideView rows;
  int32_t channels, padded;
  double *sums;    // [kRuns][2][padded]: sum of x, sum of mass * x
  float *partial;  // [kRuns][channels][padded]: upper triangles
  float *mean, *covariance;
};

struct HeadWork {
  SideWork side[2];  // keys, values
  bool values;
  int64_t first;  // of the run inside the pages or slot
  int64_t tokens;
  PruneRange moved;  // relative to `first`

  const char *query;                            // oldest real row of the first query head
  int64_t query_head_stride, query_row_stride;  // bytes
  think_dtype query_dtype;
  int32_t group, query_rows;
  int32_t columns;  // group * query_rows, column = row * group + head, rounded up to kPad
  float scale, softcap, share;
  bool causal;

  float *panels;                 // [panel][key_channels][columns of the panel], scaled
  float *run_maximum, *run_sum;  // [kRuns][columns]
  float *maximum, *inverse;      // [kRuns][columns]: of all runs, once per run of the next phase
  float *mass;                   // [moved.count]
  double *mass_sum;              // [kRuns]
  float *query_moment;  // NULL = not wanted
  float *measured;
};

// Rows of a run of `count`; the runs are [run * length, (run + 1) * length) cut at count.
static inline int64_t run_rows(int64_t count) {
  const int64_t share = ((count + kRuns - 1) / kRuns + kBlockRows - 1) / kBlockRows * kBlockRows;
  return share > kRunRows ? share : kRunRows;
}

struct Kernels {
  void (*prepare)(const HeadWork &head);
  void (*scan)(const HeadWork &head, int32_t run);
  void (*mass)(const HeadWork &head, int32_t run);
  void (*covariance)(const HeadWork &head, int32_t side, int32_t run);
  void (*finish)(const HeadWork &head, int32_t side);
  void (*rows_mass)(const HeadWork &head, int32_t run);
  // metric NULL = identity and greedy; otherwise channels are taken in `order`. scratch: eliminate_doubles() numbers.
  void (*eliminate)(int32_t channels, const float *metric, const float *covariance, double *scratch, int32_t *place, int32_t *order,
                    float *gains);
};

// The covariance that is left, the metric, and four rows.
static inline int64_t eliminate_doubles(int32_t channels) { return 2ll * channels * channels + 4ll * channels; }

extern const Kernels kernels_portable;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_neon;

}  // namespace think::moments
