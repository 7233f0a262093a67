//! The rule about how modules stand on each other: imports point down, no circle, and some never meet.
//!
//! The floors are read out of the code map (`src/lib.rs`), so that what it says is what is checked.

use std::collections::{BTreeMap, BTreeSet};

use crate::rules::Fault;
use crate::source::{SourceFile, identifier, words};

/// What a module must never import although the floors would allow it: (module, what, why).
const NEVER: [(&str, &[&str], &str); 8] = [
    ("gateway", &["queue", "engine", "log"], "a loop's brain and a shard's brain speak through mail alone"),
    ("queue", &["gateway", "session", "wire"], "the queue knows no connections and no frames"),
    (
        "reactor",
        &["queue", "engine", "log", "wire"],
        "the reactor knows neither frame contents nor queue rules",
    ),
    ("engine", &["session", "wire", "client"], "the engine knows no sockets"),
    ("session", &["queue", "log"], "a session knows only its own client"),
    (
        "client",
        &["session", "queue", "admin", "log", "mail", "config"],
        "the SDK knows `wire` alone of the server",
    ),
    ("admin", &["session", "queue"], "the control plane asks a shard through mail"),
    ("log", &["mail", "wire"], "the log does not know what its records mean"),
];

/// One module importing another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    /// The module that imports.
    pub(crate) from: String,
    /// What it imports.
    pub(crate) to: String,
    /// Where: file and line.
    pub(crate) place: (String, usize),
}

/// The floors of the code map, from the top down, each with its modules.
///
/// The table is the text block in the map whose first line is `main`; modules of a floor are parted by ` · `.
pub(crate) fn floors(code_map: &str) -> Vec<Vec<String>> {
    let lines = code_map.lines().map(|line| line.strip_prefix("//!").unwrap_or("").trim());
    lines
        .skip_while(|line| *line != "main")
        .take_while(|line| !line.starts_with("```") && !line.is_empty())
        .map(|line| line.split('·').map(|name| name.trim().to_owned()).collect())
        .collect()
}

/// The module of the top level that a file belongs to; `None` for the code map itself.
pub(crate) fn module_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    let name = rest.split('/').next()?.trim_end_matches(".rs");
    (name != "lib").then_some(name)
}

/// Every import of another module in one file.
pub(crate) fn imports(file: &SourceFile) -> Vec<Import> {
    let Some(from) = module_of(&file.path).filter(|_| !file.is_test) else { return Vec::new() };
    let mut found = Vec::new();
    let mut add = |at: usize, to: &str| {
        if !to.is_empty() && to != from {
            let place = (file.path.clone(), file.line_at(at));
            found.push(Import { from: from.to_owned(), to: to.to_owned(), place });
        }
    };
    for root in ["crate", "relaymesh"] {
        for at in words(&file.code, root) {
            let Some(after) = file.code[at + root.len()..].strip_prefix("::") else { continue };
            match after.strip_prefix('{') {
                Some(group) => heads(group).into_iter().for_each(|head| add(at, head)),
                None => add(at, identifier(after)),
            }
        }
    }
    let depth = depth_of(&file.path);
    for at in words(&file.code, "super") {
        let mut after = &file.code[at..];
        let mut steps = 0;
        while let Some(rest) = after.strip_prefix("super::") {
            after = rest;
            steps += 1;
        }
        if steps == depth && !file.code[..at].ends_with("super::") {
            add(at, identifier(after));
        }
    }
    found
}

/// How many modules deep a file's code stands: 1 for `src/a.rs` and `src/a/mod.rs`.
fn depth_of(path: &str) -> usize {
    path.matches('/').count() - usize::from(path.ends_with("/mod.rs"))
}

/// First names of the entries of a `{...}` group whose opening brace has been read.
fn heads(group: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let mut heads = Vec::new();
    let mut entry_start = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => entry_start = true,
            c if entry_start && !c.is_whitespace() => {
                heads.push(identifier(&group[at..]));
                entry_start = false;
            }
            _ => {}
        }
    }
    heads
}

