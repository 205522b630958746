//! Links the kernel by its own script; on the host nothing is special.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=kernel.ld");
    let is_kernel = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "none");
    if is_kernel {
        let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bins=-T{folder}/kernel.ld");
        println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
    }
}
