//! Those who use the server: producers, workers and devices, each a real SDK session, and an operator.

mod client;
mod later;
mod operator;
mod producer;
mod worker;

pub(crate) use client::{Client, Role, key_of};
pub(crate) use operator::Operator;
