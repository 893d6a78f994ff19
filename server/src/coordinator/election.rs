//! Who leads: an epoch that grows with every coordinator that takes office.
//!
//! The record only elects; what decides is that every job head carries the epoch and is changed by
//! conditional writes alone, so a former leader can do nothing once its successor has written there.

use forebay_proto::v1;
use uuid::Uuid;

use crate::checkpoint::{
    frame::{self, ObjectKind},
    layout,
    objects::{Condition, Error, SharedStore},
};

/// Why nobody could be elected.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// The record is damaged or of a newer format.
    #[error(transparent)]
    Damaged(#[from] frame::Error),
}

/// Takes office: writes a record with the next epoch, and returns the epoch.
pub async fn take_office(
    store: &SharedStore,
    cluster: &layout::Cluster,
    name: &str,
    address: &str,
) -> Result<u64, ElectionError> {
    let path = cluster.leader();
    loop {
        let (epoch, condition) = match store.get(&path).await {
            Ok((bytes, version)) => {
                let record: v1::LeaderRecord = frame::decode(ObjectKind::Leader, &path, &bytes)?;
                (record.epoch + 1, Condition::Is(version))
            }
            Err(Error::NotFound { .. }) => (1, Condition::Absent),
            Err(error) => return Err(error.into()),
        };
        let record = v1::LeaderRecord {
            epoch,
            name: name.to_owned(),
            address: address.to_owned(),
            write_id: Uuid::new_v4().simple().to_string(),
            ..Default::default()
        };
        match store.put_if(&path, frame::encode(ObjectKind::Leader, &record), &condition).await {
            Ok(_) => return Ok(epoch),
            // Lost or overtaken: whatever stands there now, the next round takes a higher epoch.
            Err(Error::Conflict { .. } | Error::Ambiguous { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads the cluster's id from the store, or founds a new cluster there.
pub async fn found(store: &SharedStore, wall_ms: i64) -> Result<layout::Cluster, ElectionError> {
    let marker = v1::ClusterMarker { cluster_id: Uuid::new_v4().simple().to_string(), created_ms: wall_ms };
    let bytes = frame::encode(ObjectKind::ClusterMarker, &marker);
    match store.put_if(layout::CLUSTER, bytes, &Condition::Absent).await {
        Ok(_) | Err(Error::Conflict { .. } | Error::Ambiguous { .. }) => read(store).await,
        Err(error) => Err(error.into()),
    }
}

/// Reads the cluster's id from the store.
pub async fn read(store: &SharedStore) -> Result<layout::Cluster, ElectionError> {
    let (bytes, _) = store.get(layout::CLUSTER).await?;
    let marker: v1::ClusterMarker = frame::decode(ObjectKind::ClusterMarker, layout::CLUSTER, &bytes)?;
    Ok(layout::Cluster::new(marker.cluster_id))
}
