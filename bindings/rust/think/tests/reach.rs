//! Every stage and every call of a cache through the safe types, against plain loops; and, counted by the feature `calls`, nothing of the library is left out.
//! One test, so that what it counts is what it called.

use think::*;

const HQ: usize = 4;
const HKV: usize = 2;
const D: usize = 16;
const T: usize = 200;

fn noise(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104729) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// Attention of the last token in f64: [HQ][D].
fn attention(query: &[f32], key: &[f32], value: &[f32], tokens: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut output, mut lse) = (vec![0.0; HQ * D], vec![0.0; HQ]);
    for head in 0..HQ {
        let kv = head / (HQ / HKV) * tokens * D;
        let dot = |t: usize| (0..D).map(|j| f64::from(query[head * D + j]) * f64::from(key[kv + t * D + j])).sum::<f64>() / (D as f64).sqrt();
        let weights: Vec<f64> = (0..tokens).map(|t| dot(t).exp()).collect();
        let total: f64 = weights.iter().sum();
        lse[head] = total.ln();
        for (t, weight) in weights.iter().enumerate() {
            (0..D).for_each(|j| output[head * D + j] += weight / total * f64::from(value[kv + t * D + j]));
        }
    }
    (output, lse)
}

fn close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (x, y) in found.iter().zip(expected) {
        assert!((f64::from(*x) - y).abs() < tolerance, "{x} {y}");
    }
}

fn last(query: &[f32]) -> Vec<f32> {
    (0..HQ).flat_map(|head| query[(head * T + T - 1) * D..][..D].to_vec()).collect()
}

fn plan() -> Plan {
    let problem = Problem {
        query_heads: HQ as i32,
        kv_heads: HKV as i32,
        key_channels: D as i32,
        window: 8,
        max_queries: T as i32,
        max_batch: 2,
        max_tokens: 512,
        cache_dtype: sys::THINK_F32,
        ..Default::default()
    };
    let options = Context::options();
    // Miri runs the library, but lets it call nothing of Rust's.
    let context = if cfg!(miri) { options } else { options.log(|_, _| {}) }.build().unwrap();
    context.supports(&problem).unwrap();
    Plan::new(&context, problem).unwrap()
}

