//! tests/vectors/bindings.json: what every language has to do alike, errors with their texts included. The file says what each call is.

use serde_json::{json, Map, Value};
use think::*;

fn vectors() -> Value {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/vectors/bindings.json");
    serde_json::from_str(&std::fs::read_to_string(root).expect(root)).unwrap()
}

fn int(fields: &Value, name: &str, default: i64) -> i64 {
    fields.get(name).map_or(default, |value| value.as_i64().unwrap())
}

fn ints(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|number| number.as_i64().unwrap() as i32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn only(fields: &Value, known: &[&str]) {
    for name in fields.as_object().unwrap_or(&Map::new()).keys() {
        assert!(known.contains(&name.as_str()), "no field {name}");
    }
}

fn problem(case: &Value) -> Problem {
    let from = &case["problem"];
    let shape = ["query_heads", "kv_heads", "key_channels", "value_channels"];
    let known = ["flags", "query_dtype", "cache_dtype", "window", "max_batch", "max_queries", "max_tokens"];
    only(from, &[&shape[..], &known[..]].concat());
    Problem {
        flags: int(from, "flags", 0) as u32,
        query_dtype: int(from, "query_dtype", 0) as i32,
        cache_dtype: int(from, "cache_dtype", 0) as i32,
        query_heads: int(from, "query_heads", 0) as i32,
        kv_heads: int(from, "kv_heads", 0) as i32,
        key_channels: int(from, "key_channels", 0) as i32,
        value_channels: int(from, "value_channels", 0) as i32,
        window: int(from, "window", 0) as i32,
        max_batch: int(from, "max_batch", 0) as i32,
        max_queries: int(from, "max_queries", 0) as i32,
        max_tokens: int(from, "max_tokens", 0),
        ..Default::default()
    }
}

fn prune_options(from: &Value) -> PruneOptions {
    only(from, &["mode", "budget", "key_kept", "value_kept", "dense_limit"]);
    PruneOptions {
        mode: int(from, "mode", 0) as i32,
        budget: int(from, "budget", 0) as i32,
        key_kept: int(from, "key_kept", 0) as i32,
        value_kept: int(from, "value_kept", 0) as i32,
        dense_limit: from.get("dense_limit").map_or(0.0, |limit| limit.as_f64().unwrap() as f32),
        ..Default::default()
    }
}

fn cache_options(case: &Value) -> CacheOptions {
    let from = case.get("cache").cloned().unwrap_or(json!({}));
    only(&from, &["layers", "prune", "format"]);
    let format = from.get("format").map(|format| {
        only(format, &["key_layout", "value_layout", "key_dtype", "value_dtype"]);
        let usual = Format::default();
        Format {
            key_layout: int(format, "key_layout", usual.key_layout.into()) as i32,
            value_layout: int(format, "value_layout", usual.value_layout.into()) as i32,
            key_dtype: int(format, "key_dtype", 0) as i32,
            value_dtype: int(format, "value_dtype", 0) as i32,
            ..usual
        }
    });
    CacheOptions { layers: int(&from, "layers", 0) as i32, prune: from.get("prune").map(prune_options), format, ..Default::default() }
}

fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let number = |i: usize| {
        let mut x = (i as u32).wrapping_mul(2654435761).wrapping_add(seed.wrapping_mul(40503)).wrapping_add(12345);
        x = (x ^ (x >> 15)).wrapping_mul(2246822519);
        x = (x ^ (x >> 13)).wrapping_mul(3266489917);
        x ^= x >> 16;
        (f64::from(x) / 2147483648.0 - 1.0) as f32
    };
    (0..count).map(number).collect()
}

struct Rows(Vec<f32>, [usize; 4]);

impl Rows {
    fn new(seed: u32, heads: i32, tokens: usize, channels: i32, odd: f32) -> Self {
        let mut made = numbers(seed, heads as usize * tokens * channels as usize);
        made.iter_mut().skip(1).step_by(2).for_each(|x| *x *= odd);
        Self(made, [1, heads as usize, tokens, channels as usize])
    }

    fn zeros(extent: &Value) -> Self {
        let extent: Vec<usize> = ints(extent).into_iter().map(|size| size as usize).collect();
        Self(vec![0.0; extent.iter().product()], extent.try_into().unwrap())
    }

    fn view(&self) -> Tensor<'_> {
        Tensor::new(&self.0, self.1).unwrap()
    }
}

