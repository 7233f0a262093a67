//! One round: the server is killed again and again while its clients go on, then everything comes to rest.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clients::{LEASED, MORTAL, Shared, TOPICAL, Up, dedup, lone, operators, producers, sdk, workers};
use crate::history::{History, What};
use crate::support::process::Process;
use crate::support::server::{Home, Server};
use crate::support::{eventually, http};
use crate::totals::Totals;

const PRODUCERS: u64 = 3;
const WORKERS: u64 = 5;
/// How long the server runs before it is killed, in milliseconds.
const UPTIME_MS: std::ops::Range<u64> = 5..300;
/// How long a start runs before it is killed, in milliseconds, at the least: within it the log is read.
const START_MS: u64 = 40;
/// How long a change in the log's directory is waited for.
const CHANGE_WAIT: Duration = Duration::from_millis(400);
/// A round of so many kills has a time without a server that is long enough for schedules to miss.
const KILLS_WITH_OUTAGE: u64 = 50;
const OUTAGE: Duration = Duration::from_millis(7_000);
/// It also has a life of the server that is long enough for schedules to fire in.
const LONG_LIFE: Duration = Duration::from_millis(3_500);
/// What emptying the queues may take at the end.
const DRAIN: Duration = Duration::from_secs(120);
/// How long nobody may see anything once the queues are empty: what is delivered again by mistake shows by then.
const QUIET: Duration = Duration::from_millis(700);

/// A server's place, and what was done to it so far.
pub(crate) struct Campaign {
    home: Home,
    listen: String,
    random: fastrand::Rng,
    rounds: u64,
    /// How long the last start took.
    start: Duration,
    pub(crate) totals: Totals,
}

/// What is done to the data after each kill; for planted faults.
pub(crate) type AfterKill<'a> = &'a mut dyn FnMut(u64, &Path);

/// Clients end with it, or the scope waits for them for ever.
struct StopClients<'a>(&'a Shared);

impl Drop for StopClients<'_> {
    fn drop(&mut self) {
        self.0.set_up(None);
        self.0.producers_stop.store(true, Ordering::Relaxed);
        self.0.workers_stop.store(true, Ordering::Relaxed);
    }
}

impl Campaign {
    pub(crate) fn new(home: Home, listen: String, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let start = Duration::from_millis(START_MS);
        Self { home, listen, random, rounds: 0, start, totals: Totals::default() }
    }

    /// Kills so many times, the last time when all queues are empty, and returns what was seen.
    pub(crate) fn round(&mut self, kills: u64, after_kill: AfterKill<'_>) -> History {
        self.rounds += 1;
        let shared = Shared::new(self.rounds);
        let listen = self.listen.clone();
        let seeds: Vec<u64> = (0..32).map(|_| self.random.u64(..)).collect();
        let seed = |at: u64| seeds[at as usize];
        thread::scope(|scope| {
            let (shared, listen) = (&shared, &listen);
            // Whatever fails, the clients must end.
            let _stop = StopClients(shared);
            if self.rounds == 1 {
                self.set_up(shared);
            }
            let mut ending = Vec::new();
            for number in 0..PRODUCERS {
                ending.push(scope.spawn(move || producers::produce(shared, number, seed(number))));
            }
            ending.push(scope.spawn(move || producers::produce_once(shared, 10, seed(10))));
            ending.push(scope.spawn(move || dedup::produce(shared, 11, seed(11))));
            ending.push(scope.spawn(move || lone::fill_and_empty(shared, 12, seed(12))));
            ending.push(scope.spawn(move || sdk::produce(shared, 13, listen)));
            ending.push(scope.spawn(move || operators::bury_and_raise(shared, seed(14))));
            ending.push(scope.spawn(move || operators::flip(shared, seed(15))));
            ending.push(scope.spawn(move || operators::schedule(shared, seed(16))));
            scope.spawn(move || sdk::work(shared, listen));
            scope.spawn(move || workers::unload(shared, WORKERS, seed(19)));
            for number in 0..WORKERS {
                scope.spawn(move || workers::work(shared, number, seed(20 + number)));
            }
            let mut one_of_many = || (kills >= KILLS_WITH_OUTAGE).then(|| self.random.u64(1..kills));
            let (outage, long_life) = (one_of_many(), one_of_many());
            for kill in 1..kills {
                if long_life == Some(kill) {
                    let server = self.start(shared);
                    thread::sleep(LONG_LIFE);
                    self.kill(shared, server);
                } else {
                    self.kill_once(shared);
                }
                after_kill(kill, &self.home.data());
                if outage == Some(kill) {
                    thread::sleep(OUTAGE);
                }
            }
            let server = self.start(shared);
            await_load(shared);
            shared.producers_stop.store(true, Ordering::Relaxed);
            for client in ending {
                client.join().expect("a client saw nothing it must not see");
            }
            self.come_to_rest(shared, &server);
            self.kill(shared, server);
        });
        shared.history()
    }

    /// Settings and bindings, which every later life must know.
    fn set_up(&mut self, shared: &Shared) {
        let server = self.start(shared);
        let ask = |path: &str, body: Value| {
            let answer = operators::ask(server.admin, path, &body).expect("the server answers");
            assert_eq!(answer.status, 200, "{answer:?}");
        };
        ask("/queue-settings", json!({"queue": LEASED, "settings": {"lease": "400ms"}}));
        ask("/queue-settings", json!({"queue": MORTAL, "settings": {"backoff_initial": "3ms"}}));
        let filters = [("crash.>", ""), ("crash.*.red", ""), ("crash.>", "size > 50 and colour = 'blue'")];
        for (place, (pattern, filter)) in TOPICAL.into_iter().zip(filters) {
            ask("/bindings", json!({"name": place, "pattern": pattern, "filter": filter, "to": place}));
        }
        self.kill(shared, server);
    }

