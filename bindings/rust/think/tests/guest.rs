//! The library as a guest in a Rust process: what it leaves alone, 64 threads on one plan, and what is left when all is dropped.

use std::ffi::{c_char, c_int, c_longlong, c_void, CStr, CString, OsString};
use std::io::Write;
use std::path::PathBuf;
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

#[link(name = "m")]
extern "C" {
    fn fegetenv(environment: *mut u8) -> c_int;
    fn fegetround() -> c_int;
    fn setlocale(category: c_int, name: *const c_char) -> *const c_char;
    fn sigaction(number: c_int, action: *const c_void, old: *mut c_void) -> c_int;
    fn umask(mask: u32) -> u32;
}

/// What belongs to the host, as C and the kernel have it.
#[derive(Clone, PartialEq)]
struct Manners {
    control: Vec<u8>,
    rounding: c_int,
    subnormals: bool,
    handlers: Vec<usize>,
    masks: Vec<u64>,
    locale: String,
    threads: usize,
    files: usize,
    folder: PathBuf,
    umask: u32,
    variables: Vec<(OsString, OsString)>,
}

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn look() -> Manners {
    let mut environment = [0u8; 64]; // larger than any fenv_t
    let handler = |number| {
        let mut action = [0usize; 32]; // larger than struct sigaction, which begins with the handler
        // SAFETY: nothing is set.
        unsafe { sigaction(number, std::ptr::null(), action.as_mut_ptr().cast()) };
        action[0]
    };
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let of_libc = 3 << 31; // 32 and 33: the C library's own, set when the first thread is made
    let masks = status.lines().filter(|line| ["SigBlk", "SigIgn", "SigCgt"].iter().any(|name| line.starts_with(name)));
    // SAFETY: the buffer is large enough, locale 6 is LC_ALL, and the umask is put back.
    let (rounding, locale, umask) = unsafe {
        fegetenv(environment.as_mut_ptr());
        let mask = umask(0);
        umask(mask);
        (fegetround(), CStr::from_ptr(setlocale(6, std::ptr::null())).to_string_lossy().into_owned(), mask)
    };
    // The control words alone: every addition may set the sticky flags beside them.
    let control = if cfg!(target_arch = "x86_64") {
        vec![environment[0], environment[1], environment[28] & 0xc0, environment[29]]
    } else {
        environment[..4].to_vec()
    };
    let half = std::hint::black_box(f32::MIN_POSITIVE) / std::hint::black_box(2.0);
    let quarter = std::hint::black_box(f64::MIN_POSITIVE) / std::hint::black_box(4.0);
    Manners {
        control,
        rounding,
        subnormals: half > 0.0 && half + half == f32::MIN_POSITIVE && quarter > 0.0,
        handlers: (1..65).filter(|number| ![32, 33].contains(number)).map(handler).collect(),
        masks: masks.map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap() & !of_libc).collect(),
        locale,
        threads: entries("/proc/self/task"),
        files: entries("/proc/self/fd"),
        folder: std::env::current_dir().unwrap(),
        umask,
        variables: std::env::vars_os().collect(),
    }
}

/// Names of what is no longer as it was.
fn changed(before: &Manners) -> Vec<&'static str> {
    let now = look();
    let same = [
        ("control", now.control == before.control),
        ("rounding", now.rounding == before.rounding),
        ("subnormals", now.subnormals == before.subnormals),
        ("handlers", now.handlers == before.handlers),
        ("masks", now.masks == before.masks),
        ("locale", now.locale == before.locale),
        ("threads", now.threads == before.threads),
        ("files", now.files == before.files),
        ("folder", now.folder == before.folder),
        ("umask", now.umask == before.umask),
        ("variables", now.variables == before.variables),
    ];
    same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
}

const UNCHANGED: [&str; 0] = [];

/// Memory of this process, in MiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}
const NOW: c_int = 2;

/// A host that has a context of a device current in this thread: tests/abi/device_host.c, compiled.
struct DeviceHost {
    memory: extern "C" fn(c_longlong) -> *mut c_void,
    unchanged: extern "C" fn() -> c_int,
    close: extern "C" fn(),
}

impl DeviceHost {
    fn open() -> std::result::Result<Self, String> {
        let path = std::env::var("THINK_DEVICE_HOST").map_err(|_| "THINK_DEVICE_HOST names no host that uses one".to_string())?;
        // SAFETY: the names are those of the functions, and the library stays.
        unsafe {
            let library = dlopen(CString::new(path).unwrap().as_ptr(), NOW);
            assert!(!library.is_null());
            let find = |name: &CStr| {
                let function = dlsym(library, name.as_ptr());
                assert!(!function.is_null(), "{name:?}");
                function
            };
            let open: extern "C" fn() -> *const c_char = std::mem::transmute(find(c"device_host_open"));
            let missing = open();
            if !missing.is_null() {
                return Err(CStr::from_ptr(missing).to_string_lossy().into_owned());
            }
            Ok(Self {
                memory: std::mem::transmute::<*mut c_void, extern "C" fn(c_longlong) -> *mut c_void>(find(c"device_host_memory")),
                unchanged: std::mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(find(c"device_host_unchanged")),
                close: std::mem::transmute::<*mut c_void, extern "C" fn()>(find(c"device_host_close")),
            })
        }
    }

    fn check(&self, when: &str) {
        assert_eq!((self.unchanged)(), 1, "{when} changed the current context of the device");
    }
}

