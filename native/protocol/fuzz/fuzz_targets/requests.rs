#![no_main]

mod oracle;

use protocol::Request;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some((bytes, piece)) = oracle::stream(input) {
        oracle::check::<Request>(&bytes, &[piece], |request| match request {
            Request::Spawn(spawn) => spawn.fd_count(),
            Request::Signal(_) | Request::Stop => 0,
        });
    }
});
