//! The output of `--json` is as `docs/json.md` describes it: each field of each object, and its
//! type.

mod support;

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;
use support::{Home, Realm, finished, program};

/// The schema version that the document describes.
const SCHEMA: u64 = 1;

struct Field {
    is_optional: bool,
    types: Vec<String>,
}

/// The objects of the document, and the fields of each.
struct Schema(BTreeMap<String, BTreeMap<String, Field>>);

impl Schema {
    fn read() -> Self {
        let mut objects = BTreeMap::new();
        for section in include_str!("../docs/json.md").split("\n### ").skip(1) {
            let (name, text) = section.split_once('\n').unwrap();
            let text = text.split("\n## ").next().unwrap();
            let mut fields = BTreeMap::new();
            for row in text.lines().filter(|line| line.starts_with("| `")) {
                let cells: Vec<&str> = row.split('|').map(str::trim).collect();
                let types = cells[2].strip_prefix("optional ");
                let field = Field {
                    is_optional: types.is_some(),
                    types: types
                        .unwrap_or(cells[2])
                        .split(" or ")
                        .map(ToString::to_string)
                        .collect(),
                };
                fields.insert(cells[1].trim_matches('`').to_string(), field);
            }
            assert!(!fields.is_empty(), "{name} has fields");
            objects.insert(name.to_string(), fields);
        }
        Self(objects)
    }

    /// Checks `object` against the fields that the document lists for `name`.
    fn check(&self, name: &str, object: &Value) {
        let fields = &self.0[name];
        let found = object.as_object().unwrap();
        for (field, value) in found {
            let Some(known) = fields.get(field) else {
                panic!("{name} has {field:?}, which docs/json.md does not know: {object}")
            };
            let fits = known.types.iter().any(|kind| is_of(kind, value));
            assert!(fits, "{name}: {field} is no {:?}: {object}", known.types);
        }
        for (field, _) in fields.iter().filter(|(_, field)| !field.is_optional) {
            assert!(found.contains_key(field), "{name} lacks {field}: {object}");
        }
    }

    fn check_all(&self, name: &str, objects: &[Value]) {
        assert!(!objects.is_empty(), "{name}");
        for object in objects {
            self.check(name, object);
        }
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "true" => *value == true,
        "false" => *value == false,
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        "string" => value.is_string(),
        "time" => value
            .as_str()
            .is_some_and(|time| time.contains('T') && time.ends_with('Z')),
        "list" => value
            .as_array()
            .is_some_and(|list| list.iter().all(Value::is_string)),
        "spent" => {
            let is_way = |way: &str| {
                ["bytes", "datagrams"]
                    .iter()
                    .all(|n| value[way][n].is_u64())
            };
            is_way("up") && is_way("down") && value["bytes_with_headers"].is_u64()
        }
        other => panic!("docs/json.md has an unknown type {other:?}"),
    }
}

#[test]
fn json_schema_number_is_printed() {
    let schema = Schema::read();
    let home = Home::new();
    let version = home.run("ann", &["version"]).ok();
    schema.check("version", &version);
    assert_eq!(version["schema"], SCHEMA);
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    let document = include_str!("../docs/json.md");
    assert!(document.contains(&format!("the number of this schema: {SCHEMA}.")));
}

#[test]
fn json_user_commands_print_documented_fields() {
    let schema = Schema::read();
    let (realm, home) = (Realm::start(), Home::new());
    schema.check("serving", &realm.announced);
    for name in ["ann", "bob"] {
        home.register(name, &realm.connect);
    }
    let run = |arguments: &[&str]| home.run("ann", arguments);
    let source = ["--password-file", "password"];
    for (name, arguments) in [
        ("account", &["whoami"][..]),
        ("opened", &["auth", "ann", source[0], source[1]]),
        ("fingerprints", &["fingerprint"]),
        ("sent", &["send", "ann", "hi"]),
        ("done", &["addgroup", "devs", "--no-password"]),
        ("sent", &["sendgroup", "devs", "hi"]),
        ("unread", &["unread"]),
        ("entry", &["inbox"]),
        ("entry", &["inboxgroup", "devs"]),
        ("entry", &["inbox", "--after", "0", "--bytes", "30"]),
        ("entry", &["watch", "--count", "1"]),
        ("group", &["groups"]),
        ("member", &["members", "devs"]),
        ("done", &["ban", "devs", "bob"]),
        ("done", &["unban", "devs", "bob"]),
        ("done", &["block", "bob"]),
        ("blocked", &["blocks"]),
        ("done", &["unblock", "bob"]),
        ("done", &["grouppasswd", "devs", "--no-password"]),
        ("done", &["delgroup", "devs"]),
        ("device", &["sessions"]),
        ("cost", &["cost"]),
        ("holding", &["limits"]),
        ("error", &["send", "nobody", "hi"]),
        ("error", &["send", "ann", ""]),
        ("error", &["frobnicate"]),
        ("done", &["logout"]),
        ("error", &["logout"]),
        ("error", &["watch"]),
    ] {
        if arguments[0] == "watch" && name == "entry" {
            run(&["send", "ann", "to be pushed"]).ok();
        }
        schema.check_all(name, &run(arguments).objects());
    }
    let pinged = run(&["ping", "--count", "2"]).objects();
    let (path, answers) = pinged.split_last().unwrap();
    schema.check_all("ping", answers);
    schema.check("path", path);
    let mut long = home.command("ann", &["auth", "ann", "--password-file", "password"]);
    finished(&mut long).ok();
    let error = run(&["send", "ann", &"x".repeat(20_000)]);
    schema.check_all("error", &error.objects());
    assert_eq!(error.objects()[0]["limit"], 16_384);
}

