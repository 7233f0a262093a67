use proptest::prelude::*;

use super::*;

const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Pacific/Apia",
];

fn wall(text: &str) -> Wall {
    Wall(text.parse::<Timestamp>().unwrap().as_millisecond() as u64)
}

/// What comes due after `from`, as local times.
fn due(expression: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
    let cron = Cron::parse(expression, zone).unwrap();
    let mut at = wall(from);
    let next = |at: &mut Wall| {
        *at = cron.next_after(*at).unwrap();
        cron.local(*at)
    };
    (0..count).map(|_| next(&mut at)).collect()
}

#[test]
fn work_days_at_eight_are_eight_in_summer_and_winter() {
    let expected = ["2026-10-23T08:00:00+02:00", "2026-10-26T08:00:00+01:00", "2026-10-27T08:00:00+01:00"];
    assert_eq!(due("0 8 * * mon-fri", "Europe/Berlin", "2026-10-22T12:00:00Z", 3), expected);
    let expected = ["2026-10-23T08:00:00+00:00", "2026-10-26T08:00:00+00:00"];
    assert_eq!(due("0 8 * * MON-FRI", "UTC", "2026-10-22T12:00:00Z", 2), expected);
}

#[test]
fn seconds_and_nicknames_are_understood() {
    let expected = ["2026-01-01T00:00:10+00:00", "2026-01-01T00:00:20+00:00"];
    assert_eq!(due("*/10 * * * * *", "UTC", "2026-01-01T00:00:00.500Z", 2), expected);
    assert_eq!(due("@hourly", "UTC", "2026-01-01T00:59:59.999Z", 1), ["2026-01-01T01:00:00+00:00"]);
    for name in NICKNAMES {
        assert!(Cron::parse(name, "UTC").is_ok(), "{name}");
    }
}

