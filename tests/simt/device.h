// The functions of kernels/common/ptx.cuh for the emulator; what they do is said there and in ptx_device.cuh. Included by ptx.cuh alone. Each takes,
// behind the arguments that kernels give, the place of the call.
#pragma once

#include <bit>
#include <cmath>

#include "tests/simt/numbers.h"
#include "tests/simt/operations.h"

namespace think::ptx {

using simt::Site;

constexpr bool kLargeShared = true;

// ---- indices -------------------------------------------------------------------------------------------------------------------------------

THINK_DEVICE int32_t thread_index() { return simt::machine().lane().thread; }
THINK_DEVICE int32_t opaque(int32_t x) { return x; }
THINK_DEVICE void assume(bool) {}
THINK_DEVICE int32_t lane_index() { return thread_index() & 31; }
THINK_DEVICE int32_t warp_index() { return thread_index() >> 5; }
THINK_DEVICE int32_t block_threads() { return simt::machine().spec().threads; }
THINK_DEVICE int32_t block_x() { return simt::machine().block().x; }
THINK_DEVICE int32_t block_y() { return simt::machine().block().y; }
THINK_DEVICE int32_t block_z() { return simt::machine().block().z; }
THINK_DEVICE int32_t grid_x() { return simt::machine().spec().grid[0]; }
THINK_DEVICE int32_t grid_y() { return simt::machine().spec().grid[1]; }
THINK_DEVICE int32_t grid_z() { return simt::machine().spec().grid[2]; }

// ---- bits ----------------------------------------------------------------------------------------------------------------------------------

template <class To, class From>
THINK_HOST_DEVICE To bit_copy(const From &from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

THINK_DEVICE float as_float(uint32_t bits) { return bit_copy<float>(bits); }
THINK_DEVICE uint32_t as_bits(float value) { return bit_copy<uint32_t>(value); }
THINK_DEVICE int32_t count_bits(uint32_t bits) { return std::popcount(bits); }
THINK_DEVICE int32_t leading_zeros(uint32_t bits) { return std::countl_zero(bits); }
THINK_DEVICE int32_t trailing_zeros(uint32_t bits) { return std::countr_zero(bits); }
THINK_DEVICE uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  uint32_t result = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> 4 * i & 15;
    uint32_t byte = static_cast<uint32_t>(both >> 8 * (nibble & 7)) & 0xff;
    if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;  // prmt spreads the sign
    result |= byte << 8 * i;
  }
  return result;
}

// ---- global memory -------------------------------------------------------------------------------------------------------------------------

template <class T>
THINK_DEVICE T load_global(const T *pointer, Site site = Site::current()) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  T value;
  std::memcpy(&value, simt::machine().global(pointer, sizeof(T), false, site), sizeof(T));
  return value;
}
template <class T>
THINK_DEVICE T load_constant(const T *pointer, Site site = Site::current()) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  T value;
  std::memcpy(&value, simt::machine().global_constant(pointer, sizeof(T), site), sizeof(T));
  return value;
}
template <class T>
THINK_DEVICE T load_stream(const T *pointer, Site site = Site::current()) {
  return load_constant(pointer, site);
}
template <class T>
THINK_DEVICE T load_l2(const T *pointer, Site site = Site::current()) {
  return load_global(pointer, site);
}
template <class T>
THINK_DEVICE void store_global(T *pointer, Same<T> value, Site site = Site::current()) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  std::memcpy(simt::machine().global(pointer, sizeof(T), true, site), &value, sizeof(T));
}
template <class T>
THINK_DEVICE void store_stream(T *pointer, Same<T> value, Site site = Site::current()) {
  store_global(pointer, value, site);
}
THINK_DEVICE void prefetch_l2(const void *) {}

