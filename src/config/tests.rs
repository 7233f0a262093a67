use std::collections::HashMap;
use std::path::Path;

use super::keys::KEYS;
use super::*;
use crate::ids::Namespace;

fn from_file(text: &str) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    config.apply_file(Path::new("relaymesh.toml"), text)?;
    config.check_relations()?;
    Ok(config)
}

#[test]
fn wrong_files_are_refused_with_key_value_and_what_is_allowed() {
    let cases: &[(&str, &[&str])] = &[
        ("loops = -1", &["relaymesh.toml, line 1: loops is -1", "from 0 to 256"]),
        ("descriptor_tables = \"own\"", &["descriptor_tables is \"own\"", "\"private\""]),
        ("\nloops = \"many\"", &["line 2: loops is \"many\"", "whole number"]),
        ("loops = 1.5", &["loops is 1.5"]),
        ("loop = 1", &["unknown key loop", "loops, shards, max_sessions, descriptor_tables, listen", "auth"]),
        ("max_sessions = 16000001", &["max_sessions is 16000001", "from 0 to 16000000"]),
        ("[listen]\naddress = \"localhost\"", &["line 2: listen.address is \"localhost\"", "127.0.0.1:7400"]),
        ("listen = 4", &["listen is 4", "a section with address, admin"]),
        ("[listen]\nadress = \"\"", &["unknown key listen.adress", "address, admin"]),
        ("[sesion]\nheartbeat = \"1s\"", &["unknown key sesion", "session"]),
        ("[session]\nheartbeat = 30", &["session.heartbeat is 30", "500ms to 1h", "30s"]),
        ("[session]\nheartbeat = \"1ms\"", &["session.heartbeat is \"1ms\"", "500ms"]),
        ("[session]\nwrite_stall_deadline = \"0s\"", &["session.write_stall_deadline", "1s to 1h"]),
        ("[session]\ngrace = \"2days\"", &["session.grace is \"2days\"", "0s to 1day"]),
        ("[session]\nframe_bytes_max = \"17MiB\"", &["session.frame_bytes_max", "\"17MiB\"", "16MiB"]),
        ("[session]\nframe_bytes_max = \"1 MiBs\"", &["session.frame_bytes_max", "written like 64MiB"]),
        ("[session]\npublish_window_messages = 5", &["publish_window_messages is 5", "from 1024"]),
        (
            "[queue]\nwhen_full = \"drop\"",
            &["queue.when_full", "\"wait\", \"reject\" or \"dead_letter_oldest\""],
        ),
        ("[namespace]\nmessages_max = -1", &["namespace.messages_max is -1", "from 0"]),
        ("[log]\ndisk_reject = \"101%\"", &["log.disk_reject is \"101%\"", "\"5% or 2GiB\""]),
        ("[log]\ndisk_stop = \"5% and 1GiB\"", &["log.disk_stop", "a size such as 2GiB"]),
        ("[queue]\nattempts = 1001", &["queue.attempts is 1001", "1 to 1000"]),
        ("[queue]\nattempts = [5]", &["queue.attempts is [5]"]),
        ("[queue]\nlease = \"13h\"", &["queue.lease is \"13h\"", "12h"]),
        ("[log]\nsegment_bytes = \"1MiB\"", &["log.segment_bytes is \"1MiB\"", "4MiB"]),
        ("[log]\nsegment_bytes = 8388609", &["log.segment_bytes is 8388609B", "multiple of 4KiB"]),
        ("[log]\ndurability = \"async\"", &["log.durability is \"async\"", "\"sync\"", "interval(100ms)"]),
        ("[log]\ndurability = \"interval\"", &["log.durability is \"interval\"", "from 1ms to 10s"]),
        ("[log]\ndurability = \"interval(0ms)\"", &["log.durability is \"interval(0ms)\"", "1ms"]),
        ("[log]\ndurability = \"interval(11s)\"", &["log.durability is \"interval(11s)\"", "10s"]),
        ("[log]\ndurability = \"interval(100ms\"", &["log.durability", "interval(TIME)"]),
        ("[log]\ndurability = 100", &["log.durability is 100", "interval(TIME)"]),
        (
            "[session]\nframe_bytes_max = \"16MiB\"\npublish_window_bytes = \"16MiB\"\n[mailbox]\nbytes_max=\"16MiB\"\n\
          [log]\nsegment_bytes = \"60MiB\"",
            &["log.segment_bytes is 60MiB", "64MiB", "frame_bytes_max is 16MiB"],
        ),
        (
            "[session]\npublish_window_bytes = \"512KiB\"",
            &["publish_window_bytes is 512KiB", "at least 1MiB"],
        ),
        ("[mailbox]\nbytes_max = \"64KiB\"", &["mailbox.bytes_max is 64KiB", "at least 1023KiB"]),
        ("[queue]\nbackoff_initial = \"1h\"", &["queue.backoff_initial is 1h", "at most 10m"]),
        ("[logging]\nfilter = \"loud=very\"", &["logging.filter is \"loud=very\"", "debug"]),
        ("[logging]\nformat = \"xml\"", &["logging.format is \"xml\"", "\"json\""]),
        (
            "[listen]\nadmin = \"127.0.0.1:7400\"",
            &["listen.admin is 127.0.0.1:7400", "another address or port"],
        ),
        ("[listen]\naddress = \"0.0.0.0:7400\"", &["listen.address is 0.0.0.0:7400", "token", "loopback"]),
        ("[listen]\nadmin = \"[::]:7480\"", &["listen.admin is [::]:7480", "RELAYMESH_SERVE_TOKEN"]),
        ("auth = 5", &["auth is 5", "token_file"]),
        ("[auth]\ntokens = \"x\"", &["unknown key auth.tokens", "token, token_file or namespaces"]),
        ("[auth]\ntoken = \"\"", &["auth.token is a value that is not shown", "1 to 1,024 printable"]),
        ("[auth]\ntoken_file = \"/nowhere/at/all\"", &["auth.token_file /nowhere/at/all"]),
        (
            "[auth]\ntoken = \"a\"\n[auth.namespaces]\nx = \"b\"",
            &["auth.token", "none beside auth.namespaces"],
        ),
        ("[auth.namespaces]\nUpper = \"b\"", &["auth.namespaces.Upper", "a-z"]),
        ("[auth]\nnamespaces = {}", &["auth.namespaces is {}", "NAMESPACE"]),
        ("loops = 1\nloops = 2", &["relaymesh.toml", "line 2", "duplicate key"]),
    ];
    all_refused(cases);
}

