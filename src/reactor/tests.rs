//! The loops over real sockets, with a brain that echoes.

mod children;
mod echo;
mod ping_pong;
mod sockets;
#[cfg(target_os = "linux")]
mod tables;

use crate::gateway::SlotKey;
use std::sync::Arc;
use std::time::Duration;

use super::stream::{Connections, Stream, key_of, token_of};
use super::*;
use crate::clock::{Clock, Time};
use crate::host;
use crate::ids::LoopId;
use crate::mail::{Bell, CommandReceiver, EffectSender, command_lanes, effect_lane};
use crate::telemetry::LoopMetrics;
use echo::{Echo, Seen};

/// A running reactor of echo brains, with the shard's ends of the lanes.
struct Running {
    address: SocketAddr,
    handles: Vec<LoopHandle>,
    metrics: Vec<Arc<LoopMetrics>>,
    seen: Vec<Arc<Seen>>,
    commands: CommandReceiver,
    effects: Vec<EffectSender>,
}

fn config(loops: u16) -> ReactorConfig {
    let listen = "127.0.0.1:0".parse().expect("an address");
    ReactorConfig {
        listen,
        loops,
        pin: false,
        private_tables: false,
        heartbeat: Duration::from_secs(30),
        sessions: 1000,
    }
}

fn start(loops: u16) -> Running {
    start_with(loops, |_| {})
}

fn start_with(loops: u16, shape: impl Fn(&mut Echo)) -> Running {
    start_as(&config(loops), shape)
}

fn start_as(config: &ReactorConfig, shape: impl Fn(&mut Echo)) -> Running {
    let clock = Clock::starting_at(Time(0));
    let bound = bind(config).unwrap();
    let bells: Vec<_> = bound.iter().map(|bound| (bound.loop_id(), bound.bell())).collect();
    let (senders, commands) = command_lanes(&bells, &Bell::new(|| {}));
    let address = bound[0].address();
    let mut running =
        Running { address, handles: vec![], metrics: vec![], seen: vec![], commands, effects: vec![] };
    for (bound, sender) in bound.into_iter().zip(senders) {
        assert_eq!(bound.address(), address, "all loops share one address");
        let metrics = Arc::new(LoopMetrics::default());
        let seen = Arc::new(Seen::default());
        let (effects, received) = effect_lane(bound.loop_id(), bound.bell());
        let lanes = vec![ShardLane { commands: sender, effects: received }];
        let mut brain = Echo::new(bound.loop_id(), Arc::clone(&seen));
        shape(&mut brain);
        running.handles.push(bound.spawn(brain, lanes, Arc::clone(&metrics), clock.clone()).unwrap());
        running.metrics.push(metrics);
        running.seen.push(seen);
        running.effects.push(effects);
    }
    running
}

impl Running {
    fn stop(self) {
        for handle in &self.handles {
            handle.control.stop();
        }
        for handle in self.handles {
            handle.join.join().unwrap();
        }
    }

    fn live(&self) -> u64 {
        self.seen.iter().map(|seen| seen.live.value()).sum()
    }

    fn closed(&self) -> u64 {
        self.seen.iter().map(|seen| seen.closed.value()).sum()
    }
}

/// What a step may take before it counts as stuck. It costs nothing while all is well.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `condition` holds; panics when it never does.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let clock = Clock::starting_at(Time(0));
    while !condition() {
        assert!(clock.time() < Time(0) + PATIENCE, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_key_survives_its_token() {
    for key in [SlotKey { slot: 0, generation: 0 }, SlotKey { slot: 7, generation: u32::MAX }] {
        assert_eq!(key_of(token_of(key)), key);
    }
}

#[test]
fn a_stale_key_finds_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = || Stream::Plain(mio::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let first = SlotKey { slot: 3, generation: 1 };
    let second = SlotKey { slot: 3, generation: 2 };
    let mut connections = Connections::default();
    connections.insert(first, stream());
    connections.of(first).unwrap().readable = true;
    connections.queue(3);
    connections.queue(3);
    assert_eq!(connections.queued(), 1, "queued once");
    assert!(connections.remove(3).is_some());
    assert!(connections.of(first).is_none());

    connections.insert(second, stream());
    assert!(connections.of(first).is_none(), "an event for the old tenant misses the new one");
    assert!(connections.of(second).is_some());
    assert!(connections.next_ready().is_none(), "the old tenant's place in the queue is void");

    connections.queue(3);
    assert_eq!(connections.queued(), 0, "nothing to read, nothing queued");
    connections.of(second).unwrap().readable = true;
    connections.queue(3);
    assert!(connections.doom(3) && !connections.doom(3), "doomed once");
    assert!(connections.next_ready().is_none(), "the doomed are not read");
}
