/* What the wrappers of think_wrap.c call the library through: the table of a library that is opened at the first call, or, with the build tag think_link, the
 * library that the program is linked with. */
#ifndef THINK_GO_GLUE_H
#define THINK_GO_GLUE_H

#include <stdint.h>
#include <string.h>

#include "think/api.h"

/* Is there a library? Opens it where that was not tried before. Any thread. */
int think_go_ready(void);
/* Why there is none. */
const char *think_go_reason(void);
/* The record of a failed call, as the address of a copy that errors.go releases; 0 = it did not fail. */
int64_t think_go_failure(think_status status, const think_error *record);
/* The same for a call without a library. */
int64_t think_go_absent(void);
void think_go_release(think_error *record);
/* Zeroed memory at a multiple of 64 bytes for free(); NULL = there is none. */
void *think_go_allocate(size_t bytes);

#ifndef THINK_GO_LINK
extern const think_api *think_go_table;
#define think_table think_go_table
#include "table.h"
#endif

#ifdef THINK_GO_CALLS
void think_go_note(const char *function);
/* Functions that were called so far, NULL after the last one. */
const char *think_go_called(int at);
#define THINK_GO_NOTE(function) think_go_note(function)
#else
#define THINK_GO_NOTE(function)
#endif

#endif
