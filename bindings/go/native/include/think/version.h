/**
 * @file think/version.h
 * @brief Version of the library and of its ABI, and the macro that marks exported functions.
 */
#ifndef THINK_VERSION_H
#define THINK_VERSION_H

#include <stddef.h>
#include <stdint.h>

/** Version of these headers. The library that runs may be newer: ask think_version(). */
#define THINK_VERSION_MAJOR 0
#define THINK_VERSION_MINOR 11
#define THINK_VERSION_PATCH 0

/**
 * ABI generation: the number in libthink.so.1, and the argument of think_get_api(). Within one generation functions and struct fields are only
 * added, structs grow at their end, and constants keep their values.
 */
#define THINK_ABI_MAJOR 1

#if defined(THINK_STATIC)
#define THINK_API
#else
#define THINK_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Version of the library that is loaded: major * 10000 + minor * 100 + patch. Any thread.
 * @since 0.9
 */
THINK_API int32_t think_version(void);

/**
 * ABI generation of the library that is loaded; equal to THINK_ABI_MAJOR of the headers it was built with. Any thread.
 * @since 0.9
 */
THINK_API int32_t think_abi_version(void);

/**
 * The version as text, for example "0.11.0". The text is static, owned by the library. Any thread.
 * @since 0.9
 */
THINK_API const char *think_version_string(void);

#ifdef __cplusplus
}
#endif
#endif
