//! Tests of the parts together.

mod bounds;
mod compression;
