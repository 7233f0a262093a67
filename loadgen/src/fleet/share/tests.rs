use super::*;

#[test]
fn moments_are_spread_over_the_interval_however_the_sessions_came() {
    let interval = Duration::from_secs(60);
    for now in [0, 1, 59_999, 60_000, 61_234, 1_000_000] {
        let mut at: Vec<u64> = (0..600).map(|number| moment(Time(now), interval, number, 600).0).collect();
        assert!(at.iter().all(|&at| at > now || now == 0), "after {now}: {at:?}");
        assert!(at.iter().all(|&at| at <= now + 60_000), "within an interval after {now}: {at:?}");
        at.sort_unstable();
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] == 100), "one every 100 ms after {now}: {at:?}");
    }
}

#[test]
fn the_shares_of_a_ramp_add_up() {
    let sources = Sources::draw();
    let shares: Vec<Share> = [(0, 400), (400, 400), (800, 200)]
        .map(|(first, wanted)| Share { first, wanted, total: 1000, sources })
        .into();
    let open = |whole| shares.iter().map(|share| share.of(whole)).sum::<usize>();
    assert_eq!(open(1000), 1000);
    assert!((500..=502).contains(&open(500)));
    assert_eq!(open(0), 0);
}
