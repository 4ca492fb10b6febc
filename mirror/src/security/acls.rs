//! What the source's ACLs become on the target, for what a mirror copies.
//!
//! Names of topics go by the mirror's naming; principals, hosts and operations stay. Two rules hold: for a copied topic the target allows and
//! denies what the source does, and for a topic of the target that is not this mirror's it allows nothing more than before.
//!
//! So a binding of a prefix, or of `*`, stays one only where it is exact: all copied topics that begin so have one beginning on the target,
//! and nothing else there begins so. Elsewhere it becomes one binding for each copied topic. And what is denied must stay so for topics that
//! come later: an allowed prefix also becomes single topics where a denial that overlaps it had to.
//!
//! # References
//! - KIP-11, KIP-290; `StandardAuthorizerData.findResult` and `AclAuthorizer`: a denial wins, whatever else allows it
//! - KIP-679: from Kafka 3.0 on, whoever may write to any topic may have a producer id, before it needs IDEMPOTENT_WRITE

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::ResponseError;
use kferry_config::{Mirror, dead_letter_topic, is_internal};
use kferry_wire::admin::acls::{Acl, Operation, PatternType, Permission, ResourceType};
use kferry_wire::admin::groups::GroupFilter;
use kferry_wire::client::{Client, ClientError, Topics};
use tokio::time::{Instant, sleep};

/// The most bindings that are created in one request: a controller takes changes of up to 10,000 records (`QuorumController.MAX_RECORDS_PER_USER_OP`).
const AT_ONCE: usize = 500;
/// How long to wait until a broker has seen the bindings that were created. With ZooKeeper they are told one after the other.
const SEEN: Duration = Duration::from_secs(15);
/// The most names in a sentence.
const LISTED: usize = 5;
/// The name that means all names, in a literal pattern.
const WILDCARD: &str = "*";

/// Which topics and groups a mirror copies, and what else there is on both clusters.
pub struct Copied<'c> {
    /// What a topic of the source is called on the target, be it there or not. `None`: it is not copied; an error is why it has no name there.
    pub target: &'c dyn Fn(&str) -> Option<Result<String, String>>,
    /// Whether the offsets of a group are copied.
    pub group: &'c dyn Fn(&str) -> bool,
    /// The topics that there are on the source and on the target, without those of Kafka and kferry.
    pub topics: [BTreeSet<String>; 2],
    /// The groups that there are on the source and on the target, without those of kferry.
    pub groups: [BTreeSet<String>; 2],
}

/// A binding of which something has to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedAcl {
    /// The binding.
    pub acl: Acl,
    /// Why the binding is where it is in an [`AclPlan`], as a sentence for people.
    pub why: String,
}

/// What becomes of the source's bindings on the target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AclPlan {
    /// Bindings that it lacks.
    pub add: Vec<Acl>,
    /// Bindings that it has already.
    pub present: Vec<Acl>,
    /// Bindings for the mirrored topics and groups that only the target has. They are left as they are.
    pub extra: Vec<Acl>,
    /// Bindings about which somebody has to decide, as they would be on the target, and why.
    pub undecided: Vec<ExplainedAcl>,
    /// Patterns of the source that become single topics, and why.
    pub expanded: Vec<ExplainedAcl>,
    /// Bindings of the source that are not about topics, groups or transactional ids, and why they stay there.
    pub left_out: Vec<ExplainedAcl>,
    /// How many bindings of the source are about what this mirror does not copy.
    pub elsewhere: usize,
    /// What of [`Self::add`] denies kferry itself something, unless it is a super user.
    pub against_us: Vec<Acl>,
    /// What of [`Self::add`] is of the principal as which kferry logs in on the source: perhaps rights that only the mirror needs, and only there.
    pub ours: Vec<Acl>,
}

impl ExplainedAcl {
    fn new(acl: &Acl, why: impl Into<String>) -> Self {
        Self { acl: acl.clone(), why: why.into() }
    }
}

