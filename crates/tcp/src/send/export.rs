//! The sending half as plain data.

use super::{Fin, Sender, Supply};
use crate::codec::{ImportError, Reader, Writer, require};
use crate::ring::Ring;

impl Sender {
    pub(crate) fn export(&self, out: &mut Writer) {
        for seq in [self.una, self.nxt, self.wl1, self.wl2] {
            out.seq(seq);
        }
        for bytes in [self.window, self.max_window, self.limit] {
            out.u32(bytes);
        }
        out.u8(self.shift);
        out.u8(match self.fin {
            Fin::NotAsked => 0,
            Fin::Queued => 1,
            Fin::Acknowledged => 2,
        });
        out.flag(self.wants_room());
        out.block(self.queued as usize, |space| self.ring.copy_at(0, space));
    }

    /// `limit_max` bounds what is taken.
    pub(crate) fn import(input: &mut Reader<'_>, limit_max: usize) -> Result<Self, ImportError> {
        let (una, nxt) = (input.seq()?, input.seq()?);
        let (wl1, wl2) = (input.seq()?, input.seq()?);
        let (window, max_window) = (input.u32()?, input.u32()?);
        let limit_max = limit_max.clamp(1, 1 << 29) as u32;
        let limit = input.u32()?.clamp(1, limit_max);
        let shift = input.u8()?;
        let fin = match input.u8()? {
            0 => Fin::NotAsked,
            1 => Fin::Queued,
            2 => Fin::Acknowledged,
            _ => return Err(ImportError::Contradiction("the state of our FIN")),
        };
        let wants_room = input.flag()?;
        let bytes = input.block()?;
        require(shift <= 14, "the scale of the peer's window")?;
        require(
            window <= max_window && max_window <= 0xffff << 14,
            "the peer's window",
        )?;
        if bytes.len() > limit_max as usize {
            return Err(ImportError::TooLarge("bytes that wait to be acknowledged"));
        }
        let queued = bytes.len() as u32;
        let sent = nxt.since(una);
        let most = queued + u32::from(fin == Fin::Queued);
        require(
            sent >= 0 && sent as u32 <= most,
            "more was sent than there is",
        )?;
        require(
            fin != Fin::Acknowledged || queued == 0,
            "data behind an acknowledged FIN",
        )?;
        let mut ring = Ring::default();
        if queued > 0 {
            ring.write_at(0, bytes);
        }
        Ok(Self {
            ring,
            una,
            nxt,
            queued,
            limit,
            limit_max,
            is_pressed: false,
            window,
            max_window,
            wl1,
            wl2,
            shift,
            fin,
            supply: if wants_room {
                Supply::WaitsForRoom
            } else {
                Supply::Done
            },
        })
    }

    /// Whether our FIN is asked for, and whether it is acknowledged.
    pub(crate) fn fin_facts(&self) -> (bool, bool) {
        (self.fin != Fin::NotAsked, self.fin == Fin::Acknowledged)
    }

    pub(crate) fn wants_room(&self) -> bool {
        self.supply == Supply::WaitsForRoom
    }
}
