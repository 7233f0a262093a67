//! `relaymesh doctor`: whether this machine will hold that many sessions, and what to change.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::json;

use super::out;
use super::table;
use crate::host::doctor::{Finding, Fix, Machine, apply, examine, sysctl_file};

/// See whether this machine will hold that many sessions, and what to change.
///
/// Ends with a failure when it will not hold them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// How many sessions there are to be.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    connections: u64,
    /// Change what can be changed now; it lasts until the machine starts again.
    #[arg(long)]
    fix: bool,
    /// Write the kernel's settings to this file, for `sysctl --load` or /etc/sysctl.d.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  relaymesh doctor --connections 100000
  relaymesh doctor --connections 1000000 --fix
  relaymesh doctor --write /etc/sysctl.d/90-relaymesh.conf";

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut machine = Machine::read();
    if let Some(path) = &args.write {
        fs::write(path, sysctl_file(&machine, args.connections))
            .with_context(|| format!("{} could not be written", path.display()))?;
    }
    if args.fix && fix(&examine(&machine, args.connections)) {
        machine = Machine::read();
    }
    let findings = examine(&machine, args.connections);
    if args.json {
        out::line(format_args!("{:#}", as_json(args.connections, &findings)))?;
    } else {
        out::text(format_args!("{}", report(&findings)))?;
    }
    let missing: Vec<&str> =
        findings.iter().filter(|finding| finding.is_required && !finding.is_met()).map(|f| f.name).collect();
    if !missing.is_empty() {
        bail!("this machine will not hold {} sessions: {}", args.connections, missing.join(", "));
    }
    if !args.json {
        out::line(format_args!("\nThis machine will hold {} sessions.", args.connections))?;
    }
    Ok(())
}

/// Applies what can be, says what it could not. Returns whether anything changed.
fn fix(findings: &[Finding]) -> bool {
    let mut changed = false;
    for finding in findings {
        match &finding.fix {
            Fix::Nothing => {}
            Fix::Sysctl(value) => match apply(finding.name, value) {
                Ok(()) => changed = true,
                Err(error) => eprintln!("relaymesh: {} stays as it is: {error}", finding.name),
            },
            Fix::Descriptors(_) | Fix::Boot(_) | Fix::Machine(_) => {
                eprintln!("relaymesh: {} stays as it is: {}", finding.name, remedy(finding));
            }
        }
    }
    changed
}

/// What a person does about it.
fn remedy(finding: &Finding) -> String {
    match &finding.fix {
        Fix::Nothing => "ok".to_owned(),
        Fix::Sysctl(value) => format!("sysctl -w {}=\"{value}\"", finding.name),
        Fix::Descriptors(need) => {
            format!("LimitNOFILE={need} in the service's unit, or `ulimit -n {need}` before the start")
        }
        Fix::Boot(parameter) => format!("boot the kernel with {parameter}"),
        Fix::Machine(more) => format!("needs {more}"),
    }
}

fn report(findings: &[Finding]) -> String {
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| {
            let verdict = match (finding.is_met(), finding.is_required) {
                (true, _) => "ok",
                (false, true) => "too small",
                (false, false) => "small",
            };
            let name = finding.name.to_owned();
            vec![name, verdict.to_owned(), finding.have.clone(), finding.need.clone(), finding.why.to_owned()]
        })
        .collect();
    let mut text = table::render(&["WHAT", "VERDICT", "HAVE", "NEED", "WHY"], &rows);
    let unmet: Vec<&Finding> = findings.iter().filter(|finding| !finding.is_met()).collect();
    if !unmet.is_empty() {
        text += "\nTo change:\n";
        for finding in unmet {
            text += &match finding.fix {
                Fix::Sysctl(_) => format!("  {}\n", remedy(finding)),
                _ => format!("  {}: {}\n", finding.name, remedy(finding)),
            };
        }
    }
    text
}

fn as_json(connections: u64, findings: &[Finding]) -> serde_json::Value {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "name": finding.name, "have": finding.have, "need": finding.need, "why": finding.why,
                "ok": finding.is_met(), "required": finding.is_required,
                "fix": (!finding.is_met()).then(|| remedy(finding)),
            })
        })
        .collect();
    let holds = findings.iter().all(|finding| finding.is_met() || !finding.is_required);
    json!({ "connections": connections, "holds": holds, "findings": rows })
}