/// The names of resources that a binding is about.
#[derive(Clone, Copy)]
enum Names<'a> {
    /// This name alone.
    One(&'a str),
    /// The names that begin with this: all, if it is empty.
    Beginning(&'a str),
}

impl<'a> Names<'a> {
    fn of(acl: &'a Acl) -> Option<Self> {
        match acl.pattern_type {
            PatternType::Literal if acl.resource_name == WILDCARD => Some(Self::Beginning("")),
            PatternType::Literal => Some(Self::One(&acl.resource_name)),
            PatternType::Prefixed => Some(Self::Beginning(&acl.resource_name)),
            PatternType::Other(_) => None,
        }
    }

    fn covers(self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Beginning(prefix) => name.starts_with(prefix),
        }
    }

    fn overlap(self, prefix: &str) -> bool {
        match self {
            Self::One(one) => one.starts_with(prefix),
            Self::Beginning(other) => other.starts_with(prefix) || prefix.starts_with(other),
        }
    }
}

/// What becomes of a prefix of the source on the target.
enum Becomes {
    /// One binding for the names that begin with this.
    Beginning(String),
    /// A binding for each copied topic, for this reason.
    Each(String),
    /// Nothing: none of the copied topics begins with the prefix.
    Nothing,
}

impl Copied<'_> {
    /// The copied topics, by their names on the source, with those on the target: those that are there, and those that a binding names, which
    /// may come later.
    fn images<'n>(&'n self, named: impl Iterator<Item = &'n str>) -> BTreeMap<&'n str, String> {
        let [source, target] = &self.topics;
        let image = |topic| Some((topic, (self.target)(topic)?.ok()?));
        let mut images: BTreeMap<_, _> = source.iter().filter_map(|topic| image(topic.as_str())).collect();
        let taken: BTreeSet<String> = images.values().chain(target).cloned().collect();
        // What is on the target already is the copy of one that is there, or of none.
        let later = named.filter(|topic| !source.contains(*topic)).filter_map(image);
        images.extend(later.filter(|(_, image)| !taken.contains(image)));
        images
    }

    fn pattern(&self, prefix: &str, images: &BTreeMap<&str, String>) -> Becomes {
        let covered: Vec<_> = images.iter().filter(|(topic, _)| topic.starts_with(prefix)).collect();
        let beginnings: BTreeSet<_> = covered.iter().map(|(topic, image)| image.strip_suffix(&topic[prefix.len()..])).collect();
        let mut beginnings = beginnings.into_iter();
        let beginning = match (beginnings.next(), beginnings.next()) {
            (None, _) => return Becomes::Nothing,
            // To begin with nothing is to be any topic.
            (Some(Some(one)), None) if !one.is_empty() || prefix.is_empty() => one,
            _ => return Becomes::Each("its topics have no common beginning on the target".to_owned()),
        };
        let ours: BTreeSet<&str> = covered.iter().map(|(_, image)| image.as_str()).collect();
        // Who may do something with a topic may do it with its dead letters: as the prefix on the source says, too.
        let is_ours = |name: &str| ours.contains(name) || ours.iter().any(|ours| dead_letter_topic(ours) == name);
        let there: BTreeSet<&str> = self.topics[1].iter().chain(images.values()).map(String::as_str).collect();
        let foreign: Vec<&str> = there.into_iter().filter(|name| name.starts_with(beginning) && !is_ours(name)).collect();
        if foreign.is_empty() {
            Becomes::Beginning(beginning.to_owned())
        } else {
            Becomes::Each(format!("on the target it would cover what it does not on the source: {}", listed(&foreign)))
        }
    }
}

