//! Servers that break their word, to show that a campaign finds it: their log is harmed between a kill and the next start, in ways
//! that no start can notice.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::checker::{self, Rule};
use crate::round::{Campaign, files};

const KILLS: u64 = 8;
const BLOCK: usize = 4096;
/// Large segments, so that all is in the first one: an end that is cut off does not take the word of a segment that is gone with
/// it, which a start would miss.
const CONFIG: &str =
    "[log]\nsegment_bytes = 33554432\n[queue]\nbackoff_initial = \"5ms\"\nbackoff_max = \"50ms\"\n";

/// The rules that a campaign finds broken by a server whose data is harmed after its kills.
fn broken(harm: &mut dyn FnMut(u64, &Path)) -> BTreeSet<Rule> {
    let (home, listen) = crate::home(CONFIG, "sync");
    let history = Campaign::new(home, listen, fastrand::u64(..)).round(KILLS, harm);
    let breaches = checker::breaches(&history);
    if let Some(breach) = breaches.first() {
        // What a failed campaign prints.
        println!("{} breaches, the first: {breach}\n{}", breaches.len(), checker::story(&history, breach));
    }
    breaches.iter().map(|breach| breach.rule).collect()
}

/// Zeroes the end of the segment that was written last, a quarter of it, as if its last writes had never been. Whether that was
/// anything much.
fn cut_tail(data: &Path) -> bool {
    let written = |name: &String| {
        let bytes = fs::read(data.join("log").join(name)).expect("a segment can be read");
        bytes.chunks(BLOCK).rposition(|block| block.iter().any(|&byte| byte != 0)).unwrap_or(0)
    };
    // One that is only prepared has nothing behind its header.
    let segments: Vec<String> = files(data).into_iter().filter(|name| name.ends_with(".seg")).collect();
    let newest = segments.iter().rev().map(|name| (name, written(name))).find(|(_, last)| *last > 0);
    let Some((name, last)) = newest else { return false };
    let cut = last / 4;
    if cut < 32 {
        return false;
    }
    let segment = OpenOptions::new().write(true).open(data.join("log").join(name));
    let zeroes = vec![0; cut * BLOCK];
    let cut_from = ((last - cut + 1) * BLOCK) as u64;
    segment.and_then(|file| file.write_all_at(&zeroes, cut_from)).expect("a segment can be written");
    true
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("a directory can be listed").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("a file can be copied");
        }
    }
}

#[test]
fn a_log_that_lost_its_end_is_found() {
    let mut is_cut = false;
    let broken = broken(&mut |kill, data| {
        if kill >= 4 && !is_cut {
            is_cut = cut_tail(data);
        }
    });
    assert!(is_cut, "there was something to be cut");
    assert!(broken.contains(&Rule::Lost) || broken.contains(&Rule::Redelivered), "{broken:?}");
}

#[test]
fn a_log_that_went_back_is_found() {
    let broken = broken(&mut |kill, data| {
        let aside = data.with_file_name("aside");
        match kill {
            3 => copy(data, &aside),
            7 => copy(&aside, data),
            _ => {}
        }
    });
    assert!(broken.contains(&Rule::Ids), "ids are given again: {broken:?}");
    assert!(broken.contains(&Rule::Leases), "and so are boots: {broken:?}");
}
