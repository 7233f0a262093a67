//! One message as people read it: where it stands, what it carries, every attempt that failed and its payload.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::{out, table};

/// How a message is printed.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Form {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Print nothing but the payload, byte for byte.
    #[arg(long, conflicts_with = "json")]
    payload: bool,
}

/// What few messages have.
const KEYS: [(&str, &str); 4] = [
    ("order_key", "order key"),
    ("fair_key", "fair key"),
    ("dedup_id", "dedup id"),
    ("trace_context", "trace"),
];

/// Prints `message`, as the operator API gives it; `own` are the titles and texts that say where it stands.
pub(super) fn show(message: &Value, own: &[(&str, String)], form: &Form) -> anyhow::Result<()> {
    if form.json {
        return Ok(out::line(format_args!("{message:#}"))?);
    }
    let shown = message["payload_base64"].as_str();
    let bytes = STANDARD.decode(shown.unwrap_or_default())?;
    let size = table::number(message, "payload_bytes");
    let mut out = std::io::stdout().lock();
    if form.payload {
        if shown.is_none() {
            anyhow::bail!(
                "the payload has {size} bytes, too many to be shown: work on the message, after a redrive if it is dead"
            );
        }
        out.write_all(&bytes)?;
        return Ok(out.flush()?);
    }
    let full = usize::MAX;
    writeln!(out, "id          {}", table::number(message, "id"))?;
    writeln!(out, "queue       {}", table::text(message, "queue", full))?;
    for (title, text) in own {
        writeln!(out, "{title:<12}{text}")?;
    }
    writeln!(out, "size        {}", table::size(table::number(message, "bytes")))?;
    for (name, value) in message["attributes"].as_object().into_iter().flatten() {
        let value = table::clean(value.as_str().unwrap_or_default(), full);
        writeln!(out, "attribute   {}={value}", table::clean(name, full))?;
    }
    for (field, title) in KEYS {
        if message[field].is_string() {
            writeln!(out, "{title:<12}{}", table::text(message, field, full))?;
        }
    }
    write_attempts(&mut out, message)?;
    match std::str::from_utf8(&bytes) {
        _ if shown.is_none() => writeln!(out, "payload     {size} bytes, too many to be shown")?,
        Ok(text) => writeln!(out, "payload     {}", table::clean(text, full))?,
        Err(_) => writeln!(out, "payload     {} bytes, not text; --payload prints them", bytes.len())?,
    }
    Ok(())
}

fn write_attempts(out: &mut impl Write, message: &Value) -> anyhow::Result<()> {
    writeln!(out, "attempts    {}", table::number(message, "attempts"))?;
    match table::number(message, "history_left_out") {
        0 => {}
        left_out => writeln!(out, "       the first {left_out} were not kept")?,
    }
    for attempt in message["history"].as_array().into_iter().flatten() {
        let number = table::number(attempt, "attempt");
        let when = stamp(table::number(attempt, "failed_unix_ms"));
        let lasted = attempt["lasted_ms"].as_u64().map_or_else(|| "?".to_owned(), |ms| format!("{ms} ms"));
        let client = table::text(attempt, "client", usize::MAX);
        let client = if client.is_empty() { "-".to_owned() } else { client };
        let error = table::text(attempt, "error", usize::MAX);
        writeln!(out, "  {number:>3}  {when}  {lasted:>10}  {client}  {error}")?;
    }
    Ok(())
}

/// A time as people write it, in UTC, as long as any other one: tables of them have columns.
pub(in crate::cli) fn stamp(unix_ms: u64) -> String {
    let timestamp = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    timestamp.map_or_else(|| "-".to_owned(), |timestamp| format!("{timestamp:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_long_as_one_another() {
        assert_eq!(stamp(1_700_000_000_420), "2023-11-14T22:13:20.420Z");
        assert_eq!(stamp(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
        assert_eq!(stamp(u64::MAX), "-");
    }
}