impl AclPlan {
    /// Decides what becomes of the source's bindings, from those of both clusters and what is copied.
    pub fn of(source: &[Acl], target: &[Acl], copied: &Copied<'_>) -> Self {
        let mut plan = Self::default();
        let mut wanted = BTreeSet::new();
        let topics: Vec<_> = source.iter().filter(|acl| acl.resource_type == ResourceType::Topic && is_known(acl)).collect();
        let by_name = topics.iter().filter_map(|acl| if let Some(Names::One(name)) = Names::of(acl) { Some(name) } else { None });
        let images = copied.images(by_name);

        // What is denied on the source, and on the target only for the topics that are there now.
        let mut narrowed = Vec::new();
        for permission in [Permission::Deny, Permission::Allow] {
            for &acl in topics.iter().filter(|acl| acl.permission == permission) {
                let Some(names) = Names::of(acl) else { continue };
                let mut is_exact = true;
                match names {
                    Names::One(name) => match (images.get(name), (copied.target)(name)) {
                        (Some(image), _) => drop(wanted.insert(literal(acl, image.clone()))),
                        (None, Some(image)) => {
                            is_exact = false;
                            plan.undecided.push(match image {
                                Ok(image) => {
                                    let why =
                                        format!("there is no topic {name} on the source, and {image} on the target is something else");
                                    ExplainedAcl::new(&literal(acl, image), why)
                                }
                                Err(why) => ExplainedAcl::new(acl, why),
                            });
                        }
                        (None, None) => {
                            is_exact = false;
                            plan.elsewhere += 1;
                        }
                    },
                    Names::Beginning(prefix) => {
                        let becomes = match copied.pattern(prefix, &images) {
                            Becomes::Beginning(_) if permission == Permission::Allow && overlap(&narrowed, prefix) => {
                                Becomes::Each("some of it is denied, and that cannot be said of topics that come later".to_owned())
                            }
                            becomes => becomes,
                        };
                        match becomes {
                            Becomes::Beginning(beginning) => drop(wanted.insert(prefixed(acl, beginning))),
                            Becomes::Each(why) => {
                                is_exact = false;
                                let covered = images.iter().filter(|(topic, _)| topic.starts_with(prefix));
                                wanted.extend(covered.map(|(_, image)| literal(acl, image.clone())));
                                plan.expanded.push(ExplainedAcl::new(acl, why));
                            }
                            Becomes::Nothing => {
                                is_exact = false;
                                plan.elsewhere += 1;
                            }
                        }
                    }
                }
                if permission == Permission::Deny && !is_exact {
                    narrowed.push(names);
                }
            }
        }

        let has: BTreeSet<&Acl> = target.iter().collect();
        let principals: BTreeSet<String> =
            wanted.iter().filter(|acl: &&Acl| acl.permission == Permission::Allow).map(|acl| acl.principal.clone()).collect();
        for acl in source.iter().filter(|acl| acl.resource_type != ResourceType::Topic || !is_known(acl)) {
            plan.other(acl, &principals, &has, copied, &mut wanted);
        }
        plan.undecided.retain(|undecided| !has.contains(&undecided.acl));

        let (present, add) = wanted.iter().cloned().partition(|acl| has.contains(acl));
        (plan.present, plan.add) = (present, add);
        let is_mirrored = |acl: &Acl| match (acl.resource_type, Names::of(acl)) {
            (ResourceType::Topic, Some(names)) => images.values().any(|image| names.covers(image)),
            (ResourceType::Group, Some(Names::One(group))) => (copied.group)(group),
            _ => false,
        };
        plan.extra = target.iter().filter(|acl| !wanted.contains(acl) && is_mirrored(acl)).cloned().collect();
        plan.extra.sort();
        plan
    }

