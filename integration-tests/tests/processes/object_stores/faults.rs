//! What the S3 store says when S3 fails.

use super::*;

#[tokio::test]
async fn a_lost_answer_to_a_conditional_write_is_ambiguous_and_never_repeated() {
    let server = server().await;
    let store = impatient(&server).await;
    let create = |path| store.put_if(path, Bytes::from_static(b"mine"), &Condition::Absent);

    for (path, fault) in [("cut", Fault::DropAfter), ("late", Fault::StallAfter(Duration::from_secs(60)))] {
        server.faults().once(Operation::PutIfAbsent, fault);
        assert!(matches!(create(path).await, Err(Error::Ambiguous { path: p, .. }) if p == path));
        assert_eq!(store.get(path).await.unwrap().0, "mine", "it was in force");
        assert!(matches!(create(path).await, Err(Error::Conflict { .. })));
    }
    // The one that was cut, and the two that met it: nothing was repeated, and the late answer nobody awaits.
    assert_eq!(server.calls(Operation::PutIfAbsent), 3);

    server.faults().once(Operation::PutIfAbsent, Fault::DropBefore);
    assert!(matches!(create("before").await, Err(Error::Ambiguous { .. })));
    assert!(matches!(store.get("before").await, Err(Error::NotFound { .. })), "it was not in force");
    create("before").await.unwrap();
}

#[tokio::test]
async fn only_a_clear_answer_to_a_conditional_write_is_passed_on_as_clear() {
    let server = server().await;
    let store = impatient(&server).await;
    let first = store.put_if("head", Bytes::from_static(b"1"), &Condition::Absent).await.unwrap();
    let unclear = [
        Fault::SlowDown503,
        Fault::Status(500, "InternalError"),
        Fault::Status(502, "BadGateway"),
        Fault::Status(429, "TooManyRequests"),
        Fault::Status(400, "RequestTimeout"),
        Fault::CompleteError200,
        Fault::DropBefore,
        Fault::Stall(Duration::from_secs(60)),
    ];
    for fault in unclear {
        server.clear_log();
        server.faults().once(Operation::PutIfMatch, fault);
        let result = store.put_if("head", Bytes::from_static(b"2"), &Condition::Is(first.clone())).await;
        assert!(matches!(result, Err(Error::Ambiguous { .. })), "{fault:?}: {result:?}");
        assert!(server.calls(Operation::PutIfMatch) <= 1, "{fault:?}: repeated");
    }
    for (status, code) in [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict"), (404, "NoSuchKey")] {
        server.faults().once(Operation::PutIfMatch, Fault::Status(status, code));
        let result = store.put_if("head", Bytes::from_static(b"2"), &Condition::Is(first.clone())).await;
        assert!(matches!(result, Err(Error::Conflict { .. })), "{status}: {result:?}");
    }
    for (status, code) in [(403, "AccessDenied"), (501, "NotImplemented"), (301, "PermanentRedirect")] {
        server.faults().once(Operation::PutIfMatch, Fault::Status(status, code));
        let result = store.put_if("head", Bytes::from_static(b"2"), &Condition::Is(first.clone())).await;
        assert!(matches!(result, Err(Error::Refused { .. })), "{status}: {result:?}");
    }
    assert_eq!(store.get("head").await.unwrap(), (Bytes::from_static(b"1"), first));
}

