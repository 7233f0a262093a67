use super::*;

#[test]
fn failed_attempts_are_counted_a_client() {
    let mut part = Part::new();
    assert_eq!(part.attempts(), (0.0, 0, 0));
    part.count_client(0, 50);
    part.count_client(2, 49);
    let mut other = Part::new();
    other.count_client(7, 1);
    part.add(other);
    let (mean, p99, most) = part.attempts();
    assert!((mean - 1.05).abs() < 1e-9, "{mean}");
    assert_eq!((p99, most), (2, 7));
    part.count_client(usize::MAX, 1);
    assert_eq!(part.attempts().2, ATTEMPTS_MAX);
}