template <class T, class Function>
THINK_DEVICE T atomic(T *pointer, Function function, Site site) {
  simt::machine().maybe_yield();
  uint8_t *place = simt::machine().global_atomic(pointer, sizeof(T), site);
  T old;
  std::memcpy(&old, place, sizeof(T));
  const T updated = function(old);
  std::memcpy(place, &updated, sizeof(T));
  simt::machine().maybe_yield();
  return old;
}
THINK_DEVICE uint32_t atomic_add(uint32_t *pointer, uint32_t value, Site site = Site::current()) {
  return atomic(
      pointer, [value](uint32_t old) { return old + value; }, site);
}
THINK_DEVICE int32_t atomic_add(int32_t *pointer, int32_t value, Site site = Site::current()) {
  return static_cast<int32_t>(atomic_add(reinterpret_cast<uint32_t *>(pointer), static_cast<uint32_t>(value), site));
}
THINK_DEVICE uint32_t atomic_max(uint32_t *pointer, uint32_t value, Site site = Site::current()) {
  return atomic(
      pointer, [value](uint32_t old) { return old < value ? value : old; }, site);
}
THINK_DEVICE uint32_t atomic_increment_wrap(uint32_t *pointer, uint32_t last, Site site = Site::current()) {
  return atomic(
      pointer, [last](uint32_t old) { return old >= last ? 0u : old + 1; }, site);
}

// ---- shared memory -------------------------------------------------------------------------------------------------------------------------

// Here a place knows the view that it was cut as.
template <class T>
struct Shared {
  uint32_t address = 0;
  simt::Bounds bounds = {0, 0};

  THINK_HOST_DEVICE Shared operator+(int32_t count) const {
    return {address + static_cast<uint32_t>(count) * static_cast<uint32_t>(sizeof(T)), bounds};
  }
  template <class U>
  THINK_HOST_DEVICE Shared<U> as() const {
    return {address, bounds};
  }
};

template <class T>
THINK_HOST_DEVICE Shared<T> make_shared(uint32_t address, uint32_t count) {
  return {address, {address, address + count * static_cast<uint32_t>(sizeof(T))}};
}

THINK_DEVICE uint32_t shared_base() { return 0; }

template <class T>
THINK_DEVICE T load_shared(Shared<T> from, Site site = Site::current()) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  T value;
  std::memcpy(&value, simt::machine().shared(from.bounds, from.address, sizeof(T), false, site), sizeof(T));
  return value;
}
template <class T>
THINK_DEVICE T read_shared(Shared<Words2> from, Site site = Site::current()) {
  static_assert(sizeof(T) % sizeof(Words2) == 0 && alignof(T) <= alignof(Words2));
  Words2 words[sizeof(T) / sizeof(Words2)];
  for (size_t i = 0; i < sizeof(T) / sizeof(Words2); ++i) words[i] = load_shared(from + static_cast<int32_t>(i), site);
  return bit_copy<T>(words);
}
template <class T>
THINK_DEVICE void store_shared(Shared<T> to, Same<T> value, Site site = Site::current()) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  std::memcpy(simt::machine().shared(to.bounds, to.address, sizeof(T), true, site), &value, sizeof(T));
}

// ---- asynchronous copies -------------------------------------------------------------------------------------------------------------------

template <int32_t Bytes, class T>
THINK_DEVICE void cp_async_zfill(Shared<T> to, const void *from, int32_t valid, Site site = Site::current()) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  simt::machine().start_copy(to.bounds, to.address, from, Bytes, static_cast<uint32_t>(valid), site);
}
template <int32_t Bytes, class T>
THINK_DEVICE void cp_async(Shared<T> to, const void *from, Site site = Site::current()) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  simt::machine().start_copy(to.bounds, to.address, from, Bytes, Bytes, site);
}
template <class T>
THINK_DEVICE void cp_async_if(bool condition, Shared<T> to, const void *from, Site site = Site::current()) {
  if (condition) cp_async<16>(to, from, site);
}
THINK_DEVICE void cp_async_commit() { simt::machine().commit_copies(); }
template <int32_t Pending>
THINK_DEVICE void cp_async_wait() {
  simt::machine().wait_copies(Pending);
}

