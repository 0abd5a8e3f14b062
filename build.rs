//! The agent goes into images: it is linked without symbols, which are two thirds of it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=piaas-worker=-Wl,--strip-all");
}
