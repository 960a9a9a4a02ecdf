// What the kernels of gains share: the head of a block, the order by score, the best channel, and the rules of pivots and gains.
#pragma once

#include "../common/device.cuh"
#include "cuda.h"

namespace think::moments::cuda {
namespace {

using namespace ptx;

struct GainsCall {
  const char *moments;
  int64_t slot_bytes, head_floats;
  int32_t covariance, metric;  // floats from the head's first; metric < 0 = identity, the best channel first
  const int32_t *slot;
  const float *score;
  float *gains;
  int32_t *order;  // may be NULL
  double *left;    // [sequence of the wave][head][channels][channels], of more than 128 channels: columns by score, or values that are left
  int32_t kv_heads, channels;
  int32_t first_sequence;  // of this wave
};

// Grid (sequences, KV heads).
struct GainsHead {
  const float *covariance, *metric, *score;
  float *gains;
  int32_t *order;
};

THINK_DEVICE GainsHead gains_head(const GainsCall &call) {
  const int32_t sequence = call.first_sequence + block_x();
  const int64_t first = (static_cast<int64_t>(sequence) * call.kv_heads + block_y()) * call.channels;
  const float *state =
      reinterpret_cast<const float *>(call.moments + device::slot_of(call.slot, sequence) * call.slot_bytes) + block_y() * call.head_floats;
  return {state + call.covariance, state + call.metric, call.score + first, call.gains + first, call.order ? call.order + first : nullptr};
}

// Channels from the best score to the worst: equal scores in the order of the channels, NaN as +inf. By a thread for each channel.
THINK_DEVICE void rank(Shared<int32_t> order, const float *score, int32_t channels) {
  const int32_t own = thread_index();
  const auto value_of = [&](int32_t channel) { return device::nan_to_infinity(load_constant(score + channel)); };
  if (own >= channels) return;
  const float value = value_of(own);
  int32_t before = 0;
  for (int32_t other = 0; other < channels; ++other) {
    const float rival = value_of(other);
    before += rival > value || (rival == value && other < own);
  }
  store_shared(order + before, own);
}

struct Best {
  double worth;
  int32_t channel;
};

// The best of `channels` worths, the lowest channel of equal ones; -1 marks those that are out. Each warp finds it for itself.
THINK_DEVICE Best choose(Shared<double> worths, int32_t channels) {
  Best best = {-1, channels};
  for (int32_t channel = lane_index(); channel < channels; channel += 32) {
    const double worth = load_shared(worths + channel);
    if (worth > best.worth) best = {worth, channel};
  }
  for (int32_t distance = 16; distance > 0; distance /= 2) {
    const Best other = {device::shuffle_wide(best.worth, [&](uint32_t half) { return shuffle_xor(half, distance); }), shuffle_xor(best.channel, distance)};
    if (other.worth > best.worth || (other.worth == best.worth && other.channel < best.channel)) best = other;
  }
  return best;
}

// May a channel be eliminated? Not when rounding is all that is left of its variance, nor when that is NaN.
THINK_DEVICE bool is_alive(double variance, double first) { return variance > 1e-6 * first; }

THINK_DEVICE void store_step(const GainsHead &head, int32_t step, int32_t channel, double gain) {
  if (head.order) store_global(head.order + step, channel);
  store_global(head.gains + step, gain > 0 ? static_cast<float>(gain) : 0.0f);
}

}  // namespace
}  // namespace think::moments::cuda
