//! What a ring is asked to be, what it turned out to be, and why it could not be made.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// Sizes of a ring.
#[derive(Clone, Debug)]
pub struct Options {
    /// Submission queue entries.
    pub sq_entries: u32,
    /// Completion queue entries; both queues are made smaller where memory may not be locked.
    pub cq_entries: u32,
    /// Direct descriptors; also limited by `RLIMIT_NOFILE`.
    pub files_max: u32,
    /// Receive buffers; rounded down to a power of two, at most 32,768.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
    /// Bytes that this ring may lock, where a limit is shared by several; `None` leaves it to the kernel to refuse.
    pub locked_bytes_max: Option<u64>,
    /// Set-up flags to be treated as if the kernel refused them, so that every fallback can be tested on any kernel.
    pub refused: SetupFlags,
}

/// Completion queue entries that are given up first, and below which nothing is left to give up.
const CQ_ENTRIES_SPARE: u32 = 4096;
const CQ_ENTRIES_MIN: u32 = 1024;
const SQ_ENTRIES_MIN: u32 = 256;
/// What a ring locks besides its queues.
const RING_PAGES_BYTES: u64 = 16 << 10;
/// Bytes of one receive buffer, where nothing else is asked for.
pub const BUFFER_BYTES: u32 = 2048;
/// Bytes of one large receive buffer. Of what is proxied to a reader that has stopped, one of them is held: with what the kernel
/// holds then (19 KB) that stays below 64 KiB, which larger ones would not, and smaller ones cost a proxied download a fifth more.
pub(super) const BULK_BUFFER_BYTES: u32 = 32 << 10;
/// Large receive buffers of a ring, from the first use on.
pub(super) const BULK_BUFFERS: u16 = 32;

impl Default for Options {
    fn default() -> Self {
        Self {
            sq_entries: 4096,
            cq_entries: 65_536,
            files_max: 1 << 20,
            buffers: 4096,
            buffer_bytes: BUFFER_BYTES,
            locked_bytes_max: None,
            refused: SetupFlags::NONE,
        }
    }
}

/// Entries of the two queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Queues {
    pub sq: u32,
    pub cq: u32,
}

impl Queues {
    /// The largest queues, up to those asked for, that fit the ring's share of what may be locked.
    pub fn fitting(options: &Options) -> Self {
        let buffers = u64::from(options.buffers) * 16;
        let mut queues = Self { sq: options.sq_entries, cq: options.cq_entries };
        while let Some(smaller) = queues.smaller()
            && options.locked_bytes_max.is_some_and(|most| queues.bytes() + buffers > most)
        {
            queues = smaller;
        }
        queues
    }

    /// The next smaller size worth trying.
    pub fn smaller(self) -> Option<Self> {
        let Self { sq, cq } = self;
        if cq > CQ_ENTRIES_SPARE {
            Some(Self { sq, cq: (cq / 2).max(CQ_ENTRIES_SPARE) })
        } else if sq > SQ_ENTRIES_MIN {
            Some(Self { sq: (sq / 2).max(SQ_ENTRIES_MIN), cq })
        } else if cq > CQ_ENTRIES_MIN {
            Some(Self { sq, cq: (cq / 2).max(CQ_ENTRIES_MIN) })
        } else {
            None
        }
    }

    /// A submission takes 64 bytes, a completion 16.
    fn bytes(self) -> u64 {
        u64::from(self.sq) * 64 + u64::from(self.cq) * 16 + RING_PAGES_BYTES
    }
}

/// A set of io_uring set-up flags that the loop profits from but can do without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetupFlags(u8);

impl SetupFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Linux 6.6.
    pub const NO_SQARRAY: Self = Self(1);
    /// Linux 6.1; needs [`Self::SINGLE_ISSUER`].
    pub const DEFER_TASKRUN: Self = Self(2);
    /// Linux 6.0.
    pub const SINGLE_ISSUER: Self = Self(4);
    /// Linux 5.19.
    pub const COOP_TASKRUN: Self = Self(8);
    /// Linux 5.18.
    pub const SUBMIT_ALL: Self = Self(16);
    /// Newest first: the order in which an old kernel makes us give them up.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::NO_SQARRAY, "NO_SQARRAY"),
        (Self::DEFER_TASKRUN, "DEFER_TASKRUN"),
        (Self::SINGLE_ISSUER, "SINGLE_ISSUER"),
        (Self::COOP_TASKRUN, "COOP_TASKRUN"),
        (Self::SUBMIT_ALL, "SUBMIT_ALL"),
    ];

    /// Whether all of the other's flags are among these.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of the other's flags is among these.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// These but the other's.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for SetupFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for SetupFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Display for SetupFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (flag, name) in Self::ALL {
            if self.contains(flag) {
                write!(f, "{separator}{name}")?;
                separator = " ";
            }
        }
        Ok(())
    }
}

