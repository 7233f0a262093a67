//! The rules about one file: each a function from a file to its faults, each able to fail (see its test below).

use crate::source::{SourceFile, identifier, words};

/// Lines of a file, without its tests.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function's body, without blanks and comments.
const FUNCTION_LINES_MAX: usize = 70;

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The file.
    pub(crate) path: String,
    /// The line, from 1.
    pub(crate) line: usize,
    /// The rule, with what was found.
    pub(crate) rule: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

/// A rule over one file.
pub(crate) type Rule = fn(&SourceFile) -> Vec<Fault>;

/// All of them.
pub(crate) const RULES: [Rule; 12] = [
    mio_in_reactor_alone,
    now_in_clock_alone,
    no_lock_on_a_message_path,
    no_unbounded_channel,
    no_rc_refcell,
    no_nameless_module,
    unsafe_in_host_and_reactor_alone,
    files_stay_short,
    functions_stay_short,
    nothing_left_open,
    a_module_says_what_it_owns,
    no_line_numbers_in_comments,
];

/// Stands in for the disk in tests and simulation; no message of a server passes through it.
const SIMULATED_DISK: &str = "src/log/sim_storage.rs";

/// Modules that a message passes through.
const MESSAGE_PATH: [&str; 8] = [
    "src/reactor",
    "src/gateway",
    "src/session",
    "src/queue",
    "src/engine",
    "src/log",
    "src/mail",
    "src/wire",
];