// ---- barriers and warp collectives ---------------------------------------------------------------------------------------------------------

THINK_DEVICE void sync_warp(Site site = Site::current()) { simt::machine().collective(simt::kSyncWarp, kAllLanes, nullptr, site); }
THINK_DEVICE void sync_block(Site site = Site::current()) { simt::machine().barrier(0, 0, false, site); }
THINK_DEVICE bool sync_block_or(bool value, Site site = Site::current()) { return simt::machine().barrier(0, 0, value, site); }
THINK_DEVICE void sync_named(int32_t name, int32_t threads, Site site = Site::current()) {
  if (name < 1 || name > 15) simt::machine().fail(simt::FaultKind::divergence, site, "sync_named: names are 1 to 15");
  simt::machine().barrier(name, threads, false, site);
}

template <class T>
THINK_DEVICE T shuffle_from(T value, int32_t from, uint32_t mask, Site site) {
  static_assert(sizeof(T) == 4);
  simt::ShuffleArguments arguments = {bit_copy<uint32_t>(value), 0, from};
  simt::machine().collective(simt::kShuffle, mask, &arguments, site);
  return bit_copy<T>(arguments.result);
}
template <class T>
THINK_DEVICE T shuffle(T value, int32_t from_lane, uint32_t mask = kAllLanes, Site site = Site::current()) {
  return shuffle_from(value, from_lane & 31, mask, site);
}
template <class T>
THINK_DEVICE T shuffle_xor(T value, int32_t lanes, uint32_t mask = kAllLanes, Site site = Site::current()) {
  return shuffle_from(value, (lane_index() ^ lanes) & 31, mask, site);
}
template <class T>
THINK_DEVICE T shuffle_down(T value, int32_t distance, uint32_t mask = kAllLanes, Site site = Site::current()) {
  const int32_t from = lane_index() + distance;
  return shuffle_from(value, from > 31 ? lane_index() : from, mask, site);
}
template <class T>
THINK_DEVICE T shuffle_up(T value, int32_t distance, uint32_t mask = kAllLanes, Site site = Site::current()) {
  const int32_t from = lane_index() - distance;
  return shuffle_from(value, from < 0 ? lane_index() : from, mask, site);
}
THINK_DEVICE uint32_t ballot(bool value, uint32_t mask = kAllLanes, Site site = Site::current()) {
  simt::VoteArguments arguments = {value, 0};
  simt::machine().collective(simt::kVote, mask, &arguments, site);
  return arguments.result;
}
THINK_DEVICE bool any(bool value, uint32_t mask = kAllLanes, Site site = Site::current()) { return ballot(value, mask, site) != 0; }
THINK_DEVICE bool all(bool value, uint32_t mask = kAllLanes, Site site = Site::current()) { return ballot(!value, mask, site) == 0; }

// ---- matrices ------------------------------------------------------------------------------------------------------------------------------

template <int32_t N, class T>
THINK_DEVICE void ldmatrix(uint32_t (&fragment)[N], Shared<T> row, Site site = Site::current()) {
  static_assert(N == 1 || N == 2 || N == 4);
  simt::MatrixArguments arguments = {fragment, row.bounds, row.address};
  simt::machine().collective(simt::kLdmatrix[N / 2], kAllLanes, &arguments, site);
}
template <int32_t N, class T>
THINK_DEVICE void ldmatrix_trans(uint32_t (&fragment)[N], Shared<T> row, Site site = Site::current()) {
  static_assert(N == 1 || N == 2 || N == 4);
  simt::MatrixArguments arguments = {fragment, row.bounds, row.address};
  simt::machine().collective(simt::kLdmatrixTrans[N / 2], kAllLanes, &arguments, site);
}
THINK_DEVICE uint32_t movmatrix_trans(uint32_t fragment, Site site = Site::current()) {
  simt::MoveArguments arguments = {fragment, 0};
  simt::machine().collective(simt::kMoveMatrix, kAllLanes, &arguments, site);
  return arguments.result;
}
template <class T>
THINK_DEVICE void mma(float (&acc)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1, Site site = Site::current()) {
  static_assert(sizeof(T) == 2);
  simt::MmaArguments arguments = {acc, {a0, a1, a2, a3}, {b0, b1}};
  simt::machine().collective(simt::kMma[IsF16<T>::value], kAllLanes, &arguments, site);
}

