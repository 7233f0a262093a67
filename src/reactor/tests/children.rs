//! What may not happen in the process that runs the tests: running out of descriptors, and a loop that panics.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::echo::{PANIC, TURNED_AWAY};
use super::*;

const ROLE: &str = "RELAYMESH_REACTOR_TEST_CHILD";
/// Descriptors the child may open beyond those it starts with.
const SPARE_DESCRIPTORS: u64 = 20;

/// Not a test of its own: the process that the other tests start. Serves until its input ends.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let running = start(1);
    if role == "few descriptors" {
        let open = host::open_descriptors().expect("this platform tells");
        let limit = Rlimit { current: Some(open + SPARE_DESCRIPTORS), maximum: host_hard_limit() };
        setrlimit(Resource::Nofile, limit).unwrap();
    }
    println!("\naddress {}", running.address);
    let _ = std::io::stdin().read_to_end(&mut vec![]);
    println!("\nturns {} shed {}", running.metrics[0].turns.value(), running.seen[0].turned_away.value());
    running.stop();
}

fn host_hard_limit() -> Option<u64> {
    Some(host::descriptor_limit().hard).filter(|&hard| hard != u64::MAX)
}

struct Server {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
    address: SocketAddr,
}

impl Server {
    fn start(role: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "reactor::tests::children::child", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let address = line_after(&mut output, "address ").parse().unwrap();
        Self { process, input, output, address }
    }

    fn end(mut self) -> (String, ExitStatus) {
        self.input = None;
        let told = line_after(&mut self.output, "turns ");
        (told, self.process.wait().unwrap())
    }
}

fn line_after(output: &mut impl BufRead, start: &str) -> String {
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        if let Some(rest) = line.trim_end().strip_prefix(start) {
            return rest.to_owned();
        }
        line.clear();
    }
    panic!("the child ended without {start:?}");
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What the server answers to a greeting: the same where it took the client. If not it says so and closes; a greeting
/// that crosses its close is answered with a reset, which may take the words with it.
fn answer_of(stream: &mut TcpStream) -> Vec<u8> {
    let _ = stream.write_all(b"hello");
    let mut back = [0; 64];
    let mut read = || match stream.read(&mut back) {
        Ok(n) => back[..n].to_vec(),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => vec![],
        Err(error) => panic!("{error}"),
    };
    let answer = read();
    if answer != b"hello" {
        assert!(answer == TURNED_AWAY || answer.is_empty(), "{answer:?}");
        assert!(read().is_empty(), "and closed");
    }
    answer
}

fn is_served(stream: &mut TcpStream) -> bool {
    answer_of(stream) == b"hello"
}

#[test]
fn out_of_descriptors_clients_are_told_and_the_loop_does_not_spin() {
    let server = Server::start("few descriptors");
    let mut clients: Vec<_> = (0..60).map(|_| connect(server.address)).collect();
    let answers: Vec<_> = clients.iter_mut().map(answer_of).collect();
    assert!(answers.iter().any(|answer| answer == TURNED_AWAY), "nobody was told");
    let served: Vec<bool> = answers.iter().map(|answer| answer == b"hello").collect();
    let taken = served.iter().filter(|&&served| served).count() as u64;
    // Descriptors with high numbers that the child was started with take none of the numbers below the limit.
    assert!((10..=SPARE_DESCRIPTORS + 10).contains(&taken), "{taken} were served");
    assert!(served.iter().take(10).all(|&served| served), "those who came first stay");
    std::thread::sleep(Duration::from_millis(300));

    // When somebody leaves, there is room for another.
    clients.truncate(5);
    let mut attempts = 0;
    eventually("a new client is served", || {
        attempts += 1;
        is_served(&mut connect(server.address))
    });
    assert!(is_served(&mut clients[0]), "the first is still there");

    let (told, status) = server.end();
    assert!(status.success());
    let turns: u64 = told.split(' ').next().unwrap().parse().unwrap();
    let shed: u64 = told.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(shed >= 60 - taken, "{told}");
    assert!(shed <= 60 - taken + attempts, "nobody was there to be turned away: {told}");
    // Each client takes a few turns; a loop that spins takes some hundred thousand a second.
    assert!(turns < 2000 + 10 * attempts, "the loop spun: {told}, {attempts} attempts");
}

#[test]
fn a_panic_in_a_loop_ends_the_process() {
    let mut server = Server::start("panic");
    let mut client = connect(server.address);
    client.write_all(&[PANIC]).unwrap();
    let status = server.process.wait().unwrap();
    assert!(!status.success());
    let mut said = String::new();
    server.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("an event loop panicked"), "{said}");
}
