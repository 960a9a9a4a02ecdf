"""One class for each struct of the C interface. Written by bindings/tools/regenerate.sh from think.json: do not edit."""

from ._struct import Struct


class Error(Struct):
    """What went wrong. Owned by the caller, usually on its stack; nothing is allocated and nothing is to be freed. Of a record that is passed in, only
    struct_size is read. A call that succeeds leaves it untouched, a call that fails fills it. Messages name the argument by its full path
    ("segments[2].key_basis->kept"), what was expected and what was found. Outputs of a call are untouched by THINK_E_ARGUMENT, THINK_E_UNSUPPORTED,
    THINK_E_WORKSPACE and THINK_E_STATE. After THINK_E_MEMORY, THINK_E_DEVICE and THINK_E_INTERNAL they are undefined. The same holds for every struct
    of this library: struct_size below that of version 0.9, or above 4096, is THINK_E_ARGUMENT; a larger struct than this build knows is accepted as
    long as the part that it does not know is zero, and THINK_E_UNSUPPORTED otherwise. Unknown flags and reserved fields that are not zero are
    THINK_E_ARGUMENT.

    flags: 0
    code: the status that was returned
    argument: position of the offending argument, counted from 1; 0 = none in particular
    native_code: error of the device's own interface; 0 = none
    message: ends with 0
    """

    _name = "think_error"
    __slots__ = ()


class Tensor(Struct):
    """A view of rows that belong to the caller, in the order (batch, head, token, channel). Layouts such as BSHD and BHSD are just strides. The channel
    stride must be 1; the other strides are free (in elements), also zero or negative. A query tensor has the plan's query heads on axis 1, key and
    value tensors its KV heads. `data` is memory of the plan's device, aligned to its element.

    flags: 0
    data: first element
    dtype
    extent: batch, heads, tokens, channels
    stride: elements; stride[3] must be 1
    """

    _name = "think_tensor"
    __slots__ = ()


class Batch(Struct):
    """Which rows of the tensors of one call are real, and where the sequences keep their state. NULL instead of a batch: every row is real, sequence b uses
    slot b. Rectangular: sequence b is batch row b, its first lengths[b] tokens are real. Packed: all sequences lie one after the other in batch row
    0, and sequence b owns tokens row_start[b] .. row_start[b + 1]. Padding never enters a statistic and is never written.

    flags: 0
    count: sequences, at least 1 and at most the plan's max_batch
    lengths: [count] valid tokens of each sequence (rectangular); NULL = all
    row_start: [count + 1] packed rows, row_start[0] = 0, ascending; NULL = rectangular. Not together with lengths
    slot: [count] slot of each sequence in score states, moments and bases; NULL = 0, 1, 2, ...
    """

    _name = "think_batch"
    __slots__ = ()


class ContextOptions(Struct):
    """How to make a context. All zero (or NULL instead of options) means: CPU, the caller's thread only, malloc, no log. Hooks are called from the thread
    that called the library, must not throw, and must stay valid until the last plan and cache of the context is gone. allocate and deallocate are
    given together or not at all; they are used when contexts and plans are made and destroyed and by the functions of a cache (think/cache.h,
    think/store.h), never by other run calls.

    flags: 0
    device_type: 0 = THINK_DEVICE_CPU. THINK_DEVICE_CUDA loads libthink_cuda.so.1
    device_index: 0 = the first
    threads: CPU: 0 = 1, the caller's own; -1 = one for every core that this process may use; n, at most 1024. With parallel_for: how many tasks the
        host runs at the same time, 0 = -1
    parallel_for: the host's threads; NULL = own threads, started by the first plan if threads asks for more than one
    allocate: NULL = aligned_alloc
    deallocate
    log: NULL = silent
    user: handed to the four hooks
    """

    _name = "think_context_options"
    __slots__ = ()