    /// A server that is ready.
    fn start(&mut self, shared: &Shared) -> Server {
        let began = Instant::now();
        let life = shared.begin_life();
        let server = self.home.serve();
        shared.see(life, What::Ready);
        self.start = began.elapsed();
        self.totals.starts.push(self.start);
        shared.set_up(Some(Up { listen: server.listen, admin: server.admin, life }));
        server
    }

    fn kill(&mut self, shared: &Shared, server: Server) {
        self.totals.look_at(&self.home.data(), server.admin);
        shared.set_up(None);
        server.kill();
        shared.see(shared.life(), What::Killed);
        self.totals.kills += 1;
    }

    /// One kill: of a server at work, most times after the work has begun; of one whose log just got or lost a file, which is
    /// when segments are begun, checkpoints are written and compaction ends; or of one that has just begun to start.
    fn kill_once(&mut self, shared: &Shared) {
        let kind = self.random.u8(0..10);
        if kind < 2 {
            let life = shared.begin_life();
            let mut process = Process::start(&mut self.home.command());
            let most = START_MS.max(self.start.as_millis() as u64 * 5 / 4);
            thread::sleep(Duration::from_millis(self.random.u64(0..most)));
            process.kill();
            shared.see(life, What::Killed);
            self.totals.kills += 1;
            self.totals.kills_of_starts += 1;
            return;
        }
        let server = self.start(shared);
        if self.random.u8(0..4) > 0 {
            await_load(shared);
        }
        if kind < 4 {
            let before = files(&self.home.data());
            let until = Instant::now() + CHANGE_WAIT;
            while Instant::now() < until && files(&self.home.data()) == before {
                thread::sleep(Duration::from_micros(500));
            }
            self.totals.kills_at_changes += u64::from(Instant::now() < until);
            thread::sleep(Duration::from_micros(self.random.u64(0..4_000)));
        } else {
            thread::sleep(Duration::from_millis(self.random.u64(UPTIME_MS)));
        }
        self.kill(shared, server);
    }

    /// Removes the schedules, waits until the workers have acked whatever is still there and nobody has seen anything for a
    /// while, and has the operators look for the last time.
    fn come_to_rest(&mut self, shared: &Shared, server: &Server) {
        let up = shared.up().expect("the server is up");
        // Whether all are there, the checker says.
        eventually("schedules fired for what they missed", || {
            let (now, schedules) = (shared.wall_s(), operators::list_schedules(shared, up));
            let mut standing =
                schedules.iter().filter(|(of, _)| operators::STANDING.iter().any(|(own, _)| own == of));
            standing.all(|&(_, told)| told + 2 >= now)
        });
        operators::unschedule(shared);
        operators::list_schedules(shared, up);
        let deadline = Instant::now() + DRAIN;
        let mut seen = 0;
        let mut quiet_since = Instant::now();
        loop {
            let (events, holding) = (shared.len(), holding(server));
            if events > seen || !holding.is_empty() {
                (seen, quiet_since) = (events, Instant::now());
            } else if quiet_since.elapsed() > QUIET {
                break;
            }
            assert!(Instant::now() < deadline, "after {DRAIN:?} workers are still at work: {holding:?}");
            thread::sleep(Duration::from_millis(50));
        }
        operators::clear(shared, up);
        assert_set_up(server);
    }
}

/// What was set at first still is.
fn assert_set_up(server: &Server) {
    let settings = http::get(server.admin, &format!("/api/v1/queue-settings?queue={LEASED}")).json();
    let settings = settings["settings"].as_array().cloned().unwrap_or_default();
    assert!(
        settings.iter().any(|row| row["key"] == "lease" && row["value"] == "400ms" && row["is_own"] == true),
        "{settings:?}"
    );
    let bindings = http::get(server.admin, "/api/v1/bindings").json();
    let bindings = bindings["bindings"].as_array().cloned().unwrap_or_default();
    for place in TOPICAL {
        assert!(bindings.iter().any(|row| row["name"] == place && row["to"] == place), "{bindings:?}");
    }
}

/// Waits until something was published and something acked since now, however slow the machine is.
fn await_load(shared: &Shared) {
    let counts = || shared.answered.each_ref().map(|count| count.load(Ordering::Relaxed));
    let [published, acked] = counts();
    eventually("there is load", || counts()[0] > published && counts()[1] > acked);
}

/// Queues that hold something beside dead letters.
fn holding(server: &Server) -> Vec<String> {
    let answer = http::get(server.admin, "/api/v1/queues?limit=100").json();
    let rows = answer["queues"].as_array().cloned().unwrap_or_default();
    let holds = |row: &&Value| {
        let states = ["ready", "scheduled", "leased", "blocked"];
        states.iter().any(|state| row[*state].as_u64().is_some_and(|count| count > 0))
    };
    rows.iter().filter(holds).map(ToString::to_string).collect()
}

/// The names of all files of the log.
pub(crate) fn files(data: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(data.join("log")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
