// The select stage once more, by sorting: what the counting version is compared with.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "select.h"

namespace think::select::reference {

void budgets(const Budgets &arguments, const double *gains, int32_t *kept) {
  const int32_t blocks = arguments.channels / arguments.step, floor_blocks = arguments.floor / arguments.step;
  const int32_t heads = arguments.layers * arguments.kv_heads;
  for (int32_t sequence = 0; sequence < arguments.batch; ++sequence) {
    std::vector<double> worth(static_cast<size_t>(heads) * blocks);
    for (int32_t layer = 0; layer < arguments.layers; ++layer) {
      const double *layer_gains =
          gains + (static_cast<int64_t>(layer) * arguments.batch + sequence) * arguments.kv_heads * arguments.channels;
      const double total = std::accumulate(layer_gains, layer_gains + arguments.kv_heads * arguments.channels, 0.0);
      for (int32_t head = 0; head < arguments.kv_heads; ++head) {
        for (int32_t b = 0; b < blocks; ++b) {
          const double *gain = layer_gains + head * arguments.channels + b * arguments.step;
          double sum = std::accumulate(gain, gain + arguments.step, 0.0);
          if (arguments.normalise) sum = total > 0 ? sum / total : 0;
          double &now = worth[(static_cast<size_t>(layer) * arguments.kv_heads + head) * blocks + b];
          now = b > 0 ? std::min(sum, (&now)[-1]) : sum;
        }
      }
    }
    // The floor comes first, whatever it gains.
    for (int32_t head = 0; head < heads; ++head) {
      for (int32_t b = 0; b < floor_blocks; ++b) worth[static_cast<size_t>(head) * blocks + b] = INFINITY;
    }
    std::vector<int32_t> order(worth.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return worth[a] > worth[b]; });
    order.resize(std::clamp<int64_t>(arguments.total / arguments.step, static_cast<int64_t>(heads) * floor_blocks,
                                     static_cast<int64_t>(order.size())));
    std::vector<int32_t> width(heads, 0);
    for (const int32_t block : order) width[block / blocks] += arguments.step;
    for (int32_t layer = 0; layer < arguments.layers; ++layer) {
      std::copy_n(&width[static_cast<size_t>(layer) * arguments.kv_heads], arguments.kv_heads,
                  kept + (static_cast<int64_t>(layer) * arguments.batch + sequence) * arguments.kv_heads);
    }
  }
}

void select(int32_t channels, const float *score, int32_t kept, Pairs pairs, int32_t *index) {
  std::vector<std::vector<int32_t>> units;  // channels that stay or go together
  for (int32_t i = 0; i < (pairs == Pairs::none ? channels : channels / 2); ++i) {
    if (pairs == Pairs::none) units.push_back({i});
    if (pairs == Pairs::halves) units.push_back({i, i + channels / 2});
    if (pairs == Pairs::interleaved) units.push_back({2 * i, 2 * i + 1});
  }
  const auto value = [&](const std::vector<int32_t> &unit) {
    float sum = score[unit[0]];
    if (unit.size() > 1) sum += score[unit[1]];
    return std::isnan(sum) ? INFINITY : sum;
  };
  std::stable_sort(units.begin(), units.end(), [&](const auto &a, const auto &b) { return value(a) > value(b); });
  std::vector<int32_t> order;
  for (const auto &unit : units) order.insert(order.end(), unit.begin(), unit.end());
  std::sort(order.begin(), order.begin() + kept);
  std::sort(order.begin() + kept, order.end());
  std::copy(order.begin(), order.end(), index);
}

}  // namespace think::select::reference
