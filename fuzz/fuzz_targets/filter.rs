//! The filter of a binding, beside attributes: `cargo +nightly fuzz run filter`. The first line is the filter, each further
//! one an attribute, its name before the first `=`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relaymesh::queue::filter::Filter;

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let filter = lines.next().unwrap_or_default();
    let attributes: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once('=')).collect();
    let parsed = match Filter::parse(filter) {
        Ok(parsed) => parsed,
        Err(error) => {
            let columns = 1..=filter.chars().count() + 1;
            assert!(columns.contains(&error.column), "{error}: the filter has {columns:?}");
            return;
        }
    };
    let takes = parsed.takes(&attributes);
    // Nested a level deeper it may be too deep, or too long; what is understood means the opposite.
    if let Ok(opposite) = Filter::parse(&format!("not ({filter})")) {
        assert_ne!(opposite.takes(&attributes), takes);
    }
    if let Ok(both) = Filter::parse(&format!("({filter}) and ({filter})")) {
        assert_eq!(both.takes(&attributes), takes);
    }
});
