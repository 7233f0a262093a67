use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn admission(per_second: u32, burst: u32) -> Admission<u32> {
    Admission::new(per_second, burst, 1000, 7, Time(1000))
}

#[test]
fn the_rate_holds_over_any_while_and_the_burst_once() {
    let mut admission = admission(100, 20);
    let mut let_in = [0; 2];
    for second in 0..2 {
        for ms in 0..1000 {
            let now = Time(1000 + second * 1000 + ms);
            while admission.rule(now, Rank::Resume, Duration::ZERO) == Ruling::LetIn {
                let_in[second as usize] += 1;
            }
        }
    }
    assert_eq!(let_in, [119, 100], "a burst and then the rate");
}

#[test]
fn a_slow_rate_is_not_rounded_away() {
    let mut admission = admission(3, 2);
    let mut let_in = 0;
    for ms in 0..10_000 {
        let_in += u32::from(admission.rule(Time(1000 + ms), Rank::Resume, Duration::ZERO) == Ruling::LetIn);
    }
    assert_eq!(let_in, 2 + 29);
}

#[test]
fn half_of_the_bucket_is_kept_for_those_that_resume() {
    let mut admission = admission(10, 20);
    let now = Time(1000);
    let new = (0..20).filter(|_| admission.rule(now, Rank::New, Duration::ZERO) == Ruling::LetIn).count();
    let resuming =
        (0..20).filter(|_| admission.rule(now, Rank::Resume, Duration::ZERO) == Ruling::LetIn).count();
    assert_eq!((new, resuming), (10, 10));
    // With nobody to keep it for, the reserve costs new clients nothing of the rate.
    let mut admission = self::admission(10, 20);
    let new = (0..1000)
        .filter(|ms| admission.rule(Time(1000 + ms * 10), Rank::New, Duration::ZERO) == Ruling::LetIn)
        .count();
    assert_eq!(new, 10 + 99);
}

#[test]
fn those_that_resume_go_first_and_wait_longer() {
    let mut admission = admission(10, 2);
    let now = Time(1000);
    assert_eq!(admission.rule(now, Rank::Resume, SECOND), Ruling::LetIn);
    assert_eq!(admission.rule(now, Rank::Resume, SECOND), Ruling::LetIn);
    // Half a second is worth five tokens, one of which is kept.
    for n in 0..3 {
        assert_eq!(admission.rule(now, Rank::New, SECOND), Ruling::Wait, "{n}");
        admission.wait(Rank::New, n);
    }
    assert_eq!(admission.rule(now, Rank::New, SECOND), Ruling::Shed);
    for n in 10..19 {
        assert_eq!(admission.rule(now, Rank::Resume, SECOND), Ruling::Wait, "{n}");
        admission.wait(Rank::Resume, n);
    }
    assert_eq!(admission.rule(now, Rank::Resume, SECOND), Ruling::Shed);
    assert_eq!((admission.waiting(), admission.next(now)), (12, None));
    let mut order = Vec::new();
    while let Some(at) = admission.next_at() {
        assert!(at <= Time(3000), "{at:?}");
        order.extend(admission.next(at));
    }
    assert_eq!(order, [10, 11, 12, 13, 14, 15, 16, 17, 18, 0, 1, 2]);
}

#[test]
fn whoever_comes_last_does_not_pass_those_that_wait() {
    let mut admission = admission(10, 2);
    let now = Time(1000);
    while admission.rule(now, Rank::Resume, Duration::ZERO) == Ruling::LetIn {}
    assert_eq!(admission.rule(now, Rank::Resume, SECOND), Ruling::Wait);
    admission.wait(Rank::Resume, 1);
    let later = Time(1100);
    assert_eq!(admission.rule(later, Rank::Resume, SECOND), Ruling::Wait, "the token is another's");
    assert_eq!(admission.next(later), Some(1));
}

