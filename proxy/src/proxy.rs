//! What all connections of the process share: the routes, what is known of clients and of clusters, limits, and the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use kferry_config::{Cluster, Mirror, Mode, OpenFiles, Security};
use kferry_wire::client::Client;
use kferry_wire::places::Decisions;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admission::{Admissions, Most};
use crate::alone::{self, Alone, Who};
use crate::clients::Clients;
use crate::moves::Moves;
use crate::relay::brokers::Brokers;
use crate::relay::carry::Carrying;
use crate::relay::first::FirstBatches;
use crate::relay::holds::Holds;
use crate::relay::park::Parking;
use crate::relay::senders::Senders;
use crate::relay::splice::Pipes;
use crate::relay::view::{Directory, Part, Parts, View, WorkedOut, changes_of};
use crate::routes::{Homes, Routed, Routes, RoutingTable};
use crate::summary::Bursts;

/// How long it takes until a cluster of relayed clients is asked for its brokers again.
const FOLLOW: Duration = Duration::from_secs(10);

/// How often what is shown of the clusters of a view is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Lines about connections that end for the same cause, in a second.
const CLOSED_LINES: u32 = 50;

/// How long the log is silent about more connections that could not be accepted.
const ACCEPT_LINE: Duration = Duration::from_mins(1);

/// What all connections of the process share.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// The file, and the table in force.
    pub routes: Arc<Routes>,
    /// Who is and was connected.
    pub clients: Clients,
    /// Who may come in.
    pub admissions: Arc<Admissions>,
    /// How the files are shared out that the process may have open.
    pub open_files: OpenFiles,
    /// A connection that tries a further bootstrap server while an earlier one has not answered yet holds one of these for each.
    pub overtaking: Arc<Semaphore>,
    /// Pipes for the large bodies of relayed connections.
    pub pipes: Pipes,
    /// Batches on their way to a leader on another cluster than the one of their connection.
    pub carrying: Arc<Carrying>,
    /// Topics that are about to change their leader, and what is under way.
    pub holds: Arc<Holds>,
    /// Groups that are about to change their coordinator, and who waits to join them.
    pub parking: Arc<Parking>,
    /// Producers at clusters that lead topics since a decision.
    pub firsts: Arc<FirstBatches>,
    /// Relayed clients that see a view.
    pub senders: Senders,
    /// Keeps the log lines of connections that end few.
    pub bursts: Bursts,
    /// Keeps the log lines of connections that cannot be accepted few.
    pub not_accepted: Bursts,
    /// Cancelled when the proxy stops: connections end at a quiet moment.
    pub drain: CancellationToken,
    /// Cancelled when `drain_timeout_ms` is over: the connections that are left end.
    pub cut: CancellationToken,
    /// Relayed clients that see their home alone.
    pub alone: Alone,
    /// By the name of their cluster: they outlive a reload.
    brokers: Mutex<HashMap<Arc<str>, Arc<Brokers>>>,
    /// By the name of their route: so do they, since connections see them.
    views: Mutex<HashMap<Arc<str>, SharedSight>>,
    /// What is known of the log of decisions, where the file has `[state]`.
    pub moves: Option<Arc<Moves>>,
    /// What was decided, for views to come.
    decisions: ArcSwap<Decisions>,
    worked_out: Arc<WorkedOut>,
    /// They outlive a reload too.
    directories: Mutex<HashMap<AskedWith, Arc<Directory>>>,
}

/// The name of a cluster, and of the route with whose login it is asked, if it is not kferry's own.
type AskedWith = (Arc<str>, Option<Arc<str>>);

/// Of Produce requests that are carried to one cluster. Each has an equal part: what hangs at one is of no account to the others.
pub(crate) fn carried_bytes(table: &RoutingTable) -> usize {
    table.limits().queued_max_request_bytes / table.relayed_clusters().count().max(1)
}

/// What the clients of a route see.
#[derive(Debug, Clone)]
pub(crate) struct Sight {
    /// `None`: their home alone.
    pub view: Option<Arc<View>>,
    /// Cancelled when those that see a view are to see their home alone: nobody would hold them and tell them of decisions.
    pub until: CancellationToken,
}

/// The same, and by what it is so.
#[derive(Debug)]
struct SharedSight {
    sight: Sight,
    /// Their home.
    home: Arc<str>,
    /// By which it is as it is.
    table: Arc<RoutingTable>,
}

