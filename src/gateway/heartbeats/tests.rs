use super::*;

#[test]
fn intervals_grow_with_the_crowd_and_shrink_when_it_has_left() {
    let mut load = HeartbeatLoad::new(100);
    for _ in 0..100 {
        load.joined(1000);
    }
    assert_eq!(load.stretch().permille(), 1000, "as many as there is room for");
    load.joined(1000);
    assert_eq!(load.stretch().permille(), 1414);
    for _ in 101..400 {
        load.joined(1000);
    }
    assert_eq!(load.stretch().permille(), 4000);
    assert_eq!(load.agreed, 400 * MICRO);
    for left in (0..400_u64).rev() {
        load.left(1000);
        let permille = load.stretch().permille();
        assert!(left * 1000 <= 100 * permille, "{left} sessions and {permille}");
    }
    assert_eq!((load.agreed, load.stretch().permille()), (0, 1000));
}

#[test]
fn sessions_that_come_and_go_change_nothing() {
    let mut load = HeartbeatLoad::new(100);
    let mut changes = 0;
    for _ in 0..101 {
        load.joined(1000);
    }
    let stretched = load.stretch();
    for _ in 0..100 {
        (0..15).for_each(|_| load.left(1000));
        changes += u32::from(load.stretch() != stretched);
        (0..15).for_each(|_| load.joined(1000));
        changes += u32::from(load.stretch() != stretched);
    }
    assert_eq!(changes, 0);
    (0..21).for_each(|_| load.left(1000));
    assert_eq!(load.stretch(), Stretch::NONE, "four fifths of the room");
}

#[test]
fn what_counts_is_the_interval_not_the_session() {
    let mut load = HeartbeatLoad::new(20_000);
    for _ in 0..1_000_000 {
        load.joined(60_000);
    }
    assert_eq!(load.stretch(), Stretch::NONE, "16,667 a second");
    for _ in 0..10_000 {
        load.joined(500);
    }
    assert_eq!(load.stretch().permille(), 2000, "36,667 a second");
}

#[test]
fn there_is_no_overflow() {
    let mut load = HeartbeatLoad::new(u32::MAX);
    load.joined(0);
    load.left(0);
    let mut load = HeartbeatLoad::new(0);
    (0..1000).for_each(|_| load.joined(1));
    assert_eq!(load.stretch(), Stretch::MAX);
}
