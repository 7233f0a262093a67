//! `loadgen work` on messages that others published.

mod support;

use std::time::Duration;

use relaymesh::client::{Client, Message, Options};
use support::{Server, stderr};

#[test]
fn what_comes_after_a_younger_message_is_counted_as_out_of_order() {
    let server = Server::start(&[]);
    let mut client = Client::connect(Options::new(&server.listen)).expect("the server is there");
    for (queue, priorities) in [("in-turn", [4; 10]), ("favoured", [1, 1, 1, 1, 1, 1, 1, 9, 9, 9])] {
        for priority in priorities {
            client.publish(queue, &Message::new("work").priority(priority)).expect("it is published");
        }
    }
    let flushed = client.close(Duration::from_secs(10)).expect("it says goodbye");
    assert!(flushed.refused.is_empty(), "{flushed:?}");
    // The three that are favoured come first, and each of the others after them.
    for (queue, out_of_order) in [("in-turn", 0), ("favoured", 7)] {
        let (output, told) = server.load("work", &["--queue", queue, "--count", "10"]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(told["out_of_order"], out_of_order, "{queue}: {told}");
    }
}
