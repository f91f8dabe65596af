//! Checks the layers: each imports only from the layers below it, so there are no cycles, and a
//! reader who follows a datagram never goes back up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Each layer, from the bottom up, and what it imports: only layers that stand before it here.
const LAYERS: &[(&str, &str)] = &[
    // Files that all layers may need, and that need none: `src/faults.rs` and so on.
    ("faults", ""),
    ("subnet", ""),
    ("rate_limit", "faults subnet"),
    // The machine.
    ("host", "subnet"),
    ("wire", ""),
    ("crypto", "wire"),
    ("link", "faults wire crypto"),
    ("endpoint", "faults subnet rate_limit wire crypto link"),
    ("store", "faults wire"),
    ("realm", "faults subnet rate_limit wire crypto store"),
    ("federation", "faults wire crypto realm"),
    (
        "server",
        "faults subnet rate_limit host wire crypto link endpoint store realm federation",
    ),
    ("client", "faults subnet host wire crypto link endpoint"),
    // Only in tests.
    (
        "simulation",
        "faults rate_limit host wire crypto link endpoint store realm server client",
    ),
    ("cli", "wire crypto server client"),
    // It only declares the others.
    ("lib", ""),
];

/// What a layer passes on from a layer below it. Whoever imports it from there has an arrow that
/// [`LAYERS`] does not show, so each has a reason.
const RE_EXPORTS: &[(&str, &str, &[&str])] = &[
    // An application reads how its link does and says what kind of path it has. It needs nothing
    // else of the link, so neither it nor the program knows that layer.
    (
        "client",
        "crate::link::",
        &[
            "Counters",
            "DATAGRAM_MIN",
            "LinkParameters",
            "LinkProfile",
            "LinkStats",
            "Losses",
            "PathMemory",
            "Redundancy",
            "Silence",
            "trace::TARGET",
        ],
    ),
    // A position in a log is what clients see as the position of an entry: a type of its own would
    // only be converted.
    ("store", "crate::wire::", &["Position"]),
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

/// Returns the text without the lines below a `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn without_test_lines(text: &str) -> String {
    let mut is_test = false;
    let lines = text.lines().filter(|line| {
        let line = line.trim_start();
        let gates = line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test,");
        !std::mem::replace(&mut is_test, gates)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// True if only tests import a layer that the file's layer must not know. The machine has a
/// simulated variant, so `host` names the simulator, but the program is built without those lines.
fn is_only_for_tests(import: &str, file: &Path, text: &str) -> bool {
    match import {
        "simulation" => {
            file.ends_with("tests.rs") || !imports(&without_test_lines(text)).contains(import)
        }
        // The tests of the realm may use the federation.
        "federation" => file.iter().any(|part| part == "tests"),
        _ => false,
    }
}

#[test]
fn layering_imports_run_only_downwards() {
    let mut layers = BTreeSet::new();
    for (layer, allowed) in LAYERS {
        let mut imports = allowed.split_whitespace();
        let is_below = imports.all(|import| layers.contains(import));
        assert!(is_below, "{layer} imports upwards");
        layers.insert(*layer);
    }
    for path in fs::read_dir(source())
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        let layer = path.file_stem().unwrap().to_str().unwrap();
        let (_, allowed) = LAYERS
            .iter()
            .find(|(name, _)| *name == layer)
            .unwrap_or_else(|| {
                panic!(
                    "{layer} is not a layer; give it its place in this test and in ARCHITECTURE.md"
                )
            });
        let allowed: BTreeSet<_> = allowed.split_whitespace().collect();
        let mut used = BTreeSet::new();
        let files = if path.is_dir() {
            files(&path)
        } else {
            vec![path.clone()]
        };
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for import in imports(&text) {
                let is_layer = layers.contains(import.as_str()) && import != layer;
                if is_layer && !is_only_for_tests(&import, &file, &text) {
                    assert!(
                        allowed.contains(import.as_str()),
                        "{} imports from {import}, which {layer} must not know",
                        file.display()
                    );
                    used.insert(import);
                }
            }
        }
        let unused = allowed.iter().find(|import| !used.contains(**import));
        assert_eq!(unused, None, "{layer} does not import this layer any more");
    }
}

/// Returns the paths that a file passes on from other layers or its own.
fn re_exports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("use crate::") {
        let before = text[..at].rsplit('\n').next();
        if before.is_some_and(|line| line.trim_start().starts_with("pub")) {
            found.extend(paths(text[at..].split(';').next().unwrap()));
        }
    }
    found
}

#[test]
fn layering_only_listed_types_are_passed_on_from_layer_to_layer() {
    let mut found = BTreeSet::new();
    for (layer, _) in LAYERS
        .iter()
        .filter(|(layer, _)| source().join(layer).is_dir())
    {
        for file in files(&source().join(layer)) {
            let passed_on = re_exports(&fs::read_to_string(&file).unwrap());
            let own = format!("crate::{layer}::");
            let of_others = passed_on.into_iter().filter(|path| !path.starts_with(&own));
            found.extend(of_others.map(|path| (*layer, path)));
        }
    }
    let known = RE_EXPORTS.iter().flat_map(|(layer, from, names)| {
        let path = move |name: &&str| (*layer, format!("{from}{name}"));
        names.iter().map(path)
    });
    assert_eq!(found, known.collect());
}

