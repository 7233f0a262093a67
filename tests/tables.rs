//! More sessions than one table of descriptors holds: a server under a low limit gives each of its loops a table.
#![cfg(target_os = "linux")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use relaymesh::wire::proto::{Code, Kind};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use support::process::Process;
use support::server::{Home, Server};
use support::wire::{Arrival, Wire, hello};
use support::{PATIENCE, eventually, http};

/// Descriptors that one table of the server may hold.
const LIMIT: u64 = 200;
/// The standard ones, doorbell, poller, listener and reserve of a loop.
const OWN: usize = 7;
/// Far enough below what the tables hold together that none is filled by chance.
const SESSIONS: usize = 400;
const LOOPS: usize = 3;

/// `inner` with no more than [`LIMIT`] descriptors a table.
fn limited(inner: &Command) -> Process {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {LIMIT} && exec \"$0\" \"$@\""));
    command.arg(inner.get_program()).args(inner.get_args()).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Process::start(&mut command)
}

/// `relaymesh serve` on `home` with no more than [`LIMIT`] descriptors a table.
fn serve(home: &Home) -> Server {
    home.await_ready(limited(&home.command()))
        .unwrap_or_else(|ended| panic!("serve did not start: {ended:#?}"))
}

fn home() -> Home {
    Home::new().arguments(&["--max-sessions", &SESSIONS.to_string()])
}

/// What each table of the process holds: those of the loops by the thread's name, and `main`'s.
fn tables(server: &Server) -> BTreeMap<String, Vec<String>> {
    let process = format!("/proc/{}/task", server.id());
    let mut tables = BTreeMap::new();
    for task in fs::read_dir(&process).expect("the process is there").flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default().trim().to_owned();
        let is_first = task.file_name().to_str() == Some(&server.id().to_string());
        if !is_first && !name.starts_with("loop-") {
            continue;
        }
        let entries = fs::read_dir(task.path().join("fd")).expect("a thread has a table").flatten();
        let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        let links = links.map(|link| link.to_string_lossy().into_owned()).collect();
        tables.insert(if is_first { "main".to_owned() } else { name }, links);
    }
    tables
}

/// Descriptors in the tables of the loops.
fn held_by_loops(server: &Server) -> Vec<usize> {
    let tables = tables(server);
    tables.iter().filter(|(name, _)| *name != "main").map(|(_, links)| links.len()).collect()
}

