//! A peer cannot make us allocate for what it has not sent. The one test of its process: it counts.
#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

#[allow(dead_code, reason = "the smallest of them is enough here")]
mod messages;

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

/// 16 MiB are announced, and some of it comes, in pieces as a socket delivers them.
fn what_never_comes_costs_nothing() {
    for sent in [0, 1, 4096, 100_000, 1_000_000] {
        let mut decoder = Decoder::<Event>::default();
        let length = u32::try_from(MAX_FRAME - 4).unwrap();
        let peak = peak(|| {
            decoder.push(&length.to_le_bytes());
            for piece in vec![69; sent].chunks(4096) {
                decoder.push(piece);
                assert_eq!(decoder.next_message(), Ok(None));
            }
        });
        // What came, the buffer that doubles, and its copy while it does.
        assert!(peak <= 4 * sent + 4096, "{sent}: {peak}");
    }
}

/// Frames of many small values, damaged in their counts: at most what can be made of the bytes that came. An
/// empty string takes four bytes on the wire and a `Vec` in memory.
fn memory_of_damaged_frames_is_bounded_by_their_length() {
    const PER_BYTE: usize = 32;
    let many = |count: usize| {
        let mut spawn = messages::smallest_spawn();
        spawn.argv = vec![Vec::new(); count];
        spawn.env = vec![[]; count].into_iter().collect();
        [Request::Spawn(Box::new(spawn)).encode(), Event::Unkillable(vec![1; count]).encode()]
    };
    for bytes in [1, 100, 2_000].into_iter().flat_map(many) {
        for at in (0..bytes.len()).step_by(bytes.len() / 100 + 1) {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = byte;
                let most = PER_BYTE * bytes.len() + 4096;
                let requests = peak(|| decode::<Request>(&bytes));
                let events = peak(|| decode::<Event>(&bytes));
                assert!(requests < most && events < most, "{byte} at {at}: {requests} {events} {most}");
            }
        }
    }
}

#[test]
fn a_peer_costs_what_it_sends() {
    memory_follows_what_was_sent_and_not_what_was_declared();
    a_large_frame_leaves_no_memory_behind();
    what_never_comes_costs_nothing();
    memory_of_damaged_frames_is_bounded_by_their_length();
}
