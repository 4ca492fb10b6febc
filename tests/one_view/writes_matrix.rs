//! For `make soak`: each client library, with each kind of producer that it has, while two topics that it writes to come to lead elsewhere, one after the
//! other: on a single broker, and on three of which one is killed. `KFERRY_CLIENTS` names some, such as `sarama,kafka-go plain`.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use harness::clients::soak::{self, Ack, Soak};
use harness::clients::{Client, prepare};
use harness::kafka::{Cluster, Listener, Record};
use harness::proxy::{Proxy, Routes};
use harness::stage;

use crate::carried::{numbers, produce_on};
use crate::{CALM, LIMIT, Names, Side, routes};

/// Producers at the same time.
const AT_ONCE: usize = 6;

/// Of each topic: with three brokers each leads one.
const PARTITIONS: usize = 3;

/// Longer than it takes until both topics lead elsewhere: the first Produce at the wrong home is not one that metadata have kept from being one.
const METADATA_MAX_AGE: Duration = Duration::from_secs(12);

/// How long the producers go on like this.
const EACH: Duration = Duration::from_millis(2500);

/// How long the first Produce at the wrong home may take in most cells: a single one may have met a machine that was busy. Where the machine keeps a producer
/// that comes to the leaders by itself waiting for long, twice as long as that one waits for its slowest record meanwhile.
const FIRST: Duration = Duration::from_millis(100);

#[test]
#[ignore = "six minutes; make soak"]
fn each_producer_while_its_topics_come_to_lead_on_a_single_broker() -> Result<()> {
    matrix(1)
}

#[test]
#[ignore = "ten minutes; make soak"]
fn each_producer_while_its_topics_come_to_lead_on_three_brokers_of_which_one_dies() -> Result<()> {
    matrix(3)
}

/// Why [`Kind::is_exact`] leaves kafkajs out: without a proxy the library acknowledges records that it has sent to nobody, and sends some twice, when a
/// leader dies. A release that does so no more fails here.
#[test]
#[ignore = "a minute for each kill; make soak"]
fn kafkajs_alone_loses_and_doubles_when_a_leader_dies() -> Result<()> {
    const KILLS: usize = 10;
    prepare(Client::Kafkajs)?;
    let _alone = CALM.write().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::version("3.9.1").name("alone").brokers(3).set("min.insync.replicas", "2").start()?;
    let mut all = Wrong::default();
    for kill in 0..KILLS {
        let started = |n: usize| {
            let topic = format!("alone-{kill}-{n}");
            cluster.create_topic(&topic, PARTITIONS as i32, &[])?;
            let plain = soak::Job::plain(cluster.bootstrap_servers(Listener::Plaintext)?, topic.clone(), &topic, PARTITIONS, EACH);
            // As many as it takes for each send to have some for each of the three leaders.
            let job = soak::Job { group_id: None, records_per_second: 1_000, ..plain };
            Ok((Soak::start(Client::Kafkajs, &job)?, job))
        };
        let (soaks, jobs): (Vec<_>, Vec<_>) = (0..AT_ONCE / 2).map(started).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        produce_on(&soaks, 100)?;
        let times = Times { carried: now_ms()?, ..Times::default() };
        let victim = cluster.partitions(&jobs[0].topic)?[0].leader;
        cluster.kill(victim)?;
        thread::sleep(2 * METADATA_MAX_AGE);
        cluster.restart(victim)?;
        thread::sleep(METADATA_MAX_AGE);
        for (soak, job) in soaks.into_iter().zip(&jobs) {
            // It may not go on at all: every later batch is out of sequence then.
            let (acks, _) = soak.stop_unread();
            let (log, mut row) = (numbers(&cluster, &job.topic)?, Row::default());
            for (place, (_, partition)) in job.places().into_iter().enumerate() {
                row.add_partition(place, &acks, [&log[&partition], &[]], times);
            }
            let [before, after] = row.wrong;
            println!("{}: {after:?}", job.topic);
            ensure!(before == Wrong::default(), "{}, before the kill: {before:?}", job.topic);
            (all.lost, all.twice) = (all.lost + after.lost, all.twice + after.twice);
        }
        if all.lost > 0 && all.twice > 0 {
            return Ok(());
        }
    }
    bail!("{all:?} with {KILLS} kills")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Idempotent,
    Plain,
    Acks1,
    Acks0,
    NoRetries,
}

