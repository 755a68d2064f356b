//! Which server of an upstream takes the next request.

/// One server of an upstream, by its place in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServerId(pub u16);

/// One after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    /// The server whose turn it is; `None` where there is none.
    pub fn choose(&mut self, servers: usize) -> Option<usize> {
        let chosen = self.next.checked_rem(servers)?;
        self.next = chosen + 1;
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_its_turn() {
        let mut balance = RoundRobin::default();
        let chosen: Vec<_> = (0..5).map(|_| balance.choose(3)).collect();
        assert_eq!(chosen, [Some(0), Some(1), Some(2), Some(0), Some(1)]);
        assert_eq!(balance.choose(0), None);
        assert_eq!(balance.choose(1), Some(0));
    }
}
