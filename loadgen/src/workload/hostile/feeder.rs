//! The client that pushes to the non-readers: one good connection, as whoever has something to say to a device has.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::ensure;
use relaymesh::client::{Client, Message, Options};
use relaymesh::ids::QueueName;

use crate::options::Target;

/// Non-readers that may wait for their push, beyond which those that come wait as well.
const WAITING_MAX: usize = 1024;
/// Pushes on their way at once: so few that they do not pile up in front of the disk.
const PUSHES_MAX: usize = 4;
/// What the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

/// What non-readers are told by: their client ids, in the order in which they are there.
pub(super) type Hungry = SyncSender<String>;

pub(super) fn waiting_line() -> (Hungry, Receiver<String>) {
    sync_channel(WAITING_MAX)
}

/// Pushes a message of `bytes` to the mailbox of each client that comes out of `hungry`, until nobody is left who could
/// send one. Returns when all are on disk.
///
/// # Errors
/// When the server is not reached or refuses one.
pub(super) fn feed(target: &Target, bytes: usize, hungry: &Receiver<String>) -> anyhow::Result<()> {
    super::let_others_go_first();
    let options = Options {
        namespace: target.namespace.clone(),
        token: target.token.clone(),
        compression: false,
        ..Options::new(target.connect.to_string())
    };
    let mut client = Client::connect(options)?;
    let message = Message::new(vec![0; bytes]);
    while let Ok(first) = hungry.recv() {
        for client_id in std::iter::once(first).chain(hungry.try_iter()).take(PUSHES_MAX) {
            // The flush tells of it.
            let _ =
                client.publish_pipelined(&format!("{}{client_id}", QueueName::MAILBOX_PREFIX), &message)?;
        }
        let refused = client.flush()?.refused;
        ensure!(refused.is_empty(), "a push to a non-reader was refused: {}", refused[0].1);
    }
    // Nothing is unanswered.
    let _ = client.close(LAST_ANSWERS)?;
    Ok(())
}
