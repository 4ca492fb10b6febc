mod groups;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn member(name: &str, incarnation: &str) -> Member {
    Member { name: name.to_owned(), incarnation: incarnation.to_owned() }
}

fn place(host: &str) -> Place {
    Place { boot: host.to_owned(), network: "net".to_owned(), listeners: ["0.0.0.0:9092".to_owned()].into() }
}

fn identity() -> Request {
    Request::Identity { log: "L".to_owned() }
}

fn joined(proxy: &Member, host: &str) -> Request {
    Request::Joined { proxy: proxy.clone(), rules: RULES, place: place(host), admin: None }
}

fn left(proxy: &Member) -> Request {
    Request::Left { proxy: proxy.clone(), late: false }
}

fn left_late(proxy: &Member) -> Request {
    Request::Left { proxy: proxy.clone(), late: true }
}

/// A file with the route `orders` at home on `home`.
fn wish(proxy: &Member, taken: u32, home: &str) -> Request {
    let routes = [("orders".to_owned(), Wished { home: home.to_owned(), owns: "orders".to_owned() })].into();
    Request::Wish { proxy: proxy.clone(), taken, file: home.to_owned(), routes }
}

fn hold_of(by: &Member, after: i64, from: &str, to: &str, topics: &[(&str, u32)]) -> Request {
    let topic = |(name, partitions): &(&str, u32)| ((*name).to_owned(), Topic { partitions: *partitions, ids: BTreeMap::new() });
    Request::Hold {
        by: by.clone(),
        after,
        from: from.to_owned(),
        to: to.to_owned(),
        routes: ["orders".to_owned()].into(),
        topics: topics.iter().map(topic).collect(),
        groups: BTreeSet::new(),
    }
}

fn hold(by: &Member, after: i64) -> Request {
    hold_of(by, after, "old", "new", &[("orders", 2)])
}

fn holding(proxy: &Member, id: i64) -> Request {
    Request::Holding { proxy: proxy.clone(), id }
}

fn closed_of(id: i64, as_of: i64, ends: &[(u32, i64)]) -> Request {
    Request::Closed { id, as_of, by: "mirror".to_owned(), ends: [("orders".to_owned(), ends.to_vec())].into() }
}

fn closed(id: i64, as_of: i64) -> Request {
    closed_of(id, as_of, &[(0, 7), (1, 9)])
}

fn flip_of(by: &Member, id: i64, leader: &str, term: i32, ends: &[i64]) -> Request {
    let led = Led { leader: leader.to_owned(), term, ends: ends.to_vec() };
    Request::Flip { id, by: by.clone(), topics: [("orders".to_owned(), led)].into(), groups: BTreeSet::new() }
}

fn flip(by: &Member, id: i64) -> Request {
    flip_of(by, id, "new", 2, &[7, 9])
}

fn abort(id: i64, until_edit: bool) -> Request {
    Request::Abort { id, by: "a".to_owned(), reason: "the mirror is stopped".to_owned(), until_edit }
}

/// What the state after `requests` says of the last of them; all others count.
fn last_of(requests: &[Request]) -> (State, Verdict) {
    let (mut state, mut verdict) = (State::default(), Verdict::Counts);
    for (offset, request) in (0..).zip(requests) {
        assert_eq!(verdict, Verdict::Counts, "the record before {offset}: {:?}", &requests[..offset as usize]);
        verdict = state.apply(offset, request);
    }
    (state, verdict)
}

/// A log of two proxies that agree: identity 0, joined 1 and 2, files 3 and 4, edits 5 and 6.
fn agreed(a: &Member, b: &Member) -> Vec<Request> {
    vec![identity(), joined(a, "a"), joined(b, "b"), wish(a, 0, "old"), wish(b, 0, "old"), wish(a, 1, "new"), wish(b, 1, "new")]
}

fn after(mut log: Vec<Request>, more: impl IntoIterator<Item = Request>) -> Vec<Request> {
    log.extend(more);
    log
}

#[test]
fn a_move_flips_when_everybody_holds_and_everything_is_closed() {
    let (a, b) = (member("a", "1"), member("b", "1"));
    // hold 7, holding 8 and 9, closed 10, flip 11.
    let log = after(agreed(&a, &b), [hold(&a, 0), holding(&a, 7), holding(&b, 7), closed(7, 9), flip(&b, 7)]);
    let (state, verdict) = last_of(&log);
    assert_eq!(verdict, Verdict::Counts);
    assert_eq!((&*state.leaders()["orders"].cluster, state.term("orders"), &state.leaders()["orders"].ends[..]), ("new", 2, &[7, 9][..]));
    assert_eq!((&*state.homes()["orders"], state.last_decision(), state.open()), ("new", 11, None));
    let receipt = state.receipts().next().unwrap();
    assert_eq!((receipt.of.id, receipt.at, receipt.of.holding.len()), (7, 11, 2));
    assert_eq!(&*state.leaders()["orders"].cluster, "new");
    // And back, after the edit back: wishes 12 and 13, hold 14.
    let there = after(log, [wish(&a, 2, "old"), wish(&b, 2, "old"), hold_of(&b, 11, "new", "old", &[("orders", 2)])]);
    let back = after(there, [holding(&b, 14), holding(&a, 14), closed(14, 16), flip_of(&a, 14, "old", 3, &[7, 9])]);
    let (state, verdict) = last_of(&back);
    assert_eq!((verdict, &*state.leaders()["orders"].cluster, &*state.homes()["orders"]), (Verdict::Counts, "old", "old"));
}

#[test]
fn a_route_that_owns_nothing_moves_its_home_alone() {
    let a = member("a", "1");
    let log = [identity(), joined(&a, "a"), wish(&a, 0, "old"), wish(&a, 1, "new"), hold_of(&a, 0, "old", "new", &[]), holding(&a, 4)];
    let flip = Request::Flip { id: 4, by: a, topics: BTreeMap::new(), groups: BTreeSet::new() };
    let (state, verdict) = last_of(&after(log.into(), [flip]));
    assert_eq!((verdict, &*state.homes()["orders"]), (Verdict::Counts, "new"));
}

#[test]
fn an_abort_restores_everything() {
    let (a, b) = (member("a", "1"), member("b", "1"));
    let (before, _) = last_of(&agreed(&a, &b));
    let (state, verdict) = last_of(&after(agreed(&a, &b), [hold(&a, 0), holding(&a, 7), holding(&b, 7), closed(7, 9), abort(7, false)]));
    assert_eq!(verdict, Verdict::Counts);
    assert_eq!((state.leaders(), state.homes(), state.open()), (before.leaders(), before.homes(), None));
    let outcome = Outcome::Aborted { by: "a".to_owned(), reason: "the mirror is stopped".to_owned() };
    assert_eq!((state.aborts(), &state.receipts().next().unwrap().outcome), (1, &outcome));
}

/// What it is; the log; the last record's fault.
type Case = (&'static str, Vec<Request>, &'static str);

