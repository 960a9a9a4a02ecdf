// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/** The constants of the C interface, THINK_ taken off. */
public final class Constants {
  private Constants() {}

  // Version of these headers. The library that runs may be newer: ask think_version().
  public static final int VERSION_MAJOR = 0;
  public static final int VERSION_MINOR = 11;
  public static final int VERSION_PATCH = 0;

  // ABI generation: the number in libthink.so.1, and the argument of think_get_api(). Within one generation functions and struct fields are only
  // added, structs grow at their end, and constants keep their values.
  public static final int ABI_MAJOR = 1;

  // Result of every fallible call. New codes may be added: treat an unknown one as a failure.
  public static final int OK = 0;
  /** a wrong argument: error.argument is its position, counted from 1 */
  public static final int E_ARGUMENT = 1;
  /** well-formed, but not on this backend, device or build; the message says why */
  public static final int E_UNSUPPORTED = 2;
  /** workspace missing, too small or misaligned; the message has both sizes */
  public static final int E_WORKSPACE = 3;
  /** an allocation failed */
  public static final int E_MEMORY = 4;
  /** the device reported an error: error.native_code holds it */
  public static final int E_DEVICE = 5;
  /** not now: the call is right, its moment is not */
  public static final int E_STATE = 6;
  /** stored data are damaged or of another version */
  public static final int E_FORMAT = 7;
  /** a file could not be read or written */
  public static final int E_IO = 8;
  /** a bug in the library: please report it */
  public static final int E_INTERNAL = 9;

  // Element type, bit-identical to DLPack's DLDataType: code | bits << 8 | lanes << 16.
  public static final int F32 = 0x12002;
  public static final int F16 = 0x11002;
  public static final int BF16 = 0x11004;
  /** Stored forms of segments in tiles (think/segment.h), never of tensors: 8 or 4 bits, asymmetric. */
  public static final int U8 = 0x10801;
  public static final int U4 = 0x10401;
  /** The same in 2 bits, and floating point in 8 bits: sign, 4 bits of exponent, 3 of fraction, one NaN, no infinity, at most 448. */
  public static final int U2 = 0x10201;
  public static final int F8_E4M3 = 0x1080a;

  // Device kinds, DLPack's numbers.
  public static final int DEVICE_CPU = 1;
  public static final int DEVICE_CUDA = 2;

  public static final int LOG_DEBUG = 0;
  public static final int LOG_INFO = 1;
  public static final int LOG_WARNING = 2;

  // Keys of think_query(). New keys may be added; keys that a library does not know are THINK_E_UNSUPPORTED.
  /** think_version() */
  public static final int QUERY_VERSION = 1;
  /** think_abi_version() */
  public static final int QUERY_ABI = 2;
  /** device kind of the context */
  public static final int QUERY_DEVICE_TYPE = 3;
  /** device index of the context */
  public static final int QUERY_DEVICE_INDEX = 4;
  /** threads that a call may use */
  public static final int QUERY_THREADS = 5;
  /** instruction set in use: THINK_ISA_... */
  public static final int QUERY_ISA = 6;
  /** bit mask, 1 &lt;&lt; THINK_ISA_...: what this build and this host can do */
  public static final int QUERY_ISA_AVAILABLE = 7;
  /** bit mask, 1 &lt;&lt; device kind: backends that can be used now. Loads them and asks their drivers */
  public static final int QUERY_BACKENDS = 8;
  /** largest head size */
  public static final int QUERY_MAX_CHANNELS = 9;
  /** largest segment_count of think_attend() */
  public static final int QUERY_MAX_SEGMENTS = 10;

  public static final int ISA_PORTABLE = 0;
  /** AVX2, FMA, F16C */
  public static final int ISA_AVX2 = 1;
  /** AVX-512 F, BW, DQ, VL, and BMI2 */
  public static final int ISA_AVX512 = 2;
  /** the same with BF16, VNNI and VBMI; attend multiplies codes as integers */
  public static final int ISA_AVX512BF16 = 3;
  /** AArch64 Advanced SIMD */
  public static final int ISA_NEON = 4;

  // think_attend() cuts a sequence's tokens by its own lengths and the shape alone, so that it has the same bits in every batch and on every device
  // of one kind. On a CUDA device that costs workspace and, with few or unequal sequences, time. The CPU does so always.
  public static final int PROBLEM_BATCH_INVARIANT = 1;

  // Check the contents of index, length and page arrays before they are used, which are trusted otherwise. For debugging, on the CPU only. It cannot
  // see how many slots a score state or moments hold, how many pages a cache has, nor how far head offsets may go: slots are then any, pages and
  // offsets at least 0.
  public static final int LAUNCH_CHECK = 1;