fn stages(plan: &Plan) -> Result<()> {
    let (query, mut key, value) = (noise(1, HQ * T * D), noise(2, HKV * T * D), noise(3, HKV * T * D));
    key.iter_mut().skip(1).step_by(2).for_each(|x| *x *= 0.02); // every other channel is worth little
    let mut workspace = plan.workspace(&STAGES, Some(&Extent { tokens: 512, ..Default::default() }))?;
    assert!(workspace.bytes() > 0);
    let (q, k) = (Tensor::new(&query, [1, HQ, T, D])?, Tensor::new(&key, [1, HKV, T, D])?);
    let mut state = plan.score_state(1, &mut workspace)?;
    plan.score_update(&q, &k, &mut state, &mut workspace)?;
    let score = plan.score_finish(&state, &ScoreOptions::default(), &mut workspace)?;
    for head in 0..HKV {
        for j in 0..D {
            let square = |rows: &[f32], from: usize| (from..T).map(|t| f64::from(rows[t * D + j]).powi(2)).sum::<f64>();
            let queries: f64 = (0..HQ / HKV).map(|g| square(&query[(head * 2 + g) * T * D..], T - 8)).sum();
            let expected = queries * square(&key[head * T * D..], 0);
            assert!((f64::from(score[head * D + j]) - expected).abs() < 1e-4 * expected);
        }
    }

    let rows = Segment::dense(plan, &key, &value, T, &[T as i32])?.causal();
    let moments = plan.moments(&plan.score_window(&state)?, &rows, &MomentsOptions::default(), &mut workspace)?;
    let gains = plan.gains(&moments, sys::THINK_KEYS, Some(&score), &mut workspace)?;
    let total = BudgetOptions { total: (HKV * 8) as i64, ..Default::default() };
    let kept = plan.budgets(&gains.gains, 1, sys::THINK_KEYS, &total, &mut workspace)?;
    assert_eq!(kept.iter().sum::<i32>(), (HKV * 8) as i32);

    // first by stages, then in one call: the same rows, so the same attention
    let (first, count) = (4, 160);
    let mut outputs = Vec::new();
    for whole in [false, true] {
        let mut compact = Compact::new(plan, None, 1, count, true, false)?;
        if whole {
            let options = PruneOptions { key_kept: 8, dense_limit: -1.0, ..Default::default() };
            assert_eq!(plan.prune_preview(None, T as i64, &options)?.rows, count as i64);
            let mask = plan.prune(&state, &rows, &mut compact, &options, &mut workspace)?;
            assert_eq!(mask.iter().map(|bit| i32::from(*bit)).sum::<i32>(), (HKV * 8) as i32);
        } else {
            let basis = compact.key_basis().unwrap();
            let options = SelectOptions { kept: 8, ..Default::default() };
            let mask = plan.select(&score, &options, Some(&kept), basis, &mut workspace)?;
            plan.fit(&moments, &FitOptions::default(), basis, &mut workspace)?;
            let (width, channels) = basis.channels(0, 1);
            assert_eq!(width as i32, kept[1]);
            assert!(channels[..width].iter().all(|channel| mask[D + *channel as usize] == 1));
            plan.segment_place(&mut compact, &mut workspace)?;
            plan.compact(&rows, first, count, &mut compact, &mut workspace)?;
        }
        let mut output = vec![0.0f32; HQ * D];
        let one = last(&query);
        let sinks = Segment::dense(plan, &key, &value, T, &[first as i32])?;
        let recent = Segment::dense(plan, &key, &value, T, &[T as i32])?.part(first + count, T - first - count)?.causal();
        let segments = [sinks, compact.segment(), recent];
        plan.attend(&Tensor::new(&one, [1, HQ, 1, D])?, &segments, None, &mut TensorMut::new(&mut output, [1, HQ, 1, D])?, None, &mut workspace)?;
        outputs.push(output);
    }
    assert_eq!(outputs[0], outputs[1]);
    let (dense, _) = attention(&last(&query), &key, &value, T);
    close(&outputs[0], &dense, 0.05);

    // two halves, merged
    let one = last(&query);
    let one = Tensor::new(&one, [1, HQ, 1, D])?;
    let (mut parts, mut lses) = ([vec![0.0f32; HQ * D], vec![0.0f32; HQ * D]], [vec![0.0f32; HQ], vec![0.0f32; HQ]]);
    for (at, (from, rows)) in [(0, 90), (90, T - 90)].into_iter().enumerate() {
        let half = Segment::dense(plan, &key, &value, T, &[T as i32])?.part(from, rows)?;
        plan.attend(&one, &[half], None, &mut TensorMut::new(&mut parts[at], [1, HQ, 1, D])?, Some(&mut lses[at]), &mut workspace)?;
    }
    let (mut output, mut lse) = (vec![0.0f32; HQ * D], vec![0.0f32; HQ]);
    let halves = [(Tensor::new(&parts[0], [1, HQ, 1, D])?, &lses[0][..]), (Tensor::new(&parts[1], [1, HQ, 1, D])?, &lses[1][..])];
    plan.merge(&halves, &mut TensorMut::new(&mut output, [1, HQ, 1, D])?, Some(&mut lse), &mut workspace)?;
    let (expected, expected_lse) = attention(&last(&query), &key, &value, T);
    close(&output, &expected, 1e-5);
    close(&lse, &expected_lse, 1e-5);

    let attended = noise(7, HQ * 8 * D);
    assert_eq!(plan.value_score(&Tensor::new(&attended, [1, HQ, 8, D])?, &mut workspace)?.len(), HKV * D);

    // rows out of the cache
    let options = EvictOptions { method: sys::THINK_EVICT_SNAPKV, budget: 64, ..Default::default() };
    let chosen = plan.evict(Some(&plan.score_window(&state)?), &rows, &options, &mut workspace)?;
    assert_eq!(chosen.lengths, [64, 64]);
    let (mut short_key, mut short_value) = (vec![0.0f32; HKV * 64 * D], vec![0.0f32; HKV * 64 * D]);
    plan.evict_move(&rows, &chosen, &mut short_key, &mut short_value, 64)?;
    for (place, row) in chosen.kept[64..].iter().enumerate() {
        assert_eq!(short_key[(64 + place) * D..][..D], key[(T + *row as usize) * D..][..D]);
    }
    let mut wrong = chosen.clone();
    wrong.kept[3] = 5000; // not there: an error, not a stray read
    assert_eq!(plan.evict_move(&rows, &wrong, &mut short_key, &mut short_value, 64).unwrap_err().kind, ErrorKind::Argument);
    Ok(())
}

