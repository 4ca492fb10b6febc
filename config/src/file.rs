//! Files that are read again while a process runs.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// The bytes of a file. A pipe that nobody writes to would never end, and would hold its reader for ever.
///
/// # Errors
/// Those of the system; [`ErrorKind::InvalidInput`] where it is something else than a file.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no file, but a pipe, a device or a folder"));
    }
    std::fs::read(path)
}

/// The same, as text.
///
/// # Errors
/// As of [`read_file`]; [`ErrorKind::InvalidData`] where it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read_file(path)?).map_err(|error| Error::new(ErrorKind::InvalidData, error))
}
