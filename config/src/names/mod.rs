//! Which topics and groups a mirror copies and a route owns, and what a topic is called on its target.

mod naming;
mod selection;

pub use naming::{Naming, NamingError};
pub(crate) use naming::{Rule, is_legal, legal};
pub use naming::{dead_letter_topic, no_room_for_dead_letters};
pub(crate) use selection::Pattern;
pub use selection::{Selection, as_glob, is_internal};
