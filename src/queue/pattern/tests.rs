use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn found(trie: &Trie, name: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    trie.find(name, |number| numbers.push(number));
    numbers.sort_unstable();
    numbers
}

/// What a pattern takes, a token after the other.
fn takes(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern, name) {
        ([">"], [_, ..]) => true,
        ([], []) => true,
        ([first, pattern @ ..], [token, name @ ..]) => {
            (first == token || *first == "*") && takes(pattern, name)
        }
        _ => false,
    }
}

#[test]
fn wildcards_stand_for_whole_tokens() {
    let mut trie = Trie::default();
    let patterns = ["orders.eu.created", "orders.*.created", "orders.>", ">", "*", "*.eu.*", "orders.eu"];
    for (number, pattern) in (0..).zip(patterns) {
        trie.insert(pattern, number);
    }
    assert_eq!(found(&trie, "orders.eu.created"), [0, 1, 2, 3, 5]);
    assert_eq!(found(&trie, "orders.us.created"), [1, 2, 3]);
    assert_eq!(found(&trie, "orders.eu"), [2, 3, 6]);
    assert_eq!(found(&trie, "orders"), [3, 4], "'>' is one token at least");
    assert_eq!(found(&trie, "orders.eu.created.late"), [2, 3]);
    assert_eq!(found(&trie, "stock.eu."), [3, 5], "an empty token is one");
}

#[test]
fn a_leading_wildcard_takes_no_system_topic() {
    let mut trie = Trie::default();
    for (number, pattern) in (0..).zip([">", "*.presence", "$sys.>", "$sys.*"]) {
        trie.insert(pattern, number);
    }
    assert_eq!(found(&trie, "$sys.presence"), [2, 3]);
    assert_eq!(found(&trie, "x.presence"), [0, 1]);
}

#[test]
fn a_bad_pattern_is_refused_with_its_place() {
    for (pattern, column, words) in [
        ("", 1, "empty"),
        ("a..b", 3, "empty"),
        ("a.b.", 5, "empty"),
        ("a.>.b", 3, "last token"),
        ("a.b*", 3, "token of its own"),
        (">>", 1, "token of its own"),
    ] {
        let error = check(pattern).expect_err(pattern);
        assert!(error.contains(&format!("column {column}:")) && error.contains(words), "{error}");
    }
    assert!(check(&vec!["a"; 33].join(".")).unwrap_err().contains(&format!("{TOPIC_TOKENS_MAX} tokens")));
    for pattern in ["a", "*", ">", "a.*.b.>", "$sys.presence", &vec!["*"; 32].join(".")] {
        assert_eq!(check(pattern), Ok(()));
    }
}

#[test]
fn thousands_of_exact_names_are_one_walk() {
    let mut trie = Trie::default();
    let names: Vec<String> = (0..10_000).map(|number| format!("site.{number}.door")).collect();
    for (number, name) in (0..).zip(&names) {
        trie.insert(name, number);
    }
    assert_eq!(found(&trie, "site.777.door"), [777]);
    for (number, name) in (0..).zip(&names) {
        trie.remove(name, number);
    }
    assert_eq!(trie.len(), 1, "nothing is left of them");
}

proptest! {
    #[test]
    fn a_trie_finds_what_its_patterns_take(
        patterns in vec((vec("[ab*]", 0..4), any::<bool>()), 1..30), names in vec(vec("[abc]", 1..6), 1..10),
        removed in vec(any::<bool>(), 30),
    ) {
        let patterns: Vec<Vec<&str>> = patterns
            .iter()
            .map(|(tokens, is_rest)| {
                let rest = (*is_rest || tokens.is_empty()).then_some(">");
                tokens.iter().map(String::as_str).chain(rest).collect()
            })
            .collect();
        let mut trie = Trie::default();
        for (number, pattern) in (0..).zip(&patterns) {
            prop_assert_eq!(check(&pattern.join(".")), Ok(()));
            trie.insert(&pattern.join("."), number);
        }
        let is_left = |number: u32| !removed[number as usize];
        for (number, pattern) in (0..).zip(&patterns).filter(|(number, _)| !is_left(*number)) {
            trie.remove(&pattern.join("."), number);
        }
        for name in &names {
            let name: Vec<&str> = name.iter().map(String::as_str).collect();
            let expected: Vec<u32> = (0..patterns.len() as u32)
                .filter(|&number| is_left(number) && takes(&patterns[number as usize], &name))
                .collect();
            prop_assert_eq!(found(&trie, &name.join(".")), expected);
        }
    }
}
