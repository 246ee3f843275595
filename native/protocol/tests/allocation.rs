//! A peer cannot make us allocate for what it has not sent. The one test of its process: it counts.
#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use protocol::{Decoder, Event, MAX_FRAME, Message, Request};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's; only sizes are added up.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most memory that was in use beyond what was before.
fn peak(job: impl FnOnce()) -> usize {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    job();
    PEAK.load(Ordering::Relaxed) - before
}

fn decode<M: Message>(bytes: &[u8]) {
    let mut decoder = Decoder::<M>::default();
    decoder.push(bytes);
    while let Ok(Some(_)) = decoder.next_message() {}
}

fn memory_follows_what_was_sent_and_not_what_was_declared() {
    const SMALL: usize = 4096;
    let largest = u32::try_from(MAX_FRAME - 4).unwrap().to_le_bytes();
    let huge = u32::MAX.to_le_bytes();
    let frame = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], body].concat();
    let declared = [
        largest.to_vec(),
        // An executable, and a list of arguments, of four billion.
        frame(&[&[1][..], &huge].concat()),
        frame(&[&[1, 1, 0, 0, 0, b'a'][..], &huge, &[0; 64]].concat()),
        // Unkillable, four billion of them.
        frame(&[&[69][..], &huge, &[0; 64]].concat()),
    ];
    for bytes in declared {
        let requests = peak(|| decode::<Request>(&bytes));
        let events = peak(|| decode::<Event>(&bytes));
        assert!(requests < SMALL && events < SMALL, "{bytes:?}: {requests} {events}");
    }
}

fn a_large_frame_leaves_no_memory_behind() {
    let mut decoder = Decoder::<Event>::default();
    let bytes = Event::Unkillable(vec![1; 1_000_000]).encode();
    let before = NOW.load(Ordering::Relaxed);
    decoder.push(&bytes);
    drop(decoder.next_message());
    let after = NOW.load(Ordering::Relaxed);
    assert!(after < before + 4096, "{}", after - before);
}

#[test]
fn a_peer_costs_what_it_sends() {
    memory_follows_what_was_sent_and_not_what_was_declared();
    a_large_frame_leaves_no_memory_behind();
}
