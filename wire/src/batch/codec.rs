//! What producers compress with. Whatever the compressed bytes announce, no more memory is taken than has been filled.
//!
//! # References
//! - `org.apache.kafka.common.compress` in Kafka: the streams that brokers and Java's clients read and write

use std::fmt;
use std::io::{self, Read, Write as _};

use bytes::Bytes;
use flate2::Compression;
use lz4_flex::frame::{BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::BatchError;

/// In front of what Java's library makes of snappy: a stream of blocks with their sizes. librdkafka and others write one bare block. Both are
/// read everywhere.
const XERIAL_MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
/// The magic, a version and the oldest version that can read it.
const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// What Java's library puts into a block, in bytes.
const XERIAL_BLOCK: usize = 32 * 1024;
/// No bytes of snappy become more than this many: a copy of 64 takes three.
const SNAPPY_MAX_RATIO: usize = 22;
/// zstd's name for the error of a buffer that the content does not fit into (`ZSTD_error_dstSize_tooSmall`).
const ZSTD_TOO_SMALL: &str = "Destination buffer is too small";

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    None,
    /// gzip
    Gzip,
    /// Snappy, in blocks as Java's library writes them, or bare
    Snappy,
    /// LZ4's frame format
    Lz4,
    /// Zstandard, since Kafka 2.1 (KIP-110)
    Zstd,
}

/// As `compression.type` has it.
impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// Why something is not decompressed.
pub(super) enum DecompressError {
    TooLarge { codec: Codec, max_bytes: usize },
    Codec { codec: Codec, reason: String },
}

impl DecompressError {
    pub(super) fn at(self, offset: i64) -> BatchError {
        match self {
            Self::TooLarge { codec, max_bytes } => BatchError::TooLarge { offset, codec, max_bytes },
            Self::Codec { codec, reason } => BatchError::Decompress { offset, codec, reason },
        }
    }
}

impl Codec {
    /// By the attributes' lowest three bits.
    pub(super) fn from_bits(bits: i16) -> Option<Self> {
        [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd].into_iter().find(|codec| codec.bits() == bits)
    }

    pub(super) fn bits(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    pub(super) fn compress(self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(bytes),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(&bytes)?;
                encoder.finish()
            }
            Self::Snappy => {
                let mut out = XERIAL_HEADER.to_vec();
                let mut encoder = snap::raw::Encoder::new();
                for block in bytes.chunks(XERIAL_BLOCK) {
                    let compressed = encoder.compress_vec(block)?;
                    out.extend_from_slice(&(compressed.len() as u32).to_be_bytes());
                    out.extend_from_slice(&compressed);
                }
                Ok(out)
            }
            Self::Lz4 => {
                // Java reads independent blocks only, which are the default, and takes 64 KiB itself.
                let mut encoder = FrameEncoder::with_frame_info(FrameInfo::new().block_size(BlockSize::Max64KB), Vec::new());
                encoder.write_all(&bytes)?;
                Ok(encoder.finish()?)
            }
            Self::Zstd => zstd::bulk::compress(&bytes, zstd::DEFAULT_COMPRESSION_LEVEL),
        }
    }

    /// `magic` is of the batch or message that it is in.
    pub(super) fn decompress(self, bytes: Bytes, magic: i8, max_bytes: usize) -> Result<Bytes, DecompressError> {
        let failed = |error: io::Error| DecompressError::Codec { codec: self, reason: error.to_string() };
        let too_large = DecompressError::TooLarge { codec: self, max_bytes };
        let out = match self {
            Self::None => return Ok(bytes),
            Self::Gzip => read(flate2::read::MultiGzDecoder::new(&*bytes), max_bytes),
            Self::Snappy => snappy(&bytes, max_bytes),
            Self::Lz4 if magic == 0 => read(FrameDecoder::new(&*with_header_checksum(&bytes)), max_bytes),
            Self::Lz4 => read(FrameDecoder::new(&*bytes), max_bytes),
            Self::Zstd => zstandard(&bytes, max_bytes),
        };
        out.map_err(failed)?.map(Bytes::from).ok_or(too_large)
    }
}

