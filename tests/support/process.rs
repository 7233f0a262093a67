//! A child process whose output arrives as lines, and which never outlives its test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Lines of a child's output that may wait for the test; beyond it the child waits.
const LINES_WAITING_MAX: usize = 10_000;

/// A running child. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    stderr_ended: Receiver<()>,
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code or signal.
    pub(crate) status: ExitStatus,
    /// What it printed and nobody read as lines yet.
    pub(crate) stdout: String,
    /// All it said on stderr.
    pub(crate) stderr: String,
}

impl Process {
    /// Starts `command` with its output piped here.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let (line_sender, lines) = sync_channel(LINES_WAITING_MAX);
        let (ended_sender, stderr_ended) = sync_channel(1);
        let stdout = child.stdout.take().expect("stdout was piped");
        let mut pipe = child.stderr.take().expect("stderr was piped");
        let stderr = Arc::new(Mutex::new(String::new()));
        let collected = Arc::clone(&stderr);
        thread::spawn(move || forward_lines(stdout, &line_sender));
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
                collected.push_str(&String::from_utf8_lossy(&chunk[..length]));
            }
            let _ = ended_sender.send(());
        });
        Self { child, lines, stderr, stderr_ended }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next line of its stdout; `None` when stdout has ended.
    pub(crate) fn next_line(&self, patience: Duration) -> Option<String> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("no line within {patience:?}; stderr so far:\n{}", self.stderr())
            }
        }
    }

    /// A line of its stdout if one comes within `patience`, to show that none does.
    pub(crate) fn line_within(&self, patience: Duration) -> Option<String> {
        self.lines.recv_timeout(patience).ok()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Waits until it ends by itself; panics when it does not within `patience`.
    pub(crate) fn wait(mut self, patience: Duration) -> Ended {
        let deadline = Instant::now() + patience;
        let mut stdout = String::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    stdout.push_str(&line);
                    stdout.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("still running after {patience:?}; stdout:\n{stdout}\nstderr:\n{}", self.stderr())
                }
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let _ = self.stderr_ended.recv_timeout(left);
        let status = self.child.wait().expect("a child can be waited for");
        Ended { status, stdout, stderr: self.stderr() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill();
        }
    }
}

fn forward_lines(stdout: impl Read, sender: &SyncSender<String>) {
    for line in BufReader::new(stdout).split(b'\n') {
        let Ok(line) = line else { return };
        if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
            return;
        }
    }
}
