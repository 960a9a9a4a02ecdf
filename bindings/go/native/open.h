/* Opens libthink.so.1 at run time, so that a binding can be built, and say what is wrong, without one. Include it once, after think/api.h; table.h then
 * makes calls by name go through think_table. */
#ifndef THINK_OPEN_H
#define THINK_OPEN_H

#include <dlfcn.h>
#include <stdio.h>
#include "think/api.h"

static const think_api *think_table;

/* Open the library `path`, which stays loaded. Returns 0, or -1 with the reason in `text`. */
static int think_open(const char *path, char *text, size_t capacity) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *reason = dlerror();
    return snprintf(text, capacity, "cannot load %s: %s", path, reason ? reason : "no reason was given"), -1;
  }
  think_get_api_function get;
  *(void **)&get = dlsym(library, "think_get_api");
  if (!get) return snprintf(text, capacity, "%s is no libthink: it has no think_get_api()", path), -1;
  const think_api *table = get(THINK_ABI_MAJOR, sizeof *table);
  if (!table) {
    int32_t (*generation)(void);
    *(void **)&generation = dlsym(library, "think_abi_version");
    return snprintf(text, capacity, "%s has ABI %d, this binding needs ABI %d", path, generation ? generation() : 0, THINK_ABI_MAJOR), -1;
  }
  if (table->struct_size < sizeof *table)
    return snprintf(text, capacity, "%s is version %s, this binding needs %d.%d or newer", path, table->version_string(), THINK_VERSION_MAJOR,
                    THINK_VERSION_MINOR), -1;
  think_table = table;
  return 0;
}

#endif
