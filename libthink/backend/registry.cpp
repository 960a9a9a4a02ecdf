#include "libthink/backend/registry.h"

namespace think {

uint32_t backends_available() { return 1u << THINK_DEVICE_CPU; }

const char *backend_reason(think_device device) {
  switch (device) {
    case THINK_DEVICE_CPU: return "available";
    case THINK_DEVICE_CUDA: return "this build has no CUDA backend";
    default: return "this library has no backend for this kind of device";
  }
}

}  // namespace think
