//! What kferry's programs share.
//!
//! | file | what it is |
//! |---|---|
//! | [`frame`] | the size prefix of every Kafka message, read without trusting it |
//! | `reader` | the cursor over bytes from others, bounded by what is there |
//! | [`header`] | the request header: `api_key`, `api_version`, `correlation_id`, `client_id` |
//! | [`proxy_header`] | what a load balancer says in front of a client's connection: the PROXY protocol |
//! | [`api`] | one row for each API: versions, what is rewritten, and the walk that rewrites it |
//! | [`batch`] | record batches: their headers rewritten, their records read and written |
//! | [`security`] | TLS from PEM files, SASL logins |
//! | [`stream`] | TCP or TLS |
//! | [`connection`] | one authenticated connection to one broker |
//! | [`versions`] | what a broker knows: API versions, features, and which Kafka it is |
//! | [`identity`] | which Kafka cluster answers: servers of another one are not used |
//! | [`cluster`] | what a broker says of its cluster: id, brokers, controller |
//! | [`client`] | a client of one cluster: the right broker for each question, and again when it was the wrong one |
//! | [`admin`] | what can be asked of a cluster and changed in it |
//! | [`log`] | a partition as a consumer reads it, and records appended to it |
//! | [`places`] | where a topic leads and where a group lives |
//! | [`preflight`] | whether a topic can move |
//! | [`decisions`] | the log of decisions: its records, which of them count, what a proxy and a mirror do next |
//! | `operators` | the admin address of the programs that have one (a feature) |
//! | [`files`] | files that are read without anybody else waiting for them |
//! | [`exit`] | how the programs end: the table of their exit codes |
//! | [`mod@messages`] | the lines of a program's log: a table that the documents and the code share |
//!
//! Bytes from others are read by [`frame`] and `reader` only: bounded, never trusting a length. There are two exceptions, where
//! kafka-protocol decodes: the answer to SaslAuthenticate, which has no array in it, and [`connection::Connection::request`], which says what
//! it trusts.

pub mod admin;
pub mod api;
pub mod batch;
pub mod client;
pub mod cluster;
pub mod connection;
pub mod decisions;
pub mod exit;
pub mod files;
pub mod frame;
pub mod header;
pub mod identity;
pub mod log;
pub mod messages;
#[cfg(feature = "operators")]
pub mod operators;
pub mod places;
pub mod preflight;
pub mod proxy_header;
mod reader;
pub mod security;
pub mod stream;
pub mod versions;
