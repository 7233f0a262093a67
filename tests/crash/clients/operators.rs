//! Operators: they redrive and purge dead letters, bind and unbind a topic, add and remove schedules, all over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::{AGAIN, FLIP, MORTAL, Shared, TICKS, Up, tick_payload};
use crate::history::{Dead, Misfire, Place, What};
use crate::support::http::{self, Answer};

/// Dead letters on one page of a listing.
const PAGE: usize = 1000;

/// POST of some JSON; `None` when it was not answered, which leaves open whether it was done.
pub(crate) fn ask(admin: SocketAddr, path: &str, body: &Value) -> Option<Answer> {
    let json = [("content-type", "application/json")];
    http::try_post(admin, &format!("/api/v1{path}"), &json, body.to_string().as_bytes())
}

/// How many were changed, of an answer that says so.
fn changed(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["changed"].as_u64().unwrap_or_else(|| panic!("a count: {answer:?}"))
}

/// All dead letters of a queue, written down.
pub(crate) fn list(shared: &Shared, up: Up, place: Place) -> Option<Vec<Dead>> {
    let asked = shared.now();
    let (mut all, mut after): (Vec<Dead>, u64) = (Vec::new(), 0);
    loop {
        let path = format!("/api/v1/dead?queue={place}&limit={PAGE}&after={after}");
        let page = http::try_get(up.admin, &path)?;
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        let rows = page["dead"].as_array().cloned().unwrap_or_default();
        all.extend(rows.iter().map(|row| Dead {
            id: row["id"].as_u64().expect("a dead letter has an id"),
            reason: row["reason"].as_str().expect("a dead letter has a reason").to_owned(),
            attempts: row["attempts"].as_u64().expect("a dead letter says how often it was tried") as u32,
        }));
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    shared.see(up.life, What::Listed { place, asked, dead: all.clone() });
    Some(all)
}

/// Redrives these, and with `selection` all that it says, or purges them.
fn move_them(shared: &Shared, up: Up, from: Place, to: Option<Place>, ids: &[u64], selection: Option<Value>) {
    let (op, more, ids) = (shared.op(), selection.is_some(), ids.to_vec());
    let mut body =
        selection.unwrap_or_else(|| if ids.len() == 1 { json!({"id": ids[0]}) } else { json!({"ids": ids}) });
    body["queue"] = from.into();
    shared.see(up.life, What::Move { op, from, to, ids, more });
    let path = if to.is_some() { "/dead/redrive" } else { "/dead/purge" };
    if let Some(to) = to {
        body["to"] = to.into();
    }
    if let Some(answer) = ask(up.admin, path, &body) {
        shared.see(up.life, What::Moved { op, changed: changed(&answer) });
    }
}

/// Redrives and purges until told to stop: one, some, all for a reason, all there are.
pub(crate) fn bury_and_raise(shared: &Shared, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    while !shared.is_ending() {
        std::thread::sleep(Duration::from_millis(random.u64(5..60)));
        let from = if random.u8(0..4) == 0 { AGAIN } else { MORTAL };
        let Some(up) = shared.up() else { continue };
        let Some(dead) = list(shared, up, from).filter(|dead| !dead.is_empty()) else { continue };
        let mut ids: Vec<u64> = dead.iter().map(|dead| dead.id).collect();
        random.shuffle(&mut ids);
        ids.truncate(random.usize(1..20));
        let to = if from == AGAIN || random.u8(0..4) == 0 { MORTAL } else { AGAIN };
        match random.u8(0..40) {
            0..6 => move_them(shared, up, from, Some(to), &ids[..1], None),
            6..20 => move_them(shared, up, from, Some(to), &ids, None),
            20..24 => move_them(shared, up, from, None, &ids[..1], None),
            24..36 => move_them(shared, up, from, None, &ids, None),
            36..39 => {
                let reason = ["attempts", "rejected", "expired"][random.usize(0..3)];
                let meant = dead.iter().filter(|dead| dead.reason == reason).map(|dead| dead.id);
                let selection = json!({"matching": {"reason": reason}});
                move_them(shared, up, from, Some(to), &meant.collect::<Vec<_>>(), Some(selection));
            }
            _ => {
                let all: Vec<u64> = dead.iter().map(|dead| dead.id).collect();
                move_them(shared, up, from, Some(to), &all, Some(json!({"all": true})));
            }
        }
    }
}

/// At the end of a round: what is dead is listed once more, then purged, and is gone.
pub(crate) fn clear(shared: &Shared, up: Up) {
    for place in [MORTAL, AGAIN] {
        let dead = list(shared, up, place).expect("the server answers");
        let (op, ids) = (shared.op(), dead.iter().map(|dead| dead.id).collect());
        shared.see(up.life, What::Move { op, from: place, to: None, ids, more: false });
        let answer = ask(up.admin, "/dead/purge", &json!({"queue": place, "all": true})).expect("an answer");
        shared.see(up.life, What::Moved { op, changed: changed(&answer) });
        assert_eq!(changed(&answer), dead.len() as u64, "all dead letters of {place} are purged");
        list(shared, up, place);
    }
}

/// Binds and unbinds until told to stop.
pub(crate) fn flip(shared: &Shared, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stands = random.bool();
    while !shared.is_ending() {
        std::thread::sleep(Duration::from_millis(random.u64(10..150)));
        let Some(up) = shared.up() else { continue };
        let op = shared.op();
        shared.see(up.life, What::Bind { op, place: FLIP, stands });
        let answer = if stands {
            let body = json!({"name": "flip", "pattern": "crash.>", "filter": "size >= 0", "to": FLIP});
            ask(up.admin, "/bindings", &body)
        } else {
            ask(up.admin, "/bindings/remove", &json!({"name": "flip"}))
        };
        let Some(answer) = answer else { continue };
        assert_eq!(answer.status, 200, "{answer:?}");
        shared.see(up.life, What::Bound { op });
        // What was not answered is asked for again, or the opposite.
        stands = !stands || random.u8(0..8) == 0;
    }
}

/// The name of a schedule.
fn name(shared: &Shared, schedule: u32) -> String {
    format!("r{}-s{schedule}", shared.round())
}

/// Asks once for a schedule to be added, or (without a policy) to be removed; whether it was answered.
fn plan(shared: &Shared, up: Up, op: u64, schedule: u32, misfire: Option<Misfire>) -> bool {
    let name = name(shared, schedule);
    let answer = match misfire {
        Some(misfire) => {
            let policy = format!("{misfire:?}").to_lowercase();
            let message = json!({"payload_text": tick_payload(schedule), "attempts": 1000});
            let body = json!({
                "name": name, "cron": "* * * * * *", "queue": TICKS, "misfire": policy, "message": message,
            });
            ask(up.admin, "/schedules", &body)
        }
        None => http::try_delete(up.admin, &format!("/api/v1/schedules/{name}")),
    };
    let Some(answer) = answer else { return false };
    // Asked for again, it may have been removed before.
    let is_gone = misfire.is_none() && answer.status == 404;
    assert!(answer.status == 200 || is_gone, "{answer:?}");
    shared.see(up.life, What::Planned { op });
    true
}

/// Asks until it is answered.
fn plan_surely(shared: &Shared, schedule: u32, misfire: Option<Misfire>) {
    let op = shared.op();
    shared.see(shared.life(), What::Plan { op, schedule, misfire });
    while !shared.is_over() && !shared.up().is_some_and(|up| plan(shared, up, op, schedule, misfire)) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Schedules that stand through the whole round, one a policy.
pub(crate) const STANDING: [(u32, Misfire); 3] = [(1, Misfire::Skip), (2, Misfire::Once), (3, Misfire::All)];

/// Adds the schedules that stand, and others that come and go until told to stop.
pub(crate) fn schedule(shared: &Shared, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for (schedule, misfire) in STANDING {
        plan_surely(shared, schedule, Some(misfire));
    }
    let mut next = 10;
    while !shared.is_ending() {
        next += 1;
        let misfire = STANDING[random.usize(0..3)].1;
        // Most are asked for once, whatever comes of it.
        let Some(up) = shared.up() else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let op = shared.op();
        shared.see(up.life, What::Plan { op, schedule: next, misfire: Some(misfire) });
        plan(shared, up, op, next, Some(misfire));
        for _ in 0..random.u32(10..150) {
            if !shared.is_ending() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        plan_surely(shared, next, None);
    }
}

/// What the server says of its schedules, written down.
pub(crate) fn list_schedules(shared: &Shared, up: Up) -> Vec<(u32, u64)> {
    let asked = shared.now();
    let page = http::get(up.admin, "/api/v1/schedules?limit=1000").json();
    let rows = page["schedules"].as_array().cloned().unwrap_or_default();
    let prefix = name(shared, 0);
    let prefix = prefix.trim_end_matches('0');
    let told = |row: &Value| {
        let schedule = row["name"].as_str()?.strip_prefix(prefix)?.parse().ok()?;
        Some((schedule, row["last_unix_ms"].as_u64().unwrap_or(0) / 1000))
    };
    let schedules: Vec<(u32, u64)> = rows.iter().filter_map(told).collect();
    shared.see(up.life, What::Plans { asked, schedules: schedules.clone() });
    schedules
}

/// Removes the schedules that stand.
pub(crate) fn unschedule(shared: &Shared) {
    STANDING.into_iter().for_each(|(schedule, _)| plan_surely(shared, schedule, None));
}
