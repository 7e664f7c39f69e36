//! What holds for the process as a whole.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Keeps keys and plaintext out of core dumps: the kernel writes none, hands none to a collector, and
/// lets no other process of the same user look into this one's memory.
///
/// [`Builder::build`](crate::Builder::build) does it too. A program that reads keys earlier calls this
/// first. Both hold for the rest of the process's life; children inherit the limit.
///
/// # Errors
/// When the kernel refuses.
pub fn forbid_core_dumps() -> io::Result<()> {
    // The limit is for dumps into files. Collectors behind a pipe do not heed it, so the process is
    // marked as well.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)?;
    Ok(())
}

/// A reply socket is a descriptor; the usual soft limit of 1,024 is meant for programs that `select`.
pub(crate) fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let wanted = hard.min(65_536).max(soft);
        if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_err() {
            tracing::debug!(soft, "the limit of descriptors stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threat_48_the_process_is_marked_as_never_to_be_dumped() {
        setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
        prctl::set_dumpable(true).unwrap();
        assert!(prctl::get_dumpable().unwrap());
        forbid_core_dumps().unwrap();
        assert!(!prctl::get_dumpable().unwrap());
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    }
}
