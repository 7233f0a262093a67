use super::*;

const AGREED: u32 = 1000;
const MAX: u32 = 3_600_000;

fn steps(n: u8) -> Stretch {
    (0..n).fold(Stretch::NONE, |stretch, _| stretch.longer())
}

#[test]
fn two_steps_double_and_bounds_hold() {
    let two_steps = FACTORS_PERMILLE.iter().zip(&FACTORS_PERMILLE[2..]);
    assert!(two_steps.clone().all(|(&one, &next)| next.abs_diff(2 * one) <= 2), "{FACTORS_PERMILLE:?}");
    assert!((0..16).map(|n| steps(n).permille()).eq(FACTORS_PERMILLE));
    assert_eq!((steps(20), Stretch::NONE.shorter()), (Stretch::MAX, Stretch::NONE));
    assert_eq!(steps(2).of(30_000, MAX), 60_000);
    assert_eq!(Stretch::MAX.of(30_000, MAX), MAX);
    assert_eq!(Stretch::MAX.of(u32::MAX, u32::MAX), u32::MAX);
    assert_eq!(Stretch::MAX.of(1000, 10), 1000, "never shorter than agreed");
}

#[test]
fn every_kth_ping_is_answered() {
    for k in 1..=16_u8 {
        let mut pace = Pace::new();
        pace.answer_every(k);
        assert_eq!(pace.pong_every(), k);
        for ping in 1..=100_u32 {
            assert_eq!(pace.ping(), ping % u32::from(k) == 0, "PING {ping} of {k}");
        }
    }
    let mut pace = Pace::new();
    assert!(pace.ping() && pace.ping(), "each, unless something else was agreed on");
    pace.answer_every(0);
    assert!(pace.ping() && pace.ping());
}

#[test]
fn a_longer_interval_is_said_once_and_holds_at_once() {
    let mut pace = Pace::new();
    assert_eq!(pace.ask(Stretch::NONE, AGREED, MAX), None);
    assert_eq!(pace.ask(steps(5), AGREED, MAX), Some(5657));
    assert_eq!(pace.interval_ms(AGREED, MAX), 5657);
    assert_eq!(pace.ask(steps(5), AGREED, MAX), None);
    assert!(!pace.follows(0, AGREED, MAX), "there is nothing to wait for");
    assert_eq!(pace.ask(steps(6), AGREED, MAX), Some(8000));
    assert_eq!(pace.ask(Stretch::MAX, AGREED, 9000), Some(9000));
    assert_eq!(pace.interval_ms(AGREED, 9000), 9000);
}

#[test]
fn a_shorter_interval_comes_in_steps_and_holds_once_it_is_followed() {
    let mut pace = Pace::new();
    pace.begin(steps(6));
    assert_eq!(pace.ask(Stretch::NONE, AGREED, MAX), Some(4000), "by half");
    assert_eq!(pace.interval_ms(AGREED, MAX), 8000, "the longer of both");
    assert_eq!(pace.ask(Stretch::NONE, AGREED, MAX), None, "the next once this is followed");
    assert!(!pace.follows(8000, AGREED, MAX));
    assert!(!pace.follows(6001, AGREED, MAX));
    assert_eq!(pace.interval_ms(AGREED, MAX), 8000);
    assert!(pace.follows(4030, AGREED, MAX));
    assert_eq!(pace.interval_ms(AGREED, MAX), 4000);
    assert_eq!(pace.ask(steps(3), AGREED, MAX), Some(2828));
    assert!(pace.follows(2828, AGREED, MAX));
    assert_eq!(pace.ask(Stretch::NONE, AGREED, MAX), Some(1414));
    assert!(pace.follows(1500, AGREED, MAX));
    assert_eq!(pace.ask(Stretch::NONE, AGREED, MAX), Some(1000));
    assert!(pace.follows(1000, AGREED, MAX));
    assert_eq!(pace, Pace::new());
}

#[test]
fn a_change_of_mind_before_it_is_followed_loses_nothing() {
    let mut pace = Pace::new();
    pace.begin(steps(8));
    assert_eq!(pace.ask(steps(6), AGREED, MAX), Some(8000));
    assert_eq!(pace.ask(steps(7), AGREED, MAX), Some(11_314), "longer again, at once");
    assert_eq!(pace.interval_ms(AGREED, MAX), 16_000, "it may go by the first still");
    assert_eq!(pace.ask(steps(9), AGREED, MAX), Some(22_627));
    assert_eq!(pace.interval_ms(AGREED, MAX), 22_627);
}

#[test]
fn what_the_longest_interval_hides_is_not_said() {
    let mut pace = Pace::new();
    assert_eq!(pace.ask(steps(9), AGREED, 4000), Some(4000));
    assert_eq!(pace.ask(steps(12), AGREED, 4000), None);
    let said: Vec<u32> = (0..20)
        .filter_map(|_| {
            let said = pace.ask(Stretch::NONE, AGREED, 4000);
            pace.follows(0, AGREED, 4000);
            said
        })
        .collect();
    assert_eq!(said, [2000, 1000]);
}

/// Whatever is wanted when, a client that follows what it reads, late or at once, is never silent for three of the
/// intervals by which it is measured.
#[test]
fn nobody_who_follows_is_cut_off() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..2000 {
        let mut pace = Pace::new();
        pace.begin(steps(random.u8(0..16)));
        let mut interval = u64::from(pace.interval_ms(AGREED, MAX));
        // What was said and not read yet.
        let mut unread: Option<u32> = None;
        for _ in 0..200 {
            let silence_max = 3 * u64::from(pace.interval_ms(AGREED, MAX));
            assert!(interval < silence_max, "silent for {interval} of {silence_max}");
            // Other frames make the gap before a PING shorter.
            let gap = if random.bool() { interval } else { random.u64(0..=interval) };
            pace.follows(gap, AGREED, MAX);
            if unread.is_none() || random.bool() {
                interval = unread.take().map_or(interval, u64::from);
            }
            if unread.is_none() {
                unread = pace.ask(steps(random.u8(0..16)), AGREED, MAX);
            }
        }
    }
}
