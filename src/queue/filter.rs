//! Filters of bindings: which messages of a topic a binding takes, by their attributes.
//!
//! Pure: a text goes in, a [`Filter`] or the place of the error comes out, and a filter says yes or no to a list of
//! attributes.
//!
//! ```text
//! filter   = both { "or" both }
//! both     = part { "and" part }
//! part     = "not" part | "(" filter ")" | test
//! test     = name "exists"
//!          | name "starts_with" text
//!          | name ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) ( text | number )
//! name     = a letter or "_", then letters, digits, "_", "-" and "."; or anything between two "
//! text     = anything between two ' or two "; the quote itself is written twice
//! number   = [ "-" ] digits [ "." digits ] [ "e" [ "-" | "+" ] digits ]
//! ```
//!
//! Words of the language are written in any case, names are not. `not` binds closest, `and` before `or`. Texts are compared
//! byte by byte. Beside a number, the attribute's value is read as one of at most 64 characters, in double precision. A test of an attribute that the
//! message does not have, or that is no number where one is asked for, is false whatever it asks, `!=` included; only `not`
//! turns that round. An attribute that a message has twice counts with its last value.

use std::fmt;

use crate::limits::{FILTER_BYTES_MAX, FILTER_DEPTH_MAX};

/// Characters of a number.
const NUMBER_BYTES_MAX: usize = 64;

/// A filter that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    root: Part,
    tests: usize,
}

/// Where a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// The character it begins at, from 1.
    pub column: usize,
    text: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the filter at column {}: {}", self.column, self.text)
    }
}

/// Never deeper than [`FILTER_DEPTH_MAX`] and three for each.
#[derive(Debug, Clone, PartialEq)]
enum Part {
    Or(Vec<Part>),
    And(Vec<Part>),
    Not(Box<Part>),
    Test { name: Box<str>, test: Test },
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Exists,
    StartsWith(Box<str>),
    Text(Comparison, Box<str>),
    Number(Comparison, f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn holds<T: PartialOrd + ?Sized>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Unequal => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// The text is no filter, is longer than [`FILTER_BYTES_MAX`] or nested deeper than [`FILTER_DEPTH_MAX`].
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > FILTER_BYTES_MAX {
            let text = format!("it has {} bytes, at most {FILTER_BYTES_MAX} are allowed", text.len());
            return Err(FilterError { column: 1, text });
        }
        let mut parser = Parser { rest: text, column: 1, depth: 0, token: Token::End, token_column: 1 };
        parser.advance()?;
        let root = parser.filter()?;
        match parser.token {
            Token::End => Ok(Self { tests: root.tests(), root }),
            _ => Err(parser.expected("\"and\", \"or\" or the end")),
        }
    }

    /// How many tests it consists of.
    #[must_use]
    pub fn tests(&self) -> usize {
        self.tests
    }

    /// Whether a message with these attributes is taken. Costs a look at each of them for each test.
    #[must_use]
    pub fn takes(&self, attributes: &[(&str, &str)]) -> bool {
        self.root.holds(attributes)
    }
}

impl Part {
    fn tests(&self) -> usize {
        match self {
            Self::Or(parts) | Self::And(parts) => parts.iter().map(Self::tests).sum(),
            Self::Not(part) => part.tests(),
            Self::Test { .. } => 1,
        }
    }

    fn holds(&self, attributes: &[(&str, &str)]) -> bool {
        match self {
            Self::Or(parts) => parts.iter().any(|part| part.holds(attributes)),
            Self::And(parts) => parts.iter().all(|part| part.holds(attributes)),
            Self::Not(part) => !part.holds(attributes),
            Self::Test { name, test } => {
                let value = attributes.iter().rev().find(|(own, _)| **own == **name);
                value.is_some_and(|(_, value)| test.holds(value))
            }
        }
    }
}

impl Test {
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Exists => true,
            Self::StartsWith(prefix) => value.starts_with(&**prefix),
            Self::Text(comparison, text) => comparison.holds(value, text),
            Self::Number(comparison, number) => {
                parse_number(value).is_some_and(|value| comparison.holds(&value, number))
            }
        }
    }
}

/// A number as the grammar has it; what is too large for double precision, or too long to be looked at again and again, is
/// none.
fn parse_number(text: &str) -> Option<f64> {
    if text.len() > NUMBER_BYTES_MAX {
        return None;
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    // Not what Rust takes beside: inf, nan, a leading plus or point.
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit()) && !digits.ends_with('.');
    text.parse().ok().filter(|number: &f64| is_number && number.is_finite())
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    End,
    Open,
    Close,
    Comparison(Comparison),
    /// Perhaps a word of the language.
    Word(String),
    /// In single or double quotes.
    Quoted(char, String),
    Number(f64),
}

struct Parser<'a> {
    /// Behind the token.
    rest: &'a str,
    /// Of the rest.
    column: usize,
    depth: usize,
    token: Token,
    token_column: usize,
}