    /// Decides about a binding that is not about topics, or not known. Groups and transactional ids have one name on both clusters.
    fn other(&mut self, acl: &Acl, principals: &BTreeSet<String>, has: &BTreeSet<&Acl>, copied: &Copied<'_>, wanted: &mut BTreeSet<Acl>) {
        if !is_known(acl) {
            self.undecided.push(ExplainedAcl::new(acl, "this kferry does not know all of it: the source's Kafka is newer"));
            return;
        }
        // Somebody who has nothing to do with the copied topics will not come for them.
        let concerns_us = principals.contains(&acl.principal)
            || (is_everybody(&acl.principal) && !principals.is_empty())
            || principals.iter().any(|one| is_everybody(one));
        match (acl.resource_type, Names::of(acl)) {
            (ResourceType::Group, Some(Names::One(group))) if concerns_us || (copied.group)(group) => drop(wanted.insert(acl.clone())),
            (ResourceType::Group, Some(Names::Beginning(prefix))) if concerns_us => {
                let foreign = copied.groups[1].difference(&copied.groups[0]).filter(|group| group.starts_with(prefix));
                let foreign: Vec<&str> = foreign.map(String::as_str).collect();
                if foreign.is_empty() || acl.permission == Permission::Deny || has.contains(acl) {
                    wanted.insert(acl.clone());
                } else {
                    let why = format!(
                        "on the target it would also cover groups that the source does not have: {}; if it may, add it there, or one for fewer groups",
                        listed(&foreign)
                    );
                    self.undecided.push(ExplainedAcl::new(acl, why));
                }
            }
            (ResourceType::TransactionalId, _) if concerns_us => drop(wanted.insert(acl.clone())),
            (ResourceType::Cluster, _) if acl.operation == Operation::IdempotentWrite && concerns_us => drop(wanted.insert(acl.clone())),
            (ResourceType::Topic | ResourceType::Group | ResourceType::TransactionalId, _) => self.elsewhere += 1,
            (ResourceType::Cluster, _) => {
                self.left_out.push(ExplainedAcl::new(acl, "it is about all of a cluster, not about what is copied"));
            }
            (ResourceType::DelegationToken | ResourceType::User, _) => {
                self.left_out.push(ExplainedAcl::new(acl, "delegation tokens are those of one cluster"));
            }
            (ResourceType::Other(_), _) => unreachable!("it is not known"),
        }
    }

