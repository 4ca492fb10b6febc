//! `routes.toml`: the one configuration file, read by all of kferry's programs.
//!
//! [`Config::load`] turns the text into checked types once, at the edge, and reports *every* error of the file together,
//! each with its line, column, a caret and a hint. Nothing behind this module looks at TOML again.
//!
//! | file | what it is |
//! |---|---|
//! | `parse` | the way from a file to a [`Config`], step by step |
//! | `read` | the schema: TOML tables to drafts of the checked types, one function a table |
//! | `check` | what only several tables together can tell |
//! | `build` | drafts to checked types |
//! | `types` | the checked types |
//! | [`matcher`] | who a route is for: globs and regexes over `client.id`, and which of them an earlier one shadows |
//! | `default_ids` | the `client.id` that a library sends when nobody has set one |
//! | `names` | which topics and groups a mirror copies and a route owns, and what a topic is called on its target |
//! | `collisions` | copies that would get in each other's way |
//! | `file` | files that are read again while a process runs |
//! | `machine` | what a file asks of the machine: open files, and ports |
//! | [`diagnostic`] | an error or a warning with its place in the file, and how it is shown |
//! | `secret` | what must not be shown |
//!
//! Keys are Kafka's property names with underscores instead of dots. Paths are relative to the folder of the file.

mod build;
mod check;
mod collisions;
mod default_ids;
pub mod diagnostic;
mod file;
mod machine;
pub mod matcher;
mod names;
mod parse;
mod read;
mod secret;
#[cfg(test)]
mod tests;
mod types;
mod view;

pub use collisions::{Collision, CollisionKind, Copied, collisions};
pub use default_ids::{Application, default_of};
pub use file::{read_file, read_text};
pub use machine::{EphemeralPorts, OpenFiles, who_may_have};
pub use names::{Naming, NamingError, Selection, as_glob, dead_letter_topic, is_internal, no_room_for_dead_letters};
pub use read::keys;
pub use types::Config;
pub use types::certificates::{CertificateFile, Certificates};
pub use types::cluster::{
    BrokerRange, ClientTls, Cluster, HostPort, NODE_IDS, OAUTHBEARER, Sasl, SaslMechanism, Secret, SecretError, Security, TlsIdentity,
};
pub use types::mirror::{Mirror, Offsets, OnError, OnLost};
pub use types::moves::{Moves, State};
pub use types::proxy::{Admin, ClientAuth, Limits, Listener, Mode, Route, ServerTls, User};