fn layer(problem: &Problem, seed: u32, tokens: usize) -> [Rows; 3] {
    [
        Rows::new(seed, problem.query_heads, tokens, problem.key_channels, 1.0),
        Rows::new(seed + 1, problem.kv_heads, tokens, problem.key_channels, 0.125),
        Rows::new(seed + 2, problem.kv_heads, tokens, problem.value_channels, 1.0),
    ]
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn fail(case: &Value) -> Result<()> {
    let call = case["call"].as_str().unwrap();
    if call == "query" {
        return query(int(case, "key", 0) as i32).map(|_| ());
    }
    let plan = Plan::new(&Context::new()?, problem(case))?;
    match call {
        "preview" => return plan.prune_preview(None, int(case, "tokens", 0), &prune_options(&case["options"])).map(|_| ()),
        "layout" => {
            let (page, key, value) = (int(case, "page_tokens", 0) as i32, int(case, "total_key", 0), int(case, "total_value", 0));
            return plan.layout(None, page, key, value).map(|_| ());
        }
        "workspace_size" => return plan.workspace_size(int(case, "stage", 0) as i32, None).map(|_| ()),
        _ => {}
    }
    let mut cache = Cache::new(&plan, &cache_options(case))?;
    if let Some(tokens) = case.get("new_tokens") {
        cache.step(&ints(&case["sequences"]), &ints(tokens))?;
    }
    match call {
        "trim" => cache.trim(int(case, "sequence", 0) as i32, int(case, "tokens", 0)),
        "prune" => cache.prune(&ints(&case["sequences"])),
        "load" => cache.load(0, &mut hex(case["bytes"].as_str().unwrap()).as_slice()),
        "append" => {
            let [query, key, value] = ["query", "key", "value"].map(|side| Rows::zeros(&case[side]));
            cache.append(int(case, "layer", 0) as i32, Some(&query.view()), &key.view(), &value.view())
        }
        "attend" => {
            let (query, p) = (Rows::zeros(&case["query"]), plan.problem());
            let mut output = vec![0.0f32; (p.query_heads * p.value_channels) as usize];
            let extent = [1, p.query_heads as usize, 1, p.value_channels as usize];
            cache.attend(int(case, "layer", 0) as i32, &query.view(), None, &mut TensorMut::new(&mut output, extent)?, None)
        }
        other => panic!("no call {other}"),
    }
}

#[test]
fn errors_are_the_same_in_every_language() {
    let all = vectors();
    let cases = all["errors"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let error = fail(case).expect_err(&case.to_string());
        let found = json!({"code": error.code, "argument": error.argument, "native_code": error.native_code, "message": error.message});
        assert_eq!(found, case["error"], "{case}");
        assert_eq!(error.to_string(), error.message);
        assert!(error.name().starts_with("THINK_E_") && error.kind != ErrorKind::Unknown);
    }
}

#[test]
fn flows_are_the_same_in_every_language() {
    for case in vectors()["flows"].as_array().unwrap() {
        let plan = Plan::new(&Context::new().unwrap(), problem(case)).unwrap();
        let options = cache_options(case);
        let mut cache = Cache::new(&plan, &options).unwrap();
        let (p, prompt) = (plan.problem(), int(case, "prompt", 0) as usize);
        cache.step(&[0], &[prompt as i32]).unwrap();
        for number in 0..options.layers {
            let [query, key, value] = layer(p, 10 * number as u32, prompt);
            cache.append(number, Some(&query.view()), &key.view(), &value.view()).unwrap();
        }
        cache.prune(&[0]).unwrap();
        let mut row = 0;
        for token in 1..=int(case, "tokens", 0) as u32 {
            cache.step(&[0], &[1]).unwrap();
            for number in 0..options.layers {
                let [query, key, value] = layer(p, 1000 * token + 10 * number as u32, 1);
                cache.append(number, Some(&query.view()), &key.view(), &value.view()).unwrap();
                let (heads, channels) = (p.query_heads as usize, p.value_channels as usize);
                let (mut output, mut lse) = (vec![0.0f32; heads * channels], vec![0.0f32; heads]);
                let mut to = TensorMut::new(&mut output, [1, heads, 1, channels]).unwrap();
                cache.attend(number, &query.view(), None, &mut to, Some(&mut lse)).unwrap();
                let tolerance = case["tolerance"].as_f64().unwrap() as f32;
                for (found, expected) in [(&output, &case["output"][row]), (&lse, &case["lse"][row])] {
                    let expected = floats(expected);
                    assert_eq!(found.len(), expected.len());
                    assert!(found.iter().zip(&expected).all(|(x, y)| (x - y).abs() <= tolerance), "{}: {found:?} {expected:?}", case["name"]);
                }
                row += 1;
            }
        }
        let usage = cache.usage(Some(0)).unwrap();
        let found = json!({"tokens": usage.tokens, "compact_tokens": usage.compact_tokens, "dense_bytes": usage.dense_bytes, "page_bytes": usage.page_bytes,
            "basis_bytes": usage.basis_bytes, "score_bytes": usage.score_bytes, "table_bytes": usage.table_bytes, "spare_bytes": usage.spare_bytes,
            "allocated_bytes": usage.allocated_bytes, "key_channels": usage.key_channels, "value_channels": usage.value_channels, "runs": usage.runs,
            "sequences": usage.sequences, "evicted_tokens": usage.evicted_tokens});
        assert_eq!(found, case["usage"]);
    }
}

#[test]
fn names_and_numbers_are_the_same_in_every_language() {
    let all = vectors();
    for one in all["kept_channels"].as_array().unwrap() {
        assert_eq!(kept_channels(one[0].as_i64().unwrap() as i32, one[1].as_f64().unwrap()), Some(one[2].as_i64().unwrap() as i32));
    }
    assert_eq!(kept_channels(8, 1.0), None);
    for (code, name) in all["names"]["status"].as_object().unwrap() {
        assert_eq!(status_name(code.parse().unwrap()), name);
    }
    for (dtype, name) in all["names"]["dtype"].as_object().unwrap() {
        assert_eq!(dtype_name(dtype.parse().unwrap()), name);
    }
}
