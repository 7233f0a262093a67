use super::*;
use crate::client::serve_in_miniature;
use crate::ids::QueueName;

fn plan(exec: Option<&str>, max: Option<u64>) -> Plan {
    Plan {
        queue: QueueName::parse("jobs").unwrap(),
        topics: Vec::new(),
        exec: exec.map(str::to_owned),
        reject_on: Vec::new(),
        publish_to: None,
        concurrency: 3,
        max,
        json: false,
    }
}

#[test]
fn commands_decide_between_ack_and_nack_and_max_ends_it() {
    let (address, server) = serve_in_miniature(vec![0]);
    let command = "grep -q 'job [12]' || { echo bad >&2; exit 4; }";
    run(Options::new(address), plan(Some(command), Some(3))).unwrap();
    assert_eq!(server.join().unwrap().1, ["exit code 4: bad"]);
}

#[test]
fn without_a_command_messages_are_printed_and_done() {
    let (address, server) = serve_in_miniature(vec![0]);
    run(Options::new(address), plan(None, Some(3))).unwrap();
    assert!(server.join().unwrap().1.is_empty());
}

#[test]
fn a_printed_message_ends_its_line_and_json_names_it() {
    let (address, server) = serve_in_miniature(vec![0]);
    let mut client = Client::connect(Options::new(address)).unwrap();
    client.subscribe("jobs", 1).unwrap();
    let received = client.receive(Some(Duration::from_secs(60))).unwrap().unwrap();
    let mut plain = Vec::new();
    print(&mut plain, &received, false).unwrap();
    assert_eq!(plain, b"job 1\n");
    let mut json = Vec::new();
    print(&mut json, &received, true).unwrap();
    let object: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&object["id"], &object["payload_text"]), (&1.into(), &"job 1".into()));
    assert_eq!(object["payload_base64"], "am9iIDE=");
    drop(client);
    server.join().unwrap();
}
