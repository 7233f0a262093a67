use super::*;
use crate::queue::QueueConfig;

fn rules() -> QueueRules {
    QueueConfig::default().work_queue
}

#[test]
fn every_setting_shows_what_it_takes() {
    for setting in SETTINGS.iter().filter(|setting| !matches!(setting.kind, Kind::Weight)) {
        let shown = setting.kind.show(&mut rules());
        let mut again = rules();
        if shown != "no bound" {
            assert_eq!(apply(&mut again, setting.key, &shown), Ok(()), "{}", setting.key);
        }
        assert_eq!(again, rules(), "{} = {shown}", setting.key);
        let error = apply(&mut again, setting.key, "nonsense").unwrap_err();
        assert!(error.contains(setting.key) && error.contains("nonsense"), "{error}");
    }
}

#[test]
fn what_is_set_is_there() {
    let mut rules = rules();
    for (key, value) in [
        ("messages_max", "10"),
        ("bytes_max", "1MiB"),
        ("when_full", "dead_letter_oldest"),
        ("ttl", "1h"),
        ("ageing", "5s"),
        ("dead_head", "hold"),
        ("publish_per_s", "100"),
        ("weight.gold", "5"),
        ("weight.a b", "1000"),
    ] {
        apply(&mut rules, key, value).unwrap();
    }
    assert_eq!((rules.messages_max, rules.bytes_max), (10, 1 << 20));
    assert_eq!((rules.when_full, rules.dead_head), (WhenFull::DeadLetterOldest, DeadHead::Hold));
    assert_eq!((rules.ttl, rules.ageing), (Some(Duration::from_secs(3600)), Some(Duration::from_secs(5))));
    assert_eq!(rules.publish_per_s, Some(100));
    assert_eq!(rules.weights.len(), 2);
    apply(&mut rules, "publish_per_s", "0").unwrap();
    apply(&mut rules, "ttl", "0").unwrap();
    assert_eq!((rules.publish_per_s, rules.ttl), (None, None));
}

#[test]
fn what_is_not_allowed_is_named() {
    for (key, value, says) in [
        ("messages_max", "0", "from 1"),
        ("attempts", "1001", "1 to 1000"),
        ("backoff_factor", "99", "100 to 1000"),
        ("when_full", "drop", "dead_letter_oldest"),
        ("dead_head", "", "release or hold"),
        ("weight.gold", "0", "1 to 1000"),
        ("weight.", "1", "weight.<fairness key>"),
        ("colour", "red", "messages_max"),
    ] {
        let error = apply(&mut rules(), key, value).unwrap_err();
        assert!(error.contains(key) && error.contains(says), "{error}");
    }
}
