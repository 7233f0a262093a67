//! Running a command on a message.

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;

use crate::client::Received;
use crate::limits;

/// Longest line of a command's output that is kept together; a longer one may be cut by another command's.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// What became of a message.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The command ended with exit code 0 and its output is out.
    Done,
    /// It did not.
    Failed(Failure),
    /// Its output could not be written to the stdout of this process.
    Unprintable(io::Error),
}

/// What is to be kept with the message, and the exit code of a command that ended with one.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: String,
    pub(super) exit_code: Option<i32>,
}

impl Outcome {
    /// The command did not come to an end of its own.
    fn broke(error: String) -> Self {
        Self::Failed(Failure { error, exit_code: None })
    }

    fn ended(status: ExitStatus, last_line: &str) -> Self {
        Self::Failed(Failure { error: describe(status, last_line), exit_code: status.code() })
    }
}

/// Runs `sh -c command` on a message and copies its output to `out`.
pub(super) fn run(command: &str, received: &Received, out: impl Write + Send) -> Outcome {
    let child = match prepare(command, received).spawn() {
        Ok(child) => child,
        Err(error) => return Outcome::broke(format!("cannot run the command: {error}")),
    };
    match finish(child, received.message().payload(), |stdout| copy_lines(stdout, out)) {
        Ok(Finished { copied: Err(error), .. }) => Outcome::Unprintable(error),
        Ok(Finished { status, .. }) if status.success() => Outcome::Done,
        Ok(Finished { status, last_line, .. }) => Outcome::ended(status, &last_line),
        Err(error) => Outcome::broke(format!("cannot wait for the command: {error}")),
    }
}

/// Runs `sh -c command` on a message and keeps its output as it is, for a message of its own.
pub(super) fn run_captured(command: &str, received: &Received) -> (Outcome, Vec<u8>) {
    let mut output = Vec::new();
    let outcome = match prepare(command, received).spawn() {
        Ok(child) => finish(child, received.message().payload(), |stdout| capture(stdout, &mut output)),
        Err(error) => return (Outcome::broke(format!("cannot run the command: {error}")), output),
    };
    let outcome = match outcome {
        Ok(Finished { status, last_line, .. }) if !status.success() => Outcome::ended(status, &last_line),
        Ok(Finished { copied: Ok(()), .. }) => Outcome::Done,
        Ok(Finished { copied: Err(error), .. }) => Outcome::broke(error.to_string()),
        Err(error) => Outcome::broke(format!("cannot wait for the command: {error}")),
    };
    (outcome, output)
}

/// Reads all of it and keeps what a message holds.
fn capture(mut from: impl Read, to: &mut Vec<u8>) -> io::Result<()> {
    let max = limits::PAYLOAD_BYTES_MAX;
    from.by_ref().take(max as u64 + 1).read_to_end(to)?;
    if to.len() > max {
        // So that the command is not killed halfway.
        io::copy(&mut from, &mut io::sink())?;
        return Err(io::Error::other(format!(
            "its output has more than {max} bytes, the most a message holds"
        )));
    }
    Ok(())
}

fn prepare(command: &str, received: &Received) -> Command {
    let mut prepared = Command::new("sh");
    prepared.arg("-c").arg(command);
    prepared.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // In a group of its own, so that Ctrl-C at the terminal lets it finish.
    prepared.process_group(0);
    // A topic's message has neither id nor attempt.
    if let Received::Delivery(delivery) = received {
        prepared.env("RELAYMESH_MESSAGE_ID", delivery.id().to_string());
        prepared.env("RELAYMESH_ATTEMPT", delivery.attempt().to_string());
    }
    prepared.env("RELAYMESH_QUEUE", received.queue().as_str());
    for (name, value) in received.message().attributes() {
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

struct Finished {
    status: ExitStatus,
    /// Of stderr.
    last_line: String,
    copied: io::Result<()>,
}

fn finish(
    mut child: Child,
    payload: &[u8],
    copy: impl FnOnce(ChildStdout) -> io::Result<()> + Send,
) -> io::Result<Finished> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let mut last = LastLine::default();
    // All at once: a command may write before it has read everything, or never read.
    let copied = thread::scope(|scope| {
        scope.spawn(move || {
            // A command that does not read its stdin is none the worse for it.
            let _ = stdin.map(|mut stdin| stdin.write_all(payload));
        });
        let copier = scope.spawn(move || stdout.map_or(Ok(()), copy));
        if let Some(stderr) = stderr {
            pass_errors(stderr, &mut last);
        }
        copier.join().unwrap_or_else(|_| Err(io::Error::other("the thread that copies it failed")))
    });
    Ok(Finished { status: child.wait()?, last_line: last.into_text(), copied })
}

fn pass_errors(mut stderr: impl Read, last: &mut LastLine) {
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut chunk) {
        // Stderr of this process may be closed; the command's is still wanted.
        let _ = io::stderr().write_all(&chunk[..read]);
        last.feed(&chunk[..read]);
    }
}

/// Copies whole lines, so that those of commands that run at once do not mix, and ends the last one. What cannot be
/// written is still read, so that the command is not killed halfway.
fn copy_lines(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut kept = Vec::new();
    let mut chunk = [0; 8192];
    let mut outcome = Ok(());
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        kept.extend_from_slice(&chunk[..read]);
        let whole = match kept.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => end + 1,
            None if kept.len() > LINE_BYTES_MAX => kept.len(),
            None => 0,
        };
        if outcome.is_ok() && whole > 0 {
            outcome = to.write_all(&kept[..whole]).and_then(|()| to.flush());
        }
        kept.drain(..whole);
    }
    if outcome.is_ok() && !kept.is_empty() {
        kept.push(b'\n');
        outcome = to.write_all(&kept).and_then(|()| to.flush());
    }
    outcome
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
