//! The commands a person types, one verb a file.
