//! The rewriting of a body that is there as a whole.

use super::asked::{Rewrite, RewriteError};
use super::schema::Field;
use super::walk::{Step, Walk};

/// Bytes of a body that the walk is given at a time: more than it ever needs to see at once, few enough for what it changes to stay in a
/// processor's cache until it is collected.
const PIECE: usize = 64 * 1024;

/// Walks the body of a message and changes what `by` has an answer for. `None`: nothing was to be changed.
///
/// # Errors
/// [`RewriteError`]; the body is not to be passed on then.
pub fn rewrite(
    fields: &'static [Field],
    version: i16,
    flexible: bool,
    body: &[u8],
    by: &mut impl Rewrite,
) -> Result<Option<Vec<u8>>, RewriteError> {
    let mut walk = Walk::new(fields, version, flexible, body.len());
    // Of `body`: told by the walk, and collected in `out`.
    let (mut at, mut copied) = (0, 0);
    let mut out = Vec::new();
    loop {
        match walk.step(&body[at..body.len().min(at + PIECE)], by)? {
            Step::Need(len) => unreachable!("a piece has more than {len} bytes"),
            Step::Pass(len) | Step::Records(len) => at += len,
            Step::Replace { len, with } => {
                if copied == 0 {
                    out.reserve(body.len() + 64);
                }
                out.extend_from_slice(&body[copied..at]);
                out.extend_from_slice(with);
                at += len;
                copied = at;
            }
            Step::End => break,
        }
    }
    if copied == 0 {
        return Ok(None);
    }
    out.extend_from_slice(&body[copied..]);
    Ok(Some(out))
}
