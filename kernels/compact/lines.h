// Registers seen as 128-bit lanes, and the few instructions a transposition needs: per instruction set, like kernels/common/simd_*.h.
//
//   Line, kLaneCount                a register and its number of 128-bit lanes
//   gather_lanes(at, step, offset)  lane l = 16 bytes at at[l * step] + offset
//   scatter_lanes(at, step, offset, line)  the other way round
//   low16 high16 low32 ... (a, b)   interleave the lower or upper halves of each lane, in units of 16, 32, 64 bits
//   kGatherBytes, gather_numbers    so many bytes of a row, or the first `bytes` of them, in the order that cpu.h describes
//   stream_line, can_stream         a store past the caches, where the instruction set has one
//   copy_lines, copy_out            a copy of registers, of any bytes
#pragma once

#include "../common/simd.h"
#include "cpu.h"

namespace think::compact {
namespace {

#if defined(THINK_ISA_UNIT_AVX512)

using Line = __m512i;
constexpr int kLaneCount = 4;

inline __m128i load16(const char *p) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(p)); }
inline Line gather_lanes(const char *const *at, int step, int64_t offset) {
  // Masked broadcasts merge a lane while loading it, without the shuffle port that the transposition needs.
  Line line = _mm512_castsi128_si512(load16(at[0] + offset));
  line = _mm512_mask_broadcast_i32x4(line, 0x00f0, load16(at[step] + offset));
  line = _mm512_mask_broadcast_i32x4(line, 0x0f00, load16(at[2 * step] + offset));
  return _mm512_mask_broadcast_i32x4(line, 0xf000, load16(at[3 * step] + offset));
}
inline void scatter_lanes(char *const *at, int step, int64_t offset, Line line) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(at[0] + offset), _mm512_castsi512_si128(line));
  _mm_storeu_si128(reinterpret_cast<__m128i *>(at[step] + offset), _mm512_extracti32x4_epi32(line, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i *>(at[2 * step] + offset), _mm512_extracti32x4_epi32(line, 2));
  _mm_storeu_si128(reinterpret_cast<__m128i *>(at[3 * step] + offset), _mm512_extracti32x4_epi32(line, 3));
}
inline Line load_line(const char *p) { return _mm512_loadu_si512(p); }
inline void store_line(char *p, Line line) { _mm512_storeu_si512(p, line); }
inline Line low16(Line a, Line b) { return _mm512_unpacklo_epi16(a, b); }
inline Line high16(Line a, Line b) { return _mm512_unpackhi_epi16(a, b); }
inline Line low32(Line a, Line b) { return _mm512_unpacklo_epi32(a, b); }
inline Line high32(Line a, Line b) { return _mm512_unpackhi_epi32(a, b); }
inline Line low64(Line a, Line b) { return _mm512_unpacklo_epi64(a, b); }
inline Line high64(Line a, Line b) { return _mm512_unpackhi_epi64(a, b); }

#elif defined(THINK_ISA_UNIT_AVX2)

using Line = __m256i;
constexpr int kLaneCount = 2;

inline __m128i load16(const char *p) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(p)); }
inline Line gather_lanes(const char *const *at, int step, int64_t offset) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(at[0] + offset)), load16(at[step] + offset), 1);
}
inline void scatter_lanes(char *const *at, int step, int64_t offset, Line line) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(at[0] + offset), _mm256_castsi256_si128(line));
  _mm_storeu_si128(reinterpret_cast<__m128i *>(at[step] + offset), _mm256_extracti128_si256(line, 1));
}
inline Line load_line(const char *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
inline void store_line(char *p, Line line) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), line); }
inline Line low16(Line a, Line b) { return _mm256_unpacklo_epi16(a, b); }
inline Line high16(Line a, Line b) { return _mm256_unpackhi_epi16(a, b); }
inline Line low32(Line a, Line b) { return _mm256_unpacklo_epi32(a, b); }
inline Line high32(Line a, Line b) { return _mm256_unpackhi_epi32(a, b); }
inline Line low64(Line a, Line b) { return _mm256_unpacklo_epi64(a, b); }
inline Line high64(Line a, Line b) { return _mm256_unpackhi_epi64(a, b); }

#else  // 128 bits: GCC's generic vectors become the zip or unpack instructions of the target

typedef uint16_t Line __attribute__((vector_size(16)));
typedef uint32_t Line32 __attribute__((vector_size(16)));
typedef uint64_t Line64 __attribute__((vector_size(16)));
constexpr int kLaneCount = 1;

