#include "operations.h"

#include "numbers.h"

namespace simt {
namespace {

template <class Arguments>
Arguments &arguments(const Warp &warp, int32_t lane) {
  return *static_cast<Arguments *>(warp.lanes[lane]->arguments);
}

void shuffle(Warp &warp, uint32_t lanes) {
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const int32_t lane = __builtin_ctz(rest);
    ShuffleArguments &own = arguments<ShuffleArguments>(warp, lane);
    if (!(lanes >> own.from & 1)) {
      machine().fail(FaultKind::divergence, warp.lanes[lane]->site,
                     "a shuffle reads lane " + std::to_string(own.from) + ", which takes no part in it", warp.lanes[lane]);
    }
    own.result = arguments<ShuffleArguments>(warp, own.from).value;
  }
}

void vote(Warp &warp, uint32_t lanes) {
  uint32_t votes = 0;
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const int32_t lane = __builtin_ctz(rest);
    votes |= static_cast<uint32_t>(arguments<VoteArguments>(warp, lane).value) << lane;
  }
  for (uint32_t rest = lanes; rest; rest &= rest - 1) arguments<VoteArguments>(warp, __builtin_ctz(rest)).result = votes;
}

void sync_warp(Warp &warp, uint32_t) { machine().order_warp(warp); }

// Matrices of 8 x 8 16-bit elements lie over the warp like this: lane 4 g + t holds elements 2t and 2t + 1 of row g.
void deal_out(const uint16_t (&matrix)[8][8], bool transposed, uint32_t (&fragments)[32]) {
  for (int32_t lane = 0; lane < 32; ++lane) {
    const int32_t g = lane / 4, t = lane % 4;
    const uint32_t first = transposed ? matrix[2 * t][g] : matrix[g][2 * t], second = transposed ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
    fragments[lane] = first | second << 16;
  }
}

template <int32_t N, bool Transposed>
void ldmatrix(Warp &warp, uint32_t) {
  uint32_t rows[32];
  for (int32_t i = 0; i < N; ++i) {
    uint16_t matrix[8][8];
    for (int32_t r = 0; r < 8; ++r) {
      const int32_t lane = 8 * i + r;
      const MatrixArguments &own = arguments<MatrixArguments>(warp, lane);
      rows[lane] = own.row;
      std::memcpy(matrix[r], machine().shared_row(warp, *warp.lanes[lane], own.bounds, own.row), 16);
    }
    uint32_t fragments[32];
    deal_out(matrix, Transposed, fragments);
    for (int32_t lane = 0; lane < 32; ++lane) arguments<MatrixArguments>(warp, lane).fragment[i] = fragments[lane];
  }
  machine().count_phases(warp.lanes[0]->site, rows, N);
}

void move_matrix(Warp &warp, uint32_t) {
  uint16_t matrix[8][8];
  for (int32_t lane = 0; lane < 32; ++lane) {
    const uint32_t fragment = arguments<MoveArguments>(warp, lane).fragment;
    matrix[lane / 4][lane % 4 * 2] = static_cast<uint16_t>(fragment);
    matrix[lane / 4][lane % 4 * 2 + 1] = static_cast<uint16_t>(fragment >> 16);
  }
  uint32_t fragments[32];
  deal_out(matrix, true, fragments);
  for (int32_t lane = 0; lane < 32; ++lane) arguments<MoveArguments>(warp, lane).result = fragments[lane];
}

// Products are exact in f32; they are added in f32 in the order of k, then to the accumulator. The device adds in another order and with a few bits
// more or less: tests of kernels must not depend on it.
template <bool Half>
void mma(Warp &warp, uint32_t) {
  uint32_t raw_a[16][16], raw_b[16][8];
  for (int32_t lane = 0; lane < 32; ++lane) {
    const MmaArguments &own = arguments<MmaArguments>(warp, lane);
    const int32_t g = lane / 4, k = lane % 4 * 2;
    for (int32_t i = 0; i < 2; ++i) {
      raw_a[g][k + i] = own.a[0] >> 16 * i & 0xffff;
      raw_a[g + 8][k + i] = own.a[1] >> 16 * i & 0xffff;
      raw_a[g][k + 8 + i] = own.a[2] >> 16 * i & 0xffff;
      raw_a[g + 8][k + 8 + i] = own.a[3] >> 16 * i & 0xffff;
      raw_b[k + i][g] = own.b[0] >> 16 * i & 0xffff;
      raw_b[k + 8 + i][g] = own.b[1] >> 16 * i & 0xffff;
    }
  }
  float a[16][16], b[16][8], sum[16][8] = {};
  for (int32_t i = 0; i < 256; ++i) (&a[0][0])[i] = widen<Half>((&raw_a[0][0])[i]);
  for (int32_t i = 0; i < 128; ++i) (&b[0][0])[i] = widen<Half>((&raw_b[0][0])[i]);
  for (int32_t m = 0; m < 16; ++m) {
    for (int32_t k = 0; k < 16; ++k) {
      for (int32_t n = 0; n < 8; ++n) sum[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int32_t lane = 0; lane < 32; ++lane) {
    float *acc = arguments<MmaArguments>(warp, lane).acc;
    const int32_t g = lane / 4, n = lane % 4 * 2;
    acc[0] += sum[g][n];
    acc[1] += sum[g][n + 1];
    acc[2] += sum[g + 8][n];
    acc[3] += sum[g + 8][n + 1];
  }
}

}  // namespace

const Operation kShuffle = {"shuffle", shuffle, false};
const Operation kVote = {"ballot, any or all", vote, false};
const Operation kSyncWarp = {"sync_warp", sync_warp, false};
const Operation kMoveMatrix = {"movmatrix_trans", move_matrix, true};
const Operation kMma[2] = {{"mma<BF16>", mma<false>, true}, {"mma<F16>", mma<true>, true}};
const Operation kLdmatrix[3] = {
    {"ldmatrix<1>", ldmatrix<1, false>, true}, {"ldmatrix<2>", ldmatrix<2, false>, true}, {"ldmatrix<4>", ldmatrix<4, false>, true}};
const Operation kLdmatrixTrans[3] = {
    {"ldmatrix_trans<1>", ldmatrix<1, true>, true}, {"ldmatrix_trans<2>", ldmatrix<2, true>, true}, {"ldmatrix_trans<4>", ldmatrix<4, true>, true}};

}  // namespace simt
