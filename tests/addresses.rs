//! Integration tests, with real processes, of names with several, changing or no addresses, and of
//! networks that come up later. Tests that need several machines use network namespaces, which
//! require root and `ip`. Without them these tests report that and pass.

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    net::ToSocketAddrs as _,
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{
    Home, Realm, Run, finished, program,
    relay::{Relay, Way},
};

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    let output = command.args(arguments.split_whitespace()).output();
    output.is_ok_and(|output| output.status.success())
}

/// Two machines, `s` and `c`, on one network. They are removed on drop.
struct Machines {
    prefix: String,
}

impl Machines {
    /// Creates the machines. `None` if this user cannot create network namespaces.
    fn start() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("mt{}x{number}", std::process::id());
        let machines = Self { prefix };
        let (s, c) = (machines.name("s"), machines.name("c"));
        let peer = format!("link add e0 netns {s} type veth peer name e0 netns {c}");
        if !(ip(&format!("netns add {s}")) && ip(&format!("netns add {c}")) && ip(&peer)) {
            eprintln!("SKIPPED: no network namespaces here; run this as root, with iproute2");
            return None;
        }
        for (machine, host) in [(&s, 1), (&c, 9)] {
            assert!(ip(&format!("-n {machine} link set lo up")));
            assert!(ip(&format!("-n {machine} link set e0 up")));
            assert!(ip(&format!(
                "-n {machine} addr add 10.7.0.{host}/24 dev e0"
            )));
            assert!(ip(&format!(
                "-n {machine} addr add fd00:7::{host}/64 dev e0 nodad"
            )));
        }
        machines.set_hosts(&[]);
        Some(machines)
    }

    fn name(&self, machine: &str) -> String {
        format!("{}{machine}", self.prefix)
    }

    /// Sets the addresses that `realm.test` resolves to at the client.
    fn set_hosts(&self, addresses: &[&str]) {
        let directory = format!("/etc/netns/{}", self.name("c"));
        fs::create_dir_all(&directory).unwrap();
        let lines = addresses.iter().map(|ip| format!("{ip} realm.test\n"));
        let lines: String = lines.collect();
        // The file is replaced rather than rewritten, because a process may be reading it.
        let text = format!("127.0.0.1 localhost\n{lines}");
        fs::write(format!("{directory}/hosts"), text).unwrap();
        fs::write(format!("{directory}/resolv.conf"), "").unwrap();
    }

    fn set_link(&self, state: &str) {
        assert!(ip(&format!("-n {} link set e0 {state}", self.name("c"))));
    }

    /// Wraps a command so that it runs on a machine.
    fn on(&self, machine: &str, command: &Command) -> Command {
        let mut there = Command::new("ip");
        there.args(["netns", "exec", &self.name(machine)]);
        there.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => there.env(name, value),
                None => there.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            there.current_dir(directory);
        }
        there.stdin(Stdio::null());
        there
    }

    /// Runs the client on machine `c`.
    fn run(&self, home: &Home, profile: &str, arguments: &[&str]) -> Run {
        finished(&mut self.on("c", &home.command(profile, arguments)))
    }

    fn register(&self, home: &Home, profile: &str, connect: &str) -> Run {
        let arguments = [
            &["--server", connect, "--deadline", "20s"][..],
            &["register", "Some One", "id", profile],
            &["--password-file", "password"],
        ];
        self.run(home, profile, &arguments.concat())
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for machine in ["s", "c"] {
            let name = self.name(machine);
            ip(&format!("netns del {name}"));
            let _ = fs::remove_dir_all(format!("/etc/netns/{name}"));
        }
    }
}

