//! Frames that travel compressed, from the SDK through a real server to the SDK and to a client of its own making.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use relaymesh::client::{Client, Message, Options};
use relaymesh::limits::COMPRESS_BODY_BYTES_MIN;
use relaymesh::wire::proto::Ping;
use support::PATIENCE;
use support::server::{Home, Server};

fn client(server: &Server, compression: bool) -> Client {
    let options = Options { compression, ..Options::new(server.listen.to_string()) };
    Client::connect(options).expect("the server is ready")
}

/// The value of the metric that begins so.
fn metric(server: SocketAddr, line: &str) -> u64 {
    let page = support::http::get(server, "/metrics").body;
    let found = page.lines().find_map(|found| found.strip_prefix(line));
    found.map_or(0, |value| value.trim().parse::<f64>().expect("a number") as u64)
}

fn received(server: &Server, kind: &str) -> u64 {
    let line = format!("relaymesh_frame_bytes_total{{direction=\"received\",kind=\"{kind}\"}}");
    metric(server.admin, &line)
}

fn text(len: usize) -> Vec<u8> {
    (0..).flat_map(|line: u32| format!("line {line}: all is well\n").into_bytes()).take(len).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(9);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

#[test]
fn what_travels_compressed_arrives_as_it_was_published() {
    let server = Server::start();
    let payloads =
        [text(100_000), noise(50_000), text(10), text(COMPRESS_BODY_BYTES_MIN), vec![0; 700_000], Vec::new()];
    let mut producer = client(&server, true);
    for payload in &payloads {
        producer.publish("jobs", &Message::new(payload.clone())).expect("it is published");
    }
    let published: usize = payloads.iter().map(Vec::len).sum();
    let on_the_wire = received(&server, "publish") as usize;
    assert!(on_the_wire < published - 60_000, "{on_the_wire} of {published} bytes");
    let mut worker = client(&server, true);
    worker.subscribe("jobs", 100).expect("a subscription");
    for payload in &payloads {
        let delivery = worker.next(Some(PATIENCE)).expect("connected").expect("a delivery");
        assert!(
            delivery.message.payload() == payload,
            "{} bytes came for {}",
            delivery.message.payload().len(),
            payload.len()
        );
        worker.ack(delivery.lease).expect("a lease that is held");
    }
    let _ = worker.flush().expect("acked");
    assert!(metric(server.admin, "relaymesh_frames_compressed_total") > 0);
    assert!(metric(server.admin, "relaymesh_compression_saved_bytes_total") > 60_000);
}

#[test]
fn either_side_may_leave_it() {
    for (server, compression) in
        [(Home::new().arguments(&["--compression", "off"]).serve(), true), (Server::start(), false)]
    {
        let mut own = client(&server, compression);
        own.subscribe("jobs", 10).expect("a subscription");
        own.publish("jobs", &Message::new(text(50_000))).expect("it is published");
        let delivery = own.next(Some(PATIENCE)).expect("connected").expect("a delivery");
        assert!(delivery.message.payload() == text(50_000));
        assert!(received(&server, "publish") > 50_000);
        assert_eq!(metric(server.admin, "relaymesh_frames_compressed_total"), 0);
    }
}

#[test]
fn telemetry_of_a_heartbeat_travels_compressed() {
    let server = Server::start();
    let mut ping = Ping { time_s: 1_795_234_567, node: 4711, load_permille: 512, ..Ping::default() };
    for name in ["uptime_s", "cpu_permille", "memory_permille", "disk_permille", "temperature_mc"] {
        ping.push_reading(name, 712);
    }
    let mut device = client(&server, true);
    device.ping(Some(&ping)).expect("a pong");
    let bytes = received(&server, "ping");
    assert!(bytes < 50, "{bytes} bytes");
    device.ping(None).expect("a pong");
    assert_eq!(received(&server, "ping"), bytes + 2, "an empty one stays as it is");
    let _ = device.close(Duration::from_secs(5)).expect("closed");
}
