// The choice of the evict stage by sorting all rows: what the fast version is compared with.
#include <algorithm>
#include <cmath>
#include <vector>

#include "evict.h"
#include "think/evict.h"

namespace think::evict::reference {

int32_t choose(const Choice &choice, int32_t *kept) {
  std::vector<int32_t> rows;
  if (choice.tokens <= choice.budget) {
    for (int64_t t = 0; t < choice.tokens; ++t) rows.push_back(static_cast<int32_t>(t));
  } else {
    const int64_t first = std::min(choice.sinks, choice.budget), last = std::min(choice.recent, choice.budget - first);
    const int64_t end = choice.tokens - last, reach = choice.kernel / 2;
    for (int64_t t = 0; t < first; ++t) rows.push_back(static_cast<int32_t>(t));
    for (int64_t t = end; t < choice.tokens; ++t) rows.push_back(static_cast<int32_t>(t));
    std::vector<double> score(choice.tokens);
    std::vector<int32_t> order;
    for (int64_t t = first; t < end && choice.score; ++t) {
      double largest = -INFINITY, sum = 0;
      for (int64_t near = t - reach; near <= t + reach; ++near) {
        if (near < first || near >= end) continue;
        const double value = std::isnan(choice.score[near]) ? INFINITY : choice.score[near];
        largest = std::max(largest, value);
        sum += value;
      }
      const double mean = std::isnan(sum) ? INFINITY : sum / choice.kernel;
      score[t] = choice.pooling == THINK_POOL_MEAN ? static_cast<float>(mean) : largest;
      order.push_back(static_cast<int32_t>(t));
    }
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return score[a] > score[b]; });
    order.resize(std::min<size_t>(order.size(), choice.budget - first - last));
    rows.insert(rows.end(), order.begin(), order.end());
    std::sort(rows.begin(), rows.end());
  }
  std::copy(rows.begin(), rows.end(), kept);
  return static_cast<int32_t>(rows.size());
}

}  // namespace think::evict::reference
