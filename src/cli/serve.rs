//! `merpati serve`.

use std::{io::Write as _, path::Path};

use merpati::server::{
    Config, Server,
    config::{Level, ListenConfig, LogFormat},
};
use serde_json::json;
use tracing_subscriber::filter::EnvFilter;

use super::{
    args::{Rotatekey, Serve},
    output::Failure,
};

/// The configuration that is read when it is there.
const CONFIG_FILE: &str = "config.toml";

/// Runs a realm until it is told to stop.
pub fn serve(args: &Serve, json: bool) -> Result<(), Failure> {
    let config = config(args)?;
    start_log(&config, args.log.as_deref())?;
    let server = Server::start(&config).map_err(Failure::local)?;
    let server = server.restored(args.restored);
    announce(&server, json)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { server.run(told_to_stop()?).await.map_err(Failure::local) })
}

/// Gives a realm a new key.
pub fn rotate_key(args: &Rotatekey, json: bool) -> Result<(), Failure> {
    let config = load(args.config.as_deref(), args.data.as_deref())?;
    let (old, new) = Server::rotate_key(&config.store.path).map_err(Failure::local)?;
    let (old, new) = (old.fingerprint(), new.fingerprint());
    let mut out = std::io::stdout().lock();
    if json {
        let object = json!({ "ok": true, "fingerprint": new, "former": old });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "fingerprint  {new}")?;
        writeln!(out, "formerly     {old}")?;
        writeln!(
            out,
            "The realm goes by its new key from its next start on. It still answers to the old one, which \
             vouches for the new: clients and peers follow by themselves when they next connect."
        )?;
    }
    Ok(out.flush()?)
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

/// Our own events at the level asked for; of the libraries' only what is wrong.
fn start_log(config: &Config, level: Option<&str>) -> Result<(), Failure> {
    let level = level.unwrap_or_else(|| Level::name(config.log.level));
    let filter = EnvFilter::try_new(format!("error,merpati={level}")).map_err(Failure::local)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match config.log.format {
        LogFormat::Text => log
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Says that the realm serves, where, and what to give to clients. Scripts wait for this.
fn announce(server: &Server, json: bool) -> Result<(), Failure> {
    let connect = server.connection_string().map(|string| string.to_string());
    let connect = connect.unwrap_or_default();
    let fingerprint = server.key().fingerprint();
    let addresses: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
    let mut out = std::io::stdout().lock();
    if json {
        let object = json!({
            "realm": server.id().as_str(),
            "listen": addresses,
            "connect": connect,
            "fingerprint": fingerprint,
        });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "realm        {}", server.id())?;
        writeln!(out, "listening    {}", addresses.join(", "))?;
        writeln!(out, "fingerprint  {fingerprint}")?;
        writeln!(out, "connect      {connect}")?;
        if server.former_keys() > 0 {
            let count = server.former_keys();
            writeln!(out, "former keys  {count}, still answered")?;
        }
    }
    Ok(out.flush()?)
}

/// Ends when the process is asked to end.
#[cfg(unix)]
fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    Ok(async {
        // Without a way to be interrupted, the server runs until it is ended.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
