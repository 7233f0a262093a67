use super::*;

const DUE_US: u64 = 77;

fn payload() -> Vec<u8> {
    [&crate::stamp::stamp(DUE_US)[..], b"\r\nMSG \r\n"].concat()
}

/// Feeds `input` in two pieces, cut at every place, and in one.
fn hear(protocol: &dyn Fn() -> Box<dyn Protocol>, input: &[u8], expected: &Heard) -> Vec<u8> {
    let mut outputs = Vec::new();
    for cut in 0..=input.len() {
        let (mut protocol, mut heard, mut out) = (protocol(), Heard::default(), Vec::new());
        let taken = protocol.hear(&input[..cut], &mut heard, &mut out).expect("the first piece");
        assert!(taken <= cut);
        let rest = protocol.hear(&input[taken..], &mut heard, &mut out).expect("the rest");
        assert_eq!(taken + rest, input.len(), "cut at {cut}");
        assert_eq!(&heard, expected, "cut at {cut}");
        outputs.push(out);
    }
    assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]), "the same acks however it came");
    outputs.swap_remove(0)
}

fn heard(published: usize, acked: usize, delivered: usize, is_ask_over: bool) -> Heard {
    Heard { published, acked, delivered: vec![Some(DUE_US); delivered], is_ask_over }
}

#[test]
fn redis_answers() {
    let publisher = || -> Box<dyn Protocol> {
        let mut redis = redis::Redis::new("load", 0);
        redis.publish(b"1", &mut Vec::new());
        redis.publish(b"2", &mut Vec::new());
        Box::new(redis)
    };
    let out = hear(&publisher, b"$3\r\n1-0\r\n$3\r\n2-0\r\n", &heard(2, 0, 0, false));
    assert!(out.is_empty());

    let worker = || -> Box<dyn Protocol> {
        let mut redis = redis::Redis::new("load", 3);
        redis.ask(8, &mut Vec::new());
        Box::new(redis)
    };
    let body = payload();
    let entry = |id: &str| {
        let head = format!("*2\r\n${}\r\n{id}\r\n*2\r\n$1\r\nm\r\n${}\r\n", id.len(), body.len());
        [head.as_bytes(), &body, b"\r\n"].concat()
    };
    let head: &[u8] = b"*1\r\n*2\r\n$4\r\nload\r\n*2\r\n";
    let input = [head, &entry("11-0"), &entry("12-5"), b":1\r\n"].concat();
    let out = hear(&worker, &input, &heard(0, 1, 2, true));
    let acks = String::from_utf8(out).expect("text");
    assert_eq!(acks.matches("$4\r\nXACK\r\n$4\r\nload\r\n$7\r\nworkers\r\n").count(), 2);
    assert!(acks.contains("$4\r\n11-0\r\n") && acks.contains("$4\r\n12-5\r\n"));
}

#[test]
fn redis_refusals_end_the_run() {
    let mut redis = redis::Redis::new("load", 0);
    redis.publish(b"1", &mut Vec::new());
    let result = redis.hear(b"-OOM command not allowed\r\n", &mut Heard::default(), &mut Vec::new());
    assert!(result.expect_err("refused").to_string().contains("OOM"));
}

#[test]
fn beanstalkd_answers() {
    let protocol = || -> Box<dyn Protocol> { Box::new(beanstalkd::Beanstalkd::new("load")) };
    let body = payload();
    let job = |id: u32| [format!("RESERVED {id} {}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat();
    let input = [b"USING load\r\nINSERTED 7\r\n", &job(8)[..], b"DELETED\r\n", &job(9)].concat();
    let out = hear(&protocol, &input, &heard(1, 1, 2, false));
    assert_eq!(out, b"delete 8\r\ndelete 9\r\n");
    let refused = protocol().hear(b"OUT_OF_MEMORY\r\n", &mut Heard::default(), &mut Vec::new());
    assert!(refused.is_err());
}

#[test]
fn nats_answers() {
    // The inbox is drawn, so the answers are made from what the connection says it is.
    fn seeded() -> (nats::Nats, String) {
        fastrand::seed(1);
        let mut nats = nats::Nats::new("load", 2);
        let mut greeting = Vec::new();
        nats.greet(What::Work, &mut greeting);
        let greeting = String::from_utf8(greeting).expect("text");
        let inbox = greeting.split("SUB ").nth(1).and_then(|rest| rest.split(".*").next());
        (nats, inbox.expect("an inbox").to_owned())
    }
    let inbox = seeded().1;
    let body = payload();
    let message =
        [format!("MSG load 1 $JS.ACK.load.workers.1.5.5.0.0 {}\r\n", body.len()).as_bytes(), &body, b"\r\n"]
            .concat();
    let stored = r#"{"stream":"load","seq":5}"#;
    let input = [
        b"INFO {\"server_id\":\"x\"}\r\nPING\r\n".to_vec(),
        format!("MSG {inbox}.p 1 {}\r\n{stored}\r\n", stored.len()).into_bytes(),
        message,
        format!("MSG {inbox}.a 1 0\r\n\r\n").into_bytes(),
    ]
    .concat();
    let out = hear(&|| Box::new(seeded().0), &input, &heard(1, 1, 1, false));
    let acks = String::from_utf8(out).expect("text");
    assert_eq!(acks, format!("PONG\r\nPUB $JS.ACK.load.workers.1.5.5.0.0 {inbox}.a 4\r\n+ACK\r\n"));

    let refusals = [
        format!("MSG {inbox}.p 1 26\r\n{{\"error\":{{\"code\":503}},\"x\":1\r\n"),
        format!("HMSG {inbox}.p 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"),
        format!("HMSG {inbox}.d 1 28 28\r\nNATS/1.0 408 Timed out\r\nab\r\n\r\n"),
        "-ERR 'Maximum Payload Violation'\r\n".to_owned(),
    ];
    for refusal in refusals {
        let result = seeded().0.hear(refusal.as_bytes(), &mut Heard::default(), &mut Vec::new());
        assert!(result.is_err(), "{refusal:?} is passed over");
    }
}