#[test]
fn heartbeats_that_do_not_go_together_are_refused() {
    all_refused(&[
        (
            "[session]\nheartbeat_min = \"40s\"",
            &["session.heartbeat is 30s", "at least 40s", "session.heartbeat_min is 40s"],
        ),
        (
            "[session]\nheartbeat_max = \"20s\"",
            &["session.heartbeat is 30s", "at most 20s", "session.heartbeat_max is 20s"],
        ),
        ("[session]\nheartbeat_max = \"2h\"", &["session.heartbeat_max is \"2h\"", "500ms to 1h"]),
        ("[session]\npong_every_max = 17", &["session.pong_every_max is 17", "from 1 to 16"]),
    ]);
}

fn all_refused(cases: &[(&str, &[&str])]) {
    for (text, expected) in cases {
        let error = from_file(text).expect_err(text).to_string();
        for part in *expected {
            assert!(error.contains(part), "{text:?} gave {error:?}, which lacks {part:?}");
        }
    }
}

#[test]
fn a_secret_is_never_shown() {
    let secret = "se cret";
    for text in [
        format!("[auth]\ntoken = {secret:?}"),
        format!("[auth.namespaces]\na = {secret:?}"),
        format!("[auth]\ntoken = {secret:?} x"),
    ] {
        let error = from_file(&text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret), "{error}");
    }
    let config = from_file("[auth]\ntoken = \"hunter2\"").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!config.to_commented_toml().contains("hunter2"));
}