struct Broken;

impl std::io::Write for Broken {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("the peer is gone"))
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Panics;

impl std::io::Read for Panics {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        panic!("in the middle of a call")
    }
}

/// Sequence 0 in a file, and back as sequence 2, which is dropped.
fn files(cache: &mut Cache) -> Result<()> {
    let mut file = Vec::new();
    cache.save(0, &mut file)?;
    assert_eq!(file.len() as u64, cache.save_size(0)?);
    cache.load(2, &mut file.as_slice())?;
    assert_eq!(cache.usage(Some(2))?.tokens, T as i64);
    cache.drop_sequence(2)?;
    assert_eq!(cache.load(2, &mut &file[..100]).unwrap_err().kind, ErrorKind::Format);
    let error = cache.save(0, &mut Broken).unwrap_err();
    assert!(error.kind == ErrorKind::Io && error.message.ends_with("the peer is gone"), "{error}");
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cache.load(2, &mut Panics))).is_err());
    Ok(())
}

fn caches(plan: &Plan) -> Result<()> {
    let (query, key, value) = (noise(1, HQ * T * D), noise(2, HKV * T * D), noise(3, HKV * T * D));
    let mut cache = Cache::new(plan, &CacheOptions { sequences: 3, ..Default::default() })?;
    assert!(cache.is_of(plan));
    let (q, k, v) = (Tensor::new(&query, [1, HQ, T, D])?, Tensor::new(&key, [1, HKV, T, D])?, Tensor::new(&value, [1, HKV, T, D])?);
    cache.step(&[0], &[T as i32])?;
    cache.append(0, Some(&q), &k, &v)?;
    let (mut output, mut lse) = (vec![0.0f32; HQ * T * D], vec![0.0f32; HQ * T]);
    cache.attend(0, &q, None, &mut TensorMut::new(&mut output, [1, HQ, T, D])?, Some(&mut lse))?;
    let (expected, expected_lse) = attention(&last(&query), &key, &value, T);
    close(&last(&output), &expected, 1e-5);
    close(&(0..HQ).map(|head| lse[head * T + T - 1]).collect::<Vec<f32>>(), &expected_lse, 1e-5);
    let segments = cache.segments(0)?;
    let mut again = vec![0.0f32; HQ * T * D];
    let mut workspace = plan.workspace(&[sys::THINK_STAGE_ATTEND], None)?;
    plan.attend(&q, &segments, None, &mut TensorMut::new(&mut again, [1, HQ, T, D])?, None, &mut workspace)?;
    assert_eq!(again, output);
    assert_eq!(cache.attend(0, &q, None, &mut TensorMut::new(&mut again, [1, HQ, T, D])?, Some(&mut lse[..3])).unwrap_err().code, 0);

    cache.prune(&[0])?;
    cache.fork(0, 1)?;
    cache.trim(1, T as i64 - 8)?;
    assert_eq!((cache.usage(Some(1))?.tokens, cache.usage(None)?.sequences), (T as i64 - 8, 2));
    let (mut rows, extent) = (vec![0.0f32; HKV * 20 * D], [1, HKV, 20, D]);
    cache.export_dense(0, 0, T as i64 - 20, 20, Some(&mut TensorMut::new(&mut rows, extent)?), None)?;
    assert_eq!(rows[..20 * D], key[(T - 20) * D..T * D]);

    if !cfg!(miri) {
        files(&mut cache)?;
    }
    let options = EvictOptions { method: sys::THINK_EVICT_RECENT, sinks: 4, budget: 24, ..Default::default() };
    cache.step(&[2], &[T as i32])?;
    cache.append(0, Some(&q), &k, &v)?;
    cache.evict(&[2], &options, None, None)?;
    cache.keep(2, &(0..HKV).flat_map(|_| (0..24).step_by(2)).collect::<Vec<i32>>(), 12)?;
    assert_eq!((cache.usage(Some(2))?.tokens, cache.usage(Some(2))?.evicted_tokens), (12, T as i64 - 12));
    let (mut left, extent) = (vec![0.0f32; HKV * 12 * D], [1, HKV, 12, D]);
    cache.export_dense(2, 0, 0, 12, Some(&mut TensorMut::new(&mut left, extent)?), None)?;
    assert_eq!(left[2 * D..3 * D], key[(T - 20) * D..(T - 19) * D]);
    assert_eq!(cache.sequence_segments(2, 0)?.len(), 1);
    assert_eq!(cache.keep(2, &[0], 1).unwrap_err().code, 0);
    for refused in [Cache::slab_size(plan, &CacheOptions::default(), 64, 64), cache.graph_id(), cache.replayed(1).map(|()| 0)] {
        assert_eq!(refused.unwrap_err().code, sys::THINK_E_UNSUPPORTED); // a plan of the CPU
    }
    cache.reset()?;
    assert_eq!(cache.usage(None)?.tokens, 0);
    Ok(())
}

