use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[test]
fn fires_at_its_time_and_not_before() {
    for at in [1_u64, 63, 64, 65, 4095, 4096, 1 << 30, TIME_MAX] {
        let mut wheel = Wheel::new(Time(0));
        wheel.insert(Time(at), 7);
        assert_eq!(wheel.pop_expired(Time(at - 1)), None, "before {at}");
        assert_eq!(wheel.pop_expired(Time(at)).map(|(_, key)| key), Some(7), "at {at}");
        assert!(wheel.is_empty());
    }
}

#[test]
fn a_passed_time_fires_with_the_next_pop() {
    let mut wheel = Wheel::new(Time(1000));
    wheel.insert(Time(3), 1);
    assert_eq!(wheel.next_deadline(), Some(Time(1000)));
    assert_eq!(wheel.pop_expired(Time(1000)).map(|(_, key)| key), Some(1));
}

/// Timers that are due while some before them were popped already: the list is not whole at its front, and those in the
/// middle can be cancelled.
#[test]
fn due_timers_can_be_cancelled_and_come_in_order() {
    let mut wheel = Wheel::new(Time(0));
    let timers: Vec<_> = (0..100).map(|key| wheel.insert(Time(5), key)).collect();
    for popped in 0..40 {
        assert_eq!(wheel.pop_expired(Time(9)), Some((timers[popped as usize], popped)));
    }
    assert_eq!(wheel.pop_expired(Time(9)), Some((timers[40], 40)));
    // The last one takes the place of the next one, and so on until none is left behind the first.
    wheel.cancel(timers[41]);
    check(&wheel);
    assert_eq!(wheel.pop_expired(Time(9)).map(|(_, key)| key), Some(99));
    for timer in &timers[44..99] {
        wheel.cancel(*timer);
        check(&wheel);
    }
    let left: Vec<_> = std::iter::from_fn(|| wheel.pop_expired(Time(9))).map(|(_, key)| key).collect();
    assert_eq!(left, [42, 43]);
    assert!(wheel.is_empty() && wheel.next_deadline().is_none());
    check(&wheel);
}

/// Timers that fire and are set again take no more memory than they took once.
#[test]
fn memory_is_used_again() {
    let mut wheel = Wheel::new(Time(0));
    for key in 0..20_000 {
        wheel.insert(Time(u64::from(key) * 9), key);
    }
    let mut bytes = 0;
    for now in 0..600_000 {
        while let Some((_, key)) = wheel.pop_expired(Time(now)) {
            wheel.insert(Time(now + 180_000), key);
        }
        if now == 200_000 {
            bytes = wheel.bytes();
        }
    }
    assert_eq!((wheel.bytes(), wheel.len()), (bytes, 20_000));
    check(&wheel);
}

