//! What an idle session costs, as the code map says: read out of its table and compared with the types.

use relaymesh::{gateway, queue, reactor, wheel};

/// The rows of the table in the code map: what, and how many bytes.
fn rows(code_map: &str) -> Vec<(String, usize)> {
    let lines = code_map.lines().map(|line| line.strip_prefix("//!").unwrap_or("").trim());
    lines
        .skip_while(|line| *line != "# What an idle session costs")
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0].to_owned(), cells[cells.len() - 1].parse().expect("the last column is a number"))
        })
        .collect()
}

#[test]
fn an_idle_session_costs_what_the_code_map_says() {
    let rows = rows(include_str!("../../src/lib.rs"));
    // A debug build keeps more beside a descriptor; in the others the module itself holds the size.
    let stream = if cfg!(debug_assertions) { 12 } else { reactor::CONNECTION_BYTES };
    let sizes = [
        ("its connection", gateway::CONN_BYTES),
        ("its deadline", wheel::TIMER_BYTES),
        ("its stream", stream),
        ("the client with a name", queue::CLIENT_BYTES),
        ("the client's place among the connections", queue::CLIENT_BY_CONNECTION_BYTES),
        ("the client's place among the names", queue::CLIENT_BY_NAME_BYTES),
        ("in all", rows[..rows.len() - 1].iter().map(|(_, bytes)| bytes).sum()),
    ];
    assert_eq!(rows.len(), sizes.len(), "{rows:?}");
    for ((row, said), (what, bytes)) in rows.iter().zip(sizes) {
        assert!(row.starts_with(what), "{row} stands where {what} should");
        assert_eq!(*said, bytes, "{row}");
    }
    let (_, all) = rows[rows.len() - 1];
    assert!(all <= 200, "RSS has to stay below 300 bytes a session, and the allocator needs some of that");
}

#[test]
fn the_table_is_read_from_the_map() {
    let map = "//! # What an idle session costs\n//!\n//! Words.\n//! | what | bytes |\n//! |---|---|\n//! | a b | 3 |\n\
               //! | in all | 7 |\n//!\n//! | other | x |\n";
    assert_eq!(rows(map), [("a b".to_owned(), 3), ("in all".to_owned(), 7)]);
}