fn is_under(file: &SourceFile, module: &str) -> bool {
    file.path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn is_loadgen(file: &SourceFile) -> bool {
    file.path.starts_with("loadgen/")
}

fn faults(file: &SourceFile, offsets: Vec<usize>, rule: &str) -> Vec<Fault> {
    let fault = |at| Fault { path: file.path.clone(), line: file.line_at(at), rule: rule.to_owned() };
    offsets.into_iter().map(fault).collect()
}

fn mio_in_reactor_alone(file: &SourceFile) -> Vec<Fault> {
    if file.is_test || is_loadgen(file) || is_under(file, "src/reactor") {
        return Vec::new();
    }
    let named = words(&file.code, "mio").into_iter().filter(|&at| {
        let before = file.code[..at].trim_end();
        file.code[at + 3..].starts_with("::") || before.ends_with("use") || before.ends_with("extern crate")
    });
    faults(file, named.collect(), "mio is named in src/reactor alone")
}

fn now_in_clock_alone(file: &SourceFile) -> Vec<Fault> {
    if file.is_test || is_loadgen(file) || file.path == "src/clock.rs" {
        return Vec::new();
    }
    ["Instant::now", "SystemTime::now", "Timestamp::now", "Zoned::now"]
        .iter()
        .flat_map(|now| faults(file, words(&file.code, now), &format!("{now} stands in src/clock.rs alone")))
        .collect()
}

fn no_lock_on_a_message_path(file: &SourceFile) -> Vec<Fault> {
    if file.is_test
        || file.path == SIMULATED_DISK
        || !MESSAGE_PATH.iter().any(|module| is_under(file, module))
    {
        return Vec::new();
    }
    ["Mutex", "RwLock"]
        .iter()
        .flat_map(|lock| {
            faults(file, words(&file.code, lock), &format!("no {lock} on the path of a message"))
        })
        .collect()
}

fn no_unbounded_channel(file: &SourceFile) -> Vec<Fault> {
    if file.is_test {
        return Vec::new();
    }
    let mut found = words(&file.code, "unbounded_channel");
    found.extend(words(&file.code, "unbounded").into_iter().filter(|at| {
        let after = &file.code[at + "unbounded".len()..];
        after.starts_with('(') || after.starts_with("::<")
    }));
    // A channel made without a number is the standard library's unbounded one.
    found.extend(words(&file.code, "channel").into_iter().filter(|&at| {
        let after = &file.code[at + "channel".len()..];
        let arguments = after.find('(').map_or("", |open| &after[open..]);
        let is_call = after.starts_with('(') || after.starts_with("::<");
        let before = file.code[..at].trim_end();
        // A oneshot holds one value.
        let is_bounded = before.ends_with("fn") || before.ends_with("oneshot::");
        is_call && arguments.starts_with("()") && !is_bounded
    }));
    faults(file, found, "no unbounded channel: give it a bound from limits")
}

fn no_rc_refcell(file: &SourceFile) -> Vec<Fault> {
    let found = words(&file.code, "Rc").into_iter().filter(|at| {
        let after: String = file.code[at + 2..].chars().filter(|c| !c.is_whitespace()).take(64).collect();
        let after = after.trim_start_matches("::");
        after.starts_with("<RefCell") || after.starts_with("<std::cell::RefCell")
    });
    faults(file, found.collect(), "no Rc<RefCell>")
}

fn no_nameless_module(file: &SourceFile) -> Vec<Fault> {
    let banned = ["util", "utils", "common", "helper", "helpers", "impls", "misc"];
    let named = |name: &str| banned.contains(&name.trim_end_matches(".rs"));
    let mut found = Vec::new();
    if file.path.split('/').any(named) {
        found.push(0);
    }
    found.extend(
        words(&file.code, "mod").into_iter().filter(|at| named(identifier(file.code[at + 3..].trim_start()))),
    );
    faults(file, found, "a module is named for what it owns, not util, common, helpers or impls")
}

fn unsafe_in_host_and_reactor_alone(file: &SourceFile) -> Vec<Fault> {
    if is_under(file, "src/host") || is_under(file, "src/reactor") {
        return Vec::new();
    }
    faults(file, words(&file.code, "unsafe"), "unsafe stands in src/host and src/reactor alone")
}

fn files_stay_short(file: &SourceFile) -> Vec<Fault> {
    let lines = file.text.lines().count() - file.test_lines;
    if file.is_test || lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    let rule = format!("{lines} lines without tests; a file has at most {FILE_LINES_MAX}");
    vec![Fault { path: file.path.clone(), line: FILE_LINES_MAX + 1, rule }]
}

fn functions_stay_short(file: &SourceFile) -> Vec<Fault> {
    if file.is_test {
        return Vec::new();
    }
    let mut found = Vec::new();
    for at in words(&file.code, "fn") {
        let name = identifier(file.code[at + 2..].trim_start());
        let Some(body) = body_of(&file.code[at..]).filter(|_| !name.is_empty()) else { continue };
        let lines = body.lines().filter(|line| !line.trim().is_empty()).count();
        if lines > FUNCTION_LINES_MAX {
            let rule = format!("fn {name} has {lines} lines; a function has at most {FUNCTION_LINES_MAX}");
            found.push(Fault { path: file.path.clone(), line: file.line_at(at), rule });
        }
    }
    found
}

/// What stands between the braces of the function that `code` starts with; `None` for one without a body.
fn body_of(code: &str) -> Option<&str> {
    let mut nesting = 0_usize;
    let mut open = None;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => nesting += 1,
            b')' | b']' => nesting = nesting.saturating_sub(1),
            b'{' => {
                open = open.or_else(|| (nesting == 0).then_some(at));
                nesting += 1;
            }
            b'}' => {
                nesting = nesting.saturating_sub(1);
                if let Some(open) = open.filter(|_| nesting == 0) {
                    return Some(&code[open + 1..at]);
                }
            }
            b';' if nesting == 0 && open.is_none() => return None,
            _ => {}
        }
    }
    None
}

fn nothing_left_open(file: &SourceFile) -> Vec<Fault> {
    ["todo", "unimplemented", "dbg"]
        .iter()
        .flat_map(|name| {
            let called = words(&file.code, name).into_iter();
            let called = called.filter(|at| file.code[at + name.len()..].starts_with('!')).collect();
            faults(file, called, &format!("{name}! is left in the code"))
        })
        .collect()
}