#[tokio::test]
async fn what_is_safe_to_repeat_is_repeated() {
    let server = server().await;
    let store = impatient(&server).await;
    let faults = [
        Fault::SlowDown503,
        Fault::Status(500, "InternalError"),
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::Stall(Duration::from_secs(60)),
    ];
    for fault in faults {
        server.clear_log();
        for operation in [Operation::Put, Operation::Get, Operation::List, Operation::Delete] {
            server.faults().add(Rule::new(fault).of(operation).when(When::First(1)));
        }
        store.put("a", Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(store.get("a").await.unwrap().0, "x");
        assert_eq!(store.list("a").await.unwrap().len(), 1);
        store.delete("a").await.unwrap();
        assert_eq!(server.object(BUCKET, "a"), None);
        let cut = server.log().iter().filter(|call| call.fault.is_some()).count();
        // A stalled call is never logged: its client went away before its end.
        let logged = if matches!(fault, Fault::Stall(_)) { 0 } else { 4 };
        assert_eq!(cut, logged, "{fault:?}");
    }
    assert_eq!(server.faults().fired(), 20);
}

#[tokio::test]
async fn attempts_are_bounded() {
    let server = server().await;
    let store = store(&server).await;
    server.faults().add(Rule::new(Fault::SlowDown503));
    let err = store.put("a", Bytes::new()).await.unwrap_err();
    assert!(matches!(err, Error::Unavailable { .. }), "{err}");
    let text = err.to_string();
    assert!(text.contains("s3://state/some/prefix") && text.contains("503 SlowDown"), "{text}");
    assert_eq!(server.calls(Operation::Put), 3);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_asked_for_again_and_then_an_error() {
    let server = server().await;
    let store = store(&server).await;
    store.put("a", Bytes::from(vec![1; 100_000])).await.unwrap();
    server.faults().once(Operation::Get, Fault::TruncateBody);
    assert_eq!(store.get("a").await.unwrap().0.len(), 100_000);
    server.faults().once(Operation::Get, Fault::TruncateBody);
    assert_eq!(store.get_range("a", 10..90_000).await.unwrap().len(), 89_990);
    server.faults().always(Operation::Get, Fault::TruncateBody);
    let err = store.get("a").await.unwrap_err();
    assert!(matches!(err, Error::Unavailable { .. }), "{err}");
}

#[tokio::test]
async fn a_damaged_body_is_found() {
    let server = server().await;
    let store = store(&server).await;
    let object = frame::encode(ObjectKind::Head, &"what a head holds".to_owned());

    // On its way to the store the signature finds it; nothing is stored.
    server.faults().once(Operation::PutIfAbsent, Fault::CorruptBody);
    let result = store.put_if("head", object.clone(), &Condition::Absent).await;
    assert!(matches!(result, Err(Error::Ambiguous { .. })), "{result:?}");
    assert_eq!(server.keys(BUCKET), Vec::<String>::new());

    // On its way back, or in the store, the frame finds it.
    store.put("head", object.clone()).await.unwrap();
    server.faults().once(Operation::Get, Fault::CorruptBody);
    let (bytes, _) = store.get("head").await.unwrap();
    let err = frame::decode::<String>(ObjectKind::Head, "head", &bytes).unwrap_err();
    assert!(err.to_string().starts_with("object head "), "{err}");
    server.tamper(BUCKET, "some/prefix/head", object.slice(..object.len() - 3));
    let (bytes, _) = store.get("head").await.unwrap();
    assert!(frame::decode::<String>(ObjectKind::Head, "head", &bytes).is_err());
}

#[tokio::test]
async fn with_checksums_a_damaged_body_is_asked_for_again() {
    let server = server().await;
    let config = S3Config { checksums: Checksums::WhenSupported, ..config(server.endpoint()) };
    let store = open_with("s3://state", &config).await;
    store.put("a", Bytes::from_static(b"content")).await.unwrap();
    server.faults().once(Operation::Get, Fault::CorruptBody);
    assert_eq!(store.get("a").await.unwrap().0, "content");
    server.faults().always(Operation::Get, Fault::CorruptBody);
    let err = store.get("a").await.unwrap_err();
    assert!(matches!(err, Error::Unavailable { .. }), "{err}");
}

#[tokio::test]
async fn a_body_that_breaks_off_goes_on_from_where_it_is() {
    let server = server().await;
    let store = store(&server).await;
    let content: Vec<u8> = (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    store.put("a", content.clone().into()).await.unwrap();
    for (range, last) in [(None, ""), (Some(100..900_000), "899999")] {
        server.clear_log();
        server.faults().once(Operation::Get, Fault::TruncateBody);
        let bytes = match range.clone() {
            None => store.get("a").await.unwrap().0,
            Some(range) => store.get_range("a", range).await.unwrap(),
        };
        let wanted = range.map_or(0..content.len(), |range| range.start as usize..range.end as usize);
        assert!(bytes == content[wanted.clone()], "the parts make the whole");
        let log = server.log();
        let [first, second] = &log[..] else { panic!("{log:#?}") };
        let (start, end) = second.headers["range"].strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        assert_eq!(end, last);
        assert!(start > wanted.start, "it starts anew: {second:?}");
        assert_eq!(second.received as usize, wanted.end - start, "{first:?} {second:?}");
        assert!(second.headers.contains_key("if-match"), "of the same version only: {second:?}");
    }
}

#[tokio::test]
async fn a_body_whose_object_changes_in_the_middle_is_read_anew() {
    let server = server().await;
    let store = store(&server).await;
    store.put("a", Bytes::from(vec![1; 100_000])).await.unwrap();
    server.faults().once(Operation::Get, Fault::TruncateBody);
    let changed = Fault::Status(412, "PreconditionFailed");
    server.faults().add(Rule::new(changed).of(Operation::Get).when(When::First(1)));
    assert_eq!(store.get("a").await.unwrap().0, vec![1; 100_000]);
    let ranges: Vec<bool> = server.log().iter().skip(1).map(|call| call.headers.contains_key("range")).collect();
    assert_eq!(ranges, [false, true, false]);
}

#[tokio::test]
async fn a_range_that_was_cut_short_on_the_way_is_asked_for_again() {
    let server = server().await;
    let store = store(&server).await;
    store.put("a", Bytes::from(vec![1; 100_000])).await.unwrap();
    server.faults().once(Operation::Get, Fault::ShortBody);
    assert_eq!(store.get_range("a", 10..90_000).await.unwrap().len(), 89_990);
    server.faults().always(Operation::Get, Fault::ShortBody);
    let err = store.get_range("a", 10..90_000).await.unwrap_err();
    assert!(matches!(err, Error::Unavailable { .. }), "{err}");
}
