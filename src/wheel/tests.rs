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

#[derive(Debug, Clone)]
enum Step {
    Insert(u64),
    Cancel(usize),
    Move(usize, u64),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let delay = prop_oneof![0_u64..200, 0_u64..100_000, 0_u64..10_000_000_000];
    prop_oneof![
        4 => delay.clone().prop_map(Step::Insert),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => (any::<usize>(), delay.clone()).prop_map(|(which, delay)| Step::Move(which, delay)),
        3 => delay.prop_map(Step::Advance),
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
                Step::Cancel(_) | Step::Move(..) => {}
            }
            prop_assert_eq!(wheel.len(), model.len());
            let first = model.values().map(|&(_, at)| at).min();
            prop_assert_eq!(wheel.next_deadline().is_some(), first.is_some());
            if let (Some(deadline), Some(first)) = (wheel.next_deadline(), first) {
                prop_assert!(deadline.0 <= first.max(now), "deadline after the first timer");
            }
        }
    }
}