#[test]
#[expect(clippy::too_many_lines, reason = "a table: one line for each rule")]
fn what_does_not_count_says_why() {
    let (a, b, c) = (member("a", "1"), member("b", "1"), member("c", "1"));
    let (a2, b2) = (member("a", "2"), member("b", "2"));
    let log = || agreed(&a, &b);
    let held = || after(log(), [hold(&a, 0)]);
    let quiet = || after(held(), [holding(&a, 7), holding(&b, 7)]);
    let shut = || after(quiet(), [closed(7, 9)]);
    let moved = || after(shut(), [flip(&a, 7)]);
    let one = |home: &str| vec![identity(), joined(&a, "a"), wish(&a, 0, home)];
    let mut other_owner = wish(&b, 2, "new");
    if let Request::Wish { routes, file, .. } = &mut other_owner {
        for wished in routes.values_mut() {
            "less".clone_into(&mut wished.owns);
        }
        *file = "less".to_owned();
    }
    let cases: Vec<Case> = vec![
        (
            "not the first record",
            vec![joined(&a, "a")],
            "the log's first record is not its identity: it was not begun by kferry, or its beginning is lost",
        ),
        ("a second identity", vec![identity(), identity()], "the log has its identity already"),
        ("joined twice", vec![identity(), joined(&a, "a"), joined(&a, "a")], "proxy a (1) has joined already"),
        (
            "back after it left",
            vec![identity(), joined(&a, "a"), left(&a), joined(&a, "a")],
            "proxy a (1) is gone: it left, was replaced or was forgotten; it can only join as a new incarnation",
        ),
        (
            "late, after it was replaced from its place",
            vec![identity(), joined(&a, "a"), joined(&a2, "a"), joined(&a, "a")],
            "proxy a (1) is gone: it left, was replaced or was forgotten; it can only join as a new incarnation",
        ),
        (
            "late, after it left",
            vec![identity(), left(&a), joined(&a, "a")],
            "proxy a (1) is gone: it left, was replaced or was forgotten; it can only join as a new incarnation",
        ),
        (
            "hold by one that has not read that something may still arrive",
            after(log(), [left_late(&b), hold(&a, 0)]),
            "its author had read the decisions up to 0, and 7 came since",
        ),
        (
            "flip while something of one that did not hold may still arrive",
            after(held(), [left_late(&b), holding(&a, 7), closed(7, 9), flip(&a, 7)]),
            "proxy b (1) has left before it was holding, and what it had sent may still arrive",
        ),
        (
            "forgotten twice",
            vec![
                identity(),
                joined(&a, "a"),
                Request::Forgotten { proxy: a.clone(), by: "me".to_owned() },
                Request::Forgotten { proxy: a.clone(), by: "me".to_owned() },
            ],
            "proxy a (1) is gone: it left, was replaced or was forgotten; it can only join as a new incarnation",
        ),
        ("a file before joining", vec![identity(), wish(&a, 0, "old")], "proxy a (1) has not joined"),
        ("an earlier file, late", after(log(), [wish(&a, 0, "old")]), "proxy a (1) has taken a later file already"),
        ("a file twice", after(log(), [wish(&a, 1, "new")]), "proxy a (1) has taken a later file already"),
        ("hold by nobody", after(log(), [hold(&c, 0)]), "proxy c (1) has not joined"),
        ("hold twice", after(held(), [hold(&a, 0)]), "move 7 is open: one move at a time"),
        ("a duel", after(held(), [hold(&b, 0)]), "move 7 is open: one move at a time"),
        ("a late copy of a hold", after(moved(), [hold(&a, 0)]), "its author had read the decisions up to 0, and 11 came since"),
        ("hold from where it does not lead", after(moved(), [hold(&a, 11)]), "topic orders is led by new, not by old"),
        (
            "hold after an operator's abort",
            after(held(), [abort(7, true), hold(&a, 8)]),
            "an operator has aborted move 7: no move begins before the file is changed, or read again (POST /reload, or SIGHUP)",
        ),
        (
            "no cluster",
            after(log(), [hold_of(&a, 0, "new", "new", &[])]),
            "a move needs a route, two clusters, and partitions in each topic",
        ),
        (
            "no partition",
            after(log(), [hold_of(&a, 0, "old", "new", &[("orders", 0)])]),
            "a move needs a route, two clusters, and partitions in each topic",
        ),
        (
            "one proxy has another file",
            after(log(), [wish(&b, 2, "old"), hold(&a, 0)]),
            "route orders: proxy a wants it on new, proxy b on old",
        ),
        (
            "one proxy owns other topics",
            after(log(), [other_owner, hold(&a, 0)]),
            "route orders: proxy a wants it on new, proxy b on new, with other topics or groups",
        ),
        (
            "nobody wants it there",
            after(log(), [hold_of(&a, 0, "old", "third", &[])]),
            "route orders: proxy a wants it on third, proxy a on new",
        ),
        ("one proxy has read no file", after(log(), [joined(&c, "c"), hold(&a, 0)]), "route orders: proxy c has no such route in its file"),
        (
            "a restart with an old file",
            after(one("old"), [wish(&a, 1, "new"), joined(&a2, "a"), wish(&a2, 0, "old"), hold_of(&a2, 0, "new", "old", &[])]),
            "route orders: proxy a still has the file with which it has started, and another one was taken since: edit the file there, or, if it \
             is the one that counts, have it read again (POST /reload, or SIGHUP)",
        ),
        ("holding nothing", after(log(), [holding(&a, 7)]), "move 7 is not open"),
        ("holding what is over", after(moved(), [holding(&a, 7)]), "move 7 is not open"),
        ("holding what another move holds", after(held(), [abort(7, false), hold(&a, 8), holding(&a, 7)]), "move 7 is not open"),
        ("holding twice", after(held(), [holding(&a, 7), holding(&a, 7)]), "proxy a (1) is holding already"),
        ("holding by nobody", after(held(), [holding(&c, 7)]), "proxy c (1) has not joined"),
        (
            "holding by one that was replaced",
            after(held(), [joined(&b2, "b"), holding(&b, 7)]),
            "proxy b (1) is gone: it left, was replaced or was forgotten; it can only join as a new incarnation",
        ),
        ("closed before all hold", after(held(), [holding(&a, 7), closed(7, 8)]), "not every proxy holds: b not"),
        (
            "closed, measured before all held",
            after(quiet(), [closed(7, 8)]),
            "the ends were measured after reading up to 8, and the last proxy said at 9 that it holds",
        ),
        ("closed what is not open", after(moved(), [closed(7, 9)]), "move 7 is not open"),
        ("closed what it does not have", after(quiet(), [closed_of(7, 9, &[(2, 1)])]), "partition 2 of topic orders is not of this move"),
        ("closed below zero", after(quiet(), [closed_of(7, 9, &[(1, -1)])]), "partition 1 of topic orders is not of this move"),
        (
            "flip before all is closed",
            after(quiet(), [closed_of(7, 9, &[(0, 7)]), flip(&a, 7)]),
            "1 partitions are not closed, partition 1 of topic orders is the first: the mirror does not run or lags, or it has diverged \
             (`kferry status`), or somebody writes to it past the relay",
        ),
        ("flip before all hold", after(held(), [holding(&a, 7), flip(&a, 7)]), "not every proxy holds: b not"),
        ("flip twice", after(moved(), [flip(&b, 7)]), "move 7 is not open"),
        ("flip after the abort", after(shut(), [abort(7, false), flip(&a, 7)]), "move 7 is not open"),
        ("abort after the flip", after(moved(), [abort(7, false)]), "move 7 is not open"),
        (
            "a flip to somewhere else",
            after(shut(), [flip_of(&a, 7, "old", 2, &[7, 9])]),
            "it decides something else than what follows from the records before it",
        ),
        (
            "a flip at other ends",
            after(shut(), [flip_of(&a, 7, "new", 2, &[7, 8])]),
            "it decides something else than what follows from the records before it",
        ),
        ("a proxy joins between", after(shut(), [joined(&c, "c"), flip(&a, 7)]), "not every proxy holds: c not"),
        (
            "a proxy joins between, and holds: what was measured before does not count",
            after(shut(), [joined(&c, "c"), holding(&c, 7), flip(&a, 7)]),
            "2 partitions are not closed, partition 0 of topic orders is the first: the mirror does not run or lags, or it has diverged \
             (`kferry status`), or somebody writes to it past the relay",
        ),
        (
            "a proxy joins between, and what was measured before comes late",
            after(shut(), [joined(&c, "c"), holding(&c, 7), closed(7, 9)]),
            "the ends were measured after reading up to 9, and the last proxy said at 12 that it holds",
        ),
        ("a proxy starts anew between", after(shut(), [joined(&b2, "b"), flip(&a, 7)]), "not every proxy holds: b not"),
        (
            "everybody has left",
            after(shut(), [left(&a), left(&b), flip(&a, 7)]),
            "proxy a (1) is gone: it left, was replaced or was forgotten; it can only join as a new incarnation",
        ),
    ];
    for (what, log, why) in cases {
        let (_, verdict) = last_of(&log);
        let Verdict::Void(void) = verdict else { panic!("{what}: it counts") };
        assert_eq!(void.to_string(), why, "{what}");
    }
}

