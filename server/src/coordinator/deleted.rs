//! Deleted jobs whose checkpoints were to go with them (`delete_on_cancel`; Flink: DELETE_ON_CANCELLATION).
//!
//! A record of its own outlives the job's name, so that another coordinator goes on with it. The objects go
//! when all leases have run out: until then a server or worker that has not heard may still write.

use std::{collections::BTreeSet, sync::Weak, time::Duration};

use forebay_proto::v1;
use tracing::{info, warn};

use super::{Coordinator, branches, collect, machine::collect::Reference};
use crate::checkpoint::{
    frame::{self, ObjectKind},
    layout,
    objects::{Error, SharedStore},
};

/// Time between two tries.
const AGAIN: Duration = Duration::from_secs(60);

/// Takes note that a job's objects are to go.
pub(super) async fn record(store: &SharedStore, cluster: &layout::Cluster, job: &str, uid: &str) -> Result<(), Error> {
    let record = v1::JobName { job_uid: uid.to_owned() };
    store.put(&cluster.deleted_job(job, uid), frame::encode(ObjectKind::JobName, &record)).await
}

/// The deleted jobs whose objects are to go: name and uid.
pub(super) async fn recorded(store: &SharedStore, cluster: &layout::Cluster) -> Result<Vec<(String, String)>, Error> {
    let listed = store.list(&cluster.deleted_jobs()).await?;
    let named =
        |path: &str| path.rsplit('/').next()?.rsplit_once('-').map(|(job, uid)| (job.to_owned(), uid.to_owned()));
    Ok(listed.iter().filter_map(|object| named(&object.path)).collect())
}

/// True if a job's objects are to go with it.
pub(super) fn goes(head: &v1::JobHead) -> bool {
    head.spec.as_ref().and_then(|spec| spec.checkpoints).is_some_and(|settings| settings.delete_on_cancel)
}

/// Deletes the objects of a deleted job, once `wait` is over; goes on until none is left.
pub(super) async fn collect(coordinator: Weak<Coordinator>, job: String, uid: String, wait: Duration) {
    tokio::time::sleep(wait).await;
    loop {
        let Some(alive) = coordinator.upgrade() else { return };
        let (store, cluster) = (alive.store.clone(), alive.cluster.clone());
        let prefix = cluster.job(&job, &uid).prefix().to_owned();
        let collected =
            collect_once(&store, &cluster, &job, &uid, &|holder: &str| alive.branch_needs(holder, &prefix)).await;
        match collected {
            Ok(true) => return alive.unpin_everywhere(&branches::holder(&uid)).await,
            Ok(false) => {}
            Err(error) => warn!(job, uid, error, "a deleted job's objects cannot be deleted yet"),
        }
        drop(alive);
        tokio::time::sleep(AGAIN).await;
    }
}

/// True if nothing is left to do.
async fn collect_once(
    store: &SharedStore,
    cluster: &layout::Cluster,
    job: &str,
    uid: &str,
    needs: &(dyn Fn(&str) -> bool + Sync),
) -> Result<bool, String> {
    let (paths, record) = (cluster.job(job, uid), cluster.deleted_job(job, uid));
    let text = |error: Error| error.to_string();
    let listed = collect::list(store, &paths).await?;
    let head = match store.get(&paths.head()).await {
        Ok((bytes, _)) => Some(frame::decode::<v1::JobHead>(ObjectKind::Head, &paths.head(), &bytes)),
        Err(Error::NotFound { .. }) => None,
        Err(error) => return Err(text(error)),
    };
    let kept = match head.transpose().map_err(|error| error.to_string())? {
        Some(head) if !head.deleted || head.job_uid != uid || !goes(&head) => {
            warn!(job, uid, "a record of a deleted job is wrong: nothing is deleted");
            store.delete(&record).await.map_err(text)?;
            return Ok(true);
        }
        Some(head) => pinned(store, &paths, &head, needs).await?,
        None => BTreeSet::new(),
    };
    let doomed = listed.iter().filter(|object| object.name != "head" && !kept.contains(&object.name));
    let (names, bytes): (Vec<String>, Vec<u64>) = doomed.map(|object| (object.name.clone(), object.length)).unzip();
    let resolved: Option<Vec<String>> = names.iter().map(|name| paths.resolve(name)).collect();
    collect::delete(store, &resolved.ok_or("a listed name leaves the job's prefix")?).await?;
    info!(
        job,
        uid,
        objects = names.len(),
        bytes = bytes.iter().sum::<u64>(),
        kept = kept.len(),
        "a deleted job's objects are deleted"
    );
    if !kept.is_empty() {
        return Ok(false);
    }
    // The head last: as long as it is there, the job is known to be deleted.
    store.delete(&paths.head()).await.map_err(text)?;
    store.delete(&record).await.map_err(text)?;
    Ok(true)
}