impl Mode {
    const ALL: [Self; 5] = [Self::Idempotent, Self::Plain, Self::Acks1, Self::Acks0, Self::NoRetries];

    fn name(self) -> &'static str {
        match self {
            Self::Idempotent => "idempotent",
            Self::Plain => "plain",
            Self::Acks1 => "acks-1",
            Self::Acks0 => "acks-0",
            Self::NoRetries => "no-retries",
        }
    }

    fn acks(self) -> &'static str {
        match self {
            Self::Acks1 => "1",
            Self::Acks0 => "0",
            _ => "all",
        }
    }
}

/// A cell of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    client: Client,
    mode: Mode,
}

impl fmt::Display for Kind {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} {}", self.client.name(), self.mode.name())
    }
}

impl Kind {
    /// Mode by mode, so that those that run at the same time are of several libraries.
    fn all() -> Vec<Self> {
        let clients = || Client::ALL.into_iter().chain(Client::OTHERS);
        let all = Mode::ALL.into_iter().flat_map(|mode| clients().map(move |client| Self { client, mode }));
        all.filter(|kind| kind.why_not().is_none()).collect()
    }

    /// Why there is no such producer.
    fn why_not(self) -> Option<&'static str> {
        match (self.client, self.mode) {
            (client, Mode::Idempotent) if !client.can_be_idempotent() => Some("the library has none"),
            (Client::Aiokafka, Mode::NoRetries) => Some("it tries again until request_timeout_ms, and has no setting for how often"),
            _ => None,
        }
    }

    fn chosen() -> Result<Vec<Self>> {
        let all = Self::all();
        let Ok(names) = std::env::var("KFERRY_CLIENTS") else { return Ok(all) };
        let mut chosen = Vec::new();
        for name in names.split(',') {
            let before = chosen.len();
            chosen.extend(all.iter().filter(|kind| kind.client.name() == name || kind.to_string() == name));
            ensure!(
                chosen.len() > before,
                "KFERRY_CLIENTS: no {name:?}, but {}",
                all.iter().map(Self::to_string).collect::<Vec<_>>().join(", ")
            );
        }
        Ok(chosen)
    }

    /// Why it does not come over when it has new metadata.
    fn why_it_stays(self) -> Option<&'static str> {
        (self.client == Client::Sarama).then_some("its producer of a partition looks for the leader when something fails")
    }

    /// Whether it sends batches of a partition one after the other. What does not is the library's: see docs/wire-quirks.md.
    fn keeps_order(self) -> bool {
        (self.client, self.mode) != (Client::KafkaGo, Mode::Acks0)
    }

    /// Whether it sends all records, and an idempotent producer none with two sequence numbers, when leaders change meanwhile. What does not is the
    /// library's, too.
    fn is_exact(self) -> bool {
        self.client != Client::Kafkajs
    }

    /// Whether the library puts batches of several partitions into a request.
    fn shares_frames(self) -> bool {
        !matches!(self.client, Client::Rdkafka | Client::ConfluentPython | Client::KafkaJavascript | Client::KafkaGo)
    }
}

fn matrix(brokers: u16) -> Result<()> {
    let kinds = Kind::chosen()?;
    kinds.iter().try_for_each(|kind| prepare(kind.client))?;
    let _alone = CALM.write().unwrap_or_else(PoisonError::into_inner);
    let began = Instant::now();
    let clusters = stage::clusters_of([brokers, 1], &[])?;
    let (mut rows, mut direct) = (Vec::new(), Vec::new());
    for (n, kinds) in kinds.chunks(AT_ONCE).enumerate() {
        let round = Round::of(&clusters, n, kinds)?;
        rows.extend(round.run()?);
        direct.extend(round.direct.take());
        println!("{} of {} after {:.0?}", rows.len(), Kind::all().len(), began.elapsed());
    }
    println!("{}", table(&rows));
    for client in Client::ALL.into_iter().chain(Client::OTHERS) {
        for kind in Mode::ALL.map(|mode| Kind { client, mode }) {
            kind.why_not().inspect(|why| println!("- no {kind}: {why}"));
        }
    }
    let wrong: Vec<_> = rows.iter().filter_map(|row| Some(format!("{}: {}", row.kind, row.wrong()?))).collect();
    // With acks=0 nothing comes from elsewhere.
    let mut first: Vec<_> = rows.iter().filter(|row| row.kind.mode != Mode::Acks0).filter_map(|row| row.first).collect();
    first.sort();
    let median = first.get(first.len() / 2).copied().unwrap_or_default();
    println!("the first Produce at the wrong home: median {median:.0?}, longest {:.0?}", first.last().copied().unwrap_or_default());
    direct.sort();
    println!("the slowest record of a producer that comes to the leaders by itself, at the same time, in each round: {direct:.0?}");
    ensure!(wrong.is_empty(), "{wrong:#?}");
    let direct = direct.get(direct.len() / 2).copied().unwrap_or_default();
    ensure!(
        median <= FIRST.max(2 * direct),
        "the first Produce at the wrong home takes longer than {FIRST:?} and than twice {direct:.0?} in most cells"
    );
    Ok(())
}

