// A plan as JSON.
#pragma once

#include <cstddef>

#include "libthink/core/plan.h"

namespace think {

// Writes as much as `capacity` allows, always with a final 0 if capacity is not 0; returns the bytes that all of it needs, final 0 included.
size_t describe_plan(const think_plan &plan, char *json, size_t capacity);

}  // namespace think
