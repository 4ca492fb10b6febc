//! The test bed: what kferry's tests and its demo stand on. Everything is blocking, so that a `#[test]` reads top-down.
//!
//! - [`kafka`]: real Apache Kafka clusters: start, kill, freeze, restart, look inside.
//! - [`fake`]: a broker for what a real one won't do on command. [`raw`]: a client for what no real one would send.
//! - [`proxy`]: the real `kferry-proxy`, its file and its admin address.
//! - [`mirror`]: the real `kferry-mirror`. [`scenario`]: what its tests share. [`chaos`]: load that never ends, and the comparison afterwards.
//!   [`translated`]: what one says that translates offsets, beside a look at every record. [`kferry`]: the real `kferry`.
//! - [`stage`]: two clusters, the old one and the new one, that one file connects.
//! - [`systems`]: what is built on Kafka: Connect, Streams, MirrorMaker 2, and what user interfaces ask.
//! - [`pki`]: the certificate authority of a run.
//! - [`exported`]: whether `/metrics` is what the programs say that it is; each look of a test at it is held to that.
//! - [`jars`]: Kafka's jars, any version, by Maven.
//! - [`process`]: programs that never outlive the process that started them.
//! - [`ports`]: TCP ports that no other test has.
//! - [`measure`], [`ordinary`], [`fetcher`]: for benchmarks: figures, who runs what is measured, a consumer that costs nothing.
//! - [`run`]: the folder of a run, on a real disk, gone afterwards.

/// How long a test waits for what must come: a record, an answer, a cluster, the end of a program. Mostly that takes milliseconds; the rest is for a
/// loaded machine, where a cluster has taken two minutes to start. What must come *soon* has a bound of its own where it is asserted.
pub const LIMIT: std::time::Duration = std::time::Duration::from_mins(3);

pub mod chaos;
pub mod clients;
pub mod exported;
pub mod fake;
pub mod fetcher;
pub mod jars;
pub mod kafka;
pub mod kferry;
pub mod measure;
pub mod mirror;
pub mod ordinary;
pub mod pki;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod run;
pub mod scenario;
pub mod stage;
pub mod systems;
pub mod translated;
