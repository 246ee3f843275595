//! The codec, with everything that can be said, in pieces of every size, and with what cannot be said.

mod messages;
#[path = "../fuzz/fuzz_targets/oracle.rs"]
#[expect(dead_code, reason = "more of it is for tests/hostile.rs and the fuzz targets")]
mod oracle;

use messages::{event, request};
use oracle::decode;
use proptest::collection::vec;
use proptest::prelude::*;
use protocol::{Error, Event, MAX_FRAME, Message, Request};

fn encode<M: Message>(messages: &[M]) -> Vec<u8> {
    messages.iter().flat_map(Message::encode).collect()
}

/// A frame of these contents, with the right length.
fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    vec(1..80_usize, 1..20)
}

proptest! {
    #[test]
    fn requests_come_out_as_they_went_in(requests in vec(request(), 0..6), sizes in sizes()) {
        prop_assert_eq!(decode::<Request>(&encode(&requests), &sizes), (requests, None));
    }

    #[test]
    fn events_come_out_as_they_went_in(events in vec(event(), 0..12), sizes in sizes()) {
        prop_assert_eq!(decode::<Event>(&encode(&events), &sizes), (events, None));
    }

    #[test]
    fn pieces_make_no_difference(bytes in vec(any::<u8>(), 0..200), sizes in sizes()) {
        let whole = decode::<Request>(&bytes, &[bytes.len().max(1)]);
        prop_assert_eq!(decode::<Request>(&bytes, &sizes), whole);
    }

    #[test]
    fn what_is_cut_off_is_awaited(request in request(), cut in any::<prop::sample::Index>()) {
        let bytes = request.encode();
        let cut = cut.index(bytes.len());
        prop_assert_eq!(decode::<Request>(&bytes[..cut], &[7]), (vec![], None));
    }

    #[test]
    fn a_payload_that_is_too_short_or_too_long_is_an_error(
        request in request(),
        event in event(),
        cut in any::<prop::sample::Index>(),
    ) {
        for (bytes, is_error) in [
            (request.encode(), (|bytes| decode::<Request>(bytes, &[64]).1.is_some()) as fn(&[u8]) -> bool),
            (event.encode(), |bytes| decode::<Event>(bytes, &[64]).1.is_some()),
        ] {
            let body = &bytes[4..];
            prop_assert!(is_error(&frame(&body[..cut.index(body.len())])));
            prop_assert!(is_error(&frame(&[body, &[0]].concat())));
        }
    }

    /// Bytes in place of others: an error, or another message; never a panic.
    #[test]
    fn damage_does_no_harm(
        requests in vec(request(), 1..3),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        sizes in sizes(),
    ) {
        let mut bytes = encode(&requests);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        decode::<Request>(&bytes, &sizes);
        decode::<Event>(&bytes, &sizes);
    }

    #[test]
    fn nor_does_garbage(tag in any::<u8>(), payload in vec(any::<u8>(), 0..300), sizes in sizes()) {
        let bytes = frame(&[&[tag], &payload[..]].concat());
        decode::<Request>(&bytes, &sizes);
        decode::<Event>(&bytes, &sizes);
    }
}

fn error_of(bytes: &[u8]) -> Option<Error> {
    decode::<Request>(bytes, &[1024]).1
}

#[test]
fn impossible_lengths_and_tags_are_named() {
    let over = u32::try_from(MAX_FRAME).unwrap() - 3;
    assert_eq!(error_of(&[0, 0, 0, 0]), Some(Error::Length(0)));
    assert_eq!(error_of(&over.to_le_bytes()), Some(Error::Length(over)));
    assert_eq!(error_of(&(over - 1).to_le_bytes()), None);
    assert_eq!(error_of(&frame(&[200])), Some(Error::Tag(200)));
    assert_eq!(error_of(&frame(&[0])), Some(Error::Tag(0)));
}

#[test]
fn impossible_values_are_malformed() {
    const SIGNAL: u8 = 2;
    const STOP: u8 = 3;
    for signal in [0, -1, 65, i32::MAX, i32::MIN] {
        let body = [&[SIGNAL], &signal.to_le_bytes()[..]].concat();
        assert_eq!(error_of(&frame(&body)), Some(Error::Payload(SIGNAL)), "{signal}");
    }
    assert_eq!(error_of(&frame(&[STOP, 0])), Some(Error::Payload(STOP)));
}

#[test]
fn an_errno_is_a_number_from_1_to_4095() {
    const FAILED: u8 = 66;
    const SIGNALLED: u8 = 67;
    for errno in [0, -1, 4096, i32::MAX, i32::MIN] {
        for (tag, what) in [(FAILED, 2), (SIGNALLED, 2)] {
            let body = [&[tag, what], &errno.to_le_bytes()[..]].concat();
            let mut decoder = protocol::Decoder::<Event>::default();
            decoder.push(&frame(&body));
            assert_eq!(decoder.next_message().err(), Some(Error::Payload(tag)), "{tag} {errno}");
        }
    }
}

