use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::thread;

use serde_json::Value;

use super::*;
use crate::config::Token;
use crate::ids::{LoopId, MessageId, Namespace};
use crate::limits::OPERATOR_REQUESTS_MAX;
use crate::mail::{
    Command, CommandReceiver, DeadLetter, DrainOrder, Effect, EffectBatch, OperatorReply, OperatorRequest,
    QueueStats, RefusalCode, Refused, command_lanes, effect_lane,
};
use crate::telemetry::{LoopMetrics, ShardMetrics, Stage};

/// What a step may take before it counts as stuck. It costs nothing while all is well, and machines may be held up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until `holds` does.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = crate::clock::Clock::starting_at(crate::clock::Time(0));
    while !holds() {
        assert!(clock.time() < crate::clock::Time(0) + PATIENCE, "never came true: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An API whose shard answers with `answer`, or not at all. The shard's thread ends with the test's process.
fn api(
    auth: Auth,
    answer: impl Fn(OperatorRequest) -> Option<OperatorReply> + Send + 'static,
) -> AdminHandle {
    api_within(PATIENCE, auth, answer)
}

/// The same with a deadline for the shard.
fn api_within(
    shard_deadline: Duration,
    auth: Auth,
    answer: impl Fn(OperatorRequest) -> Option<OperatorReply> + Send + 'static,
) -> AdminHandle {
    let sources = SourceSet {
        loops: vec![Arc::new(LoopMetrics::default())],
        shards: vec![Arc::new(ShardMetrics::default())],
    };
    api_telling(shard_deadline, auth, sources, Tell::new(|_| ()), answer)
}

/// The same with what there is to show, and what tells the loops.
fn api_telling(
    shard_deadline: Duration,
    auth: Auth,
    sources: SourceSet,
    tell_loops: Tell,
    answer: impl Fn(OperatorRequest) -> Option<OperatorReply> + Send + 'static,
) -> AdminHandle {
    let (operator_bell, rung) = bell();
    let (effect_sender, effects) = effect_lane(LoopId::OPERATOR, operator_bell.clone());
    let (give_lane, lane) = std::sync::mpsc::sync_channel::<(CommandReceiver, Bell)>(1);
    let shard = thread::spawn(move || {
        let (mut commands, shard_bell) = lane.recv().unwrap();
        loop {
            let Some((_, mut batch)) = commands.next_batch() else {
                shard_bell.about_to_sleep();
                if commands.is_empty() {
                    thread::park();
                }
                shard_bell.awake();
                continue;
            };
            for command in batch.drain().0 {
                let Command::Operator { conn, request } = command else { panic!("only operators ask here") };
                if let Some(reply) = answer(*request) {
                    let effect = Effect::Operator { conn, reply: Box::new(reply) };
                    let effects = EffectBatch { effects: vec![effect], ..EffectBatch::default() };
                    effect_sender.send(effects).unwrap();
                }
            }
        }
    });
    let shard_bell = Bell::unparking(shard.thread().clone());
    let (mut senders, receiver) = command_lanes(&[(LoopId::OPERATOR, operator_bell.clone())], &shard_bell);
    give_lane.send((receiver, shard_bell)).unwrap();
    let config = AdminConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        auth,
        message_bytes_max: 1024,
        shard_deadline,
        disk: None,
    };
    let lifecycle = Lifecycle::default();
    lifecycle.advance(Stage::Ready);
    let lanes = vec![OperatorLane { commands: senders.remove(0), effects }];
    spawn(config, sources, lanes, operator_bell, rung, lifecycle, tell_loops).unwrap()
}

fn call(api: &AdminHandle, method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("http://{}{path}", api.address());
    let authorization = format!("Bearer {token}");
    let response = match method {
        "get" => agent.get(url).header("authorization", authorization).call(),
        "delete" => agent.delete(url).header("authorization", authorization).call(),
        _ => agent
            .post(url)
            .header("authorization", authorization)
            .header("content-type", "application/json")
            .send(body),
    };
    let mut response = response.unwrap();
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
}

fn code_of(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap();
    assert!(!body["error"]["text"].as_str().unwrap().is_empty());
    body["error"]["code"].as_str().unwrap().to_owned()
}

#[test]
fn every_path_of_the_document_is_served_and_every_served_path_is_in_it() {
    let api = api(Auth::Open, |_| Some(OperatorReply::Queues(vec![])));
    let document: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert(path.clone());
            let (status, body) =
                call(&api, method, &path.replace("{id}", "1").replace("{name}", "nightly"), "", "{}");
            let unknown = status == 405 || (status == 404 && body.contains("no such path"));
            assert!(!unknown, "{method} {path} is described but answers {status}");
        }
    }
    let mut served = BTreeSet::new();
    let sources = [
        (include_str!("api.rs"), "/api/v1"),
        (include_str!("bindings.rs"), "/api/v1"),
        (include_str!("dead.rs"), "/api/v1"),
        (include_str!("drain.rs"), "/api/v1"),
        (include_str!("messages.rs"), "/api/v1"),
        (include_str!("schedules.rs"), "/api/v1"),
        (include_str!("pages.rs"), ""),
    ];
    for (source, prefix) in sources {
        for line in source.split(".route(\"").skip(1) {
            served.insert(format!("{prefix}{}", line.split('"').next().unwrap()));
        }
    }
    assert_eq!(served, described);
    api.stop();
}

