//! Streams of valid frames, damaged in the ways in which a peer that is broken or hostile would: what comes out
//! of both decoders is what is still there, an error, or the wait for more.

#[allow(dead_code, reason = "not all of them are used here")]
mod messages;
#[path = "../fuzz/fuzz_targets/oracle.rs"]
mod oracle;

use messages::{event, request};
use oracle::check;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use protocol::{Error, Event, Message, Request};

#[derive(Debug, Clone)]
enum Damage {
    /// Of whole frames: what is left is valid.
    Repeat(Index),
    Swap(Index, Index),
    Drop(Index),
    /// Of bytes.
    FlipBit(Index, u8),
    Length(Index, u32),
    LengthBy(Index, i32),
    CutOff(Index),
    TakeOut(Index, Index),
    PutIn(Index, Vec<u8>),
}

fn of_frames() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<Index>().prop_map(Damage::Repeat),
        any::<(Index, Index)>().prop_map(|(one, other)| Damage::Swap(one, other)),
        any::<Index>().prop_map(Damage::Drop),
    ]
}

fn of_bytes() -> impl Strategy<Value = Damage> {
    let length = prop_oneof![0..=64_u32, any::<u32>(), (16 * 1024 * 1024 - 8..16 * 1024 * 1024 + 8_u32)];
    prop_oneof![
        (any::<Index>(), 0..8_u8).prop_map(|(place, bit)| Damage::FlipBit(place, bit)),
        (any::<Index>(), length).prop_map(|(frame, length)| Damage::Length(frame, length)),
        (any::<Index>(), -8..=8_i32).prop_map(|(frame, by)| Damage::LengthBy(frame, by)),
        any::<Index>().prop_map(Damage::CutOff),
        any::<(Index, Index)>().prop_map(|(from, to)| Damage::TakeOut(from, to)),
        (any::<Index>(), vec(any::<u8>(), 1..20)).prop_map(|(place, bytes)| Damage::PutIn(place, bytes)),
    ]
}

/// The frames after some damage to whole frames.
fn rearrange<M: Clone>(messages: &[M], damages: &[Damage]) -> Vec<M> {
    let mut messages = messages.to_vec();
    for damage in damages {
        match damage {
            _ if messages.is_empty() => {}
            Damage::Repeat(at) => {
                let at = at.index(messages.len());
                messages.insert(at, messages[at].clone());
            }
            Damage::Swap(one, other) => {
                let length = messages.len();
                messages.swap(one.index(length), other.index(length));
            }
            Damage::Drop(at) => drop(messages.remove(at.index(messages.len()))),
            _ => {}
        }
    }
    messages
}

/// The stream after damage to bytes, and how many frames at its start are as they were.
fn damage(frames: &[Vec<u8>], damages: &[Damage]) -> (Vec<u8>, usize) {
    let starts: Vec<usize> =
        frames.iter().scan(0, |end, frame| Some(std::mem::replace(end, *end + frame.len()))).collect();
    let mut bytes = frames.concat();
    let mut untouched = bytes.len();
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let start_of = |frame: &Index| starts[frame.index(starts.len())];
        let first = match damage {
            Damage::FlipBit(place, bit) => {
                let place = place.index(bytes.len());
                bytes[place] ^= 1 << bit;
                place
            }
            Damage::Length(frame, length) => put_length(&mut bytes, start_of(frame), |_| *length),
            Damage::LengthBy(frame, by) => {
                put_length(&mut bytes, start_of(frame), |is| is.wrapping_add_signed(*by))
            }
            Damage::CutOff(place) => {
                let place = place.index(bytes.len());
                bytes.truncate(place);
                place
            }
            Damage::TakeOut(from, to) => {
                let (one, other) = (from.index(bytes.len()), to.index(bytes.len()));
                bytes.drain(one.min(other)..one.max(other));
                one.min(other)
            }
            Damage::PutIn(place, these) => {
                let place = place.index(bytes.len());
                bytes.splice(place..place, these.iter().copied());
                place
            }
            Damage::Repeat(_) | Damage::Swap(..) | Damage::Drop(_) => bytes.len(),
        };
        untouched = untouched.min(first);
    }
    let whole = frames.iter().zip(&starts).filter(|(frame, start)| *start + frame.len() <= untouched).count();
    (bytes, whole)
}

/// In place of four bytes at `start`, if they are still there.
fn put_length(bytes: &mut [u8], start: usize, new: impl Fn(u32) -> u32) -> usize {
    if let Some(field) = bytes.get_mut(start..start + 4) {
        let is = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
        field.copy_from_slice(&new(is).to_le_bytes());
    }
    start
}

fn encode<M: Message>(messages: &[M]) -> Vec<Vec<u8>> {
    messages.iter().map(Message::encode).collect()
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    vec(1..200_usize, 1..20)
}

/// A stream of one direction that is damaged; the other decoder must survive it as well.
fn survives<M: Message + Clone + PartialEq + std::fmt::Debug>(
    sent: &[M],
    frame_damage: &[Damage],
    byte_damage: &[Damage],
    sizes: &[usize],
    fd_count: impl Fn(&M) -> usize + Copy,
) -> Result<(), TestCaseError> {
    // The codec knows no order: that is for those who read what it gives.
    let sent = rearrange(sent, frame_damage);
    let frames = encode(&sent);
    prop_assert_eq!(check::<M>(&frames.concat(), sizes, fd_count), (sent.clone(), None));

    let (bytes, whole) = damage(&frames, byte_damage);
    let (came, error) = check::<M>(&bytes, sizes, fd_count);
    prop_assert!(came.len() >= whole, "{whole} frames were whole, {} came; {error:?}", came.len());
    prop_assert_eq!(&came[..whole], &sent[..whole]);

    check::<Request>(&bytes, sizes, Request::fd_count);
    check::<Event>(&bytes, sizes, Event::fd_count);
    Ok(())
}

proptest! {
    #[test]
    fn damaged_requests(
        sent in vec(request(), 1..6),
        frame_damage in vec(of_frames(), 0..4),
        byte_damage in vec(of_bytes(), 1..4),
        sizes in sizes(),
    ) {
        survives(&sent, &frame_damage, &byte_damage, &sizes, Request::fd_count)?;
    }

    #[test]
    fn damaged_events(
        sent in vec(event(), 1..10),
        frame_damage in vec(of_frames(), 0..4),
        byte_damage in vec(of_bytes(), 1..4),
        sizes in sizes(),
    ) {
        survives(&sent, &frame_damage, &byte_damage, &sizes, Event::fd_count)?;
    }

    /// Every single bit of a stream.
    #[test]
    fn one_bit(sent in vec(event(), 1..4), sizes in sizes()) {
        let bytes = encode(&sent).concat();
        for at in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            check::<Event>(&bytes, &sizes, Event::fd_count);
        }
    }

    /// Every tag with every payload: nothing but a tag that there is makes a message.
    #[test]
    fn tags_of_the_other_direction_are_unknown(request in request(), event in event(), sizes in sizes()) {
        let (requests, error) = check::<Request>(&event.encode(), &sizes, Request::fd_count);
        prop_assert_eq!((requests, error), (vec![], Some(Error::Tag(event.tag()))));
        let (events, error) = check::<Event>(&request.encode(), &sizes, Event::fd_count);
        prop_assert_eq!((events, error), (vec![], Some(Error::Tag(request.tag()))));
    }
}
