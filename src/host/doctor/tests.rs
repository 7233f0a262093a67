use super::*;

/// As Debian 13 comes, on 24 GiB.
fn machine() -> Machine {
    Machine {
        sysctls: vec![
            (FILE_MAX, vec![u64::MAX >> 1]),
            (NR_OPEN, vec![1_048_576]),
            (EPOLL_WATCHES, vec![5_400_000]),
            (SOMAXCONN, vec![4096]),
            (SYN_BACKLOG, vec![1024]),
            (TCP_MEM, vec![284_000, 379_000, 568_000]),
            (TCP_RMEM, vec![4096, 131_072, 6_291_456]),
            (TCP_WMEM, vec![4096, 16_384, 4_194_304]),
            (PORT_RANGE, vec![32_768, 60_999]),
            (EHASH_ENTRIES, vec![262_144]),
        ],
        reserved_ports: None,
        descriptors: Some(DescriptorLimit { soft: 1024, hard: 524_288 }),
        has_private_tables: false,
        cores: 2,
        memory_available: Some(23 << 30),
        page_bytes: 4096,
    }
}

fn unmet(machine: &Machine, sessions: u64) -> Vec<(&'static str, Fix)> {
    let findings = examine(machine, sessions).into_iter().filter(|finding| !finding.is_met());
    findings.map(|finding| (finding.name, finding.fix)).collect()
}

#[test]
fn few_sessions_need_little() {
    let names: Vec<_> = unmet(&machine(), 1000).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [SYN_BACKLOG, PORT_RANGE]);
}

#[test]
fn the_servers_own_ports_are_kept_from_outgoing_connections() {
    for (have, value) in [
        ("", Some("7400,7480")),
        ("80,7000-7410", Some("80,7000-7410,7480")),
        ("7480", Some("7480,7400")),
        ("7400,7480", None),
        ("7000-8000", None),
    ] {
        let machine = Machine { reserved_ports: Some(have.to_owned()), ..machine() };
        let found = unmet(&machine, 1000).into_iter().find(|found| found.0 == RESERVED_PORTS);
        assert_eq!(found.map(|found| found.1), value.map(|value| Fix::Sysctl(value.to_owned())), "{have:?}");
        let line = format!("\n{RESERVED_PORTS} = {}\n", value.unwrap_or(have));
        assert!(sysctl_file(&machine, 1000).contains(&line), "{have:?}");
    }
}

