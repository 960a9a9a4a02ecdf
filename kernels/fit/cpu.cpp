// The fit stage on the CPU: one Cholesky factorisation per head, in double, by Eigen through maps over the workspace. Widths and blocks are
// kept small enough that Eigen's own panels stay on the stack: a run call never allocates.
#define EIGEN_MPL2_ONLY
#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>

#include "../common/element.h"
#include "../moments/moments.h"
#include "fit.h"

namespace think::fit {
namespace {

using Matrix = Eigen::Map<Eigen::MatrixXd>;
constexpr Eigen::Index kBlock = 64;    // rows and columns of one triangular solve
constexpr double kNegligible = 1e-12;  // share of the mean variance below which a channel has none
constexpr double kSingular = 1e-9;     // share of its variance that a channel must add to the others: moments are f32
constexpr float kLargestHalf = 65504.0f;

struct Scratch {
  double *matrix;  // [live][live], column-major
  double *right;   // [live][dropped], column-major: becomes W^T
};

Scratch carve(Carver &carver, int32_t channels) {
  Scratch scratch;
  // kept * (kept + dropped) numbers, whatever the width.
  scratch.matrix = take<double>(carver, static_cast<int64_t>(channels) * channels);
  scratch.right = nullptr;
  return scratch;
}

int32_t widest(const Shape &shape) { return shape.key_channels > shape.value_channels ? shape.key_channels : shape.value_channels; }

struct Head {
  int32_t channels, kept;
  const int32_t *index;
  const float *mean, *covariance;
  double ridge;
};

bool all_finite(const float *numbers, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(numbers[i])) return false;
  }
  return true;
}

// Solve (L L^T) X = B in blocks, B becomes X.
void solve(const Matrix &lower, Matrix &right) {
  const Eigen::Index n = lower.rows();
  for (Eigen::Index column = 0; column < right.cols(); column += kBlock) {
    const Eigen::Index columns = std::min(kBlock, right.cols() - column);
    for (Eigen::Index row = 0; row < n; row += kBlock) {
      const Eigen::Index rows = std::min(kBlock, n - row), below = n - row - rows;
      auto part = right.block(row, column, rows, columns);
      lower.block(row, row, rows, rows).triangularView<Eigen::Lower>().solveInPlace(part);
      for (Eigen::Index at = row + rows; below > 0 && at < n; at += kBlock) {
        const Eigen::Index count = std::min(kBlock, n - at);
        right.block(at, column, count, columns).noalias() -= lower.block(at, row, count, rows) * part;
      }
    }
    for (Eigen::Index row = (n - 1) / kBlock * kBlock; row >= 0; row -= kBlock) {
      const Eigen::Index rows = std::min(kBlock, n - row);
      auto part = right.block(row, column, rows, columns);
      lower.block(row, row, rows, rows).triangularView<Eigen::Lower>().transpose().solveInPlace(part);
      for (Eigen::Index at = 0; at < row; at += kBlock) {
        right.block(at, column, kBlock, columns).noalias() -= lower.block(row, at, rows, kBlock).transpose() * part;
      }
    }
  }
}

// Live kept channels (places in the index) -> W^T of them in scratch.right. False where the covariance is singular: the
// mean is all that can be said.
bool regress(const Head &head, const int32_t *live, int32_t count, double diagonal, Scratch &scratch) {
  const int32_t dropped = head.channels - head.kept;
  const auto c = [&](int32_t i, int32_t j) {
    return static_cast<double>(head.covariance[static_cast<int64_t>(head.index[i]) * head.channels + head.index[j]]);
  };
  Matrix matrix(scratch.matrix, count, count), right(scratch.right, count, dropped);
  for (int32_t j = 0; j < count; ++j) {
    for (int32_t i = 0; i < count; ++i) matrix(i, j) = c(live[i], live[j]);
    matrix(j, j) += head.ridge * diagonal;
  }
  for (int32_t p = 0; p < dropped; ++p) {
    for (int32_t i = 0; i < count; ++i) right(i, p) = c(head.kept + p, live[i]);
  }
  Eigen::Ref<Eigen::MatrixXd> in_place(matrix);
  const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>> factors(in_place);
  if (factors.info() != Eigen::Success) return false;
  for (int32_t i = 0; i < count; ++i) {
    const double added = matrix(i, i) * matrix(i, i);
    if (!(added > kSingular * (c(live[i], live[i]) + head.ridge * diagonal))) return false;
  }
  solve(matrix, right);
  for (int64_t i = 0; i < static_cast<int64_t>(count) * dropped; ++i) {
    if (!std::isfinite(scratch.right[i])) return false;
  }
  return true;
}

