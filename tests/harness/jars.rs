//! Kafka's jars, any version: fetched by Maven (see `tests/kafka/pom.xml`) on first use, kept in `.work/kafka/<version>` of the workspace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{process, run};

/// `java` with what every JVM of a run is told: stdout is the program's own. A JVM warns there of what has nothing to do with its program, such as a
/// file in `/tmp/hsperfdata_*` that a JVM of the same process id in another container has locked; no such file is needed.
pub fn java() -> Result<Command> {
    let mut command =
        Command::new(process::require("java", "install a Java runtime, version 17 or later (`apt install openjdk-17-jre-headless`)")?);
    command.args(["-XX:-UsePerfData", "-Xlog:disable", "-Xlog:all=warning:stderr"]);
    Ok(command)
}

/// The folder with the jars of a version such as `"4.3.0"`; `<folder>/*` is the class path. Several processes may ask at once.
///
/// The first call for a version needs `mvn` and the network and takes about 10 s.
pub fn kafka(version: &str) -> Result<PathBuf> {
    let pom = run::workspace().join("tests/kafka/pom.xml");
    let all = run::workspace().join(".work/kafka");
    let folder = all.join(version);
    if is_current(&folder, &pom) {
        return Ok(folder);
    }
    fs::create_dir_all(&all).with_context(|| format!("{} can't be made", all.display()))?;
    // One lock for all versions: Maven's own cache isn't made for several writers.
    let _turn = run::lock(&all.join("lock"))?;
    if !is_current(&folder, &pom) {
        let partial = all.join("partial");
        remove(&partial)?;
        fetch(version, &pom, &partial)?;
        remove(&folder)?;
        fs::rename(&partial, &folder)?;
    }
    Ok(folder)
}

/// The copy of the pom is written last: a folder has either all jars of today's pom or is fetched anew.
fn is_current(folder: &Path, pom: &Path) -> bool {
    matches!((fs::read(folder.join("pom.xml")), fs::read(pom)), (Ok(then), Ok(now)) if then == now)
}

fn fetch(version: &str, pom: &Path, into: &Path) -> Result<()> {
    let mvn = process::require("mvn", "it fetches Kafka's jars; install Maven (`apt install maven`)")?;
    let output = Command::new(mvn)
        .args(["-q", "-B", "-f"])
        .arg(pom)
        .arg("dependency:copy-dependencies")
        .arg(format!("-Dkafka.version={version}"))
        .arg(format!("-DoutputDirectory={}", into.display()))
        .output()
        .context("mvn can't be started")?;
    ensure!(
        output.status.success(),
        "mvn could not fetch Kafka {version} (does that version exist, is the network there?):\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    fs::copy(pom, into.join("pom.xml")).with_context(|| format!("mvn said nothing, but {} is not there", into.display()))?;
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} can't be removed", folder.display()))
        }
        _ => Ok(()),
    }
}