#[test]
fn a_payload_too_large_for_a_response_is_told_by_its_size() {
    let letter = |payload: usize| DeadLetter {
        id: 7,
        queue: "jobs".into(),
        reason: "attempts",
        last_error: String::new(),
        attempts: 5,
        published_unix_ms: 1,
        died_unix_ms: 2,
        bytes: payload as u64 + 3,
        history_left_out: 0,
        history: Vec::new(),
        body: Some(prost::Message::encode_to_vec(&crate::wire::proto::Message {
            payload: vec![b'x'; payload],
            attributes: [("k".to_owned(), "v".to_owned())].into(),
            ..Default::default()
        })),
    };
    for (payload, is_shown) in [(1024, true), (1025, false)] {
        let api = api(Auth::Open, move |_| Some(OperatorReply::Dead(vec![letter(payload)])));
        let (status, text) = call(&api, "get", "/api/v1/dead/7?queue=jobs", "", "");
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, shown["payload_bytes"].as_u64()), (200, Some(payload as u64)), "{text}");
        assert_eq!(shown["payload_base64"].is_string(), is_shown, "{payload}");
        assert_eq!(shown["payload_text"].is_string(), is_shown, "{payload}");
        assert_eq!(shown["attributes"]["k"], "v");
        api.stop();
    }
}

#[test]
fn a_token_is_asked_for_where_there_is_one() {
    let auth = Auth::Shared(Token::parse("secret").unwrap());
    let api = api(auth, |_| Some(OperatorReply::Queues(vec![])));
    for (token, expected) in [("", 401), ("secreT", 401), ("secret", 200)] {
        assert_eq!(call(&api, "get", "/api/v1/queues", token, "").0, expected, "{token:?}");
        assert_eq!(call(&api, "get", "/api/v1/status", token, "").0, expected, "{token:?}");
    }
    assert_eq!(call(&api, "get", "/readyz", "", "").0, 200);
    api.stop();
}

