//! Where a run keeps what it writes: `.work/run/<pid>-…/` in the workspace. On a real disk: a broker's log on tmpfs shows nothing true.
//!
//! A run that was killed can't clean up. So each holds a lock on a file in its folder, and the next run removes the folders whose lock
//! nobody holds. `KFERRY_KEEP=1` keeps a run's folder, with all brokers' logs and data, until somebody deletes it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

struct Run {
    folder: PathBuf,
    /// Held as long as the process lives: it's what tells the next run that this folder is in use.
    _owner: File,
}

static RUN: Mutex<Option<Run>> = Mutex::new(None);

/// The workspace's root.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the workspace")
}

/// Whether the folders of this run stay, with all that is in them (`KFERRY_KEEP=1`).
pub fn keep() -> bool {
    std::env::var_os("KFERRY_KEEP").is_some_and(|value| value == "1")
}

/// A new empty folder of this run; `name` is the beginning of its name.
pub fn folder(name: &str) -> Result<PathBuf> {
    let mut run = RUN.lock().unwrap_or_else(PoisonError::into_inner);
    if run.is_none() {
        *run = Some(open()?);
    }
    let parent = &run.as_ref().expect("it was opened above").folder;
    unique(parent, name)
}

fn unique(parent: &Path, name: &str) -> Result<PathBuf> {
    let folder = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(parent);
    Ok(folder.with_context(|| format!("no new folder in {}", parent.display()))?.keep())
}

fn open() -> Result<Run> {
    let runs = workspace().join(".work/run");
    fs::create_dir_all(&runs).with_context(|| format!("{} can't be made", runs.display()))?;
    // One at a time: a folder that is not locked yet looks like one whose owner is gone.
    let _turn = lock(&runs.join("lock"))?;
    remove_abandoned(&runs)?;
    let folder = unique(&runs, &std::process::id().to_string())?;
    let owner = lock(&folder.join("owner"))?;
    if keep() {
        File::create(folder.join("keep"))?;
    }
    Ok(Run { folder, _owner: owner })
}

fn remove_abandoned(runs: &Path) -> Result<()> {
    for entry in fs::read_dir(runs)? {
        let folder = entry?.path();
        if !folder.is_dir() || folder.join("keep").exists() {
            continue;
        }
        if File::open(folder.join("owner")).is_ok_and(|owner| matches!(owner.try_lock(), Err(TryLockError::WouldBlock))) {
            continue;
        }
        // A broker that is just being killed may still add a file; the next run takes what stays.
        let _ = fs::remove_dir_all(&folder);
    }
    Ok(())
}

/// Waits for the exclusive lock of the file at `path`; it's free again when the file is dropped, also by a crash.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(path).with_context(|| format!("{} can't be opened", path.display()))?;
    file.lock().with_context(|| format!("{} can't be locked", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_owns_any_more_is_removed() {
        let runs = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = runs.path().join(name);
            fs::create_dir(&folder).unwrap();
            File::create(folder.join("data")).unwrap();
            folder
        };
        let (alive, dead, kept) = (make("alive"), make("dead"), make("kept"));
        let owner = lock(&alive.join("owner")).unwrap();
        drop(lock(&dead.join("owner")).unwrap());
        File::create(kept.join("keep")).unwrap();

        remove_abandoned(runs.path()).unwrap();
        assert_eq!([alive.exists(), dead.exists(), kept.exists()], [true, false, true]);
        drop(owner);
        remove_abandoned(runs.path()).unwrap();
        assert!(!alive.exists());
    }
}