/// Panics unless every timer lies where its number says, in the list of its time, and no chunk is lost.
fn check(wheel: &Wheel) {
    let (mut timers, mut chunks) = (0, 0);
    for (number, list) in wheel.lists.iter().enumerate() {
        if number != DUE {
            let is_occupied = wheel.occupied[number / SLOTS] >> (number % SLOTS) & 1 == 1;
            assert_eq!(is_occupied, !list.is_empty(), "list {number}");
        }
        let (mut chunk, mut prev) = (list.head, NIL);
        while chunk != NIL {
            let entry = &wheel.chunks[chunk];
            let start = if chunk == list.head { list.start } else { 0 };
            let end = if chunk == list.tail { list.end } else { CHUNK_LEN };
            assert!(start < end, "an empty chunk in list {number}");
            assert!(prev == NIL || entry.prev == prev, "list {number} does not lead back");
            for place in start..end {
                let timer = wheel.timers[entry.ids[place as usize]];
                assert_eq!({ timer.place }, chunk * CHUNK_LEN + place);
                assert_eq!(wheel.list_for(timer.at()), number);
            }
            timers += (end - start) as usize;
            chunks += 1;
            prev = chunk;
            chunk = if chunk == list.tail { NIL } else { entry.next };
        }
    }
    assert_eq!(timers, wheel.len());
    let free = |first: u32, next: &dyn Fn(u32) -> Option<u32>| {
        std::iter::successors((first != NIL).then_some(first), |&at| next(at).filter(|&at| at != NIL)).count()
    };
    let free_chunks = free(wheel.free_chunk, &|chunk| wheel.chunks.get(chunk).map(|chunk| chunk.next));
    assert_eq!(chunks + free_chunks, wheel.chunks.len() as usize, "a chunk is lost");
    let free_numbers = free(wheel.free, &|id| wheel.timers.get(id).map(|timer| timer.place));
    assert_eq!(timers + free_numbers, wheel.timers.len() as usize, "a number is lost");
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u64),
    /// So many for the same time: more than a chunk takes.
    Burst(u32, u64),
    Cancel(usize),
    Move(usize, u64),
    Advance(u64),
    /// The same, but only so many of those that are due are popped.
    Pop(u64, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let delay = prop_oneof![0_u64..200, 0_u64..100_000, 0_u64..10_000_000_000];
    prop_oneof![
        4 => delay.clone().prop_map(Step::Insert),
        1 => (1..3 * CHUNK_LEN, delay.clone()).prop_map(|(count, delay)| Step::Burst(count, delay)),
        3 => any::<usize>().prop_map(Step::Cancel),
        3 => (any::<usize>(), delay.clone()).prop_map(|(which, delay)| Step::Move(which, delay)),
        3 => delay.clone().prop_map(Step::Advance),
        2 => (delay, 1..2 * CHUNK_LEN).prop_map(|(by, pops)| Step::Pop(by, pops)),
    ]
}

proptest! {
    #[test]
    fn behaves_like_a_sorted_list(start in 0_u64..1 << 40, steps in prop::collection::vec(step(), 1..200)) {
        let mut now = start;
        let mut wheel = Wheel::new(Time(now));
        let mut model: BTreeMap<u32, (TimerId, u64)> = BTreeMap::new();
        let mut next_key = 0;
        for step in steps {
            match step {
                Step::Insert(delay) => {
                    let timer = wheel.insert(Time(now + delay), next_key);
                    model.insert(next_key, (timer, now + delay));
                    next_key += 1;
                }
                Step::Burst(count, delay) => {
                    for _ in 0..count {
                        let timer = wheel.insert(Time(now + delay), next_key);
                        model.insert(next_key, (timer, now + delay));
                        next_key += 1;
                    }
                }
                Step::Cancel(which) if !model.is_empty() => {
                    let key = *model.keys().nth(which % model.len()).unwrap();
                    wheel.cancel(model.remove(&key).unwrap().0);
                }
                Step::Move(which, delay) if !model.is_empty() => {
                    let key = *model.keys().nth(which % model.len()).unwrap();
                    let entry = model.get_mut(&key).unwrap();
                    entry.1 = now + delay;
                    wheel.move_to(entry.0, Time(now + delay));
                }
                Step::Advance(by) => {
                    now += by;
                    let mut last = 0;
                    while let Some((_, key)) = wheel.pop_expired(Time(now)) {
                        let (_, at) = model.remove(&key).expect("fires once");
                        prop_assert!(at <= now, "fired early");
                        // A timer set in the past fires at once, whatever came before.
                        prop_assert!(at >= last || at <= now - by, "out of order");
                        last = at;
                    }
                    prop_assert!(model.values().all(|&(_, at)| at > now), "fired late");
                }
                Step::Pop(by, pops) => {
                    now += by;
                    for _ in 0..pops {
                        let Some((timer, key)) = wheel.pop_expired(Time(now)) else { break };
                        let (id, at) = model.remove(&key).expect("fires once");
                        prop_assert!(at <= now && id == timer, "fired early");
                    }
                }
                Step::Cancel(_) | Step::Move(..) => {}
            }
            check(&wheel);
            prop_assert_eq!(wheel.len(), model.len());
            let first = model.values().map(|&(_, at)| at).min();
            prop_assert_eq!(wheel.next_deadline().is_some(), first.is_some());
            if let (Some(deadline), Some(first)) = (wheel.next_deadline(), first) {
                prop_assert!(deadline.0 <= first.max(now), "deadline after the first timer");
            }
        }
    }
}