    /// Asks both clusters for their bindings, topics and groups. `None` if the source has no authorizer: everybody may do everything there. `except`: the
    /// principals whose bindings are looked at on neither cluster.
    ///
    /// # Errors
    /// [`ClientError`], with the ACL that kferry itself needs; `SECURITY_DISABLED` if only the target has no authorizer.
    pub async fn look(mirror: &Mirror, source: &Client, target: &Client, except: &[String]) -> Result<Option<Self>, ClientError> {
        let mut bindings = match source.describe_acls().await {
            Ok(bindings) => bindings,
            Err(error) if error.code() == Some(ResponseError::SecurityDisabled) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (mut has, at_source, at_target) = tokio::try_join!(target.describe_acls(), source.any(), target.any())?;
        for bindings in [&mut bindings, &mut has] {
            bindings.retain(|acl| !except.contains(&acl.principal));
        }
        let topics = async |client: &Client| -> Result<BTreeSet<String>, ClientError> {
            let topics = client.metadata(Topics::All).await?.topics.into_iter();
            Ok(topics.filter(|topic| !topic.internal && !is_internal(&topic.name)).map(|topic| topic.name.to_string()).collect())
        };
        let groups = async |client: &Client| -> Result<BTreeSet<String>, ClientError> {
            let groups = client.list_groups(GroupFilter::default()).await?.into_iter().map(|group| group.group_id);
            Ok(groups.filter(|group| !is_internal(group)).collect())
        };
        let ((source_topics, target_topics), (source_groups, target_groups)) =
            tokio::try_join!(async { tokio::try_join!(topics(source), topics(target)) }, async {
                tokio::try_join!(groups(source), groups(target))
            })?;
        let name = |topic: &str| {
            let is_copied = mirror.topics.matches(topic);
            is_copied.then(|| mirror.naming.target(topic).map(std::borrow::Cow::into_owned).map_err(|error| error.to_string()))
        };
        let copied = Copied {
            target: &name,
            group: &|group| mirror.groups.matches(group),
            topics: [source_topics, target_topics],
            groups: [source_groups, target_groups],
        };
        let mut plan = Self::of(&bindings, &has, &copied);
        plan.seen_by(at_source.principal(), at_target.principal());
        Ok(Some(plan))
    }

    /// Takes into account what the bindings are for kferry's own principals on the two clusters.
    fn seen_by(&mut self, at_source: &str, at_target: &str) {
        // What it needs to mirror is nothing that the source should have.
        self.extra.retain(|acl| acl.principal != at_target);
        let is_against = |acl: &&Acl| acl.permission == Permission::Deny && (acl.principal == at_target || is_everybody(&acl.principal));
        self.against_us = self.add.iter().filter(is_against).cloned().collect();
        // Without a login it is who everybody is.
        let is_ours = |acl: &&Acl| acl.principal == at_source && at_source != ANONYMOUS;
        self.ours = self.add.iter().filter(is_ours).cloned().collect();
    }
}

/// Creates bindings on the target, and waits until a broker knows them, at most 15 s. Gives those that were refused, each with the error.
pub async fn apply(target: &Client, acls: &[Acl]) -> Vec<(Acl, ClientError)> {
    let mut refused = Vec::new();
    for acls in acls.chunks(AT_ONCE) {
        let created = target.create_acls(acls).await.into_iter();
        refused.extend(created.filter_map(|(acl, created)| Some((acl, created.err()?))));
    }
    let failed: BTreeSet<&Acl> = refused.iter().map(|(acl, _)| acl).collect();
    let created: Vec<_> = acls.iter().filter(|acl| !failed.contains(acl)).collect();
    let deadline = Instant::now() + SEEN;
    let mut pause = Duration::from_millis(50);
    // Later the next look says what is missing.
    while Instant::now() < deadline {
        let Ok(has) = target.describe_acls().await else { break };
        let has: BTreeSet<Acl> = has.into_iter().collect();
        if created.iter().all(|acl| has.contains(*acl)) {
            break;
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
    refused
}

/// As whom brokers know those who do not log in.
const ANONYMOUS: &str = "User:ANONYMOUS";

fn is_everybody(principal: &str) -> bool {
    principal.ends_with(":*")
}

fn is_known(acl: &Acl) -> bool {
    let Acl { resource_type, pattern_type, operation, permission, .. } = acl;
    !matches!(resource_type, ResourceType::Other(_))
        && !matches!(pattern_type, PatternType::Other(_))
        && !matches!(operation, Operation::Other(_))
        && !matches!(permission, Permission::Other(_))
}

fn overlap(narrowed: &[Names<'_>], prefix: &str) -> bool {
    narrowed.iter().any(|names| names.overlap(prefix))
}

fn literal(acl: &Acl, topic: String) -> Acl {
    Acl { resource_name: topic, pattern_type: PatternType::Literal, ..acl.clone() }
}

fn prefixed(acl: &Acl, beginning: String) -> Acl {
    if beginning.is_empty() {
        return literal(acl, WILDCARD.to_owned());
    }
    Acl { resource_name: beginning, pattern_type: PatternType::Prefixed, ..acl.clone() }
}

fn listed(names: &[&str]) -> String {
    match names.split_at_checked(LISTED) {
        Some((first, rest)) if !rest.is_empty() => format!("{} and {} more", first.join(", "), rest.len()),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic(permission: Permission, principal: &str, operation: Operation, name: &str) -> Acl {
        let (name, pattern_type) = match name.strip_suffix('+') {
            Some(prefix) => (prefix, PatternType::Prefixed),
            None => (name, PatternType::Literal),
        };
        Acl {
            resource_type: ResourceType::Topic,
            resource_name: name.to_owned(),
            pattern_type,
            principal: format!("User:{principal}"),
            host: "*".to_owned(),
            operation,
            permission,
        }
    }

    fn allow(principal: &str, name: &str) -> Acl {
        topic(Permission::Allow, principal, Operation::Read, name)
    }

    fn deny(principal: &str, name: &str) -> Acl {
        topic(Permission::Deny, principal, Operation::Read, name)
    }

    fn of(resource_type: ResourceType, acl: Acl) -> Acl {
        Acl { resource_type, ..acl }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// All of `pay.` and `orders`, the former as `bill.`; `pay.bad` has no name there.
    fn name(topic: &str) -> Option<Result<String, String>> {
        match topic.strip_prefix("pay.") {
            Some("bad") => Some(Err("a bad name".to_owned())),
            Some(rest) => Some(Ok(format!("bill.{rest}"))),
            None => (topic == "orders").then(|| Ok("orders".to_owned())),
        }
    }

    fn plan(source: &[Acl], target: &[Acl], topics: [&[&str]; 2], groups: [&[&str]; 2]) -> AclPlan {
        let copied = Copied { target: &name, group: &|group| group == "copied", topics: topics.map(set), groups: groups.map(set) };
        AclPlan::of(source, target, &copied)
    }

    const TOPICS: &[&str] = &["orders", "other", "pay.a", "pay.b"];

    #[test]
    fn a_topic_goes_by_its_new_name_with_everything_else() {
        let all = [Operation::All, Operation::Write, Operation::Create, Operation::AlterConfigs];
        let source = all.map(|operation| Acl { host: "10.0.0.1".to_owned(), ..topic(Permission::Allow, "a", operation, "pay.later") });
        let expected = source.clone().map(|acl| Acl { resource_name: "bill.later".to_owned(), ..acl });
        assert_eq!(plan(&source, &[], [TOPICS, &[]], [&[], &[]]).add, expected);
        // What only the target has is not a copy.
        let theirs = plan(&source, &[], [TOPICS, &["bill.later"]], [&[], &[]]);
        assert!(theirs.add.is_empty() && theirs.undecided[0].acl == expected[0], "{theirs:?}");
        let again = plan(&source, &expected, [TOPICS, &[]], [&[], &[]]);
        assert!(again.add.is_empty() && again.present == expected && again.extra.is_empty(), "{again:?}");
    }

    #[test]
    fn a_prefix_stays_one_where_it_is_exact() {
        let with = |source: &str, on_target: &[&str]| plan(&[allow("a", source)], &[], [TOPICS, on_target], [&[], &[]]);
        let there: &[&str] = &["bill.a", "bill.a.DLT", "else"];
        for (source, expected) in [("pay.+", "bill.+"), ("pa+", ""), ("pay.a+", "bill.a+"), ("orders+", "orders+"), ("order+", "order+")] {
            let plan = with(source, there);
            if expected.is_empty() {
                // `bill.a` does not end as `pay.a` does behind `pa`.
                assert_eq!(plan.add, [allow("a", "bill.a"), allow("a", "bill.b")], "{source}");
                assert!(plan.expanded[0].why.contains("no common beginning"), "{plan:?}");
            } else {
                assert_eq!(plan.add, [allow("a", expected)], "{source}");
            }
        }
        let foreign = with("pay.+", &["bill.a", "bill.theirs"]);
        assert_eq!(foreign.add, [allow("a", "bill.a"), allow("a", "bill.b")]);
        assert!(foreign.expanded[0].why.ends_with("on the source: bill.theirs"), "{foreign:?}");
        let wildcard = with("*", there);
        assert_eq!(wildcard.add, [allow("a", "bill.a"), allow("a", "bill.b"), allow("a", "orders")]);
        let nothing = with("other+", there);
        assert!(nothing.add.is_empty() && nothing.elsewhere == 1 && nothing.expanded.is_empty(), "{nothing:?}");
    }

    #[test]
    fn everything_stays_everything_where_everything_is_copied() {
        let copied = Copied {
            target: &|topic| Some(Ok(topic.to_owned())),
            group: &|_| false,
            topics: [set(&["a", "b"]), set(&["a"])],
            groups: [set(&[]), set(&[])],
        };
        let source = [allow("a", "*"), deny("b", "*")];
        assert_eq!(
            AclPlan::of(&source, &[], &copied).add,
            source.into_iter().rev().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_is_denied_stays_so_for_topics_that_come_later() {
        // There is nothing of it yet, so its name on the target is not known.
        let source = [allow("a", "pay.+"), deny("a", "pay.secret.+")];
        let with_later = plan(&source, &[], [TOPICS, &[]], [&[], &[]]);
        assert_eq!(with_later.add, [allow("a", "bill.a"), allow("a", "bill.b")]);
        assert!(with_later.expanded[0].why.contains("denied"), "{with_later:?}");
        let known = plan(&source, &[], [&["pay.a", "pay.secret.x"], &[]], [&[], &[]]);
        assert_eq!(known.add, [allow("a", "bill.+"), deny("a", "bill.secret.+")]);
    }

    #[test]
    fn groups_and_transactional_ids_follow_those_who_come_for_the_topics() {
        let group = |principal, name| of(ResourceType::Group, allow(principal, name));
        let id = |principal, name| of(ResourceType::TransactionalId, topic(Permission::Allow, principal, Operation::Write, name));
        let source = [
            allow("a", "orders"),
            group("a", "readers"),
            group("a", "own+"),
            group("a", "*"),
            group("b", "readers"),
            group("b", "copied"),
            group("*", "all"),
            id("a", "tx+"),
            id("b", "tx"),
        ];
        let found = plan(&source, &[], [TOPICS, &[]], [&["readers"], &["readers", "theirs"]]);
        let mut expected =
            vec![allow("a", "orders"), group("*", "all"), group("a", "own+"), group("a", "readers"), group("b", "copied"), id("a", "tx+")];
        expected.sort();
        assert_eq!(found.add, expected);
        assert_eq!(found.elsewhere, 2);
        let [ExplainedAcl { acl, why }] = &found.undecided[..] else { panic!("{found:?}") };
        assert!(*acl == group("a", "*") && why.contains("theirs;"), "{why}");
        // Somebody has decided.
        let decided = plan(&source, &[group("a", "*")], [TOPICS, &[]], [&["readers"], &["readers", "theirs"]]);
        assert!(decided.undecided.is_empty() && decided.present == [group("a", "*")], "{decided:?}");
    }

    #[test]
    fn the_rest_is_told() {
        let cluster = |operation| Acl {
            resource_type: ResourceType::Cluster,
            resource_name: "kafka-cluster".to_owned(),
            ..topic(Permission::Allow, "a", operation, "")
        };
        let newer = topic(Permission::Allow, "a", Operation::Other(99), "orders");
        let token = of(ResourceType::DelegationToken, allow("a", "x"));
        let bad = allow("a", "pay.bad");
        let source = [
            allow("a", "orders"),
            cluster(Operation::IdempotentWrite),
            cluster(Operation::Alter),
            newer.clone(),
            token.clone(),
            bad.clone(),
        ];
        let target = [allow("b", "orders"), deny("b", "bill.a"), allow("b", "mine"), allow("c", "bi+")];
        let plan = plan(&source, &target, [TOPICS, &["orders"]], [&[], &[]]);
        assert_eq!(plan.add, [allow("a", "orders"), cluster(Operation::IdempotentWrite)]);
        assert_eq!(plan.left_out.iter().map(|left| left.acl.clone()).collect::<Vec<_>>(), [cluster(Operation::Alter), token]);
        assert_eq!(plan.undecided.iter().map(|undecided| undecided.acl.clone()).collect::<Vec<_>>(), [bad, newer]);
        assert_eq!(plan.extra, [allow("c", "bi+"), deny("b", "bill.a"), allow("b", "orders")]);
    }

    #[test]
    fn rights_of_kferrys_own_login_are_told_where_it_has_one() {
        let source = [allow("mirror", "orders"), allow("a", "orders"), allow("ANONYMOUS", "orders")];
        let mut plan = plan(&source, &[], [TOPICS, &[]], [&[], &[]]);
        plan.seen_by("User:mirror", "User:kferry");
        assert_eq!((plan.ours.clone(), plan.add.len()), (vec![allow("mirror", "orders")], 3));
        plan.seen_by("User:ANONYMOUS", "User:kferry");
        assert!(plan.ours.is_empty());
    }

    #[test]
    fn what_would_stop_the_mirror_is_told() {
        let source = [deny("*", "orders"), deny("kferry", "pay.a"), deny("a", "pay.a"), allow("*", "orders")];
        let mut plan = plan(&source, &[allow("kferry", "orders"), allow("b", "orders")], [TOPICS, &[]], [&[], &[]]);
        plan.seen_by("User:mirror", "User:kferry");
        assert!(plan.ours.is_empty());
        assert_eq!(plan.against_us, [deny("kferry", "bill.a"), deny("*", "orders")]);
        assert_eq!((plan.extra.clone(), plan.add.len()), (vec![allow("b", "orders")], 4));
    }

    /// As an authorizer decides for one operation.
    fn may(acls: &[Acl], principal: &str, topic: &str) -> bool {
        let applies = |acl: &&Acl| {
            (acl.principal == format!("User:{principal}") || acl.principal == "User:*")
                && Names::of(acl).is_some_and(|names| names.covers(topic))
        };
        let is = |permission| acls.iter().filter(applies).any(|acl| acl.permission == permission);
        is(Permission::Allow) && !is(Permission::Deny)
    }

    fn bindings() -> impl Strategy<Value = Vec<Acl>> {
        let principal = proptest::sample::select(vec!["a", "b", "*"]);
        let one = (any::<bool>(), principal, "[xy]{1,3}|[xy]{1,2}\\+|\\*")
            .prop_map(|(is_allowed, principal, name)| if is_allowed { allow(principal, &name) } else { deny(principal, &name) });
        proptest::collection::vec(one, 0..6)
    }

    /// A naming that keeps some beginnings, changes others, and has exceptions.
    fn renamed(how: u8, topic: &str) -> String {
        match (how, topic.strip_prefix('x')) {
            (1, _) => format!("y{topic}"),
            (2, Some(rest)) => format!("z{rest}"),
            (3, _) if topic == "xy" => "yyy".to_owned(),
            (4, Some(rest)) if !rest.is_empty() => rest.to_owned(),
            _ => topic.to_owned(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_target_allows_what_the_source_does_and_nothing_else(
            source in bindings(), how in 0_u8..5, topics in proptest::collection::btree_set("[xy]{1,3}", 0..6), foreign in
            proptest::collection::btree_set("[xyz]{1,3}", 0..3), selected in proptest::sample::select(vec!["", "x", "y"]),
        ) {
            let name = |topic: &str| topic.starts_with(selected).then(|| Ok(renamed(how, topic)));
            let images: BTreeMap<_, _> = topics.iter().filter_map(|topic| Some((topic.clone(), name(topic)?.unwrap()))).collect();
            // Two topics of one name on the target collide, which `plan` refuses.
            if images.values().collect::<BTreeSet<_>>().len() < images.len() {
                return Ok(());
            }
            let foreign: BTreeSet<String> = foreign.into_iter().filter(|topic| !images.values().any(|image| image == topic)).collect();
            let copied = Copied { target: &name, group: &|_| false, topics: [topics.clone(), foreign.clone()], groups: [set(&[]), set(&[])] };
            let plan = AclPlan::of(&source, &[], &copied);
            for principal in ["a", "b", "c"] {
                for (topic, image) in &images {
                    prop_assert_eq!(may(&plan.add, principal, image), may(&source, principal, topic), "{} {} {:?}", principal, topic, plan);
                }
                for topic in &foreign {
                    prop_assert!(!may(&plan.add, principal, topic), "{} {} {:?}", principal, topic, plan);
                }
                // Where names stay, also what comes later gets no more than it would on the source.
                for later in ["x", "y", "xy", "yx", "xxx", "yyy", "xyx"] {
                    if how == 0 && !topics.contains(later) && !foreign.contains(later) {
                        prop_assert!(!may(&plan.add, principal, later) || may(&source, principal, later), "{} {} {:?}", principal, later, plan);
                    }
                }
            }
            prop_assert_eq!(plan.add.iter().collect::<BTreeSet<_>>().len(), plan.add.len());
            let again = AclPlan::of(&source, &plan.add, &copied);
            prop_assert!(again.add.is_empty() && again.extra.is_empty() && again.present == plan.add, "{:?}", again);
        }
    }
}