/// What others still need of a deleted job.
async fn pinned(
    store: &SharedStore,
    paths: &layout::Job,
    head: &v1::JobHead,
    needs: &(dyn Fn(&str) -> bool + Sync),
) -> Result<BTreeSet<String>, String> {
    let mut kept = BTreeSet::new();
    let needed = |pin: &&v1::Pin| pin.holder.starts_with(branches::OF_BRANCH) && needs(&pin.holder);
    let pins: Vec<&v1::Pin> = head.pins.iter().filter(needed).collect();
    for pin in pins {
        let completed = head.completed.iter().find(|completed| completed.id == pin.checkpoint);
        let named = completed.map(|completed| completed.manifest.clone());
        for object in pin.objects.iter().cloned().chain(named) {
            if layout::is_manifest(&object) {
                let entry = completed.filter(|completed| completed.manifest == object).cloned();
                let reference = Reference { manifest: object.clone(), entry };
                kept.extend(collect::named_by(store, paths, &reference).await?);
            }
            kept.insert(object);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::checkpoint::{manifest, memory::MemoryStore};

    const UID: &str = "0123456789abcdef0123456789abcdef";

    async fn scene(delete_on_cancel: bool, deleted: bool) -> (SharedStore, layout::Cluster, layout::Job) {
        let (store, cluster): (SharedStore, _) = (Arc::new(MemoryStore::default()), layout::Cluster::new("c"));
        let paths = cluster.job("gone", UID);
        let checkpoints = Some(v1::CheckpointSettings { delete_on_cancel, ..Default::default() });
        let head = v1::JobHead {
            job_uid: UID.into(),
            deleted,
            spec: Some(v1::JobSpec { checkpoints, ..Default::default() }),
            ..Default::default()
        };
        store.put(&paths.head(), frame::encode(ObjectKind::Head, &head)).await.unwrap();
        for object in ["shared/s/a", "shared/s/b", "tombstones/t"] {
            store.put(&paths.resolve(object).unwrap(), Bytes::from_static(b"x")).await.unwrap();
        }
        store.put("c/other-0/shared/s/a", Bytes::from_static(b"x")).await.unwrap();
        record(&store, &cluster, "gone", UID).await.unwrap();
        (store, cluster, paths)
    }

    async fn names(store: &SharedStore) -> Vec<String> {
        store.list("").await.unwrap().into_iter().map(|object| object.path).collect()
    }

    #[tokio::test]
    async fn a_deleted_job_takes_its_objects_with_it_and_no_other_jobs() {
        let (store, cluster, _) = scene(true, true).await;
        assert_eq!(recorded(&store, &cluster).await.unwrap(), [("gone".to_owned(), UID.to_owned())]);
        assert_eq!(collect_once(&store, &cluster, "gone", UID, &|_| true).await, Ok(true));
        assert_eq!(names(&store).await, ["c/other-0/shared/s/a"]);
        assert_eq!(collect_once(&store, &cluster, "gone", UID, &|_| true).await, Ok(true), "again changes nothing");
    }

    #[tokio::test]
    async fn a_job_that_lives_or_keeps_its_checkpoints_is_not_touched() {
        for (delete_on_cancel, deleted) in [(true, false), (false, true)] {
            let (store, cluster, _) = scene(delete_on_cancel, deleted).await;
            collect_once(&store, &cluster, "gone", UID, &|_| true).await.unwrap();
            assert_eq!(names(&store).await.len(), 5, "only the wrong record is gone");
        }
    }

    #[tokio::test]
    async fn what_a_branch_pins_outlives_its_parent() {
        let (store, cluster, paths) = scene(true, true).await;
        let files = vec![v1::SnapshotFile { object: "shared/s/a".into(), ..Default::default() }];
        let of_branch =
            v1::Manifest { shards: vec![v1::ShardSnapshot { files, ..Default::default() }], ..Default::default() };
        let name = layout::manifest(7, "r");
        store.put(&paths.resolve(&name).unwrap(), manifest::encode(&of_branch).0).await.unwrap();
        let (bytes, _) = store.get(&paths.head()).await.unwrap();
        let mut head: v1::JobHead = frame::decode(ObjectKind::Head, "head", &bytes).unwrap();
        head.pins = vec![v1::Pin { holder: "branch child".into(), objects: vec![name], ..Default::default() }];
        store.put(&paths.head(), frame::encode(ObjectKind::Head, &head)).await.unwrap();
        assert_eq!(collect_once(&store, &cluster, "gone", UID, &|_| true).await, Ok(false));
        let left: Vec<_> = collect::list(&store, &paths).await.unwrap().into_iter().map(|object| object.name).collect();
        assert_eq!(left, ["chk/7/r/manifest", "head", "shared/s/a"]);
        let moved_on = collect_once(&store, &cluster, "gone", UID, &|_| false).await;
        assert_eq!((moved_on, names(&store).await), (Ok(true), vec!["c/other-0/shared/s/a".to_owned()]));
    }
}
