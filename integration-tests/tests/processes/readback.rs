//! Completed checkpoints, read and compared while the job goes on.

#![cfg(feature = "rocksdb")]

use forebay_integration_tests::harness::{
    Api, Forebay, Job, JobBuilder, Setup, binary, eventually, list, raw, reason, value,
};
use forebay_proto::v1::{self, Backend, Change, ErrorReason};
use tonic::Status;

const KEYS: u32 = 300;

async fn job(api: &Api, backend: Backend) -> Job {
    let spec = JobBuilder::shared("job", 2).with(|spec| spec.set_backend(backend)).build();
    let job = Job::create(api, spec, &[value("last"), list("all")]).await;
    for key in 0..KEYS {
        api.put(job.at("last", &format!("key-{key}")), raw("first")).await.unwrap();
    }
    job
}

fn written(text: &str) -> Option<v1::Written> {
    Some(v1::Written { form: Some(v1::written::Form::Text(text.into())) })
}

async fn read(api: &Api, state: &str, key: &str, checkpoint: u64) -> Result<v1::EntryAtCheckpoint, Status> {
    let address = v1::WrittenAddress {
        job: "job".into(),
        operator: "op".into(),
        state: state.into(),
        key: written(key),
        ..Default::default()
    };
    let notation = v1::Notation::Text.into();
    let request = v1::ReadAtCheckpointRequest { address: Some(address), checkpoint, notation, limit: 0 };
    Ok(api.debug().read_at_checkpoint(request).await?.into_inner().entry.unwrap())
}

fn values(entry: &v1::EntryAtCheckpoint) -> Vec<&str> {
    entry.entries.iter().map(|entry| entry.value.as_ref().map_or("", |value| &value.text[..])).collect()
}

async fn diff(api: &Api, request: v1::DiffCheckpointsRequest) -> Result<(Vec<v1::Difference>, u64, u32), Status> {
    let mut answers = api.debug().diff_checkpoints(request).await?.into_inner();
    let (mut found, mut rows, mut skipped) = (Vec::new(), 0, 0);
    while let Some(answer) = answers.message().await? {
        found.extend(answer.differences);
        rows += answer.rows;
        skipped += answer.skipped_key_groups;
    }
    Ok((found, rows, skipped))
}