fn a_module_says_what_it_owns(file: &SourceFile) -> Vec<Fault> {
    let is_module = file.path.ends_with("/mod.rs") || file.path.matches('/').count() == 1;
    if file.is_test || !is_module || file.text.trim_start().starts_with("//! ") {
        return Vec::new();
    }
    faults(file, vec![0], "a module begins with a `//!` paragraph: what it owns and must not know")
}

fn no_line_numbers_in_comments(file: &SourceFile) -> Vec<Fault> {
    let is_number_at = |at: usize| file.comments[at..].starts_with(|c: char| c.is_ascii_digit());
    let mut found: Vec<usize> = file
        .comments
        .match_indices(".rs:")
        .filter(|(at, _)| is_number_at(at + 4))
        .map(|(at, _)| at)
        .collect();
    for word in ["line", "lines", "Line", "Lines"] {
        found.extend(words(&file.comments, word).into_iter().filter(|at| {
            let number = at + word.len() + 1;
            file.comments.as_bytes().get(number - 1) == Some(&b' ') && is_number_at(number)
        }));
    }
    faults(file, found, "a comment cites no line number: it is wrong after the next change")
}

mod tests {
    use super::*;

    fn lines(rule: Rule, path: &str, text: &str) -> Vec<usize> {
        rule(&SourceFile::parse(path, text)).iter().map(|fault| fault.line).collect()
    }

    #[test]
    fn a_fault_names_file_line_and_rule() {
        let found = no_rc_refcell(&SourceFile::parse("src/a.rs", "\ntype A = Rc<RefCell<u8>>;"));
        assert_eq!(found[0].to_string(), "src/a.rs:2: no Rc<RefCell>");
    }

    #[test]
    fn mio_elsewhere_is_found() {
        let text = "use mio::Poll;\nfn a() { mio::Token(1); }\n// mio::Poll\nlet x = \"mio::Poll\";";
        assert_eq!(lines(mio_in_reactor_alone, "src/gateway/mod.rs", text), [1, 2]);
        assert!(lines(mio_in_reactor_alone, "src/reactor/poll.rs", text).is_empty());
        assert!(lines(mio_in_reactor_alone, "loadgen/src/main.rs", text).is_empty());
        assert_eq!(lines(mio_in_reactor_alone, "src/reactor_two.rs", text), [1, 2]);
    }

    #[test]
    fn now_elsewhere_is_found() {
        let text = "let a = Instant::now();\nlet b = std::time::SystemTime::now();\n/// Instant::now\n";
        assert_eq!(lines(now_in_clock_alone, "src/queue/mod.rs", text), [1, 2]);
        assert!(lines(now_in_clock_alone, "src/clock.rs", text).is_empty());
        assert!(lines(now_in_clock_alone, "src/queue/tests.rs", text).is_empty());
        let in_tests = format!("#[cfg(test)]\nmod tests {{\n{text}}}\n");
        assert!(lines(now_in_clock_alone, "src/queue/mod.rs", &in_tests).is_empty());
    }

    #[test]
    fn a_lock_on_the_path_is_found() {
        let text = "struct A { b: std::sync::Mutex<u8> }\nuse std::sync::RwLock;";
        assert_eq!(lines(no_lock_on_a_message_path, "src/mail/lane.rs", text), [1, 2]);
        assert!(lines(no_lock_on_a_message_path, "src/admin/mod.rs", text).is_empty());
    }

    #[test]
    fn an_unbounded_channel_is_found() {
        let text = "let a = crossbeam_channel::unbounded();\nlet b = unbounded::<u8>();\nlet c = mpsc::channel();\n\
                    let d = channel::<u8>();\nlet e = mpsc::unbounded_channel();";
        assert_eq!(lines(no_unbounded_channel, "src/engine/mod.rs", text), [5, 1, 2, 3, 4]);
        let bounded = "let a = bounded(5);\nlet b = tokio::sync::mpsc::channel(16);\nfn channel() {}\nlet c = oneshot::channel();";
        assert!(lines(no_unbounded_channel, "src/engine/mod.rs", bounded).is_empty());
    }