#[test]
fn json_peering_commands_print_documented_fields() {
    let schema = Schema::read();
    let home = Home::new();
    let (alpha, beta) = (home.realm("alpha", "open"), home.realm("beta", "open"));
    home.register("ann", &alpha.connect);
    home.register("bob", &beta.connect);
    home.run("bob", &["addgroup", "devs", "--no-password"]).ok();
    let code = alpha.data().join("operator-code");
    let port = beta.address.port().to_string();
    let (_, key) = beta.connect.split_once('#').unwrap();
    for (name, arguments) in [
        (
            "done",
            &["claim", "--password-file", code.to_str().unwrap()][..],
        ),
        (
            "peering",
            &["addrealm", "beta", "127.0.0.1", &port, "--key", key],
        ),
        ("realm", &["realms"]),
        ("sent", &["sendrealm", "beta", "bob", "hi"]),
        ("done", &["joingrouprealm", "beta", "devs", "--no-password"]),
        ("sent", &["sendgrouprealm", "beta", "devs", "hi"]),
        ("done", &["leavegrouprealm", "beta", "devs"]),
        ("error", &["removerealm", "gamma"]),
        ("detail", &["realms", "--details"]),
        ("done", &["moverealm", "beta", "127.0.0.1", &port]),
    ] {
        schema.check_all(name, &home.run("ann", arguments).objects());
    }
    schema.check_all(
        "entry",
        &home.run("bob", &["inboxrealm", "alpha"]).objects(),
    );
    schema.check_all("entry", &home.run("bob", &["inboxgroup", "devs"]).objects());
    let removed = home.run("ann", &["removerealm", "beta"]).objects();
    schema.check_all("removed", &removed);
    // Two pending realms. A realm that lists its peers accepts one of them and refuses the other.
    let gamma = home.realm("gamma", "listed");
    home.register("eve", &gamma.connect);
    let code = gamma.data().join("operator-code");
    let claim = ["claim", "--password-file", code.to_str().unwrap()];
    home.run("eve", &claim).ok();
    let code = beta.data().join("operator-code");
    let claim = ["claim", "--password-file", code.to_str().unwrap()];
    home.run("bob", &claim).ok();
    let port = gamma.address.port().to_string();
    let (_, key) = gamma.connect.split_once('#').unwrap();
    for who in ["ann", "bob"] {
        let add = ["addrealm", "gamma", "127.0.0.1", &port, "--key", key];
        schema.check_all("peering", &home.run(who, &add).objects());
    }
    let pending = home.run("eve", &["realms", "--pending"]).objects();
    assert_eq!(pending.len(), 2, "{pending:?}");
    schema.check_all("detail", &pending);
    for (one, (name, command)) in pending
        .iter()
        .zip([("accepted", "acceptrealm"), ("done", "refuserealm")])
    {
        let (realm, key) = (&one["realm"], one["key"].as_str().unwrap());
        let arguments = [command, realm.as_str().unwrap(), "--key", key];
        schema.check_all(name, &home.run("eve", &arguments).objects());
    }
}

