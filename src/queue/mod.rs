//! The shard's brain: the client directory and a message's life from schedule to dead letter.