/// Some producers at the same time.
struct Round<'a> {
    clusters: &'a [Cluster; 2],
    routes: Routes,
    proxy: Proxy,
    /// What the names of its topics begin with.
    prefix: String,
    kinds: &'a [Kind],
    /// The slowest record of a producer that comes to the leaders by itself, while the topics come to lead there.
    direct: Cell<Option<Duration>>,
}

/// When what happened, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    first_leads_elsewhere: u64,
    /// Both had led elsewhere for a while. From then on clients come over by themselves, and if there are three brokers one is killed.
    carried: u64,
}

fn now_ms() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64)
}

impl<'a> Round<'a> {
    /// Its producers have two topics each, which lead at home: on its only broker.
    fn of(clusters: &'a [Cluster; 2], number: usize, kinds: &'a [Kind]) -> Result<Self> {
        let routes = routes(clusters)?;
        let proxy = Proxy::start(&routes)?;
        let this = Self { clusters, routes, proxy, prefix: format!("led.{number}"), kinds, direct: Cell::default() };
        for topic in kinds.iter().flat_map(|kind| this.topics(*kind)).chain([this.direct_topic()]) {
            clusters.iter().try_for_each(|cluster| cluster.create_topic(&topic, PARTITIONS as i32, &[]))?;
            // A topic is not empty where it leads. The first append to one that is takes longer.
            let first: Vec<_> = (0..PARTITIONS as i32).map(|partition| Record::new("", "0").to_partition(partition)).collect();
            Side::Legacy.of(clusters).produce(&topic, &first)?;
        }
        Ok(this)
    }

    fn kills(&self) -> bool {
        Side::Legacy.of(self.clusters).node_ids().len() > 1
    }

    fn topics(&self, kind: Kind) -> [String; 2] {
        ["first", "second"].map(|which| format!("{}.{which}.{kind}", self.prefix).replace(' ', "."))
    }

    fn direct_topic(&self) -> String {
        format!("{}.direct", self.prefix)
    }

    fn job(&self, kind: Kind) -> soak::Job {
        let client_id = Side::New.client(&kind.to_string().replace(' ', "-"));
        let [topic, second_topic] = self.topics(kind);
        soak::Job {
            second_topic: Some(second_topic),
            group_id: None,
            // With what it waits for, a frame has several partitions.
            records_per_second: 400,
            linger_ms: Some(10),
            idempotent: kind.mode == Mode::Idempotent,
            acks: kind.mode.acks(),
            max_in_flight: (kind.mode != Mode::Idempotent).then_some(5),
            retries: (kind.mode == Mode::NoRetries).then_some(0),
            metadata_max_age_ms: Some(METADATA_MAX_AGE.as_millis() as u32),
            ..soak::Job::plain(self.proxy.bootstrap_servers(), client_id, &topic, PARTITIONS, LIMIT)
        }
    }

