//! Sessions sent away: a share of them while the server stays, and all of them before it ends, in the right order.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use relaymesh::client::{Client, Message, Notice, Options};
use relaymesh::ids::ClientId;
use relaymesh::wire::proto::{Code, GoAway, Kind};
use support::server::{Home, Server};
use support::wire::{Wire, hello};
use support::{PATIENCE, eventually, http};

const DEVICES: usize = 50;

/// What devices saw, all together.
#[derive(Debug, Default)]
struct Seen {
    resumed: AtomicUsize,
    received: AtomicUsize,
    is_over: AtomicBool,
}

/// A device of the SDK that takes what is pushed to it, until it is over.
fn device(connect: SocketAddr, number: usize, seen: &Arc<Seen>) -> JoinHandle<()> {
    let client_id = ClientId::parse(&format!("d{number}")).expect("a client id");
    let notices = Arc::clone(seen);
    let options = Options {
        client_id: Some(client_id),
        on_notice: Some(Box::new(move |notice| {
            if matches!(notice, Notice::Connected { resumed: true }) {
                notices.resumed.fetch_add(1, Ordering::Relaxed);
            }
        })),
        ..Options::new(connect.to_string())
    };
    let seen = Arc::clone(seen);
    thread::spawn(move || {
        let mut client = Client::connect(options).expect("the device connects");
        client.subscribe(&format!("device/d{number}"), 8).expect("its mailbox is its own");
        while !seen.is_over.load(Ordering::Relaxed) {
            if let Some(delivery) = client.next(Some(Duration::from_millis(50))).expect("it is never refused")
            {
                seen.received.fetch_add(1, Ordering::Relaxed);
                client.ack(delivery.lease).expect("it holds the lease");
            }
        }
        let _ = client.close(PATIENCE).expect("its acks are answered");
    })
}

fn metric(server: &Server, name: &str) -> u64 {
    let page = http::get(server.admin, "/metrics").body;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    value.unwrap_or_else(|| panic!("{name} is shown")) as u64
}

fn live(server: &Server) -> u64 {
    metric(server, "relaymesh_connections{state=\"live\"}")
}

#[test]
fn a_share_of_the_sessions_moves_and_nothing_is_lost() {
    let server = Home::new().arguments(&["--loops", "2"]).serve();
    let seen = Arc::new(Seen::default());
    let devices: Vec<_> = (0..DEVICES).map(|number| device(server.listen, number, &seen)).collect();
    eventually("all devices are there", || live(&server) == DEVICES as u64);

    let drain = server.cli(&["drain", "--share", "20%", "--over", "2s", "--json"]).start();
    eventually("some were told", || metric(&server, "relaymesh_drain_clients{state=\"told\"}") > 0);
    let mut producer =
        Client::connect(Options::new(server.listen.to_string())).expect("new clients are taken");
    for round in 0..4 {
        for number in 0..DEVICES {
            let push = Message::new(format!("{round}"));
            producer.publish(&format!("device/d{number}"), &push).expect("the push is taken");
        }
        assert_eq!(http::get(server.admin, "/readyz").status, 200, "the server stays");
    }
    let ended = drain.wait(PATIENCE);
    assert!(ended.status.success(), "{ended:#?}");
    let told: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(
        (&told["state"], &told["remaining"], &told["leaving"]),
        (&"done".into(), &0.into(), &0.into())
    );
    // The producer may be counted, and the share of each loop is rounded by chance.
    let count = told["told"].as_u64().expect("a number") as usize;
    assert!((8..=12).contains(&count), "a fifth of {DEVICES}: {told}");

    eventually("all are back", || seen.resumed.load(Ordering::Relaxed) >= count.saturating_sub(1));
    eventually("every push arrived", || seen.received.load(Ordering::Relaxed) >= 4 * DEVICES);
    assert!(seen.resumed.load(Ordering::Relaxed) <= count, "nobody else left: {seen:?}");
    seen.is_over.store(true, Ordering::Relaxed);
    devices.into_iter().for_each(|device| device.join().expect("no device failed"));
    assert_eq!(seen.received.load(Ordering::Relaxed), 4 * DEVICES, "and none twice");
    drop(producer);
}

