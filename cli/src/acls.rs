//! `kferry acls`: ACLs, SCRAM users and quotas of the source that the target lacks, shown or created.
//!
//! The differences go to standard output, what somebody has to see to and what failed to standard error; `--json` is one object on standard
//! output. Nothing on the target is ever changed or deleted, only added.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use kferry_config::{Config, Mirror};
use kferry_mirror::security::acls::{AclPlan, ExplainedAcl};
use kferry_mirror::security::quotas::QuotaPlan;
use kferry_mirror::security::users::UserPlan;
use kferry_mirror::security::{acls, quotas, users};
use kferry_mirror::{PATIENCE, named};
use kferry_wire::admin::acls::Acl;
use kferry_wire::client::{Client, ClientError, Topics};
use kferry_wire::connection::ConnectOptions;
use kferry_wire::exit::{self, Exit};
use serde::Serialize;

use crate::check::{print_json, printable, refuse, table, to_stderr, to_stdout};
use crate::labels::{Severity, labelled};
use crate::mirrors::Chosen;
use crate::secrets::Secrets;

/// Which ACLs the target of the [[mirrors]] lacks for what they copy, with its names there; --apply adds them
#[derive(clap::Args)]
#[command(after_help = exit::help(&["kferry acls"]))]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Also the SCRAM users of the source that the target lacks
    #[arg(long)]
    users: bool,
    /// Also the quotas of users, clients and addresses
    #[arg(long)]
    quotas: bool,
    /// Leaves the ACLs of this principal out, and its SCRAM user: that of the mirror, such as User:kferry-mirror. May be given several times
    #[arg(long, value_name = "PRINCIPAL")]
    except: Vec<String>,
    /// Adds what is missing on the target. Changes and deletes nothing
    #[arg(long)]
    apply: bool,
    /// The passwords of users to be created: TOML, lines of user = "password"
    #[arg(long, value_name = "FILE", requires = "users")]
    secrets: Option<PathBuf>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// Nothing is left to do.
    ok: bool,
    mirrors: Vec<MirrorReport>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct MirrorReport {
    mirror: Arc<str>,
    source: Arc<str>,
    target: Arc<str>,
    acls: Option<Acls>,
    users: Option<Vec<UserRow>>,
    quotas: Option<Vec<QuotaRow>>,
    notes: Vec<String>,
    errors: Vec<String>,
}

#[derive(Serialize)]
struct Acls {
    /// What the target lacks.
    add: Vec<Binding>,
    /// What it lacked until now.
    added: Vec<Binding>,
    /// How many it had already.
    present: usize,
    /// Of them, those that name a host.
    present_by_host: usize,
    /// What only the target has for these topics and groups.
    extra: Vec<Binding>,
    /// What somebody has to decide.
    undecided: Vec<Binding>,
    /// Patterns that became single topics.
    expanded: Vec<Binding>,
    /// What stays on the source.
    left_out: Vec<Binding>,
    /// How many bindings are about something that this mirror does not copy.
    elsewhere: usize,
    /// What of `add` and `added` denies kferry itself something, unless it is a super user.
    against_us: Vec<Binding>,
    /// What of `add` and `added` is of the principal as which kferry logs in on the source.
    ours: Vec<Binding>,
}

/// An ACL, in Kafka's words.
#[derive(Serialize)]
struct Binding {
    resource_type: String,
    pattern_type: String,
    resource_name: String,
    principal: String,
    host: String,
    operation: String,
    permission: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Stand {
    There,
    Missing,
    Added,
    /// Of a user: nobody has said its password. Of a quota: the target has another value.
    Undecided,
}

#[derive(Serialize)]
struct UserRow {
    user: String,
    mechanism: String,
    iterations: u32,
    stand: Stand,
}

#[derive(Serialize)]
struct QuotaRow {
    entity: String,
    key: String,
    source: f64,
    target: Option<f64>,
    stand: Stand,
}

impl Binding {
    fn new(acl: &Acl, why: Option<&str>) -> Self {
        Self {
            resource_type: acl.resource_type.to_string(),
            pattern_type: acl.pattern_type.to_string(),
            resource_name: acl.resource_name.clone(),
            principal: acl.principal.clone(),
            host: acl.host.clone(),
            operation: acl.operation.to_string(),
            permission: acl.permission.to_string(),
            why: why.map(str::to_owned),
        }
    }

