//! `kferry plan` and `kferry verify` on real clusters: what is in a mirror's way, which rights it lacks, and whether both sides are the same.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use harness::kafka::{ALICE, Acl, BOB, Cluster, Commit, Listener, Operation, Record, Resource};
use harness::kferry::{File, mirror};
use harness::mirror::Mirror;
use harness::{LIMIT, ports, run};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;

fn records(count: usize, what: &str) -> Vec<Record> {
    let record = |n: usize| Record { timestamp: Some(1_700_000_000_000), ..Record::new(format!("key {}", n % 50), format!("{what} {n}")) };
    (0..count).map(record).collect()
}

fn transactions(cluster: &Cluster, topic: &str) -> Result<()> {
    let mut config = cluster.client_config(Listener::Plaintext)?;
    config.set("transactional.id", "a transaction");
    let producer: BaseProducer = config.create()?;
    producer.init_transactions(LIMIT)?;
    for _ in 0..3 {
        producer.begin_transaction()?;
        producer.send(BaseRecord::<str, _>::to(topic).partition(0).payload("x")).map_err(|(error, _)| error)?;
        producer.flush(LIMIT)?;
        producer.commit_transaction(LIMIT)?;
    }
    Ok(())
}

/// The part of a report that has this name.
fn named<'r>(list: &'r Value, key: &str, name: &str) -> Result<&'r Value> {
    let found = list.as_array().into_iter().flatten().find(|part| part[key] == name);
    found.with_context(|| format!("no {key} {name} in {list:#}"))
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn a_plan_and_what_became_of_it() -> Result<()> {
    let clusters = Cluster::start_all(vec![
        Cluster::version("3.9.1").name("source").listen(Listener::SaslPlaintext).acls().set("log.cleaner.backoff.ms", "100"),
        Cluster::version("4.3.0").name("target").listen(Listener::SaslPlaintext).acls().first_node_id(11),
    ])?;
    let [source, target] = &clusters[..] else { bail!("two clusters were asked for") };
    prepare(source, target)?;
    plans(source, target)?;
    owners(source, target)?;
    rights(source, target)?;
    rights_as_written(source, target).context("docs/rights.md")?;
    verified(source, target)
}

