//! A run over time, drawn as SVG: sessions, memory and delay, one above the other over the same seconds.

pub(crate) mod bars;

use std::fmt::Write as _;
use std::time::Duration;

use crate::server::Memory;

/// Samples kept; beyond it every second one is dropped and they are taken half as often.
const SAMPLES_MAX: usize = 2_000;
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
const WIDTH: f64 = 960.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const PANEL_HEIGHT: f64 = 180.0;
const PANEL_GAP: f64 = 60.0;
const TOP: f64 = 40.0;
/// How many marks an axis has, about.
const TICKS: f64 = 5.0;
/// Told apart also by those who see no red or green.
const COLOURS: [&str; 2] = ["#0072b2", "#d55e00"];

/// A run at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// Since the run began.
    pub(crate) at: Duration,
    /// Sessions there.
    pub(crate) sessions: u64,
    /// What they take.
    pub(crate) memory: Memory,
    /// The median and the 99th percentile of the heartbeats since the last sample, in microseconds.
    pub(crate) delay_us: Option<[u64; 2]>,
}

/// The samples of a run, evenly spaced however long it is.
#[derive(Debug)]
pub(crate) struct Timeline {
    samples: Vec<Sample>,
    every: Duration,
    next: Duration,
}

impl Timeline {
    /// Without a sample.
    pub(crate) fn new() -> Self {
        Self { samples: Vec::new(), every: SAMPLE_EVERY, next: Duration::ZERO }
    }

    /// Whether a sample is to be taken.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        now >= self.next
    }

    /// Keeps one.
    pub(crate) fn push(&mut self, sample: Sample) {
        if self.samples.len() == SAMPLES_MAX {
            let mut nth = 0;
            self.samples.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            self.every *= 2;
        }
        self.samples.push(sample);
        self.next = sample.at + self.every;
    }

    /// The drawing. `title` stands above it; `held_from` is when all sessions were there.
    pub(crate) fn to_svg(&self, title: &str, held_from: Duration) -> String {
        let line = |name, of: &dyn Fn(&Sample) -> Option<f64>| Line {
            name,
            points: self.samples.iter().filter_map(|at| Some((at.at.as_secs_f64(), of(at)?))).collect(),
        };
        let mib = |bytes: Option<u64>| Some(bytes? as f64 / f64::from(1 << 20));
        let ms = |delay: Option<[u64; 2]>, which: usize| Some(delay?[which] as f64 / 1000.0);
        let panels = [
            Panel { title: "sessions", lines: vec![line("live", &|at| Some(at.sessions as f64))] },
            Panel {
                title: "memory, MiB",
                lines: vec![
                    line("the server's process", &|at| mib(at.memory.resident)),
                    line("the kernel, slabs and TCP, both ends", &|at| mib(at.memory.kernel)),
                ],
            },
            Panel {
                title: "heartbeat, ms",
                lines: vec![
                    line("median", &|at| ms(at.delay_us, 0)),
                    line("99th percentile", &|at| ms(at.delay_us, 1)),
                ],
            },
        ];
        let seconds = self.samples.last().map_or(1.0, |last| last.at.as_secs_f64().max(1.0));
        draw(title, &panels, seconds, held_from.as_secs_f64())
    }
}

struct Line {
    name: &'static str,
    /// Seconds and value.
    points: Vec<(f64, f64)>,
}

struct Panel {
    title: &'static str,
    lines: Vec<Line>,
}

fn draw(title: &str, panels: &[Panel], seconds: f64, held_from: f64) -> String {
    let height = TOP + panels.len() as f64 * (PANEL_HEIGHT + PANEL_GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, LEFT, 20.0, "start", "black", title);
    for (nth, panel) in panels.iter().enumerate() {
        let top = TOP + nth as f64 * (PANEL_HEIGHT + PANEL_GAP) + 20.0;
        panel.draw(&mut svg, top, seconds, held_from);
    }
    svg.push_str("</svg>\n");
    svg
}

impl Panel {
    fn draw(&self, svg: &mut String, top: f64, seconds: f64, held_from: f64) {
        let bottom = top + PANEL_HEIGHT;
        let highest =
            self.lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(0.0, f64::max);
        let step = tick_step(highest.max(1e-9));
        let highest = (highest.max(1e-9) / step).ceil() * step;
        let x = |at: f64| LEFT + at / seconds * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| bottom - value / highest * PANEL_HEIGHT;
        text(svg, LEFT, top - 8.0, "start", "black", self.title);
        for value in ticks(highest, step) {
            rule(svg, (LEFT, y(value)), (WIDTH - RIGHT, y(value)), "#dddddd");
            text(svg, LEFT - 6.0, y(value) + 4.0, "end", "#444444", &number(value));
        }
        for at in ticks(seconds, tick_step(seconds)) {
            text(svg, x(at), bottom + 16.0, "middle", "#444444", &format!("{} s", number(at)));
        }
        rule(svg, (x(held_from.min(seconds)), top), (x(held_from.min(seconds)), bottom), "#888888");
        for (nth, (line, colour)) in self.lines.iter().zip(COLOURS).enumerate() {
            if line.points.is_empty() {
                continue;
            }
            let points: Vec<String> =
                line.points.iter().map(|&(at, value)| format!("{:.1},{:.1}", x(at), y(value))).collect();
            let points = points.join(" ");
            // Writing to a string does not fail.
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{points}\"/>"
            );
            text(svg, WIDTH - RIGHT - 260.0 * nth as f64, top - 8.0, "end", colour, line.name);
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that an axis up to `highest` has about [`TICKS`] marks.
fn tick_step(highest: f64) -> f64 {
    let rough = highest / TICKS;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

fn ticks(highest: f64, step: f64) -> impl Iterator<Item = f64> {
    (0_u32..).map(move |nth| f64::from(nth) * step).take_while(move |&at| at <= highest * 1.001)
}

/// A number as an axis has it: no more digits than its step needs.
fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, colour: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"
    );
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

#[cfg(test)]
mod tests;