/// A handler writes to a descriptor by its number: on a loop's thread that could be a client's socket.
fn assert_signals_stay_away(server: &Server) {
    for task in fs::read_dir(format!("/proc/{}/task", server.id())).expect("the process is there").flatten() {
        let status = fs::read_to_string(task.path().join("status")).expect("a thread has a status");
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let blocked = field("SigBlk:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
        let name = field("Name:").expect("a thread has a name");
        if name.starts_with("loop-") {
            for signal in [Signal::INT, Signal::TERM] {
                let is_blocked = blocked.expect("a mask") >> (signal.as_raw() - 1) & 1 == 1;
                assert!(is_blocked, "{name} takes {signal:?}");
            }
        }
    }
}

fn metric(server: &Server, series: &str) -> u64 {
    let page = http::get(server.admin, "/metrics").body;
    let line = page.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let value = line.and_then(|line| line.rsplit_once(' ')).and_then(|(_, value)| value.parse::<f64>().ok());
    value.unwrap_or_else(|| panic!("{series} is a metric:\n{page}")) as u64
}

/// How many of a table's descriptors are sockets.
fn sockets(table: &[String]) -> usize {
    table.iter().filter(|link| link.starts_with("socket:")).count()
}

/// A client that is welcomed, or the code it is turned away with, if that arrived.
fn welcome(server: SocketAddr, client: &str) -> Result<Wire, Option<Code>> {
    let mut wire = Wire::connect(server);
    wire.send(Kind::Hello, &hello(client));
    match wire.read_until(Instant::now() + PATIENCE) {
        Arrival::Frame(frame) if frame.is(Kind::Welcome) => Ok(wire),
        Arrival::Frame(frame) => Err(frame.farewell()),
        Arrival::Closed => Err(None),
        Arrival::Nothing => panic!("neither welcomed nor turned away"),
    }
}

fn fleet(server: &Server) -> Vec<Wire> {
    (0..SESSIONS).map(|n| Wire::welcome(server.listen, &format!("c{n}")).0).collect()
}

#[test]
fn sessions_beyond_one_table_are_held_and_leave_nothing_behind() {
    let server = serve(&home());
    assert_signals_stay_away(&server);
    let empty = tables(&server);
    assert_eq!(
        held_by_loops(&server),
        [OWN; LOOPS],
        "what a loop opens and nothing of the others: {empty:#?}"
    );

    let mut clients = fleet(&server);
    let full = tables(&server);
    assert_eq!(held_by_loops(&server).iter().sum::<usize>(), SESSIONS + LOOPS * OWN);
    assert_eq!(
        sockets(&full["main"]),
        sockets(&empty["main"]),
        "no session stands in the table of the others"
    );
    let is_foreign = |link: &String| !link.starts_with("socket:") && !empty["loop-0"].contains(link);
    for (name, links) in full.iter().filter(|(name, _)| *name != "main") {
        assert!(!links.iter().any(is_foreign), "{name} holds {links:#?}");
        let of = |counted_by: &str| {
            let number = name.trim_start_matches("loop-");
            let labels = format!("loop=\"{number}\",counted_by=\"{counted_by}\"");
            metric(&server, &format!("relaymesh_loop_descriptors{{{labels}}}"))
        };
        assert_eq!((of("loop"), of("system")), (links.len() as u64, links.len() as u64), "{name}");
    }

    // The shard wakes every loop, and the operators' side reaches the shard.
    for (n, client) in clients.iter_mut().enumerate() {
        client.publish("jobs", &[format!("{n}").as_bytes()]);
    }
    assert_eq!(server.stat("jobs", "ready"), SESSIONS as u64);

    drop(clients);
    eventually("all are closed", || held_by_loops(&server) == [OWN; LOOPS]);
    eventually("the operators' connections too", || {
        sockets(&tables(&server)["main"]) == sockets(&empty["main"])
    });
}

#[test]
fn a_drain_and_a_kill_leave_a_server_that_starts_again() {
    let home = home();
    let server = serve(&home);
    let clients = fleet(&server);
    server.kill();
    drop(clients);

    let server = serve(&home);
    let clients = fleet(&server);
    server.terminate();
    for mut client in clients {
        assert_eq!(client.ending(PATIENCE).0, Some(Code::Draining));
    }
    let ended = server.wait();
    assert!(ended.status.success(), "{ended:#?}");
    assert!(!ended.stderr.contains("does not know"), "a descriptor leaked: {}", ended.stderr);
    drop(serve(&home));
}

#[test]
fn a_full_table_turns_clients_away_and_does_not_spin() {
    const LOWERED: u64 = 60;
    let server = serve(&home());
    let pid = Pid::from_raw(server.id().cast_signed());
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(LOWERED), maximum: Some(LIMIT) })
        .expect("a child's limit can be lowered");
    let room = LOOPS * (LOWERED as usize - OWN);
    let (mut welcomed, mut told) = (Vec::new(), 0);
    let mut attempts_until_full = 0;
    for n in 0..2 * room {
        match welcome(server.listen, &format!("c{n}")) {
            Ok(wire) => {
                welcomed.push(wire);
                attempts_until_full = n + 1;
            }
            Err(code) => {
                assert!(code.is_none_or(|code| code == Code::Overloaded), "{code:?}");
                told += usize::from(code.is_some());
            }
        }
    }
    assert_eq!(welcomed.len(), room, "each table is filled to its last descriptor");
    let missed = attempts_until_full - room;
    assert!(missed <= 5 * LOOPS, "a full loop leaves the others what comes, yet {missed} clients met one");
    assert!(told > 0, "nobody was told why");
    let sheds = metric(&server, "relaymesh_sheds_total{reason=\"descriptors\"}") as usize;
    assert!((told..=room).contains(&sheds), "{sheds} were turned away, {told} heard of it");
    assert_eq!(metric(&server, "relaymesh_loops_listening"), 1, "the last one tells who comes");
    let turns = metric(&server, "relaymesh_loop_turns_total");
    std::thread::sleep(Duration::from_millis(1500));
    let turns = metric(&server, "relaymesh_loop_turns_total") - turns;
    assert!(turns < 100, "the loops made {turns} turns with nothing to do");

    drop(welcomed);
    eventually("all listen again", || metric(&server, "relaymesh_loops_listening") == LOOPS as u64);
    eventually("all are closed", || held_by_loops(&server) == [OWN; LOOPS]);
    let back: Vec<_> = (0..room / 2).map(|n| welcome(server.listen, &format!("late{n}"))).collect();
    assert!(back.iter().all(Result::is_ok), "there is room again");
    assert!(held_by_loops(&server).iter().all(|&held| held > OWN), "in every loop");
}

