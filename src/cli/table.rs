//! Rows, ages and sizes for people.

use std::time::Duration;

use serde_json::Value;

/// Lines of columns that are as wide as their widest cell; the columns of numbers are right-aligned.
pub(super) fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let is_number = |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit()) || cell == "-";
    let right: Vec<bool> = (0..head.len())
        .map(|column| rows.iter().filter_map(|row| row.get(column)).all(is_number) && column > 0)
        .collect();
    let line = |cells: &[&str]| {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let padding = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            let gap = if column == 0 { "" } else { "  " };
            line += gap;
            line += &if right[column] { format!("{padding}{cell}") } else { format!("{cell}{padding}") };
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    };
    let mut text = line(head);
    for row in rows {
        text += &line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    text
}

/// A duration in its two largest units: `3d 4h`, `2m 5s`, `0s`.
pub(super) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = units.iter().position(|&(unit, _)| seconds >= unit) else { return "0s".to_owned() };
    let (unit, name) = units[first];
    let mut text = format!("{}{name}", seconds / unit);
    if let Some(&(smaller, name)) = units.get(first + 1)
        && seconds % unit / smaller > 0
    {
        text += &format!(" {}{name}", seconds % unit / smaller);
    }
    text
}

/// Bytes in the largest unit that leaves at least 1: `17 B`, `1.5 KiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A text of the server, without what would move the cursor, cut to `max` characters.
pub(super) fn clean(text: &str, max: usize) -> String {
    let visible = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().count() <= max {
        return visible.collect();
    }
    visible.take(max.saturating_sub(1)).chain(['…']).collect()
}

/// A number of a JSON row; 0 where the server gave none.
pub(super) fn number(row: &Value, field: &str) -> u64 {
    row[field].as_u64().unwrap_or(0)
}

/// A text of a JSON row, cleaned; empty where the server gave none.
pub(super) fn text(row: &Value, field: &str, max: usize) -> String {
    clean(row[field].as_str().unwrap_or_default(), max)
}

#[cfg(test)]
mod tests;
