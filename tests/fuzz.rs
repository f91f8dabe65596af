//! Runs the inputs that the fuzzer found worth keeping (`fuzz/corpus`) again. `fuzz/campaign` runs
//! the fuzzer itself.

#[path = "../src/cli/args.rs"]
#[allow(dead_code, missing_docs)]
mod args;
#[path = "../src/cli/local_args.rs"]
#[allow(dead_code, missing_docs)]
mod local_args;
#[path = "../src/cli/names.rs"]
#[allow(dead_code, missing_docs)]
mod names;
#[path = "../src/cli/remote_args.rs"]
#[allow(dead_code, missing_docs)]
mod remote_args;
#[path = "../src/cli/shared_args.rs"]
#[allow(dead_code, missing_docs)]
mod shared_args;
#[path = "../src/cli/shell/line.rs"]
#[allow(dead_code, missing_docs)]
mod shell_line;
#[path = "../fuzz/src/targets/mod.rs"]
#[allow(dead_code, missing_docs, clippy::pedantic)]
mod targets;
#[path = "../src/cli/workload.rs"]
#[allow(dead_code, missing_docs)]
mod workload;

use data_encoding::BASE64;

use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
};

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn fuzz_corpus_inputs_do_no_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, run) in targets::TARGETS {
        let inputs = fs::read_to_string(corpus.join(name)).unwrap();
        assert!(inputs.lines().count() > 10, "{name} has a corpus");
        for line in inputs.lines() {
            let input = BASE64.decode(line.as_bytes()).unwrap();
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(&input)));
            assert!(outcome.is_ok(), "{name} fails for {line}");
        }
    }
}

/// Runs one input from a file, with a trace of its steps:
/// `MERPATI_INPUT=link:fuzz/artifacts/link/crash-… MERPATI_TRACE=1
/// cargo test --test fuzz one -- --nocapture`.
#[test]
fn fuzz_one_input_from_environment_runs() {
    let Ok(named) = std::env::var("MERPATI_INPUT") else {
        return;
    };
    let (name, path) = named.split_once(':').unwrap();
    let target = targets::TARGETS.iter().find(|(target, _)| *target == name);
    let (_, run) = target.unwrap_or_else(|| panic!("there is no target {name}"));
    run(&fs::read(path).unwrap());
}

#[test]
fn fuzz_targets_all_have_program() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut programs: Vec<_> = files(&fuzz.join("fuzz_targets"))
        .iter()
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let mut names: Vec<_> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    programs.sort();
    names.sort_unstable();
    assert_eq!(names, programs);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
