use super::*;

#[test]
fn fields_go_out_as_the_contract_says() {
    let message = Message::new("x")
        .priority(0)
        .delay(Duration::from_secs(3))
        .due(UNIX_EPOCH + Duration::from_secs(1))
        .ttl(Duration::from_secs(5))
        .attempts(7)
        .attribute("k", "v")
        .trace("00-ab-cd-01");
    let bytes = message.encode(limits::MESSAGE_BYTES_MAX).unwrap();
    let proto = proto::Message::decode(&bytes[..]).unwrap();
    assert_eq!((proto.priority, proto.delay_ms, proto.due_unix_ms), (1, 3000, 1000));
    assert_eq!((proto.ttl_ms, proto.attempts_max, proto.trace_context.as_str()), (5000, 7, "00-ab-cd-01"));
    assert_eq!(Message::decode(&bytes).unwrap(), message);
}

#[test]
fn limits_are_named_before_anything_is_sent() {
    let refused = |message: Message| message.encode(100).unwrap_err();
    assert_eq!(refused(Message::new("").priority(10)), MessageError::Priority(10));
    assert!(matches!(refused(Message::new(vec![0; 200])), MessageError::TooLarge { max: 100, .. }));
    assert!(matches!(refused(Message::new("").delay(Duration::MAX)), MessageError::Delay(_)));
    assert_eq!(refused(Message::new("").attempts(1001)), MessageError::Attempts(1001));
    let long = refused(Message::new("").attribute("k", "v".repeat(1024)));
    assert!(matches!(long, MessageError::Attribute { bytes: 1025, .. }));
    let many = (0..65).fold(Message::new(""), |message, i| message.attribute(i.to_string(), ""));
    assert_eq!(refused(many), MessageError::Attributes { count: 65 });
    assert_eq!(refused(Message::new("").trace("t".repeat(257))), MessageError::TraceContext(257));
}
