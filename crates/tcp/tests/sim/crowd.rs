//! Several hosts at one end of the link.

use super::app::App;
use super::{Host, IP_HEADER, textbook};

/// Two hosts; packets find theirs by `belongs_to_second`.
pub(crate) struct Crowd<'a> {
    pub(crate) hosts: [&'a mut dyn Host; 2],
    pub(crate) belongs_to_second: fn(&[u8]) -> bool,
}

/// The packet is one of the textbook's.
pub(crate) fn of_textbook(packet: &[u8]) -> bool {
    textbook::is_textbook(packet)
}

/// The packet's ports are the second pair's.
pub(crate) fn of_second_port(packet: &[u8]) -> bool {
    packet[IP_HEADER..IP_HEADER + 2] == super::SECOND_PORT.to_be_bytes()
}

impl Host for Crowd<'_> {
    fn receive(&mut self, packet: &[u8], now: u64) {
        let index = usize::from((self.belongs_to_second)(packet));
        self.hosts[index].receive(packet, now);
    }

    fn turn(&mut self, now: u64, out: &mut Vec<Vec<u8>>) {
        for host in &mut self.hosts {
            host.turn(now, out);
        }
    }

    fn wake_at(&mut self, now: u64) -> Option<u64> {
        let wakes = self.hosts.iter_mut().filter_map(|host| host.wake_at(now));
        wakes.min()
    }

    fn is_closed(&self) -> bool {
        self.hosts.iter().all(|host| host.is_closed())
    }

    fn app(&self) -> &App {
        self.hosts[0].app()
    }

    fn describe(&self) -> String {
        format!("{}\n{}", self.hosts[0].describe(), self.hosts[1].describe())
    }
}
