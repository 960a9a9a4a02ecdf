#include "think/status.h"

#include "libthink/core/structs.h"

extern "C" {

void think_error_init(think_error *error, uint32_t struct_size) {
  const think_error initial = THINK_ERROR_INIT;
  think::init_struct(error, struct_size, initial);
}

const char *think_status_name(think_status status) {
  switch (status) {
    case THINK_OK: return "THINK_OK";
    case THINK_E_ARGUMENT: return "THINK_E_ARGUMENT";
    case THINK_E_UNSUPPORTED: return "THINK_E_UNSUPPORTED";
    case THINK_E_WORKSPACE: return "THINK_E_WORKSPACE";
    case THINK_E_MEMORY: return "THINK_E_MEMORY";
    case THINK_E_DEVICE: return "THINK_E_DEVICE";
    case THINK_E_STATE: return "THINK_E_STATE";
    case THINK_E_FORMAT: return "THINK_E_FORMAT";
    case THINK_E_IO: return "THINK_E_IO";
    case THINK_E_INTERNAL: return "THINK_E_INTERNAL";
    default: return "unknown status";
  }
}

}  // extern "C"
