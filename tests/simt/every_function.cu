// Uses every function of kernels/common/ptx.cuh once for each width and element type: assemble_test.sh compiles it with nvcc for real architectures,
// so that all PTX is known to assemble, and every_function_test.cpp runs it in the emulator.
#include "every_function.h"

#include "kernels/common/launch.cuh"

namespace think::simt_test {
namespace {

using namespace think::ptx;

template <class T>
THINK_DEVICE void copy_all_ways(const Everything &e, Shared<Words4> scratch) {
  const int32_t i = thread_index();
  const T *from = static_cast<const T *>(static_cast<const void *>(e.input));
  T *to = static_cast<T *>(static_cast<void *>(e.output + block_x() * 4 * block_threads() * 4));  // the widest copy comes last and fills it all
  store_global(to + i, load_global(from + i));
  store_global(to + block_threads() + i, load_constant(from + i));
  store_stream(to + 2 * block_threads() + i, load_stream(from + i));
  const Shared<T> slot = scratch.as<T>() + i;
  store_shared(slot, load_l2(from + i));
  store_global(to + 3 * block_threads() + i, load_shared(slot));
  sync_block();
}

template <class T>
THINK_DEVICE float arithmetic(float x) {
  const uint32_t a = pack<T>(x, 2.0f), b = pack<T>(from_float<T>(3.0f), from_float<T>(x));
  uint32_t c = fma2<T>(a, b, add2<T>(a, b));
  c = max2<T>(min2<T>(c, mul2<T>(a, b)), sub2<T>(a, b));
  const Float2 wide = unpack<T>(c);
  return wide.x + wide.y;
}

template <class T>
THINK_DEVICE float matrices(Shared<Words4> scratch) {
  const int32_t lane = lane_index();
  uint32_t four[4], two[2], one[1], sum = 0;
  for (int32_t i = 0; i < 4; ++i) store_shared(scratch.as<uint32_t>() + lane + 32 * i, pack<T>(1.0f, 1.0f));
  sync_warp();
  ldmatrix<4>(four, scratch + lane);
  ldmatrix<2>(two, scratch + (lane & 15));
  ldmatrix<1>(one, scratch + (lane & 7));
  sum += one[0];
  float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  mma<T>(acc, four, two);
  ldmatrix_trans<4>(four, scratch + lane);
  ldmatrix_trans<2>(two, scratch + (lane & 15));
  ldmatrix_trans<1>(one, scratch + (lane & 7));
  sum += movmatrix_trans(one[0]);
  mma<T>(acc, four, two);
  sync_warp();
  return acc[0] + acc[3] + static_cast<float>(sum & 1);
}

__global__ void __launch_bounds__(64) everything_kernel(const __grid_constant__ Everything e) {
  wait_for_previous_launch();
  allow_next_launch();
  SharedCarver carver = shared_memory();
  const Shared<Words4> scratch = carver.take<Words4>(64), ring = carver.take<Words4>(64 * 2, 128);
  prefetch_l2(e.input);
  copy_all_ways<uint8_t>(e, scratch);
  copy_all_ways<F16>(e, scratch);
  copy_all_ways<float>(e, scratch);
  copy_all_ways<Float2>(e, scratch);
  copy_all_ways<Words4>(e, scratch);

  const int32_t i = thread_index();
  const Words4 *from = static_cast<const Words4 *>(static_cast<const void *>(e.input));
  cp_async<16>(ring + i, from + i);
  cp_async_commit();
  cp_async<8>((ring + 64 + i).as<Words2>(), from + i);
  cp_async<4>((ring + 64 + i).as<uint32_t>() + 2, from + i);
  cp_async_zfill<4>((ring + 64 + i).as<uint32_t>() + 3, from + i, 0);
  cp_async_commit();
  cp_async_wait<1>();
  cp_async_zfill<16>(ring + i, from + i, 6);
  cp_async_commit();
  cp_async_wait<0>();
  cp_async_zfill<8>((ring + i).as<Words2>() + 1, from + i, 8);
  cp_async_commit();
  cp_async_wait<0>();
  sync_named(1, block_threads());
  uint32_t bits = load_shared((ring + (i ^ 1)).as<uint32_t>()) + load_shared((ring + 64 + (i ^ 1)).as<uint32_t>() + 3);
  assume(i >= 0);
  bits += read_shared<Words2>((ring + 64 + (i ^ 1)).as<Words2>()).y;

  float x = arithmetic<F16>(as_float(0x3f800000u)) + arithmetic<BF16>(1.0f) + matrices<F16>(scratch + warp_index() * 32);
  x += matrices<BF16>(scratch + warp_index() * 32);
  x += exp2_fast(-1.0f) + log2_fast(8.0f) + reciprocal_fast(4.0f) + rsqrt_fast(4.0f) + to_float(from_float<float>(x));
  x = warp_max(warp_sum(x), 8) + shuffle(x, 3) + shuffle_down(x, 1) + shuffle_up(x, 1) + shuffle_xor(x, 16, kAllLanes);
  bits += ballot(i & 1) + any(i == 5) + all(i >= 0) + count_bits(0xff) + leading_zeros(1) + trailing_zeros(8) + permute_bytes(1, 2, 0x3210);
  bits += as_bits(x) & 1;
  const int32_t places = grid_x() * grid_y() * grid_z() + block_y() + block_z();
  if (i == 0) {
    atomic_add(e.counter, 1u);
    atomic_add(static_cast<int32_t *>(static_cast<void *>(e.counter + 1)), -1);
    atomic_max(e.counter + 4, static_cast<uint32_t>(block_x() + 1));
  }
  if (last_block(e.counter + 2, static_cast<uint32_t>(grid_x())) && i == 0) store_global(e.counter + 3, static_cast<uint32_t>(places));
  if (e.counter == nullptr) store_global(e.output, bits);
}

}  // namespace

uint32_t everything_shared_bytes() {
  SharedCarver carver;
  carver.take<Words4>(64);
  carver.take<Words4>(64 * 2, 128);
  return carver.bytes();
}

int32_t everything(const Everything &e, int32_t blocks, void *stream) {
  if (const int32_t error = prepare(everything_kernel, everything_shared_bytes())) return error;
  int32_t resident = 0, processors = 0;
  if (const int32_t error = resident_blocks(&resident, everything_kernel, 64, everything_shared_bytes())) return error;
  if (const int32_t error = multiprocessors(&processors)) return error;
  if (resident < 1 || processors < 1) return -1;
  if (const int32_t error = set_zero(e.counter, 5 * sizeof(uint32_t), stream)) return error;
  return launch({.name = "everything", .grid = {blocks}, .threads = 64, .shared_bytes = everything_shared_bytes(), .stream = stream, .overlap = true},
                everything_kernel, e);
}

}  // namespace think::simt_test