#[test]
fn foreign_pages_are_refused_where_there_is_no_token() {
    let as_page = |api: &AdminHandle, path: &str, headers: &str| {
        let mut stream = TcpStream::connect(api.address()).unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\n{headers}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse::<u16>().unwrap(), body.to_owned())
    };
    let publish = "/api/v1/publish?queue=q";
    let open = api(Auth::Open, |_| Some(OperatorReply::Published(MessageId(1))));
    let own = format!("host: {}", open.address());
    assert_eq!(as_page(&open, publish, &own).0, 200);
    for (headers, code) in [
        (format!("{own}\r\norigin: https://evil.example"), "cross_site"),
        (format!("{own}\r\nsec-fetch-site: same-site"), "cross_site"),
        ("host: evil.example:7480".to_owned(), "foreign_host"),
    ] {
        for path in [publish, "/metrics", "/nothing"] {
            let (status, body) = as_page(&open, path, &headers);
            assert_eq!((status, code_of(&body).as_str()), (403, code), "{path} {headers}");
        }
    }
    open.stop();

    // A page does not know the token; a proxy in front has a name of its own.
    let closed =
        api(Auth::Shared(Token::parse("secret").unwrap()), |_| Some(OperatorReply::Published(MessageId(1))));
    let named = "host: mesh.example\r\norigin: https://mesh.example";
    assert_eq!(as_page(&closed, publish, named).0, 401);
    assert_eq!(as_page(&closed, publish, &format!("{named}\r\nauthorization: Bearer secret")).0, 200);
    closed.stop();
}

