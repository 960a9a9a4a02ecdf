// The PTX behind ptx.cuh, for nvcc. Only ptx.cuh includes this. sm_80 and newer; what a newer architecture does better is chosen by __CUDA_ARCH__.
#pragma once

namespace think::ptx {

// Has a multiprocessor 228 KiB of shared memory, not 164 or 100?
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1200)
constexpr bool kLargeShared = false;
#else
constexpr bool kLargeShared = true;
#endif

// ---- indices -------------------------------------------------------------------------------------------------------------------------------

THINK_DEVICE int32_t thread_index() { return static_cast<int32_t>(threadIdx.x); }
// x, of which the compiler knows nothing here: what follows from it is computed behind this place, not far ahead, where it would fill the registers.
THINK_DEVICE int32_t opaque(int32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}
// What the compiler cannot know and may rely on.
THINK_DEVICE void assume(bool x) { __builtin_assume(x); }
// A unit that defines THINK_OPAQUE_LANES has kernels of so many paths that the addresses of all of them, computed far ahead, would fill the registers: there
// the compiler knows nothing of a lane, and what follows from it is computed where it is needed.
#if defined(THINK_OPAQUE_LANES)
THINK_DEVICE int32_t lane_index() { return opaque(static_cast<int32_t>(threadIdx.x & 31)); }
#else
THINK_DEVICE int32_t lane_index() { return static_cast<int32_t>(threadIdx.x & 31); }
#endif
THINK_DEVICE int32_t warp_index() { return static_cast<int32_t>(threadIdx.x >> 5); }
THINK_DEVICE int32_t block_threads() { return static_cast<int32_t>(blockDim.x); }
THINK_DEVICE int32_t block_x() { return static_cast<int32_t>(blockIdx.x); }
THINK_DEVICE int32_t block_y() { return static_cast<int32_t>(blockIdx.y); }
THINK_DEVICE int32_t block_z() { return static_cast<int32_t>(blockIdx.z); }
THINK_DEVICE int32_t grid_x() { return static_cast<int32_t>(gridDim.x); }
THINK_DEVICE int32_t grid_y() { return static_cast<int32_t>(gridDim.y); }
THINK_DEVICE int32_t grid_z() { return static_cast<int32_t>(gridDim.z); }

// ---- bits ----------------------------------------------------------------------------------------------------------------------------------

template <class To, class From>
THINK_HOST_DEVICE To bit_copy(const From &from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

THINK_DEVICE float as_float(uint32_t bits) { return __uint_as_float(bits); }
THINK_DEVICE uint32_t as_bits(float value) { return __float_as_uint(value); }
THINK_DEVICE int32_t count_bits(uint32_t bits) { return __popc(bits); }
THINK_DEVICE int32_t leading_zeros(uint32_t bits) { return __clz(static_cast<int>(bits)); }  // 32 for 0
THINK_DEVICE int32_t trailing_zeros(uint32_t bits) { return bits ? __ffs(static_cast<int>(bits)) - 1 : 32; }
// Four bytes of {high, low}, nibble i of the selector names byte i of the result (prmt).
THINK_DEVICE uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) { return __byte_perm(low, high, selector); }

// ---- global memory -------------------------------------------------------------------------------------------------------------------------

THINK_DEVICE uint64_t global_address(const void *pointer) { return static_cast<uint64_t>(__cvta_generic_to_global(pointer)); }

