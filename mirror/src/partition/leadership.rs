//! Which cluster leads a topic, or a group's offsets.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Which cluster leads a topic, or a group's offsets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leadership {
    /// The leading cluster's name in the file.
    pub leader: String,
    /// The term since which it leads, from 1 on.
    pub term: i32,
}

impl Leadership {
    /// Takes in what a record of the mirror's state says of a topic or group; `None` is a tombstone. Records of one name may stand in several
    /// partitions, which have no order among each other: so a term that is lower than the known one is an older record, whenever it is read.
    pub(crate) fn follow(leaders: &mut HashMap<Arc<str>, Self>, name: Arc<str>, said: Option<Self>) {
        match said {
            Some(said) if leaders.get(&name).is_some_and(|known| known.term > said.term) => {}
            Some(said) => drop(leaders.insert(name, said)),
            None => drop(leaders.remove(&name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_term_counts_in_whatever_order_the_records_are_read() {
        let led = |leader: &str, term| Some(Leadership { leader: leader.to_owned(), term });
        for order in [[("new", 2), ("old", 3)], [("old", 3), ("new", 2)]] {
            let mut leaders = HashMap::new();
            for (leader, term) in order {
                Leadership::follow(&mut leaders, "orders".into(), led(leader, term));
            }
            assert_eq!(leaders.get("orders").cloned(), led("old", 3), "{order:?}");
        }
        // A term that is said again may correct the first word.
        let mut leaders = HashMap::from([("orders".into(), led("old", 3).unwrap())]);
        Leadership::follow(&mut leaders, "orders".into(), led("new", 3));
        assert_eq!(leaders["orders"].leader, "new");
        Leadership::follow(&mut leaders, "orders".into(), None);
        assert!(leaders.is_empty());
    }
}