#[test]
fn a_file_sets_what_it_names_and_leaves_the_rest() {
    let config = from_file(
        "data_dir = \"/var/lib/relaymesh\"\nloops = 0x2\n[session]\nheartbeat = \"1m 30s\"\nframe_bytes_max = 65536\n\
         [queue]\nmessages_max = 1_000\nwhen_full = \"reject\"\n[memory]\nbody_bytes_max = \"20 MB\"\n\
         [auth.namespaces]\nacme = \"one\"\n\"a.b\" = \"two\"\n[listen]\naddress = \"0.0.0.0:1\"",
    )
    .unwrap();
    assert_eq!(config.data_dir, Path::new("/var/lib/relaymesh"));
    assert_eq!(config.loops, 2);
    assert_eq!(config.session.heartbeat, Duration::from_secs(90));
    assert_eq!(config.session.whole_message_bytes_max(), 65_536 - 1024);
    assert_eq!(config.message_bytes_max(), limits::MESSAGE_BYTES_MAX as u64);
    assert_eq!((config.queue.messages_max, config.queue.when_full), (1000, WhenFull::Reject));
    assert_eq!(config.memory.body_bytes_max, 20_000_000);
    assert_eq!(config.queue.lease, limits::LEASE);
    assert!(config.auth.allows(&Namespace::parse("a.b").unwrap(), b"two"));
}

#[test]
fn a_flag_outranks_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relaymesh.toml");
    let token_path = dir.path().join("token");
    std::fs::write(&token_path, "from-file\n").unwrap();
    std::fs::write(&path, format!("loops = 3\nmax_sessions = 7\n[auth]\ntoken_file = {token_path:?}\n"))
        .unwrap();

    let file_only = ServeArgs { config: Some(path.clone()), ..ServeArgs::default() };
    let config = Config::load(&file_only).unwrap();
    assert_eq!((config.loops, config.max_sessions), (3, 7));
    let namespace = Namespace::parse("default").unwrap();
    assert!(config.auth.allows(&namespace, b"from-file") && !config.auth.allows(&namespace, b"from-file\n"));

    let listen = Some("0.0.0.0:9".to_owned());
    let flags = ServeArgs { loops: Some("4".into()), token: Some("t".into()), listen, ..file_only };
    let config = Config::load(&flags).unwrap();
    assert_eq!((config.loops, config.max_sessions, config.listen.address.port()), (4, 7, 9));
    assert!(config.auth.allows(&namespace, b"t") && !config.auth.allows(&namespace, b"from-file"));

    let error = Config::load(&ServeArgs { loops: Some("x".into()), ..flags }).unwrap_err().to_string();
    assert!(error.contains("--loops or RELAYMESH_SERVE_LOOPS: loops is \"x\""), "{error}");
    std::fs::write(&path, "[auth.namespaces]\na = \"b\"").unwrap();
    let both = ServeArgs { config: Some(path), token: Some("t".into()), ..ServeArgs::default() };
    assert!(Config::load(&both).unwrap_err().to_string().contains("auth.namespaces"));
    let missing = ServeArgs { config: Some("/nowhere/at/all".into()), ..ServeArgs::default() };
    assert!(Config::load(&missing).unwrap_err().to_string().contains("configuration file /nowhere/at/all"));
}

#[test]
fn every_flag_stands_for_a_key_and_a_variable() {
    #[derive(clap::Parser)]
    struct Serve {
        #[command(flatten)]
        args: ServeArgs,
    }
    let value = || Some("x".to_owned());
    let args = ServeArgs {
        data_dir: value(),
        listen: value(),
        admin: value(),
        loops: value(),
        shards: value(),
        max_sessions: value(),
        descriptor_tables: value(),
        durability: value(),
        log: value(),
        log_format: value(),
        ..ServeArgs::default()
    };
    let command = <Serve as clap::CommandFactory>::command();
    let variables: HashMap<String, String> = (command.get_arguments())
        .filter_map(|arg| Some((format!("--{}", arg.get_long()?), arg.get_env()?.to_str()?.to_owned())))
        .collect();
    let given: Vec<_> = args.given().collect();
    assert_eq!(given.len(), 10);
    for flag in given {
        assert!(KEYS.iter().any(|key| key.path == flag.key), "{}", flag.key);
        assert_eq!(variables[flag.flag], flag.env);
    }
    let parsed = <Serve as clap::Parser>::parse_from(["serve", "--loops", "3", "--print-config"]);
    assert!(parsed.args.print_config && parsed.args.loops.as_deref() == Some("3"));
}

