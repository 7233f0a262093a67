use super::*;

fn sample(second: u64) -> Sample {
    Sample {
        at: Duration::from_secs(second),
        sessions: second * 1000,
        memory: Memory { resident: None, kernel: Some(second << 20) },
        delay_us: (second > 5).then_some([100, 2_000]),
    }
}

#[test]
fn what_was_measured_is_drawn_and_what_was_not_is_left_out() {
    let mut timeline = Timeline::new();
    (0..10).for_each(|second| timeline.push(sample(second)));
    let svg = timeline.to_svg("9,000 <sessions>", Duration::from_secs(5));
    assert_eq!(svg.matches("<polyline").count(), 4, "no line for the server, whom nobody asked");
    assert!(svg.contains("9,000 &lt;sessions>") && svg.ends_with("</svg>\n"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    let sessions = svg.lines().find(|line| line.starts_with("<polyline")).unwrap();
    assert_eq!(sessions.matches(',').count(), 10, "a point for each sample: {sessions}");
}

#[test]
fn a_run_without_a_sample_is_drawn_empty() {
    let svg = Timeline::new().to_svg("nothing", Duration::ZERO);
    assert!(!svg.contains("<polyline") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    let mut timeline = Timeline::new();
    (0..3).for_each(|_| timeline.push(Sample::default()));
    let svg = timeline.to_svg("no session", Duration::ZERO);
    assert!(svg.contains("<polyline") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn a_long_run_keeps_its_shape_in_bounded_space() {
    let mut timeline = Timeline::new();
    for second in 0..100_000 {
        let now = Duration::from_secs(second);
        if timeline.is_due(now) {
            timeline.push(sample(second));
        }
    }
    assert!((SAMPLES_MAX / 2..=SAMPLES_MAX).contains(&timeline.samples.len()));
    let gaps: Vec<u64> =
        timeline.samples.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs()).collect();
    let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
    assert!(*most <= 2 * least, "evenly spaced, not {least} to {most} s");
}

#[test]
fn axes_have_round_marks() {
    assert_eq!(tick_step(1_000_000.0), 200_000.0);
    assert_eq!(tick_step(9.0), 2.0);
    assert_eq!(number(0.5), "0.5");
    assert_eq!(number(200_000.0), "200000");
    assert_eq!(ticks(10.0, 5.0).collect::<Vec<_>>(), [0.0, 5.0, 10.0]);
}