#[test]
fn bad_requests_are_refused_with_a_code_and_a_text() {
    let api = api(Auth::Open, |_| panic!("nothing of this may reach the shard"));
    for (method, path, body, status, code) in [
        ("get", "/api/v1/queues?namespace=A", "", 400, "invalid"),
        ("get", "/api/v1/queues?limit=0", "", 400, "invalid"),
        ("get", "/api/v1/queues?limits=1", "", 400, "invalid"),
        ("get", "/api/v1/queue-stats", "", 400, "invalid"),
        ("get", "/api/v1/nothing", "", 404, "not_found"),
        ("post", "/api/v1/dead/redrive", "{\"queue\":\"q\"}", 400, "invalid"),
        ("post", "/api/v1/dead/redrive", "{\"queue\":\"q\",\"id\":1,\"all\":true}", 400, "invalid"),
        ("post", "/api/v1/dead/purge", "{\"queue\":\"q\",\"all\":true,\"to\":\"r\"}", 400, "invalid"),
        ("post", "/api/v1/dead/purge", "nonsense", 400, "invalid"),
        ("post", "/api/v1/dead/purge", "{\"queue\":\"q\",\"all\":true,\"per_s\":5}", 400, "invalid"),
        ("post", "/api/v1/dead/purge", "{\"queue\":\"q\",\"matching\":{}}", 400, "invalid"),
        ("post", "/api/v1/dead/purge", "{\"queue\":\"q\",\"ids\":[]}", 400, "invalid"),
        ("post", "/api/v1/dead/redrive", "{\"queue\":\"q\",\"all\":true,\"per_s\":0}", 400, "invalid"),
        ("get", "/api/v1/dead?reason=bored", "", 400, "invalid"),
        ("get", "/api/v1/dead?queue=q&attr=region", "", 400, "invalid"),
        ("get", "/api/v1/dead/one?queue=q", "", 400, "invalid"),
        ("post", "/api/v1/queues", "", 405, "method_not_allowed"),
        ("get", "/nothing", "", 404, "not_found"),
        ("post", "/api/v1/publish?queue=q&priority=10", "x", 400, "invalid"),
        ("post", "/api/v1/publish?queue=two%20words", "x", 400, "invalid"),
        ("post", "/api/v1/publish?queue=q", &"x".repeat(1025), 413, "too_large"),
        ("post", "/api/v1/publish?queue=q", &"x".repeat(1023), 413, "too_large"),
    ] {
        let (answered, text) = call(&api, method, path, "", body);
        assert_eq!((answered, code_of(&text).as_str()), (status, code), "{method} {path}");
    }
    api.stop();
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_sent() {
    let api = api(Auth::Open, |_| panic!("nothing of this may reach the shard"));
    // A client that went on sending might see the connection reset before it reads the answer.
    let mut stream = TcpStream::connect(api.address()).unwrap();
    let head = "POST /api/v1/dead/purge HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n";
    stream.write_all(format!("{head}content-length: {}\r\n\r\n", 3 << 20).as_bytes()).unwrap();
    let mut status = String::new();
    BufReader::new(&stream).read_line(&mut status).unwrap();
    assert!(status.starts_with("HTTP/1.1 413 "), "{status}");
    api.stop();
}

#[test]
fn refusals_of_the_shard_and_its_silence_are_told_apart() {
    let full = Refused { code: RefusalCode::QueueFull, text: "full".into(), retry_after_ms: 1500 };
    let refusing = api(Auth::Open, move |_| Some(OperatorReply::Refused(full.clone())));
    let (status, body) = call(&refusing, "post", "/api/v1/publish?queue=q", "", "x");
    assert_eq!((status, code_of(&body).as_str()), (429, "queue_full"));
    refusing.stop();

    let silent = api_within(Duration::from_millis(300), Auth::Open, |_| None);
    let (status, body) = call(&silent, "post", "/api/v1/publish?queue=q", "", "x");
    assert_eq!((status, code_of(&body).as_str()), (503, "overloaded"));
    assert_eq!(call(&silent, "get", "/healthz", "", "").0, 503);
    assert_eq!(call(&silent, "get", "/metrics", "", "").0, 200, "counters need no shard");
    silent.stop();
}

#[test]
fn a_publish_reaches_the_shard_with_its_fields() {
    let api = api(Auth::Open, |request| match request {
        OperatorRequest::Publish { namespace, queue, header, body } => {
            assert_eq!((namespace.as_str(), queue.as_str()), ("shop", "jobs"));
            assert_eq!((header.priority, header.delay_ms, header.attempts_max), (7, 5, 3));
            assert!(body.windows(5).any(|window| window == b"hello"));
            Some(OperatorReply::Published(MessageId(42)))
        }
        other => panic!("{other:?}"),
    });
    let path = "/api/v1/publish?namespace=shop&queue=jobs&priority=7&delay_ms=5&attempts=3";
    assert_eq!(call(&api, "post", path, "", "hello"), (200, "{\"id\":42}".to_owned()));
    api.stop();
}

#[test]
fn a_publish_to_a_topic_says_to_how_many_it_was_handed() {
    let api = api(Auth::Open, |request| match request {
        OperatorRequest::Publish { queue, .. } if queue.topic() == Some("news") => {
            Some(OperatorReply::Broadcasted(7))
        }
        OperatorRequest::Publish { .. } => {
            let text = "later".into();
            let code = RefusalCode::Overloaded;
            Some(OperatorReply::Refused(Refused { code, text, retry_after_ms: 1000 }))
        }
        other => panic!("{other:?}"),
    });
    let news = call(&api, "post", "/api/v1/publish?queue=topic/news", "", "hello");
    assert_eq!(news, (200, "{\"subscribers\":7}".to_owned()));
    let (status, body) = call(&api, "post", "/api/v1/publish?queue=topic/other", "", "hello");
    assert_eq!((status, code_of(&body).as_str()), (503, "overloaded"));
    api.stop();
}

#[test]
fn metrics_are_openmetrics_with_bounded_names() {
    let api = api(Auth::Open, |request| match request {
        OperatorRequest::Namespaces => Some(OperatorReply::Namespaces(vec!["default".into()])),
        _ => Some(OperatorReply::Queues(vec![])),
    });
    let (status, text) = call(&api, "get", "/metrics", "", "");
    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("relaymesh_"), "{line}");
    }
    api.stop();
}

