//! The world: time, chance, the log of decisions, faults, and what must hold at every moment and in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kferry_wire::decisions::{Known, Leader, Led, Member, Owned, OwnedGroup, Request, Settings, State, Topic, Verdict};

use super::Mutation;
use super::client::Client;
use super::cluster::{Answer, Cluster, PARTITIONS, Record};
use super::group::{GROUP, Group, lives};
use super::mirror::Owner;
use super::proxy::{Process, take};
use super::rng::Rng;

/// A moment, or how long something takes, in ms.
pub(crate) type Ms = u64;

pub(crate) const CLUSTERS: [&str; 2] = ["old", "new"];
/// For so long after its connection broke something may arrive.
pub(crate) const LATE: Ms = 4_000;
/// Faults end here. After that everything must come to rest within [`REST`].
const FAULTS: Ms = 25_000;
const REST: Ms = 90_000;

pub(crate) fn ms(ms: Ms) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn topic(partition: usize) -> &'static str {
    ["t0", "t1"][partition]
}

/// A batch that a client sends.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) client: usize,
    pub(crate) partition: usize,
    pub(crate) n: u32,
    pub(crate) conn: u64,
}

/// What a client is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reply {
    Appended,
    OutOfOrder,
    NotLeader,
}

#[derive(Debug)]
pub(crate) enum Event {
    Client(usize),
    Proxy(usize),
    Owner(usize),
    ProxyStarts { proxy: usize, boot: u32, host: u64, file: usize },
    OwnerStarts(usize),
    Ask { proxy: usize, boot: u32, ask: Ask },
    Arrives { proxy: usize, boot: u32, number: u64, cluster: usize, id: i64, ask: Ask },
    Answer { proxy: usize, boot: u32, number: u64, answer: Answer },
    Reply { proxy: usize, boot: u32, client: usize, partition: usize, n: u32, reply: Reply },
    Copy { owner: usize, boot: u32, cluster: usize, partition: usize, term: i32, from: usize, records: Vec<Record> },
    Copied { owner: usize, boot: u32, partition: usize, is_refused: bool },
    Member(usize),
    Commit { proxy: usize, boot: u32, number: u64, cluster: usize, value: i64 },
    Committed { proxy: usize, boot: u32, number: u64 },
    Settle { owner: usize, boot: u32, cluster: usize, value: i64 },
    Settled { owner: usize, boot: u32 },
    Append(Request),
    Forget,
    Edit,
    File { proxy: usize, file: usize },
    Fault,
    Rest,
}

