// Everything together, as a decode kernel uses it: rings of cp.async, swizzled tiles, ldmatrix, mma with the keys as M operand, movmatrix, an online softmax
// per warp, and the last block that reduces. One KV head with eight query heads; keys lie in tiles [tile][kept][32 tokens], values in rows.
#include <cmath>
#include <random>

#include "run_kernel.h"

namespace think::simt_test {
namespace {

constexpr int32_t kTokens = 32, kHeads = 8, kValues = 64, kPaddedKept = 32, kWarps = 2, kStages = 2;
constexpr int32_t kPartial = kValues + 2;  // output, maximum, sum

struct Decode {
  const F16 *query;    // [head][kPaddedKept], zero behind kept, scaled for exp2
  const F16 *keys;     // [tile][kept][kTokens]
  const F16 *values;   // [token][kValues]
  float *partial;      // [warp of the grid][head][kPartial]
  float *out;          // [head][kValues]
  uint32_t *arrived;
  int32_t kept, tokens;
};

// The 16-byte chunk `chunk` of row `row`, placed so that eight rows of a matrix never meet in a bank.
THINK_DEVICE int32_t key_place(int32_t row, int32_t chunk) { return row * 4 + (chunk ^ (row >> 1 & 3)); }
THINK_DEVICE int32_t value_place(int32_t row, int32_t chunk) { return row * 8 + (chunk ^ (row & 7)); }

THINK_DEVICE void fetch(const Decode &d, Shared<Words4> keys, Shared<Words4> values, int32_t tile) {
  for (int32_t i = lane_index(); i < kPaddedKept * 4; i += 32) {
    const int32_t row = i / 4, chunk = i % 4;
    const bool there = row < d.kept;
    cp_async_zfill<16>(keys + key_place(row, chunk), there ? d.keys + (tile * d.kept + row) * kTokens + chunk * 8 : d.keys, there ? 16 : 0);
  }
  for (int32_t i = lane_index(); i < kTokens * 8; i += 32) {
    const int32_t token = tile * kTokens + i / 8, chunk = i % 8;
    const bool there = token < d.tokens;  // zero, not what lies there: 0 * NaN is NaN
    cp_async_zfill<16>(values + value_place(i / 8, chunk), there ? d.values + token * kValues + chunk * 8 : d.values, there ? 16 : 0);
  }
}

__global__ void __launch_bounds__(kWarps * 32) decode(const Decode d) {
  SharedCarver carver = shared_memory();
  const Shared<Words4> all_keys = carver.take<Words4>(kWarps * kStages * kPaddedKept * 4, 128);
  const Shared<Words4> all_values = carver.take<Words4>(kWarps * kStages * kTokens * 8, 128);
  const int32_t lane = lane_index(), g = lane / 4, t = lane % 4, matrix = lane / 8, row = lane % 8;
  const int32_t tiles = (d.tokens + kTokens - 1) / kTokens, first = block_x() * kWarps + warp_index(), step = grid_x() * kWarps;
  const auto stage_of = [&](int32_t round) { return warp_index() * kStages + round % kStages; };
  const auto keys_of = [&](int32_t round) { return all_keys + stage_of(round) * kPaddedKept * 4; };
  const auto values_of = [&](int32_t round) { return all_values + stage_of(round) * kTokens * 8; };

  uint32_t query[2][2];
  for (int32_t k = 0; k < 2; ++k) {
    for (int32_t half = 0; half < 2; ++half) {
      query[k][half] = load_constant(static_cast<const uint32_t *>(static_cast<const void *>(d.query + g * kPaddedKept + k * 16 + half * 8 + t * 2)));
    }
  }
  float out[4][4] = {}, maximum[2] = {-1e30f, -1e30f}, sum[2] = {};
  if (first < tiles) fetch(d, keys_of(0), values_of(0), first);
  cp_async_commit();
  for (int32_t tile = first, round = 0; tile < tiles; tile += step, ++round) {
    if (tile + step < tiles) fetch(d, keys_of(round + 1), values_of(round + 1), tile + step);
    cp_async_commit();
    cp_async_wait<1>();
    sync_warp();
    float score[2][4] = {};
    for (int32_t m = 0; m < 2; ++m) {
      for (int32_t k = 0; k < 2; ++k) {
        uint32_t a[4];
        ldmatrix_trans<4>(a, keys_of(round) + key_place(k * 16 + matrix / 2 * 8 + row, m * 2 + matrix % 2));
        mma<F16>(score[m], a, query[k]);
      }
    }
    for (int32_t head = 0; head < 2; ++head) {
      float largest = maximum[head];
      for (int32_t m = 0; m < 2; ++m) {
        for (int32_t half = 0; half < 2; ++half) {
          if (tile * kTokens + m * 16 + half * 8 + g >= d.tokens) score[m][half * 2 + head] = -INFINITY;
          largest = fmaxf(largest, score[m][half * 2 + head]);
        }
      }
      for (int32_t distance = 4; distance < 32; distance *= 2) largest = fmaxf(largest, shuffle_xor(largest, distance));
      const float scale = exp2_fast(maximum[head] - largest);
      maximum[head] = largest;
      sum[head] *= scale;
      for (int32_t j = 0; j < 4; ++j) out[j][head] *= scale, out[j][2 + head] *= scale;
      for (int32_t m = 0; m < 2; ++m) {
        for (int32_t half = 0; half < 2; ++half) {
          float &p = score[m][half * 2 + head];
          p = exp2_fast(p - largest);
          sum[head] += p;
        }
      }
    }
    for (int32_t m = 0; m < 2; ++m) {
      const uint32_t p[2] = {movmatrix_trans(pack<F16>(score[m][0], score[m][1])), movmatrix_trans(pack<F16>(score[m][2], score[m][3]))};
      for (int32_t j = 0; j < 4; ++j) {
        uint32_t a[4];
        ldmatrix_trans<4>(a, values_of(round) + value_place(m * 16 + matrix / 2 * 8 + row, j * 2 + matrix % 2));
        mma<F16>(out[j], a, p);
      }
    }
    sync_warp();  // the stage may be filled again
  }
  cp_async_wait<0>();
  float *partial = d.partial + (block_x() * kWarps + warp_index()) * kHeads * kPartial;
  for (int32_t head = 0; head < 2; ++head) {
    for (int32_t distance = 4; distance < 32; distance *= 2) sum[head] += shuffle_xor(sum[head], distance);
    float *of_head = partial + (t * 2 + head) * kPartial;
    for (int32_t j = 0; j < 4; ++j) {
      store_global(of_head + j * 16 + g, out[j][head]);
      store_global(of_head + j * 16 + 8 + g, out[j][2 + head]);
    }
    if (g == 0) {
      store_global(of_head + kValues, maximum[head]);
      store_global(of_head + kValues + 1, sum[head]);
    }
  }
  if (!last_block(d.arrived, static_cast<uint32_t>(grid_x()))) return;
  for (int32_t head = 0; head < kHeads; ++head) {
    float largest = -1e30f, total = 0.0f, value = 0.0f;
    for (int32_t p = 0; p < grid_x() * kWarps; ++p) largest = fmaxf(largest, load_l2(d.partial + (p * kHeads + head) * kPartial + kValues));
    for (int32_t p = 0; p < grid_x() * kWarps; ++p) {
      const float *from = d.partial + (p * kHeads + head) * kPartial;
      const float scale = exp2_fast(load_l2(from + kValues) - largest);
      total += scale * load_l2(from + kValues + 1);
      value += scale * load_l2(from + thread_index());
    }
    store_global(d.out + head * kValues + thread_index(), value / total);
  }
}

uint32_t shared_bytes() {
  SharedCarver carver;
  carver.take<Words4>(kWarps * kStages * kPaddedKept * 4, 128);
  carver.take<Words4>(kWarps * kStages * kTokens * 8, 128);
  return carver.bytes();
}

void check(int32_t tokens, int32_t kept, int32_t blocks) {
  SCOPED_TRACE(std::to_string(tokens) + " tokens, " + std::to_string(kept) + " kept, " + std::to_string(blocks) + " blocks");
  std::mt19937 random(static_cast<uint32_t>(tokens * 31 + kept));
  std::normal_distribution<float> normal;
  const int32_t tiles = (tokens + kTokens - 1) / kTokens;
  const F16 poison = {0x7fff};
  std::vector<F16> query(kHeads * kPaddedKept), keys(static_cast<size_t>(tiles * kept * kTokens), poison), values(static_cast<size_t>(tokens * kValues));
  for (int32_t head = 0; head < kHeads; ++head) {
    for (int32_t c = 0; c < kept; ++c) query[head * kPaddedKept + c] = from_float<F16>(normal(random) * 0.4f);
  }
  for (int32_t token = 0; token < tokens; ++token) {
    for (int32_t c = 0; c < kept; ++c) keys[(token / kTokens * kept + c) * kTokens + token % kTokens] = from_float<F16>(normal(random));
  }
  for (F16 &x : values) x = from_float<F16>(normal(random));

  std::vector<double> expected(kHeads * kValues);
  for (int32_t head = 0; head < kHeads; ++head) {
    double total = 0;
    std::vector<double> sum(kValues);
    for (int32_t token = 0; token < tokens; ++token) {
      double score = 0;
      for (int32_t c = 0; c < kept; ++c) {
        score += static_cast<double>(to_float(query[head * kPaddedKept + c])) * to_float(keys[(token / kTokens * kept + c) * kTokens + token % kTokens]);
      }
      const double p = std::exp2(score);
      total += p;
      for (int32_t v = 0; v < kValues; ++v) sum[v] += p * to_float(values[token * kValues + v]);
    }
    for (int32_t v = 0; v < kValues; ++v) expected[head * kValues + v] = sum[v] / total;
  }

  Buffer<F16> q("query", query), k("keys", keys), v("values", values);
  q.freeze(), k.freeze(), v.freeze();
  std::vector<float> first;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Buffer<float> partial("partial", static_cast<size_t>(blocks * kWarps * kHeads * kPartial)), out("out", kHeads * kValues);
    Buffer<uint32_t> arrived("arrived", std::vector<uint32_t>(1));
    const Decode d = {q.device(), k.device(), v.device(), partial.device(), out.device(), arrived.device(), kept, tokens};
    EXPECT_NO_FAULT(run_kernel({.blocks = blocks, .threads = kWarps * 32, .shared_bytes = shared_bytes()}, seed, decode, d));
    if (machine().fault()) return;
    const std::vector<float> result = out.download();
    for (size_t i = 0; i < result.size(); ++i) ASSERT_NEAR(result[i], expected[i], 2e-3) << i;
    if (seed == 0) first = result;
    EXPECT_EQ(result, first) << "seed " << seed;  // the same bits whatever the order
    // Every stored byte is read once.
    EXPECT_EQ(k.read_bytes(), static_cast<uint64_t>(tiles * kept * kTokens * 2));
    EXPECT_EQ(v.read_bytes(), static_cast<uint64_t>(tokens * kValues * 2));
    EXPECT_EQ(partial.write_bytes(), partial.bytes());
    EXPECT_EQ(machine().total().bank_conflicts, 0u) << machine().launches()[0].text();
  }
}

TEST(Decode, IsRightDeterministicAndReadsEveryByteOnce) {
  for (int32_t tokens : {1, 31, 32, 33, 200, 1000}) {
    for (int32_t kept : {1, 13, 32}) check(tokens, kept, 3);
  }
  check(500, 24, 1);
  check(500, 24, 8);
}

}  // namespace
}  // namespace think::simt_test
