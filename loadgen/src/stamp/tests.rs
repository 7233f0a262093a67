use relaymesh::client::Message;
use relaymesh::limits::MESSAGE_BYTES_MAX;

use super::*;

fn encoded(payload: Vec<u8>) -> Vec<u8> {
    Message::new(payload).attribute("kind", "push").encode(MESSAGE_BYTES_MAX).unwrap()
}

#[test]
fn a_stamp_is_read_from_a_message_of_any_size_and_can_be_changed() {
    for rest in [0, 100, 20_000] {
        let mut payload = stamp(7).to_vec();
        payload.resize(STAMP_BYTES + rest, b'x');
        let mut message = encoded(payload);
        assert_eq!(stamp_of(&message), Some(7));
        restamp(&mut message, u64::MAX);
        assert_eq!(stamp_of(&message), Some(u64::MAX));
    }
}

#[test]
fn what_is_no_stamp_is_left_alone() {
    for payload in [&b""[..], b"rmstamp1", b"rmstamp2 12345678 and more", b"work"] {
        let mut message = encoded(payload.to_vec());
        let before = message.clone();
        restamp(&mut message, 9);
        assert_eq!((stamp_of(&message), &message), (None, &before));
    }
    assert_eq!(stamp_of(&[]), None);
    assert_eq!(stamp_of(&[PAYLOAD_KEY, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
}

#[test]
fn the_clock_goes_on() {
    let before = now_us();
    std::thread::sleep(std::time::Duration::from_millis(2));
    let passed = now_us() - before;
    assert!((2_000..60_000_000).contains(&passed), "{passed} us");
}