/// What all threads of the server have run.
fn cpu_time(server: &Server) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.id())).expect("the process is there").flatten();
    let ran = |task: fs::DirEntry| -> Option<u64> {
        fs::read_to_string(task.path().join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(tasks.filter_map(ran).sum())
}

fn limit(server: &Server, descriptors: u64) {
    let limit = Rlimit { current: Some(descriptors), maximum: Some(LIMIT) };
    prlimit(Pid::from_raw(server.id().cast_signed()), Resource::Nofile, limit)
        .expect("a child's limit can be changed");
}

/// Not even the reserve helps: nobody can be told anything, and all wait in the kernel.
#[test]
fn without_any_descriptor_nothing_spins_and_the_backlog_is_served_within_a_second_of_the_first() {
    const WAITING: usize = 30;
    /// What passes on a machine that is held up.
    const SLACK: Duration = Duration::from_secs(3);
    let server = serve(&Home::new().arguments(&["--max-sessions", "100"]));
    let turns = metric(&server, "relaymesh_loop_turns_total");
    limit(&server, 4);
    let say_hello = |n| {
        let mut wire = Wire::connect(server.listen);
        wire.send(Kind::Hello, &hello(&format!("c{n}")));
        wire
    };
    let mut waiting: Vec<_> = (0..WAITING).map(say_hello).collect();
    let ran = cpu_time(&server);
    std::thread::sleep(Duration::from_millis(2500));
    let ran = cpu_time(&server) - ran;
    assert!(ran < Duration::from_millis(250), "the server ran for {ran:?} with nothing to do");

    limit(&server, LIMIT);
    let start = Instant::now();
    for wire in &mut waiting {
        assert!(
            matches!(wire.read_until(start + PATIENCE), Arrival::Frame(frame) if frame.is(Kind::Welcome))
        );
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1) + SLACK, "the last of {WAITING} was served after {took:?}");
    let turns = metric(&server, "relaymesh_loop_turns_total") - turns;
    assert!(turns < 20 * WAITING as u64, "the loops made {turns} turns");
}

/// `net.ipv4.tcp_migrate_req` switched on, and off again when dropped if it was.
struct Migration(String);

impl Migration {
    const PATH: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

    /// `None` where that is not allowed.
    fn on() -> Option<Self> {
        let before = fs::read_to_string(Self::PATH).ok()?;
        fs::write(Self::PATH, "1").ok()?;
        Some(Self(before))
    }
}

impl Drop for Migration {
    fn drop(&mut self) {
        let _ = fs::write(Self::PATH, &self.0);
    }
}

#[test]
fn what_waits_in_a_leaving_listener_goes_to_the_others() {
    const LOWERED: u64 = 60;
    const ROOM: usize = LOOPS * (LOWERED as usize - OWN);
    /// Few enough that no table is full before the others come, nearly all of the room together with them.
    const FIRST: usize = 96;
    const LATER: usize = 60;
    let Some(_on) = Migration::on() else {
        eprintln!("skipped: {} may not be set here", Migration::PATH);
        return;
    };
    let server = serve(&home());
    limit(&server, LOWERED);
    let first: Vec<_> = (0..FIRST).map(|n| Wire::welcome(server.listen, &format!("c{n}")).0).collect();
    // All of them wait at once, spread by the kernel: at least one loop has no room for its part.
    server.signal(Signal::STOP);
    let say_hello = |n| {
        let mut wire = Wire::connect(server.listen);
        wire.send(Kind::Hello, &hello(&format!("d{n}")));
        wire
    };
    let mut later: Vec<_> = (0..LATER).map(say_hello).collect();
    server.signal(Signal::CONT);
    let ends = later.iter_mut().map(|wire| match wire.read_until(Instant::now() + PATIENCE) {
        Arrival::Frame(frame) if frame.is(Kind::Welcome) => None,
        Arrival::Frame(frame) => Some(frame.describe()),
        Arrival::Closed => Some("closed".to_owned()),
        Arrival::Nothing => Some("nothing".to_owned()),
    });
    let ends: Vec<_> = ends.flatten().collect();
    assert_eq!(ends, Vec::<String>::new(), "of {LATER} beside {} in a room of {ROOM}", first.len());
    assert_eq!(held_by_loops(&server).iter().sum::<usize>() - listening_and_own(&server), FIRST + LATER);
}

/// Descriptors of the loops that are no connections: one less for each that has left.
fn listening_and_own(server: &Server) -> usize {
    (OWN - 1) * LOOPS + metric(server, "relaymesh_loops_listening") as usize
}

#[test]
fn what_is_wanting_is_said() {
    let server = serve(&Home::new().arguments(&["--max-sessions", "1000", "--loops", "2"]));
    eventually("it says what to raise", || server.log().contains("raise the limit of 200 to 532"));
    assert!(server.log().contains("accepted=356"), "{}", server.log());

    let mut doctor = Command::new(env!("CARGO_BIN_EXE_relaymesh"));
    doctor.args(["doctor", "--connections", "1000", "--json"]);
    let ended = limited(&doctor).wait(PATIENCE);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings");
    let tables = findings.iter().find(|finding| finding["name"] == "RLIMIT_NOFILE").expect("it is looked at");
    assert_eq!((&tables["ok"], &tables["need"]), (&true.into(), &"1128 over 6 loops".into()), "{tables}");
}
