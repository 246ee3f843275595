//! Frames to bytes and back. A [`Decoder`] takes bytes in pieces of any size.

use std::marker::PhantomData;

/// The largest frame (length field included) that is sent or accepted. The kernel refuses argument
/// lists and environments over 6 MiB (execve(2), "Limits on size of arguments and environment"), so a
/// legal `Spawn` is always smaller.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

const LENGTH_BYTES: usize = 4;

/// Why bytes are not a frame. The stream is unusable afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The length field is zero or over [`MAX_FRAME`].
    Length(u32),
    /// No message has this tag.
    Tag(u8),
    /// The payload ends too early, goes on too long, or holds an impossible value.
    Payload(u8),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Length(length) => write!(f, "impossible frame length {length}"),
            Error::Tag(tag) => write!(f, "unknown frame tag {tag}"),
            Error::Payload(tag) => write!(f, "malformed payload of a frame with tag {tag}"),
        }
    }
}

impl std::error::Error for Error {}

/// A message of one direction of the control socket.
pub trait Message: Sized {
    /// The tag that starts the frame.
    fn tag(&self) -> u8;
    /// Appends the payload.
    fn write(&self, out: &mut Writer);
    /// Reads the payload; `None` when it is malformed, `Some(None)` when the tag is unknown.
    fn read(tag: u8, payload: &mut Reader<'_>) -> Option<Option<Self>>;

    /// The whole frame.
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer(vec![0; LENGTH_BYTES]);
        writer.u8(self.tag());
        self.write(&mut writer);
        let mut bytes = writer.0;
        let length = u32::try_from(bytes.len() - LENGTH_BYTES).unwrap_or(u32::MAX);
        bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        bytes
    }
}

/// Turns received bytes into messages.
#[derive(Debug)]
pub struct Decoder<M> {
    /// Bytes received and not yet consumed; `start` is the first of them.
    buffer: Vec<u8>,
    start: usize,
    /// The first error, given again ever after: what follows a broken frame means nothing.
    broken: Option<Error>,
    message: PhantomData<fn() -> M>,
}

impl<M> Default for Decoder<M> {
    fn default() -> Self {
        Decoder { buffer: Vec::new(), start: 0, broken: None, message: PhantomData }
    }
}

impl<M: Message> Decoder<M> {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a part of a frame has come and the rest of it is awaited. Only after `next_message` gave `None`.
    #[must_use]
    pub fn is_in_a_frame(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// The next whole message, `None` when more bytes are needed.
    pub fn next_message(&mut self) -> Result<Option<M>, Error> {
        match self.broken {
            Some(error) => Err(error),
            None => self.decode().inspect_err(|error| self.broken = Some(*error)),
        }
    }

    fn decode(&mut self) -> Result<Option<M>, Error> {
        let bytes = &self.buffer[self.start..];
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length);
        let body = length as usize;
        if body == 0 || body > MAX_FRAME - LENGTH_BYTES {
            return Err(Error::Length(length));
        }
        let Some(frame) = rest.get(..body) else {
            return Ok(None);
        };
        let tag = frame[0];
        let mut reader = Reader(&frame[1..]);
        let message = M::read(tag, &mut reader).ok_or(Error::Payload(tag))?.ok_or(Error::Tag(tag))?;
        if !reader.0.is_empty() {
            return Err(Error::Payload(tag));
        }
        self.start += LENGTH_BYTES + body;
        if self.start == self.buffer.len() {
            // A request of megabytes must not cost its memory for as long as the command runs.
            self.buffer = Vec::new();
            self.start = 0;
        }
        Ok(Some(message))
    }
}

/// Builds a payload.
#[derive(Debug)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A length and that many bytes. What does not fit a frame is found by the length of the frame.
    pub fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
    }

    pub fn list<T>(&mut self, values: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.u32(u32::try_from(values.len()).unwrap_or(u32::MAX));
        for value in values {
            each(self, value);
        }
    }

    pub fn option<T>(&mut self, value: Option<&T>, each: impl FnOnce(&mut Self, &T)) {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                each(self, value);
            }
        }
    }
}

/// Takes a payload apart; every method is `None` when the payload has no such value at this place.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    /// Bytes that become a C string: a NUL in them is malformed.
    pub fn c_bytes(&mut self) -> Option<&'a [u8]> {
        self.bytes().filter(|bytes| !bytes.contains(&0))
    }

    pub fn list<T>(&mut self, mut each: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()? as usize;
        // Every element takes at least one byte: a count beyond that is malformed, and must not
        // make us allocate for it.
        if count > self.0.len() {
            return None;
        }
        (0..count).map(|_| each(self)).collect()
    }

    pub fn option<T>(&mut self, each: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.u8()? {
            0 => Some(None),
            1 => each(self).map(Some),
            _ => None,
        }
    }
}
