/**
 * @file think/context.h
 * @brief A context: the device, the threads and the host's hooks. Everything else is made on one.
 */
#ifndef THINK_CONTEXT_H
#define THINK_CONTEXT_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A context. Immutable once made, so any number of threads may use it. Plans keep it alive: it may be destroyed before them. */
typedef struct think_context think_context;

/** One task of a parallel loop: called once for every index. */
typedef void (*think_task)(void *arg, int64_t index);

/** Run task(arg, 0) .. task(arg, count - 1) on the host's own threads, in any order, and return when all are done. One after the other is fine. A thread
 *  that runs tasks, as every thread that calls the library, has a stack of at least 256 KiB. */
typedef void (*think_parallel_for)(void *user, int64_t count, think_task task, void *arg);

/** Allocate `bytes` (> 0) at a multiple of `alignment` (a power of two); NULL when there is no memory. */
typedef void *(*think_allocate)(void *user, size_t bytes, size_t alignment);

/** Free what think_allocate returned; bytes and alignment are those of the allocation. */
typedef void (*think_deallocate)(void *user, void *memory, size_t bytes, size_t alignment);

/** A line of text for the host's log. Levels: */
typedef void (*think_log)(void *user, int32_t level, const char *message);

#define THINK_LOG_DEBUG 0
#define THINK_LOG_INFO 1
#define THINK_LOG_WARNING 2

/**
 * How to make a context. All zero (or NULL instead of options) means: CPU, the caller's thread only, malloc, no log.
 *
 * Hooks are called from the thread that called the library, must not throw, and must stay valid until the last plan and cache of the context is gone.
 * allocate and deallocate are given together or not at all; they are used when contexts and plans are made and destroyed and by the functions of a cache
 * (think/cache.h, think/store.h), never by other run calls.
 */
typedef struct think_context_options {
  uint32_t struct_size;         /* sizeof(think_context_options) */
  uint32_t flags;               /* 0 */
  think_device device_type;     /* 0 = THINK_DEVICE_CPU. THINK_DEVICE_CUDA loads libthink_cuda.so.1 */
  int32_t device_index;         /* 0 = the first */
  int32_t threads;              /* CPU: 0 = 1, the caller's own; -1 = one for every core that this process may use; n, at most 1024.
                                   With parallel_for: how many tasks the host runs at the same time, 0 = -1 */
  int32_t reserved;             /* 0 */
  think_parallel_for parallel_for; /* the host's threads; NULL = own threads, started by the first plan if threads asks for more than one */
  think_allocate allocate;      /* NULL = aligned_alloc */
  think_deallocate deallocate;
  think_log log;                /* NULL = silent */
  void *user;                   /* handed to the four hooks */
} think_context_options;

#define THINK_CONTEXT_OPTIONS_INIT {(uint32_t)sizeof(think_context_options), 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL}

/** THINK_CONTEXT_OPTIONS_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_context_options_init(think_context_options *options, uint32_t struct_size);

/**
 * Make a context.
 *
 * The environment variable THINK_CPU_ISA (portable, avx2, avx512, avx512bf16, neon) forces a lower instruction set than the host's best; a name that
 * is unknown or more than the host can do is THINK_E_UNSUPPORTED.
 *
 * THINK_DEVICE_CUDA needs libthink_cuda.so.1 of the same build: in the folder of this library, or where the environment variable THINK_BACKEND_PATH
 * says (the library or its folder; when it is set, nowhere else). It works in the primary context of the device, which the CUDA runtime uses as well.
 *
 * @param options  NULL = defaults
 * @param context  receives the context; destroy it with think_context_destroy()
 * @return THINK_E_ARGUMENT, THINK_E_UNSUPPORTED (a device whose backend is absent: the message says why), THINK_E_MEMORY,
 *         THINK_E_DEVICE (a device that does not open)
 * @since 0.9
 */
THINK_API think_status think_context_create(const think_context_options *options, think_context **context, think_error *error);

/**
 * Give the context up. NULL is ignored. Its plans go on working.
 * @since 0.9
 */
THINK_API void think_context_destroy(think_context *context);

/** Keys of think_query(). New keys may be added; keys that a library does not know are THINK_E_UNSUPPORTED. */
#define THINK_QUERY_VERSION 1          /* think_version() */
#define THINK_QUERY_ABI 2              /* think_abi_version() */
#define THINK_QUERY_DEVICE_TYPE 3      /* device kind of the context */
#define THINK_QUERY_DEVICE_INDEX 4     /* device index of the context */
#define THINK_QUERY_THREADS 5          /* threads that a call may use */
#define THINK_QUERY_ISA 6              /* instruction set in use: THINK_ISA_... */
#define THINK_QUERY_ISA_AVAILABLE 7    /* bit mask, 1 << THINK_ISA_...: what this build and this host can do */
#define THINK_QUERY_BACKENDS 8         /* bit mask, 1 << device kind: backends that can be used now. Loads them and asks their drivers */
#define THINK_QUERY_MAX_CHANNELS 9     /* largest head size */
#define THINK_QUERY_MAX_SEGMENTS 10    /* largest segment_count of think_attend() */

#define THINK_ISA_PORTABLE 0
#define THINK_ISA_AVX2 1       /* AVX2, FMA, F16C */
#define THINK_ISA_AVX512 2     /* AVX-512 F, BW, DQ, VL, and BMI2 */
#define THINK_ISA_AVX512BF16 3 /* the same with BF16, VNNI and VBMI; attend multiplies codes as integers */
#define THINK_ISA_NEON 4       /* AArch64 Advanced SIMD */

/**
 * One fact about the library or a context, as a number.
 * @param context  NULL for what does not depend on one (VERSION, ABI, ISA_AVAILABLE, BACKENDS, MAX_CHANNELS, MAX_SEGMENTS)
 * @param key      THINK_QUERY_...
 * @param value    receives the number
 * @return THINK_E_ARGUMENT, THINK_E_UNSUPPORTED
 * @since 0.9
 */
THINK_API think_status think_query(const think_context *context, int32_t key, int64_t *value, think_error *error);

/**
 * Why a backend can or cannot be used here, as text that begins with "available" if it can: which devices and stages, or what is missing (the library,
 * the driver, a newer driver, a device). Loads the backend and asks its driver, as making a context does; a backend that was found stays loaded.
 * @param device    device kind
 * @param text      receives the text and a final 0, cut to `capacity`; may be NULL when capacity is 0
 * @param capacity  bytes of text
 * @param needed    receives the bytes that the whole text needs, with its final 0; may be NULL
 * @since 0.9
 */
THINK_API think_status think_backend_reason(think_device device, char *text, size_t capacity, size_t *needed, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
