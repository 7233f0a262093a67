//! The commands a person types, one verb a file.
//!
//! Each verb has its arguments and a `run`. What several share stands beside them: [`reach`] (where the server is and
//! who asks), [`values`] (what options are given), [`payload`] (what is published), [`consume`] (taking messages and
//! answering them), [`operator`] (the HTTP API), [`table`] (rows for people) and [`out`] (stdout). Results go to stdout,
//! everything else to stderr, and a failure ends with a non-zero exit code. How anything is done is for the modules below
//! to know.

mod broadcast;
mod consume;
mod dead;
mod device;
mod doctor;
mod drain;
mod exec;
mod layout;
mod log;
mod namespace;
mod operator;
mod out;
mod payload;
mod publish;
mod push;
mod queue;
mod reach;
mod schedule;
mod serve;
mod shown;
mod table;
mod topic;
mod values;
mod work;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A gateway for a million device connections with a durable queue behind it, in one binary.
#[derive(Debug, Parser)]
#[command(name = "relaymesh", version, arg_required_else_help = true, after_help = FIRST_STEPS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const FIRST_STEPS: &str = "\
First steps, with a server on this machine:
  relaymesh publish jobs 'hello'             put a message on the queue `jobs`
  relaymesh work jobs --exec 'cat'           take messages and run a command on each
  relaymesh device d1 --exec 'cat'           be the device `d1`
  relaymesh push d1 'hello'                  send it something, whether it is there or not
  relaymesh broadcast news 'hello'           tell all who are there and came with --topic news
  relaymesh topic bind 'news.>' --to inbox   keep what is published to topic/news.… on the queue `inbox`
  relaymesh queue ls                         see what waits";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(crate::config::ServeArgs),
    Publish(publish::Args),
    Push(push::Args),
    Broadcast(broadcast::Args),
    Work(work::Args),
    Device(device::Args),
    Queue(queue::Args),
    Namespace(namespace::Args),
    Topic(topic::Args),
    Dead(dead::Args),
    Schedule(schedule::Args),
    Drain(drain::Args),
    Log(log::Args),
    Doctor(doctor::Args),
}

/// Runs what the command line asks for.
#[must_use]
pub fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Publish(args) => publish::run(args),
        Command::Push(args) => push::run(args),
        Command::Broadcast(args) => broadcast::run(args),
        Command::Work(args) => work::run(args),
        Command::Device(args) => device::run(args),
        Command::Queue(args) => queue::run(args),
        Command::Namespace(args) => namespace::run(args),
        Command::Topic(args) => topic::run(args),
        Command::Dead(args) => dead::run(args),
        Command::Schedule(args) => schedule::run(args),
        Command::Drain(args) => drain::run(&args),
        Command::Log(args) => log::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if out::is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relaymesh: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests;
