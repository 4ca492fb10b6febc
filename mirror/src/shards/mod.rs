//! Several processes share a mirror: which of them works on what, and until when it may write.
//!
//! The partitions of the state's topic on the target are the *shards*. The processes are members of one consumer group that is subscribed to that
//! topic, so Kafka says who has which shard, and there is no other coordinator. Nothing is consumed. What is about a mirrored partition is its
//! shard's; what is about a whole topic belongs to the shard of its partition 0, and a consumer group's offsets to the shard of its name.
//!
//! A process that hangs does not know that the group has gone on without it. So nothing is written but under a *lease*: each second the member
//! commits an offset, which the coordinator takes from a member of the present generation only. That it did proves that the shards were ours
//! when the commit was *sent*, and they stay ours for a session from then on: before that is over, the coordinator gives them to nobody else unless we
//! have given them up. What is sent just before a process is frozen may still arrive when another one has taken over; then the
//! compare-and-swap of `copy::replicate` and `copy::holes` is the second wall.
//!
//! | file | what it is |
//! |---|---|
//! | `owned` | the shards that this process has, and which one a partition or group belongs to |
//! | `membership` | a member of the group, as the rest of the mirror sees it |
//! | `member` | how a process becomes one and stays one, by librdkafka: the one file that knows it |
//! | `events` | what is told of that |

#[cfg(feature = "librdkafka")]
mod events;
#[cfg(feature = "librdkafka")]
mod member;
mod membership;
mod owned;

pub use membership::{Change, HANDED_OVER, Handover, Member};
pub use owned::Owned;
