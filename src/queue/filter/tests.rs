use proptest::prelude::*;

use super::*;

fn takes(filter: &str, attributes: &[(&str, &str)]) -> bool {
    Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}")).takes(attributes)
}

#[test]
fn tests_mean_what_they_say() {
    let order =
        [("region", "eu-west"), ("total", "120.5"), ("kind", "it's"), ("content type", "json"), ("n", "x")];
    for yes in [
        "region = 'eu-west'",
        "region = \"eu-west\"",
        "region != 'us'",
        "region starts_with 'eu'",
        "region STARTS_WITH ''",
        "region > 'eu'",
        "total > 100",
        "total>=120.5",
        "total <= 1.205e2",
        "total != -3",
        "total < 1000",
        "total exists",
        "kind = 'it''s'",
        "\"content type\" = 'json'",
        "not missing exists",
        "not (region = 'us' or total < 1)",
        "region = 'us' or total > 1 and kind exists",
        "not region = 'us' and total > 1",
        "NOT not kind exists",
    ] {
        assert!(takes(yes, &order), "{yes}");
    }
    for no in [
        "region = 'EU-west'",
        "missing = ''",
        "missing != 'x'",
        "n != 5",
        "n = 5",
        "total < 100",
        "region starts_with 'us'",
        "(region = 'us' or total > 1) and missing exists",
        "not kind exists",
        "Region exists",
    ] {
        assert!(!takes(no, &order), "{no}");
    }
    assert!(takes("a = 'new'", &[("a", "old"), ("a", "new")]), "the last value counts");
    assert!(!takes("a < 5", &[("a", "nan")]) && !takes("a > 5", &[("a", "inf")]), "these are no numbers");
    assert!(!takes("a >= 5", &[("a", "+5")]) && !takes("a >= 5", &[("a", "5.")]));
}

#[test]
fn an_error_names_its_place_and_what_was_expected() {
    for (text, column, words) in [
        ("", 1, "expected the name of an attribute"),
        ("region", 7, "expected =, !=, <"),
        ("region =", 9, "expected a text in quotes or a number, found the end"),
        ("region = eu", 10, "found \"eu\""),
        ("region == 'eu'", 9, "found a comparison"),
        ("region = 'eu", 10, "has no end"),
        ("region = 'eu' total > 1", 15, "expected \"and\", \"or\" or the end, found \"total\""),
        ("(region = 'eu'", 15, "expected \"and\", \"or\" or \")\""),
        ("region = 'eu')", 14, "found \")\""),
        ("a = 1 and or b = 2", 11, "found \"or\""),
        ("naïve = 1", 3, "'ï' means nothing here"),
        ("\"naïve\" = 1 and !", 17, "'!' means nothing here"),
        ("a starts_with 5", 15, "expected a text in quotes, found the number 5"),
        ("a > 1x", 5, "1x is no number"),
        ("a = 1e999", 5, "1e999 is no number"),
        ("'a' = 1", 1, "found the text \"a\""),
        ("a exists exists", 10, "found \"exists\""),
    ] {
        let error = Filter::parse(text).expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.to_string().contains(words), "{text}: {error}");
    }
}

