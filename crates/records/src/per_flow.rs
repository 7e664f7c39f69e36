//! What is made of a flow once, for all its exchanges.

use std::sync::Arc;

use sdk::FlowInfo;

/// Flows of which something is kept. Those of one thread whose exchanges come in turns, as a rule; with
/// more of them it is made again.
const KEPT: usize = 64;

/// Something that depends on a flow alone, for the flows a thread met last. What it keeps of a flow that has
/// ended goes when another one needs its place.
#[derive(Debug)]
pub struct PerFlow<T>([Option<(Arc<FlowInfo>, T)>; KEPT]);

impl<T> PerFlow<T> {
    /// Nothing is kept yet.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { None }; KEPT])
    }

    /// What `make` makes of the flow, or made when it was here last.
    pub fn of(&mut self, flow: &Arc<FlowInfo>, make: impl FnOnce(&FlowInfo) -> T) -> Option<&T> {
        let slot = self.0.get_mut(flow.id.index as usize % KEPT)?;
        // Only the same memory says the same: more may be known of a flow later on.
        if slot
            .as_ref()
            .is_none_or(|(kept, _)| !Arc::ptr_eq(kept, flow))
        {
            *slot = Some((Arc::clone(flow), make(flow)));
        }
        slot.as_ref().map(|(_, made)| made)
    }
}

impl<T> Default for PerFlow<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_flow_says_is_made_once_and_again_when_it_says_something_else() {
        let mut kept = PerFlow::new();
        let mut made = 0;
        let mut ask = |flow: &Arc<FlowInfo>| {
            let port = kept.of(flow, |flow| {
                made += 1;
                flow.server.port()
            });
            (port.copied(), made)
        };
        let mut flow = Arc::new(sdk::testing::flow());
        let port = flow.server.port();
        assert_eq!(ask(&flow), (Some(port), 1));
        assert_eq!(ask(&Arc::clone(&flow)), (Some(port), 1));
        Arc::make_mut(&mut flow).server.set_port(1);
        assert_eq!(ask(&flow), (Some(1), 2));
        // Of more flows than there is room for the last ones are kept.
        let mut others = Vec::new();
        for index in 0..3 * KEPT {
            let mut other = sdk::testing::flow();
            other.id.index = u32::try_from(index).unwrap();
            let other = Arc::new(other);
            assert_eq!(ask(&other).1, 3 + index);
            others.push(other);
        }
        let (forgotten, last) = (&others[0], &others[3 * KEPT - 1]);
        assert_eq!(ask(last).1, 2 + 3 * KEPT);
        assert_eq!(ask(forgotten).1, 3 + 3 * KEPT);
    }
}
