//! Files that are read again while a process runs.

use std::io::{Error, ErrorKind, Read as _, Result};
use std::path::Path;

/// Bytes of the largest file that is read. Ten thousand routes take a sixteenth of that.
const LARGEST: u64 = 16 << 20;

/// The bytes of a file. A pipe that nobody writes to would never end, and would hold its reader for ever.
///
/// # Errors
/// Those of the system; [`ErrorKind::InvalidInput`] where it is something else than a file, or larger than any that is meant.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no file, but a pipe, a device or a folder"));
    }
    if metadata.len() > LARGEST {
        let why = format!("it has {} bytes, and no file for kferry has more than {LARGEST}: is it another one?", metadata.len());
        return Err(Error::new(ErrorKind::InvalidInput, why));
    }
    std::fs::read(path)
}

/// The same for a process that reads the file once, and may get it from standard input, or from the shell (`<(...)`).
///
/// # Errors
/// As of [`read_file`].
pub(crate) fn read_once(path: &Path) -> Result<Vec<u8>> {
    if !["/dev/stdin", "/dev/fd/", "/proc/self/fd/"].iter().any(|given| path.to_string_lossy().starts_with(given)) {
        return read_file(path);
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::new(ErrorKind::InvalidInput, format!("it has more than {LARGEST} bytes, as no file for kferry does")));
    }
    Ok(bytes)
}

/// The same, as text.
///
/// # Errors
/// As of [`read_file`]; [`ErrorKind::InvalidData`] where it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read_file(path)?).map_err(|error| Error::new(ErrorKind::InvalidData, error))
}
