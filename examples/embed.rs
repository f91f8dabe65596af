//! A realm inside another program, over a store in memory: it forgets everything when it ends.
//!
//! ```text
//! cargo run --example embed
//! cargo run --example embed --no-default-features --features server,tokio/signal
//! ```

use std::error::Error;

use merpati::{
    server::{Config, Secrets, Server, Start},
    store::InMemory,
};

const CONFIG: &str = r#"
realm.id = "example"

[[listen]]
address = "127.0.0.1:0"
"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let config = Config::parse(CONFIG)?;
    // The keys last as long as the store. With a store that lasts, `Secrets::load` keeps them.
    let secrets = Secrets::generate(&config)?;
    let server = Server::over(InMemory::default(), secrets, &config, Start::default())?;
    if let Some(connect) = server.connection_string() {
        println!("connect with {connect}");
    }
    let stop = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            eprintln!("embed: cannot wait for Ctrl-C: {error}");
        }
    };
    Ok(server.run(stop).await?)
}
