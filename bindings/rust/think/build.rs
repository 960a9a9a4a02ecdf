fn main() {
    // For the tests and examples of this crate; programs that use it do the same in a build.rs of their own, or set LD_LIBRARY_PATH.
    if let Ok(folder) = std::env::var("DEP_THINK_LIB_DIR") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
