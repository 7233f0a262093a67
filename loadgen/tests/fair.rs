//! `loadgen fair`: who publishes little beside one who publishes much.

mod support;

use support::{Server, stderr};

/// Ten bursts of 200 messages a second, more or less, and agents that are busy four fifths of the time.
const LOAD: [&str; 12] = [
    "--tenants",
    "20",
    "--hot",
    "100",
    "--rate",
    "2000",
    "--work-rate",
    "2500",
    "--duration",
    "3s",
    "--burst",
    "200",
];

#[test]
fn in_order_of_arrival_the_small_ones_wait_behind_the_bursts_of_the_large_one() {
    let server = Server::start(&[]);
    let (output, told) = server.load("fair", &[&LOAD[..], &["--by", "nothing"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let count = |class: &str| told[class]["count"].as_u64().unwrap();
    assert!(count("even") > 3_000 && count("hot") > 3 * count("others"), "{told}");
    assert!(count("others") > 100, "{told}");
    assert_eq!(told["count"], 6000, "{told}");
    assert!(told["ratio"]["p50"].as_f64().unwrap() > 5.0, "{told}");
}

#[test]
fn with_keys_the_small_ones_hardly_notice_the_large_one() {
    let server = Server::start(&[]);
    let (output, told) = server.load("fair", &[&LOAD[..], &["--by", "key"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let p50 = |class: &str| told[class]["p50"].as_u64().unwrap();
    assert!(p50("hot") > 5 * p50("others"), "the bursts wait for themselves: {told}");
}

#[test]
fn tenants_may_have_a_namespace_each() {
    let server = Server::start(&[]);
    let (output, told) = server.load("fair", &[&LOAD[..], &["--by", "namespace"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!((&told["count"], &told["by"]), (&6000.into(), &"namespace".into()), "{told}");
    assert!(told["others"]["count"].as_u64().unwrap() > 0, "{told}");
}