#[test]
fn one_drain_at_a_time_which_is_seen_and_ended() {
    let server = Server::start();
    let mut clients: Vec<Wire> =
        (0..20).map(|number| Wire::welcome(server.listen, &format!("c{number}")).0).collect();
    assert!(server.cli(&["drain"]).succeeds().starts_with("idle: "));
    let begun = http::post(server.admin, "/api/v1/drain?share=1&over=10m", &[], b"");
    assert_eq!((begun.status, &begun.json()["state"]), (200, &"running".into()), "{begun:?}");
    let refused = http::post(server.admin, "/api/v1/drain?share=0.5", &[], b"");
    assert_eq!((refused.status, &refused.json()["drain"]["share"]), (409, &1.0.into()), "{refused:?}");
    let said = server.cli(&["drain", "--share", "10%"]).fails();
    assert!(said.contains("being sent away already"), "{said}");
    eventually("the first is told", || server.json(&["drain"])["told"].as_u64() > Some(0));
    let ended = server.json(&["drain", "--cancel"]);
    assert_eq!((&ended["state"], &ended["remaining"]), (&"cancelled".into(), &0.into()), "{ended}");
    let told = ended["told"].as_u64().expect("a number");
    assert!(told < 10, "{ended}");
    eventually("only who was told went", || live(&server) == 20 - told);
    assert_eq!(
        clients.iter_mut().filter_map(|client| client.farewell_within(Duration::from_millis(20))).count()
            as u64,
        told
    );
    assert_eq!(http::get(server.admin, "/readyz").status, 200);
    // There is room for another, down to the last.
    let done = server.json(&["drain", "--share", "1", "--over", "0s"]);
    assert_eq!((&done["state"], &done["told"]), (&"done".into(), &(20 - told).into()), "{done}");
    Wire::welcome(server.listen, "later");
}

#[test]
fn a_server_that_is_told_to_end_says_so_before_it_sends_anybody_away() {
    let server = Home::new().config("[drain]\nreadiness_delay = \"2s\"\nperiod = \"1s\"\n").serve();
    let (mut client, _) = Wire::welcome(server.listen, "d1");
    let told_to_end = Instant::now();
    server.terminate();
    eventually("it is not ready", || http::get(server.admin, "/readyz").status == 503);
    if told_to_end.elapsed() < Duration::from_secs(1) {
        assert_eq!(metric(&server, "relaymesh_drain_clients{state=\"told\"}"), 0);
        // Whoever is sent here meanwhile is served.
        Wire::welcome(server.listen, "late");
    }
    let refused = http::post(server.admin, "/api/v1/drain?share=0.5", &[], b"");
    assert_eq!((refused.status, &refused.json()["drain"]["state"]), (409, &"shutting_down".into()));
    let goaway: GoAway = client.expect(Kind::Goaway);
    assert!(told_to_end.elapsed() >= Duration::from_secs(2), "{:?}", told_to_end.elapsed());
    assert_eq!(goaway.code(), Code::Draining, "{goaway:?}");
    assert!(goaway.reconnect_after_ms > 0, "{goaway:?}");
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
}

#[test]
fn more_clients_than_the_server_takes_on_wait_or_come_back_and_those_that_resume_go_first() {
    let config = "[session]\nadmissions_per_s = 20\nheartbeat = \"1h\"\n";
    let server = Home::new().config(config).arguments(&["--loops", "1"]).serve();
    let (first, welcome) = Wire::welcome(server.listen, "resumes");
    drop(first);
    // More than the burst, than what waits, and some.
    let mut crowd: Vec<Wire> = (0..100)
        .map(|number| {
            let mut client = Wire::connect(server.listen);
            client.send(Kind::Hello, &hello(&format!("c{number}")));
            client
        })
        .collect();
    let mut resuming = Wire::connect(server.listen);
    let mut again = hello("resumes");
    again.resume_token = welcome.resume_token;
    resuming.send(Kind::Hello, &again);
    let frame = resuming.next();
    assert!(frame.is(Kind::Welcome), "{}", frame.describe());
    let (mut welcomed, mut slots) = (0, Vec::new());
    for client in &mut crowd {
        let frame = client.next();
        if frame.is(Kind::Welcome) {
            welcomed += 1;
        } else {
            let reject: relaymesh::wire::proto::Reject = frame.parse(Kind::Reject);
            assert_eq!(reject.code(), Code::Overloaded, "{reject:?}");
            slots.push(reject.reconnect_after_ms);
        }
    }
    assert_eq!(welcomed + slots.len(), 100);
    assert!(welcomed >= 30 && slots.len() >= 10, "{welcomed} welcomed, slots {slots:?}");
    assert!(slots.iter().all(|after| *after > 500), "behind those that wait: {slots:?}");
    assert!(metric(&server, "relaymesh_sheds_total{reason=\"admission\"}") >= slots.len() as u64);
}