class Problem(Struct):
    """The shape of one attention layer.

    flags: THINK_PROBLEM_...
    query_dtype: of query tensors: f32, f16, bf16; 0 = f32
    cache_dtype: of dense key and value rows and of compact ones: f32, f16, bf16; 0 = f16
    output_dtype: of attention outputs: f32, f16, bf16; 0 = query_dtype
    query_heads: a multiple of kv_heads, at most 65536; their quotient is the group
    kv_heads: at least 1
    key_channels: head size of queries and keys: 8, 16, ... 256
    value_channels: head size of values: 8, 16, ... 256; 0 = key_channels
    window: observation queries: 0 = 32 (ThinK), at most 1024
    max_batch: sequences in one call: 0 = 1
    max_queries: new queries of one sequence in one call: 0 = 1
    max_tokens: cached tokens of one sequence, all segments together: 0 = 131072; at most 2^31 - 1
    scale: of logits: 0 = 1 / sqrt(key_channels), the full width also after pruning
    softcap: logit = softcap * tanh(logit / softcap): 0 or -1 = none. Applied to the finished logit, offset included
    """

    _name = "think_problem"
    __slots__ = ()


class Launch(Struct):
    """What a run call works with, besides its data. NULL is allowed where think_workspace_size() gives 0. A workspace is plain memory of the plan's device.
    Zero it once when it is new: every completed call leaves its counters zero. It serves one call at a time, and one plan: before a sliced call of
    another plan, zero it again. Run calls never allocate, free, synchronise or start threads.

    flags: THINK_LAUNCH_...
    workspace: aligned as think_workspace_size() says
    workspace_bytes: at least as many as think_workspace_size() says
    stream: CUDA: a CUstream; ignored on the CPU
    slice: CPU, think_score_update, think_compact and think_attend only: the part of the work that this call does, 0 .. slices - 1
    slices: 0 or 1 = all of it. Otherwise exactly one call per slice, with the same arguments and workspace, from any threads in any order; no slice
        waits for another, the last one completes the result. Elsewhere THINK_E_UNSUPPORTED
    """

    _name = "think_launch"
    __slots__ = ()


class Extent(Struct):
    """The size of a call, for think_workspace_size(). On a CUDA plan lengths are not read by the host, which takes them for as large as they can be:
    `queries` and the new tokens of the score are then the rows of the tensors (packed rows: all of them together), up to max_queries, and `tokens`
    the room that the segments tell (pages_stride * page_tokens, or page_tokens), up to max_tokens. Ask for as much. think_attend() on packed rows
    there works in proportion to all rows together and the batch, not to batch * queries: say in `rows` how many the query tensor has. Without it the
    size is that of a batch in which every sequence has `queries` rows, which serves as well but may be many times as large.

    flags: 0
    batch: sequences: 0 = the plan's max_batch
    queries: new queries of one sequence, at most: 0 = the plan's max_queries
    segments: segments of think_attend(): 0 = 4
    tokens: cached tokens of one sequence, at most: 0 = the plan's max_tokens
    rows: new queries of all sequences together, where they are packed (row_start): 0 = batch * queries; at most max_batch * max_queries of the plan.
        @since 0.11
    """

    _name = "think_extent"
    __slots__ = ()


class Basis(Struct):
    """Bases of one side of one layer, one per slot and KV head. A compact row holds the kept channels I of a full row, as they are, in ascending order. What
    the dropped channels P contributed is predicted from them, independently of the token: x_P ~ W x_I + offset_P. Attention never rebuilds rows:
    keys: logit = scale * ((q_I + W^T q_P) . k_I + q_P . offset_P) folded into the query, in f32 values: out_I = sum p v_I; out_P = W out_I + (sum p)
    offset_P expanded once, where sum p is the attention mass of the segment Where weight_offset is -1 there is no prediction: the dropped channels
    count as zero (the paper's method). think_basis_bind() lays the arrays out in one block of memory; they may also lie apart, and be filled by the
    caller (static masks, calibrated matrices). A basis is tied to the slot, so sequences may change their place in the batch.

    flags: 0
    channels: of a full row: key_channels or value_channels of the plan
    slots
    kept: [slots][kv_heads] number of kept channels, 1 .. channels (values: a multiple of 8)
    index: [slots][kv_heads][channels]: the kept channels ascending, then the dropped ones ascending
    weight: f16; the block of one head: W as [dropped][kept rounded up to 8], the padding zero. 16-byte aligned
    weight_bytes: size of `weight`
    weight_offset: [slots][kv_heads] byte offset of a head's block in `weight`, a multiple of 16; -1 = none
    offset: [slots][kv_heads][channels] in the order of `index`; only the dropped part is used
    """

    _name = "think_basis"
    __slots__ = ()


