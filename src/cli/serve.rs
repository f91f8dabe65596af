//! `merpati serve`: runs a realm.

use std::{net::IpAddr, path::Path, thread};

use merpati::{
    client::TRACE_TARGET,
    crypto::ConnectionString,
    server::{
        Config, Server, Start,
        config::{Level, ListenConfig, LogFormat},
    },
};
use serde_json::json;
use tokio::sync::watch;
use tracing_subscriber::{
    Layer as _, filter::EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use super::{
    args::{Rotatekey, Serve},
    output::{Failure, Output, print_line},
    trace,
};

/// The configuration file that is read if it exists.
const CONFIG_FILE: &str = "config.toml";

/// Runs a realm until the process is asked to end.
pub fn serve(args: &Serve, json: bool) -> Result<(), Failure> {
    let config = config(args)?;
    start_log(&config, args.log.as_deref())?;
    let start = Start {
        accepts_damage: args.accept_damage,
        is_restored: args.restored,
        ..Start::default()
    };
    let server = Server::start_as(&config, start).map_err(Failure::local)?;
    let stop = stop_signal()?;
    // A script that waits for this announcement may end the process at once, so the signal handlers
    // are set up before.
    announce(&server, &config, json)?;
    server.serve(&config, &stop).map_err(Failure::local)
}

/// Returns a value that turns true when the process is asked to end. A thread of its own waits for
/// the signals, and outlives the servers.
fn stop_signal() -> Result<watch::Receiver<bool>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let told = {
        let _inside = runtime.enter();
        told_to_stop()?
    };
    let (stop, stopped) = watch::channel(false);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(told);
            stop.send_replace(true);
        })?;
    Ok(stopped)
}

/// Gives a realm a new key.
pub fn rotate_key(args: &Rotatekey, json: bool) -> Result<(), Failure> {
    let config = load(args.config.as_deref(), args.data.as_deref())?;
    let rotated = Server::rotate_key(&config.store.path).map_err(Failure::local)?;
    let (old, new) = (rotated.old, rotated.new);
    let (old, new) = (old.fingerprint(), new.fingerprint());
    let object = json!({ "fingerprint": new, "former": old });
    let text = format!(
        "fingerprint  {new}\nformerly     {old}\n\
         The realm uses its new key from its next start on. It still answers to the old\n\
         one, which vouches for the new: clients and peers follow when they next connect."
    );
    Output { json }.result(&object, &text)
}

pub fn load(file: Option<&Path>, data: Option<&Path>) -> Result<Config, Failure> {
    let mut config = match file {
        Some(path) => Config::load(path),
        None if Path::new(CONFIG_FILE).exists() => Config::load(Path::new(CONFIG_FILE)),
        None => Ok(Config::default()),
    }
    .map_err(|error| Failure::usage(error.to_string()))?;
    if let Some(data) = data {
        config.store.path = data.into();
    }
    Ok(config)
}

fn config(args: &Serve) -> Result<Config, Failure> {
    let mut config = load(args.config.as_deref(), args.data.as_deref())?;
    if !args.listen.is_empty() {
        let at = |address: &_| ListenConfig {
            address: *address,
            ..ListenConfig::default()
        };
        config.listen = args.listen.iter().map(at).collect();
    }
    Ok(config)
}

/// Starts the log: events of this program at the configured level, and only errors of libraries.
fn start_log(config: &Config, level: Option<&str>) -> Result<(), Failure> {
    let level = level.unwrap_or_else(|| Level::name(config.log.level));
    let filter = EnvFilter::try_new(format!("error,merpati={level},{TRACE_TARGET}=off"))
        .map_err(Failure::local)?;
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let log = match config.log.format {
        LogFormat::Text => log
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(trace::layer()?)
        .with(log.with_filter(filter))
        .init();
    Ok(())
}

/// Prints that the realm serves, its addresses, and the connection string for clients. Scripts wait
/// for this.
fn announce(server: &Server, config: &Config, json: bool) -> Result<(), Failure> {
    let connect = server.connection_string().ok_or_else(|| {
        Failure::local("the realm listens nowhere; name an address in [[listen]] or with --listen")
    })?;
    let reach = Reach::of(server, config);
    let fingerprint = server.key().fingerprint();
    let addresses: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
    if json {
        let others: Vec<String> = reach.others.iter().map(ToString::to_string).collect();
        let object = json!({
            "realm": server.id().as_str(),
            "listen": addresses,
            "connect": connect.to_string(),
            "connect_others": others,
            "fingerprint": fingerprint,
        });
        return print_line(&object.to_string());
    }
    let mut lines = vec![
        format!("realm        {}", server.id()),
        format!("listening    {}", addresses.join(", ")),
        format!("fingerprint  {fingerprint}"),
    ];
    if server.former_keys() > 0 {
        let count = server.former_keys();
        lines.push(format!("former keys  {count}, still answered"));
    }
    // The connection string has a line of its own, because with its key it takes most of 80
    // columns.
    let from = if reach.is_everywhere {
        " from this machine"
    } else {
        ""
    };
    lines.extend([format!("connect{from} with"), connect.to_string()]);
    for string in reach.others {
        lines.extend(["connect from others with".into(), string.to_string()]);
    }
    if reach.is_everywhere {
        lines.push(
            "Others may see this machine at another address or name, for example behind a\n\
             router: say which in config.toml, with advertise in [[listen]]."
                .into(),
        );
    } else if let Some(port) = reach.loopback_port {
        lines.push(format!(
            "Only programs on this machine reach it; --listen 0.0.0.0:{port} lets others in."
        ));
    }
    print_line(&lines.join("\n"))
}

/// The machines from which the first listener can be reached.
#[derive(Debug, Default)]
struct Reach {
    /// It listens on all addresses, and no address for other machines is configured.
    is_everywhere: bool,
    /// The port, if it listens on an address that only this machine can reach.
    loopback_port: Option<u16>,
    /// For a listener on all addresses: connection strings with the addresses of this machine's
    /// interfaces.
    others: Vec<ConnectionString>,
}

impl Reach {
    fn of(server: &Server, config: &Config) -> Self {
        let (Some(address), Some(listen)) = (
            server.addresses().first().copied(),
            config.listeners().into_iter().next(),
        ) else {
            return Self::default();
        };
        if listen.advertise.is_some() {
            return Self::default();
        }
        if !address.ip().is_unspecified() {
            return Self {
                loopback_port: address.ip().is_loopback().then_some(address.port()),
                ..Self::default()
            };
        }
        // Without a list of interfaces the hint is still printed.
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let others = interfaces
            .iter()
            .map(if_addrs::Interface::ip)
            .filter(|ip| ip.is_ipv4() == address.is_ipv4() && is_of_others(*ip))
            .filter_map(|ip| {
                let string = server.connection_string()?;
                Some(ConnectionString {
                    host: ip.to_string(),
                    ..string
                })
            });
        Self {
            is_everywhere: true,
            loopback_port: None,
            others: others.collect(),
        }
    }
}

/// True for addresses that other machines can reach.
const fn is_of_others(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}

/// Returns when the process is asked to end.
#[cfg(unix)]
fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // SIGHUP is sent when a terminal is closed, and by operators who expect it to reload the
    // configuration.
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = hangup.recv() => tracing::warn!(
                    signal = "SIGHUP",
                    "signal ignored; the configuration is read only at a start: stop the server and start it again"
                ),
            }
        }
    })
}

#[cfg(not(unix))]
fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    Ok(async {
        // If Ctrl-C cannot be received, the server runs until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