  // Stages, for think_workspace_size().
  /** think_score_reset, _update, _finish, think_value_score; tokens of the extent = new tokens of a call */
  public static final int STAGE_SCORE = 1;
  /** think_moments, think_gains */
  public static final int STAGE_MOMENTS = 2;
  /** think_budgets (up to 256 layers in steps of 8), think_select */
  public static final int STAGE_SELECT = 3;
  /** think_fit */
  public static final int STAGE_FIT = 4;
  /** think_compact, think_segment_place */
  public static final int STAGE_COMPACT = 5;
  /** think_attend, think_merge */
  public static final int STAGE_ATTEND = 6;
  /** think_prune */
  public static final int STAGE_PRUNE = 7;
  /** think_evict; think_evict_move needs none */
  public static final int STAGE_EVICT = 8;

  // Sides of the cache.
  public static final int KEYS = 0;
  public static final int VALUES = 1;

  // Layouts of one side of a segment.
  /** [token][channel], one row of kept (or all) channels per token */
  public static final int ROWS = 0;
  /** keys: [tile of 32 tokens][kept channel][32 tokens]; values: quantized ones only, see below */
  public static final int TILES = 1;

  // At most one segment of think_attend() is causal. Its length includes the new rows: query i of n sees its first length - n + i + 1 rows.
  public static final int SEGMENT_CAUSAL = 1;
  /**
   * Destination of think_compact() only: key_scale and value_scale (where given, of F8 sides) are written first, from the rows that move. A scale is
   * the least power of two by which the largest finite number is at most 224, half of what a code can be, so that rows which come later have room; 1
   * where all are 0. Bounded as below. Not in slices. think_prune() always does it.
   */
  public static final int SEGMENT_MEASURE = 2;

  // Methods. The mass of a row is the sum of the softmax weights that the window's queries of the group give it, with the plan's scale and soft cap,
  // over all rows of the sequence. SNAPKV the mass, pooled over neighbouring rows; the window's own rows are always kept H2O masses of all calls
  // added up in `score`, which the caller keeps; or scores of the caller's own, when window_query is NULL WINDOW the mass of this call alone, not
  // pooled: what ThinK's reference code calls H2O TOVA the weights of the last query alone RECENT the first rows (sinks) and the last ones; no
  // queries, no scores A list of the caller's own making needs none of them: hand it to think_evict_move().
  public static final int EVICT_SNAPKV = 0;
  public static final int EVICT_H2O = 1;
  public static final int EVICT_WINDOW = 2;
  public static final int EVICT_TOVA = 3;
  public static final int EVICT_RECENT = 4;

  // How neighbouring scores are pooled. Rows outside of those that can be chosen are no neighbours; the mean divides by `kernel` everywhere.
  public static final int POOL_MAX = 0;
  public static final int POOL_MEAN = 1;

  // One score per query head instead of the sum over the group: what the paper's reference code ranks.
  public static final int SCORE_QUERY_HEADS = 1;

  // Divide the gains by their sum over the layer first. For values over several layers, whose gains do not compare otherwise.
  public static final int BUDGET_NORMALISE = 1;

  // Keep or drop the two channels of a RoPE pair together, so that stored keys can be rotated again. The pair scores the sum; odd widths are rounded
  // up.
  /** channel j goes with j + channels / 2 */
  public static final int SELECT_PAIRS_HALVES = 1;
  /** channel 2j goes with 2j + 1 */
  public static final int SELECT_PAIRS_INTERLEAVED = 2;

  // Largest segment_count of think_attend().
  public static final int MAX_SEGMENTS = 16;

  // What attention makes of the dropped channels. All modes store the same bytes.
  /** predicted from the kept ones */
  public static final int MODE_REGRESSED = 0;
  /** zero: the paper */
  public static final int MODE_CHANNELS = 1;

  // How widths are chosen.
  /** by gain, among the heads of the layer, in steps of 8; THINK_MODE_CHANNELS: uniform, as adaptive does not pay there */
  public static final int BUDGET_ADAPTIVE = 0;
  /** the same for every head */
  public static final int BUDGET_UNIFORM = 1;

  // What becomes of dense rows that are older than the recent ones, once a sequence has been pruned.
  /** they stay dense */
  public static final int FOLD_NEVER = 0;
  /** blocks of 32 are folded into tiles with the basis of the last prune, by think_cache_step() */
  public static final int FOLD_BLOCK = 1;

  // Most compact runs of a sequence: how often it can be pruned, re-fitting included.
  public static final int CACHE_MAX_RUNS = 3;

  // No score states: saves their memory and the queries of append. think_cache_prune() is then THINK_E_STATE.
  public static final int CACHE_NO_SCORES = 1;
  /** Keep the score state of a sequence that was pruned, so that it can be pruned again (a later turn). Implied by refit. */
  public static final int CACHE_KEEP_SCORES = 2;
}
