//! `relaymesh serve`: be the server, until told to end.

mod audit;
mod keyfile;
mod server;
mod settings;
mod shards;

use anyhow::Context;

use super::out;
use crate::config::{Config, ServeArgs};
use crate::telemetry::logging;

/// Runs a server with this configuration; returns when it has drained.
///
/// # Errors
/// Whatever keeps the server from starting, and a log that failed while it ran.
pub(super) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let config = Config::load(args)?;
    if args.print_config {
        out::text(format_args!("{}", config.to_commented_toml()))?;
        return Ok(());
    }
    logging::init(&config.logging.filter, config.logging.format)?;
    // A thread that panics would leave its clients, or the queues, hanging: the process ends, and what was
    // acknowledged is on disk.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    let server = server::Server::start(&config).context("the server could not start")?;
    server.run_until_told(&config.drain)
}