/// Faults of all imports together.
pub(crate) fn check(floors: &[Vec<String>], imports: &[Import]) -> Vec<Fault> {
    let floor_of: BTreeMap<&str, usize> = floors
        .iter()
        .enumerate()
        .flat_map(|(floor, modules)| modules.iter().map(move |module| (module.as_str(), floor)))
        .collect();
    let mut faults = Vec::new();
    let mut fault = |import: &Import, rule: String| {
        faults.push(Fault { path: import.place.0.clone(), line: import.place.1, rule });
    };
    for import in imports {
        let (from, to) = (import.from.as_str(), import.to.as_str());
        match (floor_of.get(from), floor_of.get(to)) {
            (None, _) => fault(import, format!("{from} has no floor in the code map")),
            // Not a module: an item or a macro of the crate's root.
            (_, None) => {}
            (Some(above), Some(below)) if below < above => {
                fault(import, format!("imports point down: {from} must not import {to}"));
            }
            _ => {}
        }
        for (module, never, why) in NEVER {
            if module == from && never.contains(&to) {
                fault(import, format!("{from} never imports {to}: {why}"));
            }
        }
    }
    for import in imports {
        if import.from < import.to && reaches(imports, &import.to, &import.from) {
            fault(import, format!("{} and {} import each other", import.from, import.to));
        }
    }
    faults
}

/// Whether `from` imports `to`, itself or through others.
fn reaches(imports: &[Import], from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for import in imports.iter().filter(|import| import.from == module) {
            if import.to == to {
                return true;
            }
            if seen.insert(&import.to) {
                open.push(&import.to);
            }
        }
    }
    false
}

mod tests {
    use super::*;

    fn floors_of_test() -> Vec<Vec<String>> {
        floors(
            "//! Words.\n//!\n//! ```text\n//! main\n//! cli\n//! gateway · engine\n//! session · queue\n//! mail\n//! ids · limits\n//! ```\n",
        )
    }

    fn faults_of(path: &str, text: &str) -> Vec<String> {
        let imports = imports(&SourceFile::parse(path, text));
        check(&floors_of_test(), &imports).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn floors_are_read_from_the_map() {
        let floors = floors_of_test();
        assert_eq!(floors.len(), 6);
        assert_eq!(floors[2], ["gateway", "engine"]);
    }

    #[test]
    fn an_import_that_points_up_is_found_however_it_is_written() {
        let rule = "imports point down: mail must not import engine";
        for text in [
            "use crate::engine::Shard;",
            "fn a() { crate::engine::run() }",
            "use crate::{ids::A, engine::{B, C}};",
            "use super::super::engine::A;",
        ] {
            let found = faults_of("src/mail/lane.rs", text);
            assert_eq!(found, [format!("src/mail/lane.rs:1: {rule}")], "{text}");
        }
        assert_eq!(faults_of("src/mail/mod.rs", "\nuse super::engine;").len(), 1);
        assert_eq!(faults_of("src/mail/mod.rs", "use super::lane; use super::ids;").len(), 0);
    }

    #[test]
    fn what_points_down_passes() {
        assert!(faults_of("src/engine/mod.rs", "use crate::queue::A;\nuse crate::ids::B;").is_empty());
        assert!(faults_of("src/main.rs", "relaymesh::cli::run()").is_empty());
        assert!(faults_of("src/mail/tests.rs", "use crate::engine::A;").is_empty());
        assert!(faults_of("src/mail/mod.rs", "//! See crate::engine::A.").is_empty());
    }

    #[test]
    fn modules_that_never_meet_are_held_apart() {
        let found = faults_of("src/gateway/mod.rs", "use crate::queue::Brain;");
        assert!(found[0].contains("gateway never imports queue"), "{found:?}");
        let found = faults_of("src/queue/mod.rs", "use crate::gateway::Gateway;");
        assert!(found.iter().any(|fault| fault.contains("queue never imports gateway")), "{found:?}");
    }

    #[test]
    fn a_circle_on_one_floor_is_found() {
        let mut both = imports(&SourceFile::parse("src/ids.rs", "use crate::limits;"));
        assert!(check(&floors_of_test(), &both).is_empty());
        both.extend(imports(&SourceFile::parse("src/limits.rs", "\nuse crate::ids;")));
        let found: Vec<String> = check(&floors_of_test(), &both).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["src/ids.rs:1: ids and limits import each other"]);
    }

    #[test]
    fn a_module_without_a_floor_is_found() {
        let found = faults_of("src/attic.rs", "use crate::ids::A;");
        assert_eq!(found, ["src/attic.rs:1: attic has no floor in the code map"]);
    }
}
