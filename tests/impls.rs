//! The methods of a type stand in one file, so that its state can be understood from there. The few
//! types that coordinate many others are listed, and may only spread less.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Types whose methods stand in several files: the layer, the type, and the number of files.
/// `Realm` has a file for each kind of command (docs/decisions/0019), `Endpoint` and `Link` one for
/// each concern that needs several of their components, `Client` one for each kind of call.
const SPREAD: &[(&str, &str, usize)] = &[
    ("client", "Client", 10),
    ("client", "Shared", 8),
    ("endpoint", "Endpoint", 15),
    ("link", "Link", 6),
    ("link", "Queue", 3),
    ("realm", "Caller", 2),
    ("realm", "Groups", 5),
    ("realm", "Mailboxes", 2),
    ("realm", "PeerQueues", 4),
    ("realm", "Peers", 3),
    ("realm", "Realm", 25),
    ("realm", "Work", 2),
    ("server", "Server", 2),
    ("store", "Embedded", 3),
];

/// Returns all source files but those of tests and of the simulator.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !["tests", "simulation"].contains(&name) {
                found.extend(files(&path));
            }
        } else if path.extension().is_some_and(|it| it == "rs") && name != "tests.rs" {
            found.push(path);
        }
    }
    found
}

/// Returns the type of an inherent implementation that begins in this line.
fn implemented(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?;
    let rest = match rest.strip_prefix('<') {
        Some(generics) => {
            let mut depth = 1;
            let end = generics.find(|letter| {
                depth += i32::from(letter == '<') - i32::from(letter == '>');
                depth == 0
            })?;
            generics.get(end + 1..)?
        }
        None => rest,
    };
    let rest = rest.strip_prefix(' ')?;
    if rest.contains(" for ") {
        return None;
    }
    let end = rest.find(|letter: char| !letter.is_alphanumeric())?;
    Some(&rest[..end]).filter(|name| name.starts_with(char::is_uppercase))
}

#[test]
fn impls_of_one_type_stand_in_one_file() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut places: BTreeMap<(String, String), BTreeSet<PathBuf>> = BTreeMap::new();
    for file in files(&source) {
        let within = file.strip_prefix(&source).unwrap();
        let layer = within.components().next().unwrap().as_os_str();
        let layer = layer.to_str().unwrap().to_string();
        for line in fs::read_to_string(&file).unwrap().lines() {
            if let Some(name) = implemented(line) {
                let types = places.entry((layer.clone(), name.to_string()));
                types.or_default().insert(within.into());
            }
        }
    }
    let spread: Vec<(&str, &str, usize)> = places
        .iter()
        .filter(|(_, files)| files.len() > 1)
        .map(|((layer, name), files)| (layer.as_str(), name.as_str(), files.len()))
        // Different types of one name.
        .filter(|(layer, name, _)| {
            ![("client", "Watcher"), ("wire", "Field")].contains(&(*layer, *name))
        })
        .collect();
    assert_eq!(spread, SPREAD, "{places:#?}");
}

#[test]
fn impls_are_seen_in_every_shape() {
    for (line, name) in [
        ("impl Link {", Some("Link")),
        ("impl<S: Store> Realm<S> {", Some("Realm")),
        ("impl<'a, C: Command<'a>> Table<C> {", Some("Table")),
        ("impl fmt::Debug for Link {", None),
        ("impl From<Link> for u8 {", None),
        ("    impl Inner {", None),
    ] {
        assert_eq!(implemented(line), name, "{line}");
    }
}
