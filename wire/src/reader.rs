//! The one cursor over bytes that somebody else wrote: what they announce is believed only as far as it is there.
//!
//! It borrows, and allocates nothing. Whoever reads with it may reserve memory by a [`count`](Reader::count), which is never larger than the
//! bytes that are left.
//!
//! # References
//! - <https://kafka.apache.org/protocol#protocol_types>; KIP-482 (compact types, tagged fields)

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// Fewer bytes than are needed, or announced.
    #[error("it breaks off")]
    Short,
    /// A value that cannot be there, whatever follows it.
    #[error("it has {0}")]
    Value(&'static str),
}

/// The bytes that have not been read yet.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn i8(&mut self) -> Result<i8, Malformed> {
        self.array().map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    /// Zigzag, as in records.
    pub(crate) fn varint(&mut self) -> Result<i32, Malformed> {
        let value = self.uvarint()?;
        Ok((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    /// Zigzag, as in records.
    pub(crate) fn varlong(&mut self) -> Result<i64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(Malformed::Value("a varlong of more than ten bytes"))
    }

    pub(crate) fn uvarint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::Value("a varint of more than five bytes"))
    }

    /// The elements of an array that is never null.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.i32()?;
        self.there(usize::try_from(count).map_err(|_| Malformed::Value("an array of negative length"))?)
    }

    /// The elements of a compact array that is never null.
    pub(crate) fn compact_count(&mut self) -> Result<usize, Malformed> {
        let count = self.compact_len()?;
        self.there(count)
    }

    pub(crate) fn string(&mut self) -> Result<&'a str, Malformed> {
        self.nullable_string()?.ok_or(Malformed::Value("null where text must be"))
    }

    pub(crate) fn nullable_string(&mut self) -> Result<Option<&'a str>, Malformed> {
        self.nullable_string_bytes()?.map(utf8).transpose()
    }

    pub(crate) fn compact_string(&mut self) -> Result<&'a str, Malformed> {
        self.compact_string_bytes().and_then(utf8)
    }

    /// A string that need not be UTF-8: Kafka takes any bytes, and puts a replacement character where they are none. Any negative length is null.
    pub(crate) fn nullable_string_bytes(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let len = self.i16()?;
        usize::try_from(len).ok().map(|len| self.take(len)).transpose()
    }

    /// As [`nullable_string_bytes`](Self::nullable_string_bytes), never null.
    pub(crate) fn compact_string_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.compact_len()?;
        self.take(len)
    }

    /// Bytes as in records; any negative length is null, as Kafka reads it.
    pub(crate) fn varint_bytes(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let len = self.varint()?;
        usize::try_from(len).ok().map(|len| self.take(len)).transpose()
    }

    /// Bytes as in messages of magic 0 and 1; any negative length is null, as Kafka reads it.
    pub(crate) fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let len = self.i32()?;
        usize::try_from(len).ok().map(|len| self.take(len)).transpose()
    }

    /// Gives each tagged field, its number and its bytes, to `field`.
    pub(crate) fn tagged_fields(&mut self, mut field: impl FnMut(u32, Self) -> Result<(), Malformed>) -> Result<(), Malformed> {
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let len = self.uvarint()? as usize;
            field(tag, Self(self.take(len)?))?;
        }
        Ok(())
    }

    pub(crate) fn skip_tagged_fields(&mut self) -> Result<(), Malformed> {
        self.tagged_fields(|_, _| Ok(()))
    }

    /// A length is one more than it on the wire. 0 is null.
    fn compact_len(&mut self) -> Result<usize, Malformed> {
        self.uvarint()?.checked_sub(1).map(|len| len as usize).ok_or(Malformed::Value("null where nothing may be null"))
    }

    /// The smallest element of an array has one byte.
    fn there(&self, count: usize) -> Result<usize, Malformed> {
        if count <= self.0.len() { Ok(count) } else { Err(Malformed::Short) }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*taken)
    }
}

pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(bytes).map_err(|_| Malformed::Value("text that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_never_larger_than_what_is_left() {
        assert_eq!(Reader::new(&[0, 0, 0, 2, 7, 7]).count(), Ok(2));
        assert_eq!(Reader::new(&[0, 0, 0, 3, 7, 7]).count(), Err(Malformed::Short));
        assert_eq!(Reader::new(&[0x7f, 0xff, 0xff, 0xff, 7]).count(), Err(Malformed::Short));
        assert_eq!(Reader::new(&[3, 7, 7]).compact_count(), Ok(2));
        assert_eq!(Reader::new(&[4, 7, 7]).compact_count(), Err(Malformed::Short));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f, 7]).compact_count(), Err(Malformed::Short));
    }

    #[test]
    fn what_no_further_byte_can_mend_is_not_short() {
        let wrong = |result: Result<_, Malformed>| matches!(result, Err(Malformed::Value(_)));
        assert!(wrong(Reader::new(&[0xff, 0xff, 0xff, 0xff]).count()));
        assert!(wrong(Reader::new(&[0]).compact_count()));
        assert!(wrong(Reader::new(&[0xff; 5]).compact_count()));
        assert_eq!(Reader::new(&[0x80, 0]).nullable_string(), Ok(None), "any negative length is null, as brokers read it");
        assert!(wrong(Reader::new(&[0xff, 0xff]).string().map(|_| 0)));
        assert!(wrong(Reader::new(&[0, 1, 0xff]).string().map(|_| 0)));
        assert!(wrong(Reader::new(&[0]).compact_string().map(|_| 0)));
        assert_eq!(Reader::new(&[0xff; 4]).compact_count(), Err(Malformed::Short));
        assert_eq!(Reader::new(&[0, 2, b'a']).string(), Err(Malformed::Short));
    }

    #[test]
    fn what_is_read_is_gone_and_the_rest_is_left() {
        let mut reader = Reader::new(&[0, 1, b'a', 2, b'b', 0xff, 0xff, 0x80, 0x01, 1, 5, 2, 8, 9, 7]);
        assert_eq!((reader.string(), reader.compact_string(), reader.nullable_string()), (Ok("a"), Ok("b"), Ok(None)));
        assert_eq!(reader.uvarint(), Ok(128));
        let mut fields = Vec::new();
        let mut push = |tag, field: Reader<'static>| {
            fields.push((tag, field.rest()));
            Ok(())
        };
        reader.tagged_fields(&mut push).unwrap();
        assert_eq!((fields, reader.rest()), (vec![(5, &[8, 9][..])], &[7][..]));
    }
}
