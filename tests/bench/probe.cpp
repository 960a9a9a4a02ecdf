#include "probe.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "measure.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace think::bench {

namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
// What a thread reads in one go: four streams with a prefetch a little ahead, the fastest of the simple loops that were tried; one stream without
// prefetch was up to 20 % slower on that machine.
constexpr int64_t kBlock = kProbeBlock, kStreams = 4, kAhead = 1024, kStep = 256;

// Everything read is folded into this, so that no load can be left out.
std::atomic<uint64_t> sink{0};

#if defined(__x86_64__)

__attribute__((target("avx512f"))) uint64_t read_512(const char *data, int64_t bytes) {
  __m512i sum[kStreams] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  const int64_t part = bytes / kStreams;
  for (int64_t i = 0; i < part; i += kStep) {
    for (int64_t s = 0; s < kStreams; ++s) {
      const char *at = data + s * part + i;
      for (int64_t line = 0; line < kStep; line += 64) {
        _mm_prefetch(at + kAhead + line, _MM_HINT_T1);
        sum[s] = _mm512_xor_si512(sum[s], _mm512_load_si512(at + line));
      }
    }
  }
  alignas(64) uint64_t words[8];
  _mm512_store_si512(words, _mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3])));
  return words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4] ^ words[5] ^ words[6] ^ words[7];
}

__attribute__((target("avx2"))) uint64_t read_256(const char *data, int64_t bytes) {
  __m256i sum[kStreams] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
  const int64_t part = bytes / kStreams;
  for (int64_t i = 0; i < part; i += kStep) {
    for (int64_t s = 0; s < kStreams; ++s) {
      const char *at = data + s * part + i;
      for (int64_t line = 0; line < kStep; line += 64) {
        _mm_prefetch(at + kAhead + line, _MM_HINT_T1);
        sum[s] = _mm256_xor_si256(sum[s], _mm256_load_si256(reinterpret_cast<const __m256i *>(at + line)));
        sum[s] = _mm256_xor_si256(sum[s], _mm256_load_si256(reinterpret_cast<const __m256i *>(at + line + 32)));
      }
    }
  }
  alignas(32) uint64_t words[4];
  _mm256_store_si256(reinterpret_cast<__m256i *>(words), _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3])));
  return words[0] ^ words[1] ^ words[2] ^ words[3];
}

#endif

typedef uint64_t Words __attribute__((vector_size(16), aligned(16)));

uint64_t read_128(const char *data, int64_t bytes) {
  Words sum[kStreams] = {};
  const int64_t part = bytes / kStreams;
  for (int64_t i = 0; i < part; i += kStep) {
    for (int64_t s = 0; s < kStreams; ++s) {
      const char *at = data + s * part + i;
      for (int64_t line = 0; line < kStep; line += 64) {
        __builtin_prefetch(at + kAhead + line, 0, 2);
        for (int64_t word = 0; word < 64; word += 16) sum[s] ^= *reinterpret_cast<const Words *>(at + line + word);
      }
    }
  }
  const Words all = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
  return all[0] ^ all[1];
}

using Read = uint64_t (*)(const char *, int64_t);

Read best_read() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return read_512;
  if (__builtin_cpu_supports("avx2")) return read_256;
#endif
  return read_128;
}

}  // namespace

Arena::Arena(int64_t bytes) : bytes_((bytes + kBlock - 1) / kBlock * kBlock) {
  // A little more than promised: kernels may prefetch behind the end, and odd layouts are rounded up.
  const int64_t all = bytes_ + kHugePage;
  data_ = static_cast<char *>(std::aligned_alloc(kHugePage, static_cast<size_t>(all)));
  if (!data_) throw std::bad_alloc();
  madvise(data_, static_cast<size_t>(all), MADV_HUGEPAGE);
  // Bits 0x3800 .. 0x3bff with any sign: 0.5 .. 1 as f16, 3e-5 .. 8e-3 as bf16; two of them are an f32 of that size.
  auto *numbers = reinterpret_cast<uint16_t *>(data_);
  constexpr int64_t kPattern = (int64_t{1} << 20) - 6;  // not a power of two, so that rows and tiles differ
  uint64_t state = 88172645463325252ull;
  for (int64_t i = 0; i < kPattern / 2; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    numbers[i] = static_cast<uint16_t>(0x3800 | (state & 0x83ff));
  }
  for (int64_t done = kPattern; done < all;) {
    const int64_t piece = all - done < done ? all - done : done;
    std::memcpy(data_ + done, data_, static_cast<size_t>(piece));
    done += piece;
  }
}

Arena::~Arena() { std::free(data_); }

double probe_seconds_per_byte(const Arena &arena, const Parallel &parallel) {
  const Read read = best_read();
  const int64_t blocks = arena.bytes() / kBlock;
  return seconds_of([&] {
    parallel_for(parallel, blocks, [&](int64_t block) { sink.fetch_xor(read(arena.data() + block * kBlock, kBlock), std::memory_order_relaxed); });
  }) / static_cast<double>(blocks * kBlock);
}

double cached_probe_rate(const Arena &arena, int64_t bytes, int32_t threads) {
  const Read read = best_read();
  const int64_t whole = bytes / (kStreams * kStep) * (kStreams * kStep);
  return cached_rate(threads, static_cast<double>(whole), 5, [&](int32_t thread) {
    sink.fetch_xor(read(arena.data() + thread * kBlock, whole), std::memory_order_relaxed);
  });
}

}  // namespace think::bench
