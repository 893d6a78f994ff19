//! Handles against a server that only keeps rows: what goes over the wire, and in which order.

mod fake;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use forebay_proto::v1::stream_service_server::StreamServiceServer;
use futures::FutureExt as _;
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};

use super::*;
use crate::{
    Aggregating, Client, List, Map, State, Timers, Ttl, TtlUpdate, Value,
    aggregate::Avg,
    codec::{I64, Utf8},
    lane::Target,
    routing::{Router, range},
    states::SessionRef,
    stream::Streams,
};
use fake::{CLOCK_MS, Fake};

const VALUES: Value<Utf8, I64> = Value::new("values");
const SHORT: Value<Utf8, I64> =
    Value::new("short").ttl(Ttl::new(Duration::from_secs(1_000_000)).update(TtlUpdate::OnReadAndWrite));
const LISTS: List<Utf8, I64> = List::new("lists");
const MAPS: Map<Utf8, Utf8, I64> = Map::new("maps");
const MEANS: Aggregating<Utf8, Avg> = Aggregating::avg("means");
const TIMERS: Timers<Utf8> = Timers::new("timers");

/// A session that flushes only what it must.
async fn session() -> (Fake, SessionRef) {
    let fake = Fake::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_service(StreamServiceServer::new(fake.clone()));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let route = v1::Route { operator: "op".into(), end: 16, epoch: 1, address, ..v1::Route::default() };
    let client = Client::lazy("http://127.0.0.1:1").unwrap();
    let streams = Streams::new(client.channels().clone(), "test", "job", "uid", 1);
    let router = Router::new(client.clone(), "job", "uid", 1, std::slice::from_ref(&route));
    let target = Target { operator: "op".into(), range: range(&route), shard_epoch: 1, writer_epoch: 1 };
    let declared = [
        VALUES.descriptor(),
        SHORT.descriptor(),
        LISTS.descriptor(),
        MAPS.descriptor(),
        MEANS.descriptor(),
        TIMERS.descriptor(),
    ];
    let registered = |(id, descriptor)| v1::RegisteredState {
        id,
        operator: "op".into(),
        descriptor: Some(descriptor),
        ..v1::RegisteredState::default()
    };
    let lease = Arc::new(Lease::default());
    lease.renew(Instant::now(), Duration::from_secs(3_600));
    let session = Session::start(Parts {
        table: Table::new(16, v1::Partitioner::Murmur3, vec![route]).unwrap(),
        explicit: false,
        lanes: vec![LaneHandle::open(target, Arc::new(streams), Arc::new(router))],
        states: (1..).zip(declared).map(registered).collect(),
        cache: Cache::new(1 << 20, HashSet::new()),
        lease,
        attention: Arc::default(),
        value_bytes_max: 1 << 20,
        write_delay_max: Duration::from_secs(3_600),
        positions_interval: None,
    });
    (fake, SessionRef(session))
}

#[tokio::test]
async fn a_compare_and_set_reads_once_and_writes_if_it_is_as_expected() -> Result<()> {
    let (fake, session) = session().await;
    let values = VALUES.open(&session)?;
    assert!(!values.compare_and_set("k", Some(&1), Some(&2)).await?);
    assert!(values.compare_and_set("k", None::<&i64>, Some(&2)).await?);
    assert!(values.compare_and_set("k", Some(&2), None::<&i64>).await?);
    assert_eq!(values.value("k").await?, None);
    session.0.flushed().await?;
    assert_eq!(fake.log(), ["ValueGet", "ValueClear"]);
    Ok(())
}

#[tokio::test]
async fn what_was_prefetched_is_not_read_again() -> Result<()> {
    let (fake, session) = session().await;
    let values = VALUES.open(&session)?;
    values.put("b", &7).await?;
    values.prefetch(["a", "b", "c"]).await?;
    assert_eq!((values.value("a").await?, values.value("b").await?), (None, Some(7)));
    assert_eq!(fake.log(), ["ValueGet ValueGet"], "one batch, without what is known");
    Ok(())
}

