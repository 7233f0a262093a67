//! Patterns of topics, beside what they mean when each is looked at by itself: `cargo +nightly fuzz run topic_pattern`. The
//! first line is a topic's name, each further one a pattern.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relaymesh::queue::pattern::{Trie, check};

fn takes(pattern: &str, name: &str) -> bool {
    if name.starts_with('$') && (pattern.starts_with('*') || pattern.starts_with('>')) {
        return false;
    }
    let (mut tokens, mut names) = (pattern.split('.'), name.split('.'));
    loop {
        match (tokens.next(), names.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(token), Some(name)) if token == name => {}
            _ => return false,
        }
    }
}

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let name = lines.next().unwrap_or_default();
    // A name is a pattern without wildcards.
    if check(name).is_err() || name.contains(['*', '>']) {
        return;
    }
    let patterns: Vec<&str> = lines.filter(|pattern| check(pattern).is_ok()).collect();
    let mut trie = Trie::default();
    for (number, pattern) in (0..).zip(&patterns) {
        trie.insert(pattern, number);
    }
    let mut left: Vec<u32> = (0..).zip(&patterns).map(|(number, _)| number).collect();
    // And without every second one.
    for round in 0..2 {
        let mut found = Vec::new();
        trie.find(name, |number| found.push(number));
        found.sort_unstable();
        let expected = left.iter().copied().filter(|&number| takes(patterns[number as usize], name));
        assert_eq!(found, expected.collect::<Vec<_>>(), "round {round}");
        left.retain(|number| number % 2 == 1);
        for (number, pattern) in (0..).zip(&patterns).step_by(2) {
            trie.remove(pattern, number);
        }
    }
});