#[test]
fn length_and_depth_are_bounded() {
    let deep = |depth: usize| format!("{}a exists{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Filter::parse(&deep(FILTER_DEPTH_MAX)).is_ok());
    let error = Filter::parse(&deep(FILTER_DEPTH_MAX + 1)).unwrap_err();
    assert_eq!(error.column, FILTER_DEPTH_MAX + 1);
    assert!(Filter::parse(&format!("{}a exists", "not ".repeat(FILTER_DEPTH_MAX + 1))).is_err());
    // One behind the other is not deep.
    let wide = vec!["(a exists)"; 60].join(" or ");
    assert!(Filter::parse(&wide).is_ok());
    assert!(Filter::parse(&format!("a = '{}'", "x".repeat(FILTER_BYTES_MAX))).is_err());
}

/// A filter as its text and as a function that knows nothing of this module.
#[derive(Debug, Clone)]
enum Tree {
    Or(Vec<Tree>),
    And(Vec<Tree>),
    Not(Box<Tree>),
    Exists(usize),
    Prefix(usize, String),
    Text(usize, &'static str, String),
    Number(usize, &'static str, i32),
}

const NAMES: [&str; 3] = ["a", "b.c", "with space"];
const COMPARISONS: [&str; 6] = ["=", "!=", "<", "<=", ">", ">="];

fn holds<T: PartialOrd>(left: T, comparison: &str, right: T) -> bool {
    match comparison {
        "=" => left == right,
        "!=" => left != right,
        "<" => left < right,
        "<=" => left <= right,
        ">" => left > right,
        _ => left >= right,
    }
}

impl Tree {
    fn text(&self) -> String {
        let joined = |trees: &[Self], word: &str| {
            let parts: Vec<String> = trees.iter().map(|tree| format!("({})", tree.text())).collect();
            parts.join(word)
        };
        let name = |at: &usize| {
            if NAMES[*at].contains(' ') { format!("{:?}", NAMES[*at]) } else { NAMES[*at].to_owned() }
        };
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        match self {
            Self::Or(trees) => joined(trees, " or "),
            Self::And(trees) => joined(trees, " AND "),
            Self::Not(tree) => format!("not ({})", tree.text()),
            Self::Exists(at) => format!("{} exists", name(at)),
            Self::Prefix(at, text) => format!("{} starts_with {}", name(at), quoted(text)),
            Self::Text(at, comparison, text) => format!("{}{comparison}{}", name(at), quoted(text)),
            Self::Number(at, comparison, number) => format!("{} {comparison} {number}", name(at)),
        }
    }

    fn takes(&self, values: &[Option<String>; 3]) -> bool {
        match self {
            Self::Or(trees) => trees.iter().any(|tree| tree.takes(values)),
            Self::And(trees) => trees.iter().all(|tree| tree.takes(values)),
            Self::Not(tree) => !tree.takes(values),
            Self::Exists(at) => values[*at].is_some(),
            Self::Prefix(at, text) => values[*at].as_ref().is_some_and(|value| value.starts_with(text)),
            Self::Text(at, comparison, text) => {
                values[*at].as_ref().is_some_and(|value| holds(value, comparison, text))
            }
            Self::Number(at, comparison, number) => {
                let value = values[*at].as_ref().and_then(|value| value.parse::<i32>().ok());
                value.is_some_and(|value| holds(value, comparison, *number))
            }
        }
    }
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[ab']{0,3}", (-3..4i32).prop_map(|number| number.to_string())]
}

fn tree() -> impl Strategy<Value = Tree> {
    let comparison = || (0..6usize).prop_map(|at| COMPARISONS[at]);
    let leaf = prop_oneof![
        (0..3usize).prop_map(Tree::Exists),
        (0..3usize, value()).prop_map(|(at, text)| Tree::Prefix(at, text)),
        (0..3usize, comparison(), value())
            .prop_map(|(at, comparison, text)| Tree::Text(at, comparison, text)),
        (0..3usize, comparison(), -3..4i32).prop_map(|(at, comparison, n)| Tree::Number(at, comparison, n)),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 1..4).prop_map(Tree::Or),
            proptest::collection::vec(inner.clone(), 1..4).prop_map(Tree::And),
            inner.prop_map(|tree| Tree::Not(Box::new(tree))),
        ]
    })
}

proptest! {
    #[test]
    fn a_filter_takes_what_its_tree_takes(tree in tree(), values in [0; 3].map(|_| proptest::option::of(value()))) {
        let text = tree.text();
        prop_assume!(text.len() <= FILTER_BYTES_MAX);
        let filter = Filter::parse(&text).unwrap();
        let attributes: Vec<(&str, &str)> =
            NAMES.iter().zip(&values).filter_map(|(name, value)| value.as_deref().map(|value| (*name, value))).collect();
        prop_assert_eq!(filter.takes(&attributes), tree.takes(&values), "{}", text);
    }

    #[test]
    fn no_text_panics_and_an_error_lies_within(text in ".{0,60}", near in "[a-c (')\"=!<>0-9.eornt_-]{0,40}") {
        for text in [text, near] {
            if let Err(error) = Filter::parse(&text) {
                prop_assert!(error.column >= 1 && error.column <= text.chars().count() + 1);
            }
        }
    }
}
