//! `kferry` as a process, without clusters: what it prints where, and its exit codes. Scripts and CI stand on both.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

/// A file with two clusters, both at this port.
fn file(port: u16, admin_port: u16) -> File {
    let text = format!(
        r#"
[clusters.legacy]
id = 1
bootstrap_servers = "127.0.0.1:{port}"
[clusters.new]
id = 2
bootstrap_servers = "127.0.0.1:{port}"
[[listeners]]
name = "internal"
bind = "127.0.0.1:9092"
[admin]
bind = "127.0.0.1:{admin_port}"
[[routes]]
name = "orders"
client_id = "orders-*"
cluster = "new"
[[routes]]
name = "all"
client_id = "*"
cluster = "legacy"
"#
    );
    write(&text)
}

fn write(text: &str) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    std::fs::write(&path, text).unwrap();
    File { _folder: folder, path }
}

/// A port where nobody listens: taken, and given back.
fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn check(file: &File, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kferry")).args(["check", "--config"]).arg(&file.path).args(args).output().unwrap()
}

/// All that mirrors are about, with what else each needs.
const COMMANDS: [&[&str]; 7] = [
    &["plan"],
    &["verify"],
    &["offsets", "--topic", "orders", "--partition", "0"],
    &["acls"],
    &["dlt", "list"],
    &["dlt", "show"],
    &["dlt", "replay", "--yes"],
];

/// Runs all of them side by side, with `--json`: each with its exit code and the one object that it prints.
fn all_json(file: &File, more: &[&str]) -> Vec<(String, i32, serde_json::Value)> {
    let begin = |command: &&'static [&'static str]| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_kferry"));
        process.args(*command).args(["--json", "--config"]).arg(&file.path).args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
        (command.join(" "), process.spawn().unwrap())
    };
    let running: Vec<_> = COMMANDS.iter().map(begin).collect();
    let end = |(command, process): (String, std::process::Child)| {
        let output = process.wait_with_output().unwrap();
        let code = output.status.code().unwrap();
        (command, code, json(&output))
    };
    running.into_iter().map(end).collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_good_file_is_one_line_and_the_note_of_a_split() {
    let file = file(9092, 9190);
    let output = check(&file, &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), format!("{}: ok (2 clusters, 1 listener, 2 routes)\n", file.path.display()));
    let warnings = text(&output.stderr);
    assert!(warnings.contains("note: an edit of a route moves its clients one by one"), "{warnings}");
    assert!(warnings.contains("Routes: orders, all\n"), "{warnings}");
    assert!(!warnings.contains('\u{1b}'), "colour in a pipe: {warnings}");
}

#[test]
fn a_file_of_mirrors_alone_counts_the_mirrors() {
    let mirror =
        |name: &str, topic: &str| format!("[[mirrors]]\nname = \"{name}\"\nsource = \"old\"\ntarget = \"new\"\ntopics = [\"{topic}\"]\n");
    let clusters = "[clusters.old]\nid = 1\nbootstrap_servers = \"old:9092\"\n[clusters.new]\nid = 2\nbootstrap_servers = \"new:9092\"\n";
    let file = write(&(clusters.to_owned() + &mirror("one", "a") + &mirror("two", "b")));
    let output = check(&file, &[]);
    assert_eq!(text(&output.stdout), format!("{}: ok (2 clusters, 2 mirrors)\n", file.path.display()), "{}", text(&output.stderr));
}