/// Without those for clusters that are not in the file: they are lost for good, and an operator has given up what they had.
fn in_file(table: &RoutingTable, decisions: &Arc<Decisions>) -> Arc<Decisions> {
    let Decisions { topics, groups } = &**decisions;
    if topics.values().map(|led| &led.cluster).chain(groups.values()).all(|cluster| table.has_cluster(cluster)) {
        return decisions.clone();
    }
    let topics = topics.iter().filter(|(_, led)| table.has_cluster(&led.cluster)).map(|(topic, led)| (topic.clone(), led.clone()));
    let groups = groups.iter().filter(|(_, cluster)| table.has_cluster(cluster)).map(|(group, cluster)| (group.clone(), cluster.clone()));
    Arc::new(Decisions { topics: topics.collect(), groups: groups.collect() })
}

impl Proxy {
    /// Of a process that has just started.
    pub(crate) fn new(routes: Arc<Routes>, open_files: OpenFiles) -> Self {
        let table = routes.in_force();
        let moves = table.state().map(|_| Arc::new(Moves::new(&table)));
        let carrying = Arc::new(Carrying::new(carried_bytes(&table)));
        Self {
            routes,
            clients: Clients::default(),
            admissions: Arc::default(),
            open_files,
            overtaking: Arc::new(Semaphore::new(open_files.overtaking)),
            pipes: Pipes::new(open_files.pipes),
            carrying,
            holds: Arc::default(),
            parking: Arc::default(),
            firsts: Arc::default(),
            senders: Senders::default(),
            bursts: Bursts::new(CLOSED_LINES, Duration::from_secs(1)),
            not_accepted: Bursts::new(1, ACCEPT_LINE),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            alone: Alone::default(),
            brokers: Mutex::default(),
            views: Mutex::default(),
            moves,
            decisions: ArcSwap::default(),
            worked_out: Arc::default(),
            directories: Mutex::default(),
        }
    }

    /// How many connections may be open by a table, and by what the process may have open.
    pub(crate) fn most(&self, table: &RoutingTable) -> Most {
        let limits = table.limits();
        Most {
            all: limits.max_connections.min(self.open_files.clients),
            by_open_files: self.open_files.clients < limits.max_connections,
            per_ip: limits.max_connections_per_ip,
        }
    }

    /// What is known of a cluster's brokers.
    pub(crate) fn brokers(&self, cluster: &Cluster) -> Arc<Brokers> {
        let mut brokers = self.brokers.lock().unwrap_or_else(PoisonError::into_inner);
        brokers.entry(cluster.name.clone()).or_default().clone()
    }

    /// What the clients of a route see. A table that is in force no more changes nothing of it.
    pub(crate) fn sight(&self, table: &Arc<RoutingTable>, routed: Routed<'_>) -> Sight {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let Routed { route, home } = routed;
        if let Some(shared) = views.get(&route.name)
            && (Arc::ptr_eq(&shared.table, table) || !Arc::ptr_eq(table, &self.routes.in_force()))
        {
            return shared.sight.clone();
        }
        let before = views.remove(&route.name);
        // Connections that see a view go on with it. Where nothing decides that their home is another one now, they keep the one that they came to.
        let goes_on = |shared: &&SharedSight| shared.home == home.name || self.moves.is_some();
        let goes_on = before.as_ref().filter(goes_on).and_then(|shared| shared.sight.view.clone());
        let view = self.view(table, routed, goes_on);
        let until = match before {
            Some(before) if self.moves.is_none() || before.sight.view.is_some() == view.is_some() => before.sight.until,
            before => {
                if let Some(before) = before {
                    before.sight.until.cancel();
                }
                CancellationToken::new()
            }
        };
        let sight = Sight { view, until };
        views.insert(route.name.clone(), SharedSight { sight: sight.clone(), home: home.name.clone(), table: table.clone() });
        sight
    }

    /// Counts a client that sees its home alone, if anything may move. By a table that is in force no more it is cut at once: who has sent nothing loses nothing.
    pub(crate) fn alone(&self, table: &Arc<RoutingTable>, who: Who) -> Option<alone::Connected> {
        self.moves.as_ref()?;
        let connected = self.alone.come(who);
        // A table that comes into force from here on finds the client.
        if !Arc::ptr_eq(table, &self.routes.in_force()) {
            connected.until().cancel();
        }
        Some(connected)
    }

    /// Ends the connections to which a file gives another sight: nobody would hold what they send.
    pub(crate) fn cut_by(&self, table: &Arc<RoutingTable>) {
        for routed in table.relayed() {
            self.sight(table, routed);
        }
        let relayed: HashSet<&str> = table.relayed().map(|routed| &*routed.route.name).collect();
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        // Connections that see a view go on with it, also when their route is gone.
        views.retain(|route, shared| shared.sight.view.is_some() || relayed.contains(&**route));
        drop(views);
        self.cut_alone(table);
    }

    /// Ends the connections of all relayed clients, once each has the answers to what it has asked.
    pub(crate) fn end_relayed(&self) {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.values().for_each(|shared| shared.sight.until.cancel());
        drop(views);
        self.alone.cut(|_| true, Instant::now());
    }

