"""The constants of the C interface, THINK_ taken off. Written by bindings/tools/regenerate.sh from think.json: do not edit."""

from typing import Final

# Version of these headers. The library that runs may be newer: ask think_version().
VERSION_MAJOR: Final = 0
VERSION_MINOR: Final = 11
VERSION_PATCH: Final = 0

# ABI generation: the number in libthink.so.1, and the argument of think_get_api(). Within one generation functions and struct fields are only added,
# structs grow at their end, and constants keep their values.
ABI_MAJOR: Final = 1

# Result of every fallible call. New codes may be added: treat an unknown one as a failure.
OK: Final = 0
E_ARGUMENT: Final = 1
"""a wrong argument: error.argument is its position, counted from 1"""
E_UNSUPPORTED: Final = 2
"""well-formed, but not on this backend, device or build; the message says why"""
E_WORKSPACE: Final = 3
"""workspace missing, too small or misaligned; the message has both sizes"""
E_MEMORY: Final = 4
"""an allocation failed"""
E_DEVICE: Final = 5
"""the device reported an error: error.native_code holds it"""
E_STATE: Final = 6
"""not now: the call is right, its moment is not"""
E_FORMAT: Final = 7
"""stored data are damaged or of another version"""
E_IO: Final = 8
"""a file could not be read or written"""
E_INTERNAL: Final = 9
"""a bug in the library: please report it"""

# Element type, bit-identical to DLPack's DLDataType: code | bits << 8 | lanes << 16.
F32: Final = 0x12002
F16: Final = 0x11002
BF16: Final = 0x11004
U8: Final = 0x10801
"""Stored forms of segments in tiles (think/segment.h), never of tensors: 8 or 4 bits, asymmetric."""
U4: Final = 0x10401
U2: Final = 0x10201
"""The same in 2 bits, and floating point in 8 bits: sign, 4 bits of exponent, 3 of fraction, one NaN, no infinity, at most 448."""
F8_E4M3: Final = 0x1080a

# Device kinds, DLPack's numbers.
DEVICE_CPU: Final = 1
DEVICE_CUDA: Final = 2

LOG_DEBUG: Final = 0
LOG_INFO: Final = 1
LOG_WARNING: Final = 2

# Keys of think_query(). New keys may be added; keys that a library does not know are THINK_E_UNSUPPORTED.
QUERY_VERSION: Final = 1
"""think_version()"""
QUERY_ABI: Final = 2
"""think_abi_version()"""
QUERY_DEVICE_TYPE: Final = 3
"""device kind of the context"""
QUERY_DEVICE_INDEX: Final = 4
"""device index of the context"""
QUERY_THREADS: Final = 5
"""threads that a call may use"""
QUERY_ISA: Final = 6
"""instruction set in use: THINK_ISA_..."""
QUERY_ISA_AVAILABLE: Final = 7
"""bit mask, 1 << THINK_ISA_...: what this build and this host can do"""
QUERY_BACKENDS: Final = 8
"""bit mask, 1 << device kind: backends that can be used now. Loads them and asks their drivers"""
QUERY_MAX_CHANNELS: Final = 9
"""largest head size"""
QUERY_MAX_SEGMENTS: Final = 10
"""largest segment_count of think_attend()"""

ISA_PORTABLE: Final = 0
ISA_AVX2: Final = 1
"""AVX2, FMA, F16C"""
ISA_AVX512: Final = 2
"""AVX-512 F, BW, DQ, VL, and BMI2"""
ISA_AVX512BF16: Final = 3
"""the same with BF16, VNNI and VBMI; attend multiplies codes as integers"""
ISA_NEON: Final = 4
"""AArch64 Advanced SIMD"""

# think_attend() cuts a sequence's tokens by its own lengths and the shape alone, so that it has the same bits in every batch and on every device of one
# kind. On a CUDA device that costs workspace and, with few or unequal sequences, time. The CPU does so always.
PROBLEM_BATCH_INVARIANT: Final = 1

# Check the contents of index, length and page arrays before they are used, which are trusted otherwise. For debugging, on the CPU only. It cannot see
# how many slots a score state or moments hold, how many pages a cache has, nor how far head offsets may go: slots are then any, pages and offsets at
# least 0.
LAUNCH_CHECK: Final = 1