/// Clocks go from 02:00 to 03:00.
#[test]
fn a_time_of_day_that_is_left_out_comes_due_right_after_the_gap() {
    let expected = ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"];
    assert_eq!(due("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3), expected);
    let expected = ["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"];
    assert_eq!(due("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3), expected);
    let expected = ["2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00"];
    assert_eq!(due("30 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2), expected);
}

/// Clocks go from 03:00 back to 02:00.
#[test]
fn a_time_of_day_that_comes_twice_comes_due_once_and_every_half_hour_twice() {
    let expected = ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"];
    assert_eq!(due("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2), expected);
    let expected = [
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T02:30:00+01:00",
        "2026-10-25T03:00:00+01:00",
    ];
    assert_eq!(due("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:59:00Z", 5), expected);
}

/// Samoa went from the 29th to the 31st.
#[test]
fn a_day_that_is_left_out_stops_nothing() {
    let expected = ["2011-12-29T02:30:00-10:00", "2011-12-31T02:30:00+14:00", "2012-01-01T02:30:00+14:00"];
    assert_eq!(due("30 2 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", 3), expected);
    let cron = Cron::parse("30 2 * * *", "Pacific/Apia").unwrap();
    let latest = cron.latest_until(wall("2011-12-30T11:00:00Z")).unwrap();
    assert_eq!(cron.local(latest), "2011-12-29T02:30:00-10:00");
}

#[test]
fn the_last_one_up_to_a_time_is_found() {
    let cron = Cron::parse("0 8 * * *", "Europe/Berlin").unwrap();
    for (until, expected) in [
        ("2026-07-01T06:00:00Z", "2026-07-01T08:00:00+02:00"),
        ("2026-07-01T06:00:00.999Z", "2026-07-01T08:00:00+02:00"),
        ("2026-07-01T05:59:59.999Z", "2026-06-30T08:00:00+02:00"),
    ] {
        assert_eq!(cron.local(cron.latest_until(wall(until)).unwrap()), expected);
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_is_allowed() {
    let refused = |expression: &str| Cron::parse(expression, "UTC").unwrap_err().to_string();
    for (expression, number, at, name) in [
        ("61 * * * *", 1, 1, "minute"),
        ("0 25 * * *", 2, 3, "hour"),
        ("0  0 32 * *", 3, 6, "day of month"),
        ("0 0 * 13 *", 4, 7, "month"),
        ("0 0 * * 8", 5, 9, "day of week"),
        ("0 0 * * mon-frx", 5, 9, "day of week"),
        ("99 0 0 * * *", 1, 1, "second"),
        ("*/0 * * * *", 1, 1, "minute"),
        ("30-10 * * * *", 1, 1, "minute"),
    ] {
        match Cron::parse(expression, "UTC") {
            Err(CronError::Field { number: n, at: a, name: found, .. }) => {
                assert_eq!((n, a, found), (number, at, name), "{expression}");
            }
            other => panic!("{expression}: {other:?}"),
        }
    }
    assert!(refused("0 25 * * *").contains("0 to 23"));
    for (expression, why) in [
        ("5-3 * * * *", "the range 5-3 ends before it begins"),
        ("1,5-3/2 * * * *", "the range 5-3 ends before it begins"),
        ("* * * * fri-mon", "the range fri-mon ends before it begins"),
        ("* * * feb-1 *", "the range feb-1 ends before it begins"),
        ("* * * DEC-jan *", "the range DEC-jan ends before it begins"),
        ("*/0 * * * *", "the step of */0 is 0"),
        ("1-5/0 * * * *", "the step of 1-5/0 is 0"),
        ("5/10 * * * *", "5/10 has a step without a range"),
        ("-5 * * * *", "0 to 59"),
        ("* * * * frx-mon", "0 to 7"),
    ] {
        assert!(refused(expression).contains(why), "{expression}: {}", refused(expression));
    }
    assert_eq!(Cron::parse("* * *", "UTC").unwrap_err(), CronError::Fields(3));
    assert_eq!(Cron::parse("", "UTC").unwrap_err(), CronError::Fields(0));
    assert_eq!(Cron::parse("0 0 1 1 * 2030 1", "UTC").unwrap_err(), CronError::Fields(7));
    assert!(refused("@reboot").contains("@daily"));
    assert_eq!(Cron::parse("0 0 30 2 *", "UTC").unwrap_err(), CronError::Never);
    assert_eq!(Cron::parse("0 8 * * ü", "UTC").unwrap_err(), CronError::Character { at: 9, found: 'ü' });
    assert!(matches!(Cron::parse(&"1,".repeat(200), "UTC"), Err(CronError::Long(400))));
    assert!(Cron::parse("@daily", "Mars/Olympus").unwrap_err().to_string().contains("Europe/Berlin"));
    assert!(Cron::parse("@daily", "").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_panics(text in ".{0,30}", cronlike in "[0-9*,/@LW#a-c -]{0,20}") {
        for text in [&text, &cronlike] {
            if let Ok(cron) = Cron::parse(text, "Europe/Berlin") {
                let next = cron.next_after(Wall(1_700_000_000_000));
                prop_assert!(next.is_none_or(|next| next.0 > 1_700_000_000_000));
            }
        }
    }

    /// Going forward and looking back agree, across every change of the clocks.
    #[test]
    fn looking_back_finds_what_came_due_going_forward(
        from in 1_200_000_000u64..2_000_000_000, zone in 0..ZONES.len(),
        minute in prop_oneof!["[0-5]?[0-9]", Just("*/20".to_owned()), Just("0,30".to_owned())],
        hour in prop_oneof!["[0-3]", Just("*".to_owned()), Just("1-3".to_owned())],
        day in prop_oneof![Just("* * *"), Just("28-31 * *"), Just("* 3,10,11 sun")],
    ) {
        let cron = Cron::parse(&format!("{minute} {hour} {day}"), ZONES[zone]).unwrap();
        let mut last = cron.next_after(Wall(from * 1000)).unwrap();
        for _ in 0..300 {
            let next = cron.next_after(last).unwrap();
            prop_assert!(next > last);
            prop_assert_eq!(cron.latest_until(next), Some(next));
            let before = cron.latest_until(Wall(next.0 - 1));
            prop_assert_eq!(before, Some(last), "{} {} in {}", minute, hour, ZONES[zone]);
            last = next;
        }
    }

    #[test]
    fn no_time_panics(wall: u64) {
        let cron = Cron::parse("30 2 * * *", "Europe/Berlin").unwrap();
        let _ = (cron.next_after(Wall(wall)), cron.latest_until(Wall(wall)), cron.local(Wall(wall)));
    }
}
