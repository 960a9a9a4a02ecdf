// Where each element of a matrix lies in the registers of a warp. The tables are written from the formulas of the PTX ISA ("Matrix fragments for
// mma.m16n8k16", "ldmatrix", "movmatrix"), element by element, and not from the emulator's loops.
#include <random>

#include "run_kernel.h"

namespace think::simt_test {
namespace {

struct Element {
  int32_t row, column;
};

// Element i of lane's fragment, i in order of the registers, low half first.
Element a_element(int32_t lane, int32_t i) {
  const int32_t group = lane >> 2, thread_in_group = lane % 4;
  const int32_t row = (0 <= i && i < 2) || (4 <= i && i < 6) ? group : group + 8;
  const int32_t column = i < 4 ? thread_in_group * 2 + (i & 1) : thread_in_group * 2 + (i & 1) + 8;
  return {row, column};
}
Element b_element(int32_t lane, int32_t i) {
  const int32_t group = lane >> 2, thread_in_group = lane % 4;
  return {i < 2 ? thread_in_group * 2 + (i & 1) : thread_in_group * 2 + (i & 1) + 8, group};
}
Element c_element(int32_t lane, int32_t i) {
  const int32_t group = lane >> 2, thread_in_group = lane % 4;
  return {i < 2 ? group : group + 8, thread_in_group * 2 + (i & 1)};
}

struct MmaRegisters {
  uint32_t a[4], b[2];
  float acc[4];
};

template <class T>
__global__ void mma_kernel(const uint32_t *a, const uint32_t *b, float *acc) {
  const int32_t lane = lane_index();
  const Words4 wide = load_global(static_cast<const Words4 *>(static_cast<const void *>(a)) + lane);
  const Words2 narrow = load_global(static_cast<const Words2 *>(static_cast<const void *>(b)) + lane);
  float sum[4];
  for (int32_t i = 0; i < 4; ++i) sum[i] = load_global(acc + lane * 4 + i);
  const uint32_t fragment_a[4] = {wide.x, wide.y, wide.z, wide.w}, fragment_b[2] = {narrow.x, narrow.y};
  mma<T>(sum, fragment_a, fragment_b);
  for (int32_t i = 0; i < 4; ++i) store_global(acc + lane * 4 + i, sum[i]);
}

template <class T>
void check_mma() {
  std::mt19937 random(7);
  // Small integers: every sum is exact, whatever its order.
  float a[16][16], b[16][8], c[16][8];
  for (auto &row : a)
    for (float &x : row) x = static_cast<float>(static_cast<int32_t>(random() % 17) - 8);
  for (auto &row : b)
    for (float &x : row) x = static_cast<float>(static_cast<int32_t>(random() % 17) - 8);
  for (auto &row : c)
    for (float &x : row) x = static_cast<float>(static_cast<int32_t>(random() % 1001) - 500);
  std::vector<uint32_t> words_a(32 * 4), words_b(32 * 2);
  std::vector<float> acc(32 * 4);
  for (int32_t lane = 0; lane < 32; ++lane) {
    for (int32_t i = 0; i < 8; ++i) {
      const Element e = a_element(lane, i);
      words_a[lane * 4 + i / 2] |= static_cast<uint32_t>(from_float<T>(a[e.row][e.column]).bits) << 16 * (i % 2);
    }
    for (int32_t i = 0; i < 4; ++i) {
      const Element e = b_element(lane, i), f = c_element(lane, i);
      words_b[lane * 2 + i / 2] |= static_cast<uint32_t>(from_float<T>(b[e.row][e.column]).bits) << 16 * (i % 2);
      acc[lane * 4 + i] = c[f.row][f.column];
    }
  }
  Buffer<uint32_t> device_a("a", words_a), device_b("b", words_b);
  Buffer<float> device_acc("acc", acc);
  EXPECT_NO_FAULT(run_kernel({}, 1, mma_kernel<T>, device_a.device(), device_b.device(), device_acc.device()));
  const std::vector<float> result = device_acc.download();
  for (int32_t lane = 0; lane < 32; ++lane) {
    for (int32_t i = 0; i < 4; ++i) {
      const Element e = c_element(lane, i);
      float expected = c[e.row][e.column];
      for (int32_t k = 0; k < 16; ++k) expected += a[e.row][k] * b[k][e.column];
      EXPECT_EQ(result[lane * 4 + i], expected) << "lane " << lane << " register " << i;
    }
  }
}

TEST(Fragments, MmaF16) { check_mma<F16>(); }
TEST(Fragments, MmaBf16) { check_mma<BF16>(); }

TEST(Fragments, TablesNameEveryElementOnce) {
  int32_t a[16][16] = {}, b[16][8] = {}, c[16][8] = {};
  for (int32_t lane = 0; lane < 32; ++lane) {
    for (int32_t i = 0; i < 8; ++i) ++a[a_element(lane, i).row][a_element(lane, i).column];
    for (int32_t i = 0; i < 4; ++i) ++b[b_element(lane, i).row][b_element(lane, i).column], ++c[c_element(lane, i).row][c_element(lane, i).column];
  }
  for (auto &row : a)
    for (int32_t n : row) EXPECT_EQ(n, 1);
  for (auto &row : b)
    for (int32_t n : row) EXPECT_EQ(n, 1);
  for (auto &row : c)
    for (int32_t n : row) EXPECT_EQ(n, 1);
}

// Shared memory holds 32 rows of 8 elements whose value is 8 row + column; rows are handed to ldmatrix in a shuffled order.
template <int32_t N, bool Transposed>
__global__ void ldmatrix_kernel(const int32_t *row_of_lane, uint32_t *out) {
  SharedCarver carver = shared_memory();
  const Shared<uint16_t> rows = carver.take<uint16_t>(32 * 8);
  const int32_t lane = lane_index();
  for (int32_t c = 0; c < 8; ++c) store_shared(rows + lane * 8 + c, static_cast<uint16_t>(lane * 8 + c));
  sync_warp();
  uint32_t fragment[N];
  // Lanes that give no row point at nothing: their address must not matter.
  const Shared<uint16_t> row = lane < 8 * N ? rows + load_global(row_of_lane + lane) * 8 : Shared<uint16_t>();
  if constexpr (Transposed) {
    ldmatrix_trans<N>(fragment, row);
  } else {
    ldmatrix<N>(fragment, row);
  }
  for (int32_t i = 0; i < N; ++i) store_global(out + i * 32 + lane, fragment[i]);
}

template <int32_t N, bool Transposed>
void check_ldmatrix() {
  std::vector<int32_t> row_of_lane(32);
  for (int32_t i = 0; i < 32; ++i) row_of_lane[i] = (i * 11 + 5) % 32;
  Buffer<int32_t> order("row_of_lane", row_of_lane);
  Buffer<uint32_t> out("out", N * 32);
  EXPECT_NO_FAULT(run_kernel({.shared_bytes = 512}, 3, ldmatrix_kernel<N, Transposed>, order.device(), out.device()));
  const std::vector<uint32_t> result = out.download();
  for (int32_t matrix = 0; matrix < N; ++matrix) {
    for (int32_t lane = 0; lane < 32; ++lane) {
      // The ISA: threads 0-7 address matrix 0, 8-15 matrix 1, and so on; thread i holds of row i / 4 the elements 2 (i % 4) and the next. With
      // .trans the matrix is read column-major: what was (row, column) is (column, row).
      for (int32_t half = 0; half < 2; ++half) {
        int32_t row = lane / 4, column = lane % 4 * 2 + half;
        if (Transposed) std::swap(row, column);
        const uint32_t expected = static_cast<uint32_t>(row_of_lane[8 * matrix + row] * 8 + column);
        EXPECT_EQ(result[matrix * 32 + lane] >> 16 * half & 0xffff, expected) << "matrix " << matrix << " lane " << lane;
      }
    }
  }
}

TEST(Fragments, Ldmatrix) {
  check_ldmatrix<1, false>();
  check_ldmatrix<2, false>();
  check_ldmatrix<4, false>();
}
TEST(Fragments, LdmatrixTransposed) {
  check_ldmatrix<1, true>();
  check_ldmatrix<2, true>();
  check_ldmatrix<4, true>();
}

__global__ void movmatrix_kernel(uint32_t *out) {
  const int32_t row = lane_index() / 4, column = lane_index() % 4 * 2;
  const uint32_t fragment = static_cast<uint32_t>(row * 8 + column) | static_cast<uint32_t>(row * 8 + column + 1) << 16;
  store_global(out + lane_index(), movmatrix_trans(fragment));
}

TEST(Fragments, Movmatrix) {
  Buffer<uint32_t> out("out", 32);
  EXPECT_NO_FAULT(run_kernel({}, 1, movmatrix_kernel, out.device()));
  const std::vector<uint32_t> result = out.download();
  for (int32_t lane = 0; lane < 32; ++lane) {
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t row = lane / 4, column = lane % 4 * 2 + half;
      EXPECT_EQ(result[lane] >> 16 * half & 0xffff, static_cast<uint32_t>(column * 8 + row));
    }
  }
}

}  // namespace
}  // namespace think::simt_test
