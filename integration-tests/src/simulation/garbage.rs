//! The collection of garbage in the simulated store: a twin of `server/src/coordinator/collect.rs`.

use std::collections::BTreeSet;

use forebay_server::coordinator::{
    garbage::{CLOCK, Listed},
    machine::{Action, collect::Done},
};

use super::env::Env;

/// Does a step; `None` for an action that is none of a collection.
pub fn act(env: &mut Env, action: Action) -> Option<(u64, Result<Done, String>)> {
    let up = env.store_up();
    let now_ms = env.now_ms();
    let (run, done) = match action {
        Action::ListObjects(run, clock) => {
            if clock && up {
                env.store.wrote(CLOCK, now_ms);
            }
            (run, Ok(Done::Listed(listed(env))))
        }
        Action::ReadNames(run, references) => {
            let mut names = BTreeSet::new();
            let mut missing = None;
            for reference in references {
                match env.store.manifests.get(&reference.manifest) {
                    Some(manifest) => names
                        .extend(manifest.shards.iter().flat_map(|shard| &shard.files).map(|file| file.object.clone())),
                    None => missing = Some(format!("{} is missing", reference.manifest)),
                }
                names.insert(reference.manifest);
            }
            (run, missing.map_or(Ok(Done::Named(names)), Err))
        }
        Action::WriteTombstone(run, name, tombstone) => {
            if up {
                env.store.wrote(&name, now_ms);
                env.store.tombstones.insert(name, tombstone.objects);
            }
            (run, Ok(Done::Stored))
        }
        Action::ReadTombstone(run, name) => {
            (run, Ok(Done::Read(env.store.tombstones.get(&name).cloned().unwrap_or_default())))
        }
        Action::DeleteObjects(run, objects, _) => {
            for object in objects.iter().filter(|_| up) {
                delete(env, object);
            }
            (run, Ok(Done::Deleted))
        }
        _ => return None,
    };
    Some((run, if up { done } else { Err("the store is away".to_owned()) }))
}

fn listed(env: &Env) -> Vec<Listed> {
    let listed =
        |(name, modified_ms): (&String, &i64)| Listed { name: name.clone(), length: 1, modified_ms: *modified_ms };
    env.store.modified.iter().map(listed).collect()
}

fn delete(env: &mut Env, object: &str) {
    env.note(format_args!("{object} is deleted"));
    env.oracle.deleted(&env.store, object);
    env.store.modified.remove(object);
    env.store.manifests.remove(object);
    env.store.images.remove(object);
    env.store.tombstones.remove(object);
    env.faults.hit("garbage collected");
}
