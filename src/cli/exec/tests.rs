use super::*;
use crate::client::{Broadcast, Delivery, Message};
use crate::ids::{Boot, LeaseId, MessageId, QueueName, SubscriptionId};
use std::time::Duration;

fn delivery(message: Message) -> Received {
    Received::Delivery(Delivery {
        lease: LeaseId { message: MessageId(17), attempt: 2, boot: Boot(1) },
        queue: QueueName::parse("jobs").unwrap(),
        subscription: SubscriptionId(1),
        lease_for: Duration::from_secs(30),
        message,
    })
}

#[test]
fn a_topics_message_has_neither_id_nor_attempt() {
    let queue = QueueName::parse("topic/news").unwrap();
    let broadcast = Broadcast { queue, subscription: SubscriptionId(1), message: Message::new("hello") };
    let mut out = Vec::new();
    let command = "cat; echo \" $RELAYMESH_QUEUE ${RELAYMESH_MESSAGE_ID-none} ${RELAYMESH_ATTEMPT-none}\"";
    assert!(matches!(run(command, &Received::Broadcast(broadcast), &mut out), Outcome::Done));
    assert_eq!(out, b"hello topic/news none none\n");
}

#[test]
fn a_command_gets_the_payload_and_who_the_message_is() {
    let mut out = Vec::new();
    let command =
        "cat; echo; echo $RELAYMESH_MESSAGE_ID $RELAYMESH_ATTEMPT $RELAYMESH_QUEUE $RELAYMESH_ATTR_MY_KIND";
    let message = Message::new("hello").attribute("my-kind", "order");
    assert!(matches!(run(command, &delivery(message), &mut out), Outcome::Done));
    assert_eq!(out, b"hello\n17 2 jobs order\n");
}

#[test]
fn a_failure_names_exit_code_or_signal_and_the_last_line() {
    let failed = |command: &str| match run(command, &delivery(Message::new("")), io::sink()) {
        Outcome::Failed(failure) => failure.error,
        other => panic!("{command}: {other:?}"),
    };
    assert_eq!(failed("exit 3"), "exit code 3");
    assert_eq!(failed("echo one >&2; echo two >&2; echo >&2; exit 7"), "exit code 7: two");
    assert_eq!(failed("printf tail >&2; kill -9 $$"), "signal 9: tail");
    assert!(failed("no-such-command-anywhere").starts_with("exit code 127: "));
}

#[test]
fn a_command_that_ignores_a_large_payload_is_done() {
    let large = delivery(Message::new(vec![b'x'; 1 << 20]));
    assert!(matches!(run("true", &large, io::sink()), Outcome::Done));
    let mut out = Vec::new();
    assert!(matches!(run("cat", &large, &mut out), Outcome::Done));
    assert_eq!(out.len(), (1 << 20) + 1);
}

#[test]
fn output_is_copied_in_whole_lines_and_the_last_one_is_ended() {
    struct Writes(Vec<Vec<u8>>);
    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for (from, to) in [("", ""), ("a", "a\n"), ("a\nb", "a\nb\n"), ("a\n\n", "a\n\n")] {
        let mut writes = Writes(Vec::new());
        copy_lines(from.as_bytes(), &mut writes).unwrap();
        assert!(writes.0.iter().all(|write| write.ends_with(b"\n")));
        assert_eq!(writes.0.concat(), to.as_bytes());
    }
}

#[test]
fn output_that_nobody_takes_is_no_success() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    assert!(matches!(run("echo x", &delivery(Message::new("")), Closed), Outcome::Unprintable(_)));
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