#[test]
fn a_new_incarnation_takes_the_place_of_an_old_one_only_from_the_same_place() {
    let (a, a2) = (member("a", "1"), member("a", "2"));
    let (state, _) = last_of(&[identity(), joined(&a, "host"), joined(&a2, "host")]);
    assert!(state.is_gone(&a) && state.joined()[&a2].replaces && state.joined().len() == 1);
    let (state, _) = last_of(&[identity(), joined(&a, "host"), joined(&a2, "other host")]);
    assert!(!state.is_gone(&a) && !state.joined()[&a2].replaces && state.joined().len() == 2);
    // It may have been alive; once it has come back nothing is left of that.
    let forgotten = Request::Forgotten { proxy: a.clone(), by: "me".to_owned() };
    let (state, _) = last_of(&[identity(), joined(&a, "a"), forgotten, joined(&a2, "b")]);
    assert!(state.joined()[&a2].replaces);
    let (state, _) = last_of(&[identity(), joined(&a, "a"), left(&a), joined(&a2, "a")]);
    assert!(!state.joined()[&a2].replaces);
    let (state, _) = last_of(&[identity(), joined(&a, "host"), joined(&member("b", "2"), "host")]);
    assert_eq!(state.joined().len(), 2, "another name");
}

#[test]
fn who_leaves_is_not_waited_for() {
    let (a, b) = (member("a", "1"), member("b", "1"));
    let log = after(agreed(&a, &b), [hold(&a, 0), holding(&a, 7), left(&b)]);
    assert_eq!(last_of(&log).0.open().unwrap().quiet_since, Some(9));
    let (state, verdict) = last_of(&after(log, [closed(7, 9), flip(&a, 7)]));
    assert_eq!((verdict, state.term("orders")), (Verdict::Counts, 2));
    // What may still arrive of one that was holding is not of this move.
    let log = after(agreed(&a, &b), [hold(&a, 0), holding(&a, 7), holding(&b, 7), left_late(&b), closed(7, 9), flip(&a, 7)]);
    assert_eq!(last_of(&log).1, Verdict::Counts);
}

#[test]
fn the_last_file_counts_and_an_old_one_orders_nothing() {
    let (a, a2) = (member("a", "1"), member("a", "2"));
    let begun = || vec![identity(), joined(&a, "a"), wish(&a, 0, "old")];
    let wanted = |more: Vec<Request>| last_of(&after(begun(), more)).0.wished("orders").map(|(_, wished)| wished.home.clone()).ok();
    let again = |more: Vec<Request>, home: &str, taken| after(more, [joined(&a2, "a"), wish(&a2, taken, home)]);
    assert_eq!(wanted(vec![]).as_deref(), Some("old"));
    assert_eq!(wanted(vec![wish(&a, 1, "new")]).as_deref(), Some("new"));
    assert_eq!(wanted(vec![wish(&a, 1, "new"), wish(&a, 2, "old")]).as_deref(), Some("old"), "reverted");
    // Restarts.
    assert_eq!(wanted(again(vec![], "new", 0)).as_deref(), Some("new"), "with a file that nobody has seen");
    assert_eq!(wanted(again(vec![wish(&a, 1, "new")], "new", 0)).as_deref(), Some("new"), "with the last file");
    assert_eq!(wanted(again(vec![wish(&a, 1, "new")], "old", 0)), None, "with the file before");
    assert_eq!(wanted(again(vec![wish(&a, 1, "new"), wish(&a, 2, "old")], "new", 0)), None, "with a file that was reverted");
    assert_eq!(
        wanted(after(again(vec![wish(&a, 1, "new")], "old", 0), [wish(&a2, 1, "old")])).as_deref(),
        Some("old"),
        "touched while it runs"
    );
}

#[test]
fn the_file_that_all_proxies_shared_when_a_move_began_is_the_one_that_is_not_old() {
    let (a, b, b2) = (member("a", "1"), member("b", "1"), member("b", "2"));
    // b takes the first edit after a took the second one, and leaves; a moves. Then b comes back with that file, and a leaves.
    let late =
        [wish(&a, 2, "old"), wish(&a, 3, "new"), wish(&b, 2, "old"), left(&b), hold(&a, 0), holding(&a, 11), closed(11, 12), flip(&a, 11)];
    let (state, verdict) = last_of(&after(agreed(&a, &b), late.into_iter().chain([joined(&b2, "b"), wish(&b2, 0, "old"), left(&a)])));
    assert_eq!((verdict, state.wished("orders")), (Verdict::Counts, Err(Disagreement::Stale(b2))));
}

#[test]
fn each_proxy_says_once_what_waited_for_a_move_that_is_over() {
    let (a, b, c) = (member("a", "1"), member("b", "1"), member("c", "1"));
    let waited = |proxy: &Member, id, requests| Request::Waited { proxy: proxy.clone(), id, waited: Waited { requests, longest_ms: 80 } };
    let over = || after(agreed(&a, &b), [hold(&a, 0), abort(7, false)]);
    let (state, verdict) = last_of(&after(over(), [waited(&b, 7, 3), waited(&b, 7, 4)]));
    assert_eq!(verdict, Verdict::Void(Void::WaitedBefore(b.clone())));
    let receipt = state.receipts().next().unwrap();
    assert_eq!(receipt.waited, [(b.clone(), Waited { requests: 3, longest_ms: 80 })].into());
    for (log, void) in [
        (after(over(), [waited(&c, 7, 3)]), Void::NotJoined(c.clone())),
        (after(over(), [waited(&a, 6, 3)]), Void::NoReceipt(6)),
        (after(agreed(&a, &b), [hold(&a, 0), waited(&a, 7, 3)]), Void::NoReceipt(7)),
    ] {
        assert_eq!(last_of(&log).1, Verdict::Void(void));
    }
    // A proxy that knows asks for it, before it begins another move.
    let mut proxy = Proxy::new(a.clone(), place("a"), None, SETTINGS);
    for (offset, request) in (0..).zip(over()) {
        proxy.apply(offset, &request, ms(0));
    }
    let known = Known { waited: Some((7, Waited { requests: 2, longest_ms: 80 })), ..known() };
    proxy.take("new".to_owned(), BTreeMap::new());
    let asked: Vec<_> = (0..3).filter_map(|n| proxy.next(&known, ms(n))).collect();
    assert!(asked.contains(&waited(&a, 7, 2)), "{asked:?}");
}

#[test]
fn an_operators_abort_holds_until_another_file_is_taken() {
    let (a, b) = (member("a", "1"), member("b", "1"));
    let stopped = || after(agreed(&a, &b), [hold(&a, 0), abort(7, true)]);
    assert_eq!(last_of(&stopped()).0.stopped(), Some(7));
    assert_eq!(last_of(&after(stopped(), [wish(&b, 2, "new")])).0.stopped(), None, "it is touched");
    let c = member("c", "1");
    assert_eq!(last_of(&after(stopped(), [joined(&c, "c"), wish(&c, 0, "new")])).0.stopped(), Some(7), "another proxy starts with it");
    let (state, verdict) = last_of(&after(stopped(), [wish(&a, 2, "old"), wish(&a, 3, "new"), hold(&b, 8)]));
    assert_eq!((verdict, state.stopped(), state.aborts()), (Verdict::Counts, None, 0));
}