#define THINK_PTX_GLOBAL_LOAD(name, qualifier)                                                                                                      \
  template <class T>                                                                                                                                \
  THINK_DEVICE T name(const T *pointer) {                                                                                                           \
    static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);                                         \
    const uint64_t address = global_address(pointer);                                                                                               \
    if constexpr (sizeof(T) == 16) {                                                                                                                \
      Words4 r;                                                                                                                                     \
      asm volatile("ld.global" qualifier ".v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(address) : "memory"); \
      return bit_copy<T>(r);                                                                                                                        \
    } else if constexpr (sizeof(T) == 8) {                                                                                                          \
      Words2 r;                                                                                                                                     \
      asm volatile("ld.global" qualifier ".v2.b32 {%0, %1}, [%2];" : "=r"(r.x), "=r"(r.y) : "l"(address) : "memory");                               \
      return bit_copy<T>(r);                                                                                                                        \
    } else if constexpr (sizeof(T) == 4) {                                                                                                          \
      uint32_t r;                                                                                                                                   \
      asm volatile("ld.global" qualifier ".b32 %0, [%1];" : "=r"(r) : "l"(address) : "memory");                                                     \
      return bit_copy<T>(r);                                                                                                                        \
    } else if constexpr (sizeof(T) == 2) {                                                                                                          \
      uint16_t r;                                                                                                                                   \
      asm volatile("ld.global" qualifier ".b16 %0, [%1];" : "=h"(r) : "l"(address) : "memory");                                                     \
      return bit_copy<T>(r);                                                                                                                        \
    } else {                                                                                                                                        \
      uint32_t r;                                                                                                                                   \
      asm volatile("ld.global" qualifier ".u8 %0, [%1];" : "=r"(r) : "l"(address) : "memory");                                                      \
      return bit_copy<T>(static_cast<uint8_t>(r));                                                                                                  \
    }                                                                                                                                               \
  }

THINK_PTX_GLOBAL_LOAD(load_global, "")                     // cached in L1
THINK_PTX_GLOBAL_LOAD(load_constant, ".nc")                // cached in L1, for data that nobody writes while the kernel runs (with
                                                           // Launch::overlap: nor its predecessor)
THINK_PTX_GLOBAL_LOAD(load_stream, ".nc.L1::no_allocate")  // the same, read once: leaves L1 alone
THINK_PTX_GLOBAL_LOAD(load_l2, ".cg")                      // past L1: data that other blocks of this launch have stored
#undef THINK_PTX_GLOBAL_LOAD

#define THINK_PTX_GLOBAL_STORE(name, qualifier)                                                                                                \
  template <class T>                                                                                                                           \
  THINK_DEVICE void name(T *pointer, Same<T> value) {                                                                                          \
    static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);                                    \
    const uint64_t address = global_address(pointer);                                                                                          \
    if constexpr (sizeof(T) == 16) {                                                                                                           \
      const Words4 r = bit_copy<Words4>(value);                                                                                                \
      asm volatile("st.global" qualifier ".v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(r.x), "r"(r.y), "r"(r.z), "r"(r.w) : "memory"); \
    } else if constexpr (sizeof(T) == 8) {                                                                                                     \
      const Words2 r = bit_copy<Words2>(value);                                                                                                \
      asm volatile("st.global" qualifier ".v2.b32 [%0], {%1, %2};" ::"l"(address), "r"(r.x), "r"(r.y) : "memory");                             \
    } else if constexpr (sizeof(T) == 4) {                                                                                                     \
      asm volatile("st.global" qualifier ".b32 [%0], %1;" ::"l"(address), "r"(bit_copy<uint32_t>(value)) : "memory");                          \
    } else if constexpr (sizeof(T) == 2) {                                                                                                     \
      asm volatile("st.global" qualifier ".b16 [%0], %1;" ::"l"(address), "h"(bit_copy<uint16_t>(value)) : "memory");                          \
    } else {                                                                                                                                   \
      asm volatile("st.global" qualifier ".u8 [%0], %1;" ::"l"(address), "r"(static_cast<uint32_t>(bit_copy<uint8_t>(value))) : "memory");     \
    }                                                                                                                                          \
  }

THINK_PTX_GLOBAL_STORE(store_global, "")
THINK_PTX_GLOBAL_STORE(store_stream, ".cs")  // written once, not read again soon
#undef THINK_PTX_GLOBAL_STORE

// A hint, never a fault: brings the line of `pointer` into L2.
THINK_DEVICE void prefetch_l2(const void *pointer) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global_address(pointer))); }

// Relaxed at gpu scope is not enough for the ways in which kernels use these, so both sides order memory: acq_rel.
THINK_DEVICE uint32_t atomic_add(uint32_t *pointer, uint32_t value) {
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(global_address(pointer)), "r"(value) : "memory");
  return old;
}
THINK_DEVICE int32_t atomic_add(int32_t *pointer, int32_t value) {
  return static_cast<int32_t>(atomic_add(reinterpret_cast<uint32_t *>(pointer), static_cast<uint32_t>(value)));
}
THINK_DEVICE uint32_t atomic_max(uint32_t *pointer, uint32_t value) {
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.max.u32 %0, [%1], %2;" : "=r"(old) : "l"(global_address(pointer)), "r"(value) : "memory");
  return old;
}
// Adds 1, or goes back to 0 when the old value is `last` or more. Returns the old value.
THINK_DEVICE uint32_t atomic_increment_wrap(uint32_t *pointer, uint32_t last) {
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(old) : "l"(global_address(pointer)), "r"(last) : "memory");
  return old;
}

