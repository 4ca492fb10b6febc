//! A cluster: the logs of its partitions, and what a broker knows of producers (`ProducerStateManager`: the last five batches of each id).

use std::collections::{BTreeMap, VecDeque};

/// How many partitions there are: two topics of one each.
pub(crate) const PARTITIONS: usize = 2;
/// The ids of mirrors.
const MIRROR: i64 = 1 << 62;

/// A batch of one record: the `n`th of a client to its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) client: usize,
    pub(crate) n: u32,
}

/// What a broker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Appended,
    Duplicate,
    OutOfOrder,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) records: Vec<Record>,
    /// By producer id, its last five sequences.
    producers: BTreeMap<i64, VecDeque<i32>>,
}

impl Log {
    /// What the leader knows of clients' producers: ids and last sequences.
    pub(crate) fn producers(&self) -> impl Iterator<Item = (i64, i32)> {
        self.producers.range(..MIRROR).filter_map(|(id, last)| Some((*id, *last.back()?)))
    }

    /// A broker's check of a batch (`ProducerAppendInfo.checkSequence`): any first sequence of an id that is not known is taken. A plain producer has the id -1.
    pub(crate) fn append(&mut self, id: i64, sequence: i32, record: Record) -> Answer {
        if id >= 0 {
            let known = self.producers.entry(id).or_default();
            match known.back() {
                Some(_) if known.contains(&sequence) => return Answer::Duplicate,
                Some(last) if *last + 1 != sequence => return Answer::OutOfOrder,
                _ => {}
            }
            known.push_back(sequence);
            if known.len() > 5 {
                known.pop_front();
            }
        }
        self.records.push(record);
        Answer::Appended
    }

    /// The mirror's batch of a term: its sequences are the offsets. Returns how many records were appended, and whether it was refused.
    pub(crate) fn copy(&mut self, term: i32, from: usize, records: &[Record]) -> (usize, bool) {
        for (appended, record) in records.iter().enumerate() {
            match self.append(MIRROR + i64::from(term), (from + appended) as i32, *record) {
                Answer::Appended => {}
                // The batch is there or is refused as a whole.
                Answer::Duplicate => return (appended, false),
                Answer::OutOfOrder => return (appended, true),
            }
        }
        (records.len(), false)
    }

    /// The offset after the last record that the mirror wrote in a term.
    pub(crate) fn written_end(&self, term: i32) -> Option<i64> {
        let last = self.producers.get(&(MIRROR + i64::from(term)))?.back()?;
        Some(i64::from(*last) + 1)
    }
}

/// One of the two.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) logs: [Log; PARTITIONS],
}