#[tokio::test]
async fn reads_of_tasks_in_flight_go_together_and_each_gets_its_own_answer() -> Result<()> {
    let (fake, session) = session().await;
    let values = VALUES.open(&session)?;
    values.put("k7", &7).await?;
    session.0.flushed().await?;
    session.0.cached(|cache| *cache = Cache::new(1 << 20, HashSet::new()));
    fake.log();
    let keys: Vec<_> = (0..100).map(|key| format!("k{key}")).collect();
    let read = join_all(keys.iter().map(|key| values.value(key))).await;
    for (key, read) in read.into_iter().enumerate() {
        assert_eq!(read?, (key == 7).then_some(7), "key {key}");
    }
    let together = ["ValueGet"; 98].join(" ");
    assert_eq!(fake.log(), ["ValueGet", "ValueGet", &together], "those that wait go together");
    Ok(())
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_keep_others_waiting() -> Result<()> {
    let (fake, session) = session().await;
    let values = VALUES.open(&session)?;
    let mut reads: Vec<_> = ["a", "b", "c", "d"].map(|key| Box::pin(values.value(key))).into();
    assert!(reads.iter_mut().all(|read| read.as_mut().now_or_never().is_none()));
    let last = reads.pop();
    drop(reads);
    assert_eq!(last.expect("it was not dropped").await?, None);
    assert_eq!(values.value("a").await?, None, "it is not being read any more");
    assert_eq!(fake.log(), ["ValueGet", "ValueGet", "ValueGet ValueGet", "ValueGet"]);
    Ok(())
}

#[tokio::test]
async fn what_is_too_much_for_one_answer_is_read_in_several() -> Result<()> {
    let (fake, session) = session().await;
    let values = VALUES.open(&session)?;
    fake.refuse_reads_over(3);
    let keys: Vec<_> = (0..10).map(|key| format!("k{key}")).collect();
    values.prefetch(keys.iter().map(String::as_str)).await?;
    assert!(fake.log().iter().all(|line| line.split(' ').count() <= 3));
    assert!(keys.iter().all(|key| matches!(values.value(key).now_or_never(), Some(Ok(None)))), "all are known");
    let others: Vec<_> = (0..10).map(|key| format!("l{key}")).collect();
    for read in join_all(others.iter().map(|key| values.value(key))).await {
        assert_eq!(read?, None);
    }
    Ok(())
}

#[tokio::test]
async fn pages_of_a_list_see_what_is_unsent_and_leave_nothing_behind() -> Result<()> {
    let (fake, session) = session().await;
    let lists = LISTS.open(&session)?;
    lists.add_all("k", [1, 2, 3, 4, 5]).await?;
    let mut pages = lists.pages("k", 2)?;
    assert_eq!(pages.next().await?, Some(vec![1, 2]));
    lists.add("k", &6).await?;
    assert_eq!((pages.next().await?, pages.next().await?), (Some(vec![3, 4]), Some(vec![5, 6])));
    assert_eq!((pages.next().await?, pages.next().await?), (None, None));
    assert_eq!(fake.log(), ["ListAppendAll", "ListGet", "ListAppend", "ListGet", "ListGet"]);
    assert_eq!(session.0.cached(|cache| cache.bytes()), 0);
    assert!(lists.pages("k", 0).is_err());
    Ok(())
}

#[tokio::test]
async fn a_scan_of_a_map_sees_unsent_puts_and_removes() -> Result<()> {
    let (_, session) = session().await;
    let maps = MAPS.open(&session)?;
    maps.put_all("k", [("a1", 1), ("a2", 2), ("a3", 3), ("b1", 4)]).await?;
    session.0.flushed().await?;
    maps.remove("k", "a2").await?;
    maps.put("k", "a4", &9).await?;
    let mut scan = maps.scan("k")?.prefix("a")?.page(2)?;
    assert_eq!(scan.next_entries().await?.unwrap(), [("a1".into(), 1), ("a3".into(), 3)]);
    assert_eq!(scan.next_entries().await?.unwrap(), [("a4".into(), 9)]);
    assert_eq!(scan.next_entries().await?, None);
    maps.clear_range("k", Some("a3"), Some("b")).await?;
    assert_eq!(maps.scan("k")?.from("a2")?.page(1)?.keys().await?, ["b1"]);
    assert_eq!(maps.values("k").await?, [1, 4]);
    assert!(!maps.is_empty("k").await? && maps.is_empty("other").await?);
    Ok(())
}

#[tokio::test]
async fn merged_namespaces_are_sent_behind_their_writes_and_forgotten() -> Result<()> {
    let (fake, session) = session().await;
    let lists = LISTS.open(&session)?;
    let view = |namespace: &str| lists.namespace(namespace);
    view("w1")?.add("k", &1).await?;
    view("w2")?.add("k", &2).await?;
    assert_eq!(view("w3")?.get("k").await?, Vec::<i64>::new());
    fake.log();
    lists.merge_namespaces("k", ["w2", "w1"], "w3").await?;
    lists.merge_namespaces("k", Vec::<String>::new(), "w3").await?;
    assert_eq!(view("w3")?.get("k").await?, [2, 1]);
    assert_eq!(view("w1")?.get("k").await?, Vec::<i64>::new());
    assert_eq!(fake.log(), ["ListAppend ListAppend", "MergeNamespaces", "ListGet", "ListGet"]);
    Ok(())
}

#[tokio::test]
async fn adds_to_an_aggregating_state_read_nothing_and_come_before_its_result() -> Result<()> {
    let (fake, session) = session().await;
    let means = MEANS.open(&session)?;
    means.add("k", &1.5).await?;
    means.add("k", &2.5).await?;
    assert!(means.get("k").await?.is_some() && means.get("k").await?.is_some());
    assert_eq!(means.get("other").await?, None);
    assert_eq!(fake.log(), ["AggregatingAdd AggregatingAdd", "AggregatingGet", "AggregatingGet"]);
    Ok(())
}

#[tokio::test]
async fn timers_are_due_in_order_until_they_are_deleted() -> Result<()> {
    let (fake, session) = session().await;
    let timers = TIMERS.open(&session)?;
    for (key, at) in [("a", 30), ("b", 10), ("c", 20), ("a", 30)] {
        timers.register(key, "w", at).await?;
    }
    let due = async |up_to| -> Result<Vec<_>> {
        Ok(timers.due(up_to, 10).await?.into_iter().map(|timer| (timer.timestamp, timer.key)).collect())
    };
    assert_eq!(due(20).await?, [(10, "b".to_owned()), (20, "c".to_owned())]);
    let asked = fake.log().len();
    assert_eq!(asked, 2, "the timers that were unsent, and a read of all key groups");
    timers.delete("b", "w", 10).await?;
    timers.register("d", "", 15).await?;
    assert_eq!(due(20).await?, [(15, "d".to_owned()), (20, "c".to_owned())]);
    assert_eq!(due(i64::MAX).await?.len(), 3);
    assert!(fake.log().is_empty(), "the next timers are known");
    Ok(())
}

#[tokio::test]
async fn deadlines_are_by_the_shards_clock_and_reads_touch() -> Result<()> {
    let (fake, session) = session().await;
    let short = SHORT.open(&session)?;
    short.update("k", &1).await?;
    let key = b"k";
    let at = session.0.locate(2, key, b"", None)?;
    let deadline_ms = session.0.cached(|cache| cache.value_until(at).and_then(|(_, deadline_ms)| deadline_ms)).unwrap();
    assert!((CLOCK_MS + 1_000_000_000..CLOCK_MS + 1_000_060_000).contains(&deadline_ms), "{deadline_ms}");
    session.0.flushed().await?;
    session.0.cached(|cache| cache.value_put_until(at, Some(&[0x80, 0, 0, 0, 0, 0, 0, 1]), Some(5), 0));
    assert_eq!(short.value("k").await?, None, "past its deadline it is hidden, before the shard says so");
    session.0.cached(|cache| cache.value_put_until(at, Some(&[0x80, 0, 0, 0, 0, 0, 0, 1]), Some(deadline_ms / 2), 0));
    session.0.flushed().await?;
    assert_eq!(short.value("k").await?, Some(1));
    assert_eq!(short.value("k").await?, Some(1));
    session.0.flushed().await?;
    assert_eq!(fake.log(), ["ValuePut", "ValuePut", "Touch"]);
    Ok(())
}

#[tokio::test]
async fn a_watermark_goes_behind_the_writes_before_it_and_ahead_of_reads() -> Result<()> {
    let (fake, session) = session().await;
    let values = VALUES.open(&session)?;
    values.update("k", &1).await?;
    session.0.watermark(50);
    session.0.flushed().await?;
    session.0.watermark(70);
    session.0.watermark(60);
    values.value("other").await?;
    session.0.flushed().await?;
    assert_eq!(fake.log(), ["ValuePut watermark 50", "watermark 70", "ValueGet"]);
    Ok(())
}
