use std::time::UNIX_EPOCH;

use super::*;

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
fn a_time_that_is_none_is_told_from_one_that_is_written_otherwise() {
    for (text, said) in [
        ("2030-02-30T00:00:00Z", "no day 2030-02-30"),
        ("2030-02-30 18:00", "no day 2030-02-30"),
        ("2030-13-01T00:00:00+02:00", "no day 2030-13-01"),
        ("9999-12-31T23:59:59Z", "9999-12-30T22:00:00Z"),
        ("2030-02-03T25:00:00Z", "24 hours"),
        ("2030-02-03T18:61", "24 hours"),
        ("soon", "RFC 3339"),
        ("2030-02-03 at noon", "RFC 3339"),
        ("äöüäöü-ä-ö", "RFC 3339"),
        ("", "RFC 3339"),
    ] {
        let error = parse_time(text).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn what_would_be_no_time_at_all_is_refused() {
    for (text, expected) in [("1ms", Some(1)), ("0s", Some(0)), ("500us", None), ("-5s", None), ("5", None)] {
        assert_eq!(parse_duration(text).ok().map(|time| time.as_millis()), expected, "{text}");
    }
    for (text, expected) in [("1ms", Some(1)), ("0s", None), ("500us", None), ("-5s", None)] {
        assert_eq!(parse_ttl(text).ok().map(|time| time.as_millis()), expected, "{text}");
    }
    for (text, expected) in
        [("100ms", Some(100)), ("99ms", None), ("0s", None), ("500us", None), ("13h", None)]
    {
        assert_eq!(parse_lease(text).ok().map(|time| time.as_millis()), expected, "{text}");
    }
    assert!(parse_duration("500us").unwrap_err().contains("1ms"));
    assert!(parse_ttl("0s").unwrap_err().contains("leave the option out"));
    assert!(parse_lease("1ms").unwrap_err().contains("100ms to 12h"));
}

#[test]
fn an_attribute_has_a_name() {
    assert_eq!(parse_attribute("k=v=w").unwrap(), ("k".to_owned(), "v=w".to_owned()));
    assert_eq!(parse_attribute("k=").unwrap(), ("k".to_owned(), String::new()));
    assert!(parse_attribute("=v").is_err() && parse_attribute("k").is_err());
}

#[test]
fn a_name_that_is_given_twice_is_named() {
    assert!(refuse_repeated("setting", ["a", "b"].into_iter()).is_ok());
    let error = refuse_repeated("setting", ["a", "b", "a"].into_iter()).unwrap_err().to_string();
    assert!(error.contains("setting \"a\""), "{error}");
}
