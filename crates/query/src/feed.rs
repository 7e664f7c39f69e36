//! Rows on their way from the thread that reads files to SQLite.

use core::fmt;
use core::ops::ControlFlow;
use std::collections::BTreeSet;
use std::panic;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;

use archive::reading::{self, Batch, Tables, Told, Wanted};

/// Batches that wait; each has a thousand rows or so.
const WAITING: usize = 4;
/// Names of files that are remembered, so that each is told of once.
const REMEMBERED: usize = 100_000;
/// Schemas of files may be nested, and are read by functions that call themselves.
const STACK: usize = 8 << 20;
const THREAD: &str = "tables";

/// Whoever wants to know how it goes.
pub trait Watch: Send + Sync {
    /// A file was left out, or its rows from some on.
    fn skipped(&self, file: &str, why: &str);
    /// A file of so many bytes is done.
    fn done(&self, bytes: u64);
}

/// What all scans of a statement have in common.
pub(crate) struct Shared {
    tables: Tables,
    is_strict: bool,
    watch: Box<dyn Watch>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What ended the statement. SQLite knows errors by their text only.
    fault: Option<String>,
    skipped: BTreeSet<String>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(tables: Tables, is_strict: bool, watch: Box<dyn Watch>) -> Self {
        Self {
            tables,
            is_strict,
            watch,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What ended the statement, if it was the place.
    pub(crate) fn take_fault(&self) -> Option<String> {
        self.state().fault.take()
    }

    /// How many files were left out.
    pub(crate) fn skipped(&self) -> usize {
        self.state().skipped.len()
    }

    fn fail(&self, fault: String) {
        self.state().fault.get_or_insert(fault);
    }

    /// Whether to go on without this file.
    fn skip(&self, file: String, why: &str) -> ControlFlow<()> {
        if self.is_strict {
            self.fail(format!("{file}: {why}"));
            return ControlFlow::Break(());
        }
        let mut state = self.state();
        let is_new = state.skipped.len() < REMEMBERED && state.skipped.insert(file.clone());
        drop(state);
        if is_new {
            self.watch.skipped(&file, why);
        }
        ControlFlow::Continue(())
    }
}

/// One scan. Reading ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Feed {
    batches: Receiver<Batch>,
    shared: Arc<Shared>,
}

impl Feed {
    /// Begins to read.
    pub(crate) fn new(shared: &Arc<Shared>, wanted: Wanted) -> Result<Self, String> {
        be_silent();
        let (sender, batches) = sync_channel(WAITING);
        let reader = Arc::clone(shared);
        thread::Builder::new()
            .name(THREAD.to_owned())
            .stack_size(STACK)
            .spawn(move || read(&reader, &wanted, &sender))
            .map_err(|error| format!("there is no thread to read with: {error}"))?;
        Ok(Self {
            batches,
            shared: Arc::clone(shared),
        })
    }

    /// The next rows; `None` at the end.
    ///
    /// # Errors
    /// When not all could be read.
    pub(crate) fn next(&self) -> Result<Option<Batch>, String> {
        match self.batches.recv() {
            Ok(batch) => Ok(Some(batch)),
            Err(_) => match &self.shared.state().fault {
                Some(fault) => Err(fault.clone()),
                None => Ok(None),
            },
        }
    }
}

fn read(shared: &Shared, wanted: &Wanted, sender: &SyncSender<Batch>) {
    let mut tell = |told| match told {
        Told::Rows(batch) => match sender.send(batch) {
            Ok(()) => ControlFlow::Continue(()),
            // Nobody wants more.
            Err(_) => ControlFlow::Break(()),
        },
        Told::Skipped { file, why } => shared.skip(file, &why),
        Told::Done { bytes } => {
            shared.watch.done(bytes);
            ControlFlow::Continue(())
        }
    };
    // Whatever panics here is a part of the answer that is missing.
    let read = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        shared.tables.read(wanted, &mut tell)
    }));
    match read {
        Ok(Ok(())) => {}
        Ok(Err(reading::Fault::Away(fault) | reading::Fault::Bad(fault))) => shared.fail(fault),
        Err(_) => shared.fail("reading ended by a fault of flowdog itself".to_owned()),
    }
}

/// Panics of the reading thread are told as faults of files; where in the code they were helps nobody.
fn be_silent() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if thread::current().name() != Some(THREAD) {
                others(panic);
            }
        }));
    });
}
