//! `loadgen rival` against a server of a few lines that speaks beanstalkd's protocol.

mod support;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::{loadgen, read_json, stderr};

/// Keeps jobs and answers for each only when it can read no further, so that it sees how many are in flight.
struct Tube {
    address: SocketAddr,
    most_in_flight: Arc<AtomicUsize>,
}

impl Tube {
    /// Serves as many connections as are made, one after the other; before the first job it does nothing for so long.
    fn start(stall: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let most_in_flight = Arc::new(AtomicUsize::new(0));
        let most = Arc::clone(&most_in_flight);
        thread::spawn(move || {
            let (mut jobs, mut stall) = (VecDeque::new(), stall);
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                let mut answers = stream.try_clone().expect("its other half");
                serve(&mut BufReader::new(stream), &mut answers, &mut jobs, &most, &mut stall);
            }
        });
        Self { address, most_in_flight }
    }

    fn load(&self, what: &str, arguments: &[&str]) -> (bool, String, Value) {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let json = home.path().join("out.json");
        let mut command = loadgen();
        command.args(["rival", "beanstalkd", what, "--connect", &self.address.to_string(), "--json"]);
        let output = command.arg(&json).args(arguments).output().expect("loadgen runs");
        (output.status.success(), stderr(&output), read_json(&json))
    }
}

fn serve(
    requests: &mut BufReader<std::net::TcpStream>,
    answers: &mut std::net::TcpStream,
    jobs: &mut VecDeque<Vec<u8>>,
    most: &AtomicUsize,
    stall: &mut Duration,
) {
    let (mut held, mut line, mut out) = (0, String::new(), Vec::new());
    while requests.read_line(&mut line).is_ok_and(|read| read > 0) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["put", _, _, _, bytes] => {
                let mut job = vec![0; bytes.parse::<usize>().expect("a length") + 2];
                requests.read_exact(&mut job).expect("the job");
                jobs.push_back(job);
                thread::sleep(std::mem::take(stall));
                out.extend_from_slice(b"INSERTED 1\r\n");
            }
            ["reserve"] => {
                let job = jobs.pop_front().expect("no more is asked for than was put");
                out.extend_from_slice(format!("RESERVED 1 {}\r\n", job.len() - 2).as_bytes());
                out.extend_from_slice(&job);
                held += 1;
            }
            ["delete", "1"] => {
                held -= 1;
                out.extend_from_slice(b"DELETED\r\n");
            }
            _ => out.extend_from_slice(b"USING load\r\n"),
        }
        most.fetch_max(held, Ordering::Relaxed);
        line.clear();
        if requests.buffer().is_empty() {
            let answered = out.windows(8).filter(|bytes| bytes == b"INSERTED").count();
            most.fetch_max(answered, Ordering::Relaxed);
            answers.write_all(&out).expect("the answers are taken");
            out.clear();
        }
    }
}

#[test]
fn all_is_published_and_acked_and_no_more_than_the_window_is_in_flight() {
    let tube = Tube::start(Duration::ZERO);
    for what in ["publish", "work"] {
        let arguments = ["--count", "1000", "--in-flight", "16", "--size", "64"];
        let (succeeds, error, told) = tube.load(what, &arguments);
        assert!(succeeds, "{error}");
        assert_eq!(told["count"], 1000, "{told}");
        assert!(told["delivery_us"].is_null(), "without a rate nothing is due: {told}");
        assert!(told["latency_us"]["p50"].as_u64().unwrap() > 0, "{told}");
    }
    assert_eq!(tube.most_in_flight.load(Ordering::Relaxed), 16);
}

#[test]
fn with_a_rate_delays_count_from_when_a_message_was_due() {
    let tube = Tube::start(Duration::from_millis(200));
    let arguments = ["--count", "300", "--rate", "1000", "--in-flight", "8", "--size", "64"];
    let (succeeds, error, told) = tube.load("publish", &arguments);
    assert!(succeeds, "{error}");
    let elapsed_s = told["elapsed_s"].as_f64().unwrap();
    assert!((0.29..30.0).contains(&elapsed_s), "no faster than the rate: {told}");
    // Eight were sent before the server stalled; the others that were due meanwhile are late as well.
    assert!(told["latency_us"]["p50"].as_u64().unwrap() > 20_000, "{told}");
    let (succeeds, error, told) = tube.load("work", &["--count", "300"]);
    assert!(succeeds, "{error}");
    // The last one was due before the first could be worked on, and the first 300 ms earlier.
    assert!(told["delivery_us"]["max"].as_u64().unwrap() > 299_000, "{told}");
}