#[test]
fn a_bad_file_ends_with_2_and_every_error_with_its_place() {
    let file = write("[clusters.legacy]\nid = 99\nbootstrap_servers = \"\"\n");
    let output = check(&file, &[]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
    assert!(text(&output.stderr).contains("routes.toml:2:6"), "{}", text(&output.stderr));

    let output = check(&file, &["--json"]);
    assert_eq!(output.status.code(), Some(2));
    let report = json(&output);
    assert_eq!(report["ok"], false);
    assert!(report["errors"].as_array().unwrap().iter().any(|error| error["line"] == 2 && error["column"] == 6), "{report}");
}

#[test]
fn a_file_that_is_not_there_ends_with_2() {
    let mut file = file(9092, 9190);
    file.path.set_file_name("absent.toml");
    let output = check(&file, &["--connect"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("absent.toml"), "{}", text(&output.stderr));
}

#[test]
fn clusters_that_cannot_be_reached_end_with_1_and_a_missing_proxy_is_a_note() {
    let file = file(dead_port(), dead_port());
    let output = check(&file, &["--connect"]);
    assert_eq!(output.status.code(), Some(1));
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(out.contains("failed, see below") && out.contains("note: no proxy at http://127.0.0.1:"), "{out}");
    for cluster in ["legacy", "new"] {
        assert!(err.contains(&format!("error: cluster {cluster}: 127.0.0.1:")) && err.contains("cannot connect"), "{err}");
    }

    let output = check(&file, &["--connect", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report = json(&output);
    assert_eq!((&report["ok"], &report["brokers"]["servers"][1]["state"]), (&false.into(), &"failed".into()));
    assert!(report["clients"]["note"].is_string(), "{report}");
}

/// Two clusters at this port, and a mirror between them.
fn mirror(port: u16) -> File {
    let clusters = format!(
        "[clusters.old]\nid = 1\nbootstrap_servers = \"127.0.0.1:{port}\"\n[clusters.new]\nid = 2\nbootstrap_servers = \"127.0.0.1:{port}\"\n"
    );
    write(&(clusters + "[[mirrors]]\nname = \"m\"\nsource = \"old\"\ntarget = \"new\"\ntopics = [\"orders\"]\n"))
}

#[test]
fn what_cannot_be_tried_ends_with_2_and_in_json_with_json() {
    let good = mirror(dead_port());
    for (file, more, said) in [
        (&good, &["--mirror", "n"][..], "it has no mirror \"n\"; it has m"),
        (&good, &["--frobnicate"], "unexpected argument '--frobnicate'"),
        (&write("[[mirrors]]\nname = 1\n"), &[], "expected a string, found an integer"),
        (&file(9092, 9190), &[], "it has no [[mirrors]]"),
    ] {
        for (command, code, report) in all_json(file, more) {
            assert_eq!((code, &report["ok"]), (2, &false.into()), "{command} {more:?}: {report:#}");
            let mut messages = report["errors"].as_array().unwrap().iter().map(|error| error["message"].as_str().unwrap());
            assert!(messages.any(|message| message.contains(said)), "{command} {more:?}: {report:#}");
        }
    }
    let offsets = |topic: &str| {
        let arguments = ["offsets", "--json", "--topic", topic, "--partition", "0", "--config"];
        let output = Command::new(env!("CARGO_BIN_EXE_kferry")).args(arguments).arg(&good.path).output().unwrap();
        (output.status.code(), json(&output)["errors"][0]["message"].as_str().unwrap_or_default().to_owned())
    };
    let (code, message) = offsets("oders");
    assert!(code == Some(2) && message.contains("topic oders is of no mirror of the file"), "{code:?} {message}");
    let mut secrets = Command::new(env!("CARGO_BIN_EXE_kferry"));
    let output = secrets.args(["acls", "--json", "--users", "--secrets", "/nowhere/secrets", "--config"]).arg(&good.path).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(json(&output)["errors"][0]["message"].as_str().unwrap().contains("cannot read /nowhere/secrets"));
}

#[test]
fn clusters_that_do_not_answer_end_every_command_with_1_and_in_json_with_json() {
    for (command, code, report) in all_json(&mirror(dead_port()), &[]) {
        assert_eq!((code, &report["ok"]), (1, &false.into()), "{command}: {report:#}");
        assert!(report.to_string().contains("cannot connect"), "{command}: {report:#}");
    }
}
