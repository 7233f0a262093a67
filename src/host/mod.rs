//! What the machine allows and what the process uses.