// W [dropped][kept rounded up to 8] as stored, and the offsets that go with the stored, rounded W: the prediction is exact at the mean.
void fit_head(const Head &head, Scratch scratch, uint16_t *weight, float *offset) {
  const int32_t dropped = head.channels - head.kept, stride = (head.kept + 7) / 8 * 8;
  double diagonal = 0;
  for (int32_t i = 0; i < head.channels; ++i) diagonal += head.covariance[static_cast<int64_t>(i) * (head.channels + 1)];
  diagonal /= head.channels;
  const auto alive = [&](int32_t place) {
    return head.covariance[static_cast<int64_t>(head.index[place]) * (head.channels + 1)] > kNegligible * diagonal;
  };
  int32_t live[kMaxChannels], count = 0;
  for (int32_t i = 0; i < head.kept; ++i) {
    if (alive(i)) live[count++] = i;
  }
  scratch.right = scratch.matrix + static_cast<int64_t>(count) * count;
  const bool solved = count > 0 && regress(head, live, count, diagonal, scratch);
  for (int32_t p = 0; p < dropped; ++p) {
    uint16_t *row = weight + static_cast<int64_t>(p) * stride;
    for (int32_t i = 0; i < stride; ++i) row[i] = 0;
    double constant = head.mean[head.index[head.kept + p]];
    if (solved && alive(head.kept + p)) {
      const double *solution = scratch.right + static_cast<int64_t>(p) * count;
      for (int32_t i = 0; i < count; ++i) {
        const float w = static_cast<float>(solution[i]);
        row[live[i]] = f32_to_f16(w > kLargestHalf ? kLargestHalf : w < -kLargestHalf ? -kLargestHalf : w);
        constant -= static_cast<double>(f16_to_f32(row[live[i]])) * head.mean[head.index[live[i]]];
      }
    }
    offset[head.kept + p] = static_cast<float>(constant);
  }
}

}  // namespace

int64_t workspace(const Shape &shape, int32_t batch, int32_t threads) {
  Carver carver{nullptr, 0};
  const int64_t tasks = std::min<int64_t>(std::max(threads, 1), static_cast<int64_t>(batch) * shape.kv_heads);
  for (int64_t task = 0; task < tasks; ++task) carve(carver, widest(shape));
  return carver.offset;
}

void fit(const Arguments &arguments, void *memory, const Parallel &parallel) {
  const Shape &shape = arguments.shape;
  const think_basis &basis = arguments.basis;
  const int32_t channels = arguments.side == THINK_KEYS ? shape.key_channels : shape.value_channels;
  const int64_t heads = static_cast<int64_t>(arguments.batch.count) * shape.kv_heads, head_bytes = weight_head_bytes(channels);
  // Each task has a scratch of its own and takes every tasks-th head.
  const int64_t tasks = std::min<int64_t>(std::max(parallel.threads, 1), heads);
  Carver one{nullptr, 0};
  carve(one, widest(shape));
  parallel_for(parallel, tasks, [&](int64_t task) {
    Carver carver{static_cast<char *>(memory) + task * one.offset, 0};
    const Scratch scratch = carve(carver, widest(shape));
    for (int64_t i = task; i < heads; i += tasks) {
      const int32_t slot = slot_of(arguments.batch, static_cast<int32_t>(i / shape.kv_heads)),
                    kv_head = static_cast<int32_t>(i % shape.kv_heads);
      const int64_t at = static_cast<int64_t>(slot) * shape.kv_heads + kv_head;
      const moments::View view = moments::view(shape, const_cast<void *>(arguments.moments), slot, kv_head);
      const bool keys = arguments.side == THINK_KEYS;
      Head head{channels,
                basis.kept[at],
                basis.index + at * channels,
                keys ? view.key_mean : view.value_mean,
                keys ? view.key_covariance : view.value_covariance,
                arguments.ridge};
      basis.weight_offset[at] = -1;
      // Damaged statistics (an infinite key, say) predict nothing: the paper's method is what is left.
      if (head.kept >= channels || !all_finite(head.mean, channels) ||
          !all_finite(head.covariance, static_cast<int64_t>(channels) * channels))
        continue;
      basis.weight_offset[at] = at * head_bytes;
      fit_head(head, scratch, reinterpret_cast<uint16_t *>(static_cast<char *>(basis.weight) + at * head_bytes),
               basis.offset + at * channels);
    }
  });
}

}  // namespace think::fit
