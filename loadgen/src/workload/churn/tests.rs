use super::*;

#[test]
fn a_mix_is_kept_to() {
    let mix: Mix = "2:0:3".parse().unwrap();
    let resets: Vec<Reset> = (0..10).map(|number| mix.of(number)).collect();
    let count = |wanted: Reset| resets.iter().filter(|&&reset| reset == wanted).count();
    assert_eq!([Reset::AtOnce, Reset::AfterHello, Reset::AfterWelcome].map(count), [4, 0, 6]);
    for wrong in ["", "1:2", "1:2:3:4", "a:b:c", "0:0:0", "-1:1:1"] {
        assert!(wrong.parse::<Mix>().is_err(), "{wrong:?}");
    }
}

#[test]
fn back_is_one_percent_above_the_baseline_and_no_more() {
    let busy = [0.0; BUSY_SERIES];
    let baseline = Holds { descriptors: 100.0, heap: 10_000, resident: 20_000, busy };
    for (descriptors, heap, is_back) in [
        (100.0, 10_000, true),
        (101.0, 10_100, true),
        (90.0, 5_000, true),
        (102.0, 10_000, false),
        (100.0, 10_101, false),
    ] {
        assert_eq!(
            Holds { descriptors, heap, ..baseline }.is_back_at(&baseline),
            is_back,
            "{descriptors} {heap}"
        );
    }
    let mut one_left = baseline;
    one_left.busy[1] = 1.0;
    assert!(!one_left.is_idle_as(&baseline) && baseline.is_idle_as(&one_left));
}