pub(crate) struct World {
    pub(crate) now: Ms,
    pub(crate) rng: Rng,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) settings: Settings,
    events: BTreeMap<(Ms, u64), Event>,
    pub(crate) numbers: u64,
    pub(crate) conns: u64,
    /// Until when a Produce is on its way whose connection broke.
    pub(crate) late: BTreeMap<u64, Ms>,
    pub(crate) clusters: [Cluster; 2],
    pub(crate) log: Vec<Request>,
    /// What a reader of the whole log knows.
    pub(crate) truth: State,
    pub(crate) proxies: Vec<Process>,
    pub(crate) owners: Vec<Owner>,
    pub(crate) clients: Vec<Client>,
    pub(crate) group: Group,
    /// Which process of the mirror owns the partitions, and until when.
    pub(crate) lease: (usize, Ms),
    /// The homes that the operator's files name, and which of them ordered the open move and the last one that flipped.
    pub(crate) files: Vec<usize>,
    ordered: usize,
    flipped_by: usize,
    /// The files that the log has heard of, and the one that was news to it last: a running process has taken it, or nobody had before. By the rule such a one is
    /// never old: the log cannot know that another process has had it, or that this one has while it did not reach the log.
    heard: BTreeSet<String>,
    edited: Option<String>,
    /// The files that any proxy has taken while it ran, or started with.
    pub(crate) taken: BTreeSet<usize>,
    pub(crate) known: Known,
    /// When processes of proxies died.
    pub(crate) dead: BTreeMap<Member, Ms>,
    pub(crate) flipped: [Ms; PARTITIONS],
    before: BTreeMap<String, Leader>,
    /// Whether a broker may be frozen; what it writes later than [`LATE`]; the partitions that have such a record, also when the last move began; and those
    /// of which the mirror has found that they have diverged.
    pub(crate) freezes: bool,
    pub(crate) frozen: BTreeSet<u64>,
    foreign: [bool; PARTITIONS],
    /// The partitions whose leader has got such a record since the last move began: it may be behind the end at which the move flips.
    tail: [bool; PARTITIONS],
    foreign_before: bool,
    /// Such records, by partition and offset, in the log of a cluster that leads or has come to lead: the logs are the same, and a record stands twice, which
    /// nobody can know.
    again: BTreeSet<(usize, usize)>,
    pub(crate) found: [bool; PARTITIONS],
    /// How often in a thousand times a process dies at an action, and a record of the log comes twice.
    deadly: u64,
    doubled: u64,
    /// When it is looked next whether everything has come to rest.
    looks: Ms,
    pub(crate) flips: u32,
    wrong: Option<String>,
    schedule: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>, is_told: bool) -> Self {
        let mut rng = Rng::new(seed);
        let late = if mutation == Some(Mutation::ThirtySeconds) { 0 } else { LATE };
        let settings = Settings { hold: ms(2_000), gather: ms(3_000), stand_by: ms(150), late: ms(late), retry: ms(700), again: ms(800) };
        let owned = |name: &str| {
            let topic = Topic { partitions: 1, ids: BTreeMap::new() };
            Owned { name: name.to_owned(), leader: CLUSTERS[0].to_owned(), topic, blocked: None }
        };
        let group = OwnedGroup { name: GROUP.to_owned(), lives: CLUSTERS[0].to_owned(), blocked: None };
        let known = Known {
            owns: [("orders".to_owned(), vec![owned("t0"), owned("t1")])].into(),
            groups: [("orders".to_owned(), vec![group])].into(),
            ..Known::default()
        };
        let mut world = Self {
            now: 0,
            mutation,
            settings,
            events: BTreeMap::new(),
            numbers: 0,
            conns: 0,
            late: BTreeMap::new(),
            clusters: <[Cluster; 2]>::default(),
            log: Vec::new(),
            truth: State::default(),
            proxies: Vec::new(),
            owners: Vec::new(),
            clients: Vec::new(),
            group: Group::default(),
            lease: (0, 0),
            files: vec![0],
            ordered: 0,
            flipped_by: 0,
            heard: BTreeSet::new(),
            edited: None,
            taken: BTreeSet::new(),
            known,
            dead: BTreeMap::new(),
            flipped: [0; PARTITIONS],
            before: BTreeMap::new(),
            freezes: rng.chance(100),
            frozen: BTreeSet::new(),
            foreign: [false; PARTITIONS],
            tail: [false; PARTITIONS],
            again: BTreeSet::new(),
            foreign_before: false,
            found: [false; PARTITIONS],
            deadly: [0, 1, 4][rng.below(3)],
            doubled: [0, 60, 250][rng.below(3)],
            looks: FAULTS + 1,
            flips: 0,
            wrong: None,
            schedule: is_told.then(Vec::new),
            rng,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        self.arrives_in_log(Request::Identity { log: "L".to_owned() });
        for proxy in 0..=self.rng.below(3) {
            let process = self.started(proxy, 0, proxy as u64, 0, 0);
            self.proxies.push(process);
            self.at(1, Event::Proxy(proxy));
        }
        for owner in 0..=self.rng.below(2) {
            self.owners.push(Owner { is_alive: true, ..Owner::default() });
            self.at(1, Event::Owner(owner));
        }
        for client in 0..2 + self.rng.below(2) {
            let total = self.rng.between(60, 140) as u32;
            let proxy = self.rng.below(self.proxies.len());
            self.clients.push(Client { is_idempotent: client != 2, total, proxy, ..Client::default() });
            self.at(300, Event::Client(client));
        }
        self.group_begins();
        for _ in 0..self.rng.between(2, 7) {
            let at = self.rng.between(1_000, FAULTS);
            self.at(at, Event::Edit);
        }
        for _ in 0..self.rng.below(20) {
            let at = self.rng.between(1_000, FAULTS);
            self.at(at, Event::Fault);
        }
        self.at(FAULTS, Event::Rest);
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// What did not hold, and the schedule up to there.
    pub(crate) fn run(mut self) -> Result<u32, (String, Vec<String>)> {
        while self.wrong.is_none() {
            let Some(((at, number), event)) = self.events.pop_first() else { break };
            self.now = at;
            if let Some(later) = self.waits(&event) {
                self.events.insert((later, number), event);
                continue;
            }
            self.happens(event);
            if at >= self.looks {
                self.looks = at + 100;
                let unrest = self.unrest();
                if unrest.is_empty() {
                    break;
                }
                if at > FAULTS + REST {
                    self.fails(unrest);
                }
            }
        }
        if self.wrong.is_none() && !self.foreign.contains(&true) {
            self.is_whole();
        }
        match self.wrong {
            Some(wrong) => Err((format!("{} ms: {wrong}", self.now), self.schedule.unwrap_or_default())),
            None => Ok(self.flips),
        }
    }

    /// Until when an event waits because its process is paused, or because it comes late.
    fn waits(&mut self, event: &Event) -> Option<Ms> {
        let until = match event {
            Event::Proxy(proxy)
            | Event::Ask { proxy, .. }
            | Event::Answer { proxy, .. }
            | Event::Committed { proxy, .. }
            | Event::File { proxy, .. } => self.proxies[*proxy].paused,
            Event::Owner(owner) | Event::Copied { owner, .. } | Event::Settled { owner, .. } => self.owners[*owner].paused,
            Event::Arrives { number, .. } | Event::Commit { number, .. } => self.late.remove(number).unwrap_or(0),
            _ => 0,
        };
        (until > self.now).then_some(until)
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Client(client) => self.client_acts(client),
            Event::Proxy(proxy) => self.proxy_acts(proxy),
            Event::Owner(owner) => self.owner_acts(owner),
            Event::ProxyStarts { proxy, boot, host, file } => {
                let disk = self.proxies[proxy].disk;
                let file = if self.now >= FAULTS { self.files.len() - 1 } else { file };
                self.proxies[proxy] = self.started(proxy, boot, host, disk, file);
                self.note(|| format!("p{proxy} ({boot}) starts with file {file}"));
                if self.now >= FAULTS {
                    self.happens(Event::File { proxy, file });
                }
            }
            Event::OwnerStarts(owner) => self.owners[owner].is_alive = true,
            Event::Ask { proxy, boot, ask } => self.proxy_reads(proxy, boot, ask),
            Event::Arrives { proxy, boot, number, cluster, id, ask } => self.arrives(proxy, boot, number, cluster, id, &ask),
            Event::Answer { proxy, boot, number, answer } => self.proxy_is_answered(proxy, boot, number, answer),
            Event::Reply { proxy, boot, client, partition, n, reply } => {
                let process = &self.proxies[proxy];
                if process.boot == boot && process.is_alive {
                    self.client_hears(client, partition, n, reply);
                }
            }
            Event::Copy { owner, boot, cluster, partition, term, from, records } => {
                let is_refused = self.copies(cluster, partition, term, from, &records);
                let delay = self.delay(10);
                self.at(self.now + delay, Event::Copied { owner, boot, partition, is_refused });
            }
            Event::Copied { owner, boot, partition, is_refused } => self.owner_is_answered(owner, boot, partition, is_refused),
            Event::Member(member) => self.member_acts(member),
            Event::Commit { proxy, boot, number, cluster, value } => self.commits(proxy, boot, number, cluster, value),
            Event::Committed { proxy, boot, number } => self.member_is_answered(proxy, boot, number),
            Event::Settle { owner, boot, cluster, value } => self.settles(owner, boot, cluster, value),
            Event::Settled { owner, boot } => self.owner_has_settled(owner, boot),
            Event::Append(request) => self.arrives_in_log(request),
            Event::Forget => {
                let is_cold = |member: &&Member| self.dead.get(member).is_some_and(|died| died + LATE <= self.now);
                let dead: Vec<_> = self.truth.joined().keys().filter(is_cold).cloned().collect();
                for proxy in dead {
                    self.append(Request::Forgotten { proxy, by: "operator".to_owned() }, false);
                }
            }
            Event::Edit => self.edited(),
            Event::File { proxy, file } => {
                let process = &mut self.proxies[proxy];
                process.disk = process.disk.max(file);
                if process.is_alive && file >= process.file {
                    process.file = file;
                    take(&mut process.rules, self.files[file]);
                    self.taken.insert(file);
                    self.note(|| format!("p{proxy} takes file {file}"));
                }
            }
            Event::Fault => self.fault(),
            Event::Rest => self.rests(),
        }
    }

    pub(crate) fn at(&mut self, at: Ms, event: Event) {
        self.numbers += 1;
        self.events.insert((at.max(self.now), self.numbers), event);
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(schedule) = &mut self.schedule {
            schedule.push(format!("{:>6} {}", self.now, line()));
        }
    }

    pub(crate) fn fails(&mut self, wrong: String) {
        self.note(|| format!("WRONG: {wrong}"));
        self.wrong.get_or_insert(wrong);
    }

    /// How long something is on its way: mostly below `usual` ms, seldom much longer.
    pub(crate) fn delay(&mut self, usual: Ms) -> Ms {
        if self.rng.chance(12) { self.rng.between(usual, 1_200) } else { self.rng.between(1, usual) }
    }

    /// Whether a process dies at this action.
    pub(crate) fn crashes(&mut self) -> bool {
        self.now < FAULTS && self.rng.chance(self.deadly)
    }

    /// How many records a process reads before it acts.
    pub(crate) fn reads(&mut self) -> usize {
        if self.rng.chance(150) { self.rng.below(3) } else { usize::MAX }
    }

    /// Who leads a partition, and in which term.
    pub(crate) fn led(state: &State, partition: usize) -> (usize, i32) {
        state.leaders().get(topic(partition)).map_or((0, 1), |led| (usize::from(&*led.cluster == CLUSTERS[1]), led.term))
    }

    /// A process appends a record: it comes once, twice or, if the process does not reach the log, perhaps not at all.
    pub(crate) fn append(&mut self, request: Request, is_cut: bool) {
        if is_cut {
            return;
        }
        let delay = self.delay(25);
        if self.now < FAULTS && self.rng.chance(self.doubled) {
            let late = if self.rng.chance(700) { 6_000 } else { 300 };
            let copy = self.now + self.rng.between(1, late);
            self.at(copy, Event::Append(request.clone()));
        }
        self.at(self.now + delay, Event::Append(request));
    }

    fn arrives_in_log(&mut self, mut request: Request) {
        if self.mutation == Some(Mutation::LastDecision) {
            let last = self.truth.last_decision();
            match &mut request {
                Request::Hold { after: named, .. }
                | Request::Holding { id: named, .. }
                | Request::Closed { id: named, .. }
                | Request::Flip { id: named, .. }
                | Request::Parked { id: named, .. }
                | Request::Without { id: named, .. }
                | Request::Synced { id: named, .. }
                | Request::Abort { id: named, .. } => *named = last,
                _ => {}
            }
        }
        let offset = self.log.len() as i64;
        let (open, leaders) = (self.truth.open().cloned(), self.truth.leaders().clone());
        let verdict = self.truth.apply(offset, &request);
        self.note(|| format!("log {offset}: {request:?} {verdict:?}"));
        if verdict == Verdict::Counts {
            match &request {
                Request::Wish { taken, file, .. } => {
                    let is_new = self.heard.insert(file.clone());
                    if is_new || *taken > 0 {
                        self.edited = Some(file.clone());
                    }
                }
                Request::Hold { to, groups, .. } => {
                    self.before = leaders;
                    self.foreign_before = self.foreign.contains(&true);
                    self.tail = [false; PARTITIONS];
                    let wants = |file: &&usize| CLUSTERS[self.files[**file]] == to;
                    self.ordered = self.taken.iter().filter(wants).max().copied().unwrap_or(0);
                    // Groups come after their topics, by the same file.
                    let is_old = self.ordered < self.flipped_by || groups.is_empty() && self.ordered == self.flipped_by;
                    let is_edit = self.edited.as_ref() == Some(to);
                    if is_old && !is_edit && self.mutation != Some(Mutation::Incarnation) {
                        self.fails(format!("file {} orders a move to {to}, after file {}", self.ordered, self.flipped_by));
                    }
                }
                Request::Flip { topics, groups, .. } => {
                    self.flipped_by = self.ordered;
                    self.flips += 1;
                    if groups.contains(GROUP) {
                        self.group_flips();
                    }
                    for partition in 0..PARTITIONS {
                        let Some(Led { ends, .. }) = topics.get(topic(partition)) else { continue };
                        self.flipped[partition] = self.now;
                        if self.foreign[partition] && self.foreign_before {
                            self.fails(format!("{} has diverged, and flips", topic(partition)));
                        }
                        let [old, new] = [0, 1].map(|cluster| &self.clusters[cluster].logs[partition].records);
                        let is_equal = old == new && ends[..] == [old.len() as i64];
                        let (leader, _) = Self::led(&self.truth, partition);
                        let (leads, led) = if leader == 0 { (old, new) } else { (new, old) };
                        if self.foreign[partition] && leads.starts_with(led) && ends[..] == [led.len() as i64] {
                            // Between the last look and the flip: it is the first record of the new term.
                            self.again.extend((led.len()..leads.len()).map(|offset| (partition, offset)));
                            self.foreign[partition] = false;
                        } else if !is_equal && (self.tail[partition] || self.foreign[partition]) {
                            self.foreign[partition] = true;
                        } else if !is_equal {
                            self.fails(format!(
                                "at the flip {} has {} and {} records, at {ends:?}",
                                topic(partition),
                                old.len(),
                                new.len()
                            ));
                        }
                    }
                }
                Request::Abort { .. } if *self.truth.leaders() != self.before || open.is_none() => {
                    self.fails("an abort has not restored who leads".to_owned());
                }
                _ => {}
            }
        }
        self.log.push(request);
    }

    /// A Produce arrives at a broker.
    fn arrives(&mut self, proxy: usize, boot: u32, number: u64, cluster: usize, id: i64, ask: &Ask) {
        let (leader, _) = Self::led(&self.truth, ask.partition);
        let record = Record { client: ask.client, n: ask.n };
        let answer = self.clusters[cluster].logs[ask.partition].append(id, ask.n as i32, record);
        self.note(|| format!("{} {}: {record:?} of p{proxy} ({boot}) {answer:?}", CLUSTERS[cluster], topic(ask.partition)));
        let is_frozen = self.frozen.remove(&number) && answer == Answer::Appended;
        if is_frozen {
            self.note(|| "a frozen broker has written what nobody waited for any more".to_owned());
            let lands_at = if cluster == leader { &mut self.tail } else { &mut self.foreign };
            lands_at[ask.partition] = true;
            if cluster == leader {
                self.again.insert((ask.partition, self.clusters[cluster].logs[ask.partition].records.len() - 1));
            }
        } else if cluster != leader && answer == Answer::Appended {
            self.fails(format!("{record:?} of p{proxy} landed on {}, which does not lead {}", CLUSTERS[cluster], topic(ask.partition)));
        }
        let delay = self.delay(12);
        self.at(self.now + delay, Event::Answer { proxy, boot, number, answer });
    }

    /// A copy arrives at a broker.
    fn copies(&mut self, cluster: usize, partition: usize, term: i32, from: usize, records: &[Record]) -> bool {
        let (leader, _) = Self::led(&self.truth, partition);
        let (appended, is_refused) = self.clusters[cluster].logs[partition].copy(term, from, records);
        let [copy, original] = [cluster, leader].map(|cluster| &self.clusters[cluster].logs[partition].records);
        if appended > 0 && !self.foreign[partition] && (cluster == leader || !original.starts_with(copy)) {
            self.fails(format!(
                "the mirror wrote {appended} records at {from} to {} of {} in term {term}",
                topic(partition),
                CLUSTERS[cluster]
            ));
        }
        is_refused
    }

    fn edited(&mut self) {
        let last = self.files[self.files.len() - 1];
        let home = if self.rng.chance(850) { 1 - last } else { last };
        self.files.push(home);
        let file = self.files.len() - 1;
        self.note(|| format!("the operator writes file {file}: {}", CLUSTERS[home]));
        for proxy in 0..self.proxies.len() {
            let slow = if self.rng.chance(300) { 3_000 } else { 200 };
            let at = self.now + self.rng.between(1, slow);
            self.at(at, Event::File { proxy, file });
        }
    }

    fn fault(&mut self) {
        let until = self.now + self.rng.between(50, 6_000);
        let (proxy, owner) = (self.rng.below(self.proxies.len()), self.rng.below(self.owners.len()));
        match self.rng.below(13) {
            0 | 1 => self.proxy_dies(proxy, false),
            2 => {
                self.note(|| format!("p{proxy} pauses until {until}"));
                self.proxies[proxy].paused = until;
            }
            3..=5 => {
                self.note(|| format!("p{proxy} does not reach the log until {until}"));
                self.proxies[proxy].cut = until;
            }
            6 | 7 => {
                let cluster = self.rng.below(2);
                self.note(|| format!("p{proxy} loses its connections to {}", CLUSTERS[cluster]));
                self.proxy_loses(proxy, cluster);
            }
            8 if self.owners[owner].is_alive => self.owner_dies(owner),
            // Without incarnations nobody could come back.
            9 if self.mutation != Some(Mutation::Incarnation) => {
                self.note(|| format!("p{proxy} leaves"));
                self.proxies[proxy].leaves = Some(self.now + self.rng.between(0, 3_000));
                for client in 0..self.clients.len() {
                    self.client_loses(client, proxy);
                }
            }
            10 if let Some(id) = self.truth.open().map(|open| open.id) => {
                self.append(Request::Abort { id, by: "operator".to_owned(), reason: "by hand".to_owned(), until_edit: false }, false);
            }
            11 => {
                self.note(|| format!("mirror {owner} pauses until {until}"));
                self.owners[owner].paused = until;
            }
            _ => {
                self.note(|| format!("mirror {owner} does not reach the log until {until}"));
                self.owners[owner].cut = until;
            }
        }
    }

    /// Faults end, and the operator touches the file everywhere.
    fn rests(&mut self) {
        self.note(|| "faults end".to_owned());
        let file = self.files.len() - 1;
        for proxy in 0..self.proxies.len() {
            let process = &mut self.proxies[proxy];
            (process.paused, process.cut) = (0, 0);
            self.happens(Event::File { proxy, file });
        }
        for owner in &mut self.owners {
            (owner.paused, owner.cut) = (0, 0);
        }
    }

    /// What has not come to rest.
    fn unrest(&self) -> String {
        let wish = self.files[self.files.len() - 1];
        let mut unrest = Vec::new();
        if self.foreign.contains(&true) {
            // The mirror stops there, loudly: nothing else comes to rest.
            let is_found = (0..PARTITIONS).all(|partition| self.found[partition] || !self.foreign[partition]);
            return if is_found { String::new() } else { "nobody has found what a frozen broker wrote".to_owned() };
        }
        for (index, client) in self.clients.iter().enumerate() {
            if !client.is_done() {
                unrest.push(format!("client {index} waits"));
            }
        }
        for partition in 0..PARTITIONS {
            if Self::led(&self.truth, partition).0 != wish {
                unrest.push(format!("{} is not led by {}", topic(partition), CLUSTERS[wish]));
            }
            if self.clusters[0].logs[partition].records != self.clusters[1].logs[partition].records {
                unrest.push(format!("{} is not copied", topic(partition)));
            }
        }
        if lives(&self.truth) != wish {
            unrest.push(format!("the group does not live on {}", CLUSTERS[wish]));
        }
        if self.truth.open().is_some() || self.proxies.iter().any(|process| process.rules.holds().is_some()) {
            unrest.push("a move is open".to_owned());
        }
        if !self.events.values().all(|event| {
            !matches!(event, Event::Append(_) | Event::Settle { .. } | Event::Forget | Event::Copy { .. } | Event::Arrives { .. })
        }) {
            unrest.push("something is under way".to_owned());
        }
        let end = self.log.len() as i64;
        if self.proxies.iter().any(|process| !process.is_alive || process.rules.state().end() != end)
            || self.owners.iter().any(|owner| owner.state.end() != end)
        {
            unrest.push("somebody has not read the log".to_owned());
        }
        unrest.join(", ")
    }

    /// What must hold in the end.
    fn is_whole(&mut self) {
        let mut wrong = Vec::new();
        for (index, client) in self.clients.iter().enumerate() {
            for (partition, log) in self.clusters[0].logs.iter().enumerate() {
                let is_again = |offset, n| {
                    let is_it = |record: &&Record| record.client == index && record.n == n;
                    self.again.contains(&(partition, offset)) && log.records.iter().filter(is_it).count() > 1
                };
                let of_it = log.records.iter().enumerate().filter(|(_, record)| record.client == index);
                let there: Vec<u32> = of_it.filter(|(offset, record)| !is_again(*offset, record.n)).map(|(_, record)| record.n).collect();
                let is_right = if client.is_idempotent {
                    there.iter().copied().eq(0..client.total)
                } else {
                    there.iter().collect::<BTreeSet<_>>().len() == client.total as usize
                };
                if !is_right {
                    wrong.push(format!(
                        "client {index} was acknowledged {} batches of {}, and there are {there:?}",
                        client.total,
                        topic(partition)
                    ));
                }
            }
        }
        let states = self.proxies.iter().map(|process| process.rules.state()).chain(self.owners.iter().map(|owner| &owner.state));
        if !states.into_iter().all(|state| *state == self.truth) {
            wrong.push("two readers of the log know different things".to_owned());
        }
        if let Some(wrong) = wrong.into_iter().next() {
            self.fails(wrong);
        }
    }
}
