// The fit stage in plain loops: Gauss-Jordan elimination with pivoting, which shares nothing with a Cholesky factorisation.
#include <algorithm>
#include <cmath>
#include <vector>

#include "fit.h"

namespace think::fit::reference {

void fit(int32_t channels, const double *mean, const double *covariance, const int32_t *index, int32_t kept, double ridge, double *weight,
         double *offset) {
  const int32_t dropped = channels - kept, width = kept + dropped;
  const auto c = [&](int32_t i, int32_t j) { return covariance[index[i] * channels + index[j]]; };
  double diagonal = 0;
  for (int32_t i = 0; i < channels; ++i) diagonal += covariance[i * channels + i] / channels;
  // Rows of [C_II + ridge | C_IP]; a kept channel without variance stands alone and predicts nothing.
  std::vector<double> system(static_cast<size_t>(kept) * width, 0.0);
  for (int32_t i = 0; i < kept; ++i) {
    const bool dead = c(i, i) <= 0;
    for (int32_t j = 0; j < width && !dead; ++j) system[i * width + j] = j < kept && c(j, j) <= 0 ? 0 : c(i, j);
    system[i * width + i] += dead ? 1 : ridge * diagonal;
  }
  for (int32_t column = 0; column < kept; ++column) {
    int32_t pivot = column;
    for (int32_t i = column + 1; i < kept; ++i) {
      if (std::abs(system[i * width + column]) > std::abs(system[pivot * width + column])) pivot = i;
    }
    std::swap_ranges(&system[pivot * width], &system[pivot * width] + width, &system[column * width]);
    const double divisor = system[column * width + column];
    for (int32_t j = column; j < width; ++j) system[column * width + j] /= divisor;
    for (int32_t i = 0; i < kept; ++i) {
      const double factor = system[i * width + column];
      if (i == column || factor == 0) continue;
      for (int32_t j = column; j < width; ++j) system[i * width + j] -= factor * system[column * width + j];
    }
  }
  for (int32_t p = 0; p < dropped; ++p) {
    offset[p] = mean[index[kept + p]];
    for (int32_t i = 0; i < kept; ++i) {
      weight[p * kept + i] = system[i * width + kept + p];
      offset[p] -= weight[p * kept + i] * mean[index[i]];
    }
  }
}

}  // namespace think::fit::reference