    fn run(&self) -> Result<Vec<Row>> {
        let soaks = self.kinds.iter().map(|kind| Soak::start(kind.client, &self.job(*kind))).collect::<Result<Vec<_>>>()?;
        let (mut times, mut errors, mut stay) = (Times::default(), Errors::default(), BTreeSet::new());
        let went = self.goes_through(&soaks, &mut times, &mut errors, &mut stay);
        let carried = self.carried_bytes()?;
        errors.take(&soaks);
        let stopping = |soak: Soak| thread::spawn(|| soak.stop_unread());
        let stopping: Vec<_> = soaks.into_iter().map(stopping).collect();
        let stopped = stopping.into_iter().map(|stopping| stopping.join().expect("it returns its errors"));
        let mut rows = Vec::new();
        for ((kind, (acks, ended)), errors) in self.kinds.iter().zip(stopped).zip(errors.0) {
            let job = self.job(*kind);
            let failure = went.as_ref().err().or(ended.as_ref().err()).map(|failure| format!("{failure:#}"));
            let carried = carried.get(&job.client_id).copied().unwrap_or_default();
            rows.push(Row {
                kind: *kind,
                killed: self.kills(),
                frames_of_both: self.frames_of_both(&job)?,
                carried,
                stays: stay.contains(&job.client_id),
                errors,
                failure,
                ..self.logs(&job, &acks, times)?
            });
        }
        Ok(rows)
    }

    fn goes_through(&self, soaks: &[Soak], times: &mut Times, errors: &mut Errors, stay: &mut BTreeSet<String>) -> Result<()> {
        let direct = self.starts_direct()?;
        // Those that run on Java need a while to begin.
        produce_on(soaks.iter().chain([&direct]), 20).context("at first")?;
        thread::sleep(EACH / 2);
        times.first_leads_elsewhere = now_ms()?;
        for led in ["first", ""] {
            let topics = format!("{}.{led}", self.prefix).replace('.', "\\.");
            self.proxy.edit(
                &self
                    .routes
                    .clone()
                    .section(&format!("[[mirrors]]\nname = 'led'\nsource = 'legacy'\ntarget = 'new'\ntopics_regex = ['{topics}.*']\n")),
            )?;
            thread::sleep(EACH);
            produce_on(soaks, 20).with_context(|| format!("{topics} lead elsewhere"))?;
        }
        errors.take(soaks);
        let (acks, ended) = direct.stop_unread();
        ended?;
        self.direct.set(acks.iter().filter(|ack| ack.acked_ms > times.first_leads_elsewhere).map(took).max());
        times.carried = now_ms()?;
        // What only one broker has of acks=1 is with the others by then.
        thread::sleep(Duration::from_secs(1));
        let leading = Side::Legacy.of(self.clusters);
        // An idempotent producer of kafkajs may never come in sequence again.
        let bound = soaks.iter().zip(self.kinds).filter(|(_, kind)| !self.kills() || kind.mode != Mode::Idempotent || kind.is_exact());
        let bound = bound.map(|(soak, _)| soak);
        if self.kills() {
            // One partition of each topic is led by each.
            let victim = leading.partitions(&self.topics(self.kinds[0])[0])?[0].leader;
            leading.kill(victim)?;
            let went = produce_on(bound.clone(), 20).context("a leader was killed");
            leading.restart(victim)?;
            went?;
        }
        *stay = self.stay()?;
        produce_on(bound, 20).context("by themselves")
    }

    /// A producer that does not come by the proxy, and writes where the others are carried to.
    fn starts_direct(&self) -> Result<Soak> {
        let topic = self.direct_topic();
        let servers = Side::Legacy.of(self.clusters).bootstrap_servers(Listener::Plaintext)?;
        let plain = soak::Job::plain(servers, topic.clone(), &topic, PARTITIONS, LIMIT);
        Soak::start(Client::Rdkafka, &soak::Job { group_id: None, idempotent: false, linger_ms: Some(10), ..plain })
    }

    fn carried_bytes(&self) -> Result<BTreeMap<String, u64>> {
        let mut bytes = BTreeMap::new();
        for row in self.proxy.clients()? {
            let client_id = row["client_id"].as_str().unwrap_or_default().to_owned();
            *bytes.entry(client_id).or_default() += row["carried"]["bytes"].as_u64().unwrap_or_default();
        }
        Ok(bytes)
    }