fn prepare(source: &Cluster, target: &Cluster) -> Result<()> {
    source.create_topic("p.plain", 2, &[("retention.ms", "-1"), ("compression.type", "zstd")])?;
    source.produce("p.plain", &records(100, "plain"))?;
    source.create_topic("p.late", 1, &[("retention.ms", "-1")])?;
    source.produce("p.late", &records(100, "late"))?;
    source.delete_records("p.late", 0, 40)?;
    source.create_topic("p.transactions", 1, &[])?;
    transactions(source, "p.transactions")?;
    let compact =
        [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.01"), ("segment.bytes", "50000"), ("retention.ms", "-1")];
    source.create_topic("p.compacted", 1, &compact)?;
    for _ in 0..6 {
        source.produce("p.compacted", &records(1_000, "compacted"))?;
    }
    source.create_topic("p.same", 1, &[("retention.ms", "-1")])?;
    source.produce("p.same", &records(10, "same"))?;
    target.create_topic("p.same", 1, &[("retention.ms", "60000000000000")])?;
    target.produce("p.same", &records(5, "same"))?;
    source.commit("readers", "p.plain", [(0, Commit::at(0)), (1, Commit::at(4))])?;
    source.commit("emigrants", "p.same", [(0, Commit::at(3))])?;
    target.commit("emigrants", "p.same", [(0, Commit::at(2))])?;
    for (cluster, what) in [(source, "mine"), (target, "not mine")] {
        cluster.create_topic("taken", 1, &[("retention.ms", "-1")])?;
        let mut records = records(10, "equal");
        records[6].value = Some(what.into());
        cluster.produce("taken", &records)?;
    }
    source.create_topic("p.skipped", 1, &[("retention.ms", "-1")])?;
    target.create_topic("p.skipped", 1, &[("retention.ms", "-1"), ("max.message.bytes", "1000")])?;
    let noise: Vec<u8> = (0..5_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    source.produce("p.skipped", &[Record::new("a", "1"), Record::new("b", noise), Record::new("c", "3")])
}

fn plans(source: &Cluster, target: &Cluster) -> Result<()> {
    let mirrors = mirror("m", "topics_regex = ['p\\..*', 'taken', 'Odd']\ntopic_naming = '[a-z.]+'")
        + &mirror("n", "topics_regex = ['p\\.plain', 'none']");
    source.create_topic("Odd", 1, &[])?;
    let file = File::new(source, target, None, &mirrors)?;
    let before = target.list_topics()?;
    let done = file.kferry(&["plan", "--json"])?;
    let report = done.ends_with(1)?.json()?;
    ensure!(target.list_topics()? == before, "it wrote something: {:?}", target.list_topics()?);

    let of = |topic: &str| named(&named(&report["mirrors"], "mirror", "m")?["topics"], "topic", topic);
    let plain = of("p.plain")?;
    ensure!(plain["mode"] == "preserve" && plain["records"] == 100 && plain["errors"] == serde_json::json!([]), "{plain:#}");
    ensure!(plain["action"]["create"]["replication_factor"] == 1 && plain["bytes"].as_u64() > Some(500), "{plain:#}");
    ensure!(plain["overridden"] == serde_json::json!([["compression.type", "zstd", "producer"]]), "{plain:#}");
    let late = of("p.late")?;
    ensure!(late["padding"]["offsets"] == 40 && late["records"] == 60, "{late:#}");
    ensure!(of("p.transactions")?["holes"] == serde_json::json!(["transactions"]), "{:#}", of("p.transactions")?);
    let compacted = of("p.compacted")?;
    ensure!(compacted["holes"] == serde_json::json!(["compaction"]), "{compacted:#}");
    // Kafka 4.3 wants larger segments.
    ensure!(strings(&compacted["notes"]).concat().contains("does not take is left out"), "{compacted:#}");
    let same = of("p.same")?;
    ensure!(same["mode"] == "preserve" && same["records"] == 5 && same["action"] == "nothing", "{same:#}");
    ensure!(strings(&same["why"]).concat().contains("already have data"), "{same:#}");
    let drift = serde_json::json!(["retention.ms", "-1", "60000000000000"]);
    ensure!(same["drift"].as_array().is_some_and(|settings| settings.contains(&drift)), "{same:#}");
    let taken = of("taken")?;
    let why = strings(&taken["errors"]).concat();
    ensure!(taken["mode"] == "not-possible" && why.contains("did not write: at offset 6 the value of the record differs"), "{taken:#}");
    ensure!(strings(&of("Odd")?["errors"]).concat().contains("topic_naming"), "{:#}", of("Odd")?);
    ensure!(report["mirrors"][0]["missing_rights"] == serde_json::json!([]), "{:#}", report["mirrors"][0]["missing_rights"]);
    let clash = report["collisions"][0]["message"].as_str().context("a collision")?;
    ensure!(clash.contains(r#""p.plain" of cluster "source" (mirror "m") is copied"#), "{clash}");

    file.kferry(&["plan"])?.ends_with(1)?.says("create, 1 replica ")?.says("topic taken: ")?.says("is copied to cluster")?;
    file.kferry(&["plan", "--mirror", "x"])?.ends_with(2)?.says("it has m, n")?;
    let good = File::new(source, target, None, &mirror("m", "topics_regex = ['p\\..*']\ngroups = 'nobody'\ngroups_regex = '.*'"))?;
    let done = good.kferry(&["plan"])?;
    done.ends_with(1)?.says("p.late")?.says("40 offsets are filled")?;
    done.says("readers    2        -\n")?.says("emigrants  1        1: its offset on target is 2, which this mirror did not write")?;
    done.says("error: mirror m: group nobody has committed nothing in the mirror's topics on source")?;
    let good = File::new(source, target, None, &mirror("m", "topics_regex = ['p\\..*']\ngroups_regex = '.*'"))?;
    good.kferry(&["plan"])?.ends_with(0).map(drop)
}

/// Which route owns what, and what could be written for the rest.
fn owners(source: &Cluster, target: &Cluster) -> Result<()> {
    let file = File::new(source, target, None, &mirror("m", "topics_regex = ['p\\..*']\ngroups_regex = '.*'"))?;
    let without = file.kferry(&["plan"])?;
    ensure!(!without.text.contains("OWNER") && !without.text.contains("owned by no route"), "{}", without.text);
    let brokers = |id: u8| format!("id = {id}\nnode_ids = \"1-50\"\nbroker_ports = \"9{id}00-9{id}49\"\n");
    let text = fs::read_to_string(&file.0)?.replace("id = 1\n", &brokers(1)).replace("id = 2\n", &brokers(2));
    let plan = |cluster: &str, arguments: &[&str]| {
        let routes = format!(
            "[[listeners]]\nname = \"l\"\nbind = \"127.0.0.1:9092\"\n[[routes]]\nname = \"orders\"\nclient_id = \"*\"\ncluster = \"{cluster}\"\n\
             mode = \"relay\"\ntopics = [\"p.plain\", \"p.l*\"]\ngroups = \"readers\"\n"
        );
        fs::write(&file.0, format!("{text}{routes}"))?;
        file.kferry(arguments)
    };
    let report = plan("source", &["plan", "--json"])?.ends_with(0)?.json()?;
    let mirror = &report["mirrors"][0];
    let mut by_owner = Vec::new();
    for (list, key) in [("topics", "topic"), ("groups", "group")] {
        for part in mirror[list].as_array().context("a list")? {
            by_owner.push((part[key].as_str().unwrap_or_default(), part["owner"].as_str()));
        }
    }
    let owned: Vec<_> = by_owner.iter().filter_map(|(name, owner)| Some((*name, (*owner)?))).collect();
    ensure!(owned == [("p.late", "orders"), ("p.plain", "orders"), ("readers", "orders")], "{by_owner:?}");
    ensure!(by_owner.len() == 8, "{by_owner:?}");
    // Where emigrants lives is not clear: it has an offset on the target that no mirror wrote.
    let proposed = serde_json::json!([{
        "cluster": "source", "routes": ["orders"], "topics": ["p.compacted", "p.same", "p.skipped", "p.transactions"], "groups": [],
    }]);
    ensure!(report["proposals"] == proposed, "{:#}", report["proposals"]);

    let done = plan("source", &["plan"])?;
    done.ends_with(0)?.says("  OWNER\n")?.says("in a route in relay mode to source (orders) these lines keep it where it is:\n")?;
    done.says("  topics = [\"p.compacted\", \"p.same\", \"p.skipped\", \"p.transactions\"]\n")?;
    let row = |name: &str| done.text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_default();
    ensure!(
        row("p.plain").ends_with("  orders") && row("p.same").ends_with("  -") && row("readers").ends_with("  orders"),
        "{}",
        done.text
    );
    // A route to the target would move them: nothing is proposed for that.
    let report = plan("target", &["plan", "--json"])?.ends_with(0)?.json()?;
    ensure!(report["proposals"] == serde_json::json!([]), "{:#}", report["proposals"]);
    Ok(())
}

/// What the plan says is missing is granted, and then nothing is: to copy, and after that to move what is copied.
fn rights(source: &Cluster, target: &Cluster) -> Result<()> {
    let lines = "topics = ['p.plain', 'p.same', 'p.transactions']\non_error = 'dead-letter'\ngroups = 'readers'";
    let rounds = granted(source, target, &mirror("m", lines))?;
    // First what is on the source has to be seen; then all that is missing is known.
    ensure!((1..=3).contains(&rounds.len()), "{rounds:#?}");
    let all = format!("{rounds:?}");
    ensure!(all.contains("--operation Read --operation Describe --group readers"), "{rounds:#?}");
    for name in ["__kferry.mirror.m", "kferry-mirror-m", "p.same.DLT", "p.plain", "p.transactions"] {
        ensure!(all.contains(name), "nothing is told of {name}: {rounds:#?}");
    }
    ensure!(all.contains("DescribeConfigs") && all.contains("AlterConfigs") && all.contains("\"Alter\""), "{rounds:#?}");

    let rounds = granted(source, target, &(mirror("m", lines) + "[state]\ncluster = \"target\"\n"))?;
    ensure!(rounds.len() == 1, "{rounds:#?}");
    let told: BTreeSet<_> = rounds[0]
        .as_array()
        .context("missing_rights")?
        .iter()
        .map(|right| {
            let (operations, names) = (strings(&right["operations"]).join(","), strings(&right["names"]).join(","));
            format!(
                "{} {} {} {operations}",
                right["cluster"].as_str().unwrap_or_default(),
                right["resource"].as_str().unwrap_or_default(),
                names
            )
        })
        .collect();
    let expected = [
        "source topic p.plain,p.same,p.transactions Write,Delete,AlterConfigs",
        "source topic p.plain.DLT,p.same.DLT,p.transactions.DLT Write,Create,Describe",
        "source cluster  Alter",
        "source group readers Read,Delete",
        "target group readers Delete",
        "target topic __kferry.decisions Read,Write,Describe",
    ];
    ensure!(told == BTreeSet::from(expected.map(str::to_owned)), "{told:#?}");
    Ok(())
}

/// Grants what the plan of a file says is missing until nothing is, and returns what was, round by round.
fn granted(source: &Cluster, target: &Cluster, sections: &str) -> Result<Vec<Value>> {
    let file = File::new(source, target, Some(ALICE), sections)?;
    let mut rounds = Vec::new();
    for _ in 0..4 {
        let report = file.kferry(&["plan", "--json"])?.json()?;
        let missing = &report["mirrors"][0]["missing_rights"];
        let rights = missing.as_array().context("missing_rights")?;
        if rights.is_empty() {
            file.kferry(&["plan"])?.ends_with(0)?;
            return Ok(rounds);
        }
        let done = file.kferry(&["plan"])?;
        done.ends_with(1)?.says("kafka-acls.sh --bootstrap-server")?.says("--add --allow-principal 'User:alice' --operation")?;
        for right in rights {
            ensure!(right["principal"] == "User:alice", "{right:#}");
            let cluster = if right["cluster"] == "source" { source } else { target };
            let mut acls = Vec::new();
            for operation in strings(&right["operations"]) {
                let operation = operation_of(operation)?;
                let names = strings(&right["names"]).into_iter().map(str::to_owned);
                let allow = |resource| Acl::allow(ALICE.name, operation, resource);
                match right["resource"].as_str() {
                    Some("topic") => acls.extend(names.map(|name| allow(Resource::Topic(name)))),
                    Some("group") => acls.extend(names.map(|name| allow(Resource::Group(name)))),
                    _ => acls.push(allow(Resource::Cluster)),
                }
            }
            cluster.add_acls(&acls)?;
        }
        rounds.push(missing.clone());
        // Brokers go by them a moment later.
        std::thread::sleep(Duration::from_millis(500));
    }
    bail!("always something is missing: {rounds:#?}")
}

/// What docs/rights.md tells to grant to a mirror of everything, and nothing else, is enough for it and for what the command line does with its file.
fn rights_as_written(source: &Cluster, target: &Cluster) -> Result<()> {
    source.create_topic("r.plain", 2, &[("retention.ms", "-1"), ("compression.type", "zstd")])?;
    source.produce("r.plain", &records(100, "plain"))?;
    source.delete_records("r.plain", 0, 20)?;
    source.create_topic("r.gaps", 1, &[])?;
    transactions(source, "r.gaps")?;
    source.commit("r-readers", "r.plain", [(0, Commit::at(30)), (1, Commit::at(7))])?;
    let document = fs::read_to_string(run::workspace().join("docs/rights.md"))?;
    let (_, section) = document.split_once("\n## kferry-mirror\n").context("the section of the mirror")?;
    let commands = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).context("its commands")?;
    for (name, cluster) in [("source", source), ("target", target)] {
        let lines = commands.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let acls = lines.map(allowed_by).collect::<Result<Vec<_>>>()?.concat();
        ensure!(acls.len() > 3, "{acls:?}");
        cluster.add_acls(&acls)?;
    }

    let lines = "topics_regex = ['r\\..*']\ngroups_regex = ['r-.*']\non_error = 'dead-letter'\ngroups_interval_seconds = 1";
    let section_of_mirror = mirror("r", lines);
    let file = File::new(source, target, Some(BOB), &section_of_mirror)?;
    let text = fs::read_to_string(&file.0)?;
    fs::write(&file.0, format!("{text}[admin]\nmirror_bind = \"127.0.0.1:{}\"\n", ports::take(1)?.start))?;
    let mut mirror = Mirror::of(&fs::read_to_string(&file.0)?)?;
    file.kferry(&["plan"])?.ends_with(0)?;
    // A process of the mirror's group.
    let mut running = mirror.start(&[])?;
    let deadline = Instant::now() + LIMIT;
    let rows = |mirror: &Mirror| -> Result<Value> { Ok(serde_json::from_str(&mirror.http("GET", "/partitions")?.body)?) };
    let is_done = |mirror: &Mirror| {
        rows(mirror).is_ok_and(|rows| {
            rows["partitions"].as_array().is_some_and(|rows| {
                rows.len() == 3 && rows.iter().all(|row| row["phase"] == "copying" && row["lag_records"] == 0 && row["reason"].is_null())
            })
        })
    };
    while !is_done(&mirror) || target.commits("r-readers")?.len() < 2 {
        ensure!(Instant::now() < deadline, "{:#}\n{}", rows(&mirror).unwrap_or_default(), mirror.logs()?);
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(running.terminate(LIMIT)?.code() == Some(0), "{}", mirror.logs()?);
    source.produce("r.plain", &records(10, "more"))?;
    mirror.copy()?;
    let logs = mirror.logs()?;
    let is_worse = |line: &str| (line.contains(" WARN ") || line.contains(" ERROR ")) && !line.contains("created with one replica");
    let worse: Vec<_> = logs.lines().filter(|line| is_worse(line)).collect();
    ensure!(worse.is_empty(), "{worse:#?}");
    for command in [
        &["plan"][..],
        &["verify"],
        &["offsets", "--topic", "r.plain", "--partition", "0"],
        &["dlt", "list"],
        &["finish", "--apply"],
        &["finish"],
    ] {
        file.kferry(command)?.ends_with(0)?;
    }

    // The same for live moves.
    let (_, section) = document.split_once("\n## Live moves\n").context("the section of live moves")?;
    let commands = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).context("its commands")?;
    let file = File::new(source, target, Some(BOB), &(section_of_mirror + "[state]\ncluster = \"target\"\n"))?;
    file.kferry(&["plan"])?.ends_with(1)?;
    for line in commands.lines().map(str::trim) {
        if let Some(arguments) = line.strip_prefix("mirror $cluster ") {
            [source, target].map(|cluster| cluster.add_acls(&allowed_by(arguments)?)).into_iter().collect::<Result<()>>()?;
        } else if let Some(arguments) = line.strip_prefix("mirror new-1:9093 ") {
            target.add_acls(&allowed_by(arguments)?)?;
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    file.kferry(&["plan"])?.ends_with(0).map(drop)
}

/// The ACLs of the arguments of `kafka-acls.sh`, for [`BOB`].
fn allowed_by(arguments: &str) -> Result<Vec<Acl>> {
    let (mut operations, mut resource) = (Vec::new(), None);
    let mut words = arguments.split_whitespace();
    while let Some(option) = words.next() {
        let mut name = || words.next().map(|name| name.trim_matches('\'').to_owned()).context(option.to_owned());
        match option {
            "--operation" => operations.push(operation_of(&name()?)?),
            "--topic" => resource = Some(Resource::Topic(name()?)),
            "--group" => resource = Some(Resource::Group(name()?)),
            "--transactional-id" => resource = Some(Resource::TransactionalId(name()?)),
            "--cluster" => resource = Some(Resource::Cluster),
            other => bail!("{other} was not expected"),
        }
    }
    let resource = resource.with_context(|| arguments.to_owned())?;
    Ok(operations.into_iter().map(|operation| Acl::allow(BOB.name, operation, resource.clone())).collect())
}

fn operation_of(name: &str) -> Result<Operation> {
    Ok(match name {
        "Read" => Operation::Read,
        "Write" => Operation::Write,
        "Create" => Operation::Create,
        "Delete" => Operation::Delete,
        "Alter" => Operation::Alter,
        "Describe" => Operation::Describe,
        "DescribeConfigs" => Operation::DescribeConfigs,
        "AlterConfigs" => Operation::AlterConfigs,
        other => bail!("{other} was not expected"),
    })
}

/// What is named and not there is an error, whoever is asked.
fn names(source: &Cluster, target: &Cluster) -> Result<()> {
    let lines = "topics = ['p.same', 'p.smae']\ngroups = ['emigrants', 'emigrnats']";
    let file = File::new(source, target, None, &mirror("m", lines))?;
    for command in [&["plan"][..], &["verify"], &["acls"], &["dlt", "list"], &["dlt", "show"], &["dlt", "replay", "--yes"]] {
        file.kferry(command)?.ends_with(1)?.says("topic p.smae is not on source")?;
    }
    file.kferry(&["plan"])?.ends_with(1)?.says("group emigrnats has committed nothing")?;
    file.kferry(&["verify", "--topic", "p.same"])?.ends_with(0)?;
    file.kferry(&["verify", "--topic", "p.same", "--topic", "p.smae"])?.ends_with(1)?.says("topic p.smae is of none of these mirrors")?;
    file.kferry(&["offsets", "--topic", "p.smae", "--partition", "0"])?.ends_with(1)?.says("nothing is known of p.smae-0")?;
    let mut mirror = Mirror::new(source, target, lines)?;
    let ended = mirror.once()?;
    let says = |words: [&str; 2]| ended.log.lines().any(|line| words.iter().all(|word| line.contains(word)));
    ensure!(ended.code == Some(1) && says(["not copied", "topic p.smae is not on source"]), "{}: {}", ended.code.unwrap_or(-1), ended.log);
    ensure!(says(["its offset is not copied", "group emigrnats has committed nothing"]), "{}", ended.log);
    for (arguments, code, said) in [
        (["--mirror", "x"], 2, "it has no mirror \"x\""),
        (["--accept", "smae"], 2, "--accept smae: no mirror copies"),
        (["--accept", "p.same-7"], 1, "--accept names what is not there"),
    ] {
        mirror.arguments(&arguments);
        let ended = mirror.once()?;
        ensure!(ended.code == Some(code) && ended.log.contains(said), "{arguments:?}: {:?}: {}", ended.code, ended.log);
    }
    Ok(())
}

fn verified(source: &Cluster, target: &Cluster) -> Result<()> {
    let lines = "topics_regex = ['p\\..*']\non_error = 'skip'\nsync_topic_configs = false";
    let file = File::new(source, target, None, &mirror("m", lines))?;
    file.kferry(&["verify", "--topic", "p.plain"])?.ends_with(1)?.says("there is no p.plain on target yet")?;
    Mirror::new(source, target, lines)?.copy_but_for_what_was_left_out()?;

    let report = file.kferry(&["verify", "--json"])?.ends_with(3)?.json()?;
    let rows = report["mirrors"][0]["partitions"].clone();
    ensure!(rows.as_array().map(Vec::len) == Some(7), "{rows:#}");
    let plain = named(&rows, "topic", "p.plain")?;
    ensure!(plain["result"] == "identical" && plain["lag"] == 0 && plain["equal"].as_u64() > Some(0), "{plain:#}");
    ensure!(named(&rows, "topic", "p.late")?["equal"] == 60, "{rows:#}");
    let skipped = named(&rows, "topic", "p.skipped")?;
    ensure!(skipped["skipped"] == 1 && skipped["equal"] == 2 && skipped["result"] == "lacking" && report["ok"] == false, "{skipped:#}");
    file.kferry(&["verify"])?.ends_with(3)?.says("identical but for what was left out")?.says("1 offset left out")?;
    names(source, target)?;

    // Each side compacts by its own clock, and by what came later.
    let deadline = Instant::now() + LIMIT;
    for _ in 0..4 {
        source.produce("p.compacted", &records(500, "later"))?;
    }
    while source.read_all("p.compacted")?.len() > 3_000 {
        ensure!(Instant::now() < deadline, "the cleaner did nothing");
        std::thread::sleep(Duration::from_millis(200));
    }
    let compacted = file.kferry(&["verify", "--json", "--topic", "p.compacted"])?;
    let compacted = compacted.ends_with(0)?.json()?["mirrors"][0]["partitions"][0].clone();
    ensure!(compacted["lag"].as_i64() >= Some(2_000) && compacted["compacted"].as_u64() > Some(100), "{compacted:#}");

    // Retention on one side, and what is not copied yet.
    target.delete_records("p.late", 0, 70)?;
    source.produce("p.late", &records(5, "more"))?;
    let late = file.kferry(&["verify", "--topic", "p.late"])?;
    late.ends_with(0)?.says("the follower has deleted the offsets 40 to 69")?.says("30 records equal, 5 offsets not copied yet")?;

    // Somebody else's records: behind the leader's, and in the place of the leader's.
    target.produce("p.plain", &[Record::new("x", "y").to_partition(1)])?;
    file.kferry(&["verify", "--topic", "p.plain"])?.ends_with(1)?.says("the follower's at")?;
    let taken = File::new(source, target, None, &mirror("m", "topics = ['taken']"))?;
    taken.kferry(&["verify"])?.ends_with(1)?.says("the two logs of taken-0 differ at offset 6: the value of the record differs")?;
    taken.kferry(&["verify", "--topic", "nowhere"])?.ends_with(1)?.says("topic nowhere is of none of these mirrors")?;
    fs::write(&taken.0, "[[mirrors]]\nname = 1\n")?;
    taken.kferry(&["verify", "--json"])?.ends_with(2)?.says("\"ok\": false")?;
    Ok(())
}
