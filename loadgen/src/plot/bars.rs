//! Servers beside each other, drawn as SVG: a column for each measure, in it a group of bars for each case.
//!
//! Every group has its own scale, so that a bar's length beside the others' is the ratio; the value stands at its end.

use std::fmt::Write as _;

use super::text;
use crate::compare::readable;

const COLUMN: f64 = 460.0;
const MARGIN: f64 = 20.0;
const TOP: f64 = 40.0;
const LINE: f64 = 16.0;
const BAR: f64 = 12.0;
const GROUP_GAP: f64 = 10.0;
/// What the value at the end of the longest bar takes.
const VALUE: f64 = 80.0;
/// Servers in a line of the legend.
const LEGEND: usize = 4;
/// Told apart also by those who see no red or green.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#e69f00", "#009e73", "#56b4e9", "#cc79a7", "#f0e442", "#999999"];

/// A measure.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) groups: Vec<Group>,
}

/// A case: a bar for each server that was measured in it.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) bars: Vec<Option<f64>>,
}

impl Group {
    fn height(&self) -> f64 {
        LINE + BAR * self.bars.iter().flatten().count() as f64 + GROUP_GAP
    }

    fn draw(&self, svg: &mut String, left: f64, top: f64) {
        text(svg, left, top + 12.0, "start", "black", &self.title);
        let highest = self.bars.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
        let mut y = top + LINE;
        for (bar, colour) in self.bars.iter().zip(COLOURS.iter().cycle()) {
            let Some(value) = bar else { continue };
            let width = value.max(0.0) / highest * (COLUMN - MARGIN - VALUE);
            let height = BAR - 2.0;
            // Writing to a string does not fail.
            let _ = writeln!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
            );
            text(svg, left + width + 4.0, y + 9.0, "start", "#444444", &readable(*value));
            y += BAR;
        }
    }
}

/// The drawing: a title, the servers' colours, the panels side by side, and the notes below them.
pub(crate) fn draw(title: &str, servers: &[String], panels: &[Panel], notes: &[String]) -> String {
    let legend = LINE * servers.len().div_ceil(LEGEND) as f64;
    let heights = panels.iter().map(|panel| panel.groups.iter().map(Group::height).sum::<f64>());
    let bottom = TOP + legend + 2.0 * LINE + heights.fold(0.0, f64::max);
    let width = MARGIN + COLUMN * panels.len().max(2) as f64;
    let height = bottom + LINE * (notes.len() as f64 + 1.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, MARGIN, 22.0, "start", "black", title);
    for (nth, (server, colour)) in servers.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let x = MARGIN + (nth % LEGEND) as f64 * 230.0;
        let y = TOP + LINE * (nth / LEGEND) as f64;
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>");
        text(&mut svg, x + 14.0, y + 9.0, "start", "black", server);
    }
    for (nth, panel) in panels.iter().enumerate() {
        let left = MARGIN + COLUMN * nth as f64;
        let mut top = TOP + legend + 2.0 * LINE;
        text(&mut svg, left, top - 8.0, "start", "black", &panel.title);
        for group in &panel.groups {
            group.draw(&mut svg, left, top);
            top += group.height();
        }
    }
    for (nth, note) in notes.iter().enumerate() {
        text(&mut svg, MARGIN, bottom + LINE * (nth as f64 + 0.5), "start", "#444444", note);
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_value_beside_the_groups_longest() {
        let group = Group { title: "1 < 2".to_owned(), bars: vec![Some(400.0), None, Some(100.0)] };
        let panel = Panel { title: "a second".to_owned(), groups: vec![group] };
        let servers = ["a", "b", "c"].map(str::to_owned);
        let svg = draw("title", &servers, &[panel], &["a note".to_owned()]);
        assert!(svg.contains("width=\"360.0\"") && svg.contains("width=\"90.0\""), "{svg}");
        assert!(svg.contains("1 &lt; 2") && svg.contains(">a note<"));
        assert_eq!(svg.matches("height=\"10.0\"").count(), 2, "one that was not measured has no bar");
    }
}
