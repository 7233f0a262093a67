//! A hierarchical timer wheel over slots: insert, move and cancel in constant time.