    fn row(&self, sign: &str) -> Vec<String> {
        let Self { resource_type, pattern_type, resource_name, principal, host, operation, permission, .. } = self;
        [sign, permission, principal, host, operation, resource_type, pattern_type, resource_name].map(printable).to_vec()
    }

    fn sentence(&self) -> String {
        let Self { resource_type, pattern_type, resource_name, principal, host, operation, permission, why } = self;
        let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        format!("{permission} {principal} from {host} {operation} on {pattern_type} {resource_type} {resource_name}{why}")
    }
}

impl Stand {
    fn sign(self) -> &'static str {
        match self {
            Self::There => "=",
            Self::Missing | Self::Added => "+",
            Self::Undecided => "?",
        }
    }

    fn is_done(self) -> bool {
        matches!(self, Self::There | Self::Added)
    }
}

pub(crate) fn run(args: &Args) -> Exit {
    let (config, chosen) = match args.chosen.read() {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let secrets = match args.secrets.as_deref().map(Secrets::read).transpose() {
        Ok(secrets) => secrets,
        Err(sentence) => return refuse(args.chosen.json, &sentence),
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    let mirrors = runtime.block_on(async {
        let mut mirrors = Vec::new();
        // One after the other: two may have the same target.
        for mirror in &chosen {
            let mut report = Box::pin(MirrorReport::of(mirror, args, secrets.as_ref())).await;
            report.note_hosts(&config);
            mirrors.push(report);
        }
        mirrors
    });
    // Dropped, it would wait for look-ups in the DNS, which can go on for a minute after they have been given up.
    runtime.shutdown_background();
    let warnings = secrets.as_ref().map_or_else(Vec::new, |secrets| warnings(secrets, &mirrors));
    let report = Report { ok: mirrors.iter().all(MirrorReport::is_done), mirrors, warnings };
    if args.chosen.json {
        print_json(&report);
    } else {
        print(&report);
    }
    Exit::done(report.ok)
}

fn warnings(secrets: &Secrets, mirrors: &[MirrorReport]) -> Vec<String> {
    let mut warnings: Vec<String> = secrets.warning.clone().into_iter().collect();
    let known = |user: &str| mirrors.iter().any(|mirror| mirror.users.iter().flatten().any(|known| known.user == user));
    let are_known = mirrors.iter().all(|mirror| mirror.users.is_some());
    let unknown: Vec<&str> = secrets.users().filter(|user| are_known && !known(user)).collect();
    if !unknown.is_empty() {
        warnings.push(format!("the secrets are also of users that the source does not have: {}", unknown.join(", ")));
    }
    warnings
}

impl MirrorReport {
    async fn of(mirror: &Mirror, args: &Args, secrets: Option<&Secrets>) -> Self {
        let options = ConnectOptions { client_id: "kferry-acls".to_owned(), ..ConnectOptions::default() };
        let (source, target) = Client::pair(mirror.source.clone(), mirror.target.clone(), &options);
        let (source, target) = (source.within(PATIENCE), target.within(PATIENCE));
        let mut report = Self {
            mirror: mirror.name.clone(),
            source: mirror.source.name.clone(),
            target: mirror.target.name.clone(),
            acls: None,
            users: None,
            quotas: None,
            notes: Vec::new(),
            errors: Vec::new(),
        };
        // Users first: nobody should wait for ACLs to find out that a password is missing.
        if args.users {
            match Box::pin(users::look(&source, &target)).await {
                Ok(mut plan) => {
                    plan.retain(|user| !args.except.contains(&format!("User:{}", user.user)));
                    report.users(plan, &target, args.apply, secrets).await;
                }
                Err(error) => report.failed("the users", &error),
            }
        }
        // Also where nothing else has to be asked of one of the two.
        match tokio::try_join!(source.metadata(Topics::All), target.metadata(Topics::Named(&[]))) {
            Ok((there, _)) => {
                let unseen = named::unseen_topics(mirror, |name| there.topic(name).is_some_and(|topic| topic.error.is_none()));
                report.errors.extend(unseen.map(|(_, sentence)| sentence));
            }
            Err(error) => {
                report.errors.push(error.to_string());
                return report;
            }
        }
        match Box::pin(AclPlan::look(mirror, &source, &target, &args.except)).await {
            Ok(Some(plan)) => report.acls(plan, &target, args.apply).await,
            Ok(None) => report.notes.push(format!(
                "{}'s brokers have no authorizer.class.name: there are no ACLs, and everybody may do everything there",
                report.source
            )),
            Err(error) => report.failed("the ACLs", &error),
        }
        if args.quotas {
            match quotas::look(&source, &target).await {
                Ok(plan) => report.quotas(&plan, &target, args.apply).await,
                Err(error) => report.failed("the quotas", &error),
            }
        }
        report
    }

    /// Says of which ACLs relayed clients have nothing, where the file has such clients on the target.
    fn note_hosts(&mut self, config: &Config) {
        let Some(acls) = self.acls.as_ref().filter(|_| config.relayed_clusters().any(|cluster| cluster.name == self.target)) else {
            return;
        };
        let by_host = [&acls.add, &acls.added, &acls.extra].into_iter().flatten().filter(|binding| binding.host != "*").count()
            + acls.present_by_host;
        if by_host > 0 {
            self.notes.push(format!(
                "{} a host other than *: relayed clients come to {} from the proxy's address, for which they say nothing; add ACLs for that one",
                if by_host == 1 { "1 of these ACLs names".to_owned() } else { format!("{by_host} of these ACLs name") },
                self.target
            ));
        }
    }

    fn failed(&mut self, what: &str, error: &ClientError) {
        self.errors.push(format!("{what} are not known: {error}"));
    }

    async fn acls(&mut self, plan: AclPlan, target: &Client, apply: bool) {
        let refused = if apply { acls::apply(target, &plan.add).await } else { Vec::new() };
        let binding = |acl: &Acl| Binding::new(acl, None);
        let explained = |explained: &ExplainedAcl| Binding::new(&explained.acl, Some(&explained.why));
        let (mut add, mut added) = (Vec::new(), Vec::new());
        for acl in &plan.add {
            let is_done = apply && refused.iter().all(|(refused, _)| refused != acl);
            (if is_done { &mut added } else { &mut add }).push(binding(acl));
        }
        self.errors.extend(refused.iter().map(|(acl, error)| format!("{acl} was not added: {error}")));
        self.acls = Some(Acls {
            add,
            added,
            present: plan.present.len(),
            present_by_host: plan.present.iter().filter(|acl| acl.host != "*").count(),
            extra: plan.extra.iter().map(binding).collect(),
            undecided: plan.undecided.iter().map(explained).collect(),
            expanded: plan.expanded.iter().map(explained).collect(),
            left_out: plan.left_out.iter().map(explained).collect(),
            elsewhere: plan.elsewhere,
            against_us: plan.against_us.iter().map(binding).collect(),
            ours: plan.ours.iter().map(binding).collect(),
        });
        if let Some(Acl { principal, .. }) = plan.ours.first() {
            self.notes.push(format!(
                "{} of {principal}, as which kferry itself logs in on {}: if no application does so, leave {} out with --except {principal}",
                if plan.ours.len() == 1 { "1 of these ACLs is".to_owned() } else { format!("{} of these ACLs are", plan.ours.len()) },
                self.source,
                if plan.ours.len() == 1 { "it" } else { "them" },
            ));
        }
    }

    async fn users(&mut self, plan: Vec<UserPlan>, target: &Client, apply: bool, secrets: Option<&Secrets>) {
        let password = |user: &UserPlan| secrets.and_then(|secrets| secrets.of(&user.user));
        let missing: Vec<_> = plan.iter().filter(|user| !user.is_there).filter_map(|user| Some((user, password(user)?))).collect();
        let refused = if apply { users::apply(target, &missing).await } else { Vec::new() };
        for (user, error) in &refused {
            self.errors.push(format!("user {} was not created for {}: {error}", user.user, user.mechanism));
        }
        let row = |user: &UserPlan| UserRow {
            user: user.user.clone(),
            mechanism: user.mechanism.to_string(),
            iterations: user.iterations.get(),
            stand: match user {
                _ if user.is_there => Stand::There,
                _ if password(user).is_none() => Stand::Undecided,
                _ if apply && refused.iter().all(|(refused, _)| refused != user) => Stand::Added,
                _ => Stand::Missing,
            },
        };
        self.users = Some(plan.iter().map(row).collect());
    }

    async fn quotas(&mut self, plan: &[QuotaPlan], target: &Client, apply: bool) {
        let refused = if apply { quotas::apply(target, plan).await } else { Vec::new() };
        self.errors.extend(refused.iter().map(|(entity, error)| format!("the quotas of {entity} were not set: {error}")));
        let row = |quota: &QuotaPlan| QuotaRow {
            entity: quota.entity.to_string(),
            key: quota.key.clone(),
            source: quota.value,
            target: quota.on_target,
            stand: match quota.on_target {
                _ if quota.is_there() => Stand::There,
                Some(_) => Stand::Undecided,
                None if apply && refused.iter().all(|(refused, _)| *refused != quota.entity) => Stand::Added,
                None => Stand::Missing,
            },
        };
        self.quotas = Some(plan.iter().map(row).collect());
    }

    fn is_done(&self) -> bool {
        self.errors.is_empty()
            && self.acls.iter().all(|acls| acls.add.is_empty() && acls.undecided.is_empty())
            && self.users.iter().flatten().all(|user| user.stand.is_done())
            && self.quotas.iter().flatten().all(|quota| quota.stand.is_done())
    }
}

fn print(report: &Report) {
    let out: Vec<_> = report.mirrors.iter().map(text).collect();
    to_stdout(&out.join("\n"));
    let say = |severity, sentence: &str| to_stderr(&labelled(severity, &printable(sentence)));
    for sentence in &report.warnings {
        say(Severity::Warning, sentence);
    }
    for mirror in &report.mirrors {
        let of = format!("mirror {}", mirror.mirror);
        for binding in mirror.acls.iter().flat_map(|acls| &acls.undecided) {
            say(Severity::Warning, &format!("{of}: not copied, somebody has to decide: {}", binding.sentence()));
        }
        for binding in mirror.acls.iter().flat_map(|acls| &acls.against_us) {
            say(
                Severity::Warning,
                &format!(
                    "{of}: {} also holds for kferry, and can stop the mirror; put its principal into super.users of {}",
                    binding.sentence(),
                    mirror.target
                ),
            );
        }
        let waiting: Vec<_> = mirror.users.iter().flatten().filter(|user| user.stand == Stand::Undecided).collect();
        if !waiting.is_empty() {
            let mut names: Vec<&str> = waiting.iter().map(|user| user.user.as_str()).collect();
            names.dedup();
            say(
                Severity::Warning,
                &format!(
                    "{of}: passwords cannot be copied, and these users have to be created anew: {}; give theirs with --secrets FILE --apply",
                    names.join(", ")
                ),
            );
        }
        for quota in mirror.quotas.iter().flatten().filter(|quota| quota.stand == Stand::Undecided) {
            say(
                Severity::Warning,
                &format!(
                    "{of}: {} of {} has another value on {} and is left so: set it on one of the two",
                    quota.key, quota.entity, mirror.target
                ),
            );
        }
        for error in &mirror.errors {
            say(Severity::Error, &format!("{of}: {error}"));
        }
    }
}

fn text(mirror: &MirrorReport) -> String {
    let mut out = format!("mirror {}: {} to {}\n", mirror.mirror, mirror.source, mirror.target);
    for note in &mirror.notes {
        let _ = writeln!(out, "  {}", printable(note));
    }
    if let Some(users) = &mirror.users {
        let head = ["", "USER", "MECHANISM", "ITERATIONS"].map(str::to_owned).to_vec();
        let row = |user: &UserRow| [user.stand.sign(), &user.user, &user.mechanism, &user.iterations.to_string()].map(printable).to_vec();
        section(&mut out, head, users.iter().map(row).collect());
        let _ = writeln!(
            out,
            "SCRAM users: {}",
            tally(&users.iter().map(|user| user.stand).collect::<Vec<_>>(), "created", "whose password is not known here")
        );
    }
    if let Some(acls) = &mirror.acls {
        acls.text(&mut out, &mirror.target);
    }
    if let Some(quotas) = &mirror.quotas {
        let head = ["", "FOR", "QUOTA", "SOURCE", "TARGET"].map(str::to_owned).to_vec();
        let row = |quota: &QuotaRow| {
            let target = quota.target.map_or_else(|| "-".to_owned(), |value| value.to_string());
            [quota.stand.sign(), &quota.entity, &quota.key, &quota.source.to_string(), &target].map(printable).to_vec()
        };
        section(&mut out, head, quotas.iter().filter(|quota| quota.stand != Stand::There).map(row).collect());
        let _ = writeln!(
            out,
            "quotas: {}",
            tally(&quotas.iter().map(|quota| quota.stand).collect::<Vec<_>>(), "set", "that have another value")
        );
    }
    out
}

impl Acls {
    fn text(&self, out: &mut String, target: &str) {
        let head = ["", "PERMISSION", "PRINCIPAL", "HOST", "OPERATION", "RESOURCE", "PATTERN", "NAME"].map(str::to_owned).to_vec();
        let signed = [("+", &self.add), ("+", &self.added), ("!", &self.extra), ("?", &self.undecided)];
        section(out, head, signed.iter().flat_map(|(sign, bindings)| bindings.iter().map(|binding| binding.row(sign))).collect());
        for binding in &self.expanded {
            let _ = writeln!(out, "one for each topic: {}", printable(&binding.sentence()));
        }
        for binding in &self.left_out {
            let _ = writeln!(out, "not copied: {}", printable(&binding.sentence()));
        }
        let _ = writeln!(
            out,
            "ACLs: {} to add, {} added, {} there already, {} to be decided, {} only on {target} (left as they are), {} about what is not copied",
            self.add.len(),
            self.added.len(),
            self.present,
            self.undecided.len(),
            self.extra.len(),
            self.elsewhere + self.left_out.len(),
        );
    }
}

fn section(out: &mut String, head: Vec<String>, rows: Vec<Vec<String>>) {
    out.push('\n');
    if !rows.is_empty() {
        let all: Vec<_> = [head].into_iter().chain(rows).collect();
        out.push_str(&table(&all));
    }
}

fn tally(stands: &[Stand], added: &str, undecided: &str) -> String {
    let number = |stand| stands.iter().filter(|one| **one == stand).count();
    format!(
        "{} to be {added}, {} {added}, {} there already, {} {undecided}",
        number(Stand::Missing),
        number(Stand::Added),
        number(Stand::There),
        number(Stand::Undecided)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use kferry_wire::admin::acls::{Operation, PatternType, Permission, ResourceType};

    fn report(hosts: [&str; 2], present_by_host: usize) -> MirrorReport {
        let binding = |host: &str| {
            let acl = Acl {
                resource_type: ResourceType::Topic,
                resource_name: "orders".to_owned(),
                pattern_type: PatternType::Literal,
                principal: "User:alice".to_owned(),
                host: host.to_owned(),
                operation: Operation::Read,
                permission: Permission::Allow,
            };
            Binding::new(&acl, None)
        };
        let acls = Acls {
            add: hosts.map(binding).into(),
            added: Vec::new(),
            present: present_by_host,
            present_by_host,
            extra: Vec::new(),
            undecided: Vec::new(),
            expanded: Vec::new(),
            left_out: Vec::new(),
            elsewhere: 0,
            against_us: Vec::new(),
            ours: Vec::new(),
        };
        let (mirror, source, target) = ("m".into(), "old".into(), "new".into());
        MirrorReport { mirror, source, target, acls: Some(acls), users: None, quotas: None, notes: Vec::new(), errors: Vec::new() }
    }

    #[test]
    fn acls_by_host_are_noted_where_relayed_clients_come_to_the_target() {
        let file = |mode: &str| {
            let cluster = |id: u8, name: &str| {
                format!(
                    "[clusters.{name}]\nid = {id}\nbootstrap_servers = \"{name}:9092\"\nnode_ids = \"1-3\"\nbroker_ports = \"9{id}00-9{id}02\"\n"
                )
            };
            let text = format!(
                "{}{}[[listeners]]\nname = \"l\"\nbind = \"127.0.0.1:9092\"\n[[routes]]\nname = \"r\"\nclient_id = \"*\"\ncluster = \"new\"\nmode = \"{mode}\"\n",
                cluster(1, "old"),
                cluster(2, "new")
            );
            Config::parse(&text, std::path::Path::new("routes.toml")).unwrap()
        };
        let notes = |mut report: MirrorReport, mode: &str| {
            report.note_hosts(&file(mode));
            report.notes
        };
        let [note] = &notes(report(["*", "10.0.0.7"], 2), "relay")[..] else { panic!("one note") };
        assert!(
            note.starts_with("3 of these ACLs name a host other than *: relayed clients come to new from the proxy's address"),
            "{note}"
        );
        assert_eq!(notes(report(["*", "*"], 0), "relay"), [""; 0]);
        assert_eq!(notes(report(["10.0.0.8", "10.0.0.7"], 0), "bootstrap"), [""; 0]);
    }
}
