//! Checks the layers: each imports only from the layers below it, so there are no cycles, and a
//! reader who follows a datagram never goes back up.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each layer, and what it may import.
const LAYERS: &[(&str, &[&str])] = &[
    // The machine, or in tests a simulated one.
    ("host", &["simulation"]),
    ("wire", &[]),
    ("crypto", &["wire"]),
    ("link", &["crypto", "wire"]),
    ("endpoint", &["link", "crypto", "wire"]),
    ("store", &["wire"]),
    ("realm", &["store", "crypto", "wire"]),
    ("federation", &["realm", "crypto", "wire"]),
    (
        "server",
        &[
            "endpoint",
            "federation",
            "realm",
            "store",
            "link",
            "crypto",
            "wire",
            "host",
        ],
    ),
    ("client", &["endpoint", "link", "crypto", "wire", "host"]),
    // Only in tests.
    (
        "simulation",
        &[
            "client", "server", "endpoint", "realm", "store", "link", "crypto", "wire", "host",
        ],
    ),
    ("cli", &["client", "server", "crypto", "wire"]),
];

/// The maximum length of a file in lines, with the tests in it.
const LINES_MAX: usize = 600;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Returns the layers that a file names, by `crate::` (in the program: `merpati::`).
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for root in ["crate::", "merpati::"] {
        for (at, _) in text.match_indices(root) {
            let rest = &text[at + root.len()..];
            let names = match rest.strip_prefix('{') {
                // Only the names directly inside the braces, not nested ones.
                Some(list) => {
                    let mut depth = 0;
                    let end = list.char_indices().find_map(|(at, c)| {
                        depth += i32::from(c == '{') - i32::from(c == '}');
                        (depth < 0).then_some(at)
                    });
                    let mut depth = 0;
                    list[..end.unwrap()]
                        .split(|c: char| {
                            depth += i32::from(c == '{') - i32::from(c == '}');
                            c == ',' && depth == 0
                        })
                        .map(str::trim)
                        .filter(|name| !name.is_empty())
                        .map(ToString::to_string)
                        .collect()
                }
                None => vec![rest.to_string()],
            };
            for name in names {
                let end = name.find(|c: char| !c.is_ascii_lowercase() && c != '_');
                found.insert(name[..end.unwrap_or(name.len())].to_string());
            }
        }
    }
    found
}

#[test]
fn layering_imports_run_only_downwards() {
    let layers: BTreeSet<_> = LAYERS.iter().map(|(layer, _)| *layer).collect();
    for directory in fs::read_dir(source())
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if !directory.is_dir() {
            continue;
        }
        let layer = directory.file_name().unwrap().to_str().unwrap().to_string();
        let (_, allowed) = LAYERS
            .iter()
            .find(|(name, _)| *name == layer)
            .unwrap_or_else(|| {
                panic!(
                    "{layer} is not a layer; give it its place in this test and in ARCHITECTURE.md"
                )
            });
        for file in files(&directory) {
            for import in imports(&fs::read_to_string(&file).unwrap()) {
                // The tests of a layer may run it in a simulated world, and those of the realm may
                // use the federation.
                let is_test = (import == "simulation" && file.ends_with("tests.rs"))
                    || (import == "federation" && file.iter().any(|part| part == "tests"));
                if layers.contains(import.as_str()) && import != layer && !is_test {
                    assert!(
                        allowed.contains(&import.as_str()),
                        "{} imports from {import}, which {layer} must not know",
                        file.display()
                    );
                }
            }
        }
    }
}

#[test]
fn layering_check_sees_imports_of_every_shape() {
    let text = "use crate::{\n  link::{Time, crypto::X},\n wire, realm::Realm,\n};\nlet x = crate::store::Key;";
    let found: Vec<_> = imports(text).into_iter().collect();
    assert_eq!(found, ["link", "realm", "store", "wire"]);
}

#[test]
fn layering_source_files_stay_below_line_limit() {
    for file in files(&source()) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(
            lines <= LINES_MAX,
            "{} has {lines} lines; make two of it",
            file.display()
        );
    }
}

/// rustfmt keeps code within 100 columns. Tables and pictures in comments may be wider.
#[test]
fn layering_comments_stay_within_100_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for directory in ["src", "tests", "benches", "examples"] {
        for file in files(&root.join(directory)) {
            let text = fs::read_to_string(&file).unwrap();
            let mut is_table = false;
            let wide = text.lines().filter(|line| {
                let line = line.trim_end();
                let is_comment = line.trim_start().starts_with("//");
                is_table ^= is_comment && line.contains("```");
                is_comment && !is_table && line.chars().count() > 100
            });
            let wide: Vec<_> = wide.collect();
            assert!(wide.is_empty(), "{}: {wide:#?}", file.display());
        }
    }
}

/// Names of modules and types that others have replaced (docs/glossary.md).
const FORMER_MODULES: &[&str] = &[
    "allowance",
    "accepts",
    "assembling",
    "assembly",
    "behind",
    "beside",
    "calls",
    "carrying",
    "copies",
    "deciding",
    "departing",
    "desk",
    "done",
    "hosting",
    "keeper",
    "kept",
    "leaving",
    "packing",
    "person",
    "places",
    "renewal",
    "rest",
    "roaming",
    "room",
    "site",
    "slot",
    "strangers",
    "telling",
    "unit",
    "verdicts",
    "watches",
    "windows",
];
const FORMER_TYPES: &[&str] = &[
    "Accepts",
    "Allowance",
    "Allowances",
    "Assemblies",
    "Assembling",
    "Beside",
    "Calls",
    "CopyRecord",
    "Errand",
    "Frequency",
    "Gate",
    "Handed",
    "Leaving",
    "MayRest",
    "Packer",
    "Person",
    "Renewal",
    "Resting",
    "Site",
    "Slot",
    "Traits",
    "Verdicts",
    "Watches",
    "Ways",
];
/// In these files the name means something else.
const ALLOWED: &[&str] = &[
    "server/assembly.rs",
    "client/calls.rs",
    "client/outbox/done.rs",
];

#[test]
fn glossary_former_names_do_not_return() {
    for file in files(&source()) {
        let name = file.strip_prefix(source()).unwrap().to_str().unwrap();
        let stem = file.file_stem().unwrap().to_str().unwrap();
        assert!(
            ALLOWED.contains(&name) || name.contains("tests/") || !FORMER_MODULES.contains(&stem),
            "{name} has a former name: docs/glossary.md has the word"
        );
        let text = fs::read_to_string(&file).unwrap();
        for line in text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
        {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let declares = ["struct", "enum", "trait", "type"];
            while let Some(word) = words.next() {
                if declares.contains(&word)
                    && let Some(named) = words.next()
                {
                    assert!(
                        !FORMER_TYPES.contains(&named),
                        "{name}: {named} is a former name: docs/glossary.md has the word"
                    );
                }
            }
        }
    }
}