    /// Ends the connections of clients that see their home alone and are to see more.
    pub(crate) fn cut_alone(&self, table: &RoutingTable) {
        let sees_more = |Who { client_id, address, tls_subject }: &Who| {
            let routed = table.route(client_id, *address, tls_subject.as_deref());
            routed.is_some_and(|routed| routed.route.mode == Mode::Relay && table.view(routed).len() > 1)
        };
        if self.alone.cut(sees_more, Instant::now()) {
            // What they have under way nobody counts.
            self.holds.lost();
        }
    }

    /// The view of a route's clients, made anew or of what goes on.
    fn view(&self, table: &Arc<RoutingTable>, Routed { route, home }: Routed<'_>, goes_on: Option<Arc<View>>) -> Option<Arc<View>> {
        let clusters = table.view(Routed { route, home });
        if clusters.len() < 2 {
            return None;
        }
        let part = |cluster: &Arc<Cluster>| {
            let security = route.security(cluster);
            let changes = changes_of(cluster, security.clone());
            // A file may give kferry no login of its own: then the route's says what there is.
            let has_own = cluster.security.sasl != Some(None);
            let shown = if cluster.security == security { None } else { Some(route.name.clone()) };
            let shown = self.directory(cluster, shown, &security);
            let own = if has_own { self.directory(cluster, None, &cluster.security) } else { shown.clone() };
            Part {
                identity: table.servers(cluster).identity().clone(),
                brokers: self.brokers(cluster),
                cluster: cluster.clone(),
                own,
                shown,
                changes,
            }
        };
        let is_beyond = |mirror: &&Arc<Mirror>| {
            let sees = |of: &Cluster| clusters.iter().any(|cluster| cluster.name == of.name);
            sees(&mirror.target) && !sees(&mirror.source) && mirror.source.security.sasl != Some(None)
        };
        let sources: BTreeMap<_, _> =
            table.mirrors().iter().filter(is_beyond).map(|mirror| (&mirror.source.name, &mirror.source)).collect();
        let beyond = sources.into_values().map(|source| (source.clone(), self.directory(source, None, &source.security)));
        let parts = Parts {
            beyond: beyond.collect(),
            clusters: clusters.into_iter().map(part).collect(),
            mirrors: table.mirrors().to_vec(),
            decisions: in_file(table, &self.decisions.load_full()),
            worked_out: self.worked_out.clone(),
        };
        Some(match goes_on {
            Some(view) => {
                view.change(parts);
                view
            }
            None => Arc::new(View::new(parts)),
        })
    }

    /// kferry's own way to a cluster of the views.
    pub(crate) fn own_client(&self, cluster: &str) -> Option<Client> {
        let directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        directories.iter().find(|((name, route), _)| **name == *cluster && route.is_none()).map(|(_, directory)| directory.client().clone())
    }

    /// What is decided from now on.
    pub(crate) fn decided(&self, decisions: &Arc<Decisions>, homes: Homes) {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        // A hold decides nothing of that.
        if *self.decisions.load_full() != **decisions {
            self.decisions.store(decisions.clone());
            let known = in_file(&self.routes.in_force(), decisions);
            for view in views.values().filter_map(|shared| shared.sight.view.as_ref()) {
                view.decided(&known);
            }
        }
        drop(views);
        self.routes.decided(homes);
    }

    fn directory(&self, cluster: &Cluster, route: Option<Arc<str>>, security: &Security) -> Arc<Directory> {
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = directories.entry((cluster.name.clone(), route));
        let directory = directory.and_modify(|directory| {
            if !directory.is_of(cluster, security) {
                *directory = Arc::new(Directory::new(cluster, security.clone()));
            }
        });
        directory.or_insert_with(|| Arc::new(Directory::new(cluster, security.clone()))).clone()
    }

    /// Follows what the clusters of views have, and the table in force, until `stop`.
    pub(crate) async fn follow_views(&self, stop: CancellationToken) {
        loop {
            let table = self.routes.in_force();
            let views: Vec<_> = table.relayed().filter_map(|routed| self.sight(&table, routed).view).collect();
            join_all(views.iter().map(|view| view.follow())).await;
            if timeout(LOOK, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    /// Asks the clusters of relayed clients for their brokers, all at once.
    pub(crate) async fn ask_clusters(&self) {
        let table = self.routes.in_force();
        let asking =
            table.relayed_clusters().map(|cluster| async { self.brokers(cluster).ask(cluster, table.servers(cluster).identity()).await });
        join_all(asking).await;
    }

    /// Follows the clusters of relayed clients, until `stop`: brokers join, leave and change their addresses.
    pub(crate) async fn follow_brokers(&self, stop: CancellationToken) {
        loop {
            self.ask_clusters().await;
            if timeout(FOLLOW, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }
}
