// How close results must be to the oracle.
#pragma once

#include "pipeline.h"

namespace flow {

// Half a unit in the last place of the output, relative to the largest number of a row's scale.
inline double rounding_of(think_dtype dtype) { return dtype == THINK_F32 ? 0x1p-24 : dtype == THINK_F16 ? 0x1p-11 : 0x1p-8; }

// Everything between the stored rows and the output is f32, whatever the cache holds: a few times the error of plain f32 loops (measured:
// 2e-6 and 5e-7 at worst), and the rounding of the output.
struct Tolerance {
  double output, lse;  // output: as a share of the largest expected number of the row; LSE: absolute, relative above 1
};

inline Tolerance tolerance_for(const think_problem &problem) { return {1e-5 + rounding_of(problem.output_dtype), 2e-6}; }

inline void expect_close(const Output &expected, const Output &actual, const Tolerance &tolerance, const std::string &what) {
  ASSERT_EQ(expected.rows.size(), actual.rows.size()) << what;
  double worst = 0, worst_lse = 0;
  size_t worst_row = 0, worst_lse_row = 0;
  for (size_t row = 0; row < expected.rows.size(); ++row) {
    double largest = 1e-3;
    for (const double value : expected.rows[row]) largest = std::max(largest, std::fabs(value));
    for (size_t c = 0; c < expected.rows[row].size(); ++c) {
      const double error = std::fabs(expected.rows[row][c] - actual.rows[row][c]) / largest;
      if (!(error <= worst)) worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error, worst_row = row;
    }
    if (std::isinf(expected.lse[row])) {
      EXPECT_EQ(expected.lse[row], actual.lse[row]) << what << ", row " << row;
      continue;
    }
    const double error = std::fabs(expected.lse[row] - actual.lse[row]) / std::max(1.0, std::fabs(expected.lse[row]));
    if (!(error <= worst_lse)) worst_lse = std::isnan(error) ? std::numeric_limits<double>::infinity() : error, worst_lse_row = row;
  }
  EXPECT_LE(worst, tolerance.output) << what << ": output, row " << worst_row << " of " << expected.rows.size();
  EXPECT_LE(worst_lse, tolerance.lse) << what << ": LSE, row " << worst_lse_row << " of " << expected.rows.size() << ", expected "
                                      << expected.lse[worst_lse_row] << ", found " << actual.lse[worst_lse_row];
  static const bool report = std::getenv("THINK_TEST_REPORT") != nullptr;
  if (report) std::printf("error %.2g of %.2g, LSE %.2g of %.2g: %s\n", worst, tolerance.output, worst_lse, tolerance.lse, what.c_str());
}

// Bit for bit, NaN included.
inline bool same_bits(const Output &a, const Output &b) {
  const auto same = [](const std::vector<double> &x, const std::vector<double> &y) {
    return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(double)) == 0;
  };
  if (a.rows.size() != b.rows.size() || !same(a.lse, b.lse)) return false;
  for (size_t row = 0; row < a.rows.size(); ++row) {
    if (!same(a.rows[row], b.rows[row])) return false;
  }
  return true;
}

inline std::vector<int32_t> uniform(const Flow &flow, int32_t kept) {
  return std::vector<int32_t>(flow.options().tokens.size() * flow.problem().kv_heads, kept);
}

}  // namespace flow
