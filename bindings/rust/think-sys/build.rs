use std::env;

fn main() {
    println!("cargo:rerun-if-env-changed=THINK_LIB_DIR");
    // Documentation is built where no library is.
    if env::var_os("CARGO_FEATURE_DLOPEN").is_some() || env::var_os("DOCS_RS").is_some() {
        return;
    }
    if let Ok(folder) = env::var("THINK_LIB_DIR") {
        println!("cargo:rustc-link-search=native={folder}");
        println!("cargo:rustc-link-lib=dylib=think");
        announce(&folder);
        return;
    }
    match pkg_config::Config::new().range_version("0.11".."2").probe("think") {
        Ok(library) => library.link_paths.iter().for_each(|folder| announce(&folder.display().to_string())),
        Err(problem) => {
            eprintln!("libthink was not found: set THINK_LIB_DIR to the folder of libthink.so, or PKG_CONFIG_PATH to that of think.pc,");
            eprintln!("or use the feature `dlopen`, which needs it at run time only.\n{problem}");
            std::process::exit(1);
        }
    }
}

/// The rpath reaches this package's own tests; dependants read DEP_THINK_LIB_DIR.
fn announce(folder: &str) {
    println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    println!("cargo:lib_dir={folder}");
}
