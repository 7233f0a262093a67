use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::*;
use crate::limits::QUEUE_LABELS_MAX;

fn row(namespace: &str, queue: &str, ready: u64) -> QueueRow {
    let name = (namespace.to_owned(), queue.to_owned());
    QueueRow { name, ready, oldest_ready_age_ms: ready * 1000, ..QueueRow::default() }
}

fn text(queues: Option<Vec<QueueRow>>) -> String {
    let sources = SourceSet {
        loops: vec![Arc::new(LoopMetrics::default()), Arc::new(LoopMetrics::default())],
        shards: vec![Arc::new(ShardMetrics::default())],
    };
    sources.loops[0].received.count(4, 2);
    sources.loops[1].received.count(4, 17);
    sources.loops[1].sent.count(200, 9);
    sources.loops[0].accepts.accepted.add(3);
    sources.loops[1].accepts.accepted.add(4);
    sources.loops[0].closed.add(5);
    sources.loops[0].closed_slow.add(2);
    sources.loops[1].session_bytes.set(777);
    sources.shards[0].sessions.set(10);
    sources.shards[0].body_memory_bytes.set(10_000);
    sources.shards[0].published.add(11);
    sources.shards[0].commit_latency_us.record(100);
    sources.shards[0].commit_latency_us.record(u64::MAX / 2);
    sources.shards[0].commit_records.record(4);
    let process = ProcessStats {
        memory: Memory { resident: Some(40_096), kernel: Some(9000) },
        memory_at_start: Memory { resident: Some(96), kernel: Some(1000) },
        open_descriptors: Some(7),
        max_descriptors: Some(1024),
        cpu_seconds: Some(1.5),
    };
    let stage = Stage::Ready;
    exposition(Scrape {
        sources,
        stage,
        uptime_seconds: 2.0,
        process,
        loop_tables: vec![None, Some(12)],
        disk: Some((5 << 30, crate::host::DiskState::Warn)),
        operator_requests: 3,
        operator_connections: 4,
        queues,
    })
    .unwrap()
}

/// A strict reading of the text: every sample belongs to the metric announced above it, and none comes twice.
fn parse(text: &str) -> HashMap<String, f64> {
    let mut samples = HashMap::new();
    let mut announced = HashSet::new();
    let mut current = String::new();
    let body = text.strip_suffix("# EOF\n").expect("ends with # EOF");
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.split(' ');
            match (words.next().unwrap(), words.next().unwrap()) {
                ("TYPE", name) => {
                    assert!(announced.insert(name.to_owned()), "{name} is announced twice");
                    current = name.to_owned();
                }
                ("HELP", name) => assert!(words.next().is_some(), "{name} has no help"),
                ("UNIT", name) => assert!(name.ends_with(words.next().unwrap()), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        assert!(name.starts_with("relaymesh_"), "{name}");
        assert!(name.starts_with(&current), "{name} below {current}");
        let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} appears twice");
    }
    samples
}

#[test]
fn the_exposition_is_valid_and_sums_over_loops() {
    let samples = parse(&text(Some(vec![row("default", "jobs", 5)])));
    assert_eq!(samples["relaymesh_accepts_total"], 7.0);
    assert_eq!(samples["relaymesh_publishes_total"], 11.0);
    assert_eq!(samples["relaymesh_frames_total{direction=\"received\",kind=\"ping\"}"], 2.0);
    assert_eq!(samples["relaymesh_frame_bytes_total{direction=\"received\",kind=\"ping\"}"], 19.0);
    assert_eq!(samples["relaymesh_frames_total{direction=\"sent\",kind=\"unknown\"}"], 1.0);
    assert_eq!(samples["relaymesh_connections_closed_total{cause=\"other\"}"], 3.0);
    assert_eq!(samples["relaymesh_lifecycle_stage{stage=\"ready\"}"], 1.0);
    assert_eq!(samples["relaymesh_process_cpu_seconds_total"], 1.5);
    assert_eq!(samples["relaymesh_buffer_items{buffer=\"operator_requests\"}"], 3.0);
    assert_eq!(samples["relaymesh_process_resident_memory_bytes"], 40_096.0);
    assert_eq!(samples["relaymesh_session_user_bytes"], 3000.0, "bodies are not the sessions' memory");
    assert_eq!(samples["relaymesh_session_kernel_bytes"], 800.0);
    assert_eq!(samples["relaymesh_loop_memory_bytes{loop=\"1\",part=\"sessions\"}"], 777.0);
    let depth = "relaymesh_queue_depth{namespace=\"default\",queue=\"jobs\",state=\"ready\"}";
    assert_eq!(samples[depth], 5.0);
    let age = "relaymesh_queue_oldest_ready_age_seconds{namespace=\"default\",queue=\"jobs\"}";
    assert_eq!(samples[age], 5.0);
}

