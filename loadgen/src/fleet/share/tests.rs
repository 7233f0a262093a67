use super::*;

/// Connections 200 to 399 of 600, a part of a run.
fn middle_share() -> Share {
    Share { first: 200, wanted: 200, total: 600, sources: Sources::draw() }
}

#[test]
fn moments_are_spread_over_the_interval_however_the_sessions_came() {
    let interval = Duration::from_secs(60);
    for (share, apart) in [(Share::whole(600), 100), (middle_share(), 300)] {
        for now in [0, 1, 59_999, 60_000, 61_234, 1_000_000] {
            let mut at: Vec<u64> =
                (0..share.wanted).map(|number| moment(Time(now), interval, number, &share).0).collect();
            assert!(at.iter().all(|&at| at > now || now == 0), "after {now}: {at:?}");
            assert!(at.iter().all(|&at| at <= now + 60_000), "within an interval after {now}: {at:?}");
            at.sort_unstable();
            assert!(
                at.windows(2).all(|pair| pair[1] - pair[0] == apart),
                "every {apart} ms after {now}: {at:?}"
            );
        }
    }
}

#[test]
fn shares_have_different_moments() {
    let interval = Duration::from_secs(60);
    let share = |nth: usize| Share { first: nth * 200, wanted: 200, total: 600, sources: Sources::draw() };
    let mut at: Vec<u64> = (0..3)
        .flat_map(|nth| (0..200).map(move |number| moment(Time(0), interval, number, &share(nth)).0))
        .collect();
    at.sort_unstable();
    at.dedup();
    assert_eq!(at.len(), 600);
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
