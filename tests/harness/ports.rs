//! TCP ports for servers under test.
//!
//! A port of the kernel's choice (`bind` to 0) is a race: until the server binds it, any outgoing connection of the machine may be given it.
//! So these come from below the ephemeral range (32768 – 60999), in blocks that one process owns by a file lock, and none is handed out twice.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

const FIRST: u16 = 12_000;
const END: u16 = 32_000;
const BLOCK: u16 = 200;

struct Block {
    left: Range<u16>,
    _owner: File,
}

static BLOCKS: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// `count` (at most 200) consecutive ports on which nothing listens and that no other process using this function gets.
pub fn take(count: u16) -> Result<Range<u16>> {
    ensure!(count <= BLOCK, "{count} ports: at most {BLOCK} at once");
    let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    for block in blocks.iter_mut() {
        if let Some(ports) = take_from(&mut block.left, count) {
            return Ok(ports);
        }
    }
    loop {
        let mut block = claim()?;
        let ports = take_from(&mut block.left, count);
        blocks.push(block);
        if let Some(ports) = ports {
            return Ok(ports);
        }
    }
}

fn take_from(left: &mut Range<u16>, count: u16) -> Option<Range<u16>> {
    let mut start = left.start;
    for port in left.clone() {
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err() {
            start = port + 1;
        } else if port + 1 - start == count {
            left.start = port + 1;
            return Some(start..port + 1);
        }
    }
    None
}

/// The next block that nobody has. The locks live in the machine's temporary folder: several checkouts share one set of ports.
fn claim() -> Result<Block> {
    let folder = std::env::temp_dir().join("kferry-ports");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
    for first in (FIRST..END).step_by(usize::from(BLOCK)) {
        // Another user's file can't be opened: then the block is that user's.
        let Ok(owner) = File::options().create(true).append(true).open(folder.join(first.to_string())) else { continue };
        // This process's own blocks are locked too: the lock belongs to the open file, not to the process.
        if owner.try_lock().is_ok() {
            return Ok(Block { left: first..first + BLOCK, _owner: owner });
        }
    }
    anyhow::bail!("all blocks of ports in {} are locked: which tests are still running?", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_nor_while_in_use() {
        let first = take(3).unwrap();
        let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, first.end)).unwrap();
        let second = take(BLOCK - 10).unwrap();
        assert!(second.start > first.end || second.end <= first.start);
        assert!(!second.contains(&busy.local_addr().unwrap().port()));
        assert_eq!(second.len(), usize::from(BLOCK - 10));
        assert!(take(BLOCK + 1).is_err());
    }
}
