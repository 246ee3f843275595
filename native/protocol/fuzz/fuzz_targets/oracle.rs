//! What holds for any bytes, whoever has sent them. Used by the fuzz targets, `tests/codec.rs` and `tests/hostile.rs`.

use protocol::{Decoder, Error, Message};

/// More than any frame has: socket.rs has room for no more in one message.
const MAX_FDS: usize = 8;

/// Decodes `bytes` in pieces of these sizes, over and over, and checks what must be true of the outcome.
pub(crate) fn check<M: Message + PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    sizes: &[usize],
    fd_count: impl Fn(&M) -> usize,
) -> (Vec<M>, Option<Error>) {
    let (messages, error) = decode::<M>(bytes, sizes);
    let (whole, of_whole) = decode::<M>(bytes, &[bytes.len()]);
    assert_eq!((&messages, error), (&whole, of_whole), "{sizes:?}");
    // Every message has one encoding: what was taken for a frame is that frame, byte for byte.
    let mut rest = bytes;
    for message in &messages {
        let frame = message.encode();
        assert_eq!(rest.get(..frame.len()), Some(&frame[..]), "{message:?}");
        rest = &rest[frame.len()..];
        assert!(fd_count(message) <= MAX_FDS, "{message:?}");
    }
    (messages, error)
}

/// What comes out of bytes that arrive in pieces of these sizes, over and over, and how it ends.
pub(crate) fn decode<M: Message>(bytes: &[u8], sizes: &[usize]) -> (Vec<M>, Option<Error>) {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    let mut sizes = sizes.iter().copied().filter(|size| *size > 0).cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(sizes.next().unwrap_or(1)));
        rest = after;
        decoder.push(piece);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    // For ever the same, whatever follows.
                    decoder.push(&[1, 0, 0, 0, 3]);
                    assert_eq!(decoder.next_message().err(), Some(error));
                    return (messages, Some(error));
                }
            }
        }
    }
    (messages, None)
}

/// An input of the fuzzer: the size of the pieces, whether what follows is a stream as it stands, or payloads
/// (each behind its length in one byte) whose lengths are to be right, and what follows.
#[allow(dead_code, reason = "for the fuzz targets")]
pub(crate) fn stream(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let [piece, framed, data @ ..] = input else {
        return None;
    };
    let piece = usize::from(*piece) + 1;
    if framed % 2 == 0 {
        return Some((data.to_vec(), piece));
    }
    let mut bytes = Vec::new();
    let mut rest = data;
    while let [length, after @ ..] = rest {
        let (body, after) = after.split_at(after.len().min(usize::from(*length)));
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(body);
        rest = after;
    }
    Some((bytes, piece))
}
