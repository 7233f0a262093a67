use std::io::Write;
use std::time::UNIX_EPOCH;

use super::*;

#[test]
fn a_payload_is_the_argument_or_a_files_content() {
    assert_eq!(read_payload(Some("hello")).unwrap(), b"hello");
    assert_eq!(read_payload(Some("")).unwrap(), b"");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[0, 255, b'\n']).unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(read_payload(Some(&format!("@{path}"))).unwrap(), [0, 255, b'\n']);
    let missing = read_payload(Some("@/nowhere/to/be/found")).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/to/be/found"));
}

#[test]
fn a_payload_that_no_server_takes_is_refused_by_name() {
    let error = read_at_most(std::io::repeat(1), "stdin").unwrap_err().to_string();
    assert!(error.contains("stdin") && error.contains("16777216"), "{error}");
}

#[test]
fn times_are_rfc_3339_or_local() {
    let unix_s = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(unix_s(parse_time("1970-01-02T00:00:00Z").unwrap()), 86_400);
    assert_eq!(unix_s(parse_time("1970-01-02T02:00:00+02:00").unwrap()), 86_400);
    let local = "2027-01-31T18:00:00".parse::<DateTime>().unwrap().to_zoned(TimeZone::system()).unwrap();
    assert_eq!(unix_s(parse_time("2027-01-31 18:00").unwrap()), local.timestamp().as_second() as u64);
    assert!(parse_time("soon").is_err());
}

#[test]
fn an_attribute_has_a_name() {
    assert_eq!(parse_attribute("k=v=w").unwrap(), ("k".to_owned(), "v=w".to_owned()));
    assert_eq!(parse_attribute("k=").unwrap(), ("k".to_owned(), String::new()));
    assert!(parse_attribute("=v").is_err() && parse_attribute("k").is_err());
}
