//! `routes.toml`, and the table in force that is made of it.
//!
//! The file is a wish: one with an error changes nothing. What a running process cannot change (where it listens) is said, and the rest of
//! the file is taken over. The way of an edit, top-down: [`Routes::watch`] sees it, [`Routes::judge`] makes a table of it and puts that in force.

mod ports;
mod table;
mod wished;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use kferry_wire::files::{NotRead, Reads};
use kferry_wire::tell;
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use self::table::LoadError;
pub(crate) use self::table::{Homes, Routed, RoutingTable};

use self::ports::Ports;
use self::wished::{Reading, Snapshot, Wish};
use crate::messages;
use crate::metrics;

/// How often the file is read. Reading it is all there is to watching it: it sees an edit in place, a rename over it, a ConfigMap's swapped
/// symlink and a bind mount alike, of which inotify misses some; ten kilobytes twice a second cost nothing.
const POLL: Duration = Duration::from_millis(500);

/// How many reads of files may be under way: those that hang stay until the network mount is back, and then the next one is to go on.
const READS: usize = 4;

/// What a reload did.
#[derive(Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The text is the one in force. Certificates were read again.
    Unchanged,
    /// The new table is in force.
    Changed {
        /// What only holds after a restart, a sentence each.
        after_restart: Vec<String>,
    },
}

/// `routes.toml` and the table in force.
#[derive(Debug)]
pub struct Routes {
    /// The file.
    path: PathBuf,
    in_force: ArcSwap<RoutingTable>,
    /// How many files were taken, and how often an operator asked for one to be read again: what each says is wished from then on.
    taken: AtomicU64,
    /// What was decided. Locked while a table is put in force.
    homes: std::sync::Mutex<Homes>,
    /// The ports that were opened at the start.
    open: Ports,
    /// What was judged last, taken or not. Locked by a reload: one at a time.
    judged: Mutex<Snapshot>,
    /// Reads of the file and of those that it names.
    reads: Reads,
}