// ---- numbers -------------------------------------------------------------------------------------------------------------------------------

THINK_DEVICE float to_float(float value) { return value; }
THINK_DEVICE float to_float(F16 value) { return simt::wide_f16(value.bits); }
THINK_DEVICE float to_float(BF16 value) { return simt::wide_bf16(value.bits); }

template <class T>
THINK_DEVICE T from_float(float value) {
  if constexpr (sizeof(T) == 4) {
    return value;
  } else {
    return {static_cast<uint16_t>(simt::narrow<IsF16<T>::value>(value))};
  }
}
template <class T>
THINK_DEVICE uint32_t pack(float low, float high) {
  return simt::narrow<IsF16<T>::value>(low) | simt::narrow<IsF16<T>::value>(high) << 16;
}
template <class T>
THINK_DEVICE uint32_t pack(T low, T high) {
  return static_cast<uint32_t>(high.bits) << 16 | low.bits;
}
template <class T>
THINK_DEVICE Float2 unpack(uint32_t pair) {
  return {to_float(T{static_cast<uint16_t>(pair)}), to_float(T{static_cast<uint16_t>(pair >> 16)})};
}
template <class T>
THINK_DEVICE uint32_t fma2(uint32_t a, uint32_t b, uint32_t c) {
  return simt::each_half<IsF16<T>::value>(a, b, c, [](float x, float y, float z) { return simt::fused_odd(x, y, z); });
}
template <class T>
THINK_DEVICE uint32_t add2(uint32_t a, uint32_t b) {
  return simt::each_half<IsF16<T>::value>(a, b, 0, [](float x, float y, float) { return simt::fused_odd(x, 1.0f, y); });
}
template <class T>
THINK_DEVICE uint32_t sub2(uint32_t a, uint32_t b) {
  return simt::each_half<IsF16<T>::value>(a, b, 0, [](float x, float y, float) { return simt::fused_odd(y, -1.0f, x); });
}
template <class T>
THINK_DEVICE uint32_t mul2(uint32_t a, uint32_t b) {
  return simt::each_half<IsF16<T>::value>(a, b, 0, [](float x, float y, float) { return x * y; });  // exact in f32 but for bf16 below 2^-126
}
template <class T>
THINK_DEVICE uint32_t max2(uint32_t a, uint32_t b) {
  return simt::each_half<IsF16<T>::value>(a, b, 0, [](float x, float y, float) { return x > y || y != y || (x == y && !std::signbit(x)) ? x : y; });
}
template <class T>
THINK_DEVICE uint32_t min2(uint32_t a, uint32_t b) {
  return simt::each_half<IsF16<T>::value>(a, b, 0, [](float x, float y, float) { return x < y || y != y || (x == y && std::signbit(x)) ? x : y; });
}
THINK_DEVICE float exp2_fast(float value) { return simt::flush_subnormal(std::exp2(simt::flush_subnormal(value))); }
THINK_DEVICE float log2_fast(float value) { return std::log2(simt::flush_subnormal(value)); }
THINK_DEVICE float reciprocal_fast(float value) { return simt::flush_subnormal(1.0f / simt::flush_subnormal(value)); }
THINK_DEVICE float rsqrt_fast(float value) { return 1.0f / std::sqrt(simt::flush_subnormal(value)); }

// ---- between launches ----------------------------------------------------------------------------------------------------------------------

THINK_DEVICE void wait_for_previous_launch() { simt::machine().wait_for_previous_launch(); }
THINK_DEVICE void allow_next_launch() {}

}  // namespace think::ptx