class Segment(Struct):
    """A run of cached tokens. Dense prefix, compact prefix, sinks and recent window are the same thing with other fields. Address of a row. Token t of
    sequence b, KV head h lies in the row r = first + t: without pages: block = slot[b], row r inside the block; with pages: block = pages[b *
    pages_stride + r / page_tokens], row r % page_tokens head base = key + block * key_stride[0] + (key_head_offset ? key_head_offset[slot[b] *
    kv_heads + h] : h * key_stride[1]) THINK_ROWS: head base + row * key_stride[2], where channels are contiguous; key_stride[2] = 0 stands for kept
    (or all) channels * element size THINK_TILES: head base + row / 32 * (kept * 32 * element size) + position of the channel * 32 * element size +
    row % 32 * element size and the same for values. With a basis only the kept channels are stored. Quantized sides (THINK_U8, THINK_U4, THINK_U2,
    THINK_F8_E4M3) are THINK_TILES, with row / 32 * bytes of a tile. A code of U8, U4 or U2 stands for zero + scale * code, with an f16 scale and zero
    per group. c channels are kept; everything is little endian, padding is zero: keys a group is the 32 tokens of a channel. [c] rows of 32 codes
    (U4: byte b = token b in the low nibble, token b + 16 in the high one. U2: 16 bytes for two channels, byte 2 b = tokens b, b + 8, b + 16, b + 24
    of the even one from the low bits up, byte 2 b + 1 of the odd one; an odd c is followed by a channel of zero codes), padded to 16 bytes; scale[c];
    zero[c]; padded to 16 bytes values a group is 32 channels of a token, what is left over joins the last group (40 or 56: one group). [block of 32
    channels][32 tokens][codes of the block]; the last block may be w = 8, 16 or 24 channels wide (U4: byte b = channels b and b + w / 2 of the block;
    U2: b, b + w / 4, b + w / 2 and b + 3 w / 4, from the low bits up); scale[group][32]; zero[group][32] Each number is rounded to the nearest code
    of its group. A group of equal numbers is exact where f16 holds them. Numbers beyond +-65504 become that, and no code stands for more, so a cache
    of f16 that they go back to gets no infinity; a group with a NaN or infinity becomes NaN. Tokens behind the end of a partial last tile belong to
    no group of keys. F8 has the rows of U8 and nothing behind them: a code stands for itself times key_scale or value_scale of its slot and head.
    Numbers are divided by that (by a product with its inverse) and rounded to nearest even; beyond 448 they become 448 of their sign, NaN and
    infinities become NaN. Tile segments begin at a row that is a multiple of 32. In a partial last tile the tokens behind the end are never used, and
    think_compact() writes them as zero. Every base and stride is a multiple of the element size; tiles are aligned to 64 bytes for speed, 16 is
    enough.

    flags: THINK_SEGMENT_CAUSAL, THINK_SEGMENT_MEASURE
    key_layout: THINK_ROWS, THINK_TILES
    value_layout: THINK_ROWS; quantized values: THINK_TILES
    page_tokens: rows of a page: a multiple of 32. Without pages: rows that a slot has room for (tiles: a multiple of 32); 0 = not told
    key_dtype: f32, f16, bf16; in tiles also u8, u4, u2, f8
    value_dtype
    key
    value
    key_stride: bytes: page or slot, head, token (THINK_ROWS)
    value_stride
    key_head_offset: [slots][kv_heads] bytes inside a page or slot; NULL = head * stride. Written by think_segment_place()
    value_head_offset
    pages: [batch][pages_stride] page numbers; NULL = contiguous in a slot
    pages_stride: entries of the page table per sequence
    first: first row of the run; NULL = 0
    lengths: tokens of the run
    lengths_stride: elements per sequence and per KV head, for first and lengths; head stride 0 = the same for all heads. Both 0 = {1, 0}
    slot: [batch] slot of each sequence; NULL = the batch's slot, or 0, 1, 2, ...
    key_basis: NULL = all channels
    value_basis: NULL = all channels
    key_scale: [slots][kv_heads] what 1 of an F8 code counts: 2^-100 .. 2^100; NULL = 1. @since 0.11
    value_scale
    """

    _name = "think_segment"
    __slots__ = ()


