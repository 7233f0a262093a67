use proptest::prelude::*;

use super::*;
use crate::wire::{EMPTY_PING, encode_ack};

/// A client's session, well behaved.
fn session_bytes() -> Vec<u8> {
    let mut bytes = [hello("d1"), EMPTY_PING.to_vec(), publish(1, "jobs", &[b"a", &[3; 300]])].concat();
    let lease =
        crate::ids::LeaseId { message: crate::ids::MessageId(5), attempt: 1, boot: crate::ids::Boot(1) };
    encode_ack(&mut bytes, 2, &[lease; 3], true);
    let subscribe =
        proto::Subscribe { seq: 3, subscription: 1, queue: "device/d1".into(), ..Default::default() };
    bytes.extend(frame(Kind::Subscribe, &subscribe));
    bytes.extend(publish(4, "jobs", &[&[9; 2000]]));
    bytes.extend(frame(Kind::Bye, &proto::Bye::default()));
    bytes
}

fn all_said(rig: &mut Rig) -> String {
    let batch = std::mem::take(rig.gateway.commands());
    format!("{batch:?}")
}

proptest! {
    #[test]
    fn any_split_of_the_stream_says_the_same(cuts in prop::collection::vec(0usize..3000, 0..40)) {
        let bytes = session_bytes();
        let mut whole = Rig::new(config());
        let key = whole.accept();
        whole.receive(key, &bytes);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % bytes.len()).collect();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let mut split = Rig::new(config());
        let key = split.accept();
        let mut from = 0;
        for to in cuts {
            split.receive(key, &bytes[from..to]);
            from = to;
        }
        prop_assert_eq!(all_said(&mut whole), all_said(&mut split));
        prop_assert_eq!(&whole.closed, &split.closed);
        prop_assert_eq!(split.metrics.partial_bytes.value(), 0);
    }

    #[test]
    fn arbitrary_bytes_end_in_a_close_or_in_waiting(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
        said_hello in any::<bool>(),
        is_live in any::<bool>(),
    ) {
        let mut rig = Rig::new(config());
        let key = rig.accept();
        if said_hello {
            rig.receive(key, &hello("d1"));
            if is_live {
                rig.attach(key, 1);
            }
        }
        let mut received = 0;
        for chunk in &chunks {
            received += chunk.len();
            rig.receive(key, chunk);
            prop_assert!(rig.metrics.partial_bytes.value() as usize <= received);
        }
        rig.wait(10_000);
        prop_assert_eq!(rig.gateway.live(), 0);
        prop_assert_eq!(rig.metrics.partial_bytes.value() + rig.metrics.output_bytes.value(), 0);
        let commands = rig.commands();
        let detached = commands.iter().filter(|command| matches!(command, Command::Detach(_))).count();
        prop_assert_eq!(detached, usize::from(said_hello), "{:?}", commands);
    }

    #[test]
    fn a_good_session_with_flipped_bytes_never_panics(
        flips in prop::collection::vec((0usize..3000, any::<u8>()), 1..6),
        cut in 0usize..3000,
    ) {
        let mut bytes = session_bytes();
        let len = bytes.len();
        for (at, to) in flips {
            bytes[at % len] = to;
        }
        let mut rig = Rig::new(config());
        let key = rig.accept();
        let (first, second) = bytes.split_at(cut % len);
        rig.receive(key, first);
        rig.receive(key, second);
        rig.wait(10_000);
        prop_assert_eq!(rig.gateway.live(), 0);
    }
}
