//! Makes the light client (profile `light`, optimised for size, which aborts on panic) smaller when
//! it is linked: functions that are the same are kept once, and there are no tables for unwinding,
//! which nothing there does.

use std::{env, fs, path::Path};

const WITHOUT_UNWINDING: &str =
    "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.gcc_except_table*) } } INSERT AFTER .text;\n";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, wanted: &str| env::var(name).is_ok_and(|value| value == wanted);
    // The linker that Rust brings for this target knows these.
    let target = "x86_64-unknown-linux-gnu";
    if !is("OPT_LEVEL", "z") || !is("TARGET", target) || !is("HOST", target) {
        return;
    }
    let Ok(directory) = env::var("OUT_DIR") else {
        return;
    };
    let script = Path::new(&directory).join("light.ld");
    if fs::write(&script, WITHOUT_UNWINDING).is_ok() {
        let script = format!("-Wl,-T,{}", script.display());
        for argument in ["-Wl,--icf=all", "-Wl,--no-eh-frame-hdr", "-no-pie", &script] {
            println!("cargo::rustc-link-arg-examples={argument}");
        }
    }
}
