//! Rust source as the rules see it: code and comments apart, every character at the place it had.
//!
//! No parser: a rule looks for words, and words in comments, strings and tests must not count. Call
//! [`SourceFile::parse`] once per file; the rules read `code` and `comments`.

/// One source file, taken apart. `code` and `comments` are as long as `text`, with blanks for what they leave out.
pub(crate) struct SourceFile {
    /// Path from the root of the project, with `/`.
    pub(crate) path: String,
    /// The file as it is.
    pub(crate) text: String,
    /// Without comments, without what stands in quotes, without test items.
    pub(crate) code: String,
    /// Comments alone.
    pub(crate) comments: String,
    /// The whole file belongs to tests.
    pub(crate) is_test: bool,
    /// Lines that belong to `#[cfg(test)]` items.
    pub(crate) test_lines: usize,
}

impl SourceFile {
    /// Takes `text` apart.
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let (stripped, comments) = separate(text);
        let (code, test_lines) = without_test_items(&stripped);
        let is_test = path.split('/').any(|part| part == "tests" || part == "tests.rs");
        Self { path: path.to_owned(), text: text.to_owned(), code, comments, is_test, test_lines }
    }

    /// The line of a byte offset, from 1.
    pub(crate) fn line_at(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    /// Modules that this file declares for tests only: `#[cfg(test)] mod name;`.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let (stripped, _) = separate(&self.text);
        let mut names = Vec::new();
        for start in cfg_test_attributes(&stripped) {
            let item = item_after(&stripped, start);
            let mut words = stripped[item.clone()].split_whitespace().skip_while(|word| *word != "mod");
            if let Some(name) = words.nth(1).and_then(|name| name.strip_suffix(';')) {
                names.push(name.to_owned());
            }
        }
        names
    }
}

/// Offsets at which `word` stands in `code` as a whole word. `word` may hold `::`.
pub(crate) fn words(code: &str, word: &str) -> Vec<usize> {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .filter(|(at, _)| {
            let before = code[..*at].chars().next_back();
            let after = code[at + word.len()..].chars().next();
            !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
        })
        .map(|(at, _)| at)
        .collect()
}

/// The identifier at the start of `code`, empty when there is none.
pub(crate) fn identifier(code: &str) -> &str {
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    &code[..end]
}

/// What the separator is in the middle of.
enum Within {
    Code,
    LineComment,
    BlockComment { depth: usize },
    Text { hashes: Option<usize> },
}

/// Code with blanks for comments and quoted text, and comments with blanks for everything else.
fn separate(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let blank = || bytes.iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }).collect::<Vec<u8>>();
    let (mut code, mut comments) = (blank(), blank());
    let mut within = Within::Code;
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let mut step = 1;
        match &mut within {
            Within::Code => {
                if rest.starts_with(b"//") {
                    within = Within::LineComment;
                    step = 0;
                } else if rest.starts_with(b"/*") {
                    within = Within::BlockComment { depth: 0 };
                    step = 0;
                } else if let Some((length, hashes)) = text_opening(bytes, at) {
                    within = Within::Text { hashes };
                    code[at] = b'"';
                    step = length;
                } else if let Some(length) = character_literal(rest) {
                    step = length;
                } else {
                    code[at] = bytes[at];
                }
            }
            Within::LineComment => {
                comments[at] = bytes[at];
                if rest[0] == b'\n' {
                    within = Within::Code;
                }
            }
            Within::BlockComment { depth } => {
                if rest.starts_with(b"/*") {
                    *depth += 1;
                    step = 2;
                } else if rest.starts_with(b"*/") {
                    *depth -= 1;
                    step = 2;
                }
                comments[at..at + step].copy_from_slice(&rest[..step]);
                if matches!(within, Within::BlockComment { depth: 0 }) {
                    within = Within::Code;
                }
            }
            Within::Text { hashes: None } if rest[0] == b'\\' => step = 2,
            Within::Text { hashes } => {
                let closing = hashes.unwrap_or(0);
                let hashes_follow =
                    rest.len() > closing && rest[1..=closing].iter().all(|&byte| byte == b'#');
                if rest[0] == b'"' && hashes_follow {
                    code[at + closing] = b'"';
                    step = 1 + closing;
                    within = Within::Code;
                }
            }
        }
        at += step;
    }
    (String::from_utf8_lossy(&code).into_owned(), String::from_utf8_lossy(&comments).into_owned())
}