/// `None` for more than `max_bytes`.
fn read(decoder: impl Read, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    decoder.take((max_bytes as u64).saturating_add(1)).read_to_end(&mut out)?;
    Ok((out.len() <= max_bytes).then_some(out))
}

/// All at once, into a buffer that grows until it is large enough: the decoder of a stream would take a window of the size that the frame
/// announces, and that may be 128 MiB for a kilobyte.
fn zstandard(bytes: &[u8], max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let mut decompressor = zstd::bulk::Decompressor::new()?;
    let mut capacity = bytes.len().saturating_mul(4).max(4096);
    loop {
        let mut out = Vec::with_capacity(capacity.min(max_bytes));
        match decompressor.decompress_to_buffer(bytes, &mut out) {
            Ok(len) => return Ok((len <= max_bytes).then_some(out)),
            Err(error) if error.to_string() != ZSTD_TOO_SMALL => return Err(error),
            Err(_) if capacity >= max_bytes => return Ok(None),
            Err(_) => capacity = capacity.saturating_mul(4),
        }
    }
}

fn snappy(bytes: &[u8], max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    if !bytes.starts_with(&XERIAL_MAGIC) {
        return Ok(snappy_block(bytes, max_bytes, &mut out)?.then_some(out));
    }
    let ends = || io::Error::new(io::ErrorKind::UnexpectedEof, "it breaks off");
    let mut rest = bytes.get(XERIAL_HEADER.len()..).ok_or_else(ends)?;
    while let Some((size, behind)) = rest.split_first_chunk() {
        // Streams that were put one behind the other: Java's library looks for the next header where a size would be.
        if rest.starts_with(&XERIAL_MAGIC) {
            rest = rest.get(XERIAL_HEADER.len()..).ok_or_else(ends)?;
            continue;
        }
        let (block, behind) = behind.split_at_checked(u32::from_be_bytes(*size) as usize).ok_or_else(ends)?;
        if !snappy_block(block, max_bytes, &mut out)? {
            return Ok(None);
        }
        rest = behind;
    }
    if rest.is_empty() { Ok(Some(out)) } else { Err(ends()) }
}

/// Appends what `block` decompresses to; `false` if that would be more than `max_bytes` together.
fn snappy_block(block: &[u8], max_bytes: usize, out: &mut Vec<u8>) -> io::Result<bool> {
    let len = snap::raw::decompress_len(block)?;
    if len > block.len().saturating_mul(SNAPPY_MAX_RATIO) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it announces more than it can hold"));
    }
    let start = out.len();
    if len > max_bytes.saturating_sub(start) {
        return Ok(false);
    }
    out.resize(start + len, 0);
    snap::raw::Decoder::new().decompress(block, &mut out[start..])?;
    Ok(true)
}

/// Clients took the frame's magic number into the header's checksum by mistake, and with magic 0 it stayed so: what is right there is
/// wrong. Readers ignore it (KIP-57, `Lz4BlockInputStream`), so it is put right.
fn with_header_checksum(frame: &[u8]) -> Vec<u8> {
    const FLAGS_AT: usize = 4;
    let mut frame = frame.to_vec();
    let flags = frame.get(FLAGS_AT).copied().unwrap_or(0);
    // Flags and block size; content size and dictionary id if the flags say so.
    let len = 2 + if flags & 0b1000 != 0 { 8 } else { 0 } + if flags & 1 != 0 { 4 } else { 0 };
    if let Some([descriptor @ .., checksum]) = frame.get_mut(FLAGS_AT..=FLAGS_AT + len) {
        *checksum = (twox_hash::XxHash32::oneshot(0, descriptor) >> 8) as u8;
    }
    frame
}
