//! The event loops: the only place with mio and sockets.