// ---- shared memory -------------------------------------------------------------------------------------------------------------------------

// A typed place in the block's dynamic shared memory: arithmetic in elements, no dereference.
template <class T>
struct Shared {
  uint32_t address;  // in the shared window

  THINK_HOST_DEVICE Shared operator+(int32_t count) const { return {address + static_cast<uint32_t>(count) * static_cast<uint32_t>(sizeof(T))}; }
  // The same bytes seen as another type.
  template <class U>
  THINK_HOST_DEVICE Shared<U> as() const {
    return {address};
  }
};

template <class T>
THINK_HOST_DEVICE Shared<T> make_shared(uint32_t address, uint32_t) {
  return {address};
}

THINK_DEVICE uint32_t shared_base() {
  extern __shared__ __align__(128) unsigned char think_dynamic_shared[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(think_dynamic_shared));
}

template <class T>
THINK_DEVICE T load_shared(Shared<T> from) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  if constexpr (sizeof(T) == 16) {
    Words4 r;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "r"(from.address) : "memory");
    return bit_copy<T>(r);
  } else if constexpr (sizeof(T) == 8) {
    Words2 r;
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(r.x), "=r"(r.y) : "r"(from.address) : "memory");
    return bit_copy<T>(r);
  } else if constexpr (sizeof(T) == 4) {
    uint32_t r;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(r) : "r"(from.address) : "memory");
    return bit_copy<T>(r);
  } else if constexpr (sizeof(T) == 2) {
    uint16_t r;
    asm volatile("ld.shared.b16 %0, [%1];" : "=h"(r) : "r"(from.address) : "memory");
    return bit_copy<T>(r);
  } else {
    uint32_t r;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(r) : "r"(from.address) : "memory");
    return bit_copy<T>(static_cast<uint8_t>(r));
  }
}

template <class T>
THINK_DEVICE void store_shared(Shared<T> to, Same<T> value) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  if constexpr (sizeof(T) == 16) {
    const Words4 r = bit_copy<Words4>(value);
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to.address), "r"(r.x), "r"(r.y), "r"(r.z), "r"(r.w) : "memory");
  } else if constexpr (sizeof(T) == 8) {
    const Words2 r = bit_copy<Words2>(value);
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(to.address), "r"(r.x), "r"(r.y) : "memory");
  } else if constexpr (sizeof(T) == 4) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to.address), "r"(bit_copy<uint32_t>(value)) : "memory");
  } else if constexpr (sizeof(T) == 2) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(to.address), "h"(bit_copy<uint16_t>(value)) : "memory");
  } else {
    asm volatile("st.shared.u8 [%0], %1;" ::"r"(to.address), "r"(static_cast<uint32_t>(bit_copy<uint8_t>(value))) : "memory");
  }
}

// Any type in the bytes of words. For the compiler an ordinary read: what is not used of it is not loaded.
template <class T>
THINK_DEVICE T read_shared(Shared<Words2> from) {
  static_assert(sizeof(T) % sizeof(Words2) == 0 && alignof(T) <= alignof(Words2));
  return *static_cast<const T *>(__cvta_shared_to_generic(from.address));
}

// ---- asynchronous copies -------------------------------------------------------------------------------------------------------------------

