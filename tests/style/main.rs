//! The style check: what the code map forbids is not in the source.
//!
//! Words and layout only, no types: each rule is a function over a file's text with a test that it can fail.

mod floors;
mod idle;
mod rules;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rules::Fault;
use source::SourceFile;

/// Every Rust file below `directory`, with what its tests consist of marked as such.
fn source_files(directory: &str) -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(&root.join(directory), &mut paths);
    paths.sort();
    let mut files: Vec<SourceFile> = paths
        .iter()
        .map(|path| {
            let name =
                path.strip_prefix(root).expect("collected below the root").to_string_lossy().into_owned();
            SourceFile::parse(&name, &fs::read_to_string(path).expect("a source file is UTF-8"))
        })
        .collect();
    let test_modules: BTreeSet<String> = files
        .iter()
        .flat_map(|file| {
            let parent = match file.path.rsplit_once('/') {
                Some((directory, "mod.rs" | "lib.rs" | "main.rs")) => directory.to_owned(),
                _ => file.path.trim_end_matches(".rs").to_owned(),
            };
            file.test_modules().into_iter().map(move |name| format!("{parent}/{name}"))
        })
        .collect();
    for file in &mut files {
        let is_of = |module: &String| {
            file.path.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        file.is_test |= test_modules.iter().any(is_of);
    }
    files
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the source stands beside the tests") {
        let path = entry.expect("a directory can be read").path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

fn report(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("{fault}\n")).collect()
}

#[test]
fn the_source_keeps_the_rules() {
    let mut files = source_files("src");
    files.extend(source_files("loadgen/src"));
    assert!(files.len() > 20, "the walk found the source");
    let faults: Vec<Fault> =
        rules::RULES.iter().flat_map(|rule| files.iter().flat_map(rule).collect::<Vec<_>>()).collect();
    assert!(faults.is_empty(), "\n{}", report(&faults));
}

#[test]
fn imports_point_down() {
    let files = source_files("src");
    let map = files.iter().find(|file| file.path == "src/lib.rs").expect("the code map");
    let floors = floors::floors(&map.text);
    assert!(floors.len() >= 5, "the code map holds the table of floors, from `main` down");
    let placed: BTreeSet<&str> = floors.iter().flatten().map(String::as_str).collect();
    let present: BTreeSet<&str> = files.iter().filter_map(|file| floors::module_of(&file.path)).collect();
    assert_eq!(
        present, placed,
        "every module has its floor in the code map, and every floor's modules exist"
    );
    let imports: Vec<_> = files.iter().flat_map(floors::imports).collect();
    let faults = floors::check(&floors, &imports);
    assert!(faults.is_empty(), "\n{}", report(&faults));
}
