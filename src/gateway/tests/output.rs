use super::*;
use crate::ids::{Boot, LeaseId, MessageId, SubscriptionId};
use crate::limits;
use crate::mail::Deliver;
use crate::wire::EMPTY_PING;

fn delivery(key: SlotKey, id: u64, body_len: usize) -> Effect {
    Effect::Deliver(Deliver {
        conn: conn(key),
        subscription: SubscriptionId(1),
        lease: LeaseId { message: MessageId(id), attempt: 1, boot: Boot(1) },
        lease_ms: 30_000,
        body_len: body_len as u32,
    })
}

#[test]
fn deliveries_of_one_turn_share_a_frame() {
    let mut rig = Rig::new(config());
    let (a, b) = (rig.live("a"), rig.live("b"));
    let effects = vec![delivery(a, 1, 1), delivery(b, 2, 1), delivery(a, 3, 2), delivery(b, 4, 0)];
    rig.effects(effects, b"xyzz");
    assert_eq!(rig.frames(a.slot), [Got::Deliver(vec![b"x".to_vec(), b"zz".to_vec()])]);
    assert_eq!(rig.frames(b.slot), [Got::Deliver(vec![b"y".to_vec(), vec![]])]);
    assert_eq!(rig.gateway.buffers.in_use(), 0, "buffers exist only while something is unsent");
}

#[test]
fn deliveries_beyond_the_budget_come_back_and_are_asked_for_again() {
    let mut rig = Rig::new(config());
    let key = rig.live("a");
    rig.plugged.push(key.slot);
    let body = vec![7; 100 * 1024];
    let effects = (1..=5).map(|id| delivery(key, id, body.len())).collect();
    rig.effects(effects, &body.repeat(5));
    let returned = rig.gateway.commands().leases.clone();
    assert_eq!(returned.iter().map(|lease| lease.message.0).collect::<Vec<_>>(), [4, 5]);
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Return { leases: 2, .. }]), "{commands:?}");
    assert!(!rig.gateway.may_read(key.slot), "its replies would only add to it");
    rig.gateway.sent(rig.now, key.slot, 100 * 1024);
    assert!(rig.commands().is_empty());
    rig.gateway.sent(rig.now, key.slot, 100 * 1024);
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Resupply { .. }]), "{commands:?}");
    assert!(rig.gateway.may_read(key.slot));
    rig.turn();
}

#[test]
fn the_whole_loop_has_a_budget() {
    let mut rig = Rig::new(GatewayConfig { loop_output_bytes_max: 1000, ..config() });
    let (slow, idle) = (rig.live("slow"), rig.live("idle"));
    rig.plugged.push(slow.slot);
    rig.effects(vec![delivery(slow, 1, 1200), delivery(idle, 2, 10)], &[0; 1210]);
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Return { conn: c, leases: 1 }] if *c == conn(idle)));
    rig.plugged.clear();
    rig.flush(slow.slot);
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Resupply { conn: c }] if *c == conn(idle)), "{commands:?}");
    assert_eq!(rig.metrics.output_bytes.value(), 0);
}

#[test]
fn who_reads_nothing_is_closed_for_it() {
    let mut rig = Rig::new(config());
    let key = rig.live("a");
    rig.plugged.push(key.slot);
    rig.effects(vec![delivery(key, 1, 10)], &[0; 10]);
    rig.gateway.sent(rig.now, key.slot, 3);
    // It is alive, but does not read.
    for _ in 0..19 {
        rig.wait(1000);
        rig.receive(key, &EMPTY_PING);
    }
    assert!(rig.closed.is_empty());
    rig.wait(1000);
    assert_eq!(rig.closed, [key.slot]);
    assert_eq!(rig.metrics.closed_slow.value(), 1);
}

#[test]
fn a_backlog_has_an_end() {
    let mut rig = Rig::new(config());
    let key = rig.live("a");
    rig.plugged.push(key.slot);
    let ping = EMPTY_PING.repeat(1 << 16);
    for _ in 0..64 {
        if rig.closed.is_empty() {
            rig.receive(key, &ping);
            let waiting = rig.metrics.output_bytes.value() as usize;
            assert!(waiting <= config().write_backlog_bytes_max() + 2);
        }
    }
    assert_eq!(rig.closed, [key.slot]);
    assert_eq!(rig.metrics.output_bytes.value(), 0);
}

#[test]
fn last_words_linger_for_a_while_only() {
    let mut rig = Rig::new(config());
    let key = rig.live("a");
    rig.plugged.push(key.slot);
    rig.receive(key, &[63, 0]);
    assert!(rig.closed.is_empty());
    rig.wait(u64::try_from(limits::LAST_WORDS_DEADLINE.as_millis()).unwrap());
    assert_eq!(rig.closed, [key.slot]);
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<table::Conn>() <= 88, "{}", size_of::<table::Conn>());
}
