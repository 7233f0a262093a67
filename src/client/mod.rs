//! The SDK: a pure connection machine, a reconnect policy and a blocking transport.