    /// Waits until everybody comes by himself, but for those that are known to stay. Returns who stays.
    fn stay(&self) -> Result<BTreeSet<String>> {
        // With acks=0 clients have sent far ahead while a leader was gone, and that is carried also when they have come over.
        let deadline = Instant::now() + 4 * METADATA_MAX_AGE;
        loop {
            let before = self.carried_bytes()?;
            thread::sleep(EACH / 2);
            let now = self.carried_bytes()?;
            let stay: BTreeSet<_> =
                now.into_iter().filter(|(client_id, bytes)| before.get(client_id) < Some(bytes)).map(|(client_id, _)| client_id).collect();
            let stays = |kind: &Kind| kind.why_it_stays().is_none() && stay.contains(&self.job(*kind).client_id);
            if !self.kinds.iter().any(stays) || Instant::now() > deadline {
                return Ok(stay);
            }
        }
    }

    /// How many requests were sent to two clusters.
    fn frames_of_both(&self, job: &soak::Job) -> Result<usize> {
        let is_one = |line: &&serde_json::Value| line["message"] == "a part of a request is carried" && line["client_id"] == *job.client_id;
        Ok(self.proxy.log()?.iter().filter(is_one).count())
    }

    fn logs(&self, job: &soak::Job, acks: &[Ack], times: Times) -> Result<Row> {
        let mut row = Row::default();
        let [legacy, new] = self.clusters;
        let mut latencies: Vec<_> = acks.iter().filter(|ack| ack.acked_ms < times.first_leads_elsewhere).map(took).collect();
        latencies.sort();
        row.at_home = latencies.get(latencies.len() / 2).copied().unwrap_or_default();
        let mut logs = BTreeMap::new();
        for topic in [Some(&job.topic), job.second_topic.as_ref()].into_iter().flatten() {
            logs.insert(topic.as_str(), [numbers(new, topic)?, numbers(legacy, topic)?]);
        }
        for (place, (topic, partition)) in job.places().into_iter().enumerate() {
            let [here, elsewhere] = logs[topic].each_ref().map(|log| log.get(&partition).map(Vec::as_slice).unwrap_or_default());
            row.add_partition(place, acks, [here, elsewhere.get(1..).context("what was there before")?], times);
        }
        Ok(row)
    }
}

fn took(ack: &Ack) -> Duration {
    Duration::from_millis(ack.acked_ms.saturating_sub(ack.sent_ms))
}

/// What each producer could not go on with, until both topics had led elsewhere for a while and afterwards.
#[derive(Debug, Default)]
struct Errors(Vec<Vec<BTreeMap<String, usize>>>);

impl Errors {
    fn take(&mut self, soaks: &[Soak]) {
        self.0.resize(soaks.len(), Vec::new());
        for (errors, soak) in self.0.iter_mut().zip(soaks) {
            errors.push(soak.seen().errors);
        }
    }
}

/// What is wrong with the numbers in the logs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Wrong {
    /// Acknowledged, and in no log.
    lost: u64,
    twice: u64,
    /// Came behind a higher one, for the first time.
    reordered: u64,
}

#[derive(Debug)]
struct Row {
    kind: Kind,
    /// Whether a leader was killed.
    killed: bool,
    /// Records in the logs.
    here: usize,
    elsewhere: usize,
    carried: u64,
    /// It is carried for as long as nothing fails.
    stays: bool,
    frames_of_both: usize,
    /// From send to acknowledgement: the median before anything led elsewhere; then the first record of each partition at the wrong home, the slowest of them.
    at_home: Duration,
    first: Option<Duration>,
    /// Between two acknowledgements of a partition, as [`Errors`].
    pauses: [Duration; 2],
    errors: Vec<BTreeMap<String, usize>>,
    /// Of records that were acknowledged by then, and of all others.
    wrong: [Wrong; 2],
    /// Partitions of which nothing is in one of the logs.
    empty: usize,
    failure: Option<String>,
}

impl Default for Row {
    fn default() -> Self {
        let kind = Kind { client: Client::Rdkafka, mode: Mode::Plain };
        Self {
            kind,
            killed: false,
            here: 0,
            elsewhere: 0,
            carried: 0,
            stays: false,
            frames_of_both: 0,
            at_home: Duration::ZERO,
            first: None,
            pauses: [Duration::ZERO; 2],
            errors: Vec::new(),
            wrong: [Wrong::default(); 2],
            empty: 0,
            failure: None,
        }
    }
}

