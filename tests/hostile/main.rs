//! Hostile clients over real sockets: each is closed with a reason within its deadline, memory stays flat, and a
//! good client beside them notices nothing.
//!
//! All attacks run at once against one server, so that they also stand in each other's way.

mod attacks;
mod good_client;
#[path = "../support/mod.rs"]
mod support;

use std::thread;
use std::time::Instant;

use support::server::Home;

/// What the server may gain while everything below goes on: backlogs that the good client made included.
const GROWTH_BYTES_MAX: u64 = 96 << 20;
/// Deadlines short enough for a test.
const CONFIG: &str = "[session]\nhandshake_deadline = \"1s\"\n";

#[test]
fn hostile_clients_are_closed_and_good_ones_served() {
    let server = Home::new().config(CONFIG).serve();
    good_client::warm_up(server.listen);
    let before = server.resident_bytes();
    let service = thread::scope(|scope| {
        let good = good_client::start(scope, server.listen);
        let attacks: Vec<_> = attacks::ATTACKS
            .iter()
            .map(|(name, attack)| {
                let listen = server.listen;
                let run = move || {
                    let started = Instant::now();
                    attack(listen);
                    println!("{name}: {:?}", started.elapsed());
                };
                (name, thread::Builder::new().name((*name).to_owned()).spawn_scoped(scope, run))
            })
            .collect();
        let mut failed = Vec::new();
        for (name, attack) in attacks {
            if attack.expect("a thread starts").join().is_err() {
                failed.push(*name);
            }
        }
        let service = good.stop();
        assert!(failed.is_empty(), "attacks that were not answered as they must be: {failed:?}");
        service
    });
    let after = server.resident_bytes();
    println!("good client: {service:?}; resident before {before:?}, after {after:?}");
    service.assert_undisturbed();
    if let (Some(before), Some(after)) = (before, after) {
        assert!(after < before + GROWTH_BYTES_MAX, "resident memory grew from {before} to {after} bytes");
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