/// A process whose output is read line by line. It is killed on drop.
struct Running {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("it goes on").unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a realm on machine `machine`. Returns it with the key of its connection string.
fn serve(machines: &Machines, machine: &str, data: &str, listen: &str) -> (Running, String) {
    serve_as(
        machines,
        machine,
        (data, "[realm]\nid = \"alpha\"\n"),
        listen,
    )
}

fn serve_as(
    machines: &Machines,
    machine: &str,
    (data, config): (&str, &str),
    listen: &str,
) -> (Running, String) {
    let file = format!("{data}.toml");
    fs::write(&file, config).unwrap();
    let mut command = program();
    command.args(["serve", "--json", "--data", data, "--listen", listen]);
    command.args(["--config", &file]);
    let mut realm = Running::start(machines.on(machine, &command));
    let announced = realm.next();
    let connect = announced["connect"].as_str().unwrap();
    let (_, key) = connect.split_once('#').unwrap();
    (realm, key.into())
}

fn data(home: &Home, name: &str) -> String {
    home.directory.path().join(name).to_str().unwrap().into()
}

/// HS-15: a client reaches a realm whose first address is dead, and a realm on IPv6 alone.
#[test]
fn address_first_of_name_dead_next_is_tried() {
    let Some(machines) = Machines::start() else {
        return;
    };
    let home = Home::new();
    for (listen, addresses) in [
        ("10.7.0.1:6377", ["10.7.0.8", "10.7.0.1"]),
        ("[fd00:7::1]:6377", ["fd00:7::1", "10.7.0.1"]),
    ] {
        machines.set_hosts(&addresses);
        let profile = if listen.starts_with('[') {
            "six"
        } else {
            "four"
        };
        let (_realm, key) = serve(&machines, "s", &data(&home, profile), listen);
        let connect = format!("merpati://realm.test:6377#{key}");
        machines.register(&home, profile, &connect).ok();
    }
}

/// HS-16: the deadline sets how long a client keeps trying, also without a route or while the name
/// is unknown.
#[test]
fn address_network_missing_client_tries_until_deadline() {
    let Some(machines) = Machines::start() else {
        return;
    };
    let home = Home::new();
    machines.set_hosts(&["10.7.0.1"]);
    let (_realm, key) = serve(&machines, "s", &data(&home, "data"), "10.7.0.1:6377");
    let connect = format!("merpati://realm.test:6377#{key}");
    machines.register(&home, "ann", &connect).ok();
    let send = ["--deadline", "30s", "send", "ann", "hello"];
    machines.set_link("down");
    thread::scope(|scope| {
        let sent = scope.spawn(|| machines.run(&home, "ann", &send));
        // The pause is so long that the first attempts fail. The command succeeds whenever the
        // network comes back.
        thread::sleep(Duration::from_secs(1));
        machines.set_link("up");
        sent.join().unwrap().ok();
    });
    machines.set_hosts(&[]);
    thread::scope(|scope| {
        let sent = scope.spawn(|| machines.run(&home, "ann", &send));
        thread::sleep(Duration::from_secs(1));
        machines.set_hosts(&["10.7.0.1"]);
        sent.join().unwrap().ok();
    });
    machines.set_hosts(&[]);
    let begun = Instant::now();
    let run = machines.run(&home, "ann", &["--deadline", "2s", "whoami"]);
    assert_eq!(run.error(3), "unreachable");
    assert!(run.out.contains("cannot find realm.test"), "{run:?}");
    assert!(begun.elapsed() >= Duration::from_secs(2));
    // A name server that does not answer delays nobody. The realm on port 53 stands for one: it
    // ignores DNS queries.
    let (_silent, _) = serve(&machines, "s", &data(&home, "silent"), "10.7.0.1:53");
    let resolver = format!("/etc/netns/{}/resolv.conf", machines.name("c"));
    fs::write(resolver, "nameserver 10.7.0.1\n").unwrap();
    let begun = Instant::now();
    let run = machines.run(&home, "ann", &["--deadline", "1s", "whoami"]);
    assert_eq!(run.error(3), "unreachable");
    assert!(run.out.contains("has not been answered"), "{run:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}

/// HS-16: a watch finds a realm whose name has moved to another address.
#[test]
fn watch_realm_moved_to_other_address_is_found() {
    let Some(machines) = Machines::start() else {
        return;
    };
    let home = Home::new();
    machines.set_hosts(&["10.7.0.1"]);
    let data = data(&home, "data");
    let (realm, key) = serve(&machines, "s", &data, "10.7.0.1:6377");
    let connect = format!("merpati://realm.test:6377#{key}");
    machines.register(&home, "ann", &connect).ok();
    machines.register(&home, "bob", &connect).ok();
    let watch = home.command("bob", &["watch", "--keepalive", "1s"]);
    let mut watch = Running::start(machines.on("c", &watch));
    machines.run(&home, "ann", &["send", "bob", "one"]).ok();
    assert_eq!(watch.next()["text"], "one");
    drop(realm);
    assert!(ip(&format!(
        "-n {} addr add 10.7.0.2/24 dev e0",
        machines.name("s")
    )));
    let (_realm, _) = serve(&machines, "s", &data, "10.7.0.2:6377");
    machines.set_hosts(&["10.7.0.2"]);
    machines.run(&home, "ann", &["send", "bob", "two"]).ok();
    assert_eq!(watch.next()["text"], "two");
}

/// WATCH-3, LINK-17, LINK-18: a watch continues when its machine moves to another network, long
/// before its next keepalive.
#[test]
fn migration_watching_machine_changes_network_watch_continues() {
    let Some(machines) = Machines::start() else {
        return;
    };
    let home = Home::new();
    let (_realm, key) = serve(&machines, "s", &data(&home, "s"), "10.7.0.1:6377");
    let connect = format!("merpati://10.7.0.1:6377#{key}");
    for name in ["ann", "bob"] {
        machines.register(&home, name, &connect).ok();
    }
    let keepalive = Duration::from_mins(5);
    let watch = home.command("bob", &["watch", "--keepalive", "5m"]);
    let mut watch = Running::start(machines.on("c", &watch));
    machines.run(&home, "ann", &["send", "bob", "one"]).ok();
    assert_eq!(watch.next()["text"], "one");
    let c = machines.name("c");
    assert!(ip(&format!("-n {c} addr del 10.7.0.9/24 dev e0")));
    assert!(ip(&format!("-n {c} addr add 10.7.0.10/24 dev e0")));
    let moved = Instant::now();
    machines.run(&home, "ann", &["send", "bob", "two"]).ok();
    assert_eq!(watch.next()["text"], "two");
    // The entry arrives before the keepalive is due.
    assert!(moved.elapsed() < keepalive / 2);
}

/// PEER-5: messages reach a peer whose name resolves to a dead address before the live one.
#[test]
fn peer_first_address_dead_next_is_tried() {
    let Some(machines) = Machines::start() else {
        return;
    };
    let home = Home::new();
    machines.set_hosts(&["10.7.0.8", "10.7.0.1"]);
    let (alpha, beta) = (data(&home, "alpha"), data(&home, "beta"));
    let config = "[realm]\nid = \"beta\"\npeering = \"open\"\n";
    let (_alpha, own) = serve(&machines, "c", &alpha, "10.7.0.9:6377");
    let (_beta, key) = serve_as(&machines, "s", (&beta, config), "10.7.0.1:6378");
    let connect = format!("merpati://10.7.0.9:6377#{own}");
    machines.register(&home, "ann", &connect).ok();
    let connect = format!("merpati://10.7.0.1:6378#{key}");
    machines.register(&home, "bob", &connect).ok();
    let code = format!("{alpha}/operator-code");
    let ann = |arguments: &[&str]| machines.run(&home, "ann", arguments).ok();
    ann(&["claim", "--password-file", &code]);
    ann(&["addrealm", "beta", "realm.test", "6378", "--key", &key]);
    ann(&["sendrealm", "beta", "bob", "hello"]);
    let watch = home.command("bob", &["watch"]);
    let mut watch = Running::start(machines.on("c", &watch));
    assert_eq!(watch.next()["text"], "hello");
}

/// HS-15: a client finds an IPv6-only realm by a name with addresses of both families. Needs no
/// namespaces: on most machines `localhost` has an address of each family.
#[test]
fn address_ipv6_only_realm_found_by_name_of_both_families() {
    let addresses = ("localhost", 1).to_socket_addrs();
    let addresses: Vec<_> = addresses.map(Iterator::collect).unwrap_or_default();
    let has = |is_ipv6| addresses.iter().any(|a| a.is_ipv6() == is_ipv6);
    if !has(true) || !has(false) {
        eprintln!("SKIPPED: localhost has no address of both families here: {addresses:?}");
        return;
    }
    let home = Home::new();
    let mut command = program();
    let data = data(&home, "data");
    command.args(["serve", "--json", "--data", &data, "--listen", "[::1]:0"]);
    let mut realm = Running::start(command);
    let announced = realm.next();
    let connect = announced["connect"].as_str().unwrap();
    let (place, key) = connect.split_once('#').unwrap();
    let (_, port) = place.rsplit_once(':').unwrap();
    home.register("ann", &format!("merpati://localhost:{port}#{key}"));
}

/// HS-17, EXACT-9: early data takes effect with the first datagram, so the outcome is unknown when
/// the answers are lost. The entry is kept, and its retransmission under the same number stores
/// nothing more.
#[test]
fn early_data_answers_lost_outcome_unknown_and_stored_once() {
    let realm = Realm::start();
    let relay = Relay::to(realm.address);
    let home = Home::new();
    home.register("ann", &realm.connect_through(relay.address));
    relay.lose(|way, _| way == Way::ToClient);
    let run = home.run("ann", &["--deadline", "2s", "send", "ann", "hello"]);
    assert_eq!(run.error(4), "unknown");
    let unknown = run.objects().pop().unwrap();
    assert_eq!(unknown["state"], "unknown", "{run:?}");
    relay.lose(|_, _| false);
    let id = unknown["id"].to_string();
    home.run("ann", &["outbox", "wait", &id]).ok();
    assert_eq!(home.texts("ann"), ["hello"]);
}

/// Starts a listener at all addresses of machine `s`, which has two of each family. Returns the
/// realm and its connection string for each address.
fn serve_at_all(
    machines: &Machines,
    home: &Home,
    (name, limits): (&str, &str),
    is_ipv6: bool,
) -> (Running, [String; 2]) {
    let (listen, addresses) = if is_ipv6 {
        ("[::]:6377", ["[fd00:7::1]", "[fd00:7::2]"])
    } else {
        ("0.0.0.0:6377", ["10.7.0.1", "10.7.0.2"])
    };
    let s = machines.name("s");
    for second in ["10.7.0.2/24 dev e0", "fd00:7::2/64 dev e0 nodad"] {
        // From the second call on, the address exists.
        ip(&format!("-n {s} addr add {second}"));
    }
    let config = format!("[realm]\nid = \"{name}\"\npeering = \"open\"\n{limits}");
    let data = data(home, &format!("{name}{}", u8::from(is_ipv6)));
    let (realm, key) = serve_as(machines, "s", (&data, &config), listen);
    let connect = addresses.map(|address| format!("merpati://{address}:6377#{key}"));
    (realm, connect)
}

/// WIRE-16: a realm that listens at all addresses of a machine with several addresses on one
/// network answers from the address that was asked.
#[test]
fn sockets_wildcard_listener_answers_from_address_asked() {
    let Some(machines) = Machines::start() else {
        return;
    };
    let home = Home::new();
    for is_ipv6 in [false, true] {
        for workers in [1, 3] {
            let limits =
                format!("[limits]\nworkers = {workers}\nhandshakes_per_subnet = \"1/s\"\n");
            let name = format!("alpha{workers}");
            let (_realm, asked_at) = serve_at_all(&machines, &home, (&name, &limits), is_ipv6);
            for (which, connect) in asked_at.iter().enumerate() {
                let profile = format!("u{}{workers}{which}", u8::from(is_ipv6));
                // This holds also where a cookie is required.
                machines.register(&home, &profile, connect).ok();
                let long = "long".repeat(4000);
                machines
                    .run(&home, &profile, &["send", &profile, &long])
                    .ok();
                for _ in 0..5 {
                    machines.run(&home, &profile, &["whoami"]).ok();
                }
                let inbox = machines.run(&home, &profile, &["inbox"]);
                assert_eq!(inbox.texts(), [long], "asked at {connect}");
            }
        }
    }
}

/// WIRE-16, HS-8: the Reset of a forgotten link comes from the address that its client sent to.
#[test]
fn reset_of_forgotten_link_comes_from_address_asked() {
    let Some(machines) = Machines::start() else {
        return;
    };
    let home = Home::new();
    for is_ipv6 in [false, true] {
        let serve = || serve_at_all(&machines, &home, ("alpha", ""), is_ipv6);
        let (realm, asked_at) = serve();
        let profiles = ["one", "two"].map(|name| format!("{name}{}", u8::from(is_ipv6)));
        let mut watches = Vec::new();
        for (profile, connect) in profiles.iter().zip(&asked_at) {
            machines.register(&home, profile, connect).ok();
            let watch = home.command(profile, &["watch", "--keepalive", "1s"]);
            let mut watch = Running::start(machines.on("c", &watch));
            machines.run(&home, profile, &["send", profile, "one"]).ok();
            assert_eq!(watch.next()["text"], "one");
            watches.push(watch);
        }
        drop(realm);
        let (_realm, _) = serve();
        for (profile, watch) in profiles.iter().zip(&mut watches) {
            machines.run(&home, profile, &["send", profile, "two"]).ok();
            assert_eq!(watch.next()["text"], "two");
        }
    }
}

/// WIRE-16, PEER-5: a realm answers from its second address what was sent there. Its own requests
/// to others leave from the address that routes there, also after that address has changed.
#[test]
fn peer_with_two_addresses_answers_from_address_asked() {
    let Some(machines) = Machines::start() else {
        return;
    };
    let home = Home::new();
    for is_ipv6 in [false, true] {
        let family = u8::from(is_ipv6);
        let (_beta, [_, beta]) = serve_at_all(&machines, &home, ("beta", ""), is_ipv6);
        let (at_c, listen) = if is_ipv6 {
            ("[fd00:7::9]", "[::]:6377")
        } else {
            ("10.7.0.9", "0.0.0.0:6377")
        };
        let alpha = data(&home, &format!("alpha{family}"));
        let (_alpha, own) = serve(&machines, "c", &alpha, listen);
        let (ann, bob) = (format!("ann{family}"), format!("bob{family}"));
        machines
            .register(&home, &ann, &format!("merpati://{at_c}:6377#{own}"))
            .ok();
        machines.register(&home, &bob, &beta).ok();
        let code = format!("{alpha}/operator-code");
        let ask = |profile: &str, arguments: &[&str]| machines.run(&home, profile, arguments).ok();
        ask(&ann, &["claim", "--password-file", &code]);
        let (_, key) = beta.split_once('#').unwrap();
        let second = if is_ipv6 { "fd00:7::2" } else { "10.7.0.2" };
        ask(&ann, &["addrealm", "beta", second, "6377", "--key", key]);
        ask(&ann, &["sendrealm", "beta", &bob, "there"]);
        let shown = |text: &str| {
            let watch = home.command(&bob, &["watch"]);
            let mut watch = Running::start(machines.on("c", &watch));
            // A watch shows again what an earlier, killed watch has shown.
            while watch.next()["text"] != text {}
        };
        shown("there");
        // The address from which the realm has sent so far is removed.
        let (gone, other) = if is_ipv6 {
            ("fd00:7::9/64", "fd00:7::8/64 dev e0 nodad")
        } else {
            ("10.7.0.9/24", "10.7.0.8/24 dev e0")
        };
        let c = machines.name("c");
        assert!(ip(&format!("-n {c} addr del {gone} dev e0")));
        assert!(ip(&format!("-n {c} addr add {other}")));
        let host = if is_ipv6 { "[fd00:7::8]" } else { "10.7.0.8" };
        let ann_again = format!("merpati://{host}:6377#{own}");
        let send = [
            "--server",
            &ann_again,
            "sendrealm",
            "beta",
            &bob,
            "and still there",
        ];
        ask(&ann, &send);
        shown("and still there");
    }
}

/// Returns the sum of the counters of created IPv4 and IPv6 fragments and of fragmented packets on
/// a machine.
fn fragments(machines: &Machines, machine: &str) -> u64 {
    let mut cat = Command::new("cat");
    cat.args(["/proc/net/snmp", "/proc/net/snmp6"]);
    let text = finished(&mut machines.on(machine, &cat)).out;
    let v4: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("Ip: "))
        .collect();
    let names = v4[0].split_whitespace().zip(v4[1].split_whitespace());
    let v6 = text
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace));
    let counts = names.chain(v6).filter(|(name, _)| {
        ["FragCreates", "FragOKs", "Ip6FragCreates", "Ip6FragOKs"].contains(name)
    });
    counts
        .map(|(_, count)| count.trim().parse::<u64>().unwrap())
        .sum()
}

