//! What a script measured of several servers, put side by side: medians, ratios, a table and a drawing.
//!
//! It is handed the runs as CSV, one a line: `measure,case,server,value`. The server of the first line is what the others
//! are compared with; measures, cases and servers stand in the order of their first line.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::plot::bars::{Group, Panel, draw};
use crate::report;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The runs: CSV lines of measure, case, server and value.
    runs: PathBuf,
    /// What was measured with: a version, a setting. Stands above the tables and in the JSON; may be given several times.
    #[arg(long, value_name = "TEXT")]
    note: Vec<String>,
    /// Write runs, medians and ratios here as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the medians into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Draw this measure; may be given several times, all of them if not.
    #[arg(long, value_name = "MEASURE")]
    draw: Vec<String>,
    /// What stands above the drawing.
    #[arg(long, default_value = "", value_name = "TEXT")]
    title: String,
}

/// All runs of one server in one case.
#[derive(Debug, PartialEq)]
struct Cell {
    measure: String,
    case: String,
    server: String,
    values: Vec<f64>,
}

#[derive(Debug)]
struct Runs {
    cells: Vec<Cell>,
    measures: Vec<String>,
    servers: Vec<String>,
}

impl Runs {
    /// Reads the lines; empty ones are passed over.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut runs = Self { cells: Vec::new(), measures: Vec::new(), servers: Vec::new() };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            let [measure, case, server, value] = fields[..] else {
                anyhow::bail!("{line:?} is not measure,case,server,value");
            };
            let value = value.parse().with_context(|| format!("{line:?}: the value is not a number"))?;
            let is_same =
                |cell: &&mut Cell| (&*cell.measure, &*cell.case, &*cell.server) == (measure, case, server);
            match runs.cells.iter_mut().find(is_same) {
                Some(cell) => cell.values.push(value),
                None => runs.cells.push(Cell {
                    measure: measure.to_owned(),
                    case: case.to_owned(),
                    server: server.to_owned(),
                    values: vec![value],
                }),
            }
            remember(&mut runs.measures, measure);
            remember(&mut runs.servers, server);
        }
        ensure!(!runs.cells.is_empty(), "there are no runs");
        Ok(runs)
    }

    fn cases(&self, measure: &str) -> Vec<String> {
        let mut cases = Vec::new();
        let cells = self.cells.iter().filter(|cell| cell.measure == measure);
        cells.for_each(|cell| remember(&mut cases, &cell.case));
        cases
    }

    fn median(&self, measure: &str, case: &str, server: &str) -> Option<f64> {
        let cell = self
            .cells
            .iter()
            .find(|cell| cell.measure == measure && cell.case == case && cell.server == server)?;
        Some(median(&cell.values))
    }

    /// The first server's median over this one's; `None` where one of them is missing or 0.
    fn ratio(&self, measure: &str, case: &str, server: &str) -> Option<f64> {
        let ours = self.median(measure, case, &self.servers[0])?;
        self.median(measure, case, server).filter(|&theirs| theirs > 0.0).map(|theirs| ours / theirs)
    }

    /// A table in Markdown for each measure.
    fn tables(&self) -> String {
        let mut out = String::new();
        for measure in &self.measures {
            // Writing to a string does not fail.
            let _ = writeln!(out, "| {measure} | {} |", self.servers.join(" | "));
            let _ = writeln!(out, "|---{}|", "|---:".repeat(self.servers.len()));
            for case in self.cases(measure) {
                let cell = |(nth, server): (usize, &String)| {
                    let Some(value) = self.median(measure, &case, server) else { return "–".to_owned() };
                    let value = readable(value);
                    match self.ratio(measure, &case, server).filter(|_| nth > 0) {
                        Some(ratio) => format!("{value} ({} ×)", two_digits(ratio)),
                        None => value,
                    }
                };
                let cells: Vec<String> = self.servers.iter().enumerate().map(cell).collect();
                let _ = writeln!(out, "| {case} | {} |", cells.join(" | "));
            }
            out.push('\n');
        }
        out
    }

    fn to_json(&self, notes: &[String]) -> Value {
        let row = |cell: &Cell| {
            json!({
                "measure": cell.measure,
                "case": cell.case,
                "server": cell.server,
                "runs": cell.values,
                "median": median(&cell.values),
                "ratio": self.ratio(&cell.measure, &cell.case, &cell.server),
            })
        };
        let rows: Vec<Value> = self.cells.iter().map(row).collect();
        json!({"notes": notes, "ratio_of": self.servers[0], "rows": rows})
    }

    fn to_svg(&self, args: &Args) -> String {
        let is_drawn = |measure: &&String| args.draw.is_empty() || args.draw.contains(measure);
        let panel = |measure: &String| Panel {
            title: measure.clone(),
            groups: self.cases(measure).into_iter().map(|case| self.group(measure, case)).collect(),
        };
        let panels: Vec<Panel> = self.measures.iter().filter(is_drawn).map(panel).collect();
        draw(&args.title, &self.servers, &panels, &args.note)
    }

    fn group(&self, measure: &str, case: String) -> Group {
        let bar = |server: &String| self.median(measure, &case, server);
        Group { bars: self.servers.iter().map(bar).collect(), title: case }
    }
}

/// A ratio with two digits that say something.
fn two_digits(ratio: f64) -> String {
    let decimals = if ratio >= 0.1 { 2 } else { (1.0 - ratio.max(1e-6).log10().floor()) as usize };
    format!("{ratio:.decimals$}")
}

fn remember(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// Three significant digits at least, thousands apart.
pub(crate) fn readable(value: f64) -> String {
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_once('.').map_or((&*text, String::new()), |(a, b)| (a, format!(".{b}")));
    let mut out = String::new();
    for (nth, digit) in whole.chars().enumerate() {
        if nth > 0 && (whole.len() - nth).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + &rest
}

/// # Errors
/// When the runs cannot be read, or the results not written.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let text = fs::read_to_string(&args.runs).with_context(|| args.runs.display().to_string())?;
    let runs = Runs::parse(&text).with_context(|| args.runs.display().to_string())?;
    let others = if runs.servers.len() > 1 {
        format!("Medians; in brackets {} over the column's.", runs.servers[0])
    } else {
        "Medians.".to_owned()
    };
    let told = format!("{others}\n\n{}", runs.tables().trim_end());
    report::print(&mut io::stdout().lock(), &[&args.note[..], &[told]].concat())?;
    let write = |path: &Path, text: String| {
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    if let Some(path) = &args.json {
        write(path, serde_json::to_string_pretty(&runs.to_json(&args.note))? + "\n")?;
    }
    if let Some(path) = &args.plot {
        write(path, runs.to_svg(args))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
