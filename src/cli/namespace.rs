//! `relaymesh namespace`: what a tenant may take of the server.

use clap::Subcommand;
use serde_json::{Value, json};

use super::operator::Operator;
use super::out;
use super::queue::{parse_change, setting_cells, settings};
use super::reach::Reach;
use super::table;
use crate::ids::Namespace;

/// See what a namespace holds, and set its limits.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    reach: Reach,
}

const EXAMPLES: &str = "\
Examples:
  relaymesh namespace set acme messages_max=100000 bytes_max=1GiB
  relaymesh namespace set acme publish_per_s=500 leased_max=1000
  relaymesh namespace set acme publish_per_s=       # back to the server's configuration
  relaymesh namespace settings acme";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Set limits of one namespace, all that are given or none; they are kept through restarts.
    Set {
        /// The namespace.
        name: Namespace,
        /// What to set; `namespace settings` lists the keys. Without a value it goes back to the configuration's.
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_change)]
        changes: Vec<(String, Option<String>)>,
        /// Print all limits, and what the namespace holds, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the limits of one namespace, and what it holds.
    Settings {
        /// The namespace.
        name: Namespace,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

const HEAD: [&str; 6] = ["MESSAGES", "SIZE", "LEASED", "PARKED", "QUEUES", "MAILBOXES"];

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let Args { verb, mut reach } = args;
    match verb {
        Verb::Set { name, changes, json } => {
            reach.namespace = name;
            let body = json!({ "settings": settings(changes)? });
            let all = Operator::new(&reach).post("namespace-settings", body)?;
            if json {
                out::line(format_args!("{all:#}"))?;
            }
        }
        Verb::Settings { name, json } => {
            reach.namespace = name;
            let all = Operator::new(&reach).get("namespace-settings", &[])?;
            if json {
                out::line(format_args!("{all:#}"))?;
            } else {
                let rows = all["settings"].as_array().map(Vec::as_slice).unwrap_or_default();
                let rows: Vec<_> = rows.iter().map(setting_cells).collect();
                let settings = table::render(&["KEY", "VALUE", "SET HERE", "WHAT IT IS"], &rows);
                let holds = table::render(&HEAD, &[cells(&all["holds"])]);
                out::text(format_args!("{settings}\n{holds}"))?;
            }
        }
    }
    Ok(())
}

fn cells(holds: &Value) -> Vec<String> {
    let count = |field| table::number(holds, field).to_string();
    let size = |field| table::size(table::number(holds, field));
    vec![
        count("messages"),
        size("bytes"),
        count("leased"),
        size("parked_bytes"),
        count("queues"),
        count("mailboxes"),
    ]
}