impl Parser<'_> {
    fn filter(&mut self) -> Result<Part, FilterError> {
        let mut parts = vec![self.both()?];
        while self.is_word("or") {
            self.advance()?;
            parts.push(self.both()?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Part::Or(parts) })
    }

    fn both(&mut self) -> Result<Part, FilterError> {
        let mut parts = vec![self.part()?];
        while self.is_word("and") {
            self.advance()?;
            parts.push(self.part()?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Part::And(parts) })
    }

    fn part(&mut self) -> Result<Part, FilterError> {
        let is_not = self.is_word("not");
        if !is_not && self.token != Token::Open {
            return self.test();
        }
        if self.depth == FILTER_DEPTH_MAX {
            let text = format!("parentheses and \"not\" are nested more than {FILTER_DEPTH_MAX} deep");
            return Err(FilterError { column: self.token_column, text });
        }
        self.depth += 1;
        self.advance()?;
        let part = if is_not {
            Part::Not(Box::new(self.part()?))
        } else {
            let part = self.filter()?;
            if self.token != Token::Close {
                return Err(self.expected("\"and\", \"or\" or \")\""));
            }
            self.advance()?;
            part
        };
        self.depth -= 1;
        Ok(part)
    }

    fn test(&mut self) -> Result<Part, FilterError> {
        let name = match &self.token {
            Token::Word(word) if !is_reserved(word) => word.as_str(),
            Token::Quoted('"', name) => name.as_str(),
            _ => return Err(self.expected("the name of an attribute, \"not\" or \"(\"")),
        };
        let name = name.into();
        self.advance()?;
        let test = if self.is_word("exists") {
            Test::Exists
        } else if self.is_word("starts_with") {
            self.advance()?;
            match &self.token {
                Token::Quoted(_, prefix) => Test::StartsWith(prefix.as_str().into()),
                _ => return Err(self.expected("a text in quotes")),
            }
        } else if let Token::Comparison(comparison) = self.token {
            self.advance()?;
            match &self.token {
                Token::Quoted(_, text) => Test::Text(comparison, text.as_str().into()),
                Token::Number(number) => Test::Number(comparison, *number),
                _ => return Err(self.expected("a text in quotes or a number")),
            }
        } else {
            return Err(self.expected("=, !=, <, <=, >, >=, \"starts_with\" or \"exists\""));
        };
        self.advance()?;
        Ok(Part::Test { name, test })
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(&self.token, Token::Word(own) if own.eq_ignore_ascii_case(word))
    }

    fn expected(&self, what: &str) -> FilterError {
        let found = match &self.token {
            Token::End => "the end".to_owned(),
            Token::Open => "\"(\"".to_owned(),
            Token::Close => "\")\"".to_owned(),
            Token::Comparison(_) => "a comparison".to_owned(),
            Token::Word(word) => format!("{word:?}"),
            Token::Quoted(_, text) => format!("the text {text:?}"),
            Token::Number(number) => format!("the number {number}"),
        };
        FilterError { column: self.token_column, text: format!("expected {what}, found {found}") }
    }

    /// On to the next token.
    fn advance(&mut self) -> Result<(), FilterError> {
        let blank = self.rest.len() - self.rest.trim_start().len();
        self.skip(blank);
        self.token_column = self.column;
        let mut chars = self.rest.chars();
        let (first, second) = (chars.next(), chars.next());
        let single = |token| Ok((token, 1));
        let compared = |comparison, bytes| Ok((Token::Comparison(comparison), bytes));
        let (token, bytes) = match (first, second) {
            (None, _) => Ok((Token::End, 0)),
            (Some('('), _) => single(Token::Open),
            (Some(')'), _) => single(Token::Close),
            (Some('='), _) => compared(Comparison::Equal, 1),
            (Some('!'), Some('=')) => compared(Comparison::Unequal, 2),
            (Some('<'), Some('=')) => compared(Comparison::LessOrEqual, 2),
            (Some('<'), _) => compared(Comparison::Less, 1),
            (Some('>'), Some('=')) => compared(Comparison::GreaterOrEqual, 2),
            (Some('>'), _) => compared(Comparison::Greater, 1),
            (Some(quote @ ('\'' | '"')), _) => self.quoted(quote),
            (Some(c), _) if c.is_ascii_digit() || c == '-' => self.number(),
            (Some(c), _) if c.is_ascii_alphabetic() || c == '_' => {
                let len = self.length_of(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
                Ok((Token::Word(self.rest[..len].to_owned()), len))
            }
            (Some(c), _) => {
                Err(self.fault(format!("{c:?} means nothing here; names with such characters stand in \"\"")))
            }
        }?;
        self.skip(bytes);
        self.token = token;
        Ok(())
    }

    fn quoted(&self, quote: char) -> Result<(Token, usize), FilterError> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c != quote {
                text.push(c);
            } else if self.rest[at + 1..].starts_with(quote) {
                text.push(c);
                chars.next();
            } else {
                return Ok((Token::Quoted(quote, text), at + 1));
            }
        }
        Err(self.fault(format!("the text that begins here has no end; write {quote} behind it")))
    }

    fn number(&self) -> Result<(Token, usize), FilterError> {
        let len = self.length_of(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
        let text = &self.rest[..len];
        match parse_number(text) {
            Some(number) => Ok((Token::Number(number), len)),
            None => Err(self.fault(format!("{text} is no number; a text stands in quotes"))),
        }
    }

    fn length_of(&self, belongs: impl Fn(char) -> bool) -> usize {
        self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len())
    }

    fn skip(&mut self, bytes: usize) {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.column += skipped.chars().count();
        self.rest = rest;
    }

    fn fault(&self, text: String) -> FilterError {
        FilterError { column: self.token_column, text }
    }
}

fn is_reserved(word: &str) -> bool {
    ["and", "or", "not", "exists", "starts_with"].iter().any(|own| own.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests;
