#include "libthink/backend/registry.h"

#include <cstdio>

#include "libthink/backend/cuda_loader.h"

namespace think {

uint32_t backends_available() {
  uint32_t available = 1u << THINK_DEVICE_CPU;
  if (cuda::find_backend().backend) available |= 1u << THINK_DEVICE_CUDA;
  return available;
}

BackendReason backend_reason(think_device device) {
  BackendReason reason{};
  switch (device) {
    case THINK_DEVICE_CPU: std::snprintf(reason.text, sizeof reason.text, "available"); break;
    case THINK_DEVICE_CUDA: {
      const cuda::Search search = cuda::find_backend();
      if (search.backend) {
        std::snprintf(reason.text, sizeof reason.text, "available: %d device%s, kernels for sm_%s; so far %s", search.devices,
                      search.devices > 1 ? "s" : "", search.backend->architectures, search.backend->stages);
      } else {
        std::snprintf(reason.text, sizeof reason.text, "%s", search.reason);
      }
      break;
    }
    default: std::snprintf(reason.text, sizeof reason.text, "this library has no backend for this kind of device"); break;
  }
  return reason;
}

}  // namespace think
