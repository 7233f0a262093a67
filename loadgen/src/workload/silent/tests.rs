use anyhow::anyhow;

use super::*;
use crate::source::Sources;

const SECOND: u64 = 1_000_000;

fn shares(total: usize, each: usize) -> impl Iterator<Item = Share> {
    let sources = Sources::draw();
    (0..total).step_by(each).map(move |first| Share {
        first,
        wanted: each.min(total - first),
        total,
        sources,
    })
}

/// The only session of its run, which falls silent.
fn one() -> Silents {
    Silents::new(Share::whole(1), 1)
}

fn ended(silents: &mut Silents, at_us: u64) -> bool {
    silents.ended(0, at_us, &anyhow!("the server closed it").into())
}

#[test]
fn those_that_fall_silent_are_spread_over_all_shares_and_as_many_as_asked_for() {
    for (total, wanted) in [(1000, 0), (1000, 1), (1000, 7), (1000, 333), (1000, 1000)] {
        let mut chosen = Vec::new();
        for share in shares(total, 60) {
            let mut silents = Silents::new(share, wanted);
            silents.begin();
            let of_share: Vec<usize> =
                (0..share.wanted).filter(|&number| silents.is_silent(number)).collect();
            let places: Vec<usize> = of_share.iter().filter_map(|&number| silents.place(number)).collect();
            assert!(places.iter().copied().eq(0..silents.places.len()), "a place each: {places:?}");
            chosen.extend(of_share.iter().map(|number| share.first + number));
        }
        assert_eq!(chosen.len(), wanted);
        let apart = total / wanted.max(1);
        assert!(chosen.windows(2).all(|two| (apart..=apart + 1).contains(&(two[1] - two[0]))), "{chosen:?}");
    }
}

#[test]
fn lateness_counts_from_the_last_heartbeat_and_the_interval_that_held_then() {
    let mut silents = one();
    silents.said_hello(0, 0);
    assert!(silents.welcomed(0, SECOND / 2, Duration::from_secs(10)));
    silents.pinged(0, 7 * SECOND, Duration::from_secs(10));
    silents.begin();
    assert!(ended(&mut silents, 40 * SECOND));
    let [p50, _, most] = silents.detection.percentiles().unwrap();
    assert!((p50 - 10.0).abs() < 1e-9 && p50.to_bits() == most.to_bits(), "33 s instead of 30: {p50}");
    assert_eq!((silents.detection.early, silents.detection.deadline), (0, Duration::from_secs(30)));
    assert_eq!(silents.into_detection().undetected, 0);
}

#[test]
fn a_session_that_was_asked_for_another_interval_is_measured_by_the_longer() {
    for (asked, deadline_s) in [(20, 60), (5, 30)] {
        let mut silents = one();
        silents.pinged(0, 0, Duration::from_secs(10));
        assert!(silents.welcomed(0, 0, Duration::from_secs(10)));
        silents.ponged(0, Duration::from_secs(asked));
        silents.begin();
        assert!(ended(&mut silents, deadline_s * SECOND));
        assert_eq!(silents.detection.deadline, Duration::from_secs(deadline_s));
        assert_eq!((silents.detection.early, silents.detection.late_percent.as_slice()), (0, &[0.0][..]));
    }
}

#[test]
fn who_is_closed_before_the_deadline_or_never_makes_the_run_a_failure() {
    let mut early = one();
    early.welcomed(0, 0, Duration::from_secs(10));
    early.begin();
    assert!(ended(&mut early, 29 * SECOND));
    assert_eq!((early.detection.early, early.detection.late_percent.len()), (1, 0));

    // WELCOME was read late: the server counts from when it was sent, which HELLO's sending bounds.
    let mut unclear = one();
    unclear.said_hello(0, 0);
    unclear.welcomed(0, 2 * SECOND, Duration::from_secs(10));
    unclear.begin();
    assert!(ended(&mut unclear, 30 * SECOND));
    assert_eq!(unclear.detection.early, 0);

    let mut never = one();
    never.welcomed(0, 0, Duration::from_secs(10));
    never.begin();
    let mut all = early.into_detection();
    all.add(never.into_detection());
    assert_eq!((all.early, all.undetected), (1, 1));
}

#[test]
fn what_ends_for_other_reasons_is_not_detected() {
    let mut silents = one();
    silents.welcomed(0, 0, Duration::from_secs(10));
    assert!(!ended(&mut silents, 5 * SECOND), "it was not silent yet");
    silents.begin();
    let drained = Ending { code: Some(Code::Draining), ..anyhow!("told to leave").into() };
    assert!(!silents.ended(0, 31 * SECOND, &drained));
    let missed = Ending { code: Some(Code::HeartbeatMissed), ..anyhow!("nothing was heard").into() };
    assert!(silents.ended(0, 31 * SECOND, &missed));
    assert!(!silents.ended(0, 31 * SECOND, &missed), "once");
}

#[test]
fn a_hold_that_is_too_short_names_the_one_that_is_needed() {
    let minute = Duration::from_secs(60);
    assert!(check_hold(Duration::from_secs(198), minute).is_ok());
    let error = check_hold(Duration::from_secs(197), minute).unwrap_err().to_string();
    assert!(error.ends_with("--hold 3m 18s"), "{error}");
}
