//! How many resources exist, so that tests can see that none is left behind.

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) static PIPES: Count = Count(AtomicU64::new(0));
pub(crate) static CONTROLS: Count = Count(AtomicU64::new(0));

pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
