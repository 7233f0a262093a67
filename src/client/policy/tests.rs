use super::*;

fn delays(policy: &mut Policy, count: usize) -> Vec<Duration> {
    (0..count)
        .map(|_| match policy.lost(Time(0), None, 0) {
            Verdict::Retry { after, .. } => after,
            Verdict::Final => panic!("a lost connection is not final"),
        })
        .collect()
}

#[test]
fn delays_double_up_to_the_longest_and_are_lengthened_by_at_most_three_tenths() {
    for seed in 0..50 {
        let mut policy = Policy::new(Backoff::default(), seed);
        let drawn = delays(&mut policy, 12);
        for (failures, after) in drawn.iter().enumerate() {
            let base = Duration::from_millis(500 << failures.min(20)).min(RECONNECT_MAX);
            assert!(*after >= base && *after <= base.mul_f64(1.3), "failure {failures}: {after:?}");
        }
    }
}

#[test]
fn full_jitter_spreads_over_the_whole_delay() {
    let mut shortest = Duration::MAX;
    let mut longest = Duration::ZERO;
    for seed in 0..500 {
        let mut policy = Policy::new(Backoff { jitter: Jitter::Full, ..Backoff::default() }, seed);
        let after = delays(&mut policy, 1)[0];
        shortest = shortest.min(after);
        longest = longest.max(after);
    }
    assert!(shortest < RECONNECT_INITIAL / 10 && longest > RECONNECT_INITIAL * 9 / 10);
    assert!(longest <= RECONNECT_INITIAL);
}

#[test]
fn the_servers_slot_raises_a_delay_and_never_shortens_it() {
    let mut policy = Policy::new(Backoff::default(), 1);
    assert!(matches!(
        policy.lost(Time(10), Some(Code::Overloaded), 70_000),
        Verdict::Retry { at: Time(70_010), .. }
    ));
    let Verdict::Retry { after, .. } = policy.lost(Time(0), Some(Code::Draining), 1) else { panic!() };
    assert!(after >= RECONNECT_INITIAL * 2);
}

#[test]
fn only_a_connection_that_stayed_welcome_starts_the_delays_anew() {
    let mut policy = Policy::new(Backoff::default(), 1);
    let _ = delays(&mut policy, 4);
    policy.welcomed(Time(0));
    assert!(matches!(policy.lost(Time(9_999), None, 0), Verdict::Retry { failures: 5, .. }));
    policy.welcomed(Time(20_000));
    assert!(matches!(policy.lost(Time(30_000), None, 0), Verdict::Retry { failures: 1, .. }));
    assert!(matches!(policy.lost(Time(90_000), None, 0), Verdict::Retry { failures: 2, .. }));
}

#[test]
fn four_codes_are_final() {
    for code in [Code::TakenOver, Code::Unauthenticated, Code::UnsupportedVersion, Code::Invalid] {
        assert_eq!(Policy::new(Backoff::default(), 1).lost(Time(0), Some(code), 500), Verdict::Final);
    }
    for code in [Code::Overloaded, Code::Draining, Code::Internal, Code::HeartbeatMissed] {
        assert_ne!(Policy::new(Backoff::default(), 1).lost(Time(0), Some(code), 0), Verdict::Final);
    }
}

#[test]
fn one_seed_gives_one_sequence() {
    let draw = |seed| delays(&mut Policy::new(Backoff::default(), seed), 20);
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}