#[test]
fn a_nul_inside_a_c_string_is_malformed() {
    let good = messages::smallest_spawn();
    let nul = || b"a\0b".to_vec();
    let error = |change: &dyn Fn(&mut protocol::Spawn)| {
        let mut spawn = good.clone();
        change(&mut spawn);
        error_of(&Request::Spawn(Box::new(spawn)).encode())
    };
    assert_eq!(error(&|_| {}), None);
    let malformed = Some(Error::Payload(1));
    assert_eq!(error(&|spawn| spawn.executable = nul()), malformed);
    assert_eq!(error(&|spawn| spawn.executable = Vec::new()), malformed);
    assert_eq!(error(&|spawn| spawn.argv.push(nul())), malformed);
    assert_eq!(error(&|spawn| spawn.argv.clear()), malformed);
    assert_eq!(error(&|spawn| spawn.directory.path = Some(nul())), malformed);
    assert_eq!(error(&|spawn| spawn.stop_signals.clear()), malformed);
    assert_eq!(error(&|spawn| spawn.umask = 0o1000), malformed);
    assert_eq!(error(&|spawn| spawn.stdio[1] = protocol::Stdio::Stdout), malformed);
    assert_eq!(error(&|spawn| spawn.nice = Some(20)), malformed);
    assert_eq!(error(&|spawn| spawn.nice = Some(-21)), malformed);
    // setresuid(2) takes it for "unchanged".
    let nobody = Some(u32::MAX);
    let credentials = protocol::Credentials::default;
    let set = |spawn: &mut protocol::Spawn, change| spawn.credentials = Some(change);
    assert_eq!(error(&|spawn| set(spawn, protocol::Credentials { uid: nobody, ..credentials() })), malformed);
    assert_eq!(error(&|spawn| set(spawn, protocol::Credentials { gid: nobody, ..credentials() })), malformed);
    let groups = || Some(vec![0, u32::MAX]);
    assert_eq!(
        error(&|spawn| set(spawn, protocol::Credentials { groups: groups(), ..credentials() })),
        malformed
    );
}

#[test]
fn an_environment_ends_with_a_nul() {
    let mut spawn = messages::smallest_spawn();
    spawn.env = [b"EVA=1"].into_iter().collect();
    let mut frame = Request::Spawn(Box::new(spawn)).encode();
    assert_eq!(error_of(&frame), None);
    let last = frame.windows(6).position(|bytes| bytes == b"EVA=1\0").unwrap() + 5;
    frame[last] = b'2';
    assert_eq!(error_of(&frame), Some(Error::Payload(1)));
}

#[test]
fn a_cgroup_lies_below_its_root_and_has_a_leaf_of_ours() {
    let good = || protocol::Cgroup {
        root: b"/sys/fs/cgroup".to_vec(),
        parts: vec![b"job".to_vec(), b"1 2".to_vec()],
        leaf: b"nr-abcdefghijkl2345".to_vec(),
        limits: Vec::new(),
    };
    let error = |change: &dyn Fn(&mut protocol::Cgroup)| {
        let mut cgroup = good();
        change(&mut cgroup);
        let spawn = protocol::Spawn { cgroup: Some(cgroup.clone()), ..messages::smallest_spawn() };
        let of_spawn = error_of(&Request::Spawn(Box::new(spawn)).encode());
        let of_sweep = error_of(&Request::Sweep { cgroup: Box::new(cgroup), nonce: 0 }.encode());
        assert_eq!(of_spawn.is_some(), of_sweep.is_some());
        of_spawn
    };
    assert_eq!(error(&|_| {}), None);
    let malformed = Some(Error::Payload(1));
    for root in [&b""[..], b"sys", b"/a\0"] {
        assert_eq!(error(&|cgroup| cgroup.root = root.to_vec()), malformed, "{root:?}");
    }
    assert_eq!(error(&|cgroup| cgroup.parts.clear()), malformed);
    for part in [&b""[..], b".", b"..", b"a/b", b"a\nb", b"a\0", b"nr-abcdefghijkl2345"] {
        assert_eq!(error(&|cgroup| cgroup.parts.push(part.to_vec())), malformed, "{part:?}");
    }
    for leaf in [&b""[..], b"job", b"nr-", b"nr-../../../../../.", b"nr-abcdefghijkl2345\0"] {
        assert_eq!(error(&|cgroup| cgroup.leaf = leaf.to_vec()), malformed, "{leaf:?}");
    }
    let limit = |value: &[u8]| protocol::CgroupLimit {
        name: protocol::CgroupLimitName::MemoryMax,
        value: value.to_vec(),
    };
    assert_eq!(error(&|cgroup| cgroup.limits.push(limit(b"1"))), None);
    assert_eq!(error(&|cgroup| cgroup.limits.push(limit(b""))), malformed);
    assert_eq!(error(&|cgroup| cgroup.limits.push(limit(b"1\0"))), malformed);
}