fn between(from: u64, to: u64) -> v1::DiffCheckpointsRequest {
    let notation = v1::Notation::Text.into();
    v1::DiffCheckpointsRequest { job: "job".into(), from, to, notation, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_key_is_read_as_of_any_retained_checkpoint() {
    for backend in [Backend::Rocksdb, Backend::Memory] {
        let forebay = Forebay::dev().await;
        let api = forebay.api();
        let job = job(&api, backend).await;
        let first = api.checkpoint("job").await.unwrap().id;
        api.put(job.at("last", "key-1"), raw("second")).await.unwrap();
        api.append(job.at("all", "key-1"), raw("a")).await.unwrap();
        api.append(job.at("all", "key-1"), raw("b")).await.unwrap();
        let second = api.checkpoint("job").await.unwrap().id;
        api.put(job.at("last", "key-1"), raw("third")).await.unwrap();
        for (checkpoint, expected) in [(first, "first"), (second, "second"), (0, "second")] {
            let entry = read(&api, "last", "key-1", checkpoint).await.unwrap();
            assert_eq!(values(&entry), [expected], "{backend:?} {checkpoint}");
            assert_eq!(entry.checkpoint, if checkpoint == 0 { second } else { checkpoint });
        }
        assert_eq!(values(&read(&api, "all", "key-1", second).await.unwrap()), ["a", "b"]);
        let nothing = read(&api, "all", "key-1", first).await.unwrap();
        assert!(!nothing.found && nothing.entries.is_empty());
        let gone = read(&api, "last", "key-1", 999).await.unwrap_err();
        assert_eq!(reason(&gone), ErrorReason::CheckpointUnknown);
        // The job has not noticed.
        assert_eq!(job.stored(&api, "last", "key-1").await, ["third"]);
        assert_eq!(api.describe("job").await.unwrap().generation, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_checkpoints_are_compared_key_by_key_and_what_is_the_same_file_is_not_read() {
    for backend in [Backend::Rocksdb, Backend::Memory] {
        let forebay = Forebay::dev().await;
        let api = forebay.api();
        let job = job(&api, backend).await;
        api.checkpoint("job").await.unwrap();
        // Shards that are joined have all rows in files, which later checkpoints share.
        let shards = std::collections::HashMap::from([("op".to_owned(), 1)]);
        let request = v1::RestoreJobRequest { job: "job".into(), shards, ..Default::default() };
        api.coordinator().restore_job(request).await.unwrap();
        api.serving("job").await;
        let settled = eventually("compactions are over", || async {
            let checkpoint = api.checkpoint("job").await.ok()?;
            (checkpoint.new_bytes == 0 || backend == Backend::Memory).then_some(checkpoint.id)
        })
        .await;
        api.put(job.at("last", "key-5"), raw("second")).await.unwrap();
        let one = api.checkpoint("job").await.unwrap().id;
        let (found, rows, skipped) = diff(&api, between(settled, one)).await.unwrap();
        assert_eq!((found.len(), found[0].change()), (1, Change::Modified));
        if backend == Backend::Rocksdb {
            assert!(skipped == 127 && rows < 20, "{skipped} key groups skipped, {rows} rows read");
        }
        let settled = one;
        api.put(job.at("last", "key-1"), raw("second")).await.unwrap();
        api.put(job.at("last", "new"), raw("here")).await.unwrap();
        api.append(job.at("all", "key-2"), raw("a")).await.unwrap();
        api.state()
            .clear(v1::ClearRequest { address: Some(job.at("last", "key-3")), ..Default::default() })
            .await
            .unwrap();
        // Written again with the same value: no difference to anybody who reads.
        api.put(job.at("last", "key-4"), raw("first")).await.unwrap();
        let last = api.checkpoint("job").await.unwrap().id;
        let (mut found, ..) = diff(&api, between(settled, last)).await.unwrap();
        let text = |shown: &Option<v1::Shown>| shown.as_ref().map_or(String::new(), |shown| shown.text.clone());
        let value = |side: &Option<v1::ShownEntry>| side.as_ref().map(|entry| text(&entry.value));
        found.sort_by_key(|it| it.change);
        let mut told: Vec<_> = found
            .iter()
            .map(|it| {
                let entry = it.after.as_ref().or(it.before.as_ref()).unwrap();
                (it.change(), it.state.clone(), text(&entry.key), value(&it.before), value(&it.after))
            })
            .collect();
        told.sort_by(|one, other| (one.0 as i32, &one.1).cmp(&(other.0 as i32, &other.1)));
        let (some, none) = (|text: &str| Some(text.to_owned()), None);
        let expected = [
            (Change::Added, "all".to_owned(), "key-2".to_owned(), none.clone(), some("a")),
            (Change::Added, "last".into(), "new".into(), none.clone(), some("here")),
            (Change::Removed, "last".into(), "key-3".into(), some("first"), none),
            (Change::Modified, "last".into(), "key-1".into(), some("first"), some("second")),
        ];
        assert_eq!(told, expected, "{backend:?}");
        let limited = v1::DiffCheckpointsRequest { limit: 2, ..between(settled, last) };
        assert_eq!(diff(&api, limited).await.unwrap().0.len(), 2);
        let only = v1::DiffCheckpointsRequest { state: "all".into(), ..between(settled, last) };
        assert_eq!(diff(&api, only).await.unwrap().0.len(), 1);
        for (wrong, expected) in [
            (
                v1::DiffCheckpointsRequest { operator: "nobody".into(), ..between(settled, last) },
                ErrorReason::OperatorUnknown,
            ),
            (v1::DiffCheckpointsRequest { start: 5, end: 999, ..between(settled, last) }, ErrorReason::FieldInvalid),
            (between(998, last), ErrorReason::CheckpointUnknown),
        ] {
            assert_eq!(reason(&diff(&api, wrong).await.unwrap_err()), expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forebayctl_shows_both() {
    let setup = Setup::dev();
    let savepoints = setup.home().join("savepoints").display().to_string();
    let forebay = setup.set("checkpoint.savepoint_dir", &savepoints).start().await;
    let api = forebay.api();
    let job = job(&api, Backend::Rocksdb).await;
    let first = api.checkpoint("job").await.unwrap().id.to_string();
    api.put(job.at("last", "key-1"), raw("second")).await.unwrap();
    api.checkpoint("job").await.unwrap();
    let run = async |words: &[&str]| {
        let mut command = tokio::process::Command::new(binary("forebayctl"));
        let output = command.args(words).env("FOREBAY_SERVER", forebay.url()).output().await.unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?}: {err}");
        out.into_owned()
    };
    let was = run(&["state", "get", "job", "op", "last", "key-1", "--at", &first]).await;
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(was.contains(&hex("first")) && !was.contains(&hex("second")), "bytes are shown as hex: {was}");
    let changed = run(&["checkpoint", "diff", "job", &first]).await;
    assert!(changed.contains("modified") && changed.contains(&hex("key-1")), "{changed}");
    let location = run(&["savepoint", "create", "job"]).await;
    let listed = run(&["savepoint", "list", "job"]).await;
    assert!(listed.contains("canonical") && listed.contains(location.trim()), "{listed}");
    let inspected = run(&["savepoint", "inspect", location.trim()]).await;
    assert!(inspected.contains("last") && inspected.contains("[64,128)"), "{inspected}");
    run(&["savepoint", "delete", location.trim()]).await;
    assert_eq!(run(&["savepoint", "list"]).await, "");
}
