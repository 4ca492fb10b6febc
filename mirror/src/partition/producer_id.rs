//! The producer id that the mirror writes under.

use kferry_wire::batch::stamp::OF_MIRRORS;

/// The producer id under which the mirror writes to a partition of the follower in a term, by the topic's name on the mirror's source: 2^62 or more,
/// far above any that a broker gives out, and the same in every process and after every restart.
pub fn producer_id(mirror: &str, topic: &str, partition: i32, term: i32) -> i64 {
    let text = format!("{mirror}/{topic}/{partition}/{term}");
    // FNV-1a: it has to stay what it is for ever, and no more than that.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    OF_MIRRORS | (hash >> 3) as i64
}

#[cfg(test)]
mod tests {
    use kferry_wire::batch::stamp::is_of_a_mirror;

    use super::*;

    #[test]
    fn a_producer_id_is_far_above_any_that_a_broker_gives_out_and_stays_what_it_is() {
        assert_eq!(producer_id("m", "orders", 3, 1), producer_id("m", "orders", 3, 1));
        assert_ne!(producer_id("m", "orders", 3, 1), producer_id("m", "orders", 3, 2));
        assert!((0..1_000).all(|partition| is_of_a_mirror(producer_id("m", "orders", partition, 1))));
        assert!(![-1, 0, 1 << 40, (1 << 62) - 1].into_iter().any(is_of_a_mirror));
    }
}
