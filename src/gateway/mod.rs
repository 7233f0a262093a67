//! A loop's brain: the sessions of its connections, admission and drain.