fn facts(plan: &Plan) -> Result<()> {
    let number = sys::THINK_VERSION_MAJOR * 10000 + sys::THINK_VERSION_MINOR * 100 + sys::THINK_VERSION_PATCH;
    assert_eq!((version(), abi_version()), (number, sys::THINK_ABI_MAJOR));
    assert_eq!(query(sys::THINK_QUERY_MAX_CHANNELS)?, 256);
    assert_eq!(Context::options().threads(3).build()?.query(sys::THINK_QUERY_THREADS)?, 3);
    assert!(backend_reason(sys::THINK_DEVICE_CPU)?.starts_with("available"));
    assert!(plan.describe()?.contains("\"query_heads\""));
    assert_eq!((dtype_bytes(sys::THINK_BF16), dtype_bytes(sys::THINK_U4), kept_channels(128, 0.4)), (2, 0, Some(77)));
    // Miri does not look into memory that is the library's.
    if !cfg!(miri) {
        assert!(version_string().starts_with("0.") || version_string().starts_with("1."));
        assert_eq!((dtype_name(sys::THINK_U4), status_name(1)), ("u4", "THINK_E_ARGUMENT"));
    }

    assert!(Tensor::new(&[0.0f32; 7], [1, 1, 1, 8]).is_err());
    assert!(Tensor::with_stride(&[0.0f32; 16], [1, 2, 1, 8], [0, 9, 8, 1]).is_err());
    assert!(Tensor::new(&[0.0f32; 8], [1, usize::MAX, 3, 8]).is_err());
    assert!(Segment::dense(plan, &[0.0f32; HKV * 4 * D], &[0.0f32; HKV * 4 * D], 4, &[5]).is_err());
    assert!(Segment::dense(plan, &[0.0f32; HKV * 4 * D], &[0.0f32; HKV * 3 * D], 4, &[4]).is_err());
    let halves = [F16(0x3c00); 8];
    assert_eq!(Tensor::new(&halves, [1, 1, 1, 8])?.extent(), [1, 1, 1, 8]);
    assert_eq!(TensorMut::new(&mut [Bf16(0); 8], [1, 1, 1, 8])?.extent(), [1, 1, 1, 8]);
    Ok(())
}

/// A DLTensor, as far as this test needs one.
#[repr(C)]
struct DlTensor {
    data: *const f32,
    device: [i32; 2],
    ndim: i32,
    dtype: u32,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

fn dlpack() -> Result<()> {
    let (rows, shape) = ([0.0f32; 48], [2i64, 3, 8]);
    let strides = std::ptr::null();
    let tensor =
        DlTensor { data: rows.as_ptr(), device: [1, 0], ndim: 3, dtype: sys::THINK_F32 as u32, shape: shape.as_ptr(), strides, byte_offset: 0 };
    // SAFETY: the layout is DLPack's, and the rows live longer than the view.
    let view = unsafe { Tensor::from_dlpack((&raw const tensor).cast()) }?;
    assert_eq!(view.extent(), [1, 2, 3, 8]);
    Ok(())
}

#[test]
fn everything_is_reached() {
    let plan = plan();
    facts(&plan).unwrap();
    dlpack().unwrap();
    stages(&plan).unwrap();
    caches(&plan).unwrap();
    // structs that safe code makes by itself
    let _ = (sys::think_error::default(), LayoutInfo::default(), CacheInfo::default(), sys::think_api { ..unsafe { std::mem::zeroed() } });
    drop(plan);
    #[cfg(feature = "calls")]
    {
        let missing: Vec<_> = sys::FUNCTIONS.iter().zip(sys::calls()).filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