// Copies Bytes (4, 8 or 16; both addresses aligned to it) from global to shared memory while the thread goes on. Only the first `valid` bytes are
// read, the rest becomes zero; with valid = 0 the source is not touched at all. 16-byte copies go past L1.
// The data are there for this thread after its cp_async_wait, for its warp after sync_warp() too, for its block after sync_block() too.
template <int32_t Bytes, class T>
THINK_DEVICE void cp_async_zfill(Shared<T> to, const void *from, int32_t valid) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to.address), "l"(global_address(from)), "r"(valid) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to.address), "l"(global_address(from)), "n"(Bytes), "r"(valid) : "memory");
  }
}
template <int32_t Bytes, class T>
THINK_DEVICE void cp_async(Shared<T> to, const void *from) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to.address), "l"(global_address(from)) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to.address), "l"(global_address(from)), "n"(Bytes) : "memory");
  }
}
// Only where `condition` holds, without a branch. Of 16 bytes.
template <class T>
THINK_DEVICE void cp_async_if(bool condition, Shared<T> to, const void *from) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %2, 0; @p cp.async.cg.shared.global.L2::128B [%0], [%1], 16; }" ::"r"(to.address), "l"(global_address(from)),
               "r"(static_cast<int32_t>(condition))
               : "memory");
}
// Closes a group of this thread's copies; an empty group counts too.
THINK_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `Pending` of this thread's newest groups are under way.
template <int32_t Pending>
THINK_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// ---- barriers and warp collectives ---------------------------------------------------------------------------------------------------------

