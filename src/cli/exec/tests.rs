use super::*;
use crate::client::Message;
use crate::ids::{Boot, LeaseId, MessageId, QueueName, SubscriptionId};
use std::time::Duration;

fn delivery(message: Message) -> Delivery {
    Delivery {
        lease: LeaseId { message: MessageId(17), attempt: 2, boot: Boot(1) },
        queue: QueueName::parse("jobs").unwrap(),
        subscription: SubscriptionId(1),
        lease_for: Duration::from_secs(30),
        message,
    }
}

#[test]
fn a_command_gets_the_payload_and_who_the_message_is() {
    let out = tempfile::NamedTempFile::new().unwrap();
    let path = out.path().display();
    let command = format!(
        "(cat; echo; echo $RELAYMESH_MESSAGE_ID $RELAYMESH_ATTEMPT $RELAYMESH_QUEUE $RELAYMESH_ATTR_MY_KIND) >{path}"
    );
    run(&command, &delivery(Message::new("hello").attribute("my-kind", "order"))).unwrap();
    assert_eq!(std::fs::read_to_string(out.path()).unwrap(), "hello\n17 2 jobs order\n");
}

#[test]
fn a_failure_names_exit_code_or_signal_and_the_last_line() {
    let failed = |command: &str| run(command, &delivery(Message::new(""))).unwrap_err();
    assert_eq!(failed("exit 3"), "exit code 3");
    assert_eq!(failed("echo one >&2; echo two >&2; echo >&2; exit 7"), "exit code 7: two");
    assert_eq!(failed("printf tail >&2; kill -9 $$"), "signal 9: tail");
    assert!(failed("no-such-command-anywhere").starts_with("exit code 127: "));
}

#[test]
fn a_command_that_ignores_a_large_payload_is_done() {
    run("true", &delivery(Message::new(vec![b'x'; 1 << 20]))).unwrap();
}

#[test]
fn the_last_line_stays_within_its_bound_however_it_arrives() {
    for chunk in [1, 3, 4096] {
        let mut last = LastLine::default();
        let text = format!("first\n{}\r\n \n", "long".repeat(1000));
        text.as_bytes().chunks(chunk).for_each(|bytes| last.feed(bytes));
        let kept = last.into_text();
        assert_eq!(kept.len(), limits::ERROR_TEXT_BYTES_MAX);
        assert!(kept.starts_with("longlong"));
    }
}
