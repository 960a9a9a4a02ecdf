// Rows of a sequence at full width, segment by segment.
#include <algorithm>

#include "kernels/rebuild/rebuild.h"
#include "libthink/cache/cache.h"

namespace think::cache {

void export_rows(const think_cache &cache, int32_t number, int32_t layer, int64_t first, int64_t count, const think_tensor *key, const think_tensor *value) {
  const Sequence &sequence = cache.sequences[number];
  Lists lists(cache);
  const Rows dense_lists = dense_rows(lists, sequence);
  Rows compact_lists[THINK_CACHE_MAX_RUNS];
  for (int32_t run = 0; run < sequence.run_count; ++run) compact_lists[run] = compact_rows(lists, sequence.runs[run]);
  lists.send();
  // Rows [begin, begin + rows) of the sequence are rows from `place` on of the segment.
  const auto part = [&](const think_segment &segment, int64_t begin, int64_t rows, int64_t place) {
    const int64_t from = std::max(first, begin), end = std::min(first + count, begin + rows);
    if (from >= end) return;
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      const think_tensor *tensor = side == THINK_KEYS ? key : value;
      if (!tensor) continue;
      think_tensor target = *tensor;
      target.data = const_cast<char *>(element(*tensor, 0, 0, from - first));
      const rebuild::Arguments arguments{cache.plan->shape, segment, kOneSequence, side, place + from - begin, end - from, target};
      if (Device *device = cache.device) {
        run(*device, [&](const cuda::Backend &backend) { return backend.rebuild(arguments, device->stream); });
      } else {
        rebuild::rebuild(arguments);
      }
    }
  };
  const think_segment dense = dense_segment(cache, layer, dense_lists);
  const int64_t sinks = sequence.run_count > 0 ? cache.prune.sinks : sequence.dense_rows;
  part(dense, 0, sinks, 0);
  int64_t begin = sinks;
  for (int32_t index = 0; index < sequence.run_count; ++index) {
    const Run &run = sequence.runs[index];
    part(compact_segment(cache, layer, run.kind, compact_lists[index]), begin, run.rows, 0);
    begin += run.rows;
  }
  part(dense, begin, sequence.dense_rows - sinks, sinks);
}

}  // namespace think::cache
