//! Servers that break their word, each in a way of its own, to show that a campaign finds it: their log is harmed between a kill
//! and the next start.