/// The table of buffers in the code map names a metric for each, and each is exported under that name.
#[test]
fn every_buffer_has_its_metric() {
    let page = text(Some(vec![row("default", "jobs", 5)]));
    let table = include_str!("../lib.rs").split("# Every buffer").nth(1).unwrap();
    let table = table.split("//! # ").next().unwrap();
    let cells = table.lines().filter(|line| line.starts_with("//! | ") && !line.contains("| metric |"));
    let mut named = 0;
    for line in cells {
        let cell = line.split(" | ").nth(3).unwrap();
        assert!(!cell.contains('–'), "no metric: {line}");
        let Some(metric) = cell.split('`').nth(1) else { continue };
        let (name, label) = metric.split_once('{').unwrap_or((metric, ""));
        let label = label.trim_end_matches('}');
        let is_it = |sample: &str| sample.starts_with(name) && sample.contains(label);
        assert!(page.lines().any(is_it), "{metric} is not exported");
        named += 1;
    }
    assert!(named > 15, "{named} metrics named in the table");
}

#[test]
fn a_histogram_is_cumulative_and_ends_in_infinity() {
    let samples = parse(&text(None));
    assert_eq!(samples["relaymesh_commit_latency_seconds_bucket{le=\"0.000064\"}"], 0.0);
    assert_eq!(samples["relaymesh_commit_latency_seconds_bucket{le=\"0.000128\"}"], 1.0);
    assert_eq!(samples["relaymesh_commit_latency_seconds_bucket{le=\"+Inf\"}"], 2.0);
    assert_eq!(samples["relaymesh_commit_latency_seconds_count"], 2.0);
    assert_eq!(samples["relaymesh_commit_records_bucket{le=\"3.0\"}"], 0.0);
    assert_eq!(samples["relaymesh_commit_records_bucket{le=\"7.0\"}"], 1.0);
    assert_eq!(samples["relaymesh_queues_known"], 0.0);
}

#[test]
fn queue_labels_are_bounded_and_stay_with_their_queue() {
    let mut labels = QueueLabels::new(QUEUE_LABELS_MAX);
    let first: Vec<_> = (0..150).map(|i| row("default", &format!("q{:04}", i + 1000), 1)).collect();
    let bounded = labels.bound(first.clone());
    assert_eq!(bounded.len(), QUEUE_LABELS_MAX + 1);
    assert_eq!(bounded.last().unwrap().name.1, OVERFLOW);
    assert_eq!(bounded.last().unwrap().ready, 50);
    assert_eq!(bounded.iter().map(|row| row.ready).sum::<u64>(), 150);

    // A newcomer that sorts first takes no label from those who have one.
    let mut later = vec![row("default", "a", 7)];
    later.extend(first.clone());
    let bounded = labels.bound(later);
    assert!(bounded.iter().all(|row| row.name.1 != "a"));
    assert_eq!(bounded.last().unwrap().ready, 57);

    // Once a queue is gone its label is free.
    let mut later = vec![row("default", "a", 7)];
    later.extend(first.into_iter().skip(1));
    let bounded = labels.bound(later);
    assert!(bounded.iter().any(|row| row.name.1 == "a"));
}

#[test]
fn a_queue_called_like_the_shared_row_joins_it() {
    let mut labels = QueueLabels::new(1);
    let rows = vec![row(OVERFLOW, OVERFLOW, 1), row("default", "jobs", 1), row("default", "more", 1)];
    let bounded = labels.bound(rows);
    assert_eq!(bounded.len(), 2);
    parse(&text(Some(bounded)));
}

#[test]
fn hostile_queue_names_cannot_break_a_line() {
    let samples = parse(&text(Some(vec![row("default", "a\"}\\b{", 1)])));
    assert!(samples.keys().any(|series| series.contains("a\\\"}\\\\b{")));
}

#[test]
fn a_lifecycle_only_gets_older() {
    let lifecycle = Lifecycle::default();
    assert_eq!(lifecycle.stage(), Stage::Starting);
    lifecycle.advance(Stage::Draining);
    lifecycle.clone().advance(Stage::Ready);
    assert_eq!(lifecycle.stage(), Stage::Draining);
    lifecycle.advance(Stage::Failed);
    assert_eq!(lifecycle.stage(), Stage::Failed);
}

#[test]
fn a_wrong_log_filter_is_refused_with_what_is_allowed() {
    assert!(logging::parse_filter("info,relaymesh::queue=debug").is_ok());
    let error = logging::parse_filter("info,relaymesh=loud").unwrap_err().to_string();
    assert!(error.contains("relaymesh=loud") && error.contains("debug, trace"), "{error}");
}
