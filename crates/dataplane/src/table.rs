//! The flow table: an index by key over slots that never move.

use hashbrown::HashTable;

use crate::FlowId;
use crate::flow::Flow;
use crate::hash::{KeyedHash, Random};
use crate::key::PackedKey;

/// Slots per chunk. Chunks are allocated as the table grows, so that growing never copies flows.
const CHUNK: usize = 1024;

/// Flows by id and by key.
#[derive(Debug)]
pub(crate) struct FlowTable {
    index: HashTable<u32>,
    hash: KeyedHash,
    chunks: Vec<Vec<Option<Flow>>>,
    free: Vec<u32>,
    slots: u32,
    generation: u32,
    limit: usize,
}

impl FlowTable {
    pub(crate) fn new(limit: usize, hash: KeyedHash) -> Self {
        Self {
            index: HashTable::new(),
            hash,
            chunks: Vec::new(),
            free: Vec::new(),
            slots: 0,
            generation: 0,
            limit: limit.min(u32::MAX as usize - 1),
        }
    }

    /// Flows in the table.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no flow can be added.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// The slot of a key.
    pub(crate) fn find(&self, key: &PackedKey) -> Option<u32> {
        self.index
            .find(self.hash.hash(&key.words()), |index| {
                self.at(*index)
                    .is_some_and(|flow| flow.key.packed() == *key)
            })
            .copied()
    }

    /// The generation that the next flow gets.
    pub(crate) fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// Adds a flow whose key is not in the table.
    pub(crate) fn insert(&mut self, flow: Flow) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = self.slots;
            self.slots += 1;
            if index as usize / CHUNK == self.chunks.len() {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.resize_with(CHUNK, || None);
                self.chunks.push(chunk);
            }
            index
        });
        let hash = self.hash.hash(&flow.key.packed().words());
        if let Some(slot) = slot_mut(&mut self.chunks, index) {
            *slot = Some(flow);
        }
        let (keyed, chunks) = (self.hash, &self.chunks);
        self.index.insert_unique(hash, index, |index| {
            slot(chunks, *index)
                .and_then(Option::as_ref)
                .map_or(0, |flow| keyed.hash(&flow.key.packed().words()))
        });
        index
    }

    /// Removes a flow.
    pub(crate) fn remove(&mut self, index: u32) -> Option<Flow> {
        let flow = slot_mut(&mut self.chunks, index)?.take()?;
        let hash = self.hash.hash(&flow.key.packed().words());
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == index) {
            entry.remove();
        }
        self.free.push(index);
        Some(flow)
    }

    /// The flow in a slot.
    pub(crate) fn at(&self, index: u32) -> Option<&Flow> {
        slot(&self.chunks, index)?.as_ref()
    }

    /// The flow in a slot, to change.
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut Flow> {
        slot_mut(&mut self.chunks, index)?.as_mut()
    }

    /// The flow with an id, unless another one has its slot.
    pub(crate) fn get(&self, id: FlowId) -> Option<&Flow> {
        self.at(id.index)
            .filter(|flow| flow.generation == id.generation)
    }

    /// The same, to change.
    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.at_mut(id.index)
            .filter(|flow| flow.generation == id.generation)
    }

    /// The most expendable of some flows picked at random: an approximation of least recently used
    /// that costs the same at any table size. `None` if none of them may go.
    pub(crate) fn expendable(&self, random: &mut Random) -> Option<u32> {
        const SAMPLES: usize = 16;
        (0..SAMPLES)
            .filter_map(|_| {
                let index = u32::try_from(random.below(self.slots as usize)).ok()?;
                let flow = self.at(index)?;
                Some((flow.expendability()?, flow.last_seen, index))
            })
            .min()
            .map(|(_, _, index)| index)
    }

    /// Every occupied slot. For draining only: it walks the whole table.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.slots).filter(|index| self.at(*index).is_some())
    }
}

fn slot(chunks: &[Vec<Option<Flow>>], index: u32) -> Option<&Option<Flow>> {
    chunks
        .get(index as usize / CHUNK)?
        .get(index as usize % CHUNK)
}

fn slot_mut(chunks: &mut [Vec<Option<Flow>>], index: u32) -> Option<&mut Option<Flow>> {
    chunks
        .get_mut(index as usize / CHUNK)?
        .get_mut(index as usize % CHUNK)
}
