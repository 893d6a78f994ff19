//! The cluster's marker in the object store: its id, under which everything else of it stands.

use forebay_proto::v1;
use uuid::Uuid;

use super::Error;
use crate::checkpoint::{
    frame::{self, ObjectKind},
    layout,
    objects::{self, Condition, SharedStore},
};

/// Reads the cluster's id from the store, or founds a new cluster there.
pub async fn found(store: &SharedStore, wall_ms: i64) -> Result<layout::Cluster, Error> {
    let marker = v1::ClusterMarker { cluster_id: Uuid::new_v4().simple().to_string(), created_ms: wall_ms };
    let bytes = frame::encode(ObjectKind::ClusterMarker, &marker);
    match store.put_if(layout::CLUSTER, bytes, &Condition::Absent).await {
        Ok(_) | Err(objects::Error::Conflict { .. } | objects::Error::Ambiguous { .. }) => read(store).await,
        Err(error) => Err(error.into()),
    }
}

/// Reads the cluster's id from the store.
pub async fn read(store: &SharedStore) -> Result<layout::Cluster, Error> {
    let (bytes, _) = store.get(layout::CLUSTER).await?;
    let marker: v1::ClusterMarker = frame::decode(ObjectKind::ClusterMarker, layout::CLUSTER, &bytes)?;
    Ok(layout::Cluster::new(marker.cluster_id))
}
