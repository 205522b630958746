//! Links the kernel as the real one is linked.

fn main() {
    let script = "../../../guest-agent/kernel.ld";
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{}/{script}", env!("CARGO_MANIFEST_DIR"));
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
}