    #[test]
    fn rc_refcell_is_found() {
        assert_eq!(lines(no_rc_refcell, "src/a.rs", "type A = Rc<RefCell<u8>>;"), [1]);
        assert!(lines(no_rc_refcell, "src/a.rs", "type A = Arc<RefCell<u8>>; type B = Rc<str>;").is_empty());
    }

    #[test]
    fn a_nameless_module_is_found() {
        assert_eq!(lines(no_nameless_module, "src/queue/helpers.rs", "fn a() {}"), [1]);
        assert_eq!(lines(no_nameless_module, "src/util/mod.rs", "fn a() {}"), [1]);
        assert_eq!(lines(no_nameless_module, "src/queue/mod.rs", "mod a;\nmod common;"), [2]);
        assert!(lines(no_nameless_module, "src/queue/ready.rs", "fn util() {}").is_empty());
    }

    #[test]
    fn unsafe_elsewhere_is_found() {
        let text = "// unsafe\n#![deny(unsafe_code)]\nunsafe { a() }";
        assert_eq!(lines(unsafe_in_host_and_reactor_alone, "src/wire/mod.rs", text), [3]);
        assert!(lines(unsafe_in_host_and_reactor_alone, "src/host/table.rs", text).is_empty());
    }

    #[test]
    fn a_long_file_is_found() {
        let long = "fn a() {}\n".repeat(601);
        assert_eq!(lines(files_stay_short, "src/a.rs", &long), [601]);
        assert!(lines(files_stay_short, "src/a/tests.rs", &long).is_empty());
        let with_tests = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n", "fn a() {}\n".repeat(600));
        assert!(lines(files_stay_short, "src/a.rs", &with_tests).is_empty());
    }

    #[test]
    fn a_long_function_is_found() {
        let function = |body: &str| format!("\nfn a<T>(b: [u8; 3]) -> u8 where T: X {{\n{body}}}\nfn c();\n");
        assert_eq!(lines(functions_stay_short, "src/a.rs", &function(&"    b(|| { c });\n".repeat(71))), [2]);
        let full = "    b();\n".repeat(70) + &"\n    // why\n".repeat(30);
        assert!(lines(functions_stay_short, "src/a.rs", &function(&full)).is_empty());
        assert!(lines(functions_stay_short, "src/a.rs", "type A = fn(u8) -> u8;\n").is_empty());
    }

    #[test]
    fn what_is_left_open_is_found() {
        let text = "fn a() { todo!() }\nfn b() { unimplemented!(\"x\") }\nfn c() { dbg!(1) }\n// todo!()";
        assert_eq!(lines(nothing_left_open, "src/a.rs", text), [1, 2, 3]);
    }

    #[test]
    fn a_silent_module_is_found() {
        assert_eq!(lines(a_module_says_what_it_owns, "src/queue/mod.rs", "use a;\n"), [1]);
        assert_eq!(lines(a_module_says_what_it_owns, "src/wheel.rs", "use a;\n"), [1]);
        assert!(lines(a_module_says_what_it_owns, "src/queue/mod.rs", "//! Owns a.\nuse a;\n").is_empty());
        assert!(lines(a_module_says_what_it_owns, "src/queue/ready.rs", "use a;\n").is_empty());
    }

    #[test]
    fn a_cited_line_number_is_found() {
        let text =
            "/// See line 12.\n// as in brain.rs:40\n/// One line per row, 12 of them.\nlet a = \"line 12\";";
        assert_eq!(lines(no_line_numbers_in_comments, "src/a.rs", text), [2, 1]);
    }
}
