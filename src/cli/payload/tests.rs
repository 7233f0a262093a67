use std::io::Write;

use super::*;

#[test]
fn a_payload_is_the_argument_or_a_files_content() {
    assert_eq!(read_payload(Some("hello"), Room::MESSAGE).unwrap(), b"hello");
    assert_eq!(read_payload(Some(""), Room::MESSAGE).unwrap(), b"");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[0, 255, b'\n']).unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(read_payload(Some(&format!("@{path}")), Room::MESSAGE).unwrap(), [0, 255, b'\n']);
    let missing = read_payload(Some("@/nowhere/to/be/found"), Room::MESSAGE).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/to/be/found"));
}

#[test]
fn a_payload_that_no_server_takes_is_refused_by_name() {
    let error = Room::MESSAGE.read(std::io::repeat(1), "stdin").unwrap_err().to_string();
    assert!(error.contains("stdin") && error.contains("16777216"), "{error}");
}