#[test]
fn the_printed_configuration_makes_itself_again() {
    let mut config = Config { data_dir: "a \"quoted\" \\ path".into(), ..Config::default() };
    config.session.grace = Duration::from_millis(1500);
    config.queue.bytes_max = 20_001_000;
    config.log.durability = Durability::Interval(Duration::from_millis(1500));
    let printed = config.to_commented_toml();
    let again = from_file(&printed).unwrap();
    assert_eq!(format!("{config:?}"), format!("{again:?}"));
    assert!(printed.contains("\n[session]\n# ") && printed.contains("grace = \"1s 500ms\""), "{printed}");
}

#[test]
fn defaults_are_within_their_own_bounds() {
    let mut config = Config::default();
    for key in KEYS {
        let shown = key.kind.show(&mut config);
        let text = shown.trim_matches('"').to_owned();
        assert!(key.kind.set(&mut config, &text), "{} = {shown}; {}", key.path, key.kind.allowed());
    }
    config.check_relations().unwrap();
}

#[test]
fn a_token_opens_what_it_is_for() {
    let [a, b] = ["a", "b"].map(|name| Namespace::parse(name).unwrap());
    let token = |text| Token::parse(text).unwrap();
    assert!(Auth::Open.allows(&a, b""));
    let shared = Auth::Shared(token("secret"));
    assert!(shared.allows(&a, b"secret") && shared.allows(&b, b"secret"));
    for wrong in [&b""[..], b"secre", b"secrets", b"Secret"] {
        assert!(!shared.allows(&a, wrong));
    }
    let per = Auth::PerNamespace(HashMap::from([(a.clone(), token("one")), (b.clone(), token("two"))]));
    assert!(per.allows(&a, b"one") && !per.allows(&a, b"two") && per.allows(&b, b"two"));
    assert!(!per.allows(&Namespace::parse("c").unwrap(), b"one"));
    assert!(per.allows_any(b"two") && !per.allows_any(b"three"));
    assert_eq!(format!("{:?}", token("secret")), "Token(..)");
    assert!(
        Token::parse("").is_none()
            && Token::parse("a b").is_none()
            && Token::parse(&"x".repeat(1025)).is_none()
    );
}

#[test]
fn durability_is_read_in_every_form_a_user_would_try() {
    let with = |text: &str| from_file(&format!("[log]\ndurability = {text:?}")).unwrap().log.durability;
    let interval = |millis| Durability::Interval(Duration::from_millis(millis));
    assert_eq!(Config::default().log.durability, Durability::Sync);
    assert_eq!(with("sync"), Durability::Sync);
    for text in ["interval(100ms)", "interval(100)", "interval:100ms", "interval:100"] {
        assert_eq!(with(text), interval(100), "{text}");
    }
    assert_eq!(with("interval(1s 500ms)"), interval(1500));
    let flag = ServeArgs { durability: Some("interval:2s".into()), ..ServeArgs::default() };
    assert_eq!(Config::load(&flag).unwrap().log.durability, interval(2000));
    let flag = ServeArgs { durability: Some("fsync".into()), ..ServeArgs::default() };
    let error = Config::load(&flag).unwrap_err().to_string();
    let said = "--durability or RELAYMESH_SERVE_DURABILITY: log.durability is \"fsync\"; allowed is \"sync\"";
    assert!(error.contains(said), "{error}");
}

#[test]
fn a_watermark_is_the_lesser_of_its_share_and_its_size() {
    const GIB: u64 = 1 << 30;
    for (text, of_ten_gib, of_a_tib) in [
        ("10%", GIB, 1024 * GIB / 10),
        ("2GiB", 2 * GIB, 2 * GIB),
        ("10% or 2GiB", GIB, 2 * GIB),
        ("100%", 10 * GIB, 1024 * GIB),
        ("0", 0, 0),
    ] {
        let mark = Watermark::parse(text).unwrap();
        assert_eq!((mark.of(10 * GIB), mark.of(1024 * GIB)), (of_ten_gib, of_a_tib), "{text}");
        assert_eq!(mark.show(), text);
    }
}
