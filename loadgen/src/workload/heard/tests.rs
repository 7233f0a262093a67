use super::*;

#[test]
fn deliveries_are_counted_for_each_broadcast_over_all_threads() {
    let (mut one, mut two) = (Heard::new(), Heard::new());
    for (heard, deliveries) in
        [(&mut one, [(1000, 1010), (1000, 1030)]), (&mut two, [(1000, 1100), (5000, 5002)])]
    {
        deliveries.into_iter().for_each(|(sent_us, now_us)| heard.record(sent_us, now_us));
    }
    one.add(two);
    let of = |sent_us| {
        let Tally { deliveries, first_us, last_us } = one.tallies[&sent_us];
        (deliveries, first_us, last_us)
    };
    assert_eq!((of(1000), of(5000)), ((3, 10, 100), (1, 2, 2)));
    assert_eq!(one.delays.count(), 4);
}

#[test]
fn the_time_of_broadcasts_under_way_at_once_counts_once() {
    let mut heard = Heard::new();
    // 10 to 110, 60 to 160 and 1010 to 1020 us.
    for (sent_us, first_us, last_us) in [(0, 10, 110), (50, 10, 110), (1000, 10, 20)] {
        heard.record(sent_us, sent_us + first_us);
        heard.record(sent_us, sent_us + last_us);
    }
    assert_eq!(heard.busy_us(), 150 + 10);
}

#[test]
fn broadcasts_beyond_those_told_apart_take_no_memory() {
    let mut heard = Heard::new();
    (0..2 * BROADCASTS_MAX as u64).for_each(|sent_us| heard.record(sent_us, sent_us + 1));
    assert_eq!((heard.tallies.len(), heard.delays.count()), (BROADCASTS_MAX, 2 * BROADCASTS_MAX as u64));
}
