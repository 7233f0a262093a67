use super::*;

fn entry(name: u8, id: u64, expires: u64) -> Entry {
    Entry { digest: [name; 16], id, expires: Time(expires), position: Position(id), charge: 3 }
}

#[test]
fn an_id_is_known_until_it_expires_and_its_place_is_free_once_those_before_it_have() {
    let mut ids = Ids::default();
    ids.insert(entry(1, 1, 100));
    // As if the window had been shortened.
    ids.insert(entry(2, 2, 50));
    assert_eq!(ids.known(&[1; 16], Time(99)), Some(1));
    assert_eq!(ids.known(&[2; 16], Time(49)), Some(2));
    assert_eq!(ids.known(&[2; 16], Time(50)), None);
    let mut freed = Vec::new();
    assert_eq!(ids.forget(Time(99), 9, |held| freed.push(held.position)), 0);
    assert_eq!(ids.forget(Time(100), 9, |held| freed.push(held.position)), 2);
    assert_eq!(freed, [Position(1), Position(2)]);
    assert!(ids.find(&[1; 16]).is_none() && ids.index.is_empty());
}

#[test]
fn an_id_that_is_used_again_gives_up_what_it_held_and_outlives_its_older_entry() {
    let mut ids = Ids::default();
    ids.insert(entry(1, 1, 100));
    let freed = ids.insert(entry(1, 2, 200));
    assert_eq!((freed.position, freed.len), (Position(1), 3));
    ids.check();
    let mut freed = 0;
    assert_eq!(ids.forget(Time(150), 9, |held| freed += held.len), 1);
    assert_eq!((freed, ids.known(&[1; 16], Time(150))), (0, Some(2)));
    ids.check();
}

#[test]
fn a_replay_brings_them_into_the_order_of_time_without_what_has_expired() {
    let mut ids = Ids::default();
    for entry in [entry(1, 1, 100), entry(2, 4, 400), entry(3, 3, 300), entry(1, 5, 500), entry(2, 2, 200)] {
        ids.insert(entry);
    }
    ids.put_in_order(Time(300));
    assert_eq!(ids.ring.iter().map(|entry| entry.id).collect::<Vec<_>>(), [4, 5]);
    assert_eq!((ids.known(&[1; 16], Time(0)), ids.known(&[2; 16], Time(0))), (Some(5), Some(4)));
    ids.check();
}

#[test]
fn numbers_go_around_and_memory_comes_back() {
    let mut ids = Ids { first: u32::MAX - 5, ..Ids::default() };
    let digest = |at: u64| {
        let mut digest = [0; 16];
        digest[..8].copy_from_slice(&at.to_le_bytes());
        digest
    };
    for at in 0..100_000u64 {
        ids.insert(Entry { digest: digest(at), ..entry(0, at, at) });
    }
    assert!((0..100_000).all(|at| ids.known(&digest(at), Time(0)).is_none_or(|id| id == at)));
    assert_eq!(ids.known(&digest(99_999), Time(0)), Some(99_999));
    assert_eq!(ids.forget(Time(99_989), usize::MAX, |_| {}), 99_990);
    assert!(ids.ring.capacity() < 2 * KEPT_ROOM && ids.index.capacity() < 2 * KEPT_ROOM);
    assert_eq!(ids.known(&digest(99_995), Time(0)), Some(99_995));
    ids.check();
}
