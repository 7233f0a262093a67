//! Running a command on a message.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use crate::client::Delivery;
use crate::limits;

/// Runs `sh -c command` on a delivery.
///
/// # Errors
/// What is to be kept with the message: exit code or signal and the last line of stderr.
pub(super) fn run(command: &str, delivery: &Delivery) -> Result<(), String> {
    let child = prepare(command, delivery).spawn();
    let child = child.map_err(|error| format!("cannot run the command: {error}"))?;
    match finish(child, delivery.message.payload()) {
        Ok((status, _)) if status.success() => Ok(()),
        Ok((status, last_line)) => Err(describe(status, &last_line)),
        Err(error) => Err(format!("cannot wait for the command: {error}")),
    }
}

fn prepare(command: &str, delivery: &Delivery) -> Command {
    let mut prepared = Command::new("sh");
    prepared.arg("-c").arg(command);
    prepared.stdin(Stdio::piped()).stdout(Stdio::inherit()).stderr(Stdio::piped());
    // In a group of its own, so that Ctrl-C at the terminal lets it finish.
    prepared.process_group(0);
    prepared.env("RELAYMESH_MESSAGE_ID", delivery.id().to_string());
    prepared.env("RELAYMESH_ATTEMPT", delivery.attempt().to_string());
    prepared.env("RELAYMESH_QUEUE", delivery.queue.as_str());
    for (name, value) in delivery.message.attributes() {
        // The environment holds no zero byte.
        if !value.contains('\0') {
            prepared.env(variable(name), value);
        }
    }
    prepared
}

/// The environment variable of an attribute.
fn variable(attribute: &str) -> String {
    let name =
        attribute.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    "RELAYMESH_ATTR_".chars().chain(name).collect()
}

fn finish(mut child: Child, payload: &[u8]) -> std::io::Result<(ExitStatus, String)> {
    let stdin = child.stdin.take();
    let stderr = child.stderr.take();
    let mut last = LastLine::default();
    // Both at once: a command may write before it has read everything, or never read.
    thread::scope(|scope| {
        scope.spawn(move || {
            // A command that does not read its stdin is none the worse for it.
            let _ = stdin.map(|mut stdin| stdin.write_all(payload));
        });
        let Some(mut stderr) = stderr else { return };
        let mut chunk = [0; 4096];
        while let Ok(read) = stderr.read(&mut chunk) {
            if read == 0 {
                break;
            }
            // Stderr of this process may be closed; the command's is still wanted.
            let _ = std::io::stderr().write_all(&chunk[..read]);
            last.feed(&chunk[..read]);
        }
    });
    Ok((child.wait()?, last.into_text()))
}

fn describe(status: ExitStatus, last_line: &str) -> String {
    let what = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    };
    if last_line.is_empty() { what } else { format!("{what}: {last_line}") }
}

/// Keeps the last line that holds something, in bounded memory.
#[derive(Debug, Default)]
struct LastLine {
    line: Vec<u8>,
    /// The next byte starts a new line.
    ended: bool,
}

impl LastLine {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || byte == b'\r' {
                self.ended = true;
                continue;
            }
            if self.ended {
                // Blank lines at the end do not hide the one before them.
                if byte.is_ascii_whitespace() {
                    continue;
                }
                self.line.clear();
                self.ended = false;
            }
            if self.line.len() < limits::ERROR_TEXT_BYTES_MAX {
                self.line.push(byte);
            }
        }
    }

    fn into_text(self) -> String {
        String::from_utf8_lossy(&self.line).trim().to_owned()
    }
}

#[cfg(test)]
mod tests;
