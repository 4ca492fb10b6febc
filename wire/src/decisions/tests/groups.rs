//! Groups: who waits, who stays, what is written, where they live.

use super::*;

fn names(groups: &[&str]) -> BTreeSet<String> {
    groups.iter().map(|group| (*group).to_owned()).collect()
}

fn hold_groups(by: &Member, after: i64, from: &str, to: &str, groups: &[&str]) -> Request {
    let Request::Hold { by, after, from, to, routes, topics, .. } = hold_of(by, after, from, to, &[]) else { unreachable!() };
    Request::Hold { by, after, from, to, routes, topics, groups: names(groups) }
}

fn parked(proxy: &Member, id: i64, group: &str, members: &[&str]) -> Request {
    Request::Parked { proxy: proxy.clone(), id, members: [(group.to_owned(), names(members))].into(), heard: BTreeMap::new() }
}

fn without(id: i64, group: &str) -> Request {
    Request::Without { id, by: "a".to_owned(), groups: [(group.to_owned(), "x did not come".to_owned())].into() }
}

fn synced(id: i64, as_of: i64, groups: &[&str]) -> Request {
    Request::Synced { id, as_of, by: "mirror".to_owned(), groups: names(groups) }
}

fn flip_groups(by: &Member, id: i64, groups: &[&str]) -> Request {
    Request::Flip { id, by: by.clone(), topics: BTreeMap::new(), groups: names(groups) }
}

fn lives(state: &State) -> Vec<(&str, &str)> {
    state.lives().iter().map(|(group, life)| (group.as_str(), &*life.cluster)).collect()
}

#[test]
fn a_group_moves_when_nobody_commits_any_more_and_its_offsets_are_there() {
    let (a, b) = (member("a", "1"), member("b", "1"));
    // hold 7, parked 8, holding 9 and 10, synced 11, flip 12.
    let begun = after(agreed(&a, &b), [hold_groups(&a, 0, "old", "new", &["shop"]), parked(&b, 7, "shop", &["m1"])]);
    let quiet = after(begun.clone(), [holding(&a, 7), holding(&b, 7)]);
    let (state, verdict) = last_of(&after(quiet.clone(), [flip_groups(&a, 7, &["shop"])]));
    assert_eq!((verdict, lives(&state)), (Verdict::Void(Void::NotSynced("shop".to_owned())), vec![]));
    let early = after(quiet.clone(), [synced(7, 9, &["shop"])]);
    assert_eq!(last_of(&early).1, Verdict::Void(Void::MeasuredEarly { as_of: 9, quiet_since: 10 }));
    let other = after(quiet.clone(), [synced(7, 10, &["else"])]);
    assert_eq!(last_of(&other).1, Verdict::Void(Void::OtherGroup("else".to_owned())));
    // A proxy that joins in between: what was written is not the last.
    let joins = after(quiet.clone(), [synced(7, 10, &["shop"]), joined(&member("c", "1"), "c"), flip_groups(&a, 7, &["shop"])]);
    assert_eq!(last_of(&joins).1, Verdict::Void(Void::NotAllHold(vec![member("c", "1")])));
    let log = after(quiet, [synced(7, 10, &["shop"]), flip_groups(&a, 7, &["shop"])]);
    let (state, verdict) = last_of(&log);
    assert_eq!((verdict, lives(&state), state.open()), (Verdict::Counts, vec![("shop", "new")], None));
    let receipt = state.receipts().next().unwrap();
    assert_eq!(receipt.of.parked("shop").collect::<Vec<_>>(), ["m1"]);
    assert_eq!(state.lives()["shop"].since, receipt.at);
    assert_eq!(&*state.homes()["orders"], "old", "groups change no home");
    // It lives there now.
    let again = after(log, [hold_groups(&a, 12, "old", "new", &["shop"])]);
    let elsewhere = Void::LivesElsewhere { group: "shop".to_owned(), lives: "new".to_owned(), from: "old".to_owned() };
    assert_eq!(last_of(&again).1, Verdict::Void(elsewhere));
}

