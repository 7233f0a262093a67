//! The configuration file, environment and flags, checked into one typed value.
