//! Attention of one new token over a pruned prompt, stage by stage on the engine's own buffers.
use think::{sys, Compact, Context, Plan, Problem, PruneOptions, Segment, Tensor, TensorMut, STAGES};

const HQ: usize = 4;
const HKV: usize = 2;
const D: usize = 64;
const T: usize = 512;

fn main() -> think::Result<()> {
    let noise = |n: usize| (0..n).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect::<Vec<f32>>();
    let (query, key, value) = (noise(HQ * T * D), noise(HKV * T * D), noise(HKV * T * D));
    let problem = Problem {
        query_heads: HQ as i32,
        kv_heads: HKV as i32,
        key_channels: D as i32,
        cache_dtype: sys::THINK_F32,
        max_tokens: T as i64,
        ..Default::default()
    };
    let plan = Plan::new(&Context::new()?, problem)?;
    let mut workspace = plan.workspace(&STAGES, None)?;

    let mut state = plan.score_state(1, &mut workspace)?;
    plan.score_update(&Tensor::new(&query, [1, HQ, T, D])?, &Tensor::new(&key, [1, HKV, T, D])?, &mut state, &mut workspace)?;
    let options = PruneOptions { key_kept: 32, ..Default::default() };
    let moved = plan.prune_preview(None, T as i64, &options)?;
    let mut compact = Compact::new(&plan, None, 1, moved.rows as usize, true, false)?;
    let rows = Segment::dense(&plan, &key, &value, T, &[T as i32])?;
    plan.prune(&state, &rows, &mut compact, &options, &mut workspace)?;

    let (first, end) = (moved.first as usize, (moved.first + moved.rows) as usize);
    let sinks = Segment::dense(&plan, &key, &value, T, &[T as i32])?.part(0, first)?;
    let recent = rows.part(end, T - end)?.causal();
    let mut output = vec![0.0f32; HQ * D];
    let query = Tensor::with_stride(&query[(T - 1) * D..], [1, HQ, 1, D], [0, T * D, D, 1])?;
    let segments = [sinks, compact.segment(), recent];
    plan.attend(&query, &segments, None, &mut TensorMut::new(&mut output, [1, HQ, 1, D])?, None, &mut workspace)?;
    println!("{} of {T} rows keep 32 of {D} key channels on average; the first outputs: {:?}", moved.rows, &output[..3]);
    Ok(())
}
