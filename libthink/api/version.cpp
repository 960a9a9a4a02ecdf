#include "think/version.h"

#define THINK_TEXT_OF(number) #number
#define THINK_TEXT(number) THINK_TEXT_OF(number)

extern "C" {

int32_t think_version(void) { return THINK_VERSION_MAJOR * 10000 + THINK_VERSION_MINOR * 100 + THINK_VERSION_PATCH; }

int32_t think_abi_version(void) { return THINK_ABI_MAJOR; }

const char *think_version_string(void) {
  return THINK_TEXT(THINK_VERSION_MAJOR) "." THINK_TEXT(THINK_VERSION_MINOR) "." THINK_TEXT(THINK_VERSION_PATCH);
}

}  // extern "C"