/// LINK-15: long messages travel both ways over a network with a smaller MTU than both sides
/// accept, without IP fragmentation.
#[test]
fn mtu_small_on_path_long_messages_cause_no_ip_fragments() {
    let Some(machines) = Machines::start() else {
        return;
    };
    let home = Home::new();
    for machine in ["s", "c"] {
        let name = machines.name(machine);
        assert!(ip(&format!("-n {name} link set e0 mtu 1280")));
    }
    for (profile, listen) in [("four", "10.7.0.1:6377"), ("six", "[fd00:7::1]:6377")] {
        let config = "[realm]\nid = \"alpha\"\n[link]\nmax_datagram = \"9000B\"\n";
        let data = data(&home, profile);
        let (_realm, key) = serve_as(&machines, "s", (&data, config), listen);
        machines
            .register(&home, profile, &format!("merpati://{listen}#{key}"))
            .ok();
        let text = "text".repeat(4000);
        for round in 1..=2 {
            let large = |arguments: &[&str]| {
                let all = [&["--max-datagram", "9000B"][..], arguments].concat();
                machines.run(&home, profile, &all)
            };
            large(&["send", profile, &text]).ok();
            let texts = large(&["inbox", "--after", "0"]).texts();
            assert_eq!(texts, vec![text.clone(); round]);
        }
    }
    assert_eq!(
        ["s", "c"].map(|machine| fragments(&machines, machine)),
        [0, 0]
    );
}