impl Routes {
    /// Loads the file for the first time.
    ///
    /// # Errors
    /// [`LoadError`]: there is nothing to fall back to.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let Reading { text, snapshot } = Reading::of(path, Vec::new());
        let wish = Wish::parse(text?, path)?;
        let judged = snapshot.of(&wish);
        let table = RoutingTable::build(wish, path, None)?;
        table.wish().warn(path);
        metrics::loaded(table.loaded_at());
        table.tell(None);
        Ok(Self {
            path: path.to_owned(),
            open: Ports::of(&table),
            judged: Mutex::new(judged),
            in_force: ArcSwap::from_pointee(table),
            taken: AtomicU64::new(0),
            homes: std::sync::Mutex::default(),
            reads: Reads::new(READS),
        })
    }

    /// The table as it is now.
    pub(crate) fn in_force(&self) -> Arc<RoutingTable> {
        self.in_force.load_full()
    }

    /// Reloads whenever the file has changed, or a certificate, a key or a user's password that it names, until `stop`.
    pub(crate) async fn watch(&self, stop: CancellationToken) {
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut hangs) = (self.judged.lock().await.clone(), false);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let files = self.judged.lock().await.files();
            let reading = match self.read(files).await {
                Ok(reading) => reading,
                Err(error) => {
                    if !hangs {
                        self.tell(&Err(error));
                    }
                    hangs = true;
                    continue;
                }
            };
            hangs = false;
            let now = reading.snapshot.clone();
            let mut judged = self.judged.lock().await;
            if now.is_new(&last, &judged) {
                // The outcome is in the log and the metrics.
                let _ = self.judge(&mut judged, reading).await;
            }
            last = now;
        }
    }

    /// Reads the file again and puts it in force. Tells the log and the metrics, whoever asked.
    ///
    /// # Errors
    /// [`LoadError`]: nothing has changed.
    pub async fn reload(&self) -> Result<Reloaded, LoadError> {
        let mut judged = self.judged.lock().await;
        match self.read(judged.files()).await {
            Ok(reading) => {
                let result = self.judge(&mut judged, reading).await;
                self.taken.fetch_add(u64::from(matches!(result, Ok(Reloaded::Unchanged))), Ordering::Relaxed);
                result
            }
            Err(error) => {
                let result = Err(error);
                self.tell(&result);
                result
            }
        }
    }

    async fn read(&self, files: Vec<PathBuf>) -> Result<Reading, LoadError> {
        let path = self.path.clone();
        self.reads.run(move || Reading::of(&path, files)).await.map_err(|source| self.not_read(source))
    }

    fn not_read(&self, source: NotRead) -> LoadError {
        LoadError::NotRead { path: self.path.clone(), source }
    }

    async fn judge(&self, judged: &mut Snapshot, reading: Reading) -> Result<Reloaded, LoadError> {
        let (path, before) = (self.path.clone(), self.in_force());
        // Files to read, and passwords to hash.
        let built = self.reads.run(move || {
            let Reading { text, snapshot } = reading;
            match text.and_then(|text| Wish::parse(text, &path)) {
                Ok(wish) => (snapshot.of(&wish), RoutingTable::build(wish, &path, Some(&before))),
                Err(invalid) => (snapshot, Err(invalid.into())),
            }
        });
        let result = match built.await {
            Ok((now, built)) => {
                *judged = now;
                built.and_then(|after| self.put_in_force(after))
            }
            Err(source) => Err(self.not_read(source)),
        };
        self.tell(&result);
        result
    }

    /// What became of the file, for the log and the metrics.
    fn tell(&self, result: &Result<Reloaded, LoadError>) {
        match result {
            Ok(Reloaded::Unchanged) => {
                metrics::reloaded("unchanged");
                tell!(messages::READ_AGAIN, path = %self.path.display());
            }
            Ok(Reloaded::Changed { after_restart }) => {
                metrics::reloaded("changed");
                let table = self.in_force();
                let config = &table.wish().config;
                tell!(messages::IN_FORCE, path = %self.path.display(), clusters = config.clusters.len(), routes = config.routes.len());
                for what in after_restart {
                    tell!(messages::NEEDS_RESTART: ": {what}");
                }
            }
            Err(reason) => {
                metrics::reloaded("invalid");
                let before = self.in_force().loaded_at();
                tell!(messages::NOT_TAKEN: ", the table of {before} stays in force\n{reason}");
            }
        }
    }

    /// How many files were taken: with another number the table in force is what is wished now.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether these homes are in force.
    pub(crate) fn are_homes(&self, homes: &BTreeMap<String, Arc<str>>) -> bool {
        let decided = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        decided.len() == homes.len() && homes.iter().all(|(route, home)| decided.get(route.as_str()) == Some(home))
    }

    /// Where the clients of routes are at home from now on, whatever the file wishes.
    pub(crate) fn decided(&self, homes: Homes) {
        let mut decided = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        if *decided != homes {
            self.in_force.store(Arc::new(RoutingTable::clone(&self.in_force()).with(&homes)));
            *decided = homes;
        }
    }

    fn put_in_force(&self, after: RoutingTable) -> Result<Reloaded, LoadError> {
        let wished = Ports::of(&after);
        if let Some(what) = self.open.not_open(&wished) {
            return Err(LoadError::NotOpen { path: self.path.clone(), what });
        }
        let homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        let after = after.with(&homes);
        after.tell(Some(&self.in_force()));
        if after.wish().text == self.in_force().wish().text {
            self.in_force.store(Arc::new(after));
            return Ok(Reloaded::Unchanged);
        }
        after.wish().warn(&self.path);
        metrics::loaded(after.loaded_at());
        let after_restart = self.open.after_restart(&wished);
        self.in_force.store(Arc::new(after));
        self.taken.fetch_add(1, Ordering::Relaxed);
        Ok(Reloaded::Changed { after_restart })
    }
}
