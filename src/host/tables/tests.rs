use super::*;

const HERE: TableNeeds =
    TableNeeds { sessions: 0, loops: 0, limit: 20_000, cores: 2, tables: Tables::Auto, can_be_private: true };

#[test]
fn each_of_several_loops_has_a_table() {
    let plan = |sessions| TablePlan::of(TableNeeds { sessions, ..HERE });
    for (sessions, loops) in [(1, 2), (19_873, 2), (38_768, 2), (38_769, 3), (60_000, 4), (1_000_000, 52)] {
        let plan = plan(sessions);
        assert_eq!((plan.loops, plan.is_private), (loops, true), "{sessions} sessions");
        assert_eq!((plan.sessions, plan.limit_needed), (sessions, None));
    }
    assert_eq!(plan(0).sessions, 38_768, "nobody said how many: as many as there is room for");
    let many_cores = TablePlan::of(TableNeeds { sessions: 60_000, cores: 16, ..HERE });
    assert_eq!(many_cores.loops, 16, "no core is left out");
    let wide = TablePlan::of(TableNeeds { limit: u64::MAX, ..HERE });
    assert_eq!((wide.loops, wide.is_private, wide.sessions), (2, true, SESSIONS_UNLESS_TOLD));
}

#[test]
fn one_loop_has_a_table_for_itself() {
    let alone = TableNeeds { loops: 1, ..HERE };
    let expected = TablePlan { loops: 1, is_private: true, sessions: 19_984, limit_needed: None };
    assert_eq!(TablePlan::of(alone), expected);
    let plan = TablePlan::of(TableNeeds { sessions: 60_000, ..alone });
    assert_eq!((plan.sessions, plan.limit_needed), (19_984, Some(60_016)));
}

#[test]
fn a_system_without_private_tables_shares_one() {
    for sessions in [0, 19_872] {
        let plan = TablePlan::of(TableNeeds { sessions, can_be_private: false, ..HERE });
        let expected = TablePlan { loops: 2, is_private: false, sessions: 19_872, limit_needed: None };
        assert_eq!(plan, expected);
    }
}

#[test]
fn what_does_not_fit_says_what_to_raise() {
    for needs in [
        TableNeeds { sessions: 10_000_000, ..HERE },
        TableNeeds { sessions: 60_000, loops: 2, ..HERE },
        TableNeeds { sessions: 60_000, can_be_private: false, ..HERE },
        TableNeeds { sessions: 60_000, loops: 1, ..HERE },
    ] {
        let plan = TablePlan::of(needs);
        assert!(plan.sessions < needs.sessions, "{needs:?}");
        let limit = plan.limit_needed.expect("it says so");
        let raised = TablePlan::of(TableNeeds { limit, ..needs });
        assert_eq!((raised.sessions, raised.limit_needed), (needs.sessions, None), "{needs:?}: {raised:?}");
        let short = TablePlan::of(TableNeeds { limit: limit - 1, ..needs });
        assert!(short.limit_needed.is_some(), "no less would do: {needs:?}");
    }
}

#[test]
fn tables_are_as_they_were_asked_for() {
    let private = TablePlan::of(TableNeeds { sessions: 15_000, tables: Tables::Private, ..HERE });
    assert_eq!((private.loops, private.is_private, private.sessions), (2, true, 15_000));
    let shared = TablePlan::of(TableNeeds { sessions: 60_000, tables: Tables::Shared, ..HERE });
    assert_eq!((shared.loops, shared.is_private, shared.sessions), (2, false, 19_872));
    assert_eq!(shared.limit_needed, Some(60_128), "with one table");
    let impossible =
        TablePlan::of(TableNeeds { sessions: 9, tables: Tables::Private, can_be_private: false, ..HERE });
    assert!(!impossible.is_private);
}

#[test]
fn absurd_limits_do_no_harm() {
    for limit in [0, 1, 17, 128] {
        let plan = TablePlan::of(TableNeeds { sessions: 1000, limit, ..HERE });
        assert!(plan.loops >= 1 && plan.sessions >= 1, "{plan:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_table_of_its_own_holds_what_is_kept_and_nothing_else() {
    use std::collections::BTreeSet;
    use std::fs::{self, File};
    use std::os::fd::AsRawFd as _;

    assert!(private_tables_work(), "this kernel has them");
    let before: Vec<File> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
    let kept = before[10].as_raw_fd();
    let (opened, in_table) = thread::spawn(move || {
        own_descriptor_table(kept).unwrap();
        let number = crate::host::thread_number().unwrap();
        let entries = fs::read_dir("/proc/thread-self/fd").unwrap();
        let numbers: BTreeSet<RawFd> =
            entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        assert_eq!(crate::host::open_descriptors_of(number), Some(numbers.len() as u64 - 1), "{numbers:?}");
        let opened: Vec<File> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
        // What is opened here is not there: most of these numbers mean nothing to the others.
        (opened.last().unwrap().as_raw_fd(), numbers)
    })
    .join()
    .unwrap();
    assert!(opened >= 200);
    // The directory that was listed is the fifth.
    assert!(in_table.len() <= 5 && in_table.contains(&kept), "{in_table:?}");
    assert!(before.iter().all(|file| file.metadata().is_ok()), "the others' table is as it was");
}
