//! Cron expressions: `cargo +nightly fuzz run cron`. The first line is a time in milliseconds, the second the time zone, the
//! rest the expression.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relaymesh::clock::Wall;
use relaymesh::cron::Cron;

/// The year 2100, in milliseconds.
const LATEST: u64 = 4_102_444_800_000;

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let wall = lines.next().and_then(|line| line.parse().ok()).unwrap_or(0) % LATEST;
    let (zone, expression) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let Ok(cron) = Cron::parse(expression, zone) else { return };
    let mut at = Wall(wall);
    for _ in 0..4 {
        let Some(next) = cron.next_after(at) else { break };
        assert!(next > at, "{next:?} comes after {at:?}");
        assert_eq!(cron.latest_until(next), Some(next), "it is due then");
        at = next;
    }
});