#[test]
fn the_token_of_one_that_left_is_the_next_ones() {
    let mut admission = admission(10, 2);
    let now = Time(1000);
    while admission.rule(now, Rank::Resume, Duration::ZERO) == Ruling::LetIn {}
    for n in 0..3 {
        assert_eq!(admission.rule(now, Rank::Resume, SECOND), Ruling::Wait);
        admission.wait(Rank::Resume, n);
    }
    let later = Time(1100);
    assert_eq!(admission.next(later), Some(0));
    assert_eq!(admission.next(later), None);
    admission.give_back();
    assert_eq!(admission.next(later), Some(1));
}

#[test]
fn new_clients_have_so_many_places_to_wait() {
    let mut admission: Admission<u32> = Admission::new(1000, 2, 5, 7, Time(1000));
    let mut waiting = 0;
    loop {
        match admission.rule(Time(1000), Rank::New, SECOND) {
            Ruling::LetIn => {}
            Ruling::Wait => {
                waiting += 1;
                admission.wait(Rank::New, waiting);
            }
            Ruling::Shed => break,
        }
    }
    assert_eq!(waiting, 5);
}

/// A crowd of many times what fits, of which each comes back in its slot, and again if it must.
#[test]
fn a_crowd_that_comes_back_in_its_slots_finds_its_tokens() {
    const CROWD: u32 = 20_000;
    let mut admission = admission(1000, 250);
    let patience = Duration::from_millis(2500);
    let mut arrivals: Vec<Vec<u32>> = vec![Vec::new(); 100_000];
    arrivals[0] = (0..CROWD).collect();
    let mut failed = vec![0; CROWD as usize];
    let (mut in_by_ms, mut let_in) = (0, 0);
    for ms in 0..arrivals.len() {
        let now = Time(1000 + ms as u64);
        while admission.next(now).is_some() {
            let_in += 1;
        }
        for client in std::mem::take(&mut arrivals[ms]) {
            match admission.rule(now, Rank::Resume, patience) {
                Ruling::LetIn => let_in += 1,
                Ruling::Wait => admission.wait(Rank::Resume, client),
                Ruling::Shed => {
                    failed[client as usize] += 1;
                    arrivals[ms + admission.slot(now) as usize].push(client);
                }
            }
        }
        assert!(let_in <= 250 + ms as u32 + 1, "no more than the budget at {ms}");
        if let_in == CROWD && in_by_ms == 0 {
            in_by_ms = ms;
        }
    }
    // Twenty seconds' worth; an eighth may be added by chance.
    assert!((19_700..22_600).contains(&in_by_ms), "{in_by_ms}");
    assert_eq!(failed.iter().max(), Some(&1), "a slot is a token");
}

#[test]
fn slots_go_on_where_the_waiting_end_and_never_beyond_the_furthest() {
    let mut admission = admission(10, 2);
    let now = Time(1000);
    assert!((1..=101).contains(&admission.slot(now)));
    for n in 0..40 {
        admission.wait(Rank::Resume, n);
    }
    let slot = admission.slot(now);
    assert!((4001..=4601).contains(&slot), "behind four seconds of others: {slot}");
    for _ in 0..10_000 {
        let slot = u128::from(admission.slot(now));
        assert!(slot <= limits::READMISSION_MAX.as_millis() * 9 / 8 + 101, "{slot}");
    }
}

#[test]
fn a_loop_that_is_behind_accepts_less_but_never_nothing() {
    let ms = Duration::from_millis;
    assert_eq!(accepts_of_turn(Duration::ZERO, 0), limits::ACCEPTS_PER_TURN_MAX);
    assert_eq!(accepts_of_turn(limits::UNHURRIED_TURN, 0), limits::ACCEPTS_PER_TURN_MAX);
    assert_eq!(accepts_of_turn(limits::UNHURRIED_TURN * 2, 0), limits::ACCEPTS_PER_TURN_MAX / 2);
    assert_eq!(accepts_of_turn(ms(60_000), 0), limits::ACCEPTS_PER_TURN_MIN);
    let nearly_full = limits::COMMAND_LANE_BATCHES * 3 / 4;
    assert_eq!(accepts_of_turn(ms(0), nearly_full - 1), limits::ACCEPTS_PER_TURN_MAX);
    assert_eq!(accepts_of_turn(ms(0), nearly_full), limits::ACCEPTS_PER_TURN_MIN);
}
