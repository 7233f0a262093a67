//! `loadgen connect` through the binary, against the built server.
//!
//! The server is the `relaymesh` beside the built `loadgen`: `cargo test --workspace` has built it,
//! `cargo build --bin relaymesh` does too.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// What a step may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running server, ended with its test.
struct Server {
    process: Child,
    listen: String,
    admin: String,
    data: TempDir,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_loadgen")).with_file_name("relaymesh");
        assert!(binary.exists(), "{} is not built: cargo build --bin relaymesh", binary.display());
        let data = TempDir::with_prefix("loadgen-test-").expect("a temporary directory can be made");
        let mut process = Command::new(binary)
            .env_clear()
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"])
            .arg(data.path().join("data"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(process.stdout.take().expect("stdout was piped")).lines();
        let mut address = |prefix: &str| {
            let line = lines.find_map(|line| line.ok()?.strip_prefix(prefix).map(str::to_owned));
            line.unwrap_or_else(|| panic!("the server says {prefix:?}"))
        };
        let listen = address("listening on ");
        let admin = address("admin on ");
        Self { process, listen, admin, data }
    }

    /// Runs `loadgen connect` against it; returns how it ended and what it wrote as JSON.
    fn connect(&self, arguments: &[&str]) -> (Output, Value) {
        let json = self.data.path().join("result.json");
        let output = loadgen()
            .args(["connect", "--connect", &self.listen, "--quiet", "--json"])
            .arg(&json)
            .args(arguments)
            .output()
            .expect("loadgen starts");
        let text = std::fs::read_to_string(&json).unwrap_or_default();
        (output, serde_json::from_str(&text).unwrap_or_default())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn loadgen() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.env_clear().env("RUST_BACKTRACE", "1");
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn sessions_are_held_and_their_account_is_written() {
    let server = Server::start(&[]);
    let pid = server.process.id().to_string();
    for source in [["--server-pid", &pid], ["--admin", &server.admin]] {
        let plot = server.data.path().join("plot.svg");
        let mut arguments = vec!["--connections", "300", "--hold", "2500ms", "--heartbeat", "1s"];
        arguments.extend(["--plot", plot.to_str().unwrap()]);
        arguments.extend(source);
        let (output, told) = server.connect(&arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(told["established"], 300, "{told}");
        for none in ["failed", "retried", "lost", "missed_heartbeats", "delivered"] {
            assert_eq!(told[none], 0, "{none}: {told}");
        }
        let heartbeats = told["count"].as_u64().unwrap();
        assert!((600..=900).contains(&heartbeats), "each session has one a second: {told}");
        let number = |name: &str| told[name].as_f64().unwrap_or_else(|| panic!("{name} is a number: {told}"));
        assert!(number("handshakes_per_s") > 0.0 && number("cpu_us_per_heartbeat") > 0.0, "{told}");
        for tells_some in ["rss_bytes_per_session", "kernel_bytes_per_session"] {
            number(tells_some);
        }
        let percentiles = ["p50", "p90", "p99", "p999", "max"].map(|name| &told["heartbeat_rtt_us"][name]);
        let percentiles = percentiles.map(|us| us.as_u64().unwrap());
        assert!(percentiles.is_sorted() && percentiles[0] > 0, "{told}");
        let drawn = std::fs::read_to_string(&plot).unwrap();
        assert_eq!(drawn.matches("<polyline").count(), 5, "sessions, both memories, both delays: {drawn}");
    }
}

/// A limit on descriptors that is far below the sessions: each thread has a table of its own.
#[test]
#[cfg(target_os = "linux")]
fn sessions_beyond_one_descriptor_table_are_shared_out() {
    let server = Server::start(&[]);
    let json = server.data.path().join("result.json");
    let run = format!(
        "ulimit -n 100 && exec {} connect --connect {} --connections 400 --hold 200ms --quiet --json {}",
        env!("CARGO_BIN_EXE_loadgen"),
        server.listen,
        json.display()
    );
    let output = Command::new("sh").args(["-c", &run]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!((&told["established"], &told["failed"]), (&400.into(), &0.into()), "{told}");
    assert_eq!(told["threads"], 6, "{told}");
}

#[test]
fn connections_that_are_refused_are_reported_and_the_others_held() {
    let server = Server::start(&["--max-sessions", "50"]);
    let arguments = ["--connections", "80", "--retries", "0", "--hold", "1500ms", "--heartbeat", "1s"];
    let (output, told) = server.connect(&arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!((&told["established"], &told["failed"]), (&50.into(), &30.into()), "{told}");
    assert_eq!(told["missed_heartbeats"], 0, "{told}");
    assert!(told["count"].as_u64().unwrap() >= 50, "those that were welcomed are held: {told}");
    let reasons = told["reasons"].as_object().unwrap();
    assert_eq!(reasons.values().map(|times| times.as_u64().unwrap()).sum::<u64>(), 30, "{told}");
    assert!(reasons.keys().all(|reason| reason.starts_with("refused: ")), "{told}");
}

#[test]
fn sessions_that_a_dying_server_takes_along_are_lost_and_the_run_goes_on() {
    let mut server = Server::start(&[]);
    let json = server.data.path().join("result.json");
    let run = loadgen()
        .args([
            "connect",
            "--connect",
            &server.listen,
            "--connections",
            "60",
            "--hold",
            "10m",
            "--heartbeat",
            "1s",
        ])
        .args(["--quiet", "--json"])
        .arg(&json)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let url = format!("http://{}/metrics", server.admin);
    let live = || {
        let page = ureq::get(&url).call().unwrap().body_mut().read_to_string().unwrap();
        let live = page.lines().find_map(|line| line.strip_prefix("relaymesh_connections{state=\"live\"} "));
        live.is_some_and(|live| live.parse() == Ok(60.0))
    };
    let deadline = Instant::now() + PATIENCE;
    while !live() {
        assert!(Instant::now() < deadline, "60 sessions never were there");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.process.kill().unwrap();
    let output = run.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let told: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(
        (&told["established"], &told["failed"], &told["lost"]),
        (&60.into(), &0.into(), &60.into()),
        "{told}"
    );
    assert!(told["reasons"].as_object().unwrap().keys().all(|reason| reason.starts_with("lost: ")), "{told}");
}

#[test]
fn without_a_server_one_line_says_so() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let json = TempDir::with_prefix("loadgen-test-").unwrap();
    let output = loadgen()
        .args(["connect", "--connections", "3", "--retries", "1", "--connect", &nobody.to_string(), "--json"])
        .arg(json.path().join("result.json"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.starts_with("loadgen: none of 3 sessions was established: "), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    let told = std::fs::read_to_string(json.path().join("result.json")).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["failed"], &told["retried"]), (&3.into(), &3.into()), "{told}");

    let output = loadgen().args(["echo", "--connect", &nobody.to_string()]).output().unwrap();
    let said = stderr(&output);
    assert!(said.starts_with("loadgen: connection ") && said.trim_end().lines().count() == 1, "{said}");
}