#[test]
fn groups_that_are_not_complete_stay_and_the_others_move() {
    let (a, b) = (member("a", "1"), member("b", "1"));
    let begun = after(agreed(&a, &b), [hold_groups(&a, 0, "old", "new", &["late", "shop"]), without(7, "late")]);
    let log = after(begun, [holding(&a, 7), holding(&b, 7), synced(7, 10, &["shop"])]);
    assert_eq!(last_of(&after(log.clone(), [flip_groups(&a, 7, &["late", "shop"])])).1, Verdict::Void(Void::OtherOutcome));
    let (state, verdict) = last_of(&after(log, [flip_groups(&a, 7, &["shop"])]));
    assert_eq!((verdict, lives(&state)), (Verdict::Counts, vec![("shop", "new")]));
    assert_eq!((state.stays()["late"].why.as_str(), state.stays()["late"].times, state.aborts()), ("x did not come", 1, 0));
    // Another file: it is tried anew.
    let mut state = state;
    state.apply(13, &wish(&a, 2, "old"));
    assert!(state.stays().is_empty());
    // Nothing is left of a move: it is given up, and topics are not kept waiting for that.
    let nothing = after(agreed(&a, &b), [hold_groups(&a, 0, "old", "new", &["late"]), without(7, "late"), holding(&a, 7), holding(&b, 7)]);
    let (state, _) = last_of(&nothing);
    assert!(matches!(state.outcome(), Err(Void::NothingLeft(why)) if why == "group late: x did not come"));
    let (state, verdict) = last_of(&after(nothing, [abort(7, false)]));
    assert_eq!((verdict, state.aborts(), state.stays()["late"].times), (Verdict::Counts, 0, 1));
}

fn group(lives: &str, blocked: Option<&str>) -> OwnedGroup {
    OwnedGroup { name: "shop".to_owned(), lives: lives.to_owned(), blocked: blocked.map(str::to_owned) }
}

/// The topics are where they are wished; the group is not.
fn wants_group() -> Known {
    let owns = [("orders".to_owned(), vec![Owned { leader: "new".to_owned(), ..owned(None) }])].into();
    Known { owns, groups: [("orders".to_owned(), vec![group("old", None)])].into(), ..Known::default() }
}

fn gathering(members: Option<&[&str]>, parked: &[&str]) -> BTreeMap<String, Gathering> {
    let members = members.map(|members| members.iter().map(|id| ((*id).to_owned(), format!("app {id}"))).collect());
    [("shop".to_owned(), Gathering { members, parked: names(parked), ..Gathering::default() })].into()
}

#[test]
fn topics_move_first_and_groups_by_themselves() {
    let (mut a, ..) = both([]);
    let me = member("a", "1");
    let both_wanted = Known { groups: wants_group().groups, ..known() };
    assert_eq!(a.next(&both_wanted, ms(0)), Some(hold(&me, 0)));
    // Topics that cannot move keep no group back, unless it is for a moment.
    let blocked = Known { owns: [("orders".to_owned(), vec![owned(Some("it is written past the relay"))])].into(), ..wants_group() };
    let (mut a, ..) = both([]);
    assert_eq!((a.next(&blocked, ms(0)), a.next(&blocked, ms(9_999))), (None, None));
    assert_eq!(a.next(&blocked, ms(10_000)), Some(hold_groups(&me, 0, "old", "new", &["shop"])));
    let waits = Known { groups: [("orders".to_owned(), vec![group("old", Some("group shop: it rebalances"))])].into(), ..known() };
    assert_eq!(a.plan(&waits, ms(0)).waits["orders"], ["group shop: it rebalances"]);
    assert!(!a.plan(&waits, ms(0)).moves.is_empty(), "its topics move");
    let there = Known { groups: [("orders".to_owned(), vec![group("new", None)])].into(), ..known() };
    assert!(a.plan(&there, ms(0)).groups.is_empty());
}

#[test]
fn a_proxy_holds_when_all_members_wait_wherever_they_do() {
    let (me, other) = (member("a", "1"), member("b", "1"));
    let (mut a, _, end) = both([hold_groups(&me, 0, "old", "new", &["shop"])]);
    let with = |gathering| Known { gathering, ..wants_group() };
    assert_eq!(a.next(&with(gathering(None, &[])), ms(10)), None, "nobody has told who is in it");
    assert_eq!(a.next(&with(gathering(Some(&["m1", "m2"]), &["m1"])), ms(20)), Some(parked(&me, 7, "shop", &["m1"])));
    a.apply(end, &parked(&me, 7, "shop", &["m1"]), ms(30));
    let one = with(gathering(Some(&["m1", "m2"]), &["m1"]));
    assert_eq!((a.next(&one, ms(40)), a.missing(&one).len(), a.calls(&one, ms(40))), (None, 1, false));
    // Nobody stops for the sake of one that has not been heard.
    let Request::Parked { proxy, id, members: heard, .. } = parked(&other, 7, "shop", &["m2"]) else { unreachable!() };
    a.apply(end + 1, &Request::Parked { proxy, id, members: BTreeMap::new(), heard }, ms(43));
    assert!(a.calls(&one, ms(45)) && !a.missing(&one).is_empty() && a.next(&one, ms(46)).is_none());
    a.apply(end + 2, &parked(&other, 7, "shop", &["m2"]), ms(50));
    assert!(a.missing(&one).is_empty());
    let open = Known { open: Some("2 of client shop at 10.0.0.1 to orders".to_owned()), ..one.clone() };
    assert_eq!((a.next(&open, ms(60)), a.has_said()), (None, false), "a commit is under way");
    assert_eq!((a.next(&one, ms(70)), a.has_said()), (Some(holding(&me, 7)), true));
}

