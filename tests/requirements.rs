//! Checks the spec against the tests: a test names every requirement of `spec/`, and nothing names
//! a requirement that the spec does not have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

/// Returns the requirement numbers in a text, as `WIRE-3`.
fn numbers(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.split(|c| !is_part(c))
        .filter(|word| {
            word.split_once('-').is_some_and(|(kind, number)| {
                let kinds = [
                    "WIRE", "HS", "LINK", "ACC", "SES", "READ", "WATCH", "EXACT", "PEER", "GRP",
                    "ERR", "SIZE",
                ];
                kinds.contains(&kind)
                    && !number.is_empty()
                    && number.chars().all(|c| c.is_ascii_digit())
            })
        })
        .map(ToString::to_string)
        .collect()
}

/// Returns the requirements that the spec states, each in bold, and their pages.
fn stated() -> BTreeMap<String, PathBuf> {
    let mut stated = BTreeMap::new();
    for page in files(&root().join("spec"), "md") {
        let text = fs::read_to_string(&page).unwrap();
        for bold in text.split("**").skip(1).step_by(2) {
            for number in numbers(bold) {
                let before = stated.insert(number.clone(), page.clone());
                assert!(before.is_none(), "{number} is stated twice");
            }
        }
    }
    stated
}

#[test]
fn requirements_of_spec_are_each_named_by_test() {
    let mut held = BTreeSet::new();
    for file in files(&root().join("tests"), "rs") {
        held.extend(numbers(&fs::read_to_string(file).unwrap()));
    }
    for file in files(&root().join("src"), "rs") {
        let text = fs::read_to_string(&file).unwrap();
        let is_test = file.components().any(|part| {
            let name = Path::new(part.as_os_str()).file_stem();
            name.is_some_and(|name| name == "tests" || name == "harness")
        });
        let tests = if is_test {
            &text
        } else {
            text.split_once("#[cfg(test)]\nmod tests")
                .map_or("", |(_, tests)| tests)
        };
        held.extend(numbers(tests));
    }
    let stated = stated();
    assert!(stated.len() > 50, "the spec was found");
    let loose: Vec<_> = stated
        .iter()
        .filter(|(number, _)| !held.contains(*number))
        .collect();
    assert!(loose.is_empty(), "no test names these: {loose:#?}");
}

#[test]
fn requirements_unknown_to_spec_are_named_nowhere() {
    let stated = stated();
    for directory in ["src", "tests", "spec"] {
        for file in ["rs", "md"]
            .iter()
            .flat_map(|end| files(&root().join(directory), end))
        {
            for number in numbers(&fs::read_to_string(&file).unwrap()) {
                assert!(
                    stated.contains_key(&number),
                    "{} names {number}",
                    file.display()
                );
            }
        }
    }
}

/// SECURITY.md: each promise names the tests that check it, and these exist.
#[test]
fn security_promises_name_existing_tests() {
    let page = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let (_, promised) = page.split_once("## What is promised").unwrap();
    let (promised, _) = promised.split_once("\n## ").unwrap();
    let promises: Vec<&str> = promised.split("\n- **").skip(1).collect();
    assert!(promises.len() >= 9);
    let code: Vec<String> = ["src", "tests"]
        .iter()
        .flat_map(|directory| files(&root().join(directory), "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for promise in promises {
        let (_, held) = promise.split_once("Held by ").unwrap_or_default();
        let tests: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test holds: {promise}");
        for test in tests {
            let is_there = code
                .iter()
                .any(|text| text.contains(&format!("fn {test}(")));
            assert!(is_there, "{test} holds a promise and is not there");
        }
    }
}

/// Returns the constants of a file that may be limits: name, file below `src`, and value as
/// written.
fn constants(file: &Path) -> Vec<[String; 3]> {
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("mod tests {").next().unwrap();
    let below = file.strip_prefix(root().join("src")).unwrap();
    let mut found = vec![];
    for (at, _) in text.match_indices("const ") {
        let line = text[..at].rsplit('\n').next().unwrap().trim_start();
        let Some((head, _)) = text[at + 6..].split_once(';') else {
            continue;
        };
        let Some((declared, value)) = head.split_once(" =") else {
            continue;
        };
        let Some((name, kind)) = declared.split_once(": ") else {
            continue;
        };
        let is_one = line.is_empty() || line.starts_with("pub");
        let counts = match kind {
            "usize" | "u128" | "u64" | "u32" | "u16" | "i32" | "Duration" | "RateLimit" => true,
            // Most of the `u8` constants are codes.
            "u8" => name.ends_with("_MAX"),
            _ => false,
        };
        if is_one && counts {
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            found.push([name.into(), below.display().to_string(), value]);
        }
    }
    found
}

/// `docs/limits.md` lists each constant that may be a limit with its value, and the tests that it
/// names exist.
#[test]
fn limits_page_lists_every_constant() {
    let page = fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let mut named = BTreeSet::new();
    let mut tests = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let row: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert!(row.iter().all(|cell| !cell.is_empty()), "{line}");
        if let [_, _, _, _, _, held] = row[..] {
            let tests_in = held.split('`').skip(1).step_by(2);
            tests.extend(tests_in.map(ToString::to_string));
            let requirements = numbers(held);
            let is_stated = requirements.iter().all(|one| stated().contains_key(one));
            assert!(is_stated, "a requirement is not stated: {line}");
            assert!(held.contains('`') || !requirements.is_empty(), "{line}");
        } else {
            assert_eq!(row.len(), 4, "{line}");
        }
        named.insert([row[0], row[1], row[2]].map(|cell| cell.trim_matches('`').to_string()));
    }
    let mut there = BTreeSet::new();
    let layers = [
        "realm",
        "federation",
        "store",
        "server",
        "endpoint",
        "link",
        "wire",
    ];
    for file in layers
        .iter()
        .flat_map(|layer| files(&root().join("src").join(layer), "rs"))
        .chain([root().join("src/rate_limit.rs")])
    {
        let is_test = file.components().any(|part| {
            let name = Path::new(part.as_os_str()).file_stem();
            name.is_some_and(|name| name == "tests" || name == "harness")
        });
        if !is_test {
            there.extend(constants(&file));
        }
    }
    assert!(there.len() > 200, "the constants were found");
    let missing: Vec<_> = there.difference(&named).collect();
    assert!(
        missing.is_empty(),
        "docs/limits.md does not say what happens one beyond these: {missing:#?}"
    );
    let gone: Vec<_> = named.difference(&there).collect();
    assert!(
        gone.is_empty(),
        "docs/limits.md names what is not there: {gone:#?}"
    );
    let code: String = ["src", "tests"]
        .iter()
        .flat_map(|directory| files(&root().join(directory), "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for test in tests {
        assert!(code.contains(&format!("fn {test}(")), "{test} is not there");
    }
}
