//! The address that every client has as `bootstrap.servers`.
//!
//! The path of a connection, top-down: [`server`] accepts, [`session`] peeks at the first request, asks [`routes`] for the cluster, has
//! [`servers`] open a connection there, and [`bootstrap`] or [`relay`] moves bytes until one side ends.
//!
//! | file | what it is |
//! |---|---|
//! | [`server`] | listeners, limits, drain |
//! | [`session`] | one client connection, from accept to its end |
//! | [`routes`] | the table in force: which file, loaded when, reloaded how |
//! | [`servers`] | a cluster's bootstrap servers: which of them answers |
//! | [`bootstrap`] | bootstrap mode: bytes both ways, unchanged |
//! | [`relay`] | relay mode: frames both ways, what names a broker is rewritten |
//! | [`relay::login`] | a client's login at the proxy, for routes with `sasl_users` |
//! | [`relay::splice`] | an exact number of bytes from one connection to another, without a copy where the kernel can |
//! | [`relay::brokers`] | virtual brokers: under which node id, host and port a relayed client knows a real one |
//! | [`relay::topic_ids`] | under which id a relayed client knows a topic |
//! | [`clients`] | who is and was connected, bounded |
//! | [`admin`] | `/metrics`, `/healthz`, `/readyz`, `/clients`, `/reload` |
//! | [`metrics`] | every event once: its log line and its metric |

pub mod admin;
pub mod bootstrap;
pub mod clients;
pub mod metrics;
pub mod relay;
pub mod routes;
pub mod server;
pub mod servers;
pub mod session;