/// Length of `"`, `r"`, `br#"` and their like when one opens here, and the hashes that must close it.
fn text_opening(bytes: &[u8], at: usize) -> Option<(usize, Option<usize>)> {
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if bytes[at] == b'"' {
        return Some((1, None));
    }
    if in_word {
        return None;
    }
    let mut end = at + usize::from(matches!(bytes[at], b'b' | b'c'));
    let raw = bytes.get(end) == Some(&b'r');
    end += usize::from(raw);
    let hashes = bytes[end..].iter().take_while(|&&byte| raw && byte == b'#').count();
    end += hashes;
    (end > at && bytes.get(end) == Some(&b'"')).then_some((end + 1 - at, raw.then_some(hashes)))
}

/// Length of a character literal when one starts here; a lifetime is none.
fn character_literal(rest: &[u8]) -> Option<usize> {
    if rest[0] != b'\'' {
        return None;
    }
    if rest.get(1) == Some(&b'\\') {
        let end = rest.iter().skip(3).position(|&byte| byte == b'\'')?;
        return Some(end + 4);
    }
    let character = std::str::from_utf8(&rest[1..rest.len().min(5)])
        .or_else(|error| std::str::from_utf8(&rest[1..1 + error.valid_up_to()]))
        .ok()?
        .chars()
        .next()?;
    let end = 1 + character.len_utf8();
    (rest.get(end) == Some(&b'\'')).then_some(end + 1)
}

/// Starts of `#[cfg(test)]` and of `#[cfg(all(test, ...))]`.
fn cfg_test_attributes(code: &str) -> Vec<usize> {
    let mut starts: Vec<usize> = ["#[cfg(test)]", "#[cfg(all(test"]
        .iter()
        .flat_map(|attribute| code.match_indices(attribute).map(|(at, _)| at))
        .collect();
    starts.sort_unstable();
    starts
}

/// The attribute at `start` with the item behind it: up to `;` or up to the brace that closes it.
fn item_after(code: &str, start: usize) -> std::ops::Range<usize> {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && byte == b'}' {
                    return start..at + 1;
                }
            }
            b';' | b',' if depth == 0 => return start..at + 1,
            _ => {}
        }
    }
    start..code.len()
}

/// Blanks test items out and counts their lines.
fn without_test_items(code: &str) -> (String, usize) {
    let mut bytes = code.as_bytes().to_vec();
    let mut lines = 0;
    let mut end = 0;
    for start in cfg_test_attributes(code) {
        if start < end {
            continue;
        }
        let item = item_after(code, start);
        end = item.end;
        lines += code[item.clone()].lines().count();
        bytes[item].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    (String::from_utf8_lossy(&bytes).into_owned(), lines)
}

mod tests {
    use super::*;

    #[test]
    fn what_stands_in_comments_and_quotes_is_not_code() {
        let text =
            "let a = \"Mutex\"; // Mutex\n/* Mutex /* Mutex */ Mutex */ let b = r#\"Mutex \" Mutex\"#;\n";
        let file = SourceFile::parse("src/a.rs", text);
        assert!(words(&file.code, "Mutex").is_empty(), "{}", file.code);
        assert_eq!(words(&file.comments, "Mutex").len(), 4);
        assert_eq!(words(&file.code, "let").len(), 2);
        assert_eq!(file.code.len(), text.len());
    }

    #[test]
    fn quotes_escapes_characters_and_lifetimes_keep_their_ends() {
        let text = r#"fn f<'a>(x: &'a str) { g("\"", '"', '\'', '\u{41}', b'"', b"x", 'é', '{'); Mutex }"#;
        let file = SourceFile::parse("src/a.rs", text);
        assert_eq!(words(&file.code, "Mutex").len(), 1, "{}", file.code);
        assert_eq!(file.code.matches('{').count(), 1);
        assert_eq!(file.code.matches('}').count(), 1);
        assert_eq!(words(&file.code, "a").len(), 2, "the lifetime stays");
    }

    #[test]
    fn test_items_are_no_code() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { c(); }\n}\n#[cfg(test)]\nmod model;\nfn d() {}\n";
        let file = SourceFile::parse("src/a.rs", text);
        assert!(words(&file.code, "b").is_empty());
        assert_eq!(words(&file.code, "d").len(), 1);
        assert_eq!(file.test_lines, 6);
        assert_eq!(file.test_modules(), ["model"]);
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(words("unsafe_code unsafe xunsafe", "unsafe"), [12]);
        assert_eq!(words("a::Instant::now()", "Instant::now"), [3]);
    }

    #[test]
    fn an_offset_has_its_line() {
        let file = SourceFile::parse("src/a.rs", "a\nb\nc");
        assert_eq!((file.line_at(0), file.line_at(2), file.line_at(4)), (1, 2, 3));
    }
}
