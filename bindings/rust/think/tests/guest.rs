//! The library as a guest in a Rust process: what it leaves alone, and 64 threads on one plan.

use std::sync::{Arc, Barrier};

use think::*;

fn plan(context: &Context) -> Plan {
    let cache_dtype = sys::THINK_F32;
    let problem = Problem { query_heads: 4, kv_heads: 2, key_channels: 16, max_tokens: 512, max_queries: 256, cache_dtype, ..Default::default() };
    Plan::new(context, problem).unwrap()
}

fn work(plan: &Plan) -> Vec<u32> {
    let rows: Vec<f32> = (0..4 * 256 * 16).map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0).collect();
    let mut cache = Cache::new(plan, &CacheOptions::default()).unwrap();
    let (q, kv) = (Tensor::new(&rows, [1, 4, 256, 16]).unwrap(), Tensor::new(&rows, [1, 2, 256, 16]).unwrap());
    cache.step(&[0], &[256]).unwrap();
    cache.append(0, Some(&q), &kv, &kv).unwrap();
    let mut output = vec![0.0f32; 4 * 256 * 16];
    cache.attend(0, &q, None, &mut TensorMut::new(&mut output, [1, 4, 256, 16]).unwrap(), None).unwrap();
    cache.prune(&[0]).unwrap();
    output.into_iter().map(f32::to_bits).collect()
}

/// Signals as the kernel has them, threads, rounding and subnormal numbers.
fn manners() -> (Vec<u64>, usize, [bool; 3]) {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let of_libc = 3 << 31; // 32 and 33: the C library's own, set when the first thread is made
    let signals = status.lines().filter(|line| ["SigBlk", "SigIgn", "SigCgt"].iter().any(|name| line.starts_with(name)));
    let signals = signals.map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap() & !of_libc).collect();
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    let opaque = std::hint::black_box::<f32>;
    let rounding = [opaque(1.0) + opaque(6e-8) == 1.0000001, opaque(1.0) + opaque(5e-8) == 1.0, opaque(f32::MIN_POSITIVE) / opaque(2.0) > 0.0];
    (signals, threads, rounding)
}

#[test]
fn the_process_is_left_alone_and_threads_agree() {
    let before = manners();
    assert_eq!(before.2, [true; 3]);
    let folder = std::env::current_dir().unwrap();
    let variables: Vec<_> = std::env::vars_os().collect();
    let context = Context::new().unwrap();
    let plan = plan(&context);
    drop(context);
    let expected = work(&plan);
    assert_eq!(manners(), before); // no thread unless asked for
    assert_eq!((std::env::current_dir().unwrap(), std::env::vars_os().collect::<Vec<_>>()), (folder, variables));

    let barrier = Arc::new(Barrier::new(64));
    let threads: Vec<_> = (0..64)
        .map(|_| {
            let (plan, barrier) = (plan.clone(), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                work(&plan)
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), expected);
    }

    let own = self::plan(&Context::options().threads(3).build().unwrap());
    assert_eq!(work(&own), expected);
    assert_eq!(std::fs::read_dir("/proc/self/task").unwrap().count(), before.1 + 2);
    drop(own);
    assert_eq!(manners().0, before.0);
}

// What threads may share is what the library allows.
const _: () = {
    const fn send<T: Send>() {}
    const fn sync<T: Sync>() {}
    send::<Context>();
    sync::<Context>();
    send::<Plan>();
    sync::<Plan>();
    send::<Cache>();
    send::<Workspace>();
    sync::<Segment>();
    sync::<Tensor>();
};
