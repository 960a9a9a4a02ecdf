/* Functions that the library calls: each goes to the one of the same name in hooks.go. `user` is a cgo.Handle. */
#ifndef THINK_GO_HOOKS_H
#define THINK_GO_HOOKS_H

#include "think/api.h"

int32_t think_go_write(void *user, const void *data, int64_t bytes);
int64_t think_go_read(void *user, void *data, int64_t bytes);
void think_go_log(void *user, int32_t level, const char *message);
void *think_go_allocate_hook(void *user, size_t bytes, size_t alignment);
void think_go_deallocate_hook(void *user, void *memory, size_t bytes, size_t alignment);
void think_go_parallel_for(void *user, int64_t count, think_task task, void *arg);
void think_go_task(think_task task, void *arg, int64_t index);

#endif
