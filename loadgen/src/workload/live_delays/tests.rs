use super::*;

#[test]
fn every_delay_falls_into_a_bucket_that_says_it_within_a_sixty_fourth() {
    for us in (0..5_000).chain([100_000, 1_000_000, 59_999_999, 600_000_000]) {
        let told = highest_us(bucket(us));
        assert!(told >= us && told <= us + us / 64, "{us} is told as {told}");
    }
    assert_eq!(bucket(u64::MAX), BUCKETS - 1);
}

#[test]
fn quantiles_are_of_what_came_since() {
    let delays = LiveDelays::default();
    assert_eq!(delays.take([0.5]), None);
    (0..99).for_each(|_| delays.record(5));
    delays.record(1_000);
    assert_eq!(delays.take([0.5, 0.99, 1.0]), Some([5, 5, 1_007]));
    assert_eq!(delays.take([0.5]), None);
}