class Format(Struct):
    """How a compact segment stores its two sides.

    flags: 0
    key_layout: THINK_ROWS, THINK_TILES
    value_layout: THINK_ROWS; quantized values: THINK_TILES
    key_dtype: 0 = the plan's cache_dtype
    value_dtype: 0 = the plan's cache_dtype
    """

    _name = "think_format"
    __slots__ = ()


class LayoutInfo(Struct):
    """Sizes that follow from a format: host constants, known before anything is allocated.

    flags: 0
    key_page_bytes: keys of one page, all KV heads
    value_page_bytes: values of one page, all KV heads
    key_basis_bytes: think_basis_size() of one slot
    value_basis_bytes
    alignment: of pages and bases
    """

    _name = "think_layout_info"
    __slots__ = ()


class EvictOptions(Struct):
    """Options of think_evict().

    flags: 0
    method: THINK_EVICT_...
    budget: rows that every head keeps: at least 1 where no budgets are given, which may be 0
    sinks: first rows that are always kept: 0 = none (RECENT: 4), -1 = none
    recent: last rows that are always kept: 0 = the plan's window (TOVA: none), -1 = none. RECENT: must be 0, all that the sinks leave
    pooling: SNAPKV: THINK_POOL_...; elsewhere 0
    kernel: SNAPKV: rows that are pooled, an odd number up to 255: 0 = 7, -1 = none; elsewhere 0
    kept_stride: elements of `kept` per head: 0 = budget
    score_stride: elements of `score` per head; at least the tokens of the longest sequence where `score` is given
    """

    _name = "think_evict_options"
    __slots__ = ()


class ScoreOptions(Struct):
    """Options of think_score_finish().

    flags: THINK_SCORE_QUERY_HEADS
    """

    _name = "think_score_options"
    __slots__ = ()


class MomentsOptions(Struct):
    """Options of think_moments().

    flags: 0
    sinks: first rows that stay dense: 0 = 4, -1 = none
    recent: last rows that stay dense, at least: 0 = 32, -1 = none
    attention_share: share of the weight that follows the attention: 0 = 0.9, -1 = none
    """

    _name = "think_moments_options"
    __slots__ = ()


class BudgetOptions(Struct):
    """Options of think_budgets().

    flags: THINK_BUDGET_NORMALISE
    layers: layers that share the total: 0 = 1
    floor: fewest channels of a head, a multiple of step: 0 = 8, rounded up to one, or the most that a head has
    step: channels are handed out in blocks of so many: 0 = 8
    total: channels that one sequence keeps in all heads of all layers together
    """

    _name = "think_budget_options"
    __slots__ = ()


class SelectOptions(Struct):
    """Options of think_select().

    flags: THINK_SELECT_PAIRS_...
    side: THINK_KEYS, THINK_VALUES
    kept: channels that every head keeps, where no budgets are given
    round_to: round widths up to a multiple of this: 0 = 1 (keys) or 8 (values). The places won go to the next best channels
    """

    _name = "think_select_options"
    __slots__ = ()


class FitOptions(Struct):
    """Options of think_fit().

    flags: 0
    side: THINK_KEYS, THINK_VALUES
    ridge: added to the diagonal, as a share of its mean: 0 = 1e-3; -1 = none, where singular covariances fail no call but predict the mean
    """

    _name = "think_fit_options"
    __slots__ = ()


