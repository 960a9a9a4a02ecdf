// Puts the emulator in the place of backend and driver before any test runs; the rest of the program does not know.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

namespace {

// Everybody who asks for libcuda.so.1 afterwards gets this one, by its soname.
const bool ready = [] {
  setenv("THINK_BACKEND_PATH", EMULATED_BACKEND, 1);
  if (::dlopen(EMULATED_DRIVER, RTLD_NOW | RTLD_GLOBAL)) return true;
  std::fprintf(stderr, "%s\n", ::dlerror());
  std::abort();
}();

}  // namespace