#[test]
fn a_million_sessions_need_settings_that_suffice() {
    let mut machine = machine();
    let findings = unmet(&machine, 1_000_000);
    assert!(findings.contains(&("RLIMIT_NOFILE", Fix::Descriptors(1_000_128))), "{findings:?}");
    assert!(findings.contains(&(SOMAXCONN, Fix::Sysctl("62500".to_owned()))), "{findings:?}");
    for (name, fix) in findings {
        match fix {
            Fix::Sysctl(value) => {
                let value = value.split(' ').map(|number| number.parse().unwrap()).collect();
                machine.sysctls.iter_mut().find(|(own, _)| *own == name).unwrap().1 = value;
            }
            Fix::Descriptors(need) => {
                machine.descriptors = Some(DescriptorLimit { soft: need, hard: need });
            }
            Fix::Boot(parameter) => {
                assert_eq!((name, parameter.as_str()), (EHASH_ENTRIES, "thash_entries=1048576"));
                machine.sysctls.iter_mut().find(|(own, _)| *own == name).unwrap().1 = vec![1_048_576];
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(unmet(&machine, 1_000_000), [], "what is advised suffices");
}

#[test]
fn tables_of_its_own_for_each_loop_hold_what_one_does_not() {
    let mut machine = Machine { has_private_tables: true, ..machine() };
    let of_tables = |machine: &Machine, sessions| {
        let findings = examine(machine, sessions);
        findings.into_iter().find(|finding| finding.name == "RLIMIT_NOFILE").unwrap()
    };
    machine.descriptors = Some(DescriptorLimit { soft: 1024, hard: 20_000 });
    let finding = of_tables(&machine, 1_000_000);
    assert!(finding.is_met() && finding.need == "1000128 over 52 loops", "{finding:?}");
    machine.sysctls.iter_mut().find(|(name, _)| *name == NR_OPEN).unwrap().1 = vec![20_000];
    assert!(unmet(&machine, 1_000_000).iter().all(|(name, _)| *name != NR_OPEN), "no table is larger");

    machine.sysctls.push((MIGRATE_REQ, vec![0]));
    assert!(unmet(&machine, 1_000_000).contains(&(MIGRATE_REQ, Fix::Sysctl("1".to_owned()))));
    assert!(unmet(&machine, 1000).iter().all(|(name, _)| *name != MIGRATE_REQ), "each table holds them all");

    let wide =
        Machine { descriptors: Some(DescriptorLimit { soft: 1024, hard: u64::MAX }), ..machine.clone() };
    assert!(
        unmet(&wide, 1000).iter().all(|(name, _)| *name != NR_OPEN),
        "a thousand, and not all there can be"
    );

    let finding = of_tables(&machine, 10_000_000);
    assert_eq!(finding.fix, Fix::Descriptors(40_288), "{finding:?}");
    assert_eq!(finding.need, "40288 for each of 256 loops");
    machine.descriptors = Some(DescriptorLimit { soft: 1024, hard: 40_288 });
    assert!(of_tables(&machine, 10_000_000).is_met(), "what is advised suffices");

    assert!(sysctl_file(&machine, 1_000_000).contains("\nfs.nr_open = 1000128\n"), "for any other machine");
}

#[test]
fn what_is_larger_stays() {
    let mut machine = machine();
    machine.sysctls.iter_mut().find(|(name, _)| *name == TCP_MEM).unwrap().1 =
        vec![500_000, 600_000, 9_000_000];
    let fixes = unmet(&machine, 1_000_000);
    assert!(fixes.contains(&(TCP_MEM, Fix::Sysctl("500000 1000000 9000000".to_owned()))), "{fixes:?}");
}

#[test]
fn ten_million_sessions_need_another_machine() {
    let findings = unmet(&machine(), 10_000_000);
    assert!(
        findings.iter().any(|(name, fix)| *name == "memory" && matches!(fix, Fix::Machine(_))),
        "{findings:?}"
    );
}

#[test]
fn what_a_system_does_not_have_is_no_finding() {
    let nothing = Machine { page_bytes: 4096, ..Machine::default() };
    assert_eq!(examine(&nothing, 1_000_000), []);
    assert!(examine(&machine(), 1000).iter().all(|finding| finding.name != CONNTRACK_MAX));
}

#[test]
fn the_file_holds_every_setting() {
    let file = sysctl_file(&machine(), 1_000_000);
    for (name, fix) in unmet(&machine(), 1_000_000) {
        if let Fix::Sysctl(value) = fix {
            assert!(file.contains(&format!("\n{name} = {value}\n")), "{name} in\n{file}");
        }
    }
    assert!(!file.contains(EHASH_ENTRIES), "nobody can set it:\n{file}");
    assert!(file.contains("\nfs.nr_open = 1048576\n"), "what is larger than needed stays:\n{file}");
}

#[test]
fn the_files_in_sysctl_suffice_for_a_stock_machine() {
    for (sessions, file) in [
        (100_000, include_str!("../../../sysctl/relaymesh-100k.conf")),
        (1_000_000, include_str!("../../../sysctl/relaymesh-1m.conf")),
        (10_000_000, include_str!("../../../sysctl/relaymesh-10m.conf")),
    ] {
        let mut machine = machine();
        machine.sysctls.push((CONNTRACK_MAX, vec![262_144]));
        machine.reserved_ports = Some(String::new());
        for line in file.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.split_once(" = ").unwrap();
            if name == RESERVED_PORTS {
                machine.reserved_ports = Some(value.to_owned());
                continue;
            }
            let value = value.split(' ').map(|number| number.parse().unwrap()).collect();
            let name = name.trim_start_matches('-');
            machine.sysctls.iter_mut().find(|(own, _)| *own == name).unwrap().1 = value;
        }
        let short = unmet(&machine, sessions);
        assert!(short.iter().all(|(_, fix)| !matches!(fix, Fix::Sysctl(_))), "{sessions}: {short:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn this_machine_can_be_asked() {
    let machine = Machine::read();
    assert!(machine.sysctl(SOMAXCONN).is_some() && machine.memory_available.is_some());
}
