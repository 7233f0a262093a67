use super::*;
use crate::ids::Boot;
use crate::limits::MESSAGE_BYTES_MAX;

const NEWS: SubscriptionId = SubscriptionId(2);

fn inbox() -> Inbox {
    let mut inbox = Inbox::default();
    inbox.subscribing(SubscriptionId(1), QueueName::parse("jobs").unwrap());
    inbox.subscribing(NEWS, QueueName::parse("topic/news").unwrap());
    inbox
}

fn body(payload: &[u8]) -> Vec<u8> {
    Message::new(payload.to_vec()).encode(MESSAGE_BYTES_MAX).unwrap()
}

fn tell(inbox: &mut Inbox, payload: &[u8]) {
    inbox.keep_broadcast(&wire::BroadcastDelivery { subscription: NEWS, message: &body(payload) });
}

fn next(inbox: &mut Inbox) -> Option<(bool, Vec<u8>)> {
    let received = inbox.next_received()?;
    Some((matches!(received, Received::Broadcast(_)), received.message().payload().to_vec()))
}

#[test]
fn broadcasts_that_nobody_takes_are_bounded_by_number_and_bytes() {
    let mut inbox = inbox();
    for number in 0..BROADCASTS_KEPT_MAX + 3 {
        tell(&mut inbox, &number.to_le_bytes());
    }
    assert_eq!(inbox.broadcasts_missed(), 3);
    assert_eq!(next(&mut inbox), Some((true, 3_usize.to_le_bytes().to_vec())), "the oldest were forgotten");
    while next(&mut inbox).is_some() {}
    assert_eq!(inbox.broadcast_bytes, 0);
    let large = vec![7; BROADCASTS_KEPT_BYTES_MAX / 4 + 1];
    for _ in 0..5 {
        tell(&mut inbox, &large);
    }
    assert_eq!((inbox.broadcasts.len(), inbox.broadcasts_missed()), (3, 5));
}

#[test]
fn deliveries_and_broadcasts_take_turns() {
    let mut inbox = inbox();
    for number in 1..=3 {
        inbox.deliver(&wire::Delivery {
            subscription: SubscriptionId(1),
            lease: LeaseId { message: MessageId(number), attempt: 1, boot: Boot(1) },
            lease_ms: 5,
            message: &body(b"work"),
            parts_bytes: 0,
        });
    }
    for _ in 0..2 {
        tell(&mut inbox, b"news");
    }
    let order: Vec<bool> = std::iter::from_fn(|| next(&mut inbox)).map(|(is_news, _)| is_news).collect();
    assert_eq!(order, [true, false, true, false, false]);
    // Whoever takes work only is not given news, and the other way round.
    tell(&mut inbox, b"news");
    assert!(inbox.next_delivery().is_none());
    assert_eq!(next(&mut inbox), Some((true, b"news".to_vec())));
}

#[test]
fn what_does_not_decode_or_belongs_to_no_subscription_is_dropped() {
    let mut inbox = inbox();
    inbox.keep_broadcast(&wire::BroadcastDelivery { subscription: NEWS, message: &[0xff] });
    inbox.keep_broadcast(&wire::BroadcastDelivery { subscription: SubscriptionId(9), message: &body(b"x") });
    assert!(inbox.next_received().is_none());
    assert!(inbox.take_undecodable().is_empty(), "there is nothing to reject");
}
