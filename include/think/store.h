/**
 * @file think/store.h
 * @brief Sequences of a cache as files: saved with their compact rows and bases, loaded into another cache of the same kind, bit for bit.
 *
 * A file is a stream of bytes that the caller writes and reads: to a file, into memory, through a socket. It is a valid safetensors file, so every loader of
 * that format shows what is in it: "layers.0.dense.key" [kv_heads][rows][channels] (sinks, then recent rows), "layers.0.runs.0.key" [tiles]... as stored
 * (think/segment.h), its basis "layers.0.runs.0.key.kept", ".index", ".fitted", ".offset", ".weight", "layers.0.scores.square_sum", ".window", ".tokens", and
 * "digest"; numbers of the plan, of the cache's options and of the sequence are in its metadata. Version 1 of the format. Little endian.
 */
#ifndef THINK_STORE_H
#define THINK_STORE_H

#include "cache.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Takes `bytes` bytes of a file, which come in order. Returns 0; anything else ends the call with THINK_E_IO and is its error.native_code. */
typedef int32_t (*think_writer)(void *user, const void *data, int64_t bytes);

/**
 * Fills `data` with the next `bytes` bytes of a file and returns how many it has filled: fewer only where the file ends. A negative number ends the call with
 * THINK_E_IO and is its error.native_code.
 */
typedef int64_t (*think_reader)(void *user, void *data, int64_t bytes);

/**
 * Bytes that think_cache_save() writes for a sequence as it is now.
 * @param sequence  0 .. sequences - 1
 * @param bytes     receives the number
 * @return THINK_E_ARGUMENT; THINK_E_STATE as think_cache_save()
 * @since 0.11
 */
THINK_API think_status think_cache_save_size(const think_cache *cache, int32_t sequence, int64_t *bytes, think_error *error);

/**
 * Write a sequence: its rows, compact runs and bases, and the score state if it has one. Rows that forks share are written with each. Nothing
 * is allocated, but on CUDA a copy of the sequence in the host's memory is, for the time of the call.
 * @param sequence  0 .. sequences - 1
 * @param write     called with blocks, in the calling thread; it must not use the cache
 * @param user      handed to write
 * @return THINK_E_ARGUMENT; THINK_E_STATE during a step, when the sequence holds no tokens, or when bases in the slab are not what libthink wrote; THINK_E_IO;
 *         on CUDA also THINK_E_MEMORY and THINK_E_DEVICE
 * @since 0.11
 */
THINK_API think_status think_cache_save(const think_cache *cache, int32_t sequence, think_writer write, void *user, think_error *error);

/**
 * Read a sequence that was saved from a cache with the same problem (heads, channels, window, query_dtype, cache_dtype), layers and their formats, prune mode,
 * widths and sinks. Files are untrusted: everything in them is checked, and what the library cannot know (numbers in rows) can do no worse than give wrong
 * numbers.
 * Exactly one sequence is read, so several can follow each other in one stream. A cache without scores (THINK_CACHE_NO_SCORES) leaves those of the file out; a
 * sequence that was saved without them cannot be pruned.
 * @param sequence  one without tokens; it receives the file's
 * @param read      called often and for few bytes at a time, so it should buffer; in the calling thread; it must not use the cache
 * @param user      handed to read
 * @return THINK_E_ARGUMENT; THINK_E_STATE during a step, or when the sequence holds tokens; THINK_E_FORMAT: not such a file, of another version or another
 *         kind of cache, cut off, damaged; THINK_E_MEMORY; THINK_E_IO. After each of them all sequences are as they were;
 *         pages that were already added stay in the pool.
 * @since 0.11
 */
THINK_API think_status think_cache_load(think_cache *cache, int32_t sequence, think_reader read, void *user, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