// Orders shared and global memory among the 32 lanes. No other warp function orders memory.
THINK_DEVICE void sync_warp() { __syncwarp(); }
THINK_DEVICE void sync_block() { __syncthreads(); }
// sync_block() that also gives every thread the OR of all arguments.
THINK_DEVICE bool sync_block_or(bool value) { return __syncthreads_or(value) != 0; }
// A barrier of `threads` threads (whole warps) under one of the names 1..15.
THINK_DEVICE void sync_named(int32_t name, int32_t threads) { asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory"); }

// 32-bit values. All lanes in `mask` must call; reading a lane outside of it is undefined.
template <class T>
THINK_DEVICE T shuffle(T value, int32_t from_lane, uint32_t mask = kAllLanes) {
  static_assert(sizeof(T) == 4);
  return bit_copy<T>(__shfl_sync(mask, bit_copy<uint32_t>(value), from_lane));
}
template <class T>
THINK_DEVICE T shuffle_xor(T value, int32_t lanes, uint32_t mask = kAllLanes) {
  static_assert(sizeof(T) == 4);
  return bit_copy<T>(__shfl_xor_sync(mask, bit_copy<uint32_t>(value), lanes));
}
// From lane + distance, or lane - distance; a lane without such a partner keeps its own value.
template <class T>
THINK_DEVICE T shuffle_down(T value, int32_t distance, uint32_t mask = kAllLanes) {
  static_assert(sizeof(T) == 4);
  return bit_copy<T>(__shfl_down_sync(mask, bit_copy<uint32_t>(value), static_cast<unsigned>(distance)));
}
template <class T>
THINK_DEVICE T shuffle_up(T value, int32_t distance, uint32_t mask = kAllLanes) {
  static_assert(sizeof(T) == 4);
  return bit_copy<T>(__shfl_up_sync(mask, bit_copy<uint32_t>(value), static_cast<unsigned>(distance)));
}
THINK_DEVICE uint32_t ballot(bool value, uint32_t mask = kAllLanes) { return __ballot_sync(mask, value); }
THINK_DEVICE bool any(bool value, uint32_t mask = kAllLanes) { return __any_sync(mask, value) != 0; }
THINK_DEVICE bool all(bool value, uint32_t mask = kAllLanes) { return __all_sync(mask, value) != 0; }

// ---- matrices ------------------------------------------------------------------------------------------------------------------------------

// N = 1, 2 or 4 matrices of 8 x 8 16-bit elements. Lane 8 i + r gives the address of row r of matrix i (16 bytes, aligned; the lanes from 8 N on give
// none). Lane l = 4 g + t gets of each matrix elements (g, 2t) and (g, 2t+1); transposed: (2t, g) and (2t+1, g).
template <int32_t N, class T>
THINK_DEVICE void ldmatrix(uint32_t (&fragment)[N], Shared<T> row) {
  static_assert(N == 1 || N == 2 || N == 4);
  if constexpr (N == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(row.address)
                 : "memory");
  } else if constexpr (N == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(fragment[0]), "=r"(fragment[1]) : "r"(row.address) : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(fragment[0]) : "r"(row.address) : "memory");
  }
}
template <int32_t N, class T>
THINK_DEVICE void ldmatrix_trans(uint32_t (&fragment)[N], Shared<T> row) {
  static_assert(N == 1 || N == 2 || N == 4);
  if constexpr (N == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(row.address)
                 : "memory");
  } else if constexpr (N == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1])
                 : "r"(row.address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(fragment[0]) : "r"(row.address) : "memory");
  }
}
// Transposes an 8 x 8 matrix of 16-bit elements that the warp holds as ldmatrix gives it.
THINK_DEVICE uint32_t movmatrix_trans(uint32_t fragment) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(fragment));
  return transposed;
}
// See the layout at mma() in ptx.cuh.
template <class T>
THINK_DEVICE void mma(float (&acc)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  static_assert(sizeof(T) == 2);
  if constexpr (IsF16<T>::value) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

// ---- numbers -------------------------------------------------------------------------------------------------------------------------------

THINK_DEVICE float to_float(float value) { return value; }
THINK_DEVICE float to_float(F16 value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
}
THINK_DEVICE float to_float(BF16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }

// Rounds to nearest even; T is F16, BF16 or float.
template <class T>
THINK_DEVICE T from_float(float value) {
  if constexpr (sizeof(T) == 4) {
    return value;
  } else {
    T narrow;
    if constexpr (IsF16<T>::value) {
      asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
    } else {
      asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
    }
    return narrow;
  }
}

// Packed pairs of F16 or BF16, `low` in the low half.
template <class T>
THINK_DEVICE uint32_t pack(float low, float high) {
  uint32_t pair;
  if constexpr (IsF16<T>::value) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
}
template <class T>
THINK_DEVICE uint32_t pack(T low, T high) {
  return static_cast<uint32_t>(high.bits) << 16 | low.bits;
}
template <class T>
THINK_DEVICE Float2 unpack(uint32_t pair) {
  return {to_float(T{static_cast<uint16_t>(pair)}), to_float(T{static_cast<uint16_t>(pair >> 16)})};
}

// a * b + c on pairs, one rounding.
template <class T>
THINK_DEVICE uint32_t fma2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  if constexpr (IsF16<T>::value) {
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  } else {
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  }
  return d;
}
// bf16 has no add, sub and mul before sm_90; the fma with 1, -1 or -0 rounds alike.
template <class T>
THINK_DEVICE uint32_t add2(uint32_t a, uint32_t b) {
  if constexpr (!IsF16<T>::value) return fma2<T>(a, 0x3f803f80u, b);
  uint32_t d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
template <class T>
THINK_DEVICE uint32_t sub2(uint32_t a, uint32_t b) {
  if constexpr (!IsF16<T>::value) return fma2<T>(b, 0xbf80bf80u, a);
  uint32_t d;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
template <class T>
THINK_DEVICE uint32_t mul2(uint32_t a, uint32_t b) {
  if constexpr (!IsF16<T>::value) return fma2<T>(a, b, 0x80008000u);
  uint32_t d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
// A NaN loses against a number.
template <class T>
THINK_DEVICE uint32_t max2(uint32_t a, uint32_t b) {
  uint32_t d;
  if constexpr (IsF16<T>::value) {
    asm("max.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  } else {
    asm("max.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  }
  return d;
}
template <class T>
THINK_DEVICE uint32_t min2(uint32_t a, uint32_t b) {
  uint32_t d;
  if constexpr (IsF16<T>::value) {
    asm("min.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  } else {
    asm("min.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  }
  return d;
}

// Fast f32 functions, about 2 units in the last place; subnormal arguments and results are flushed to zero. exp2_fast(-inf) = 0.
THINK_DEVICE float exp2_fast(float value) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}
THINK_DEVICE float log2_fast(float value) {
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}
THINK_DEVICE float reciprocal_fast(float value) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}
THINK_DEVICE float rsqrt_fast(float value) {
  float result;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

// ---- between launches ----------------------------------------------------------------------------------------------------------------------

// With Launch::overlap a kernel may start before its predecessor in the stream has ended: everything before this call reads nothing that the
// predecessor writes, and writes nothing that it touches. Without it, and before sm_90, it does nothing.
THINK_DEVICE void wait_for_previous_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next launch may start now (when it was launched with `overlap`); what this one stores stays invisible to it until its wait.
THINK_DEVICE void allow_next_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace think::ptx
