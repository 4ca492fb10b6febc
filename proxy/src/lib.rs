//! The address that every client has as `bootstrap.servers`.
//!
//! The path of a connection, top-down: [`server`] accepts, [`session`] peeks at the first request, asks [`routes`] for the cluster, has
//! [`servers`] open a connection there, and [`relay`] moves bytes until one side ends.
//!
//! | file | what it is |
//! |---|---|
//! | [`server`] | listeners, limits, drain |
//! | [`session`] | one client connection, from accept to its end |
//! | [`routes`] | the table in force: which file, loaded when, reloaded how |
//! | [`servers`] | a cluster's bootstrap servers: which of them answers |
//! | [`login`] | a client's login at the proxy, for routes with `sasl_users` |
//! | [`relay`] | bootstrap mode: bytes both ways, unchanged |
//! | [`relayed`] | relay mode: frames both ways, what names a broker is rewritten |
//! | [`splice`] | an exact number of bytes from one connection to another, without a copy where the kernel can |
//! | [`brokers`] | virtual brokers: under which node id, host and port a relayed client knows a real one |
//! | [`topic_ids`] | under which id a relayed client knows a topic |
//! | [`clients`] | who is and was connected, bounded |
//! | [`admin`] | `/metrics`, `/healthz`, `/readyz`, `/clients`, `/reload` |
//! | [`metrics`] | every event once: its log line and its metric |
//! | [`messages`] | the lines of the log, by their text |

pub mod admin;
pub mod brokers;
pub mod clients;
pub mod login;
pub mod messages;
pub mod metrics;
pub mod relay;
pub mod relayed;
pub mod routes;
pub mod server;
pub mod servers;
pub mod session;
pub mod splice;
pub mod topic_ids;
