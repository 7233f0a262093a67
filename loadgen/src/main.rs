//! The load generator: holds connections, plays ping-pong, publishes and works, and says how fast and how late.
//!
//! One event loop a thread drives its connections through the SDK's pure machine ([`fleet`]); a [`workload`] says what
//! each of them does; [`server`] reads what that costs the server; [`report`] prints and writes what came out. [`rival`]
//! puts the same load on other queue servers, and [`compare`] the results side by side.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod compare;
mod descriptors;
mod fleet;
mod options;
mod plot;
mod progress;
mod report;
mod rival;
mod server;
mod source;
mod stamp;
mod workload;

/// Drives a RelayMesh server and measures it.
///
/// Every run prints its rate and the percentiles of its delay, and writes them with `--json FILE`. A run at full speed
/// measures each delay from the moment of sending; a run with `--rate` from the moment the request was due, so that a
/// server that stalls is charged for all that should have been sent meanwhile (no coordinated omission).
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Hold sessions, each with its mailbox subscription and heartbeat.
    Connect(workload::connect::Args),
    /// Ping-pong: each connection sends a PING when its PONG arrived.
    Echo(workload::echo::Args),
    /// Publish durably, one message a frame.
    Publish(workload::publish::Args),
    /// Lease and ack, one lease a frame.
    Work(workload::work::Args),
    /// Hold sessions beside clients that say nothing and clients that never read.
    ///
    /// Tells the good ones' heartbeats before and in each phase: onset (the hostile ones come at their rate, first those
    /// that never read, with a push to each), presence (all are there), silent_end (the server closes those that say
    /// nothing), non_readers_alone, and non_readers_end (it closes those). Exits with 1 unless the hostile ones are gone at
    /// their deadlines and the heartbeats stay as quick in each.
    Hostile(workload::hostile::Args),
    /// Connect and reset, over and over, and compare what the server holds before and after.
    ///
    /// Exits with 1 unless its descriptors and its heap are back at the baseline, within 1 %.
    Churn(workload::churn::Args),
    /// Push to random devices of sessions that a `connect` holds.
    Push(workload::push::Args),
    /// Broadcast to a topic that the sessions of a `connect --topic` listen to.
    Broadcast(workload::broadcast::Args),
    /// Kill or drain a server with all its sessions on it, start it again, and see how they come back.
    Storm(workload::storm::Args),
    /// Let many tenants publish, one of them far more than the others, and see how long those wait.
    ///
    /// Twice the same load: first spread evenly, then most of it one tenant's. Tells how long messages waited, from when
    /// each was due to its delivery, and the ratio for those who publish little.
    Fair(workload::fair::Args),
    /// Publish to another queue server, or lease and ack there, for a comparison.
    Rival(rival::Args),
    /// Put what scripts measured of several servers side by side: a table, and a drawing of it.
    Compare(compare::Args),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let limit = relaymesh::host::raise_descriptor_limit();
    let report = match cli.command {
        Command::Connect(args) => workload::connect::run(&args, limit),
        Command::Echo(args) => workload::echo::run(&args),
        Command::Publish(args) => workload::publish::run(&args),
        Command::Work(args) => workload::work::run(&args),
        Command::Hostile(args) => workload::hostile::run(&args, limit),
        Command::Churn(args) => workload::churn::run(&args, limit),
        Command::Push(args) => workload::push::run(&args),
        Command::Broadcast(args) => workload::broadcast::run(&args),
        Command::Storm(args) => workload::storm::run(&args, limit),
        Command::Fair(args) => workload::fair::run(&args),
        Command::Rival(args) => rival::run(&args),
        Command::Compare(args) => return compare::run(&args),
    }?;
    report.finish()
}
