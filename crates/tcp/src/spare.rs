//! Memory for a part that a connection needs only at times.

use core::ops::{Deref, DerefMut};

/// A part with a state in which it says nothing: that of a connection at rest.
pub(crate) trait Blank: Sized + 'static {
    /// The resting state.
    fn new() -> Self;
    /// The same, to be looked at.
    fn blank() -> &'static Self;
}

/// A part that is blank and takes no memory until it is written to.
///
/// Reading never allocates. Writing does, once, so writers that have nothing to say must not write;
/// from then on it stays until [`Spare::release`].
#[derive(Debug)]
pub(crate) struct Spare<T>(Option<Box<T>>);

impl<T> Spare<T> {
    pub(crate) const BLANK: Self = Self(None);

    /// Back to blank.
    pub(crate) fn release(&mut self) {
        self.0 = None;
    }

    /// Whether it takes memory.
    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }
}

impl<T: Blank> Deref for Spare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(part) => part,
            None => T::blank(),
        }
    }
}

impl<T: Blank> DerefMut for Spare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_with(|| Box::new(T::new()))
    }
}
