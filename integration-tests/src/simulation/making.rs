//! How a server makes a shard that it does not have: opens its disk, or restores a checkpoint.

use std::{collections::BTreeMap, sync::Arc};

use forebay_proto::{
    key_group::{KeyGroupRange, MaxParallelism},
    reason::Refused,
    v1,
};
use forebay_server::{
    shard::{
        core::{Core, Identity},
        disk::{self, Local, Plan},
        states::States,
    },
    storage,
};
use v1::ErrorReason as Reason;

use super::{
    disk::{Image, ShardDisk},
    env::Env,
    server::{Place, Server, place, rights},
};

const BOOT: &str = "boot";

impl Server {
    pub(super) fn make(
        &self,
        env: &mut Env,
        disk: &mut BTreeMap<Place, ShardDisk>,
        wanted: &v1::JobAssignment,
        entry: &v1::ShardEntry,
    ) -> Result<Core, Refused> {
        let dir = disk.entry(place(entry)).or_default();
        let restored = match disk::plan(dir.local.as_ref(), entry, &wanted.job_uid, BOOT, true, false) {
            Plan::Open => {
                env.oracle.reopened(entry, &dir.image());
                false
            }
            Plan::Lost(cause) => return Err(Refused::new(Reason::ShardLost, cause)),
            Plan::Build(checkpoint) => {
                dir.local = None;
                let image = match entry.handed_over() {
                    Some(stored) => Some(handed_over(env, entry, stored)?),
                    None => self.image(env, entry, checkpoint)?,
                };
                dir.reset(image.as_deref()).map_err(|error| lost(&error))?;
                if entry.is_arriving() {
                    env.faults.hit("a shard arrived");
                    env.oracle.reopened(entry, &dir.image());
                }
                !entry.is_arriving()
            }
        };
        let (rights, states) = (rights(wanted, entry), States::of_operator(&wanted.states, &entry.operator));
        let core = Core::load(identity(wanted, entry)?, rights, states, dir.open(&self.control));
        let mut core = core.map_err(|error| lost(&error))?;
        if restored {
            core.end_lanes().map_err(|error| lost(&error))?;
        }
        dir.local = Some(Local {
            job_uid: wanted.job_uid.clone(),
            epoch: entry.epoch,
            incarnation: entry.incarnation,
            boot_id: BOOT.into(),
        });
        env.note(format_args!(
            "s{} shard {} stands: incarnation {} restored {restored} from {}",
            self.index, entry.start, entry.incarnation, entry.restored_from
        ));
        Ok(core)
    }

    fn image(&self, env: &Env, entry: &v1::ShardEntry, checkpoint: u64) -> Result<Option<Arc<Image>>, Refused> {
        if checkpoint == 0 {
            return Ok(None);
        }
        let corrupt = |what: &str| Refused::new(Reason::CheckpointCorrupt, format!("checkpoint {checkpoint}: {what}"));
        let completed = self.completed.get(&checkpoint).ok_or_else(|| corrupt("nobody said where its manifest is"))?;
        if !env.store_up() {
            return Err(Refused::new(Reason::ShardRestoring, "the store is away"));
        }
        let manifest = env.store.manifests.get(&completed.manifest).ok_or_else(|| corrupt("no manifest"))?;
        let same = |shard: &&v1::ShardSnapshot| {
            (&shard.operator, shard.start, shard.end) == (&entry.operator, entry.start, entry.end)
        };
        let snapshot = manifest.shards.iter().find(same).ok_or_else(|| corrupt("the shard is not in it"))?;
        env.store.image(snapshot).map(Some).ok_or_else(|| corrupt("no image"))
    }
}

/// What a shard's former server has stored of it.
fn handed_over(env: &Env, entry: &v1::ShardEntry, stored: &v1::CompletedCheckpoint) -> Result<Arc<Image>, Refused> {
    if !env.store_up() {
        return Err(Refused::new(Reason::ShardRestoring, "the store is away"));
    }
    let manifest = env.store.manifests.get(&stored.manifest);
    let snapshot = manifest.and_then(|manifest| manifest.shards.iter().find(|shard| shard.start == entry.start));
    let image = snapshot.and_then(|snapshot| env.store.image(snapshot));
    image.ok_or_else(|| Refused::new(Reason::CheckpointCorrupt, format!("{} is not there", stored.manifest)))
}

fn identity(wanted: &v1::JobAssignment, entry: &v1::ShardEntry) -> Result<Identity, Refused> {
    let spec = wanted.spec.clone().unwrap_or_default();
    let invalid = |error: forebay_proto::key_group::Error| Refused::new(Reason::FieldInvalid, error.to_string());
    let limits = spec.limits.unwrap_or_default();
    Ok(Identity {
        operator: entry.operator.clone(),
        range: KeyGroupRange::new(entry.start, entry.end).map_err(invalid)?,
        max_parallelism: MaxParallelism::new(spec.max_parallelism).map_err(invalid)?,
        recovery: spec.recovery(),
        explicit: false,
        durability: spec.durability(),
        max_value_bytes: usize::try_from(limits.max_value_bytes).unwrap_or(usize::MAX),
        max_lanes: limits.max_lanes as usize,
        backend: spec.backend(),
    })
}

fn lost(error: &storage::Error) -> Refused {
    Refused::new(Reason::ShardLost, error.to_string())
}
