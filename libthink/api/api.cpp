// The function table of think/api.h. Table, symbol map and this file all come from libthink/abi/functions.def, so they cannot drift apart.
#include "think/api.h"

#include <string_view>

namespace {

constexpr think_api table = {
    static_cast<uint32_t>(sizeof(think_api)),
    THINK_ABI_MAJOR,
#define THINK_FUNCTION(name, since) &name,
#include "libthink/abi/functions.def"
#undef THINK_FUNCTION
};

// The shortest table that a caller of this ABI generation can have been compiled with.
constexpr std::string_view first_version = "0.9";
constexpr uint32_t first_size = offsetof(think_api, version)
#define THINK_FUNCTION(name, since) +(first_version == #since ? sizeof(void (*)()) : 0)
#include "libthink/abi/functions.def"
#undef THINK_FUNCTION
    ;
static_assert(first_size <= sizeof(think_api));

}  // namespace

extern "C" const think_api *think_get_api(uint32_t abi_major, uint32_t table_size) {
  return abi_major == THINK_ABI_MAJOR && table_size >= first_size ? &table : nullptr;
}
