//! What exchanges leave behind: kept until the answers of a shard's turn have left.
//!
//! A record is written when its exchange has ended, and the client waits for its answer at that moment.
//! So a shard lets go of what exchanges held once it has sent what it had to send: of all that ended in
//! a turn together, and kind by kind, because code that runs several times in a row is in the
//! processor's cache, and code that runs once for each exchange is not.

use core::any::Any;
use core::cell::RefCell;
use core::fmt;
use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

/// Exchanges that one turn may leave behind; what more of them held is let go of at once.
const MOST: usize = 256;

thread_local! {
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

struct Kept {
    /// The values of each exchange, in the order in which it got them.
    exchanges: Vec<Vec<Box<dyn Any>>>,
    call: Box<dyn Fn()>,
}

/// Takes what an exchange held: to be dropped now, or where the thread has [`Leftovers`], later.
pub(crate) fn leave(values: Vec<Box<dyn Any>>) {
    if values.is_empty() {
        return;
    }
    // Whatever is dropped may leave something behind itself, so nothing is borrowed meanwhile.
    let refused = KEPT.try_with(|kept| {
        let Ok(mut kept) = kept.try_borrow_mut() else {
            return Some(values);
        };
        match &mut *kept {
            Some(kept) if kept.exchanges.len() < MOST => {
                kept.exchanges.push(values);
                if kept.exchanges.len() == 1 {
                    (kept.call)();
                }
                None
            }
            _ => Some(values),
        }
    });
    drop(refused);
}

/// Makes the exchanges of its thread leave what they hold until [`Leftovers::let_go`]. For shards.
pub struct Leftovers {
    /// It is of one thread.
    _thread: core::marker::PhantomData<*const ()>,
}

impl fmt::Debug for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leftovers").finish_non_exhaustive()
    }
}

impl Leftovers {
    /// From now on. `call` is called when the first exchange has left something.
    #[must_use]
    pub fn keep(call: impl Fn() + 'static) -> Self {
        let kept = Kept {
            exchanges: Vec::new(),
            call: Box::new(call),
        };
        KEPT.set(Some(kept));
        Self {
            _thread: core::marker::PhantomData,
        }
    }

    /// Drops what has been left, kind by kind. Returns how many values panicked when they were dropped;
    /// the others are dropped all the same.
    #[must_use]
    pub fn let_go(&self) -> usize {
        let mut exchanges = KEPT.with_borrow_mut(|kept| match kept {
            Some(kept) => core::mem::take(&mut kept.exchanges),
            None => Vec::new(),
        });
        let mut panicked = 0;
        loop {
            let mut is_done = true;
            for value in exchanges.iter_mut().filter_map(Vec::pop) {
                is_done = false;
                panicked += usize::from(catch_unwind(AssertUnwindSafe(|| drop(value))).is_err());
            }
            if is_done {
                break;
            }
        }
        // The list itself is used again.
        exchanges.clear();
        KEPT.with_borrow_mut(|kept| {
            if let Some(kept) = kept
                && kept.exchanges.is_empty()
            {
                kept.exchanges = exchanges;
            }
        });
        panicked
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let _ = self.let_go();
        // What comes from now on is dropped at once; what came meanwhile, with the list.
        drop(KEPT.take());
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::Extensions;

    /// Says that it is dropped.
    struct Tells(Rc<RefCell<Vec<String>>>, String);

    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.borrow_mut().push(core::mem::take(&mut self.1));
        }
    }

    struct Panics;

    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }

    fn exchange(told: &Rc<RefCell<Vec<String>>>, name: &str) {
        let mut extensions = Extensions::default();
        extensions.insert(Tells(Rc::clone(told), format!("{name} first")));
        extensions.insert((Tells(Rc::clone(told), format!("{name} second")), 1));
    }

    #[test]
    fn what_exchanges_left_goes_kind_by_kind_and_nothing_is_kept_without_a_shard() {
        let told = Rc::default();
        exchange(&told, "a");
        assert_eq!(told.take(), ["a first", "a second"]);

        let calls = Rc::new(Cell::new(0));
        let called = Rc::clone(&calls);
        let leftovers = Leftovers::keep(move || called.set(called.get() + 1));
        for name in ["b", "c"] {
            exchange(&told, name);
        }
        assert!(told.borrow().is_empty());
        assert_eq!(calls.get(), 1);
        assert_eq!(leftovers.let_go(), 0);
        assert_eq!(told.take(), ["b second", "c second", "b first", "c first"]);
        exchange(&told, "d");
        assert_eq!(calls.get(), 2);
        drop(leftovers);
        assert_eq!(told.take(), ["d second", "d first"]);
        exchange(&told, "e");
        assert_eq!(told.take(), ["e first", "e second"]);
    }

    #[test]
    fn no_more_is_kept_than_the_limit_and_a_panic_spares_the_others() {
        let told = Rc::default();
        let leftovers = Leftovers::keep(|| {});
        Extensions::default().insert(());
        let mut extensions = Extensions::default();
        extensions.insert(Panics);
        drop(extensions);
        for number in 0..MOST {
            exchange(&told, &number.to_string());
        }
        assert_eq!(told.take().len(), 4, "those over the limit went at once");
        assert_eq!(leftovers.let_go(), 1);
        assert_eq!(told.take().len(), MOST * 2 - 4);
    }
}