#[test]
fn records_that_are_not_known_make_a_reader_refuse_and_garbage_does_not() {
    let mut state = State::default();
    let read = |state: &mut State, bytes: &[u8]| state.read(state.end(), Some(bytes));
    assert_eq!(read(&mut state, &encode(&identity(), RULES).unwrap()), Ok(Verdict::Counts));
    let large = [b" ".repeat(MAX_BYTES), br#"{"v":1,"left":{"proxy":{"name":"a","incarnation":"1"}}}"#.to_vec()].concat();
    for garbage in [
        &b""[..],
        b"\xff\x00",
        b"null",
        b"[1]",
        b"{}",
        br#"{"v":"1"}"#,
        br#"{"v":-1}"#,
        br#"{"v":4294967296}"#,
        &b"[".repeat(100_000),
        &large,
    ] {
        assert_eq!(read(&mut state, garbage), Ok(Verdict::Void(Void::Foreign)));
    }
    assert_eq!(state.read(state.end(), None), Ok(Verdict::Void(Void::Foreign)));
    assert_eq!(state.read(0, None), Ok(Verdict::Void(Void::ReadBefore)));
    let before = state.clone();
    let newer = read(&mut state, br#"{"v":2,"left":{"proxy":{"name":"a","incarnation":"1"}}}"#).unwrap_err();
    assert_eq!(
        newer.to_string(),
        "it was written under version 2 of the rules, and this kferry knows 1: update this kferry before it takes part"
    );
    for unknown in [
        &br#"{"v":1}"#[..],
        br#"{"v":1,"synced":{}}"#,
        br#"{"v":1,"left":{}}"#,
        br#"{"v":1,"left":{"proxy":{"name":"a","incarnation":"1"},"why":1}}"#,
        br#"{"v":1,"holding":{"proxy":{"name":"a","incarnation":"1"},"move":9223372036854775808}}"#,
    ] {
        assert!(matches!(read(&mut state, unknown), Err(Unknown::Malformed { version: 1, .. })), "{}", String::from_utf8_lossy(unknown));
    }
    assert_eq!(state, before);
    // The size of a record is all that sizes memory.
    let (a, b) = (member("a", "1"), member("b", "1"));
    let huge = after(
        agreed(&a, &b),
        [hold_of(&a, 0, "old", "new", &[("orders", u32::MAX)]), holding(&a, 7), holding(&b, 7), closed(7, 9), flip(&a, 7)],
    );
    let void = Void::NotClosed { count: u32::MAX as usize - 2, topic: "orders".to_owned(), partition: 2 };
    assert_eq!(last_of(&huge).1, Verdict::Void(void));
    let too_large = Request::Abort { id: 1, by: String::new(), reason: "x".repeat(MAX_BYTES), until_edit: false };
    assert!(matches!(encode(&too_large, RULES), Err(Unwritable::Large(_))));
}

#[test]
fn records_look_as_the_documents_say() {
    let a = member("a", "1");
    let cases = [
        (identity(), r#"{"v":1,"identity":{"log":"L"}}"#),
        (holding(&a, 7), r#"{"v":1,"holding":{"proxy":{"name":"a","incarnation":"1"},"move":7}}"#),
        (closed(7, 9), r#"{"v":1,"closed":{"move":7,"as_of":9,"by":"mirror","ends":{"orders":[[0,7],[1,9]]}}}"#),
        (
            flip(&a, 7),
            r#"{"v":1,"flip":{"move":7,"by":{"name":"a","incarnation":"1"},"topics":{"orders":{"leader":"new","term":2,"ends":[7,9]}},"groups":[]}}"#,
        ),
    ];
    for (request, json) in cases {
        assert_eq!(String::from_utf8(encode(&request, RULES).unwrap()).unwrap(), json);
        assert_eq!(decode(json.as_bytes()).unwrap(), Some(request));
    }
}

#[test]
fn a_log_that_a_witness_knows_better_is_refused() {
    let (a, b) = (member("a", "1"), member("b", "1"));
    let whole = after(agreed(&a, &b), [hold(&a, 0), holding(&a, 7), holding(&b, 7), closed(7, 9), flip(&b, 7)]);
    let (whole, _) = last_of(&whole);
    let (begun, _) = last_of(&agreed(&a, &b));
    let known = Witness::of(&whole).unwrap();
    assert_eq!((known.end, known.term), (12, 2));
    assert_eq!(Witness::of(&State::default()), None);
    let mut foreign = State::default();
    foreign.apply(0, &joined(&a, "a"));
    let mut grown = begun.clone();
    (7..12).for_each(|offset| drop(grown.apply(offset, &identity())));
    let said = |begins, state: &State, known: Option<&Witness>| check(begins, state, known).map_err(|refused| refused.to_string());
    assert_eq!(said(0, &State::default(), None), Ok(()));
    assert_eq!(said(0, &begun, None), Ok(()));
    assert_eq!(said(0, &whole, Some(&known)), Ok(()));
    assert_eq!(said(0, &whole, Witness::of(&begun).as_ref()), Ok(()), "it has grown");
    let other = Witness { log: "M".to_owned(), ..known.clone() };
    for (begins, state, known, why) in [
        (3, &whole, None, "begins at offset 3, not at 0"),
        (0, &foreign, None, "does not begin with its identity"),
        (0, &State::default(), Some(&known), "is empty, but 12 records of log L were read before"),
        (0, &whole, Some(&other), "is L, but it was M before"),
        (0, &begun, Some(&known), "ends at offset 7, but it was read up to 12 before"),
        (0, &grown, Some(&known), "knows terms up to 1, but it knew term 2 before"),
    ] {
        let refused = said(begins, state, known).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn a_partition_is_closed_when_both_ends_are_equal_and_nothing_is_open() {
    let (a, b) = (member("a", "1"), member("b", "1"));
    let (held, _) = last_of(&after(agreed(&a, &b), [hold(&a, 0), holding(&a, 7)]));
    let (quiet, _) = last_of(&after(agreed(&a, &b), [hold(&a, 0), holding(&a, 7), holding(&b, 7)]));
    let good = Measured { as_of: 9, leader_end: 5, last_stable_offset: 5, follower_end: 5, written_end: Some(5), unanswered: false };
    let said = |state, topic, measured| closing(state, topic, 0, measured).map_err(|why| why.to_string());
    assert_eq!(said(&quiet, "orders", good), Ok(5));
    assert_eq!(said(&quiet, "orders", Measured { written_end: None, ..good }), Ok(5));
    for (state, topic, measured, why) in [
        (&quiet, "else", good, "no move of it is open"),
        (&State::default(), "orders", good, "no move of it is open"),
        (&held, "orders", good, "not every proxy holds: b not"),
        (
            &quiet,
            "orders",
            Measured { as_of: 8, ..good },
            "the ends were measured after reading up to 8, and the last proxy said at 9 that it holds",
        ),
        (&quiet, "orders", Measured { unanswered: true, ..good }, "something that the mirror has written is unanswered"),
        (&quiet, "orders", Measured { follower_end: 4, written_end: Some(4), ..good }, "the follower has 4 of 5"),
        (
            &quiet,
            "orders",
            Measured { follower_end: 6, written_end: None, ..good },
            "the follower ends at 6, behind the leader's end 5: it has diverged",
        ),
        (
            &quiet,
            "orders",
            Measured { written_end: Some(4), ..good },
            "the follower ends at 5, and the mirror has written up to 4: it has diverged",
        ),
        (&quiet, "orders", Measured { last_stable_offset: 3, ..good }, "a transaction is open: the last stable offset is 3, the end 5"),
    ] {
        assert_eq!(said(state, topic, measured), Err(why.to_owned()));
    }
}

#[test]
fn the_mirror_copies_on_from_what_it_has_written_or_from_where_the_term_begins() {
    let (a, b) = (member("a", "1"), member("b", "1"));
    let (moved, _) = last_of(&after(agreed(&a, &b), [hold(&a, 0), holding(&a, 7), holding(&b, 7), closed(7, 9), flip(&b, 7)]));
    let first = State::default();
    let said = |state, partition, end, written| copies_from(state, "orders", partition, end, written).map_err(|why| why.to_string());
    assert_eq!(said(&moved, 1, 9, None), Ok(9), "the term begins");
    assert_eq!(said(&moved, 1, 12, Some(12)), Ok(12));
    assert_eq!(said(&first, 1, 12, None), Ok(12), "in the first term");
    let foreign = Err("the follower ends at 10, and the mirror has written up to 9: it has diverged".to_owned());
    assert_eq!((said(&moved, 1, 10, None), said(&moved, 1, 10, Some(9))), (foreign.clone(), foreign));
}

/// Any record of a small world, in which many of them count.
fn any_request() -> impl Strategy<Value = Request> {
    let proxy = || select(vec![member("a", "1"), member("a", "2"), member("b", "1")]);
    let cluster = || select(vec!["old", "new"]);
    let id = || 0i64..30;
    prop_oneof![
        1 => Just(identity()),
        4 => (proxy(), select(vec!["x", "y"])).prop_map(|(proxy, host)| joined(&proxy, host)),
        1 => (proxy(), any::<bool>()).prop_map(|(proxy, late)| Request::Left { proxy, late }),
        6 => (proxy(), 0u32..4, cluster()).prop_map(|(proxy, taken, home)| wish(&proxy, taken, home)),
        6 => (proxy(), id(), cluster(), cluster()).prop_map(|(by, after, from, to)| hold_of(&by, after, from, to, &[("orders", 1)])),
        8 => (proxy(), id()).prop_map(|(proxy, id)| holding(&proxy, id)),
        4 => (id(), id()).prop_map(|(id, as_of)| closed_of(id, as_of, &[(0, 5)])),
        4 => (proxy(), id(), cluster(), 2i32..4).prop_map(|(by, id, leader, term)| flip_of(&by, id, leader, term, &[5])),
        1 => (id(), any::<bool>()).prop_map(|(id, until_edit)| abort(id, until_edit)),
    ]
}

/// The request as somebody would write it who has read the log: so that more of them count.
fn fitting(state: &State, request: Request) -> Request {
    let id = state.open().map_or(0, |open| open.id);
    match request {
        Request::Hold { by, from, to, .. } => hold_of(&by, state.last_decision(), &from, &to, &[("orders", 1)]),
        Request::Holding { proxy, .. } => holding(&proxy, id),
        Request::Closed { .. } => closed_of(id, state.end() - 1, &[(0, 5)]),
        Request::Flip { by, id: named, .. } => match state.outcome() {
            Ok(Flipped { topics, groups }) => Request::Flip { id, by, topics, groups },
            Err(_) => flip_of(&by, named, "new", 2, &[5]),
        },
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_reader_of_a_log_knows_the_same_and_copies_of_its_records_are_void(
        wild in vec((any_request(), any::<bool>(), option_of_copy()), 1..80)
    ) {
        let mut state = State::default();
        let mut log = vec![(identity(), Verdict::Counts)];
        state.apply(0, &identity());
        for (request, fits, copy) in wild {
            // A copy of an earlier record comes late, in place of a new one: it does not count if the first one did.
            let (request, counted) = match copy {
                Some(back) if back < log.len() => log[log.len() - 1 - back].clone(),
                _ if fits => (fitting(&state, request), Verdict::Void(Void::Foreign)),
                _ => (request, Verdict::Void(Void::Foreign)),
            };
            let before = state.clone();
            let verdict = state.apply(log.len() as i64, &request);
            match (&request, &verdict) {
                // The same partition may be closed again, until the flip.
                (Request::Closed { .. }, _) => {}
                (_, Verdict::Counts) => prop_assert!(counted != Verdict::Counts, "{request:?} counts twice"),
                _ => {}
            }
            if let Verdict::Void(_) = verdict {
                let mut void = state.clone();
                prop_assert_eq!(void.apply(0, &identity()), Verdict::Void(Void::ReadBefore));
                prop_assert_eq!(void.leaders(), before.leaders());
                prop_assert_eq!(void.open(), before.open());
                prop_assert_eq!(void.joined(), before.joined());
                prop_assert_eq!(void.homes(), before.homes());
            }
            log.push((request, verdict));
        }
        // Another reader reads bytes, some of them twice.
        let mut other = State::default();
        for (offset, (request, verdict)) in (0..).zip(&log) {
            let bytes = encode(request, RULES).unwrap();
            prop_assert_eq!(other.read(offset, Some(&bytes)).unwrap(), verdict.clone());
            prop_assert_eq!(other.read(offset, Some(&bytes)).unwrap(), Verdict::Void(Void::ReadBefore));
        }
        prop_assert_eq!(other, state);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, json in "\\{\"v\":1,\"(left|hold|wish|flip)\":.{0,40}") {
        let _ = decode(&bytes);
        let _ = decode(json.as_bytes());
    }
}

fn option_of_copy() -> impl Strategy<Value = Option<usize>> {
    proptest::option::weighted(0.3, 0usize..20)
}

const SETTINGS: Settings = Settings {
    hold: Duration::from_secs(3),
    gather: Duration::from_secs(10),
    stand_by: Duration::from_millis(500),
    late: Duration::from_secs(30),
    retry: Duration::from_secs(10),
    again: Duration::from_secs(1),
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn proxy(me: &Member, host: &str) -> Proxy {
    Proxy::new(me.clone(), place(host), None, SETTINGS)
}

fn take(proxy: &mut Proxy, home: &str) {
    let Request::Wish { file, routes, .. } = wish(&member("", ""), 0, home) else { unreachable!() };
    proxy.take(file, routes);
}

fn owned(blocked: Option<&str>) -> Owned {
    let topic = Topic { partitions: 2, ids: BTreeMap::new() };
    Owned { name: "orders".to_owned(), leader: "old".to_owned(), topic, blocked: blocked.map(str::to_owned) }
}

fn known() -> Known {
    Known { owns: [("orders".to_owned(), vec![owned(None)])].into(), ..Known::default() }
}

/// The proxies `a` and `b` of [`agreed`], which have read the log and these records at 0 ms.
fn both(more: impl IntoIterator<Item = Request>) -> (Proxy, Proxy, i64) {
    let (a, b) = (member("a", "1"), member("b", "1"));
    let log = after(agreed(&a, &b), more);
    let [a, b] = [(a, "a"), (b, "b")].map(|(me, host)| {
        let mut proxy = proxy(&me, host);
        take(&mut proxy, "old");
        take(&mut proxy, "new");
        (0..).zip(&log).for_each(|(offset, request)| assert_eq!(proxy.apply(offset, request, ms(0)), Verdict::Counts));
        proxy
    });
    (a, b, log.len() as i64)
}

fn reason(request: Option<Request>) -> String {
    match request {
        Some(Request::Abort { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_proxy_joins_says_what_it_wants_and_serves_when_it_has_read_that_it_joined() {
    let me = member("a", "1");
    let mut a = proxy(&me, "a");
    a.apply(0, &identity(), ms(0));
    take(&mut a, "old");
    assert_eq!((a.next(&known(), ms(0)), a.serves()), (Some(joined(&me, "a")), Serves::NotYet));
    assert_eq!(a.next(&known(), ms(999)), None, "it is under way");
    assert_eq!(a.next(&known(), ms(1_000)), Some(joined(&me, "a")), "it was lost");
    a.apply(1, &joined(&me, "a"), ms(1_100));
    assert_eq!((a.next(&known(), ms(1_100)), a.serves()), (Some(wish(&me, 0, "old")), Serves::Yes));
    a.apply(2, &wish(&me, 0, "old"), ms(1_200));
    assert_eq!(a.next(&known(), ms(9_000)), None, "what it wants is so");
    take(&mut a, "new");
    let cut = Known { cut: true, ..known() };
    assert_eq!(a.next(&cut, ms(9_000)), None, "what it has cut by the file may still arrive");
    assert_eq!(a.next(&known(), ms(9_000)), Some(wish(&me, 1, "new")));
    take(&mut a, "old");
    assert_eq!(a.next(&known(), ms(9_000)), Some(wish(&me, 2, "old")), "only the last file counts");
    a.apply(3, &joined(&member("a", "2"), "a"), ms(9_100));
    assert_eq!((a.serves(), a.next(&known(), ms(20_000))), (Serves::Cut, None));
    assert_eq!(a.leave(false, ms(20_000)), None);
}

#[test]
fn who_leaves_says_whether_something_may_still_arrive() {
    let me = member("a", "2");
    let mut a = proxy(&me, "a");
    a.apply(0, &identity(), ms(0));
    assert_eq!(a.leave(false, ms(0)), None, "nobody has heard of it");
    assert_eq!(a.next(&known(), ms(0)), Some(joined(&me, "a")));
    assert_eq!(a.leave(false, ms(0)), Some(left_late(&me)), "it does not know whose place it takes");
    (1..).zip([joined(&member("a", "1"), "a"), joined(&me, "a")]).for_each(|(offset, request)| _ = a.apply(offset, &request, ms(1_000)));
    assert_eq!([30_999, 31_000].map(|now| a.leave(false, ms(now))), [Some(left_late(&me)), Some(left(&me))]);
    assert_eq!(a.leave(true, ms(31_000)), Some(left_late(&me)));
}

#[test]
fn nothing_moves_while_something_of_one_that_has_left_may_still_arrive() {
    let (me, b) = (member("a", "1"), member("b", "1"));
    let (mut a, _, end) = both([]);
    assert_eq!(a.apply(end, &left_late(&b), ms(1_000)), Verdict::Counts);
    assert_eq!([1_000, 30_999].map(|now| a.next(&known(), ms(now))), [None, None]);
    let why = "proxy b has left, and what it had sent may still arrive: no move begins before that is over, 30s at most";
    assert_eq!(a.plan(&known(), ms(30_999)).waits["orders"], [why]);
    let begins = hold(&me, end);
    assert_eq!(a.next(&known(), ms(31_000)), Some(begins.clone()));
    assert_eq!((a.apply(end + 1, &begins, ms(31_000)), a.state().left_late()), (Verdict::Counts, None));
    let (mut a, _, end) = both([hold(&me, 0)]);
    a.apply(end, &left_late(&b), ms(10));
    let why = "proxy b (1) has left before it was holding, and what it had sent may still arrive";
    assert_eq!(reason(a.next(&known(), ms(10))), why);
}

#[test]
fn nobody_is_held_while_one_that_took_a_place_could_not_say_that_it_holds() {
    let (b, again) = (member("b", "1"), member("b", "2"));
    let (mut a, _, end) = both([]);
    a.apply(end, &joined(&again, "b"), ms(1_000));
    (1..).zip([wish(&again, 0, "old"), wish(&again, 1, "new")]).for_each(|(n, wish)| _ = a.apply(end + n, &wish, ms(1_000)));
    assert!(!a.state().joined().contains_key(&b));
    assert_eq!((a.next(&known(), ms(1_000)), a.next(&known(), ms(30_999))), (None, None));
    assert_eq!(a.next(&known(), ms(31_000)), Some(hold(&member("a", "1"), a.state().last_decision())));
}

#[test]
fn the_first_proxy_by_name_acts_and_the_next_one_stands_by() {
    let (mut a, mut b, _) = both([]);
    let (me, other) = (member("a", "1"), member("b", "1"));
    assert_eq!(b.next(&known(), ms(0)), None);
    assert_eq!(b.next(&known(), ms(499)), None);
    assert_eq!(b.next(&known(), ms(500)), Some(hold(&other, 0)), "the first one does not");
    assert_eq!(a.next(&known(), ms(0)), Some(hold(&me, 0)));
    // The flip likewise.
    let (mut a, mut b, _) = both([hold(&me, 0), holding(&me, 7), holding(&other, 7), closed(7, 9)]);
    assert_eq!((a.next(&known(), ms(100)), b.next(&known(), ms(100))), (Some(flip(&me, 7)), None));
    assert_eq!(b.next(&known(), ms(600)), Some(flip(&other, 7)));
}

#[test]
fn a_proxy_says_that_it_holds_once_nothing_of_it_is_open() {
    let me = member("a", "1");
    let open = Known { open: Some("2 of client shop at 10.0.0.1 to orders".to_owned()), ..known() };
    let (mut a, ..) = both([hold(&me, 0)]);
    assert_eq!(a.holds().map(|held| held.id), Some(7));
    assert_eq!(a.next(&open, ms(10)), None);
    assert_eq!(a.next(&known(), ms(20)), Some(holding(&me, 7)));
    assert_eq!(a.next(&known(), ms(900)), None);
    assert_eq!(a.next(&known(), ms(1_020)), Some(holding(&me, 7)), "it was lost");
}

#[test]
fn nobody_waits_for_a_proxy_that_cannot_hold_because_it_has_cut_clients() {
    let me = member("a", "1");
    let cut = Known { cut: true, ..known() };
    let (mut a, ..) = both([hold(&me, 0)]);
    let why = "proxy a cannot hold: clients that saw their home alone were cut, and what they had sent may still arrive";
    assert_eq!(reason(a.next(&cut, ms(10))), why);
    // Who has said that it holds waits for the outcome.
    let (mut a, ..) = both([hold(&me, 0)]);
    assert_eq!(a.next(&known(), ms(10)), Some(holding(&me, 7)));
    assert_eq!(a.next(&cut, ms(20)), None);
}

#[test]
fn who_cannot_read_the_log_lets_go_at_the_deadline_too() {
    let me = member("a", "1");
    let open = Known { open: Some("2 of client shop at 10.0.0.1 to orders".to_owned()), ..known() };
    // It is not asked for what is next.
    let (mut a, ..) = both([hold(&me, 0)]);
    assert!(!a.give_up(&open, ms(2_999)));
    assert_eq!(a.holds().map(|held| held.id), Some(7));
    assert!(a.give_up(&open, ms(3_000)));
    assert_eq!(a.holds(), None);
    assert!(
        reason(a.next(&known(), ms(9_000))).starts_with("proxy a could not hold within 3s: requests that were sent before have no answer")
    );
    // Who has said that it holds waits for the outcome.
    let (mut a, ..) = both([hold(&me, 0)]);
    assert_eq!(a.next(&known(), ms(10)), Some(holding(&me, 7)));
    assert!(a.give_up(&open, ms(9_000)));
    assert_eq!(a.holds().map(|held| held.id), Some(7));
}

#[test]
fn who_has_not_said_that_it_holds_lets_go_at_the_deadline_and_who_has_waits_for_the_outcome() {
    let me = member("a", "1");
    let open = Known { open: Some("2 of client shop at 10.0.0.1 to orders".to_owned()), ..known() };
    let (mut a, _, end) = both([hold(&me, 0)]);
    assert_eq!(a.next(&open, ms(2_999)), None);
    assert_eq!(
        reason(a.next(&open, ms(3_000))),
        "proxy a could not hold within 3s: requests that were sent before have no answer: 2 of client shop at 10.0.0.1 to orders"
    );
    assert_eq!(a.holds(), None);
    assert_eq!(a.next(&known(), ms(3_100)), None, "it never holds this move again");
    assert_eq!(a.next(&known(), ms(3_999)), None);
    a.apply(end, &abort(7, false), ms(4_000));
    assert_eq!(a.holds(), None);
    let (mut a, ..) = both([hold(&me, 0)]);
    assert_eq!(a.next(&known(), ms(10)), Some(holding(&me, 7)));
    // The record may be there: from now on only the log says how it ends.
    assert_eq!(reason(a.next(&open, ms(3_000))), "after 3s: not every proxy holds: a, b not");
    assert_eq!(a.holds().map(|held| held.id), Some(7));
    assert!(a.holds().is_some() && a.next(&open, ms(600_000)).is_some());
}

#[test]
fn a_move_is_aborted_when_it_cannot_end_or_is_not_wanted_any_more() {
    let me = member("a", "1");
    let (mut a, mut b, end) = both([hold(&me, 0), holding(&me, 7)]);
    let broken = Known { broken: Some("the mirror is stopped".to_owned()), ..known() };
    assert_eq!(reason(a.next(&broken, ms(10))), "the mirror is stopped");
    take(&mut b, "old");
    let edit = wish(&member("b", "1"), 2, "old");
    assert_eq!(b.next(&known(), ms(10)), Some(edit.clone()));
    b.apply(end, &edit, ms(20));
    assert_eq!(reason(b.next(&known(), ms(20))), "proxy b has taken a file that does not want route orders on new any more");
    // All is closed, and nobody has asked for the flip.
    let (_, mut b, end) = both([hold(&me, 0), holding(&me, 7), holding(&member("b", "1"), 7), closed_of(7, 9, &[(0, 7), (1, 9)])]);
    assert!(b.state().outcome().is_ok());
    take(&mut b, "old");
    b.apply(end, &edit, ms(20));
    assert_eq!(reason(b.next(&known(), ms(20))), "proxy b has taken a file that does not want route orders on new any more");
    let gone = both([hold(&me, 0)]);
    let (mut b, end) = (gone.1, gone.2);
    b.take("none".to_owned(), BTreeMap::new());
    let edit = Request::Wish { proxy: member("b", "1"), taken: 2, file: "none".to_owned(), routes: BTreeMap::new() };
    b.apply(end, &edit, ms(20));
    assert_eq!(reason(b.next(&known(), ms(20))), "proxy b has taken a file that does not want route orders on new any more");
}

#[test]
fn a_flip_is_asked_for_as_soon_as_the_last_look_is_over() {
    let (me, other) = (member("a", "1"), member("b", "1"));
    let (mut a, mut b, _) = both([hold(&me, 0), holding(&me, 7), holding(&other, 7), closed_of(7, 9, &[(0, 7), (1, 9)])]);
    let looking = Known { looking: true, ..known() };
    assert_eq!([a.next(&looking, ms(10)), b.next(&looking, ms(10))], [None, None]);
    assert_eq!((a.next(&known(), ms(20)), b.next(&known(), ms(20))), (Some(flip(&me, 7)), None));
    // What is not in the way of an abort.
    let broken = Known { broken: Some("written past".to_owned()), ..looking };
    assert_eq!(reason(b.next(&broken, ms(30))), "written past");
}

#[test]
fn an_aborted_move_is_tried_again_later_and_later() {
    let me = member("a", "1");
    let mut log = after(agreed(&me, &member("b", "1")), []);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let id = log.len() as i64;
        let last = last_of(&log).0.last_decision();
        log = after(log, [hold(&me, last), abort(id, false)]);
        let (mut a, ..) = both(log[7..].to_vec());
        pauses.push((0..1_000).find(|second| a.next(&known(), ms(second * 1_000)).is_some()).unwrap());
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 160, 160]);
    let other = wish(&me, 2, "old");
    let (mut a, _, end) = both(log[7..].to_vec());
    take(&mut a, "old");
    a.apply(end, &other, ms(0));
    take(&mut a, "new");
    a.apply(end + 1, &wish(&me, 3, "new"), ms(0));
    assert!(matches!(a.next(&known(), ms(0)), Some(Request::Hold { .. })), "after another edit at once");
    let (mut a, ..) = both([hold(&me, 0), abort(7, true)]);
    assert_eq!(a.next(&known(), ms(1_000_000)), None, "not after an operator's");
}

#[test]
fn a_move_that_is_aborted_again_and_again_is_not_in_the_way_of_those_between_other_clusters() {
    let me = member("a", "1");
    let elsewhere = Owned { name: "payments".to_owned(), leader: "other".to_owned(), ..owned(None) };
    let known = Known { owns: [("orders".to_owned(), vec![owned(None), elsewhere])].into(), ..known() };
    let from = |proxy: &mut Proxy| match proxy.next(&known, ms(1_000_000)) {
        Some(Request::Hold { from, .. }) => from,
        other => panic!("{other:?}"),
    };
    let mut log = Vec::new();
    let mut began = Vec::new();
    for _ in 0..4 {
        let (mut a, _, end) = both(log.clone());
        let from = from(&mut a);
        let topic = if from == "old" { "orders" } else { "payments" };
        log.extend([hold_of(&me, a.state().last_decision(), &from, "new", &[(topic, 2)]), abort(end, false)]);
        began.push(from);
    }
    assert_eq!(began, ["old", "other", "old", "other"]);
}

#[test]
fn who_takes_the_place_of_another_does_not_hold_for_thirty_seconds() {
    let (me, old) = (member("a", "2"), member("a", "1"));
    let log = [identity(), joined(&old, "a"), joined(&me, "a"), wish(&me, 0, "old"), wish(&me, 1, "new")];
    let mut a = proxy(&me, "a");
    take(&mut a, "old");
    take(&mut a, "new");
    (0..).zip(&log).for_each(|(offset, request)| drop(a.apply(offset, request, ms(0))));
    assert_eq!(a.next(&known(), ms(29_999)), None);
    assert_eq!(a.next(&known(), ms(30_000)), Some(hold(&me, 0)));
    let mut a = proxy(&me, "a");
    take(&mut a, "new");
    (0..)
        .zip(log.iter().take(4).chain([&wish(&me, 1, "new"), &hold(&me, 0)]))
        .for_each(|(offset, request)| drop(a.apply(offset, request, ms(0))));
    take(&mut a, "new");
    assert_eq!(a.holds().map(|held| held.id), Some(5), "it holds");
    assert_eq!(a.next(&known(), ms(2_999)), None, "but does not say so");
    assert!(reason(a.next(&known(), ms(3_000))).starts_with("proxy a could not hold"));
}

#[test]
fn what_cannot_move_says_so_and_what_can_moves_together() {
    let (mut a, ..) = both([]);
    let said = |a: &Proxy, known: &Known| a.plan(known, ms(0)).waits.get("orders").cloned().unwrap_or_default();
    let blocked =
        Known { owns: [("orders".to_owned(), vec![owned(Some("it has a transactional producer")), owned(None)])].into(), ..known() };
    assert_eq!(said(&a, &blocked), ["it has a transactional producer"]);
    assert_eq!(a.next(&blocked, ms(0)), None);
    let unknown = Known::default();
    assert_eq!((a.plan(&unknown, ms(0)), a.next(&unknown, ms(0))), (Plan::default(), None), "nobody has looked yet");
    let unanswered = Known { unanswered: true, ..known() };
    assert_eq!(a.next(&unanswered, ms(0)), None);
    assert!(
        a.plan(&unanswered, ms(0)).waits["orders"][0]
            .starts_with("a connection to a broker broke at proxy a, and what was sent may still arrive")
    );
    let other = |name: &str| Owned { name: name.to_owned(), ..owned(None) };
    let two = Known { owns: [("orders".to_owned(), vec![other("x"), other("y")])].into(), ..known() };
    assert_eq!(a.next(&two, ms(0)), Some(hold_of(&member("a", "1"), 0, "old", "new", &[("x", 2), ("y", 2)])));
    // A topic that leads there already does not move; the home does.
    let there = Known { owns: [("orders".to_owned(), vec![Owned { leader: "new".to_owned(), ..owned(None) }])].into(), ..known() };
    assert_eq!(a.next(&there, ms(0)), Some(hold_of(&member("a", "1"), 0, "old", "new", &[])));
    let (_, mut b, end) = both([]);
    b.apply(end, &wish(&member("a", "1"), 2, "old"), ms(0));
    assert_eq!(said(&b, &known()), ["proxy a wants it on old, proxy b on new"]);
}

#[test]
fn a_log_that_has_moved_takes_nothing_more_and_goes_on_from_its_copy() {
    let (a, by) = (member("a", "1"), "operator".to_owned());
    let moved = Request::Moved { to: "there".to_owned(), by: by.clone() };
    let came = Request::Came { from: "here".to_owned(), by };
    let begun = [identity(), joined(&a, "host"), wish(&a, 0, "old"), wish(&a, 1, "new")];
    let mut here = State::default();
    for (offset, request) in (0..).zip(&begun) {
        assert_eq!(here.apply(offset, request), Verdict::Counts);
    }
    let mut there = here.clone();
    // Who holds waits for the outcome where the move began.
    let mut open = here.clone();
    assert_eq!(open.apply(4, &hold(&a, 0)), Verdict::Counts);
    assert_eq!(open.apply(5, &moved), Verdict::Void(Void::OtherMove(4)));
    assert_eq!(open.moved(), None);

    assert_eq!((here.apply(4, &moved), here.moved()), (Verdict::Counts, Some("there")));
    for request in [hold(&a, 0), left(&a), wish(&a, 2, "old"), moved, identity()] {
        let end = here.end();
        let verdict = here.apply(end, &request);
        assert!(matches!(verdict, Verdict::Void(Void::Moved(_) | Void::SecondIdentity)), "{request:?}: {verdict:?}");
    }
    // The copy says the same as the log did, at the same offset, and goes on: the proxies of both are those for whom a move waits.
    assert_eq!((there.apply(4, &came), there.moved()), (Verdict::Counts, None));
    assert_eq!((there.end(), there.joined()), (5, here.joined()));
    assert_eq!(there.apply(5, &hold(&a, 0)), Verdict::Counts);
}

#[test]
fn a_proxy_asks_for_nothing_in_a_log_that_has_moved() {
    let mut proxy = Proxy::new(member("a", "1"), place("host"), None, SETTINGS);
    let now = Duration::from_mins(1);
    proxy.apply(0, &identity(), now);
    assert!(proxy.next(&Known::default(), now).is_some());
    proxy.apply(1, &Request::Moved { to: "there".to_owned(), by: "operator".to_owned() }, now);
    assert_eq!(proxy.next(&Known::default(), now * 2), None);
}

#[test]
fn nothing_begins_before_every_proxy_was_restarted_after_the_log_has_moved() {
    let (mut a, b, end) = both([Request::Came { from: "old".to_owned(), by: "operator".to_owned() }]);
    assert_eq!(a.state().left_behind().collect::<Vec<_>>(), [&member("a", "1"), &member("b", "1")]);
    assert_eq!(a.next(&known(), ms(0)), None);
    let waits = &b.plan(&known(), ms(0)).waits["orders"][0];
    assert!(waits.contains("proxy a still follows the log of decisions where it was") && waits.contains("restart that proxy"), "{waits}");
    for (at, name) in (end..).zip(["a", "b"]) {
        a.apply(at, &joined(&member(name, "2"), name), ms(0));
    }
    assert_eq!(a.state().left_behind().next(), None);
    // Who goes on where the log was says so too.
    let (mut a, ..) = both([Request::Moved { to: "there".to_owned(), by: "operator".to_owned() }]);
    assert_eq!(
        a.plan(&known(), ms(0)).waits["orders"],
        ["the log of decisions has moved to cluster there: write it in [state], and restart proxy a"]
    );
    assert_eq!(a.next(&known(), ms(0)), None);
}

#[test]
fn what_was_born_on_a_target_may_be_copied_once_every_proxy_knows() {
    let (a, b) = (member("a", "1"), member("b", "1"));
    let born = |topics: &[&str]| {
        let topics = topics.iter().map(|topic| ((*topic).to_owned(), None)).collect();
        Request::Born { by: "mirror".to_owned(), leader: "new".to_owned(), follower: "old".to_owned(), topics }
    };
    let knows = |proxy: &Member, born: i64| Request::Knows { proxy: proxy.clone(), born };
    let read = |requests: &[Request]| {
        let mut state = State::default();
        let verdicts: Vec<_> = (0..).zip(requests).map(|(offset, request)| state.apply(offset, request)).collect();
        (state, verdicts.last().cloned().unwrap())
    };
    let begun = || vec![identity(), joined(&a, "one"), joined(&b, "two")];
    let after = |more: &[Request]| read(&[&begun()[..], more].concat());

    let (state, verdict) = after(&[born(&["x", "y"])]);
    assert_eq!((verdict, state.last_decision(), state.all_know("x"), state.all_know("z")), (Verdict::Counts, 3, false, true));
    let leader = &state.leaders()["x"];
    assert_eq!((&*leader.cluster, &*leader.before, leader.term, leader.since), ("new", "old", 1, 3));
    assert!(!after(&[born(&["x"]), knows(&a, 3)]).0.all_know("x"), "one of two");
    assert!(after(&[born(&["x"]), knows(&a, 3), knows(&b, 3)]).0.all_know("x"));
    assert!(after(&[born(&["x"]), knows(&a, 3), left(&b)]).0.all_know("x"), "who has left does not serve");
    // Who joins has read the log before.
    assert!(!after(&[born(&["x"]), knows(&a, 3), joined(&member("c", "1"), "three"), knows(&b, 3)]).0.all_know("x"));
    assert!(after(&[born(&["x"]), knows(&a, 3), knows(&b, 3), joined(&member("c", "1"), "three")]).0.all_know("x"));
    assert!(read(&[identity(), born(&["x"])]).0.all_know("x"), "there is no proxy");

    let before = Void::KnownBefore { proxy: a.clone(), born: 3 };
    assert_eq!(after(&[born(&["x"]), knows(&a, 3), knows(&a, 3)]).1, Verdict::Void(before.clone()));
    assert_eq!(after(&[knows(&a, 3)]).1, Verdict::Void(before));
    assert_eq!(after(&[born(&["x"]), knows(&member("c", "1"), 3)]).1, Verdict::Void(Void::NotJoined(member("c", "1"))));
    assert_eq!(after(&[born(&["x"]), born(&["y", "x"])]).1, Verdict::Void(Void::LedBefore("x".to_owned())));
    assert_eq!(after(&[born(&[])]).1, Verdict::Void(Void::Empty));
    let moving = [wish(&a, 0, "old"), wish(&b, 0, "old"), wish(&a, 1, "new"), wish(&b, 1, "new"), hold(&a, 0), born(&["x"])];
    assert_eq!(after(&moving).1, Verdict::Void(Void::OtherMove(7)));
    // It moves as any other, from where it was born.
    let from_there = [born(&["orders"]), wish(&a, 0, "old"), wish(&b, 0, "old"), wish(&a, 1, "new"), wish(&b, 1, "new"), hold(&a, 3)];
    assert!(matches!(after(&from_there).1, Verdict::Void(Void::LedElsewhere { .. })), "{:?}", after(&from_there).1);
}

#[test]
fn a_proxy_says_that_it_knows_what_was_born() {
    let me = member("a", "1");
    let mut proxy = Proxy::new(me.clone(), place("host"), None, SETTINGS);
    let now = Duration::from_mins(1);
    proxy.take("old".to_owned(), BTreeMap::new());
    let topics = [("x".to_owned(), None)].into();
    let born = Request::Born { by: "mirror".to_owned(), leader: "new".to_owned(), follower: "old".to_owned(), topics };
    for (offset, request) in (0..).zip([identity(), joined(&me, "host"), born]) {
        proxy.apply(offset, &request, now);
    }
    assert!(matches!(proxy.next(&Known::default(), now), Some(Request::Wish { .. })));
    proxy.apply(3, &Request::Wish { proxy: me.clone(), taken: 0, file: "old".to_owned(), routes: BTreeMap::new() }, now);
    let knows = Request::Knows { proxy: me, born: 2 };
    assert_eq!(proxy.next(&Known::default(), now), Some(knows.clone()));
    proxy.apply(4, &knows, now);
    assert_eq!(proxy.next(&Known::default(), now * 2), None);
}
