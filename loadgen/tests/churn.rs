//! `loadgen churn`: connections that come and are reset, and what is left of them.

mod support;

use support::{Server, stderr};

#[test]
fn a_server_is_back_at_its_baseline_after_connect_and_reset() {
    // A grace period that is soon over, so that nothing is left of the sessions.
    let server = Server::configured("[session]\ngrace = \"1s\"\n");
    let pid = server.process.id().to_string();
    let mut arguments = vec!["--rate", "400", "--duration", "3s", "--warm-up", "3s", "--clients", "100"];
    arguments.extend(["--mix", "1:1:2", "--admin", &server.admin, "--server-pid", &pid]);
    let (output, told) = server.load("churn", &arguments);
    let number = |name: &str| told[name].as_u64().unwrap_or_else(|| panic!("{name} is a number: {told}"));
    assert_eq!((number("count"), number("failed")), (1200, 0), "{told}");
    let reset = ["at_once", "after_hello", "after_welcome"].map(|when| told["reset"][when].as_u64().unwrap());
    assert_eq!(reset, [300, 300, 600], "{told}");
    // A debug build that is this small may well hold some pages more; descriptors are exact.
    let descriptors = |when: &str| told[when]["descriptors"].as_f64().unwrap();
    assert!(descriptors("after") <= descriptors("baseline"), "{told}");
    assert_eq!(told["is_back"] == true, output.status.success(), "{told} {}", stderr(&output));
    if !output.status.success() {
        assert!(stderr(&output).contains("of heap more than before"), "{}", stderr(&output));
    }
    let accepted = server.metric("relaymesh_accepts_total");
    assert!(accepted >= 2400.0, "each was a connection to the server: {accepted}");
    for left in ["relaymesh_connections{state=\"live\"}", "relaymesh_sessions{state=\"grace\"}"] {
        assert_eq!(server.metric(left), 0.0, "{left}");
    }
}

#[test]
fn sessions_that_stay_keep_a_server_from_its_baseline() {
    // The default grace of a minute is longer than it may take.
    let server = Server::start(&[]);
    let mut arguments = vec!["--rate", "100", "--duration", "1s", "--warm-up", "500ms", "--mix", "0:0:1"];
    arguments.extend(["--settle", "1s", "--admin", &server.admin]);
    let (output, _) = server.load("churn", &arguments);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("still busy with relaymesh_sessions{state=\"grace\"}"), "{said}");
}