#[test]
fn metrics_take_in_every_page_of_queues() {
    let api = api(Auth::Open, |request| match request {
        OperatorRequest::Namespaces => Some(OperatorReply::Namespaces(vec!["default".into()])),
        OperatorRequest::Queues { after, limit, .. } => {
            let first = after.map_or(0, |name| name[1..].parse::<usize>().unwrap() + 1);
            let names = (first..1500).take(limit).map(|i| format!("q{i:04}"));
            Some(OperatorReply::Queues(
                names.map(|queue| QueueStats { queue, ready: 1, ..QueueStats::default() }).collect(),
            ))
        }
        other => panic!("{other:?}"),
    });
    let (_, text) = call(&api, "get", "/metrics", "", "");
    let rest = "relaymesh_queue_depth{namespace=\"other\",queue=\"other\",state=\"ready\"} 1400.0\n";
    assert!(text.contains(rest), "{text}");
    api.stop();
}

#[test]
fn too_many_requests_are_refused_and_do_not_look_like_a_dead_server() {
    // Nobody may be answered for want of time before all have come.
    let api = api_within(100 * PATIENCE, Auth::Open, |request| match request {
        OperatorRequest::Namespaces => Some(OperatorReply::Namespaces(vec![])),
        OperatorRequest::Stats { queue, .. } => Some(OperatorReply::Queues(vec![QueueStats {
            queue: queue.to_string(),
            ..QueueStats::default()
        }])),
        _ => None,
    });
    let waiting: Vec<TcpStream> = (0..OPERATOR_REQUESTS_MAX)
        .map(|_| {
            let mut stream = TcpStream::connect(api.address()).unwrap();
            let head =
                "POST /api/v1/publish?queue=q HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx";
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    let taken = format!("relaymesh_buffer_items{{buffer=\"operator_requests\"}} {OPERATOR_REQUESTS_MAX}.0\n");
    eventually("all requests are taken", || call(&api, "get", "/metrics", "", "").1.contains(&taken));
    let (status, body) = call(&api, "post", "/api/v1/publish?queue=q", "", "x");
    assert_eq!((status, code_of(&body).as_str()), (503, "overloaded"));
    assert_eq!(call(&api, "get", "/healthz", "", "").0, 200);

    // Whoever leaves makes room.
    drop(waiting);
    let free = "{buffer=\"operator_requests\"} 0.0\n";
    eventually("all are gone", || call(&api, "get", "/metrics", "", "").1.contains(free));
    api.stop();
}

#[test]
fn a_connection_that_says_nothing_or_too_little_ends_and_lets_the_next_one_in() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let short = Duration::from_millis(100);
        let patience = Patience { head: short, connection: 5 * short, farewell: short };
        let router = Router::new().route("/", axum::routing::get(std::future::pending::<()>));
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            serve::serve(listener, router, Arc::new(Semaphore::new(1)), patience).await.unwrap();
        });
    });
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let silent = connect();
    let mut half = connect();
    half.write_all(b"GET / HT").unwrap();
    let mut unanswered = connect();
    unanswered.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    for mut stream in [silent, half, unanswered] {
        // All that may come before the end is a refusal; a reset is an end as well.
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

/// An API with two loops that obey as told, and what they were told.
fn draining_api(auth: Auth, obeys: bool) -> (AdminHandle, SourceSet, Arc<Mutex<Vec<DrainOrder>>>) {
    let sources = SourceSet {
        loops: vec![Arc::new(LoopMetrics::default()), Arc::new(LoopMetrics::default())],
        shards: Vec::new(),
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    let (tell, loops) = (Arc::clone(&told), sources.loops.clone());
    let obey = move |order: DrainOrder| {
        tell.lock().unwrap().push(order);
        for own in &loops {
            let wanted = if order.share_ppm > 0 { 10 } else { own.drain_wanted.value() };
            own.drain_wanted.set(wanted);
            own.drain_told.set(3);
            own.drain_running.set(u64::from(order.share_ppm > 0));
            if obeys {
                own.drain_order.set(u64::from(order.number));
            }
        }
    };
    let api = api_telling(PATIENCE, auth, sources.clone(), Tell::new(obey), |_| None);
    (api, sources, told)
}

#[test]
fn a_share_is_drained_one_at_a_time_and_its_progress_seen() {
    let (api, sources, told) = draining_api(Auth::Open, true);
    let ask = |method: &str, query: &str| {
        let (status, text) = call(&api, method, &format!("/api/v1/drain{query}"), "", "");
        (status, serde_json::from_str::<Value>(&text).unwrap())
    };
    let (status, idle) = ask("get", "");
    assert_eq!((status, &idle["state"], &idle["share"]), (200, &"idle".into(), &Value::Null));
    let (status, begun) = ask("post", "?share=0.25&over=90s");
    assert_eq!((status, &begun["state"], &begun["share"]), (200, &"running".into(), &0.25.into()), "{begun}");
    assert_eq!(
        (&begun["wanted"], &begun["told"], &begun["remaining"], &begun["over_ms"]),
        (&20.into(), &6.into(), &14.into(), &90_000.into())
    );
    let (status, refused) = ask("post", "?share=0.5");
    assert_eq!((status, &refused["error"]["code"]), (409, &"draining".into()));
    assert_eq!(refused["drain"]["told"], 6, "{refused}");
    let (status, cancelled) = ask("delete", "");
    assert_eq!((status, &cancelled["state"], &cancelled["told"]), (200, &"cancelled".into(), &6.into()));
    for own in &sources.loops {
        own.drain_leaving.set(1);
    }
    assert_eq!(ask("post", "?share=1").0, 409, "those that were told have not left");
    for own in &sources.loops {
        own.drain_leaving.set(0);
    }
    let (status, begun) = ask("post", "?share=1");
    assert_eq!((status, &begun["over_ms"]), (200, &30_000.into()), "{begun}");
    for own in &sources.loops {
        own.drain_running.set(0);
        own.drain_told.set(10);
    }
    let (_, done) = ask("get", "");
    assert_eq!((&done["state"], &done["told"], &done["remaining"]), (&"done".into(), &20.into(), &0.into()));
    let orders: Vec<_> = told.lock().unwrap().iter().map(|order| (order.number, order.share_ppm)).collect();
    assert_eq!(orders, [(1, 250_000), (2, 0), (3, 1_000_000)]);
    api.stop();
}

#[test]
fn a_drain_runs_until_every_loop_has_heard_of_it() {
    let (api, _, _) = draining_api(Auth::Open, false);
    let (status, text) = call(&api, "post", "/api/v1/drain?share=0.5", "", "");
    let begun: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &begun["state"], &begun["told"]), (200, &"running".into(), &0.into()), "{begun}");
    assert_eq!(call(&api, "post", "/api/v1/drain?share=0.5", "", "").0, 409);
    api.stop();
}

