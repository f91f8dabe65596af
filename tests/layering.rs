//! Checks the layers: each imports only from the layers below it, so there are no cycles, and a
//! reader who follows a datagram never goes back up.

use std::{
    collections::{BTreeMap, BTreeSet},
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

/// Modules of a layer that import from each other in a circle. Nobody can understand one of them
/// without the others, so no circle may be added; one that is gone leaves this list.
const CIRCLES: &[(&str, &[&str])] = &[(
    "endpoint",
    &[
        "accept_cache",
        "dial",
        "dormant",
        "limits",
        "link_entry",
        "link_slots",
        "memory",
        "rekey",
        "resume",
    ],
)];

/// Returns the paths that a file uses, with their groups written out. Tests in the file do not
/// count.
fn paths(text: &str) -> Vec<String> {
    fn expand(prefix: &str, tree: &mut std::str::Chars<'_>, found: &mut Vec<String>) {
        let mut path = String::new();
        while let Some(c) = tree.next() {
            match c {
                '{' => expand(
                    &(prefix.to_string() + &std::mem::take(&mut path)),
                    tree,
                    found,
                ),
                ',' | '}' => {
                    found.extend((!path.is_empty()).then(|| format!("{prefix}{path}")));
                    path.clear();
                    if c == '}' {
                        return;
                    }
                }
                c => path.push(c),
            }
        }
        found.extend((!path.is_empty()).then(|| format!("{prefix}{path}")));
    }
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for statement in code.split(';') {
        let mut rest = statement;
        if let Some((before, tree)) = statement.rsplit_once("use ")
            && before.lines().last().is_none_or(|line| {
                let line = line.trim();
                line.is_empty() || line.starts_with("pub")
            })
        {
            let tree: String = tree.split_whitespace().collect();
            expand("", &mut tree.chars(), &mut found);
            rest = before;
        }
        for root in ["super::", "crate::"] {
            for (at, _) in rest.match_indices(root) {
                let path = &rest[at..];
                let end = path.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
                found.push(path[..end.unwrap_or(path.len())].to_string());
            }
        }
    }
    found
}

/// Returns, for each module at the top of a layer, the other ones that it imports from.
fn arrows(layer: &str) -> BTreeMap<String, BTreeSet<String>> {
    let root = source().join(layer);
    let mut arrows = BTreeMap::<String, BTreeSet<String>>::new();
    for file in files(&root) {
        let below = file.strip_prefix(&root).unwrap().with_extension("");
        let mut module: Vec<&str> = below.iter().map(|part| part.to_str().unwrap()).collect();
        if module.last() == Some(&"mod") {
            module.pop();
        }
        let is_test =
            |part: &&str| matches!(*part, "tests" | "testing") || part.ends_with("_tests");
        let Some(top) = module.first().filter(|_| !module.iter().any(is_test)) else {
            continue;
        };
        let imports = arrows.entry((*top).to_string()).or_default();
        for path in paths(&fs::read_to_string(&file).unwrap()) {
            let mut path: Vec<&str> = path.split("::").collect();
            let above = path.iter().take_while(|part| **part == "super").count();
            let base = if above > 0 {
                module.len().checked_sub(above)
            } else if path.first() == Some(&"crate") && path.get(1) == Some(&layer) {
                path.drain(..2);
                Some(0)
            } else {
                None
            };
            if base == Some(0) {
                imports.extend(path.get(above).map(|to| (*to).to_string()));
            }
        }
    }
    let modules: BTreeSet<String> = arrows.keys().cloned().collect();
    for (module, imports) in &mut arrows {
        imports.retain(|to| to != module && modules.contains(to));
    }
    arrows
}

/// Returns the modules that a module reaches by imports.
fn reached<'a>(
    from: &'a String,
    arrows: &'a BTreeMap<String, BTreeSet<String>>,
) -> BTreeSet<&'a String> {
    let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
    while let Some(module) = left.pop() {
        left.extend(arrows[module].iter().filter(|to| seen.insert(*to)));
    }
    seen
}

/// Returns the groups of modules that reach each other.
fn circles(arrows: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<Vec<String>> {
    let all: BTreeMap<&String, BTreeSet<&String>> = arrows
        .keys()
        .map(|module| (module, reached(module, arrows)))
        .collect();
    let circle = |module: &String| {
        let mutual = all[module].iter().filter(|to| all[*to].contains(module));
        mutual.map(ToString::to_string).collect::<Vec<_>>()
    };
    let circles = arrows.keys().map(circle);
    circles.filter(|circle| circle.len() > 1).collect()
}

#[test]
fn layering_modules_of_layer_form_no_new_circle() {
    let mut found = BTreeSet::new();
    for (layer, _) in LAYERS.iter().filter(|(layer, _)| *layer != "simulation") {
        found.extend(
            circles(&arrows(layer))
                .into_iter()
                .map(|circle| (*layer, circle)),
        );
    }
    let known = CIRCLES.iter().map(|(layer, circle)| {
        let circle = circle.iter().map(ToString::to_string);
        (*layer, circle.collect::<Vec<_>>())
    });
    assert_eq!(found, known.collect());
}

#[test]
fn layering_check_sees_circles_over_paths_of_every_shape() {
    let text = "use super::{\n    a::{B, c::D},\n    e,\n};\nfn x() { super::f::g(); }\nuse crate::link::h;";
    let found = paths(text);
    for path in [
        "super::a::B",
        "super::a::c::D",
        "super::e",
        "super::f::g",
        "crate::link::h",
    ] {
        assert!(
            found.iter().any(|one| one == path),
            "{path} is not in {found:?}"
        );
    }
    let arrow = |from: &str, to: &[&str]| {
        let to = to.iter().map(ToString::to_string).collect();
        (from.to_string(), to)
    };
    let arrows = [
        arrow("a", &["b"]),
        arrow("b", &["c"]),
        arrow("c", &["a"]),
        arrow("d", &["a"]),
    ];
    assert_eq!(
        circles(&arrows.into()),
        [["a", "b", "c"].map(String::from).to_vec()].into()
    );
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
const ALLOWED: &[&str] = &["client/calls.rs", "client/outbox/done.rs"];

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