# Stages, for think_workspace_size().
STAGE_SCORE: Final = 1
"""think_score_reset, _update, _finish, think_value_score; tokens of the extent = new tokens of a call"""
STAGE_MOMENTS: Final = 2
"""think_moments, think_gains"""
STAGE_SELECT: Final = 3
"""think_budgets (up to 256 layers in steps of 8), think_select"""
STAGE_FIT: Final = 4
"""think_fit"""
STAGE_COMPACT: Final = 5
"""think_compact, think_segment_place"""
STAGE_ATTEND: Final = 6
"""think_attend, think_merge"""
STAGE_PRUNE: Final = 7
"""think_prune"""
STAGE_EVICT: Final = 8
"""think_evict; think_evict_move needs none"""

# Sides of the cache.
KEYS: Final = 0
VALUES: Final = 1

# Layouts of one side of a segment.
ROWS: Final = 0
"""[token][channel], one row of kept (or all) channels per token"""
TILES: Final = 1
"""keys: [tile of 32 tokens][kept channel][32 tokens]; values: quantized ones only, see below"""

# At most one segment of think_attend() is causal. Its length includes the new rows: query i of n sees its first length - n + i + 1 rows.
SEGMENT_CAUSAL: Final = 1
SEGMENT_MEASURE: Final = 2
"""Destination of think_compact() only: key_scale and value_scale (where given, of F8 sides) are written first, from the rows that move. A scale is the least power of two by which the largest finite number is at most 224, half of what a code can be, so that rows which come later have room; 1 where all are 0. Bounded as below. Not in slices. think_prune() always does it."""

# Methods. The mass of a row is the sum of the softmax weights that the window's queries of the group give it, with the plan's scale and soft cap, over
# all rows of the sequence. SNAPKV the mass, pooled over neighbouring rows; the window's own rows are always kept H2O masses of all calls added up in
# `score`, which the caller keeps; or scores of the caller's own, when window_query is NULL WINDOW the mass of this call alone, not pooled: what ThinK's
# reference code calls H2O TOVA the weights of the last query alone RECENT the first rows (sinks) and the last ones; no queries, no scores A list of the
# caller's own making needs none of them: hand it to think_evict_move().
EVICT_SNAPKV: Final = 0
EVICT_H2O: Final = 1
EVICT_WINDOW: Final = 2
EVICT_TOVA: Final = 3
EVICT_RECENT: Final = 4

# How neighbouring scores are pooled. Rows outside of those that can be chosen are no neighbours; the mean divides by `kernel` everywhere.
POOL_MAX: Final = 0
POOL_MEAN: Final = 1

# One score per query head instead of the sum over the group: what the paper's reference code ranks.
SCORE_QUERY_HEADS: Final = 1

# Divide the gains by their sum over the layer first. For values over several layers, whose gains do not compare otherwise.
BUDGET_NORMALISE: Final = 1

# Keep or drop the two channels of a RoPE pair together, so that stored keys can be rotated again. The pair scores the sum; odd widths are rounded up.
SELECT_PAIRS_HALVES: Final = 1
"""channel j goes with j + channels / 2"""
SELECT_PAIRS_INTERLEAVED: Final = 2
"""channel 2j goes with 2j + 1"""

# Largest segment_count of think_attend().
MAX_SEGMENTS: Final = 16

# What attention makes of the dropped channels. All modes store the same bytes.
MODE_REGRESSED: Final = 0
"""predicted from the kept ones"""
MODE_CHANNELS: Final = 1
"""zero: the paper"""

# How widths are chosen.
BUDGET_ADAPTIVE: Final = 0
"""by gain, among the heads of the layer, in steps of 8; THINK_MODE_CHANNELS: uniform, as adaptive does not pay there"""
BUDGET_UNIFORM: Final = 1
"""the same for every head"""

# What becomes of dense rows that are older than the recent ones, once a sequence has been pruned.
FOLD_NEVER: Final = 0
"""they stay dense"""
FOLD_BLOCK: Final = 1
"""blocks of 32 are folded into tiles with the basis of the last prune, by think_cache_step()"""

# Most compact runs of a sequence: how often it can be pruned, re-fitting included.
CACHE_MAX_RUNS: Final = 3

# No score states: saves their memory and the queries of append. think_cache_prune() is then THINK_E_STATE.
CACHE_NO_SCORES: Final = 1
CACHE_KEEP_SCORES: Final = 2
"""Keep the score state of a sequence that was pruned, so that it can be pruned again (a later turn). Implied by refit."""