#[test]
fn a_group_waits_for_a_member_as_long_as_the_others_may_be_away() {
    let me = member("a", "1");
    let (mut a, _, end) = both([hold_groups(&me, 0, "old", "new", &["shop"])]);
    let mut gathering = gathering(Some(&["m1", "m2"]), &["m1"]);
    let shop = gathering.get_mut("shop").unwrap();
    (shop.heard, shop.patience) = (names(&["m1", "m2"]), Some(ms(3_000)));
    let known = Known { gathering, ..wants_group() };
    let Some(come @ Request::Parked { .. }) = a.next(&known, ms(1_000)) else { panic!("it says who has come") };
    a.apply(end, &come, ms(1_010));
    assert_eq!((a.next(&known, ms(1_020)), a.next(&known, ms(4_019))), (None, None));
    let Some(Request::Without { groups, .. }) = a.next(&known, ms(4_020)) else { panic!("it waits on") };
    assert_eq!(groups["shop"], "1 of its 2 members did not come to the join: app m2; a member joins with its next poll: see what keeps it");
}

#[test]
fn a_group_that_commits_in_transactions_stays_although_all_have_come() {
    let me = member("a", "1");
    let (mut a, _, end) = both([hold_groups(&me, 0, "old", "new", &["shop"])]);
    let known = Known { gathering: gathering(Some(&["m1"]), &["m1"]), transactional: names(&["shop"]), ..wants_group() };
    let Some(request @ Request::Without { .. }) = a.next(&known, ms(10)) else { panic!("it goes on") };
    let Request::Without { groups, .. } = &request else { unreachable!() };
    assert!(groups["shop"].starts_with("it commits in transactions"));
    a.apply(end, &request, ms(20));
    let left = Known { transactional: BTreeSet::new(), ..known };
    assert!(matches!(a.next(&left, ms(30)), Some(Request::Abort { .. })), "nothing is left of it");
    // The second by name alone knows, and learns of it when all else is done.
    let other = member("b", "1");
    let all = [hold_groups(&me, 0, "old", "new", &["shop"]), parked(&me, 7, "shop", &["m1"]), holding(&me, 7), holding(&other, 7)];
    let (_, mut b, _) = both(all.into_iter().chain([synced(7, 10, &["shop"])]));
    assert!(b.state().outcome().is_ok());
    let known = Known { transactional: names(&["shop"]), ..wants_group() };
    assert!(matches!(b.next(&known, ms(10)), Some(Request::Without { .. })));
}

#[test]
fn a_member_that_does_not_come_is_named_and_its_group_stays_for_a_while() {
    let me = member("a", "1");
    let (mut a, _, end) = both([hold_groups(&me, 0, "old", "new", &["shop"])]);
    let late = Known { gathering: gathering(Some(&["m1", "m2"]), &[]), ..wants_group() };
    assert_eq!(a.next(&late, ms(9_999)), None);
    let Some(request @ Request::Without { .. }) = a.next(&late, ms(10_000)) else { panic!("it waits on") };
    let Request::Without { groups, .. } = &request else { unreachable!() };
    let way_out = "give what comes by no proxy kferry-proxy as bootstrap.servers, on a relay route, or stop it";
    assert_eq!(groups["shop"], format!("2 of its 2 members did not send a heartbeat by a proxy: app m1, app m2; {way_out}"));
    a.apply(end, &request, ms(10_010));
    // What the route owns is not known, so that its home does not move first.
    let left = Known { owns: BTreeMap::new(), gathering: BTreeMap::new(), ..late };
    let Some(request @ Request::Abort { .. }) = a.next(&left, ms(10_020)) else { panic!("nothing is left of it") };
    a.apply(end + 1, &request, ms(10_030));
    assert_eq!(a.plan(&left, ms(0)).waits["orders"].len(), 1);
    assert_eq!(a.next(&left, ms(20_000)), None);
    let again = hold_groups(&me, end + 1, "old", "new", &["shop"]);
    assert_eq!(a.next(&left, ms(20_030)), Some(again), "after 10 s");
}