class PruneOptions(Struct):
    """Options of think_prune().

    flags: 0
    mode: THINK_MODE_...
    budget: THINK_BUDGET_...
    key_kept: key channels per head, on average if adaptive: 0 = half of them, -1 = all, keys are copied
    value_kept: value channels per head, shared in steps of 8 (uniform: rounded up to 8): 0 or -1 = all, values are copied
    sinks: first rows that are not moved: 0 = 4, -1 = none
    recent: last rows that are not moved, at least: 0 = 32, -1 = none
    attention_share: see think_moments_options: 0 = 0.9
    ridge: see think_fit_options: 0 = 1e-3
    dense_limit: a side stays dense unless basis + compact rows are below this share of its rows with all channels, as they would be stored (quantized
        where the plan says so): 0 = 0.9, -1 = prune anyway
    """

    _name = "think_prune_options"
    __slots__ = ()


class PruneResult(Struct):
    """What think_prune() will do with a sequence of a given length.

    flags: 0
    first: first row that is moved: the sinks
    rows: rows that are moved: a multiple of 32; 0 = too short, nothing happens
    key_total: key channels that the heads keep together; kv_heads * key_channels = the keys stay dense
    value_total: the same for values
    dense_bytes: of the moved rows before
    key_bytes: of the moved keys after, as stored; adaptive and quantized: at most
    value_bytes: of the moved values after, as stored; adaptive and quantized: at most
    key_basis_bytes: of the basis, as think_basis_size() lays it out; 0 where the side stays dense
    value_basis_bytes
    """

    _name = "think_prune_result"
    __slots__ = ()


class CacheOptions(Struct):
    """Options of think_cache_create().

    flags: THINK_CACHE_...
    layers: 0 = 1
    sequences: they are called 0 .. sequences - 1; 0 = the plan's max_batch
    fold: THINK_FOLD_...
    refit: after so many folds, the next so many blocks are held back, and a new basis is fitted to them: 0 = never. Uses up a run
    rollback: newest dense rows, the recent ones among them, that folds leave for think_cache_trim(): 0 = max_queries, -1 = only recent ones
    reserve_tokens: CPU: dense rows, of all sequences together, that have memory from the start and for ever: 0 = none. CUDA: 0
    limit_bytes: CPU: the cache never has more than this, not even for a moment: 0 = no limit. CUDA: 0, the slab is the limit
    prune: mode, budgets, sinks, recent rows; NULL = defaults
    format: of compact rows; NULL = defaults. Dense rows are the plan's cache_dtype
    layer_formats: [layers] in place of format, for first and last layers that need more bits, say; NULL = format in every layer. The step of the
        array is the first element's struct_size
    slab: CUDA: device memory that the cache lives in, a multiple of 256; the caller's before and after. CPU: NULL
    slab_bytes: CUDA: of it, see think_cache_slab_size(). CPU: 0
    bases: CUDA: how many runs of all sequences together the slab has room for the bases of: 0 = one for each sequence, or THINK_CACHE_MAX_RUNS for
        each where one can be pruned again (refit, THINK_CACHE_KEEP_SCORES). CPU: 0
    scored: CUDA: how many sequences at the same time the slab has room for the scores of, from their first token to their prune: 0 = max_batch of the
        plan, or all sequences where they keep scores for longer. CPU: 0
    """

    _name = "think_cache_options"
    __slots__ = ()


class CacheInfo(Struct):
    """What a cache, or one sequence of it, holds. Bytes are of all layers.

    flags: 0
    tokens: rows that the sequence holds; of the cache: of all sequences, forks counted each
    compact_tokens: of them in compact runs
    dense_bytes: what the tokens, evicted ones too, would take as dense rows of cache_dtype, without any slack
    page_bytes: pages that hold rows, whole; of the cache: shared ones once
    basis_bytes: bases and head offsets; shared ones once
    score_bytes: score states
    table_bytes: of the cache: the handle, page tables and counts
    spare_bytes: of the cache: allocated for pages and bases (CUDA: and scores), but free
    allocated_bytes: the sum of the five; of the cache: what the context's allocator gave and has not got back (CUDA: with the slab and page-locked
        memory of the host, through which tables reach the device)
    key_channels: of a sequence: key channels that all KV heads of a layer keep together in its last run; all of them if it has none
    value_channels: the same for values
    runs: of a sequence: compact runs
    sequences: of the cache: sequences that hold tokens
    evicted_tokens: that the sequence has been given and no longer holds: think_cache_evict(), think_cache_keep()
    """

    _name = "think_cache_info"
    __slots__ = ()
