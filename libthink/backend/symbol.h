// A function of a library that is opened at run time.
#pragma once

#include <dlfcn.h>

#include <cstring>

namespace think {

// Into `function`; false where the library has none of that name.
template <class Function>
bool find_symbol(void *library, const char *name, Function &function) {
  void *symbol = ::dlsym(library, name);
  std::memcpy(&function, &symbol, sizeof function);
  return symbol != nullptr;
}

}  // namespace think
