//! What a call costs, in one line: one that does next to nothing, and attention over one token and over a thousand.

use std::time::Instant;

use think::{sys, Context, Plan, Problem, Result, Segment, Tensor, TensorMut};

const HQ: usize = 8; // query heads; then KV heads, channels, tokens
const HKV: usize = 2;
const D: usize = 128;
const T: usize = 1024;

fn noise(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104729) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// The best of many short runs, in ns per call: on a busy machine some of them are left alone.
fn measure(count: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..100 {
        let begin = Instant::now();
        for _ in 0..count {
            call()?;
        }
        best = best.min(begin.elapsed().as_nanos() as f64 / count as f64);
    }
    Ok(best)
}

fn attend(plan: &Plan, tokens: usize, count: usize) -> Result<f64> {
    let (query, rows, mut out) = (noise(1, HQ * D), noise(2, HKV * tokens * D), vec![0.0f32; HQ * D]);
    let (query, mut output) = (Tensor::new(&query, [1, HQ, 1, D])?, TensorMut::new(&mut out, [1, HQ, 1, D])?);
    let segments = [Segment::dense(plan, &rows, &rows, tokens, &[tokens as i32])?];
    let mut workspace = plan.workspace(&[sys::THINK_STAGE_ATTEND], None)?;
    measure(count, || plan.attend(&query, &segments, None, &mut output, None, &mut workspace))
}

fn main() -> Result<()> {
    let (query_heads, kv_heads, key_channels, cache_dtype) = (HQ as i32, HKV as i32, D as i32, sys::THINK_F32);
    let problem = Problem { query_heads, kv_heads, key_channels, cache_dtype, max_tokens: T as i64, ..Default::default() };
    let plan = Plan::new(&Context::new()?, problem)?;
    let trivial = measure(100_000, || {
        assert_ne!(think::version(), 0);
        Ok(())
    })?;
    let (one, many) = (attend(&plan, 1, 500)?, attend(&plan, T, 20)?);
    println!(
        "Rust: a trivial call takes {trivial:.1} ns, attention over 1 token {:.1} us, over {T} tokens {:.1} us, of which a trivial call is {:.3} %",
        one / 1e3,
        many / 1e3,
        100.0 * trivial / many
    );
    Ok(())
}
