//! Tests of the parts together.

mod compression;
