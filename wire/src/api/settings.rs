//! Settings that have node ids in their values.

/// How a setting of a topic or a broker has node ids in its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeIds {
    /// It is one.
    One,
    /// `partition:node,partition:node`, or `*` for all (`kafka.server.ThrottledReplicaListValidator`): whose replication is throttled.
    Replicas,
}

/// Bytes of the longest name of such a setting.
pub(super) const LONGEST_NAME: usize = "follower.replication.throttled.replicas".len();

impl NodeIds {
    /// Of a setting, by its name. `None`: its value has none.
    pub fn of(config_name: &[u8]) -> Option<Self> {
        match config_name {
            b"leader.replication.throttled.replicas" | b"follower.replication.throttled.replicas" => Some(Self::Replicas),
            b"node.id" | b"broker.id" => Some(Self::One),
            _ => None,
        }
    }

    /// The value with every node id as `other` has it. What is none stays: it is for the broker to refuse.
    pub fn rewrite(self, value: &str, mut other: impl FnMut(i32) -> i32) -> String {
        let mut id = |text: &str| match text.trim().parse() {
            Ok(node_id) if node_id >= 0 => other(node_id).to_string(),
            _ => text.to_owned(),
        };
        match self {
            Self::One => id(value),
            Self::Replicas => {
                let replica = |replica: &str| match replica.split_once(':') {
                    Some((partition, node_id)) => format!("{partition}:{}", id(node_id)),
                    None => replica.to_owned(),
                };
                value.split(',').map(replica).collect::<Vec<_>>().join(",")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_in_values_are_found_and_nothing_else() {
        let replicas = NodeIds::of(b"leader.replication.throttled.replicas").expect("it has some");
        assert_eq!(NodeIds::of(b"follower.replication.throttled.replicas"), Some(replicas));
        assert_eq!(NodeIds::of(b"leader.replication.throttled.rate"), None);
        for (value, expected) in [
            ("0:1,1:2", "0:1001,1:1002"),
            (" 0:1 , 12:30", " 0:1001, 12:1030"),
            ("*", "*"),
            ("", ""),
            ("none", "none"),
            ("0:-1,0:,:3,1", "0:-1,0:,:1003,1"),
            ("0:99999999999,1:2:3", "0:99999999999,1:2:3"),
        ] {
            assert_eq!(replicas.rewrite(value, |node_id| node_id + 1000), expected, "{value:?}");
        }
        let one = NodeIds::of(b"node.id").expect("it is one");
        assert_eq!((one.rewrite("7", |_| 8), one.rewrite("-1", |_| 8), one.rewrite("a", |_| 8)), ("8".into(), "-1".into(), "a".into()));
    }
}
