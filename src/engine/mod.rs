//! The shard's threads: mail in, brain, log, effects out once they are durable.
