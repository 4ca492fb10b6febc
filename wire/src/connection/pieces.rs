//! Bytes that lie in several places and go out as one: the batches of a Produce request stay where they were received.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// What is left to be written.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// None is empty.
    pieces: VecDeque<Bytes>,
    remaining: usize,
}

impl Pieces {
    /// Adds bytes at the end.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.remaining += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Adds bytes at the beginning.
    pub(crate) fn prepend(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.remaining += piece.len();
            self.pieces.push_front(piece);
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(piece: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(piece);
        pieces
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece[..])
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.len().min(self.pieces.len());
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "{count} of {} bytes", self.remaining);
        self.remaining -= count;
        while count > 0 {
            let Some(front) = self.pieces.front_mut() else { return };
            let taken = count.min(front.len());
            front.advance(taken);
            count -= taken;
            if front.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_as_one_whatever_is_taken_at_a_time() {
        let pieces = || {
            let mut pieces = Pieces::from(Bytes::from_static(b"bcd"));
            pieces.push(Bytes::new());
            pieces.push(Bytes::from_static(b"e"));
            pieces.push(Bytes::from_static(b"fgh"));
            pieces.prepend(Bytes::from_static(b"a"));
            pieces
        };
        for at_a_time in 1..=8 {
            let (mut pieces, mut read) = (pieces(), Vec::new());
            while pieces.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = pieces.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).take(at_a_time).collect();
                assert!(seen.starts_with(&pieces.chunk()[..pieces.chunk().len().min(at_a_time)]) && !seen.is_empty());
                pieces.advance(seen.len());
                read.extend(seen);
            }
            assert_eq!((read.as_slice(), pieces.remaining()), (&b"abcdefgh"[..], 0));
        }
    }
}