impl Drop for DeviceHost {
    fn drop(&mut self) {
        (self.close)();
    }
}

/// What the thread has current of a device, where there is one: says so, or why this was left out. Memory of a device is none of the safe functions'.
fn on_a_device(plan: &Plan) -> String {
    let left_out = |reason: &dyn std::fmt::Display| format!("left out: the current context of a device: {reason}");
    let host = match DeviceHost::open() {
        Ok(host) => host,
        Err(reason) => return left_out(&reason),
    };
    let made = Context::options().device(sys::THINK_DEVICE_CUDA, 0).build();
    host.check("a context");
    match made {
        Err(error) if error.kind == ErrorKind::Unsupported => return left_out(&error),
        made => drop(made.unwrap()),
    }
    host.check("a context that is gone");
    let options = sys::think_context_options { device_type: sys::THINK_DEVICE_CUDA, ..Default::default() };
    let problem = sys::think_problem { query_heads: 4, kv_heads: 2, key_channels: 16, ..Default::default() };
    let (mut context, mut there, no_record) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: all are valid; the memory is of the size that was asked for.
    unsafe {
        assert_eq!(sys::think_context_create(&options, &mut context, no_record), sys::THINK_OK);
        assert_eq!(sys::think_plan_create(context, &problem, &mut there, no_record), sys::THINK_OK);
        host.check("a plan");
        let mut launch = sys::think_launch::default();
        let mut bytes = 0;
        let stage = sys::THINK_STAGE_SCORE;
        assert_eq!(sys::think_workspace_size(there, stage, std::ptr::null(), &mut launch.workspace_bytes, std::ptr::null_mut(), no_record), sys::THINK_OK);
        assert_eq!(sys::think_score_state_size(there, 1, &mut bytes, no_record), sys::THINK_OK);
        launch.workspace = (host.memory)(launch.workspace_bytes + 1);
        let state = (host.memory)(bytes);
        assert!(!launch.workspace.is_null() && !state.is_null());
        assert_eq!(sys::think_score_reset(there, state, std::ptr::null(), &launch, no_record), sys::THINK_OK);
        host.check("work on the device");
        let nothing = std::ptr::null_mut();
        assert_eq!(sys::think_score_reset(there, nothing, std::ptr::null(), &launch, no_record), sys::THINK_E_ARGUMENT);
        host.check("an error on the device");
        work(plan);
        host.check("work beside the device");
        sys::think_plan_destroy(there);
        sys::think_context_destroy(context);
    }
    host.check("everything on the device");
    "the current context of the device is as it was".into()
}

/// Is the library in this process, though nobody holds it any more?
#[cfg(feature = "dlopen")]
fn is_there_when_given_up() -> bool {
    extern "C" {
        fn dlclose(library: *mut c_void) -> c_int;
    }
    let name = std::env::var("THINK_LIBRARY").unwrap_or_else(|_| "libthink.so.1".into());
    let name = CString::new(name).unwrap();
    const ONLY_IF_THERE: c_int = 4;
    // SAFETY: this is the last that this process has of the library, should it go.
    unsafe {
        let library = dlopen(name.as_ptr(), NOW);
        assert!(!library.is_null());
        assert_eq!((dlclose(library), dlclose(library)), (0, 0)); // this handle, and that of the crate
        !dlopen(name.as_ptr(), NOW | ONLY_IF_THERE).is_null()
    }
}

// One test: threads of others would be counted.
#[test]
fn the_process_is_left_alone_and_threads_agree() {
    let before = look();
    assert!(before.subnormals);
    let context = Context::new().unwrap();
    assert_eq!(changed(&before), UNCHANGED, "a context");
    let plan = plan(&context);
    drop(context);
    assert_eq!(changed(&before), UNCHANGED, "a plan");
    let expected = work(&plan);
    assert_eq!(changed(&before), UNCHANGED, "work"); // no thread unless asked for
    assert!(query(12345).is_err());
    assert_eq!(changed(&before), UNCHANGED, "an error");

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
    let agreed = threads.into_iter().map(|thread| thread.join().unwrap() == expected).filter(|same| *same).count();
    assert_eq!(agreed, 64, "threads with the right result");

    let own = self::plan(&Context::options().threads(3).build().unwrap());
    assert_eq!(work(&own), expected);
    assert_eq!(entries("/proc/self/task"), before.threads + 2);
    // Made and dropped again and again, the plan before the cache and the other way round, beside threads that work.
    let mut at_first = 0;
    for round in 0..120 {
        if round == 20 {
            at_first = resident(); // what allocators keep has been reached
        }
        let context = Context::options().threads(if round % 10 == 0 { 2 } else { 0 }).build().unwrap();
        let short = self::plan(&context);
        drop(context);
        assert_eq!(work(&short), expected);
        let cache = Cache::new(&short, &CacheOptions::default()).unwrap();
        if round % 2 == 0 {
            drop(short);
        }
        drop(cache);
    }
    let more = resident().saturating_sub(at_first);
    assert!(more < 32, "{more} MiB are left behind");
    drop(own);
    assert_eq!(changed(&before), UNCHANGED, "everything");
    // Past the test harness, which keeps what passing tests print. The driver has threads and files of its own.
    writeln!(std::io::stderr(), "{}", on_a_device(&plan)).unwrap();

    #[cfg(feature = "dlopen")]
    {
        assert!(is_there_when_given_up(), "the library can be unloaded under those who use it");
        assert_eq!(work(&plan), expected);
    }
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