#[test]
fn json_shell_and_server_print_documented_fields() {
    let schema = Schema::read();
    let (mut realm, home) = (Realm::start(), Home::new());
    home.register("ann", &realm.connect);
    let mut shell = home
        .command("ann", &["shell"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    input.write_all(b"whoami\ncost\nhelp\nsned\n").unwrap();
    drop(input);
    let out = String::from_utf8(shell.wait_with_output().unwrap().stdout).unwrap();
    let lines = out.lines().map(|line| serde_json::from_str(line).unwrap());
    for (name, object) in ["account", "cost", "told", "error"].into_iter().zip(lines) {
        schema.check(name, &object);
    }
    realm.stop();
    let data = realm.data();
    let mut rotate = program();
    let rotate = rotate.args(["--json", "rotatekey", "--data", data.to_str().unwrap()]);
    schema.check_all("newkey", &finished(rotate).objects());
    // A realm keeps a name that is made from its key.
    let before = realm.announced["realm"].clone();
    realm.start_again();
    assert_eq!(realm.announced["realm"], before);
}

/// The output about the outbox while the realm is away, and after it is back.
#[test]
fn json_outbox_prints_documented_fields() {
    let schema = Schema::read();
    let (mut realm, home) = (Realm::start(), Home::new());
    home.register("ann", &realm.connect);
    home.run("ann", &["send", "ann", "first"]).ok();
    let run = |arguments: &[&str]| home.run("ann", &[&["--deadline", "1s"], arguments].concat());
    realm.kill();
    let mut kept = vec![];
    for text in ["one", "two", "three"] {
        let error = run(&["send", "ann", text]);
        assert_eq!(error.code, Some(4), "{error:?}");
        let object = error.objects().remove(0);
        schema.check("error", &object);
        let is_known = ["kept", "unknown"].contains(&object["state"].as_str().unwrap());
        assert!(is_known, "{object}");
        kept.push(object["id"].as_u64().unwrap().to_string());
    }
    let listed = run(&["outbox"]).objects();
    schema.check_all("waiting", &listed);
    let ids: Vec<String> = listed.iter().map(|entry| entry["id"].to_string()).collect();
    assert_eq!(ids, kept);
    let error = run(&["outbox", "wait"]);
    assert_eq!(error.code, Some(4), "{error:?}");
    schema.check_all("error", &error.objects());
    schema.check("cancelled", &run(&["outbox", "cancel", &kept[2]]).ok());
    schema.check_all("error", &run(&["outbox", "cancel", &kept[2]]).objects());
    let not_kept = run(&["--no-keep", "send", "ann", "four"]);
    schema.check_all("error", &not_kept.objects());
    assert!(not_kept.objects()[0].get("id").is_none(), "{not_kept:?}");
    realm.start_again();
    let waited = home.run("ann", &["outbox", "wait"]).objects();
    let (result, ended) = waited.split_last().unwrap();
    schema.check("waited", result);
    schema.check_all("ended", ended);
    assert_eq!(result["ok"], true);
    let again = run(&["outbox", "wait", &kept[0]]);
    assert!(
        again.code == Some(0) || again.error(2) == "usage",
        "{again:?}"
    );
    realm.kill();
    assert_eq!(run(&["send", "nobody", "five"]).code, Some(4));
    realm.start_again();
    let not_done = home.run("ann", &["outbox", "wait"]);
    assert_eq!(not_done.error(1), "not-done");
    schema.check_all("error", &not_done.objects()[1..]);
    let token = ["--id", "a", "send", "ann", "named"];
    let first = home.run("ann", &token).ok();
    schema.check("sent", &first);
    assert_eq!(home.run("ann", &token).ok(), first);
    let reused = home.run("ann", &["--id", "a", "send", "ann", "another"]);
    assert_eq!(reused.error(2), "id-reused");
    schema.check_all("error", &reused.objects());
    assert_eq!(
        home.run("ann", &["inbox"]).texts(),
        ["first", "one", "two", "named"]
    );
}

/// A realm on all addresses prints what others connect with, in lines that fit a terminal.
#[test]
fn cli_serve_on_all_addresses_prints_address_for_others() {
    let directory = tempfile::tempdir().unwrap();
    let mut serve = program()
        .current_dir(directory.path())
        .args(["serve", "--data", "data", "--listen", "0.0.0.0:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(serve.stdout.take().unwrap());
    let lines: Vec<String> = std::io::BufRead::lines(out)
        .map(Result::unwrap)
        .take_while(|line| !line.starts_with("router: "))
        .collect();
    let stopped = Command::new("kill").arg(serve.id().to_string()).status();
    assert!(stopped.unwrap().success());
    serve.wait().unwrap();
    let at = |text: &str| lines.iter().position(|line| line == text);
    let here = at("connect from this machine with").unwrap();
    assert!(
        lines[here + 1].starts_with("merpati://127.0.0.1:"),
        "{lines:?}"
    );
    for line in &lines {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for (line, next) in lines.iter().zip(&lines[1..]) {
        if line == "connect from others with" {
            assert!(
                next.starts_with("merpati://") && !next.contains("127.0.0.1"),
                "{next}"
            );
        }
    }
}