impl Row {
    fn add_partition(&mut self, place: usize, acks: &[Ack], [here, elsewhere]: [&[u64]; 2], times: Times) {
        self.here += here.len();
        self.elsewhere += elsewhere.len();
        self.empty += usize::from(here.is_empty() || elsewhere.is_empty());
        let mut acks: Vec<_> = acks.iter().filter(|ack| ack.place == place).collect();
        let first = acks.iter().find(|ack| Some(&ack.number) == elsewhere.first());
        self.first = self.first.max(first.map(|ack| took(ack)));
        acks.sort_by_key(|ack| ack.acked_ms);
        for pair in acks.windows(2).filter(|pair| pair[1].acked_ms >= times.first_leads_elsewhere) {
            let pause = &mut self.pauses[usize::from(pair[1].acked_ms >= times.carried)];
            *pause = (*pause).max(Duration::from_millis(pair[1].acked_ms - pair[0].acked_ms));
        }
        let before: BTreeSet<_> = acks.iter().filter(|ack| ack.acked_ms < times.carried).map(|ack| ack.number).collect();
        let of = |number: &u64| usize::from(!before.contains(number));
        let (mut seen, mut highest) = (BTreeSet::new(), None);
        for number in here.iter().chain(elsewhere) {
            let wrong = &mut self.wrong[of(number)];
            if !seen.insert(*number) {
                wrong.twice += 1;
                continue;
            }
            wrong.reordered += u64::from(highest > Some(*number));
            highest = highest.max(Some(*number));
        }
        for ack in acks.iter().filter(|ack| !seen.contains(&ack.number)) {
            self.wrong[of(&ack.number)].lost += 1;
        }
    }

    /// What is not as it has to be.
    fn wrong(&self) -> Option<String> {
        let [mut before, mut after] = self.wrong;
        if !self.kind.keeps_order() {
            (before.reordered, after.reordered) = (0, 0);
        }
        let errors = |n: usize| self.errors.get(n).is_some_and(|errors| !errors.is_empty());
        // When a leader is killed a plain producer gets what it gets of a broker alone: it sends again what was appended already, and what only the dead
        // leader had is lost. With acks=0 that may be older, and nobody knows it.
        let is_bound = self.kind.mode == Mode::Idempotent && self.kind.is_exact() || !self.killed;
        let has_lost = self.kind.mode.acks() == "all" && self.kind.is_exact() && after.lost > 0;
        let was_wrong = before != Wrong::default() && !(self.killed && self.kind.mode == Mode::Acks0);
        let all = [
            (self.failure.is_some(), "it does not go on"),
            (was_wrong || is_bound && after != Wrong::default() || has_lost, "lost, twice or out of order"),
            (errors(0) || is_bound && errors(1), "errors"),
            (self.empty > 0, "a partition has nothing in one of the logs"),
            (self.carried == 0, "nothing was carried"),
            (self.stays && self.kind.why_it_stays().is_none(), "it is carried still"),
            (self.kind.shares_frames() && self.frames_of_both == 0, "no frame had batches for both"),
        ];
        let wrong: Vec<_> = all.into_iter().filter_map(|(is, what)| is.then_some(what)).collect();
        (!wrong.is_empty()).then(|| format!("{}: {self:?}", wrong.join(", ")))
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    let then = if rows.iter().any(|row| row.killed) { "a leader killed: pause, ms" } else { "by themselves: pause, ms" };
    let wrong = ["errors", "lost", "twice", "out of order"];
    let before = ["producer", "here", "elsewhere", "frames of both", "comes over", "ms at home", "ms of the first elsewhere", "pause, ms"];
    table.set_header(before.into_iter().chain(wrong).chain([then]).chain(wrong));
    for row in rows {
        let mut cells = vec![row.kind.to_string(), row.here.to_string(), row.elsewhere.to_string(), row.frames_of_both.to_string()];
        cells.push(if row.stays { "no" } else { "yes" }.to_owned());
        cells.extend([row.at_home.as_millis().to_string(), row.first.map_or("?".to_owned(), |first| first.as_millis().to_string())]);
        for (n, (pause, Wrong { lost, twice, reordered })) in row.pauses.into_iter().zip(row.wrong).enumerate() {
            let errors: usize = row.errors.get(n).map_or(0, |errors| errors.values().sum());
            cells.push(pause.as_millis().to_string());
            cells.extend([errors as u64, lost, twice, reordered].map(|count| count.to_string()));
        }
        table.add_row(cells);
    }
    table
}