/// What this kernel gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// In force.
    pub setup: SetupFlags,
    /// Wanted and refused.
    pub missing: SetupFlags,
    /// The ring's descriptor is registered, which saves its lookup in each enter.
    pub registered_ring: bool,
    /// Peer addresses can be read from direct descriptors (Linux 6.7), so that accepts are multishot.
    pub peer_name: bool,
    /// Submissions that fit, after the kernel has rounded up to a power of two.
    pub sq_entries: u32,
    /// Completions that fit before the kernel has to keep a list; rounded in the same way.
    pub cq_entries: u32,
    /// The queues had to be made smaller than asked for.
    pub shrunk: bool,
    /// Direct descriptors.
    pub files: u32,
    /// Receive buffers.
    pub buffers: u16,
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sq_entries, cq_entries, files, buffers, .. } = self;
        write!(f, "io_uring: queues {sq_entries}/{cq_entries}, {files} direct descriptors, {buffers} buffers; ")?;
        write!(f, "with {}", self.setup)?;
        if self.missing != SetupFlags::NONE {
            write!(f, "; without {}", self.missing)?;
        }
        if !self.registered_ring {
            write!(f, "; without a registered ring descriptor")?;
        }
        if !self.peer_name {
            write!(f, "; without SO_PEERNAME (one accept at a time)")?;
        }
        if self.shrunk {
            write!(f, "; queues made smaller: raise RLIMIT_MEMLOCK (LimitMEMLOCK=infinity, ulimit -l unlimited)")?;
        }
        Ok(())
    }
}

/// Why there is no ring, and what to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingError {
    /// The sysctl `kernel.io_uring_disabled` is 1 or 2.
    Disabled {
        /// 1: for members of a group only; 2: for nobody.
        level: u8,
    },
    /// A seccomp profile refuses the system call.
    Seccomp,
    /// The system call does not exist.
    OldKernel,
    /// Memory may not be locked, even for the smallest queues.
    Memlock,
    /// No descriptor is left for the ring itself.
    Descriptors,
    /// A feature without which there is no loop.
    Missing {
        /// What follows "this kernel's io_uring lacks".
        feature: &'static str,
        /// What the kernel said when it was tried.
        errno: i32,
    },
    /// The kernel refused an enter for good.
    Enter {
        /// None of those that pass by themselves, which are tried again.
        errno: i32,
    },
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled { level: 1 } => f.write_str(
                "io_uring is reserved for a group (kernel.io_uring_disabled = 1): run as a member of kernel.io_uring_group, or `sysctl kernel.io_uring_disabled=0`",
            ),
            Self::Disabled { .. } => {
                f.write_str("io_uring is switched off (kernel.io_uring_disabled = 2): `sysctl kernel.io_uring_disabled=0`")
            }
            Self::Seccomp => f.write_str(
                "io_uring is refused with EPERM, as the seccomp profiles of container runtimes do: run the container with the profile in tuning/ (`--security-opt seccomp=tuning/seccomp.json`)",
            ),
            Self::OldKernel => {
                f.write_str("this kernel has no io_uring, or a sandbox hides it (ENOSYS): Linux 6.1 or newer is needed")
            }
            Self::Memlock => f.write_str(
                "not enough memory may be locked for the rings (ENOMEM): raise RLIMIT_MEMLOCK (`ulimit -l unlimited`, LimitMEMLOCK=infinity) or use fewer workers",
            ),
            Self::Descriptors => f.write_str(
                "no descriptor is left for a ring (EMFILE): raise RLIMIT_NOFILE (`ulimit -n`, LimitNOFILE=) or use fewer workers",
            ),
            Self::Missing { feature, errno } => write!(
                f,
                "this kernel's io_uring lacks {feature} ({}): Linux 6.1 or newer is needed",
                std::io::Error::from_raw_os_error(*errno)
            ),
            Self::Enter { errno } => write!(f, "io_uring_enter failed: {}", std::io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl std::error::Error for RingError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_names_its_remedy() {
        for (error, remedy) in [
            (RingError::Disabled { level: 1 }, "kernel.io_uring_group"),
            (RingError::Disabled { level: 2 }, "sysctl kernel.io_uring_disabled=0"),
            (RingError::Seccomp, "tuning/seccomp.json"),
            (RingError::OldKernel, "6.1"),
            (RingError::Memlock, "LimitMEMLOCK=infinity"),
            (RingError::Descriptors, "LimitNOFILE="),
            (RingError::Missing { feature: "provided buffers", errno: libc::EINVAL }, "6.1"),
        ] {
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }

    #[test]
    fn queues_shrink_to_a_share_but_not_to_nothing() {
        let sizes = |locked_bytes_max| Queues::fitting(&Options { buffers: 512, locked_bytes_max, ..Options::default() });
        assert_eq!(sizes(None), Queues { sq: 4096, cq: 65_536 });
        assert_eq!(sizes(Some(8 << 20)), Queues { sq: 4096, cq: 65_536 });
        assert_eq!(sizes(Some((8 << 20) / 51)), Queues { sq: 1024, cq: 4096 });
        assert_eq!(sizes(Some(0)), Queues { sq: SQ_ENTRIES_MIN, cq: CQ_ENTRIES_MIN });
    }

    #[test]
    fn what_is_missing_is_said() {
        let features = Features {
            setup: SetupFlags::SUBMIT_ALL | SetupFlags::COOP_TASKRUN,
            missing: SetupFlags::NO_SQARRAY,
            registered_ring: true,
            peer_name: false,
            sq_entries: 8,
            cq_entries: 4096,
            shrunk: true,
            files: 10,
            buffers: 4,
        };
        let text = features.to_string();
        for part in ["with COOP_TASKRUN SUBMIT_ALL", "without NO_SQARRAY", "without SO_PEERNAME", "LimitMEMLOCK"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