#[test]
fn who_may_drain_and_what() {
    let shared = Auth::Shared(Token::parse("all").unwrap());
    let namespaces = ["a", "b"].map(|name| (Namespace::parse(name).unwrap(), Token::parse(name).unwrap()));
    let each = Auth::PerNamespace(namespaces.into());
    for (auth, token, status) in
        [(&shared, "all", 200), (&shared, "no", 401), (&each, "a", 403), (&each, "c", 401)]
    {
        let (api, _, told) = draining_api(auth.clone(), true);
        assert_eq!(call(&api, "post", "/api/v1/drain?share=0.5", token, "").0, status, "{token}");
        assert_eq!(call(&api, "delete", "/api/v1/drain", token, "").0, status, "{token}");
        assert_eq!(told.lock().unwrap().is_empty(), status != 200);
        api.stop();
    }
    let (api, _, told) = draining_api(Auth::Open, true);
    for wrong in [
        "",
        "?share=0",
        "?share=1.5",
        "?share=-1",
        "?share=NaN",
        "?share=x",
        "?share=0.5&over=forever",
        "?share=0.5&over=25h",
    ] {
        let (status, text) = call(&api, "post", &format!("/api/v1/drain{wrong}"), "", "");
        assert_eq!((status, code_of(&text).as_str()), (400, "invalid"), "{wrong}");
    }
    assert!(told.lock().unwrap().is_empty());
    api.stop();
}
