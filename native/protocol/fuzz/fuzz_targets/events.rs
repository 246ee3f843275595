#![no_main]

mod oracle;

use protocol::Event;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some((bytes, piece)) = oracle::stream(input) {
        oracle::check::<Event>(&bytes, &[piece], Event::fd_count);
    }
});
