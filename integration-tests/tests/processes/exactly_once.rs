//! A batch is applied once, however often it is sent and whatever dies in between.

#![cfg(feature = "rocksdb")]

use forebay_integration_tests::harness::{
    Api, Forebay, Job, JobBuilder, Lane, Proxy, Stream, Worker, append, eventually, get, list, raw, reason, value,
};
use forebay_proto::v1::{self, ErrorReason};

async fn shared(api: &Api) -> Job {
    Job::create(api, JobBuilder::shared("job", 1).build(), &[list("legs")]).await
}

async fn legs(api: &Api, job: &Job) -> Vec<String> {
    job.stored(api, "legs", "N1").await
}

/// Waits until so many elements are stored.
async fn stored(api: &Api, job: &Job, count: usize) {
    eventually(&format!("{count} elements are stored"), || async {
        (legs(api, job).await.len() == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_answer_was_cut_off_is_told_as_a_duplicate_and_appears_once() {
    let forebay = Forebay::dev().await;
    let (api, proxy) = (forebay.api(), Proxy::to(forebay.port()).await);
    let job = shared(&api).await;
    let mut stream = Stream::open(&Api::to(&proxy.url()), &job.info).await.unwrap();
    let lane = stream.lane(&job.routes[0], 0).await.unwrap();
    stream.write(&lane, 1, append(&job.states[0], b"N1", b"a")).await.unwrap().unwrap();

    proxy.hold_answers();
    let lost = stream.send_batch(lane.write(2, append(&job.states[0], b"N1", b"b")));
    stored(&api, &job, 2).await;
    proxy.cut();
    stream.answer(lost).await.expect_err("the connection is cut before the answer");

    proxy.pass();
    let mut again = Stream::open(&Api::to(&proxy.url()), &job.info).await.unwrap();
    let lane = again.attach("op", &lane, 1).await.unwrap().unwrap();
    assert_eq!(lane.mark, 2, "the mark tells that it was applied");
    let answer = again.write(&lane, 2, append(&job.states[0], b"N1", b"b")).await.unwrap().unwrap();
    assert!(answer.duplicate);
    let answer = again.write(&lane, 3, append(&job.states[0], b"N1", b"c")).await.unwrap().unwrap();
    assert!(!answer.duplicate);
    assert_eq!(legs(&api, &job).await, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unary_append_with_a_request_id_whose_answer_was_cut_off_appears_once() {
    let forebay = Forebay::dev().await;
    let (api, proxy) = (forebay.api(), Proxy::to(forebay.port()).await);
    let job = shared(&api).await;
    let request = v1::AppendRequest {
        address: Some(job.at("legs", "N1")),
        values: vec![raw("a"), raw("b")],
        request_id: "once".into(),
        ..Default::default()
    };
    let cut = Api::to(&proxy.url());
    cut.get(job.at("legs", "N1")).await.expect("the connection stands");
    proxy.hold_answers();
    let (mut client, sent) = (cut.state(), request.clone());
    let lost = tokio::spawn(async move { client.append(sent).await });
    stored(&api, &job, 2).await;
    proxy.cut();
    lost.await.unwrap().expect_err("the connection is cut before the answer");

    proxy.pass();
    let answer = Api::to(&proxy.url()).state().append(request).await.unwrap().into_inner();
    assert!(answer.duplicate);
    assert_eq!(legs(&api, &job).await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_server_died_before_the_answer_appears_once() {
    let mut forebay = Forebay::dev().await;
    let (api, proxy) = (forebay.api(), Proxy::to(forebay.port()).await);
    let mut job = shared(&api).await;
    let mut stream = Stream::open(&Api::to(&proxy.url()), &job.info).await.unwrap();
    let lane = stream.lane(&job.routes[0], 0).await.unwrap();
    stream.write(&lane, 1, append(&job.states[0], b"N1", b"a")).await.unwrap().unwrap();
    proxy.hold_answers();
    let lost = stream.send_batch(lane.write(2, append(&job.states[0], b"N1", b"b")));
    stored(&api, &job, 2).await;
    forebay.kill().await;
    proxy.cut();
    stream.answer(lost).await.expect_err("the server is dead");

    forebay.restart().await;
    let before = job.routes.clone();
    job.refresh(&api).await;
    assert_eq!(job.routes[0].incarnation, before[0].incarnation, "with its disk the shard is the same");
    let mut stream = Stream::open(&api, &job.info).await.unwrap();
    let lane = stream.attach("op", &lane, 1).await.unwrap().unwrap();
    assert_eq!(lane.mark, 2);
    assert!(stream.write(&lane, 2, append(&job.states[0], b"N1", b"b")).await.unwrap().unwrap().duplicate);
    assert!(!stream.write(&lane, 3, append(&job.states[0], b"N1", b"c")).await.unwrap().unwrap().duplicate);
    assert_eq!(legs(&api, &job).await, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_flight_when_the_server_dies_is_there_once_and_in_order() {
    let mut forebay = Forebay::dev().await;
    let api = forebay.api();
    let mut job = shared(&api).await;
    let mut stream = Stream::open(&api, &job.info).await.unwrap();
    let mut lane = stream.lane(&job.routes[0], 0).await.unwrap();
    let element = |seq: u64| format!("{seq:04}");
    let (mut acknowledged, last) = (0, 600);
    for round in 1..=3 {
        let until = round * last / 3;
        let ids: Vec<_> = (acknowledged + 1..=until)
            .map(|seq| {
                (seq, stream.send_batch(lane.write(seq, append(&job.states[0], b"N1", element(seq).as_bytes()))))
            })
            .collect();
        // Half are answered, the rest is somewhere on the way.
        for (seq, id) in ids.iter().take(ids.len() / 2) {
            stream.answer(*id).await.unwrap().unwrap();
            acknowledged = *seq;
        }
        forebay.kill_and_restart().await;
        job.refresh(&api).await;
        stream = Stream::open(&api, &job.info).await.unwrap();
        lane = stream.attach("op", &lane, acknowledged).await.unwrap().unwrap();
        assert!((acknowledged..=until).contains(&lane.mark), "{} of {acknowledged} to {until}", lane.mark);
        let mark = lane.mark;
        for seq in acknowledged + 1..=until {
            let answer = stream.write(&lane, seq, append(&job.states[0], b"N1", element(seq).as_bytes())).await;
            assert_eq!(answer.unwrap().unwrap().duplicate, seq <= mark, "{seq}");
        }
        acknowledged = until;
    }
    assert_eq!(legs(&api, &job).await, (1..=last).map(element).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_not_reused_and_none_is_left_out() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let job = shared(&api).await;
    let mut stream = Stream::open(&api, &job.info).await.unwrap();
    let lane = stream.lane(&job.routes[0], 0).await.unwrap();
    let batch = |element: &[u8]| append(&job.states[0], b"N1", element);
    stream.write(&lane, 1, batch(b"a")).await.unwrap().unwrap();

    let reused = stream.write(&lane, 1, batch(b"other")).await.unwrap().unwrap_err();
    assert_eq!(reused.reason(), ErrorReason::SequenceReused);
    let gap = stream.write(&lane, 3, batch(b"c")).await.unwrap().unwrap_err();
    assert_eq!((gap.reason(), gap.metadata["expected"].as_str()), (ErrorReason::NotCaughtUp, "2"));
    let ahead = stream.batch(lane.read(2, get(&job.states[0], b"N1"))).await.unwrap().unwrap_err();
    assert_eq!((ahead.reason(), ahead.metadata["expected"].as_str()), (ErrorReason::NotCaughtUp, "2"));

    assert_eq!(stream.read_items(&lane, 1, get(&job.states[0], b"N1")).await.unwrap(), [b"a"]);
    stream.write(&lane, 2, batch(b"b")).await.unwrap().unwrap();
    assert_eq!(legs(&api, &job).await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_was_not_opened_here_takes_no_batch() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let job = shared(&api).await;
    let mut stream = Stream::open(&api, &job.info).await.unwrap();
    let lane = stream.lane(&job.routes[0], 0).await.unwrap();
    let batch = |lane: &Lane| lane.write(1, append(&job.states[0], b"N1", b"a"));

    let nowhere = Lane { channel: 77, ..lane.clone() };
    let refusal = stream.batch(batch(&nowhere)).await.unwrap().unwrap_err();
    assert_eq!(refusal.reason(), ErrorReason::LaneExpired);
    let made_up = Lane { id: vec![7; 16], ..lane.clone() };
    let refusal = stream.attach("op", &made_up, 0).await.unwrap().unwrap_err();
    assert_eq!(refusal.reason(), ErrorReason::LaneExpired);

    // Attached elsewhere, it takes none from here.
    let mut other = Stream::open(&api, &job.info).await.unwrap();
    let moved = other.attach("op", &lane, 0).await.unwrap().unwrap();
    let refusal = stream.batch(batch(&lane)).await.unwrap().unwrap_err();
    assert_eq!(refusal.reason(), ErrorReason::LaneExpired);
    assert_eq!(legs(&api, &job).await, Vec::<String>::new());
    other.batch(batch(&moved)).await.unwrap().unwrap();
    assert_eq!(legs(&api, &job).await, ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_behind_a_refused_batch_is_refused_and_the_checkpoint_has_what_is_before_it() {
    let mut forebay = Forebay::dev().await;
    let api = forebay.api();
    let small = |spec: &mut v1::JobSpec| spec.limits = Some(v1::Limits { max_value_bytes: 8, ..Default::default() });
    let mut job =
        Job::create(&api, JobBuilder::leased("job", 1).with(small).build(), &[list("legs"), value("count")]).await;
    let mut worker = Worker::join(&api, &job.info, "w1").await.unwrap();
    let assignment = worker.assignment().await;
    let shard = &assignment.shards[0];
    let mut stream = Stream::open(&api, &job.info).await.unwrap();
    let lane = stream.lane(shard.route.as_ref().unwrap(), shard.writer_epoch).await.unwrap();
    stream.write(&lane, 1, append(&job.states[0], b"N1", b"a")).await.unwrap().unwrap();

    let (triggered, name) = (api.clone(), job.name.clone());
    let completed = tokio::spawn(async move { triggered.checkpoint(&name).await });
    let barrier = worker.barrier().await;
    let oversized = stream.send_batch(lane.write(2, append(&job.states[0], b"N1", b"123456789")));
    let ahead = stream.send_batch(lane.barrier(3, &barrier));
    assert_eq!(stream.answer(oversized).await.unwrap().unwrap_err().reason(), ErrorReason::ValueTooLarge);
    let refusal = stream.answer(ahead).await.unwrap().unwrap_err();
    assert_eq!((refusal.reason(), refusal.metadata["expected"].as_str()), (ErrorReason::NotCaughtUp, "2"));
    let rounds = api.checkpoints("job").await.unwrap().in_progress;
    assert_eq!((rounds.len(), rounds[0].shards_done), (1, 0), "no shard was frozen");

    stream.write(&lane, 2, append(&job.states[0], b"N1", b"b")).await.unwrap().unwrap();
    stream.batch(lane.barrier(3, &barrier)).await.unwrap().unwrap();
    assert!(stream.batch(lane.barrier(3, &barrier)).await.unwrap().unwrap().duplicate);
    worker.report(&barrier, &[b"position 2"]);
    let completed = completed.await.unwrap().unwrap();
    stream.write(&lane, 4, append(&job.states[0], b"N1", b"c")).await.unwrap().unwrap();
    assert_eq!(legs(&api, &job).await, ["a", "b", "c"]);

    // Without its disk, the job goes back to just that.
    forebay.kill().await;
    forebay.delete_data();
    forebay.restart().await;
    job.refresh(&api).await;
    assert_eq!(job.info.restored_checkpoint, completed.id);
    assert_eq!(legs(&api, &job).await, ["a", "b"]);
    let mut worker = Worker::join(&api, &job.info, "w1").await.unwrap();
    let assignment = worker.assignment().await;
    assert_eq!(assignment.state[0].elements, ["position 2"]);
    let stale = stream_of_generation(&api, &job, 1).await;
    assert_eq!(stale, Some(ErrorReason::Rewound));
}

/// The reason for which a lane is refused to a client of that generation.
async fn stream_of_generation(api: &Api, job: &Job, generation: u64) -> Option<ErrorReason> {
    let info = v1::JobInfo { generation, ..job.info.clone() };
    let mut stream = match Stream::open(api, &info).await {
        Ok(stream) => stream,
        Err(status) => return Some(reason(&status)),
    };
    let route = &job.routes[0];
    let open = v1::OpenLane {
        operator: route.operator.clone(),
        start: route.start,
        end: route.end,
        shard_epoch: route.epoch,
        writer_epoch: 1,
        ..Default::default()
    };
    stream.open_lane(open).await.unwrap().err().map(|refusal| refusal.reason())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_lacks_what_it_acknowledged_serves_nothing_more_and_goes_back_to_its_checkpoint() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let mut job = shared(&api).await;
    let before = job.routes[0].clone();
    let mut stream = Stream::open(&api, &job.info).await.unwrap();
    let lane = stream.lane(&before, 0).await.unwrap();
    stream.write(&lane, 1, append(&job.states[0], b"N1", b"in the checkpoint")).await.unwrap().unwrap();
    api.checkpoint("job").await.unwrap();
    stream.write(&lane, 2, append(&job.states[0], b"N1", b"behind it")).await.unwrap().unwrap();

    let refusal = stream.attach("op", &lane, 5).await.unwrap().unwrap_err();
    assert_eq!(refusal.reason(), ErrorReason::ShardLost);
    assert!(refusal.message.contains("batch 5") && refusal.message.contains("at 2"), "{}", refusal.message);

    eventually("the shard goes back", || async {
        let entry = api.describe("job").await.ok()?.shards.swap_remove(0).entry?;
        (entry.incarnation == before.incarnation + 1 && entry.established).then_some(())
    })
    .await;
    job.refresh(&api).await;
    assert_eq!(legs(&api, &job).await, ["in the checkpoint"]);
}
