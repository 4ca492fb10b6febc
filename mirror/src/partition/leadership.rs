//! Who leads a topic, or a group's offsets.

use serde::{Deserialize, Serialize};

/// Who leads a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leadership {
    /// The cluster, by its name.
    pub leader: String,
    /// Since which term.
    pub term: i32,
}
