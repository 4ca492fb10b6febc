//! `kferry check` as a process: what it prints where, and its exit codes. Scripts and CI stand on both.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};

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

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_good_file_is_one_line_and_the_warning_of_a_split() {
    let file = file(9092, 9190);
    let output = check(&file, &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), format!("{}: ok (2 clusters, 1 listener, 2 routes)\n", file.path.display()));
    let warnings = text(&output.stderr);
    assert!(warnings.contains("warning: an edit of a route moves its clients one by one"), "{warnings}");
    assert!(warnings.trim_end().ends_with("Routes: orders, all"), "{warnings}");
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
