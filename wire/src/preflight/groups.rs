//! Whether a group can move: asked of both clusters before anything is held, with kferry's own login.

use std::collections::BTreeMap;
use std::sync::Arc;

use kferry_config::{Mirror, Offsets};

use super::{Between, running, stands_still};
use crate::admin::groups::{CommittedOffset, GroupFilter, ListedGroup};
use crate::client::{Client, ClientError, TopicPartition};
use crate::decisions::TRANSACTIONAL;
use crate::places::copies_as;

/// The groups that a cluster lists, by name; or why it does not.
pub type Listed = Result<BTreeMap<String, ListedGroup>, String>;

/// Asks a cluster for its groups.
pub async fn listed(client: &Client) -> Listed {
    let groups = client.list_groups(GroupFilter::default()).await.map_err(|error| error.to_string())?;
    Ok(groups.into_iter().map(|group| (group.group_id.clone(), group)).collect())
}

/// Each of these groups: whether it can move between the clusters, or why not, as a sentence that says what to do. `lists`: what both list.
pub async fn preflight_groups(
    between: Between<'_>,
    lists: [&Listed; 2],
    mirrors: &[Arc<Mirror>],
    names: &[&str],
    is_transactional: impl Fn(&str) -> bool,
) -> BTreeMap<String, Result<(), String>> {
    let Between { from, to } = between;
    let (mut committed, running) = tokio::join!(from.offset_fetch(names, false), running(between, mirrors));
    let clusters = [from, to].map(|client| &*client.cluster().name);
    let mut report = BTreeMap::new();
    for name in names {
        let [here, there] = lists.map(|listed| listed.as_ref().map(|listed| listed.get(*name)).map_err(String::as_str));
        let committed = committed.remove(*name).unwrap_or_else(|| Ok(BTreeMap::new()));
        let seen = Seen { here, there, committed, is_transactional: is_transactional(name) };
        report.insert((*name).to_owned(), judge(name, seen, clusters, mirrors, |mirror| running.contains(&mirror.name)));
    }
    report
}

/// What is known of one group.
struct Seen<'a> {
    /// Where it lives; `None`: it is not listed there.
    here: Result<Option<&'a ListedGroup>, &'a str>,
    /// Where it is to live.
    there: Result<Option<&'a ListedGroup>, &'a str>,
    committed: Result<BTreeMap<TopicPartition, CommittedOffset>, ClientError>,
    /// Whether it commits in transactions.
    is_transactional: bool,
}

/// Whether a group can move, or why not, as a sentence that says what to do.
fn judge(name: &str, seen: Seen<'_>, clusters: [&str; 2], mirrors: &[Arc<Mirror>], runs: impl Fn(&Mirror) -> bool) -> Result<(), String> {
    let [from, to] = clusters;
    let Some(mirror) = mirrors.iter().filter(|mirror| mirror.connects(clusters)).find(|mirror| mirror.groups.matches(name)) else {
        return Err(format!("no mirror copies its offsets between {from} and {to}: name it in `groups` of one"));
    };
    if mirror.offsets != Offsets::Preserve {
        return Err(format!("mirror {} gives it other offsets, and such groups cannot move while clients run", mirror.name));
    }
    if !runs(mirror) {
        return Err(stands_still(mirror));
    }
    match seen.here {
        Err(error) => return Err(format!("cluster {from} does not list its groups: {error}")),
        Ok(Some(group)) if is_type(group, "share") => return Err("it is a share group, and those cannot move".to_owned()),
        Ok(Some(group)) if has_state(group, &["PreparingRebalance", "CompletingRebalance"]) => {
            return Err("it rebalances just now, and moves when that is over".to_owned());
        }
        Ok(_) => {}
    }
    match seen.there {
        Err(error) => return Err(format!("cluster {to} does not list its groups: {error}")),
        Ok(Some(group)) if !is_empty(group) => {
            return Err(format!("it has members on {to}, too: those must come by the proxy, or be stopped"));
        }
        Ok(_) => {}
    }
    if seen.is_transactional {
        return Err(TRANSACTIONAL.to_owned());
    }
    let committed = seen.committed.map_err(|error| format!("cluster {from} does not say what it has committed: {error}"))?;
    if let Some(partition) = committed.keys().find(|partition| !copies_as(mirror, &partition.topic)) {
        return Err(format!(
            "it has committed offsets of topic {}, which mirror {} does not copy under its name: copy the topic, or delete these offsets",
            partition.topic, mirror.name
        ));
    }
    Ok(())
}

fn has_state(group: &ListedGroup, states: &[&str]) -> bool {
    group.state.as_deref().is_some_and(|state| states.contains(&state))
}

fn is_empty(group: &ListedGroup) -> bool {
    has_state(group, &["Empty", "Dead"])
}

fn is_type(group: &ListedGroup, name: &str) -> bool {
    group.group_type.as_ref().is_some_and(|of| of.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::super::tests::mirrors;
    use super::*;

    fn listed(state: &str, group_type: &str) -> ListedGroup {
        let [state, group_type] = [state, group_type].map(|text| Some(text.to_owned()));
        ListedGroup { group_id: "shop".to_owned(), protocol_type: "consumer".to_owned(), state, group_type }
    }

    #[test]
    fn what_cannot_move_says_why() {
        let (stable, empty) = (listed("Stable", "Classic"), listed("Empty", "Classic"));
        let (new, rebalances) = (listed("Stable", "Consumer"), listed("PreparingRebalance", "Classic"));
        let shares = listed("Stable", "Share");
        let offset = CommittedOffset { offset: 7, leader_epoch: None, metadata: String::new() };
        let of = |topic: &str| BTreeMap::from([(TopicPartition::new(topic, 0), offset.clone())]);
        let seen = |here, there| Seen { here: Ok(here), there: Ok(there), committed: Ok(of("orders")), is_transactional: false };
        for clusters in [["legacy", "new"], ["new", "legacy"]] {
            for (here, there) in [(Some(&stable), None), (Some(&new), None), (Some(&empty), Some(&empty)), (None, None)] {
                judge("shop", seen(here, there), clusters, &mirrors(), |_| true).unwrap();
            }
        }
        let cases: [(&str, Seen<'_>, &str); 6] = [
            ("other", seen(Some(&stable), None), "no mirror copies its offsets"),
            ("shop", seen(Some(&shares), None), "share group"),
            ("shop", seen(Some(&rebalances), None), "it rebalances just now"),
            ("shop", seen(Some(&stable), Some(&stable)), "it has members on new"),
            ("shop", Seen { is_transactional: true, ..seen(Some(&stable), None) }, "in transactions"),
            ("shop", Seen { committed: Ok(of("logs")), ..seen(Some(&stable), None) }, "offsets of topic logs"),
        ];
        for (name, seen, why) in cases {
            let said = judge(name, seen, ["legacy", "new"], &mirrors(), |_| true).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
