use super::*;

const TOTAL: u64 = 100_000;

/// All arrivals: when, and whose.
fn arrivals(spread: Spread) -> Vec<(u64, usize)> {
    let mut arrivals = Arrivals::new(100, spread, 10_000, TOTAL);
    std::iter::from_fn(|| arrivals.next_by(u64::MAX)).collect()
}

fn count_of(arrivals: &[(u64, usize)], tenant: usize) -> usize {
    arrivals.iter().filter(|arrival| arrival.1 == tenant).count()
}

#[test]
fn both_spreads_have_the_same_arrivals_at_the_rate() {
    let (even, hot) = (arrivals(Spread::Even), arrivals(Spread::Hot { times: 1000, burst: 1 }));
    assert_eq!(even.len() as u64, TOTAL);
    let times = |all: &[(u64, usize)]| all.iter().map(|arrival| arrival.0).collect::<Vec<_>>();
    assert_eq!(times(&even), times(&hot));
    let last_s = even[even.len() - 1].0 as f64 / 1e6;
    assert!((9.8..10.2).contains(&last_s), "{last_s}");
}

#[test]
fn the_hot_one_has_so_many_times_more_and_nobody_else_differs() {
    let even = arrivals(Spread::Even);
    let hot = arrivals(Spread::Hot { times: 1000, burst: 1 });
    for tenant in [0, 1, 50, 99] {
        assert!((850..1150).contains(&count_of(&even, tenant)), "tenant {tenant}");
    }
    let expected = TOTAL as usize * 1000 / 1099;
    assert!(count_of(&hot, 0).abs_diff(expected) < 500);
    for tenant in [1, 50, 99] {
        assert!((50..135).contains(&count_of(&hot, tenant)), "tenant {tenant}: {}", count_of(&hot, tenant));
    }
    assert_eq!(count_of(&hot, 100), 0);
}

#[test]
fn nothing_is_due_before_its_time() {
    let mut arrivals = Arrivals::new(2, Spread::Even, 1000, 3);
    let first_us = arrivals.next_us().expect("three of them");
    assert_eq!(arrivals.next_by(first_us - 1), None);
    assert_eq!(arrivals.next_by(first_us).map(|arrival| arrival.0), Some(first_us));
}

#[test]
fn bursts_fall_due_together_and_change_no_rate() {
    let all = arrivals(Spread::Hot { times: 1000, burst: 500 });
    let last_s = all[all.len() - 1].0 as f64 / 1e6;
    assert!((8.0..12.0).contains(&last_s), "{last_s}");
    let hot: Vec<u64> = all.iter().filter(|arrival| arrival.1 == 0).map(|arrival| arrival.0).collect();
    assert!(hot.len().abs_diff(TOTAL as usize * 1000 / 1099) < 5_000, "{}", hot.len());
    let whole = &hot[..hot.len() / 500 * 500];
    assert!(whole.chunks(500).all(|burst| burst[0] == burst[499]), "each at one moment");
    assert!(all.iter().filter(|arrival| arrival.1 == 7).count() > 50, "the others go on");
}