#[test]
fn layering_check_sees_imports_of_every_shape() {
    let text = "use crate::{\n  link::{Time, crypto::X},\n wire, realm::Realm,\n};\nlet x = crate::store::Key;";
    let found: Vec<_> = imports(text).into_iter().collect();
    assert_eq!(found, ["link", "realm", "store", "wire"]);
    let text = "#[cfg(all(test, unix))]\nA(crate::simulation::X),\nB(crate::wire::Y),";
    assert_eq!(without_test_lines(text).matches("crate::").count(), 1);
    let text = "pub use crate::link::a::B as C;\nuse crate::wire::D;\npub(crate) use crate::{\n    wire::E,\n};";
    assert_eq!(re_exports(text), ["crate::link::a::B", "crate::wire::E"]);
}

/// Modules of one directory that import from each other in a circle. Nobody can understand one of
/// them without the others, so no circle may be added; one that is gone leaves this list. Modules
/// without a circle can be read in an order in which each imports only from those before it, so
/// the layers need no list of such an order.
const CIRCLES: &[(&str, &[&str])] = &[];

/// Returns the paths that a file uses, with their groups written out. Tests in the file do not
/// count.
fn paths(text: &str) -> Vec<String> {
    fn expand(prefix: &str, tree: &mut std::str::Chars<'_>, found: &mut Vec<String>) {
        let mut path = String::new();
        loop {
            match tree.next() {
                Some('{') => expand(
                    &(prefix.to_string() + std::mem::take(&mut path).trim()),
                    tree,
                    found,
                ),
                end @ (Some(',' | '}') | None) => {
                    // Without the name that an `as` gives.
                    let name = path.split_whitespace().next();
                    found.extend(name.map(|name| format!("{prefix}{name}")));
                    path.clear();
                    if end != Some(',') {
                        return;
                    }
                }
                Some(c) => path.push(c),
            }
        }
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

/// Returns the modules from which a directory's `mod.rs` takes names: `super::Name` in another
/// module of the directory is an import from that module.
fn names_of(directory: &Path) -> BTreeMap<String, String> {
    let root = fs::read_to_string(directory.join("mod.rs")).unwrap_or_default();
    let named = paths(&root).into_iter().filter_map(|path| {
        let path = path.strip_prefix("self::").unwrap_or(&path);
        let (module, _) = path.split_once("::")?;
        let name = path.rsplit("::").next()?;
        (!matches!(module, "super" | "crate")).then(|| (name.to_string(), module.to_string()))
    });
    named.collect()
}

/// Returns, for each module at the top of a directory, the other ones that it imports from.
fn arrows(directory: &str) -> BTreeMap<String, BTreeSet<String>> {
    let root = source().join(directory);
    // The program is a crate of its own.
    let own = format!("crate/{directory}/").replace("/cli/", "/");
    let own = own.replace('/', "::");
    let mut arrows = BTreeMap::<String, BTreeSet<String>>::new();
    let named = names_of(&root);
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
            let path = match path.strip_prefix(&own) {
                Some(rest) => "super::".repeat(module.len()) + rest,
                None => path,
            };
            let path: Vec<&str> = path.split("::").collect();
            let above = path.iter().take_while(|part| **part == "super").count();
            if above == module.len()
                && let Some(name) = path.get(above)
            {
                let to = named.get(*name).map_or(*name, String::as_str);
                imports.insert(to.to_string());
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
fn layering_modules_of_directory_form_no_new_circle() {
    let files = files(&source());
    let directories = files.iter().map(|file| {
        let directory = file.parent().unwrap().strip_prefix(source()).unwrap();
        directory.to_str().unwrap()
    });
    let is_checked = |directory: &&str| {
        !(directory.is_empty() || directory.contains("tests") || directory.contains("simulation"))
    };
    let mut found = BTreeSet::new();
    for directory in directories.filter(is_checked) {
        let circles = circles(&arrows(directory)).into_iter();
        found.extend(circles.map(|circle| (directory, circle)));
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
    "introducing",
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
    "waiters",
    "watches",
    "windows",
];
const FORMER_TYPES: &[&str] = &[
    "Accepts",
    "Allowance",
    "Allowances",
    "Aside",
    "Assemblies",
    "Assembling",
    "Beside",
    "Calls",
    "CopyRecord",
    "Desk",
    "Desks",
    "Errand",
    "Frequency",
    "Gate",
    "Handed",
    "Happened",
    "Leaving",
    "MayRest",
    "Packer",
    "Person",
    "Renewal",
    "Resting",
    "Seated",
    "Site",
    "Slot",
    "Traits",
    "Upkeep",
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
