#pragma once
#include "threads.h"
#include <cstdint>
#include <vector>
#include <cmath>
#include <algorithm>
namespace generate {
struct CacheShape { int64_t layers, query_heads, kv_heads, channels, max_tokens, max_queries; };
struct Rows { const float *data; int64_t stride; };
class Cache {
public:
  Cache(const CacheShape &s, ThreadPool &p) : s_(s), pool_(p), k_(s.layers), v_(s.layers) {}
  int64_t tokens() const { return tokens_; }
  void advance(int64_t n) { tokens_ += n; }
  void attend(int64_t l, Rows q, Rows k, Rows v, int64_t n, float *out) {
    int64_t D = s_.channels, W = s_.kv_heads * D, T = tokens_ + n, G = s_.query_heads / s_.kv_heads;
    k_[l].resize(T * W); v_[l].resize(T * W);
    for (int64_t i = 0; i < n; ++i) { std::copy_n(k.data + i * k.stride, W, &k_[l][(tokens_ + i) * W]); std::copy_n(v.data + i * v.stride, W, &v_[l][(tokens_ + i) * W]); }
    pool_.run(s_.query_heads, [&](int64_t h) {
      std::vector<float> z(T);
      for (int64_t i = 0; i < n; ++i) {
        int64_t N = tokens_ + i + 1; const float *x = q.data + i * q.stride + h * D; float m = -1e30f;
        for (int64_t t = 0; t < N; ++t) { const float *kk = &k_[l][t * W + h / G * D]; float a = 0; for (int j = 0; j < D; ++j) a += x[j] * kk[j]; z[t] = a / std::sqrt((float)D); m = std::max(m, z[t]); }
        double sum = 0; for (int64_t t = 0; t < N; ++t) { z[t] = std::exp(z[t] - m); sum += z[t]; }
        float *o = out + (i * s_.query_heads + h) * D; std::fill_n(o, D, 0.f);
        for (int64_t t = 0; t < N; ++t) { float p = z[t] / sum; const float *vv = &v_[l][t * W + h / G * D]; for (int j = 0; j < D; ++j) o[j] += p * vv[j]; }
      }
    });
  }
private:
  CacheShape s_; ThreadPool &pool_; int64_t tokens_ = 0; std::vector<std::vector<float>> k_, v_;
};
}
