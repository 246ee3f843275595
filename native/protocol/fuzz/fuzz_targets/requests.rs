#![no_main]

mod oracle;

use protocol::Request;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some((bytes, piece)) = oracle::stream(input) {
        oracle::check::<Request>(&bytes, &[piece], Request::fd_count);
    }
});