inline Line load_line(const char *p) {
  Line line;
  __builtin_memcpy(&line, p, sizeof line);
  return line;
}
inline void store_line(char *p, Line line) { __builtin_memcpy(p, &line, sizeof line); }
inline Line gather_lanes(const char *const *at, int, int64_t offset) { return load_line(at[0] + offset); }
inline void scatter_lanes(char *const *at, int, int64_t offset, Line line) { store_line(at[0] + offset, line); }
inline Line low16(Line a, Line b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
inline Line high16(Line a, Line b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
inline Line low32(Line a, Line b) {
  return reinterpret_cast<Line>(__builtin_shufflevector(reinterpret_cast<Line32>(a), reinterpret_cast<Line32>(b), 0, 4, 1, 5));
}
inline Line high32(Line a, Line b) {
  return reinterpret_cast<Line>(__builtin_shufflevector(reinterpret_cast<Line32>(a), reinterpret_cast<Line32>(b), 2, 6, 3, 7));
}
inline Line low64(Line a, Line b) {
  return reinterpret_cast<Line>(__builtin_shufflevector(reinterpret_cast<Line64>(a), reinterpret_cast<Line64>(b), 0, 2));
}
inline Line high64(Line a, Line b) {
  return reinterpret_cast<Line>(__builtin_shufflevector(reinterpret_cast<Line64>(a), reinterpret_cast<Line64>(b), 1, 3));
}

#endif

#if defined(THINK_ISA_UNIT_AVX512) || defined(THINK_ISA_UNIT_AVX2)

#if defined(THINK_ISA_UNIT_AVX512)
constexpr int kGatherBytes = 64;
template <int kBytes>
inline void gather_numbers(char *to, const char *from, const uint8_t *order, int64_t bytes) {
  const Line numbers = bytes >= kGatherBytes ? load_line(from) : _mm512_maskz_loadu_epi16((1u << bytes / 2) - 1, from);
  const Line places = load_line(reinterpret_cast<const char *>(order));
  store_line(to, kBytes == 2 ? _mm512_permutexvar_epi16(places, numbers) : _mm512_permutexvar_epi32(places, numbers));
}
#else
constexpr int kGatherBytes = 16;
template <int kBytes>
inline void gather_numbers(char *to, const char *from, const uint8_t *order, int64_t) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm_shuffle_epi8(load16(from), load16(reinterpret_cast<const char *>(order))));
}
#endif
inline void stream_line(char *to, Line line) {
#if defined(THINK_ISA_UNIT_AVX512)
  _mm512_stream_si512(reinterpret_cast<Line *>(to), line);
#else
  _mm256_stream_si256(reinterpret_cast<Line *>(to), line);
#endif
}
inline bool can_stream(const char *to, bool wanted) { return wanted && reinterpret_cast<uintptr_t>(to) % sizeof(Line) == 0; }
inline void finish_stream() { _mm_sfence(); }

#else

#if defined(THINK_ISA_UNIT_NEON)
constexpr int kGatherBytes = 16;
template <int kBytes>
inline void gather_numbers(char *to, const char *from, const uint8_t *order, int64_t) {
  vst1q_u8(reinterpret_cast<uint8_t *>(to), vqtbl1q_u8(vld1q_u8(reinterpret_cast<const uint8_t *>(from)), vld1q_u8(order)));
}
#else
constexpr int kGatherBytes = 0;
#endif
inline void stream_line(char *to, Line line) { store_line(to, line); }
inline bool can_stream(const char *, bool) { return false; }
inline void finish_stream() {}

#endif

// A fixed number of registers. (As a memcpy() GCC would make it a string instruction, which is slow for so few bytes.)
template <int kCount>
inline void copy_lines(char *to, const char *from, bool stream) {
  constexpr int kStep = 4;
  static_assert(kCount % kStep == 0);
  for (int at = 0; at < kCount; at += kStep) {
    Line x[kStep];
    for (int i = 0; i < kStep; ++i) x[i] = load_line(from + (at + i) * sizeof(Line));
    for (int i = 0; i < kStep; ++i) stream ? stream_line(to + (at + i) * sizeof(Line), x[i]) : store_line(to + (at + i) * sizeof(Line), x[i]);
  }
}

inline void copy_out(char *to, const char *from, int64_t bytes, bool stream) {
  int64_t i = 0;
  if (can_stream(to, stream)) {
    for (; i + static_cast<int64_t>(sizeof(Line)) <= bytes; i += sizeof(Line)) stream_line(to + i, load_line(from + i));
  }
  if (i < bytes) __builtin_memcpy(to + i, from + i, bytes - i);
}

// 8 x 8 numbers of 16 bits in each lane, transposed: line i, number j <-> line j, number i.
inline void transpose16(Line (&x)[8]) {
  Line a[8], b[8];
  for (int i = 0; i < 4; ++i) a[2 * i] = low16(x[2 * i], x[2 * i + 1]), a[2 * i + 1] = high16(x[2 * i], x[2 * i + 1]);
  for (int i = 0; i < 2; ++i) {
    for (int half = 0; half < 2; ++half) {
      b[4 * i + 2 * half] = low32(a[4 * i + half], a[4 * i + half + 2]);
      b[4 * i + 2 * half + 1] = high32(a[4 * i + half], a[4 * i + half + 2]);
    }
  }
  for (int i = 0; i < 4; ++i) x[2 * i] = low64(b[i], b[i + 4]), x[2 * i + 1] = high64(b[i], b[i + 4]);
}

// 4 x 4 numbers of 32 bits in each lane.
inline void transpose32(Line (&x)[4]) {
  const Line a = low32(x[0], x[1]), b = high32(x[0], x[1]), c = low32(x[2], x[3]), d = high32(x[2], x[3]);
  x[0] = low64(a, c), x[1] = high64(a, c), x[2] = low64(b, d), x[3] = high64(b, d);
}

// How numbers of 2 or 4 bytes are transposed: 16 bytes of a row hold kCount of them, and a register the same channel of kCount tokens per lane.
template <int kBytes>
struct Unit {
  static constexpr int kCount = kChunkBytes / kBytes;
  static constexpr int kTokens = kCount * kLaneCount;  // of one register
  static constexpr int kRowBytes = kTileTokens * kBytes;  // of one channel in a tile
  static inline void transpose(Line (&x)[kCount]) {
    if constexpr (kBytes == 2) {
      transpose16(x);
    } else {
      transpose32(x);
    }
  }
};

}  // namespace
}  // namespace think::compact
