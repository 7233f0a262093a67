//! `relaymesh doctor` through the binary, and what happens to a command whose reader leaves.

use std::process::{Command, Stdio};

fn relaymesh(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relaymesh"));
    command.args(arguments);
    command
}

#[test]
fn one_session_fits_anywhere() {
    let output = relaymesh(&["doctor", "--connections", "1"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("RLIMIT_NOFILE") && text.contains("This machine will hold 1 sessions."), "{text}");
}

#[test]
fn a_hundred_million_sessions_fit_on_no_machine_of_today() {
    let output = relaymesh(&["doctor", "--connections", "100000000", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["holds"], false);
    let findings = told["findings"].as_array().unwrap();
    let descriptors = findings.iter().find(|finding| finding["name"] == "RLIMIT_NOFILE").unwrap();
    assert_eq!(descriptors["ok"], false, "{descriptors}");
    assert!(descriptors["fix"].as_str().unwrap().contains("LimitNOFILE="), "{descriptors}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("RLIMIT_NOFILE"), "{error}");
}

#[test]
fn the_settings_are_written_to_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("relaymesh.conf");
    let written = relaymesh(&["doctor", "--connections", "50000000", "--write"]).arg(&file).output().unwrap();
    assert_eq!(written.status.code(), Some(1), "so many do not fit, the file is there all the same");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("50000000"), "{text}");
    let nowhere = relaymesh(&["doctor", "--write", "/nonexistent/file"]).output().unwrap();
    assert!(String::from_utf8(nowhere.stderr).unwrap().contains("/nonexistent/file could not be written"));
}

#[test]
fn a_reader_that_leaves_ends_a_command_quietly() {
    let mut child = relaymesh(&["serve", "--print-config"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success());
}
