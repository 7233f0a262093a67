//! Hostile clients over real sockets: each is closed with a reason within its deadline, memory stays flat, and a
//! good client beside them notices nothing.
//!
//! All attacks run at once against one server, so that they also stand in each other's way, and several times over:
//! the first rounds take the server through its first allocations, the others must add nothing to it.

mod attacks;
mod good_client;
mod slow;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use support::http;
use support::server::{Home, Server};

/// How often all attacks are run.
const ROUNDS: u64 = 5;
/// After so many of them its allocator has what it will keep.
const WARM_UP_ROUNDS: u64 = 2;
/// What the server may have more at the worst moment of a later round than after those. All attacks at once fill
/// budgets of 45 to 70 MB; a single frame of empty sub-messages that is decoded would add 75 MB to that, the smaller
/// bombs 64 MiB.
const PEAK_BYTES_MAX: u64 = 96 << 20;
/// The configured handshake deadline.
const HANDSHAKE: Duration = Duration::from_secs(4);
/// The configured deadline of a client that does not read.
const STALL: Duration = Duration::from_secs(4);
/// Deadlines short enough to be waited for and long enough that good clients keep them on a machine that is held up;
/// leases that outlast all of it.
const CONFIG: &str = "[session]\nhandshake_deadline = \"4s\"\nwrite_stall_deadline = \"4s\"\n\
                      [queue]\nlease = \"1h\"\n[log]\nsegment_bytes = 16777216\n";

#[test]
fn hostile_clients_are_closed_and_good_ones_served() {
    let server = Home::new().config(CONFIG).serve();
    good_client::warm_up(server.listen);
    thread::scope(|scope| {
        let good = good_client::start(scope, server.listen);
        for _ in 0..WARM_UP_ROUNDS {
            attack(server.listen);
        }
        let before = server.resident_bytes();
        // What thirty attacks hold at one moment is chance; what an attack costs, it costs in every round.
        let peaks = (WARM_UP_ROUNDS..ROUNDS).filter_map(|_| {
            server.forget_peak();
            attack(server.listen);
            server.peak_bytes()
        });
        assert_flat(before, peaks.min());
        let service = good.stop();
        println!("good client: {service:?}");
        service.assert_undisturbed();
    });
    assert_clean(&server);
}

/// A reader that is sent a large backlog and reads nothing costs what the budgets say, not the backlog.
#[test]
fn a_backlog_is_not_copied_for_who_does_not_read() {
    let server = Home::new().config(CONFIG).serve();
    let subscribe = slow::backlog(server.listen, "deep", &vec![7; 512 * 1024], 384);
    let before = server.resident_bytes();
    server.forget_peak();
    slow::deaf_until_closed(server.listen, &subscribe);
    assert_flat(before, server.peak_bytes());
}

/// Runs all attacks at once; panics with the names of those that were not answered as they must be.
fn attack(server: SocketAddr) {
    let failed: Vec<&str> = thread::scope(|scope| {
        let attacks = attacks::ATTACKS.map(|(name, attack)| {
            let run = move || {
                let started = Instant::now();
                attack(server);
                println!("{name}: {:?}", started.elapsed());
            };
            let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run);
            (name, thread.expect("a thread starts"))
        });
        attacks.into_iter().filter_map(|(name, thread)| thread.join().is_err().then_some(name)).collect()
    });
    assert!(failed.is_empty(), "attacks that were not answered as they must be: {failed:?}");
}

/// Memory is near where it was, and was meanwhile. Where the system tells.
fn assert_flat(before: Option<u64>, peak: Option<u64>) {
    let (Some(before), Some(peak)) = (before, peak) else { return };
    println!("resident: {before} bytes before, {peak} at the peak");
    assert!(peak < before + PEAK_BYTES_MAX, "resident memory grew from {before} to {peak} bytes");
}

/// Everything was closed for what it was, and nothing of it is left.
fn assert_clean(server: &Server) {
    assert!(!server.log().contains("panicked"), "{}", server.log());
    let page = http::get(server.admin, "/metrics").body;
    let metric = |name: &str| -> u64 {
        let line =
            page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        let value = line.and_then(|line| line.rsplit_once(' ')).and_then(|(_, value)| value.parse().ok());
        value.unwrap_or_else(|| panic!("{name} is a metric:\n{page}"))
    };
    assert_eq!(metric("relaymesh_connections_closed_total{cause=\"slow\"}"), ROUNDS * slow::CLOSED_SLOW);
    assert_eq!(metric("relaymesh_connections_closed_total{cause=\"heartbeat\"}"), ROUNDS * 2);
    assert_eq!(metric("relaymesh_handshakes_total{outcome=\"timed_out\"}"), ROUNDS * 3);
}
