#include "libthink/core/shared_options.h"

#include <cmath>

namespace think {
namespace {

constexpr float kDefaultShare = 0.9f, kDefaultRidge = 1e-3f;

template <class T>
T or_default(T value, T otherwise) {
  return value == 0 ? otherwise : value == -1 ? 0 : value;
}

}  // namespace

think_status read_count(const Argument &argument, const char *field, int32_t value, int32_t otherwise, int32_t &count) {
  if (value < -1) return wrong(argument, field, "expected at least -1, got %d", value);
  count = or_default(value, otherwise);
  return THINK_OK;
}

think_status read_attention_share(const Argument &argument, float value, float &share) {
  const bool fits = value == -1 || (value >= 0 && value <= 1);
  if (!fits) return wrong(argument, "attention_share", "expected -1 or 0 .. 1, got %s", NumberText(value).text);
  share = or_default(value, kDefaultShare);
  return THINK_OK;
}

think_status read_ridge(const Argument &argument, float value, float &ridge) {
  const bool fits = value == -1 || (value >= 0 && std::isfinite(value));
  if (!fits) return wrong(argument, "ridge", "expected -1 or a finite number of at least 0, got %s", NumberText(value).text);
  ridge = or_default(value, kDefaultRidge);
  return THINK_OK;
}

}  // namespace think
