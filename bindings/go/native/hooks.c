#include "_cgo_export.h"
#include "hooks.h"

int32_t think_go_write(void *user, const void *data, int64_t bytes) { return thinkGoWrite((uintptr_t)user, (void *)data, bytes); }
int64_t think_go_read(void *user, void *data, int64_t bytes) { return thinkGoRead((uintptr_t)user, data, bytes); }
void think_go_log(void *user, int32_t level, const char *message) { thinkGoLog((uintptr_t)user, level, (char *)message); }
void *think_go_allocate_hook(void *user, size_t bytes, size_t alignment) { return thinkGoAllocate((uintptr_t)user, bytes, alignment); }
void think_go_deallocate_hook(void *user, void *memory, size_t bytes, size_t alignment) { thinkGoDeallocate((uintptr_t)user, memory, bytes, alignment); }
void think_go_parallel_for(void *user, int64_t count, think_task task, void *arg) { thinkGoParallelFor((uintptr_t)user, count, task, arg); }
void think_go_task(think_task task, void *arg, int64_t index) { task(arg, index); }
