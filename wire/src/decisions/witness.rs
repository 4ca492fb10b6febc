//! Whether a log of decisions is the one that it should be. A log that was lost and begun anew, or restored from an old copy, would let a cluster that
//! follows be written: whoever has seen more of it refuses it.

use serde::{Deserialize, Serialize};

use super::State;

/// What is known of the log from before: the mirrors keep it in their state, anew with each flip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The log's identity.
    pub log: String,
    /// The offset after the last record that was read.
    pub end: i64,
    /// The highest term of a topic.
    pub term: i32,
}

impl Witness {
    /// What is to be kept of a log that was read. `None`: it has no identity yet.
    pub fn of(state: &State) -> Option<Self> {
        Some(Self { log: state.identity()?.to_owned(), end: state.end(), term: state.highest_term() })
    }
}

/// Why a log of decisions is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its beginning is gone.
    #[error(
        "the log of decisions begins at offset {0}, not at 0: its beginning was deleted, and with it what was decided; restore the topic, or move the log \
         from a copy that is whole"
    )]
    Truncated(i64),
    /// It was not begun by kferry.
    #[error("the log of decisions does not begin with its identity: the topic was not begun by kferry; delete it if no kferry has used it")]
    NoIdentity,
    /// It was created anew.
    #[error(
        "the log of decisions is empty, but {} records of log {} were read before: its topic was lost or created anew; restore it, or correct the cluster in \
         [state]", .0.end, .0.log
    )]
    Empty(Witness),
    /// The file names another cluster than before.
    #[error("the log of decisions is {found}, but it was {} before: correct the cluster in [state], or move the log there with the command for it", .known.log)]
    Other {
        /// What is known.
        known: Witness,
        /// The identity of what was read.
        found: String,
    },
    /// It was restored from an old copy.
    #[error("the log of decisions ends at offset {end}, but it was read up to {} before: records were lost; restore them", .known.end)]
    Shorter {
        /// What is known.
        known: Witness,
        /// The offset after its last record.
        end: i64,
    },
    /// It was restored from an old copy, and has grown since.
    #[error("the log of decisions knows terms up to {term}, but it knew term {} before: records were lost; restore them", .known.term)]
    Behind {
        /// What is known.
        known: Witness,
        /// The highest term.
        term: i32,
    },
}

/// Whether a log that was read to its end may be followed, by its first offset (`begins`), what it says, and what is known of it from before. An empty log
/// that nobody has seen before is a new one.
///
/// # Errors
/// [`Refused`].
pub fn check(begins: i64, read: &State, known: Option<&Witness>) -> Result<(), Refused> {
    if begins != 0 {
        return Err(Refused::Truncated(begins));
    }
    let Some(found) = read.identity() else {
        return match known {
            Some(known) if read.end() == 0 => Err(Refused::Empty(known.clone())),
            None if read.end() == 0 => Ok(()),
            _ => Err(Refused::NoIdentity),
        };
    };
    let Some(known) = known.cloned() else { return Ok(()) };
    let (end, term) = (read.end(), read.highest_term());
    if known.log != found {
        Err(Refused::Other { known, found: found.to_owned() })
    } else if end < known.end {
        Err(Refused::Shorter { known, end })
    } else if term < known.term {
        Err(Refused::Behind { known, term })
    } else {
        Ok(())
    }
}
