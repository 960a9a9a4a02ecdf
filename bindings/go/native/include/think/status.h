/**
 * @file think/status.h
 * @brief Status codes and the error record that every fallible call can fill.
 */
#ifndef THINK_STATUS_H
#define THINK_STATUS_H

#include "version.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Result of every fallible call. New codes may be added: treat an unknown one as a failure. */
typedef int32_t think_status;

#define THINK_OK 0
#define THINK_E_ARGUMENT 1    /* a wrong argument: error.argument is its position, counted from 1 */
#define THINK_E_UNSUPPORTED 2 /* well-formed, but not on this backend, device or build; the message says why */
#define THINK_E_WORKSPACE 3   /* workspace missing, too small or misaligned; the message has both sizes */
#define THINK_E_MEMORY 4      /* an allocation failed */
#define THINK_E_DEVICE 5      /* the device reported an error: error.native_code holds it */
#define THINK_E_STATE 6       /* not now: the call is right, its moment is not */
#define THINK_E_FORMAT 7      /* stored data are damaged or of another version */
#define THINK_E_IO 8          /* a file could not be read or written */
#define THINK_E_INTERNAL 9    /* a bug in the library: please report it */

/**
 * What went wrong. Owned by the caller, usually on its stack; nothing is allocated and nothing is to be freed.
 *
 * Of a record that is passed in, only struct_size is read. A call that succeeds leaves it untouched, a call that fails fills it. Messages name the
 * argument by its full path ("segments[2].key_basis->kept"), what was expected and what was found.
 *
 * Outputs of a call are untouched by THINK_E_ARGUMENT, THINK_E_UNSUPPORTED, THINK_E_WORKSPACE and THINK_E_STATE. After THINK_E_MEMORY,
 * THINK_E_DEVICE and THINK_E_INTERNAL they are undefined.
 *
 * The same holds for every struct of this library: struct_size below that of version 0.9, or above 4096, is THINK_E_ARGUMENT; a larger struct than this
 * build knows is accepted as long as the part that it does not know is zero, and THINK_E_UNSUPPORTED otherwise. Unknown flags and reserved fields that
 * are not zero are THINK_E_ARGUMENT.
 */
typedef struct think_error {
  uint32_t struct_size; /* sizeof(think_error) */
  uint32_t flags;       /* 0 */
  think_status code;    /* the status that was returned */
  int32_t argument;     /* position of the offending argument, counted from 1; 0 = none in particular */
  int32_t native_code;  /* error of the device's own interface; 0 = none */
  char message[256];    /* ends with 0 */
  int32_t reserved;     /* 0 */
} think_error;

/** A record ready to be passed. */
#define THINK_ERROR_INIT {(uint32_t)sizeof(think_error), 0, 0, 0, 0, {0}, 0}

/**
 * Clear `error` and set its size: what THINK_ERROR_INIT does, for languages without macros. NULL is ignored. Any thread.
 * @param struct_size  sizeof(think_error) as the caller was compiled
 * @since 0.9
 */
THINK_API void think_error_init(think_error *error, uint32_t struct_size);

/**
 * Name of a status ("THINK_E_ARGUMENT"); "unknown status" for a code that this build does not know. Static text. Any thread.
 * @since 0.9
 */
THINK_API const char *think_status_name(think_status status);

#ifdef __cplusplus
}
#endif
#endif
