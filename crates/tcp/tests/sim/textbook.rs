//! A sender that moves its window as the book says and knows without delay what was lost: a
//! yardstick for how much a controller takes, free of everything else that a stack does.
//!
//! Its packets have the size of full segments and carry only a number; its receiver answers each
//! with that number.

use super::app::App;
use super::{Host, IP_HEADER};

/// How the window moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Law {
    /// RFC 5681: one segment a round, half at a loss.
    Reno,
    /// RFC 9438 without fast convergence: the cubic, or Reno's estimate where that is larger.
    Cubic,
}

const BETA: f64 = 0.7;
const C: f64 = 0.4;
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// Later packets answered before one counts as lost.
const REORDERING: u64 = 3;
const TIMEOUT: u64 = 200_000;
/// Marks the packets: a version that IP does not have.
const MARK: u8 = 0xf0;

pub(crate) fn is_textbook(packet: &[u8]) -> bool {
    packet.first().is_some_and(|byte| byte & 0xf0 == MARK)
}

#[derive(Debug)]
pub(crate) struct Textbook {
    law: Law,
    is_sender: bool,
    size: usize,
    app: App,
    /// In segments.
    window: f64,
    threshold: f64,
    next: u64,
    /// What is in flight: number and when it left.
    flight: Vec<(u64, u64)>,
    recovery_until: u64,
    epoch: Option<u64>,
    w_max: f64,
    w_est: f64,
    prior: f64,
    srtt: f64,
    answers: Vec<u64>,
    starts_at: u64,
}

impl Textbook {
    /// `size` is that of its packets.
    pub(crate) fn new(law: Law, is_sender: bool, size: usize, starts_at: u64) -> Self {
        Self {
            law,
            is_sender,
            size,
            app: App::new(0, 0, 0),
            window: 10.0,
            threshold: f64::MAX,
            next: 0,
            flight: Vec::new(),
            recovery_until: 0,
            epoch: None,
            w_max: 0.0,
            w_est: 0.0,
            prior: 0.0,
            srtt: 0.0,
            answers: Vec::new(),
            starts_at,
        }
    }

    /// Bytes that a TCP would have delivered in the packets answered.
    pub(crate) fn delivered(&self) -> u64 {
        self.app.received
    }

    fn packet(&self, number: u64, size: usize) -> Vec<u8> {
        let mut packet = vec![0; size];
        packet[0] = MARK | u8::from(self.is_sender);
        packet[IP_HEADER..IP_HEADER + 8].copy_from_slice(&number.to_be_bytes());
        packet
    }

    fn answered(&mut self, number: u64, now: u64) {
        let Some(at) = self.flight.iter().position(|(sent, _)| *sent == number) else {
            return;
        };
        let (_, left) = self.flight.remove(at);
        let sample = (now - left) as f64;
        self.srtt = if self.srtt == 0.0 {
            sample
        } else {
            self.srtt * 0.875 + sample * 0.125
        };
        self.app.received += self.size as u64 - 52;
        let before = self.flight.len();
        self.flight.retain(|(sent, _)| sent + REORDERING > number);
        if self.flight.len() < before {
            if number >= self.recovery_until {
                self.reduce();
            }
        } else if number >= self.recovery_until {
            self.grow(now);
        }
    }

    fn reduce(&mut self) {
        let factor = if self.law == Law::Reno { 0.5 } else { BETA };
        self.w_max = self.window;
        self.prior = self.window;
        self.window = (self.window * factor).max(2.0);
        self.threshold = self.window;
        self.epoch = None;
        self.recovery_until = self.next;
    }

    fn grow(&mut self, now: u64) {
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        if self.law == Law::Reno {
            self.window += 1.0 / self.window;
            return;
        }
        let k = ((self.w_max - self.w_max * BETA) / C).cbrt();
        if self.epoch.is_none() {
            self.epoch = Some(now);
            self.w_est = self.window;
        }
        let t = ((now - self.epoch.unwrap_or(now)) as f64 + self.srtt) / 1e6;
        let curve = self.w_max + C * (t - k).powi(3);
        let alpha = if self.w_est >= self.prior { 1.0 } else { ALPHA };
        self.w_est += alpha / self.window;
        if curve < self.w_est {
            self.window = self.window.max(self.w_est);
        } else {
            let target = curve.clamp(self.window, self.window * 1.5);
            self.window += (target - self.window) / self.window;
        }
    }
}

impl Host for Textbook {
    fn receive(&mut self, packet: &[u8], now: u64) {
        let mut number = [0; 8];
        number.copy_from_slice(&packet[IP_HEADER..IP_HEADER + 8]);
        let number = u64::from_be_bytes(number);
        if self.is_sender {
            self.answered(number, now);
        } else {
            self.answers.push(number);
        }
    }

    fn turn(&mut self, now: u64, out: &mut Vec<Vec<u8>>) {
        for number in std::mem::take(&mut self.answers) {
            out.push(self.packet(number, 60));
        }
        if !self.is_sender || now < self.starts_at {
            return;
        }
        if self
            .flight
            .last()
            .is_some_and(|(_, at)| at + TIMEOUT <= now)
        {
            self.flight.clear();
            self.reduce();
            self.window = 1.0;
        }
        while (self.flight.len() as f64) < self.window.floor().max(1.0) {
            out.push(self.packet(self.next, self.size));
            self.flight.push((self.next, now));
            self.next += 1;
        }
    }

    fn wake_at(&mut self, now: u64) -> Option<u64> {
        if !self.is_sender {
            return None;
        }
        let timeout = self.flight.last().map(|(_, at)| at + TIMEOUT);
        Some(timeout.unwrap_or_else(|| self.starts_at.max(now + 1)))
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn app(&self) -> &App {
        &self.app
    }

    fn describe(&self) -> String {
        format!("{:?} window {}", self.law, self.window)
    }
}
